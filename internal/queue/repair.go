package queue

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// asynq trims its archive in one script, which unpacks everything older than 90 days or beyond 10,000 tasks: from about 8,000 ids on, Lua
// refuses, after the script has deleted the tasks. Ours are trimmed before asynq's bounds are reached.
const (
	archiveAge   = 80 * 24 * time.Hour
	archiveSize  = 9_500
	archivePiece = 500 // tasks that one script removes
	lookPiece    = 500 // ids that one sweep looks at in each of a queue's lists
	sampled      = 20  // ids at the head of each list that asynq's own GetQueueInfo reads

	maxQuarantine = 100
	givenLease    = time.Minute // to an active task that has none
	mostActive    = 10_000      // active tasks that one repair looks at: the workers' places
)

// lists are where asynq keeps the ids of a queue's tasks, but for the active ones.
var lists = [...]string{"pending", "scheduled", "retry", "archived", "completed"}

func taskPrefix(queue string) string { return listKey(queue, "t") + ":" }

func listKey(queue, list string) string { return "asynq:{" + queue + "}:" + list }

// Repair mends what asynq leaves lying in its keys, none of which holds a job: it names the queues; takes tasks out of the active ones that
// nobody works on, or that cannot be decoded, which keeps asynq from recovering all others (its pull request 1140); trims the archive
// before asynq's own script fails on it; and removes ids whose task is gone. One process at a time does it.
func (c *Client) Repair(ctx context.Context) error {
	c.repairing.Lock()
	defer c.repairing.Unlock()
	if err := c.Renew(ctx); err != nil {
		return err
	}
	for queue := range queues() {
		err := errors.Join(c.sweepActive(ctx, queue), c.trimArchive(ctx, queue))
		for _, list := range lists {
			err = errors.Join(err, c.dropOrphans(ctx, queue, list))
		}
		if err != nil {
			return unavailable(err, "repair the queues")
		}
	}
	return nil
}

// doubtfulScript are the active tasks whose lease has run out, or that have none, at most so many. Those without get one, so that asynq
// recovers them (its issue 1144), and leases of tasks that are not active are dropped.
//
// KEYS: active, lease. ARGV: now and when a given lease runs out, in Unix seconds; how many at most.
var doubtfulScript = redis.NewScript(`
local active, doubtful = {}, {}
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, ARGV[3] - 1)) do
  active[id] = true
  local expires = redis.call('ZSCORE', KEYS[2], id)
  if not expires then redis.call('ZADD', KEYS[2], ARGV[2], id) end
  if not expires or tonumber(expires) < tonumber(ARGV[1]) then doubtful[#doubtful + 1] = id end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1], 'LIMIT', 0, 100)) do
  if not active[id] and redis.call('LLEN', KEYS[1]) < tonumber(ARGV[3]) then redis.call('ZREM', KEYS[2], id) end
end
return doubtful`)

