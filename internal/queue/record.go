package queue

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// A record's fields. Times are Unix milliseconds. generation tells runs that a caller asked for from the same run twice.
//
//	id digest class operation repository actor branch ref created      what the job is
//	generation opened                                                  the newest run asked for, and since when
//	state attempts snoozes started ended next result failure           how it stands
//	begun                                                              attempts that began and were not heard of again
//	cancel                                                             the generation that is to stop

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

// beginScript opens an attempt. A record that is gone is made anew from the task.
//
// KEYS: record, index, waiting. ARGV: generation, now, life in ms, id, created, then fields and values of a record.
// Returns {verdict, attempts, begun, snoozes, opened}: "run", "over" where this generation has ended or a newer one exists, or
// "canceled".
var beginScript = redis.NewScript(`
local have = redis.call('HMGET', KEYS[1], 'generation', 'state', 'cancel')
if not have[1] then
  redis.call('HSET', KEYS[1], unpack(ARGV, 6))
  redis.call('ZADD', KEYS[2], ARGV[5], ARGV[4])
  have = {ARGV[1], 'queued', false}
end
local recorded, asked = tonumber(have[1]), tonumber(ARGV[1])
local state = have[2]
local ended = state == 'succeeded' or state == 'failed' or state == 'expired' or state == 'canceled'
redis.call('ZREM', KEYS[3], ARGV[4])
if recorded > asked or (recorded == asked and ended) then return {'over', 0, 0, 0, '0'} end
if recorded < asked then
  redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'opened', ARGV[2], 'attempts', 0, 'snoozes', 0, 'begun', 0)
elseif have[3] == ARGV[1] then
  return {'canceled', 0, 0, 0, '0'}
end
redis.call('HSET', KEYS[1], 'state', 'running', 'started', ARGV[2])
redis.call('HDEL', KEYS[1], 'next', 'ended', 'result')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {'run', redis.call('HINCRBY', KEYS[1], 'attempts', 1), redis.call('HINCRBY', KEYS[1], 'begun', 1),
  tonumber(redis.call('HGET', KEYS[1], 'snoozes') or 0), redis.call('HGET', KEYS[1], 'opened') or ARGV[2]}`)

// endScript closes an attempt of the recorded generation, if it has not ended.
//
// KEYS: record, index, waiting. ARGV: generation, life in ms, "1" where the attempt does not count, id, score in waiting or "",
// then fields and values. Returns 1 where it was written.
var endScript = redis.NewScript(`
local have = redis.call('HMGET', KEYS[1], 'generation', 'state')
local state = have[2]
if have[1] ~= ARGV[1] or state == 'succeeded' or state == 'failed' or state == 'expired' or state == 'canceled' then return 0 end
redis.call('HSET', KEYS[1], 'begun', 0, unpack(ARGV, 6))
if ARGV[3] == '1' then
  redis.call('HINCRBY', KEYS[1], 'attempts', -1)
  redis.call('HINCRBY', KEYS[1], 'snoozes', 1)
end
if ARGV[5] ~= '' then redis.call('ZADD', KEYS[3], ARGV[5], ARGV[4]) end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1`)

// cancelScript ends a job that waits, or asks a running one to stop.
//
// KEYS: record, index, waiting. ARGV: now, life in ms after the end, id, failure. Returns {verdict, generation, class}.
var cancelScript = redis.NewScript(`
local have = redis.call('HMGET', KEYS[1], 'state', 'generation', 'class')
local state = have[1]
if not state then return {'unknown', '0', ''} end
if state == 'succeeded' or state == 'failed' or state == 'expired' or state == 'canceled' then return {state, have[2], have[3]} end
redis.call('HSET', KEYS[1], 'cancel', have[2])
if state == 'running' then return {'asked', have[2], have[3]} end
redis.call('HSET', KEYS[1], 'state', 'canceled', 'ended', ARGV[1], 'failure', ARGV[4])
redis.call('HDEL', KEYS[1], 'next')
redis.call('ZREM', KEYS[3], ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return {'canceled now', have[2], have[3]}`)

// reopenScript records that a new generation waits.
//
// KEYS: record. ARGV: generation, now, life in ms, actor.
var reopenScript = redis.NewScript(`
if tonumber(redis.call('HGET', KEYS[1], 'generation') or -1) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'opened', ARGV[2], 'state', 'queued', 'attempts', 0, 'snoozes', 0, 'begun', 0, 'actor', ARGV[4])
redis.call('HDEL', KEYS[1], 'next', 'ended', 'started', 'result', 'failure', 'cancel')
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1`)

// fieldsOf are a new record's.
func fieldsOf(j job.Job, now time.Time) []any {
	meta := j.MetaOf()
	return []any{
		"id", j.ID, "digest", j.Digest, "class", string(j.Class), "operation", string(meta.Operation), "repository", j.Repository.String(),
		"actor", string(j.Actor.Kind), "branch", meta.Branch, "ref", meta.Ref, "created", j.CreatedAt.UnixMilli(),
		"generation", j.Generation, "opened", now.UnixMilli(), "state", string(job.Queued), "attempts", 0, "snoozes", 0, "begun", 0,
	}
}

func keysOf(installation, id string) []string {
	return []string{recordKey(installation, id), indexKey(installation), waitingKey(installation)}
}

// record is a record as it was read.
type record map[string]string

func (r record) time(field string) time.Time {
	milliseconds, err := strconv.ParseInt(r[field], 10, 64)
	if err != nil || milliseconds == 0 {
		return time.Time{}
	}
	return time.UnixMilli(milliseconds).UTC()
}

func (r record) number(field string) int {
	number, _ := strconv.Atoi(r[field]) // a field that is not there is zero
	return number
}

func (r record) status() job.Status {
	status := job.Status{
		ID: r["id"], State: job.State(r["state"]), Operation: job.Operation(r["operation"]), Repository: r["repository"],
		Actor: forge.ActorKind(r["actor"]), Branch: r["branch"], Ref: r["ref"], Attempts: r.number("attempts"),
		CreatedAt: r.time("created"), StartedAt: r.time("started"), EndedAt: r.time("ended"), NextAt: r.time("next"),
	}
	if text := r["result"]; text != "" {
		result := new(job.Result)
		if json.Unmarshal([]byte(text), result) == nil {
			status.Result = result
		}
	}
	if text := r["failure"]; text != "" && status.State != job.Succeeded {
		failure := new(job.Failure)
		if json.Unmarshal([]byte(text), failure) == nil {
			status.Failure = failure
		}
	}
	return status
}

// read is a job's record, or a NotFound fault.
func read(ctx context.Context, client redis.UniversalClient, installation, id string) (record, error) {
	fields, err := client.HGetAll(ctx, recordKey(installation, id)).Result()
	if err != nil {
		return nil, unavailable(err, "look up job")
	}
	if len(fields) == 0 {
		return nil, fault.Newf(fault.NotFound, "there is no job %.40q, or its time is over", id)
	}
	return fields, nil
}

func failureText(kind fault.Kind, detail string) string {
	text, err := json.Marshal(job.Failure{Kind: kind, Detail: detail})
	if err != nil {
		return "" // it is two strings; it always encodes
	}
	return string(text)
}

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
