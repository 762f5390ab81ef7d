package queue

import (
	"errors"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
)

// A record's fields. Times are Unix milliseconds. generation tells runs that a caller asked for from the same run twice.
//
//	id digest class operation repository actor branch ref created      what the job is
//	batch item                                                         of a batch, whose ledger follows the state
//	workspace                                                          of a repository whose name is too long for one field
//	generation opened                                                  the newest run asked for, and since when
//	state attempts snoozes started ended next failure                  how it stands
//	result result.1 …                                                  what came of it, in short parts
//	run                                                                attempts that ever began: each one's fence
//	active                                                             the fence of the attempt that is under way
//	begun                                                              attempts that began and were not heard of again
//	cancel                                                             the generation that is to stop
//	unclaimed                                                          there where a worker made the record, which met the task first
//
// Only the scripts below change a record. A generation that has ended stays as it ended; only a higher one opens the record
// again. An attempt that was given up, because its worker lost its lease, cannot write over the one that came after it; only
// its success counts, since what it did is done.

const isEnded = `
local function isEnded(state) return state == 'succeeded' or state == 'failed' or state == 'expired' or state == 'canceled' end
`

// promote lets parked jobs of a class into the queue while their installation has slots free, oldest first and at most 500 at a time:
// a script that returned more would not fit on Lua's stack, and the sweep lets the rest follow. Entries whose job has ended or is gone
// give their turn to the next one. It returns the ids of the tasks, which the caller must run. Without a cap every job may run.
const promote = `
local function promote(slots, parked, cap, now, records)
  local tasks = {}
  local free = cap - redis.call('ZCARD', slots)
  if cap == 0 then free = redis.call('ZCARD', parked) end
  free = math.min(free, 500)
  for _ = 1, 20 do
    if #tasks >= free then break end
    local ids = redis.call('ZRANGE', parked, 0, free - #tasks - 1)
    if #ids == 0 then break end
    for _, id in ipairs(ids) do
      redis.call('ZREM', parked, id)
      local have = redis.call('HMGET', records .. id, 'state', 'generation')
      if have[1] and not isEnded(have[1]) then
        if cap > 0 then redis.call('ZADD', slots, now, id) end
        tasks[#tasks + 1] = have[2] == '0' and id or id .. '.' .. have[2]
      end
    end
  end
  return tasks
end
`

// replace ends a job that waits and that a newer event of the same thing has made needless. It returns the job's class and task.
const replace = `
local function replace(record, id, now, life, failure, slots, parked, waiting)
  local have = redis.call('HMGET', record, 'class', 'generation')
  redis.call('HSET', record, 'state', 'canceled', 'ended', now, 'failure', failure)
  redis.call('HDEL', record, 'next')
  redis.call('PEXPIRE', record, life)
  redis.call('ZREM', slots, id)
  redis.call('ZREM', parked, id)
  redis.call('ZREM', waiting, id)
  return have[1], have[2] == '0' and id or id .. '.' .. have[2]
end
`