func (c *Client) sweepActive(ctx context.Context, queue string) error {
	now := c.now() // asynq reads leases by the machine's clock
	ids, err := doubtfulScript.Run(ctx, c.Redis, activeKeys(queue), now.Unix(), now.Add(givenLease).Unix(), mostActive).StringSlice()
	if err != nil {
		return err
	}
	for _, id := range ids {
		info, err := c.inspector.GetTaskInfo(queue, id)
		if isBroken(info, id, err) {
			err = c.quarantine(ctx, queue, id, errors.Is(err, asynq.ErrTaskNotFound))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func activeKeys(queue string) []string {
	return []string{listKey(queue, "active"), listKey(queue, "lease")}
}

// isBroken tells a task that nobody can ever read, or whose content is gone, from a Redis that is away. asynq has no error for
// the first, only a text; should it change, tasks stay where they are and the test says so.
func isBroken(info *asynq.TaskInfo, id string, err error) bool {
	if err == nil {
		return info.ID != id // it decodes by chance
	}
	return errors.Is(err, asynq.ErrTaskNotFound) || strings.Contains(err.Error(), "could not decode task message")
}

// quarantineScript takes a task out of its queue's active ones.
//
// KEYS: active, lease, task. ARGV: id, "1" where it has no content. Returns the message it held, or nil where it is not active
// any more or has its content.
var quarantineScript = redis.NewScript(`
if ARGV[2] == '1' and redis.call('HEXISTS', KEYS[3], 'msg') == 1 then return false end
if redis.call('LREM', KEYS[1], 0, ARGV[1]) == 0 then return false end
local message = redis.call('HGET', KEYS[3], 'msg') or ''
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
return message`)

// quarantine puts a task that asynq cannot read aside, where an operator finds it, and lets the queue go on.
func (c *Client) quarantine(ctx context.Context, queue, id string, empty bool) error {
	keys := append(activeKeys(queue), taskPrefix(queue)+id)
	message, err := quarantineScript.Run(ctx, c.Redis, keys, id, flag(empty)).Text()
	if isNil(err) {
		return nil
	}
	if err != nil {
		return err
	}
	c.Logger.ErrorContext(ctx, "a task in Redis is damaged and is put into quarantine", slog.String("queue", queue), slog.String("task", id))
	return c.putAside(ctx, queue+" "+id+" "+message)
}

// putAside adds to what operators find in quarantine: queue, task and what it held.
func (c *Client) putAside(ctx context.Context, tasks ...any) error {
	pipeline := c.Redis.TxPipeline()
	pipeline.LPush(ctx, keyspace.Quarantine, tasks...)
	pipeline.LTrim(ctx, keyspace.Quarantine, 0, maxQuarantine-1)
	_, err := pipeline.Exec(ctx)
	return err
}

func flag(set bool) string {
	if set {
		return "1"
	}
	return ""
}

// trimScript removes the oldest tasks of an archive.
//
// KEYS: archived. ARGV: prefix of tasks, Unix time before which a task is too old, how many are kept, how many are removed at most.
// Returns how many were removed.
var trimScript = redis.NewScript(`
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[4])
local excess = math.min(redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[3]), tonumber(ARGV[4]))
if excess > #ids then ids = redis.call('ZRANGE', KEYS[1], 0, excess - 1) end
for _, id in ipairs(ids) do
  redis.call('DEL', ARGV[1] .. id)
  redis.call('ZREM', KEYS[1], id)
end
return #ids`)

func (c *Client) trimArchive(ctx context.Context, queue string) error {
	oldest := c.now().Add(-archiveAge).Unix()
	for {
		removed, err := trimScript.Run(ctx, c.Redis, []string{listKey(queue, "archived")}, taskPrefix(queue), oldest, archiveSize, archivePiece).Int()
		if err != nil || removed < archivePiece {
			return err
		}
	}
}

// orphanScript finds ids in a list whose task is gone: a task is written and listed in one script, so that there is none on its way.
//
// KEYS: list. ARGV: prefix of tasks, how many ids at the head, and how many from where on. Returns {ids from there on, orphans...}.
var orphanScript = redis.NewScript(`
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return {'0'} end
local range = kind == 'zset' and 'ZRANGE' or 'LRANGE'
local rest = redis.call(range, KEYS[1], ARGV[4], ARGV[4] + ARGV[3] - 1)
local seen, answer = {}, {tostring(#rest)}
for _, ids in ipairs({redis.call(range, KEYS[1], 0, ARGV[2] - 1), rest}) do
  for _, id in ipairs(ids) do
    if not seen[id] and redis.call('HEXISTS', ARGV[1] .. id, 'msg') == 0 then answer[#answer + 1] = id end
    seen[id] = true
  end
end
return answer`)

// dropScript removes ids from a list, but for those that have a task again.
//
// KEYS: list. ARGV: prefix of tasks, then the ids.
var dropScript = redis.NewScript(`
local zset = redis.call('TYPE', KEYS[1]).ok == 'zset'
for i = 2, #ARGV do
  if redis.call('HEXISTS', ARGV[1] .. ARGV[i], 'msg') == 0 then
    if zset then redis.call('ZREM', KEYS[1], ARGV[i]) else redis.call('LREM', KEYS[1], 0, ARGV[i]) end
    redis.call('DEL', ARGV[1] .. ARGV[i])
  end
end`)

// dropOrphans looks at a list's head, which asynq's inspector fails on, and at a further part of it each time.
func (c *Client) dropOrphans(ctx context.Context, queue, list string) error {
	key := listKey(queue, list)
	answer, err := orphanScript.Run(ctx, c.Redis, []string{key}, taskPrefix(queue), sampled, lookPiece, c.looked[key]).StringSlice()
	if err != nil || len(answer) == 0 {
		return err
	}
	c.looked[key] += lookPiece
	if looked, err := strconv.Atoi(answer[0]); err != nil || looked < lookPiece {
		c.looked[key] = 0
	}
	orphans := answer[1:]
	if len(orphans) == 0 {
		return nil
	}
	c.Logger.WarnContext(ctx, "tickets are gone from Redis although their ids are listed; their jobs get new ones",
		slog.String("queue", queue), slog.String("list", list), slog.Int("count", len(orphans)))
	arguments := []any{taskPrefix(queue)}
	for _, id := range orphans {
		arguments = append(arguments, id)
	}
	if err := dropScript.Run(ctx, c.Redis, []string{key}, arguments...).Err(); err != nil && !isNil(err) {
		return err
	}
	return nil
}
