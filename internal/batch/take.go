package batch

import (
	"cmp"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// common is what the scripts on a batch share.
const common = `
local function count(root, state) return redis.call('ZCARD', root .. ':' .. state) end
local function move(root, from, to)
  if count(root, from) == 0 then return end
  redis.call('ZUNIONSTORE', root .. ':' .. to, 2, root .. ':' .. to, root .. ':' .. from, 'AGGREGATE', 'MAX')
  redis.call('DEL', root .. ':' .. from)
  redis.call('PEXPIRE', root .. ':' .. to, redis.call('PTTL', root))
  redis.call('HINCRBY', root, 'changes', 1)
end
local function amount(share, total)
  if not share then return 0 end
  local percent = string.match(share, '^(.*)%%$')
  if percent then return math.ceil(tonumber(percent) * total / 100) end
  return math.min(tonumber(share), total)
end
`

// takeScript decides what of a batch begins now, and gives those repositories to the caller to queue: it is the one place that knows
// roll-outs, stops, pauses and rates. Repositories that wait for another attempt do not hold up others, until there are as many of them
// as may run at once: then the other side has trouble, and more of the same would not help it. A dry run has no stages and does not stop at
// failures: it is to show all of them, and the roll-out is that of the batch that is started from it.
//
// KEYS: root, gone. ARGV: now, why nothing can begin now (no token) or "", how many at most, oldest creation that may go on.
// Returns {state}: "none" where there is no such batch, "over" where nothing is left to be done, "stopped" where it has just stopped by
// itself, else "going"; after that, where some begin, the actor and principal as whom, then number and entry of each.
var takeScript = redis.NewScript(common + `
local root, now = KEYS[1], tonumber(ARGV[1])
local have = redis.call('HMGET', root, 'state', 'resolved', 'total', 'concurrency', 'per_hour', 'canary', 'then', 'stop', 'stage', 'accepted', 'created',
  'tokens', 'filled', 'actor', 'principal', 'dry')
local state = have[1]
if not state then return {'none'} end
local function cancel(why)
  redis.call('HSET', root, 'state', 'canceled', 'reason', why)
  move(root, 'pending', 'canceled')
  state = 'canceled'
end
local open = state == 'resolving' or state == 'running' or state == 'paused' or state == 'stopped'
if open and redis.call('EXISTS', KEYS[2]) == 1 then cancel('the app was removed from the workspace') end
if open and tonumber(have[11]) < tonumber(ARGV[4]) then cancel('the batch is a week old; what had not begun was canceled') end
local waiting, concurrency = count(root, 'waiting'), tonumber(have[4])
local pending, busy = count(root, 'pending'), count(root, 'queued') + count(root, 'running')
if pending + busy + waiting == 0 and have[2] == '1' then
  if state == 'running' or state == 'paused' or state == 'stopped' then
    redis.call('HSET', root, 'state', 'finished')
    redis.call('HDEL', root, 'reason')
  end
  redis.call('HSETNX', root, 'ended', now)
  redis.call('HDEL', root, 'hold')
  return {'over'}
end
if state == 'canceled' and pending + busy + waiting == 0 then
  redis.call('HSETNX', root, 'ended', now)
  return {'over'}
end
if state == 'running' or state == 'resolving' then
  if ARGV[2] ~= '' then redis.call('HSET', root, 'hold', ARGV[2]) else redis.call('HDEL', root, 'hold') end
end
if state ~= 'running' or ARGV[2] ~= '' then return {'going'} end

local total, stage, dry = tonumber(have[3]), tonumber(have[9] or 0), have[16] == '1'
local limits = {}
for _, share in ipairs(dry and {} or {have[6] or '', have[7] or ''}) do
  if share ~= '' then limits[#limits + 1] = amount(share, total) end
end
limits[#limits + 1] = total
local begun = total - pending
local limit = limits[math.min(stage, #limits - 1) + 1]
local failed = count(root, 'failed') - tonumber(have[10] or 0)
if have[8] and not dry and failed > 0 and failed >= math.max(1, amount(have[8], limit)) then
  redis.call('HSET', root, 'state', 'stopped', 'reason', string.format(
    'stopped by itself: %d of the %d repositories of this stage failed, and stop_at_failures is %s; look at the failures, then resume or cancel', failed, limit, have[8]))
  return {'stopped'}
end
while begun >= limit and stage < #limits - 1 and busy + waiting == 0 do
  stage = stage + 1
  limit = limits[stage + 1]
  redis.call('HSET', root, 'stage', stage)
end
local free = math.min(concurrency - busy - math.max(0, waiting - concurrency), limit - begun, pending, tonumber(ARGV[3]))
if have[5] then
  local rate = tonumber(have[5]) / 3600000
  local most = math.max(1, math.floor(rate * 60000))
  local tokens = math.min(most, tonumber(have[12] or most) + (now - tonumber(have[13] or now)) * rate)
  free = math.min(free, math.floor(tokens))
  redis.call('HSET', root, 'tokens', tostring(tokens - math.max(0, free)), 'filled', now)
end
if free <= 0 then return {'going'} end
local answer = {'going', have[14], have[15] or ''}
for _, item in ipairs(redis.call('ZRANGE', root .. ':pending', 0, free - 1)) do
  redis.call('ZREM', root .. ':pending', item)
  redis.call('ZADD', root .. ':queued', item, item)
  answer[#answer + 1] = item
  answer[#answer + 1] = redis.call('HGET', root .. ':items', item) or ''
end
redis.call('PEXPIRE', root .. ':queued', redis.call('PTTL', root))
return answer`)

// taken are repositories that are to begin.
type taken struct {
	actor   forge.Actor
	numbers []int
	entries []entry
}

// take gives the repositories that are to begin now to the caller, who must queue them: whoever looks after the batch next does it where
// the caller dies. hold is why nothing can begin, empty where it can.
func (s *Store) take(ctx context.Context, installation, id, hold string) (state string, begin taken, err error) {
	now := s.Now()
	keys := []string{keyspace.Installation(installation).Batch(id).Root(), keyspace.Installation(installation).Gone()}
	answer, err := takeScript.Run(ctx, s.Redis, keys, now.UnixMilli(), hold, maxTake, now.Add(-MaxAge).UnixMilli()).StringSlice()
	if err != nil || len(answer) == 0 {
		return "", taken{}, unavailable(err, "go on with the batch")
	}
	state = answer[0]
	if len(answer) < 3 {
		return state, taken{}, nil
	}
	begin.actor = forge.Actor{Kind: forge.ActorKind(answer[1]), Principal: answer[2]}
	var texts []any
	for each := answer[3:]; len(each) > 1; each = each[2:] {
		begin.numbers = append(begin.numbers, numbersOf(each[:1])...)
		texts = append(texts, each[1])
	}
	begin.entries, err = decodeEntries(begin.numbers, texts)
	return state, begin, err
}

// maxTake is how many repositories begin in one step.
const maxTake = maxConcurrency

// cancelTakenScript ends repositories of a canceled batch that were taken and have no job that would run.
//
// KEYS: root. ARGV: numbers.
var cancelTakenScript = redis.NewScript(`
local root = KEYS[1]
if redis.call('HGET', root, 'state') ~= 'canceled' then return 0 end
for _, item in ipairs(ARGV) do
  if redis.call('ZREM', root .. ':queued', item) == 1 then redis.call('ZADD', root .. ':canceled', item, item) end
end
redis.call('PEXPIRE', root .. ':canceled', redis.call('PTTL', root))
redis.call('HINCRBY', root, 'changes', 1)
return 1`)

func (s *Store) cancelTaken(ctx context.Context, installation, id string, numbers []int) error {
	if len(numbers) == 0 {
		return nil
	}
	arguments := make([]any, len(numbers))
	for i, number := range numbers {
		arguments[i] = number
	}
	return unavailable(cancelTakenScript.Run(ctx, s.Redis, []string{keyspace.Installation(installation).Batch(id).Root()}, arguments...).Err(), "look after a batch")
}

// actScript does what a caller asks of a batch.
//
// KEYS: root. ARGV: "cancel", "end" (the same of a removed app), "pause", "resume" or "retry". Returns {verdict, state}: "none", "done" or "refused".
var actScript = redis.NewScript(common + `
local root, act = KEYS[1], ARGV[1]
local have = redis.call('HMGET', root, 'state', 'resolved', 'hold')
local state = have[1]
if not state then return {'none', ''} end
local over = state == 'canceled' or state == 'finished'
local function go()
  redis.call('HSET', root, 'state', have[2] == '1' and 'running' or 'resolving')
  redis.call('HDEL', root, 'reason', 'ended', 'hold')
end
if act == 'cancel' or act == 'end' then
  if over then return {'refused', state} end
  redis.call('HSET', root, 'state', 'canceled', 'reason', act == 'end' and 'the app was removed from the workspace' or 'canceled by a caller')
  redis.call('HDEL', root, 'hold')
  move(root, 'pending', 'canceled')
elseif act == 'pause' then
  if state ~= 'running' and state ~= 'resolving' then return {'refused', state} end
  redis.call('HSET', root, 'state', 'paused', 'reason', 'paused by a caller')
elseif act == 'resume' then
  if state ~= 'paused' and state ~= 'stopped' and not (have[3] and not over) then return {'refused', state} end
  redis.call('HSET', root, 'accepted', count(root, 'failed'))
  go()
elseif act == 'retry' then
  if state == 'canceled' or count(root, 'failed') == 0 then return {'refused', state} end
  move(root, 'failed', 'pending')
  redis.call('HSET', root, 'accepted', 0)
  if state ~= 'paused' then go() end
end
return {'done', state}`)

// act changes a batch and sees to it that somebody looks after it.
func (s *Store) act(ctx context.Context, what, installation, id string) error {
	if there, err := s.Redis.Exists(ctx, keyspace.Installation(installation).Batch(id).Root()).Result(); err != nil || there == 0 { // or anybody fills the active ones
		return cmp.Or(unavailable(err, what+" the batch"), notThere(id))
	}
	// Active before, should this die in between; and after, should it be found idle meanwhile. Not woken before: what it does then could
	// be what is asked for, and the caller be refused.
	name := member(installation, id)
	if err := s.Redis.ZAdd(ctx, keyspace.ActiveBatches, redis.Z{Score: float64(s.Now().UnixMilli()), Member: name}).Err(); err != nil {
		return unavailable(err, what+" the batch")
	}
	answer, err := actScript.Run(ctx, s.Redis, []string{keyspace.Installation(installation).Batch(id).Root()}, what).StringSlice()
	switch {
	case err != nil || len(answer) != 2:
		return unavailable(err, what+" the batch")
	case answer[0] == "none":
		return notThere(id)
	case answer[0] == "refused":
		return fault.Newf(fault.Conflict, "%s", refusal(what, State(answer[1])))
	}
	after := s.Redis.Pipeline()
	after.ZAdd(ctx, keyspace.ActiveBatches, redis.Z{Score: float64(s.Now().UnixMilli()), Member: name})
	after.Publish(ctx, keyspace.BatchChannel, name)
	_, err = after.Exec(ctx)
	return unavailable(err, what+" the batch")
}

func notThere(id string) error {
	return fault.Newf(fault.NotFound, "there is no batch %.40q, or its time is over", id)
}

func refusal(what string, state State) string {
	switch {
	case what == "retry" && state == StateCanceled:
		return "the batch was canceled; make a new one of what is left"
	case what == "retry":
		return "no repository of the batch has failed; there is nothing to retry"
	case what == "resume" && (state == StateRunning || state == StateResolving):
		return "the batch is " + string(state) + " already"
	case what == "pause" && (state == StatePaused || state == StateStopped):
		return "the batch is " + string(state) + " already"
	}
	return "the batch is " + string(state) + "; there is nothing to " + what
}

// Pause lets nothing more begin.
func (s *Store) Pause(ctx context.Context, installation, id string) error {
	return s.act(ctx, "pause", installation, id)
}

// Resume goes on with a batch that is paused or has stopped; what has failed so far stops it no more.
func (s *Store) Resume(ctx context.Context, installation, id string) error {
	return s.act(ctx, "resume", installation, id)
}

// Retry lets the repositories that failed begin again. What has succeeded is not touched.
func (s *Store) Retry(ctx context.Context, installation, id string) error {
	return s.act(ctx, "retry", installation, id)
}

// Cancel lets nothing more begin, for good. What runs finishes; [Driver] ends what waits.
func (s *Store) Cancel(ctx context.Context, installation, id string) error {
	return s.act(ctx, "cancel", installation, id)
}

// CancelAll cancels every batch of an installation that has not ended. It is for an app that was removed, before its jobs are canceled.
func (s *Store) CancelAll(ctx context.Context, installation string) error {
	ids, err := s.Redis.ZRange(ctx, keyspace.Installation(installation).Batches(), 0, -1).Result()
	if err != nil {
		return unavailable(err, "cancel the batches")
	}
	for _, id := range ids {
		err := s.act(ctx, "end", installation, id)
		if kind := fault.KindOf(err); err != nil && kind != fault.Conflict && kind != fault.NotFound {
			return err
		}
	}
	return nil
}

// appendScript adds a page of what a query found, unless it is there.
//
// KEYS: root. ARGV: cursor of the page, cursor of the next ("" where this was the last), when to ask for it, most repositories, entries...
// Returns how many repositories there are, or -1 where the page was there or the batch goes on no more.
var appendScript = redis.NewScript(`
local root = KEYS[1]
local have = redis.call('HMGET', root, 'state', 'resolved', 'cursor', 'total')
if have[1] ~= 'resolving' or have[2] == '1' or (have[3] or '') ~= ARGV[1] then return -1 end
local total, life = tonumber(have[4]), redis.call('PTTL', root)
for i = 5, #ARGV do
  if total >= tonumber(ARGV[4]) then
    redis.call('HSET', root, 'state', 'stopped', 'reason', 'the query finds more than ' .. ARGV[4] .. ' repositories; cancel the batch and narrow its query', 'total', total)
    return total
  end
  redis.call('HSET', root .. ':items', total, ARGV[i])
  redis.call('ZADD', root .. ':pending', total, total)
  total = total + 1
end
if total > 0 then
  redis.call('PEXPIRE', root .. ':items', life)
  redis.call('PEXPIRE', root .. ':pending', life)
end
redis.call('HSET', root, 'total', total, 'cursor', ARGV[2], 'next_page', ARGV[3])
redis.call('HDEL', root, 'reason', 'hold')
if ARGV[2] == '' then
  redis.call('HSET', root, 'resolved', 1, 'state', 'running')
  if total == 0 then redis.call('HSET', root, 'state', 'finished', 'reason', 'the query finds no repository') end
end
return total`)

func (s *Store) appendPage(ctx context.Context, installation, id, cursor, next string, at time.Time, entries []any) error {
	arguments := append([]any{cursor, next, strconv.FormatInt(at.UnixMilli(), 10), maxRepositories}, entries...)
	return unavailable(appendScript.Run(ctx, s.Redis, []string{keyspace.Installation(installation).Batch(id).Root()}, arguments...).Err(), "keep what the query found")
}

// putOffScript notes why a query cannot go on now.
//
// KEYS: root. ARGV: when to ask again, or "" to stop; why.
var putOffScript = redis.NewScript(`
if redis.call('HGET', KEYS[1], 'state') ~= 'resolving' then return 0 end
redis.call('HSET', KEYS[1], 'reason', ARGV[2])
if ARGV[1] ~= '' then redis.call('HSET', KEYS[1], 'next_page', ARGV[1]) else redis.call('HSET', KEYS[1], 'state', 'stopped') end
return 1`)

func (s *Store) putOff(ctx context.Context, installation, id string, until time.Time, why string) error {
	at := ""
	if !until.IsZero() {
		at = strconv.FormatInt(until.UnixMilli(), 10)
	}
	return unavailable(putOffScript.Run(ctx, s.Redis, []string{keyspace.Installation(installation).Batch(id).Root()}, at, strings.TrimSpace(why)).Err(), "put a query off")
}

// keepEntryScript replaces an entry. KEYS: items. ARGV: number, entry.
var keepEntryScript = redis.NewScript(`
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
return redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])`)
