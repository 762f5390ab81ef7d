// Package vault keeps the OAuth tokens that Forge delivers: one per installation and actor, sealed, the newest only, gone
// from Redis at its expiry. Jobs name their token by installation and actor and take it when they run, so a token that came
// later serves a job that was queued earlier.
//
// All keys of an installation carry it as hash tag, so that they share a slot of a Redis Cluster:
//
//	gitsmith:{<installation>}:token:system             hash: exp (Unix milliseconds), token (sealed)
//	gitsmith:{<installation>}:token:user:<principal>   the same
//	gitsmith:{<installation>}:tokens                   sorted set: which of the above there are, by expiry
//	gitsmith:{<installation>}:installed                there for some minutes after an install
//	gitsmith:{<installation>}:gone                     package installation's: there for some minutes after the app was removed
package vault

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// InstallGrace is how long after an install a refusal by Bitbucket may be a permission that has not arrived yet (Forge's
// documentation: minutes).
const InstallGrace = 10 * time.Minute

// Options are what a Vault can be told. The zero value is right for production.
type Options struct {
	// Remember is how long a token that was just kept is not sent to Redis again; 30 s by default, negative for never. It
	// bounds for how long a Redis that lost its data goes without a token which is delivered again.
	Remember time.Duration
	Now      func() time.Time // time.Now by default
	Logger   *slog.Logger     // discards by default
}

// Vault keeps tokens in Redis. It may be used concurrently and by several processes on the same Redis.
type Vault struct {
	redis   redis.UniversalClient
	keyring *secret.Keyring
	now     func() time.Time
	logger  *slog.Logger
	memory  *memory
}

// New makes a vault that seals with keyring's first key.
func New(client redis.UniversalClient, keyring *secret.Keyring, options Options) *Vault {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Remember == 0 {
		options.Remember = 30 * time.Second
	}
	return &Vault{
		redis: client, keyring: keyring, now: options.Now, logger: options.Logger,
		memory: &memory{life: options.Remember},
	}
}

// A token is replaced by one that expires later; at the same expiry only where it was sealed by another key, which may be
// lost by now. The times are Unix milliseconds.
//
// KEYS: token, index, gone. ARGV: expiry, sealed token, its key's id with the colon, member of the index, now.
var keepScript = redis.NewScript(`
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
local have = redis.call('HMGET', KEYS[1], 'exp', 'token')
if have[1] and have[2] then
  local old, new = tonumber(have[1]), tonumber(ARGV[1])
  if old > new or (old == new and string.sub(have[2], 1, #ARGV[3]) == ARGV[3]) then
    return 0
  end
end
redis.call('HSET', KEYS[1], 'exp', ARGV[1], 'token', ARGV[2])
redis.call('PEXPIREAT', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[1], ARGV[4])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[1]) - tonumber(ARGV[5]) then
  redis.call('PEXPIREAT', KEYS[2], ARGV[1])
end
return 1`)

// Put stores a token unless there is one of the actor that lives as long or longer, and reports whether it is there now and was not
// before. One past its expiry is passed over, and so is a user's that names no user. An installation whose app was removed minutes ago
// gets none.
func (v *Vault) Put(ctx context.Context, installation string, actor forge.Actor, token forge.OAuthToken) (bool, error) {
	now := v.now()
	switch {
	case installation == "":
		return false, fault.Newf(fault.Internal, "keep an oauth token: the invocation names no installation")
	case actor.Kind == forge.ActorUser && actor.Principal == "", !token.ExpiresAt.After(now):
		return false, nil
	}
	known := fingerprintOf(installation, actor, token)
	if v.memory.holds(known, now) {
		return false, nil
	}
	expiry := strconv.FormatInt(token.ExpiresAt.UnixMilli(), 10)
	sealed := v.keyring.Seal([]byte(token.Text.Reveal()), sealContext(installation, actor, expiry)...)
	stored, err := keepScript.Run(ctx, v.redis,
		[]string{tokenKey(installation, actor), indexKey(installation), goneKey(installation)},
		expiry, sealed, keyID(sealed)+":", member(actor), now.UnixMilli()).Bool()
	if err != nil {
		return false, classify(err, "keep an oauth token")
	}
	v.memory.add(known, now)
	return stored, nil
}

