// Package vault keeps the OAuth tokens that Forge delivers: per installation and actor the current one and the one before it, sealed,
// each gone from Redis at its expiry. Jobs name their token by installation and actor and take it when they run, so a token that came
// later serves a job that was queued earlier. A token is marked, and not used again, if Bitbucket rejected it and accepted the actor's
// other token for the same work.
//
// An actor's current token is a hash of exp (Unix milliseconds), token (sealed), id, of and at; the one before it is the same.
// id is a hash of the token's text, at is when the token last arrived, and of is the SHA-1 of the sealed token that id and at describe.
// Older versions read and write only the current token's exp and token, so id and at count only while of matches. Older versions also
// delete every key that the index names by what follows "token:"; the newer keys are in the index for that reason.
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
	"github.com/gitsmith/gitsmith/internal/keyspace"
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

// Put stores a token that arrived at the given time (zero: now), and reports whether the actor's current token has changed or now lives
// longer. The current token is the one that expires last; of two with equal expiry, the one that arrived last. The other place holds the
// token that was current before, or one that arrived since and expires earlier. Put ignores a token past its expiry, a token marked by
// MarkRefused, a user's token without a user, and every token for an installation whose app was removed minutes ago.
func (v *Vault) Put(ctx context.Context, installation string, actor forge.Actor, token forge.OAuthToken, arrived time.Time) (bool, error) {
	now := v.now()
	switch {
	case installation == "":
		return false, fault.Newf(fault.Internal, "keep an oauth token: the invocation names no installation")
	case actor.Kind == forge.ActorUser && actor.Principal == "", !token.ExpiresAt.After(now):
		return false, nil
	}
	if arrived.IsZero() || arrived.After(now) {
		arrived = now
	}
	place, known := placeOf(installation, actor), fingerprintOf(token)
	if v.memory.holds(place, known, now) {
		return false, nil
	}
	expiry := strconv.FormatInt(token.ExpiresAt.UnixMilli(), 10)
	sealed := v.keyring.Seal([]byte(token.Text.Reveal()), sealContext(installation, actor, expiry)...)
	code, err := v.change(ctx, keepScript, installation, actor,
		tokenID(installation, actor, token.Text.Reveal()), expiry, sealed, keyID(sealed)+":", arrived.UnixMilli())
	if err != nil {
		return false, classify(err, "keep an oauth token")
	}
	v.memory.add(place, known, now, code == codeCurrent || code == codeBefore)
	return code == codeCurrent, nil
}

// MarkRefused records that Bitbucket rejected a token and accepted the actor's other token for the same work. The token is removed, is not
// stored again before its expiry, however often it is delivered, and the other one becomes current. Do not call it because of a 401 alone:
// Bitbucket also answers 401, to any token, for a repository that does not exist. Calling it twice does no harm.
func (v *Vault) MarkRefused(ctx context.Context, installation string, actor forge.Actor, token forge.OAuthToken) error {
	if !token.ExpiresAt.After(v.now()) {
		return nil // Redis has dropped it
	}
	_, err := v.change(ctx, refuseScript, installation, actor,
		tokenID(installation, actor, token.Text.Reveal()), strconv.FormatInt(token.ExpiresAt.UnixMilli(), 10))
	return classify(err, "mark a refused oauth token")
}

// Take returns the actor's current token or, if that cannot be opened, the one before it. If there is neither, the error is an Expired fault
// that says how a new one comes. The caller decides how much of its life a token must have left.
func (v *Vault) Take(ctx context.Context, installation string, actor forge.Actor) (forge.OAuthToken, error) {
	return v.TakeOther(ctx, installation, actor, forge.OAuthToken{})
}

// TakeOther is Take for a caller who does not want the given token: it returns the first of the actor's two tokens that differs from it.
func (v *Vault) TakeOther(ctx context.Context, installation string, actor forge.Actor, than forge.OAuthToken) (forge.OAuthToken, error) {
	keys := []string{keyspace.Installation(installation).Token(member(actor)), keyspace.Installation(installation).TokenBefore(member(actor))}
	fields, err := takeScript.Run(ctx, v.redis, keys).Slice()
	if err != nil {
		return forge.OAuthToken{}, classify(err, "take an oauth token")
	}
	for len(fields) >= 2 {
		token, found := v.open(ctx, installation, actor, fields[0], fields[1])
		if found && !token.Text.Equal(than.Text) {
			return token, nil
		}
		fields = fields[2:]
	}
	return forge.OAuthToken{}, expired(actor)
}

// open unseals a stored token. found is false if there is none, if it is past its expiry, or if it cannot be opened, which is logged.
func (v *Vault) open(ctx context.Context, installation string, actor forge.Actor, expiryField, sealedField any) (token forge.OAuthToken, found bool) {
	expiry, hasExpiry := expiryField.(string)
	sealed, hasToken := sealedField.(string)
	if !hasExpiry || !hasToken {
		return forge.OAuthToken{}, false
	}
	plaintext, err := v.keyring.Open([]byte(sealed), sealContext(installation, actor, expiry)...)
	milliseconds, numberErr := strconv.ParseInt(expiry, 10, 64)
	if err = errors.Join(err, numberErr); err != nil {
		v.logger.ErrorContext(ctx, "a stored oauth token cannot be opened: its sealing key is not in GITSMITH_SEAL_KEYS any more, or it is damaged; it counts as expired",
			slog.String("key_id", keyID([]byte(sealed))), slog.String("installation", installation),
			slog.String("actor", string(actor.Kind)), slog.String("error", err.Error()))
		return forge.OAuthToken{}, false
	}
	token = forge.OAuthToken{Text: secret.New(string(plaintext)), ExpiresAt: time.UnixMilli(milliseconds)}
	return token, token.ExpiresAt.After(v.now())
}

// KEYS: index, the mark of the install, what the index names. ARGV: the members of the index.
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
		members, err := v.redis.ZRange(ctx, keyspace.Installation(installation).Tokens(), 0, forgetBatch-1).Result()
		if err != nil {
			return classify(err, "forget the oauth tokens")
		}
		keys := []string{keyspace.Installation(installation).Tokens(), keyspace.Installation(installation).Installed()}
		arguments := make([]any, 0, len(members))
		for _, member := range members {
			keys = append(keys, keyspace.Installation(installation).Token(member))
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
	err := v.redis.Set(ctx, keyspace.Installation(installation).Installed(), "1", InstallGrace).Err()
	return classify(err, "note the install")
}

// RecentlyInstalled reports whether MarkInstalled was called within [InstallGrace].
func (v *Vault) RecentlyInstalled(ctx context.Context, installation string) (bool, error) {
	found, err := v.redis.Exists(ctx, keyspace.Installation(installation).Installed()).Result()
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
