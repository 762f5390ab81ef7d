package queue

import (
	"errors"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// A record's fields. Times are Unix milliseconds. generation tells runs that a caller asked for from the same run twice.
//
//	id digest class operation repository actor branch ref created      what the job is
//	generation opened                                                  the newest run asked for, and since when
//	state attempts snoozes started ended next result failure           how it stands
//	run                                                                attempts that ever began: each one's fence
//	active                                                             the fence of the attempt that is under way
//	begun                                                              attempts that began and were not heard of again
//	cancel                                                             the generation that is to stop
//
// Only the scripts below change a record. A generation that has ended stays as it ended; only a higher one opens the record
// again. An attempt that was given up, because its worker lost its lease, cannot write over the one that came after it; only
// its success counts, since what it did is done.

const isEnded = `
local function isEnded(state) return state == 'succeeded' or state == 'failed' or state == 'expired' or state == 'canceled' end
`

// createScript makes a record unless there is one.
//
// KEYS: record, index. ARGV: life in ms, id, created, oldest score to keep, how many to keep, then fields and values.
// Returns {1}, or {0, digest, state, generation}.
var createScript = redis.NewScript(`
local have = redis.call('HMGET', KEYS[1], 'digest', 'state', 'generation')
if have[1] then return {0, have[1], have[2], have[3]} end
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[4])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[5]))
return {1}`)

// beginScript opens an attempt. A record that is gone is made anew from the task. An attempt that was not heard of again did
// not count: its worker died.
//
// KEYS: record, index, waiting, wakes. ARGV: generation, now, life in ms, id, created, actor, then fields and values of a record.
// Returns {verdict, attempts, begun, snoozes, opened, due, fence, wakes}: "run", "over" where this generation has ended or a
// newer one exists, or "canceled".
var beginScript = redis.NewScript(isEnded + `
local have = redis.call('HMGET', KEYS[1], 'generation', 'state', 'cancel')
if not have[1] then
  redis.call('HSET', KEYS[1], unpack(ARGV, 7))
  redis.call('ZADD', KEYS[2], ARGV[5], ARGV[4])
  have = {ARGV[1], 'queued', false}
end
local recorded, asked = tonumber(have[1]), tonumber(ARGV[1])
if recorded > asked or (recorded == asked and isEnded(have[2])) then return {'over'} end
redis.call('ZREM', KEYS[3], ARGV[4])
if recorded < asked then
  redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'opened', ARGV[2], 'attempts', 0, 'snoozes', 0, 'begun', 0, 'actor', ARGV[6])
  redis.call('HDEL', KEYS[1], 'next', 'ended', 'result', 'failure', 'cancel', 'active')
elseif have[3] == ARGV[1] then
  return {'canceled'}
end
local lost = redis.call('HEXISTS', KEYS[1], 'active') == 1
local attempts = redis.call('HINCRBY', KEYS[1], 'attempts', lost and 0 or 1)
local fence = redis.call('HINCRBY', KEYS[1], 'run', 1)
local opened = redis.call('HGET', KEYS[1], 'opened') or ARGV[2]
local due = redis.call('HGET', KEYS[1], 'next') or opened
redis.call('HSET', KEYS[1], 'state', 'running', 'started', ARGV[2], 'active', fence)
redis.call('HDEL', KEYS[1], 'next')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'run', attempts, redis.call('HINCRBY', KEYS[1], 'begun', 1), redis.call('HGET', KEYS[1], 'snoozes') or '0', opened, due,
  fence, redis.call('GET', KEYS[4]) or ''}`)

// endScript closes an attempt. What the job was is kept for a retry in the same step in which the job ends without success.
//
// KEYS: record, waiting, wakes, payload. ARGV: generation, fence ("" for whichever attempt), life in ms, "1" where the attempt
// does not count, id, score in waiting or "", wakes at the beginning, payload, then fields and values, the state first.
// Returns "written", "woken" (written, but a token came meanwhile, so the job does not wait), "over" where the generation has
// ended or the attempt was given up, or "canceled" where nothing was written because the job, which goes on, is to stop.
var endScript = redis.NewScript(isEnded + `
local have = redis.call('HMGET', KEYS[1], 'generation', 'state', 'active', 'cancel')
local state = ARGV[10]
if have[1] ~= ARGV[1] or isEnded(have[2]) then return 'over' end
if ARGV[2] ~= '' and have[3] ~= ARGV[2] and state ~= 'succeeded' then return 'over' end
if not isEnded(state) and have[4] == ARGV[1] then return 'canceled' end
redis.call('HSET', KEYS[1], 'begun', 0, unpack(ARGV, 9))
redis.call('HDEL', KEYS[1], 'active')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if ARGV[4] == '1' then
  redis.call('HINCRBY', KEYS[1], 'attempts', -1)
  redis.call('HINCRBY', KEYS[1], 'snoozes', 1)
end
if state == 'succeeded' then
  redis.call('DEL', KEYS[4])
elseif isEnded(state) then
  if ARGV[8] ~= '' then redis.call('SET', KEYS[4], ARGV[8], 'PX', ARGV[3]) end
elseif ARGV[6] ~= '' then
  if (redis.call('GET', KEYS[3]) or '') ~= ARGV[7] then
    redis.call('HSET', KEYS[1], 'state', 'queued')
    redis.call('HDEL', KEYS[1], 'next')
    return 'woken'
  end
  redis.call('ZADD', KEYS[2], ARGV[6], ARGV[5])
end
return 'written'`)

// cancelScript ends a job that does not run, or asks a running one to stop.
//
// KEYS: record, waiting, payload. ARGV: now, life in ms after the end, id, failure, payload or "".
// Returns {verdict, generation, class}: "unknown", "asked", "ended" or, where it had ended before, how.
var cancelScript = redis.NewScript(isEnded + `
local have = redis.call('HMGET', KEYS[1], 'state', 'generation', 'class')
if not have[1] then return {'unknown'} end
if isEnded(have[1]) then return have end
redis.call('HSET', KEYS[1], 'cancel', have[2])
if have[1] == 'running' then return {'asked', have[2], have[3]} end
redis.call('HSET', KEYS[1], 'state', 'canceled', 'ended', ARGV[1], 'failure', ARGV[4])
redis.call('HDEL', KEYS[1], 'next')
redis.call('ZREM', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
if ARGV[5] ~= '' then redis.call('SET', KEYS[3], ARGV[5], 'PX', ARGV[2]) end
return {'ended', have[2], have[3]}`)

// reopenScript records that a new generation waits, unless it is known already.
//
// KEYS: record. ARGV: generation, now, life in ms, actor.
var reopenScript = redis.NewScript(`
if tonumber(redis.call('HGET', KEYS[1], 'generation') or ARGV[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'opened', ARGV[2], 'state', 'queued', 'attempts', 0, 'snoozes', 0, 'begun', 0, 'actor', ARGV[4])
redis.call('HDEL', KEYS[1], 'next', 'ended', 'started', 'result', 'failure', 'cancel', 'active')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1`)

// wokenScript records that a waiting job is in the queue again, unless it has run since and waits anew.
//
// KEYS: record, waiting. ARGV: id, run.
var wokenScript = redis.NewScript(`
local have = redis.call('HMGET', KEYS[1], 'state', 'run')
if have[1] and (have[1] ~= 'waiting' or have[2] ~= ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
if not have[1] then return 0 end
redis.call('HSET', KEYS[1], 'state', 'queued')
redis.call('HDEL', KEYS[1], 'next')
return 1`)

// texts reads a script's answer of mixed strings and numbers.
func texts(answer any, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	values, ok := answer.([]any)
	if !ok || len(values) == 0 {
		return nil, errors.New("a script answered in a form that it does not have")
	}
	read := make([]string, len(values))
	for i, value := range values {
		switch value := value.(type) {
		case string:
			read[i] = value
		case int64:
			read[i] = strconv.FormatInt(value, 10)
		}
	}
	return read, nil
}