// Take returns the actor's current token. Without one, or with one that cannot be opened, the error is an Expired fault
// that says how a new one comes. The caller decides how much of its life a token must have left.
func (v *Vault) Take(ctx context.Context, installation string, actor forge.Actor) (forge.OAuthToken, error) {
	fields, err := v.redis.HMGet(ctx, tokenKey(installation, actor), "exp", "token").Result()
	if err != nil {
		return forge.OAuthToken{}, classify(err, "take an oauth token")
	}
	expiry, hasExpiry := fields[0].(string)
	sealed, hasToken := fields[1].(string)
	if !hasExpiry || !hasToken {
		return forge.OAuthToken{}, expired(actor)
	}
	plaintext, err := v.keyring.Open([]byte(sealed), sealContext(installation, actor, expiry)...)
	milliseconds, numberErr := strconv.ParseInt(expiry, 10, 64)
	if err = errors.Join(err, numberErr); err != nil {
		v.logger.ErrorContext(ctx, "a stored oauth token cannot be opened: its sealing key is not in GITSMITH_SEAL_KEYS any more, or it is damaged; it counts as expired",
			slog.String("key_id", keyID([]byte(sealed))), slog.String("installation", installation),
			slog.String("actor", string(actor.Kind)), slog.String("error", err.Error()))
		return forge.OAuthToken{}, expired(actor)
	}
	token := forge.OAuthToken{Text: secret.New(string(plaintext)), ExpiresAt: time.UnixMilli(milliseconds)}
	if !token.ExpiresAt.After(v.now()) {
		return forge.OAuthToken{}, expired(actor)
	}
	return token, nil
}

// KEYS: index, the mark of the install, tokens. ARGV: the tokens' members of the index.
var forgetScript = redis.NewScript(`
redis.call('DEL', unpack(KEYS, 2))
if #ARGV > 0 then
  redis.call('ZREM', KEYS[1], unpack(ARGV))
end
return redis.call('ZCARD', KEYS[1])`)

// forgetBatch bounds the keys of one call of forgetScript.
const forgetBatch = 500

// Forget removes every token of the installation. Nothing to forget is no error.
func (v *Vault) Forget(ctx context.Context, installation string) error {
	for {
		members, err := v.redis.ZRange(ctx, indexKey(installation), 0, forgetBatch-1).Result()
		if err != nil {
			return classify(err, "forget the oauth tokens")
		}
		keys := []string{indexKey(installation), installedKey(installation)}
		arguments := make([]any, 0, len(members))
		for _, member := range members {
			keys = append(keys, prefix(installation)+"token:"+member)
			arguments = append(arguments, member)
		}
		left, err := forgetScript.Run(ctx, v.redis, keys, arguments...).Int()
		if err != nil {
			return classify(err, "forget the oauth tokens")
		}
		v.memory.clear()
		if left == 0 {
			return nil
		}
	}
}

// Renew lets every token be sent to Redis again that comes: it may be another Redis.
func (v *Vault) Renew() { v.memory.clear() }

// MarkInstalled notes that the app was installed or upgraded just now.
func (v *Vault) MarkInstalled(ctx context.Context, installation string) error {
	err := v.redis.Set(ctx, installedKey(installation), "1", InstallGrace).Err()
	return classify(err, "note the install")
}

// RecentlyInstalled reports whether MarkInstalled was called within [InstallGrace].
func (v *Vault) RecentlyInstalled(ctx context.Context, installation string) (bool, error) {
	found, err := v.redis.Exists(ctx, installedKey(installation)).Result()
	return found > 0, classify(err, "look up the install")
}

// expired is what a job without a token ends with.
func expired(actor forge.Actor) error {
	whose, source := "the app's system token", "the next invocation or the hourly scheduled trigger brings one"
	if actor.Kind == forge.ActorUser {
		whose, source = "the user's token", "the next invocation by that user, from the app's frontend, brings one"
	}
	return fault.Newf(fault.Expired,
		"take the oauth token: %s is missing or has expired; %s in the header %s, where the endpoint in the manifest says %s; then retry the job",
		whose, source, strings.ToLower(actor.Header()), actor.ManifestLine())
}

// classify is the one place that gives errors of Redis their kind. An ended context keeps its own.
func classify(err error, operation string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	}
	return fault.Wrapf(fault.Unavailable, err, "%s: the token store does not answer; try again", operation)
}

func prefix(installation string) string       { return "gitsmith:{" + installation + "}:" }
func indexKey(installation string) string     { return prefix(installation) + "tokens" }
func installedKey(installation string) string { return prefix(installation) + "installed" }
func goneKey(installation string) string      { return prefix(installation) + "gone" }
func tokenKey(installation string, actor forge.Actor) string {
	return prefix(installation) + "token:" + member(actor)
}

// member names the actor among those of its installation.
func member(actor forge.Actor) string {
	if actor.Kind == forge.ActorUser {
		return "user:" + actor.Principal
	}
	return "system"
}

// sealContext binds a sealed token to its place and its expiry: it opens nowhere else.
func sealContext(installation string, actor forge.Actor, expiry string) []string {
	return []string{"vault", installation, member(actor), expiry}
}

// keyID is the id of the key that sealed, as [secret.Keyring.Seal] puts it in front; empty where there is none.
func keyID(sealed []byte) string {
	id, _, found := strings.Cut(string(sealed[:min(len(sealed), 33)]), ":")
	if !found {
		return ""
	}
	return id
}
