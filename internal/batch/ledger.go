package batch

import (
	"github.com/gitsmith/gitsmith/internal/job"
)

// ItemState is how one repository of a batch stands.
type ItemState string

// The states. A repository is in exactly one.
const (
	Queued    ItemState = "queued" // not begun
	Running   ItemState = "running"
	Waiting   ItemState = "waiting" // for another attempt, or for a token
	Succeeded ItemState = "succeeded"
	Unchanged ItemState = "unchanged" // nothing had to be changed
	Failed    ItemState = "failed"    // or its token ran out
	Canceled  ItemState = "canceled"
	Skipped   ItemState = "skipped" // left alone on purpose
)

// ItemStates are all of them, in the order in which a batch goes.
func ItemStates() []ItemState {
	return []ItemState{Queued, Running, Waiting, Succeeded, Unchanged, Skipped, Failed, Canceled}
}

// pending is the set of those that have no job yet; for callers they are queued too.
const pending ItemState = "pending"

// StateOf is where the ledger has a repository whose job is in a state, with a result where it has succeeded.
func StateOf(state job.State, result job.Result) ItemState {
	switch state {
	case job.Running:
		return Running
	case job.Retrying, job.Waiting:
		return Waiting
	case job.Failed, job.Expired:
		return Failed
	case job.Canceled:
		return Canceled
	case job.Succeeded:
		switch pushed := result.Push; {
		case pushed == nil:
			return Succeeded
		case pushed.Skipped != "":
			return Skipped
		case pushed.Unchanged:
			return Unchanged
		}
		return Succeeded
	}
	return Queued
}

// Ledger is Lua for the scripts of package queue. Whatever changes a job's state moves it in its batch's ledger in the same step, so
// that totals are right at any instant, and a job that ends twice counts once.
//
// ledger(record, to, now) moves the job of a record to a state, and returns for how many milliseconds the batch is kept, or nil where
// the job is part of none. batchCanceled(record) reports whether the job's batch was canceled, so that it must not begin.
const Ledger = `
local function batchOf(record)
  local have = redis.call('HMGET', record, 'batch', 'item')
  if not have[1] then return nil end
  return string.match(record, '^(.-{.-}:)job:') .. 'batch:' .. have[1], have[2]
end
local function batchCanceled(record)
  local root = batchOf(record)
  return root and redis.call('HGET', root, 'state') == 'canceled'
end
local function ledger(record, to, now)
  local root, item = batchOf(record)
  if not root then return nil end
  local life = redis.call('PTTL', root)
  if life <= 0 then return nil end
  if redis.call('ZADD', root .. ':' .. to, item, item) == 0 then return life end
  redis.call('PEXPIRE', root .. ':' .. to, life)
  for _, state in ipairs({'pending', 'queued', 'running', 'waiting', 'succeeded', 'unchanged', 'failed', 'canceled', 'skipped'}) do
    if state ~= to then redis.call('ZREM', root .. ':' .. state, item) end
  end
  if to ~= 'queued' and to ~= 'running' and to ~= 'waiting' then
    redis.call('LPUSH', root .. ':ends', now)
    redis.call('LTRIM', root .. ':ends', 0, 99)
    redis.call('PEXPIRE', root .. ':ends', life)
    redis.call('HINCRBY', root, 'changes', 1)
  end
  return life
end
`