// createScript makes a record unless there is one, and gives the job a slot of its installation or parks it. The caller says
// beforehand what it puts into asynq: a task that runs at once, which takes a slot even if there is none, or one that waits, which
// is parked unless there is one. Of jobs with the same coalesce key that have not begun only the one of the newest event is left.
//
// KEYS: record, index, slots, parked, gone, waiting, coalesce. ARGV: life in ms, id, created, oldest score to keep or "" to keep
// the index as it is, how many to keep, cap, "1" where the task waits, now, time of the event or "", life of an ended one,
// failure of a replaced one, then fields and values, id and digest first.
// Returns {1, full, run, class, task} (full: "1" where no slot is left; run: "1" where the task that waits is to run; class and task of
// a job that was replaced, or ""), {2} where the installation is gone, or {0, digest, state, generation}.
var createScript = redis.NewScript(isEnded + batch.Ledger + replace + `
local have = redis.call('HMGET', KEYS[1], 'digest', 'state', 'generation')
if have[1] == ARGV[15] and redis.call('HDEL', KEYS[1], 'unclaimed') == 1 then return {1, 0, 0, '', ''} end
if have[1] then return {0, have[1], have[2], have[3]} end
if redis.call('EXISTS', KEYS[5]) == 1 then return {2} end
redis.call('HSET', KEYS[1], unpack(ARGV, 12))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
ledger(KEYS[1], 'queued', ARGV[8])
if ARGV[4] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. ARGV[4])
  redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -1 - tonumber(ARGV[5]))
end
local class, task = '', ''
if ARGV[9] ~= '' then
  local newest = redis.call('GET', KEYS[7])
  if newest then
    local time, id = string.match(newest, '^(%d+) (.+)$')
    local record = string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[2]) .. id
    local state = redis.call('HGET', record, 'state')
    if state and state ~= 'running' and not isEnded(state) then
      if tonumber(time) > tonumber(ARGV[9]) then
        class, task = replace(KEYS[1], ARGV[2], ARGV[8], ARGV[10], ARGV[11], KEYS[3], KEYS[4], KEYS[6])
        return {1, 0, 0, class, task}
      end
      class, task = replace(record, id, ARGV[8], ARGV[10], ARGV[11], KEYS[3], KEYS[4], KEYS[6])
    end
  end
  redis.call('SET', KEYS[7], ARGV[9] .. ' ' .. ARGV[2], 'PX', ARGV[10])
end
local cap = tonumber(ARGV[6])
if cap == 0 then return {1, 0, tonumber(ARGV[7]), class, task} end
local taken = redis.call('ZCARD', KEYS[3])
if ARGV[7] == '1' and taken >= cap then
  redis.call('ZADD', KEYS[4], ARGV[3], ARGV[2])
  return {1, 1, 0, class, task}
end
redis.call('ZADD', KEYS[3], ARGV[8], ARGV[2])
return {1, taken + 1 >= cap and 1 or 0, tonumber(ARGV[7]), class, task}`)

// beginScript opens an attempt. A record that is gone is made anew from the task. An attempt that was not heard of again did
// not count: its worker died. A job without a slot takes one, or is parked where its installation has none left.
//
// KEYS: record, index, waiting, wakes, slots, parked, gone. ARGV: generation, now, life in ms, id, created, actor, cap, digest,
// then fields and values of a record.
// Returns {verdict, attempts, begun, snoozes, opened, due, fence, wakes}: "run", "over" where this generation has ended or a
// newer one exists, "canceled", or "parked". With "over" only the ids of tasks follow that can run now.
var beginScript = redis.NewScript(isEnded + batch.Ledger + promote + `
local cap = tonumber(ARGV[7])
local have = redis.call('HMGET', KEYS[1], 'generation', 'state', 'cancel', 'digest')
if not have[1] then
  if redis.call('EXISTS', KEYS[7]) == 1 then return {'over'} end
  redis.call('HSET', KEYS[1], 'unclaimed', 1, unpack(ARGV, 9))
  redis.call('ZADD', KEYS[2], ARGV[5], ARGV[4])
  have = {ARGV[1], 'queued', false, ARGV[8]}
end
local recorded, asked = tonumber(have[1]), tonumber(ARGV[1])
if recorded > asked or have[4] ~= ARGV[8] then return {'over'} end
if recorded == asked and isEnded(have[2]) then
  redis.call('ZREM', KEYS[5], ARGV[4])
  local records = string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[4])
  return {'over', unpack(promote(KEYS[5], KEYS[6], cap, ARGV[2], records))}
end
if cap > 0 then
  if recorded == asked and have[3] == ARGV[1] then
  elseif not redis.call('ZSCORE', KEYS[5], ARGV[4]) and redis.call('ZCARD', KEYS[5]) >= cap then
    redis.call('ZREM', KEYS[3], ARGV[4])
    redis.call('ZADD', KEYS[6], ARGV[5], ARGV[4])
    redis.call('HSET', KEYS[1], 'state', 'queued')
    redis.call('HDEL', KEYS[1], 'next')
    ledger(KEYS[1], 'queued', ARGV[2])
    return {'parked'}
  end
  redis.call('ZADD', KEYS[5], ARGV[2], ARGV[4])
  redis.call('ZREM', KEYS[6], ARGV[4])
end
redis.call('ZREM', KEYS[3], ARGV[4])
if recorded < asked then
  redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'opened', ARGV[2], 'attempts', 0, 'snoozes', 0, 'begun', 0, 'actor', ARGV[6])
  redis.call('HDEL', KEYS[1], 'next', 'ended', 'result', 'failure', 'cancel', 'active')
elseif have[3] == ARGV[1] then
  return {'canceled'}
end
if redis.call('HEXISTS', KEYS[1], 'active') == 0 and batchCanceled(KEYS[1]) then return {'canceled'} end
local lost = redis.call('HEXISTS', KEYS[1], 'active') == 1
local attempts = redis.call('HINCRBY', KEYS[1], 'attempts', lost and 0 or 1)
local fence = redis.call('HINCRBY', KEYS[1], 'run', 1)
local opened = redis.call('HGET', KEYS[1], 'opened') or ARGV[2]
local due = redis.call('HGET', KEYS[1], 'next') or opened
redis.call('HSET', KEYS[1], 'state', 'running', 'started', ARGV[2], 'active', fence)
redis.call('HDEL', KEYS[1], 'next')
ledger(KEYS[1], 'running', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'run', attempts, redis.call('HINCRBY', KEYS[1], 'begun', 1), redis.call('HGET', KEYS[1], 'snoozes') or '0', opened, due,
  fence, redis.call('GET', KEYS[4]) or ''}`)

