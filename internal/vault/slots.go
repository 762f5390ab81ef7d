package vault

import (
	"context"
	"encoding/hex"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// maxRefused bounds the marks kept for one actor. A new mark replaces the one that expires first.
const maxRefused = 16

// preludeLua is shared by the scripts that change an actor's two tokens. Times are Unix milliseconds. A token's stored id counts only if
// "of" matches the sealed token: an older version writes "exp" and "token" alone. If the current token has no valid id, the script
// returns it to be opened and does nothing else; the caller then runs the script again with that token's id as the hint.
//
// KEYS: current, before, refused, index, gone. ARGV: the hint's sealed token, the hint's id, the actor's member of the index, now,
// maxRefused; then id and expiry of the token that the call is about.
const preludeLua = `
local member, now, id, exp = ARGV[3], ARGV[4], ARGV[6], ARGV[7]
local function slot(key)
  local have = redis.call('HMGET', key, 'exp', 'token', 'id', 'of', 'at')
  if not have[1] or not have[2] then return nil end
  local found = {exp = have[1], number = tonumber(have[1]) or 0, token = have[2], at = 0}
  if have[3] and have[4] == redis.sha1hex(have[2]) then
    found.id, found.at = have[3], tonumber(have[5]) or 0
  elseif have[2] == ARGV[1] then
    found.id = ARGV[2]
  end
  return found
end
local function refused(which)
  local mark = redis.call('ZSCORE', KEYS[3], which)
  return mark and tonumber(mark) > tonumber(now)
end
local function lives(key, till)
  if redis.call('PTTL', key) < tonumber(till) - tonumber(now) then redis.call('PEXPIREAT', key, till) end
end
local function list(which, till)
  redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
  redis.call('ZADD', KEYS[4], till, which)
  lives(KEYS[4], till)
end
local function drop(key, which)
  redis.call('DEL', key)
  redis.call('ZREM', KEYS[4], which)
end
if redis.call('EXISTS', KEYS[5]) == 1 then return {0} end
local current, before = slot(KEYS[1]), slot(KEYS[2])
if current and not current.id then return {-1, current.exp, current.token} end
`

// What keepScript and refuseScript return.
const (
	codeUnknown = -1 // the current token has no valid id; its expiry and sealed text follow
	codeCurrent = 1  // the current token has changed, or now lives longer
	codeBefore  = 2  // the token before it has changed
)

// keepScript stores a token. It becomes current if it expires later than the current token, or at the same time and it did not arrive
// earlier; the current token then becomes the one before. Otherwise it replaces the one before, unless it arrived earlier than that one.
// A marked token is not stored. If the token is stored already, the script updates its expiry, its arrival, and its seal (the old key may
// be on its way out), and moves it only if it has become the current one.
//
// ARGV, after the shared ones: sealed token, its key's id with the colon, arrival.
var keepScript = redis.NewScript(preludeLua + `
local sealed, key, at = ARGV[8], ARGV[9], ARGV[10]
if refused(id) then return {0} end
if current and refused(current.id) then current = nil end -- an older process stored it again
local number, arrived = tonumber(exp), tonumber(at)
local function put(where, which)
  redis.call('HSET', where, 'exp', exp, 'token', sealed, 'id', id, 'of', redis.sha1hex(sealed), 'at', at)
  redis.call('PEXPIREAT', where, exp)
  list(which, exp)
end
local function renew(have, where, which)
  if number > have.number or number == have.number and string.sub(have.token, 1, #key) ~= key then
    put(where, which)
    return true
  end
  if arrived > have.at then redis.call('HSET', where, 'at', at, 'id', id, 'of', redis.sha1hex(have.token)) end
  return false
end
if current and current.id == id then
  if renew(current, KEYS[1], member) then return {1} end
  return {0}
end
if not current or number > current.number or number == current.number and arrived >= current.at then
  if current then
    redis.call('HSET', KEYS[1], 'id', current.id, 'of', redis.sha1hex(current.token), 'at', string.format('%.0f', current.at))
    redis.call('RENAME', KEYS[1], KEYS[2])
    list('before:' .. member, current.exp)
  elseif before and before.id == id then
    drop(KEYS[2], 'before:' .. member)
  end
  put(KEYS[1], member)
  return {1}
end
if before and before.id == id then
  renew(before, KEYS[2], 'before:' .. member)
  return {0}
end
if before and arrived < before.at then return {0} end
put(KEYS[2], 'before:' .. member)
return {2}`)

// refuseScript marks a token until its expiry and removes it. If it was current, the token before it becomes current.
var refuseScript = redis.NewScript(preludeLua + `
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
redis.call('ZREM', KEYS[3], id)
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -tonumber(ARGV[5]))
redis.call('ZADD', KEYS[3], exp, id)
lives(KEYS[3], exp)
redis.call('ZADD', KEYS[4], 'GT', exp, 'refused:' .. member)
lives(KEYS[4], exp)
if before and before.id == id then
  drop(KEYS[2], 'before:' .. member)
elseif current and current.id == id then
  drop(KEYS[1], member)
  if before then
    redis.call('RENAME', KEYS[2], KEYS[1])
    redis.call('ZREM', KEYS[4], 'before:' .. member)
    list(member, before.exp)
  end
  return {1}
end
return {0}`)

// takeScript reads both tokens of an actor in one step: between two separate reads another process could swap them, and the caller would
// see the same token twice. KEYS: current, before.
var takeScript = redis.NewScript(`
local current, before = redis.call('HMGET', KEYS[1], 'exp', 'token'), redis.call('HMGET', KEYS[2], 'exp', 'token')
return {current[1], current[2], before[1], before[2]}`)

// maxLooks bounds how often a script runs until the current token's id is known. More than two runs are necessary only if a process of an
// older version replaces the token in between.
const maxLooks = 5

// change runs keepScript or refuseScript on the tokens of an actor, and returns one of the codes above or 0.
func (v *Vault) change(ctx context.Context, script *redis.Script, installation string, actor forge.Actor, arguments ...any) (code int64, err error) {
	keys := []string{
		keyspace.Installation(installation).Token(member(actor)), keyspace.Installation(installation).TokenBefore(member(actor)), keyspace.Installation(installation).TokenRefused(member(actor)), keyspace.Installation(installation).Tokens(), keyspace.Installation(installation).Gone(),
	}
	hinted, hint := "", ""
	for range maxLooks {
		shared := []any{hinted, hint, member(actor), v.now().UnixMilli(), maxRefused}
		reply, err := script.Run(ctx, v.redis, keys, append(shared, arguments...)...).Slice()
		if err != nil {
			return 0, err
		}
		code, _ := reply[0].(int64) // both scripts' first answer is a number
		if code != codeUnknown || len(reply) < 3 {
			return code, nil
		}
		expiry, _ := reply[1].(string)
		hinted, _ = reply[2].(string)
		hint = v.idOfSealed(installation, actor, expiry, hinted)
	}
	return 0, fault.Newf(fault.Unavailable, "other processes keep replacing the token; try again")
}

// idOfSealed returns the id of a token that an older version wrote. A token that cannot be opened gets an id that equals no other.
func (v *Vault) idOfSealed(installation string, actor forge.Actor, expiry, sealed string) string {
	plaintext, err := v.keyring.Open([]byte(sealed), sealContext(installation, actor, expiry)...)
	if err != nil {
		return "unreadable"
	}
	return tokenID(installation, actor, string(plaintext))
}

// tokenID identifies a token of an actor without revealing its text: half of a SHA-256, in hex. A token has too much entropy to be guessed
// from its hash.
func tokenID(installation string, actor forge.Actor, text string) string {
	sum := digest([]byte("token id"), installation, member(actor), text)
	return hex.EncodeToString(sum[:len(sum)/2])
}