// endScript closes an attempt and gives its slot to the next. What the job was is kept for a retry in the same step in which the
// job ends without success.
//
// KEYS: record, waiting, wakes, payload, slots, parked. ARGV: generation, fence ("" for whichever attempt, "none" for none), life in ms, "1" where
// the attempt does not count, id, score in waiting or "", wakes at the beginning, payload, cap, now, state in the ledger, then fields
// and values, the state first.
// Returns {verdict, tasks that can run now...}: "written", "woken" (written, but a token came meanwhile, so the job does not
// wait), "over" where the generation has ended or the attempt was given up, or "canceled" where nothing was written because the
// job, which goes on, is to stop.
var endScript = redis.NewScript(isEnded + batch.Ledger + promote + `
local have = redis.call('HMGET', KEYS[1], 'generation', 'state', 'active', 'cancel')
local state = ARGV[13]
if have[1] ~= ARGV[1] or isEnded(have[2]) then return {'over'} end
if ARGV[2] ~= '' and (have[3] or 'none') ~= ARGV[2] and state ~= 'succeeded' then return {'over'} end
if not isEnded(state) and have[4] == ARGV[1] then return {'canceled'} end
redis.call('HSET', KEYS[1], 'begun', 0, unpack(ARGV, 12))
redis.call('HDEL', KEYS[1], 'active')
local life = ledger(KEYS[1], ARGV[11], ARGV[10]) or ARGV[3]
redis.call('PEXPIRE', KEYS[1], life)
if ARGV[4] == '1' then
  redis.call('HINCRBY', KEYS[1], 'attempts', -1)
  redis.call('HINCRBY', KEYS[1], 'snoozes', 1)
end
local verdict = 'written'
if state == 'succeeded' then
  redis.call('DEL', KEYS[4])
elseif isEnded(state) then
  if ARGV[8] ~= '' then redis.call('SET', KEYS[4], ARGV[8], 'PX', life) end
elseif ARGV[6] ~= '' then
  if (redis.call('GET', KEYS[3]) or '') ~= ARGV[7] then
    redis.call('HSET', KEYS[1], 'state', 'queued')
    redis.call('HDEL', KEYS[1], 'next')
    ledger(KEYS[1], 'queued', ARGV[10])
    verdict = 'woken'
  else
    redis.call('ZADD', KEYS[2], ARGV[6], ARGV[5])
  end
end
redis.call('ZREM', KEYS[5], ARGV[5])
local records = string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[5])
return {verdict, unpack(promote(KEYS[5], KEYS[6], tonumber(ARGV[9]), ARGV[10], records))}`)

// cancelScript ends a job that does not run, or asks a running one to stop.
//
// KEYS: record, waiting, payload, slots, parked. ARGV: now, life in ms after the end, id, failure, payload or "", cap, "1" where a
// running one is left alone. Returns {verdict, generation, class, tasks that can run now...}: "unknown", "asked", "left", "ended" or, where it had ended before, how.
var cancelScript = redis.NewScript(isEnded + batch.Ledger + promote + `
local have = redis.call('HMGET', KEYS[1], 'state', 'generation', 'class')
if not have[1] then return {'unknown'} end
if isEnded(have[1]) then return have end
if have[1] == 'running' and ARGV[7] == '1' then return {'left', have[2], have[3]} end
redis.call('HSET', KEYS[1], 'cancel', have[2])
if have[1] == 'running' then return {'asked', have[2], have[3]} end
redis.call('HSET', KEYS[1], 'state', 'canceled', 'ended', ARGV[1], 'failure', ARGV[4])
redis.call('HDEL', KEYS[1], 'next')
redis.call('ZREM', KEYS[2], ARGV[3])
local life = ledger(KEYS[1], 'canceled', ARGV[1]) or ARGV[2]
redis.call('PEXPIRE', KEYS[1], life)
if ARGV[5] ~= '' then redis.call('SET', KEYS[3], ARGV[5], 'PX', life) end
redis.call('ZREM', KEYS[4], ARGV[3])
redis.call('ZREM', KEYS[5], ARGV[3])
local records = string.sub(KEYS[1], 1, #KEYS[1] - #ARGV[3])
return {'ended', have[2], have[3], unpack(promote(KEYS[4], KEYS[5], tonumber(ARGV[6]), ARGV[1], records))}`)

// reopenScript records that a new generation waits, unless it is known already.
//
// KEYS: record. ARGV: generation, now, life in ms.
var reopenScript = redis.NewScript(batch.Ledger + `
if tonumber(redis.call('HGET', KEYS[1], 'generation') or ARGV[1]) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'opened', ARGV[2], 'state', 'queued', 'attempts', 0, 'snoozes', 0, 'begun', 0)
redis.call('HDEL', KEYS[1], 'next', 'ended', 'started', 'result', 'failure', 'cancel', 'active')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
ledger(KEYS[1], 'queued', ARGV[2])
return 1`)

// wakeScript lets every job that waits for a token be done again, oldest first, as far as its installation has slots.
//
// KEYS: wakes, waiting, then slots and parked of each class. ARGV: life of wakes in ms, now, cap, prefix of records, then the
// classes. Returns {how many woke, then class and task of each that can run now}.
var wakeScript = redis.NewScript(isEnded + batch.Ledger + promote + `
redis.call('INCR', KEYS[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local parked = {}
for i = 5, #ARGV do parked[ARGV[i]] = KEYS[4 + 2 * (i - 5)] end
local answer = {0}
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  local have = redis.call('HMGET', ARGV[4] .. id, 'state', 'class', 'created')
  if have[1] == 'waiting' and parked[have[2]] then
    redis.call('HSET', ARGV[4] .. id, 'state', 'queued')
    redis.call('HDEL', ARGV[4] .. id, 'next')
    ledger(ARGV[4] .. id, 'queued', ARGV[2])
    redis.call('ZADD', parked[have[2]], have[3], id)
    answer[1] = answer[1] + 1
  end
end
redis.call('DEL', KEYS[2])
for i = 5, #ARGV do
  local slots = KEYS[3 + 2 * (i - 5)]
  for _, task in ipairs(promote(slots, parked[ARGV[i]], tonumber(ARGV[3]), ARGV[2], ARGV[4])) do
    answer[#answer + 1] = ARGV[i]
    answer[#answer + 1] = task
  end
end
return answer`)

// refillScript fills the free slots of a class from its parked jobs.
//
// KEYS: slots, parked. ARGV: cap, now, prefix of records, time before which a slot is doubtful. Returns {parked jobs left, slots
// taken, number of tasks that can run now, those tasks..., ids of doubtful slots...}.
var refillScript = redis.NewScript(isEnded + promote + `
local doubtful = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[4], 'LIMIT', 0, 1000)
local tasks = promote(KEYS[1], KEYS[2], tonumber(ARGV[1]), ARGV[2], ARGV[3])
local answer = {redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[1]), #tasks}
for _, task in ipairs(tasks) do answer[#answer + 1] = task end
for _, id in ipairs(doubtful) do answer[#answer + 1] = id end
return answer`)

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

// mixed is an answer of numbers first and texts after them.
type mixed struct {
	numbers []int
	texts   []string
}

func numbersAndTexts(answer any, err error) (mixed, error) {
	if err != nil {
		return mixed{}, err
	}
	values, ok := answer.([]any)
	if !ok || len(values) < 3 {
		return mixed{}, errors.New("a script answered in a form that it does not have")
	}
	var read mixed
	for _, value := range values {
		switch value := value.(type) {
		case string:
			read.texts = append(read.texts, value)
		case int64:
			read.numbers = append(read.numbers, int(value))
		}
	}
	if len(read.numbers) != 3 || read.numbers[2] > len(read.texts) {
		return mixed{}, errors.New("a script answered in a form that it does not have")
	}
	return read, nil
}
