package queue

import (
	"context"
	"log/slog"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// cancelAllScript ends jobs that do not run, and asks running ones to stop. Nothing of them is kept for a retry.
//
// KEYS: waiting, then slots and parked of each class. ARGV: prefix of records, now, life in ms after the end, failure, then ids.
// Returns {how many had not ended, then for each: "ended" or "asked", id, generation, class}.
var cancelAllScript = redis.NewScript(isEnded + batch.Ledger + `
local answer = {0}
for i = 5, #ARGV do
  local id = ARGV[i]
  local record = ARGV[1] .. id
  local have = redis.call('HMGET', record, 'state', 'generation', 'class')
  local running = have[1] == 'running'
  if have[1] and not isEnded(have[1]) then
    redis.call('HSET', record, 'cancel', have[2])
    if not running then
      redis.call('HSET', record, 'state', 'canceled', 'ended', ARGV[2], 'failure', ARGV[4])
      redis.call('HDEL', record, 'next')
      redis.call('PEXPIRE', record, ARGV[3])
      ledger(record, 'canceled', ARGV[2])
    end
    answer[1] = answer[1] + 1
    for _, field in ipairs({running and 'asked' or 'ended', id, have[2], have[3]}) do answer[#answer + 1] = field end
  end
  if not running then
    for _, key in ipairs(KEYS) do redis.call('ZREM', key, id) end
  end
end
return answer`)

// canceledJob is one that CancelAll ended or asked to stop.
type canceledJob struct {
	id, generation string
	class          job.Class
	running        bool
}

// CancelAll cancels every job of an installation that has not ended, and returns how many there were: those that wait end at once,
// those that run are asked to stop. None can be retried. It is for an app that was removed, so that no new job comes meanwhile.
func (c *Client) CancelAll(ctx context.Context, installation string) (int, error) {
	total := 0
	err := c.eachJob(ctx, installation, func(ids []string) error {
		canceled, err := c.cancelSome(ctx, installation, ids)
		if err != nil {
			return err
		}
		total += len(canceled)
		return c.tellCanceled(ctx, installation, canceled)
	})
	return total, err
}

func (c *Client) cancelSome(ctx context.Context, installation string, ids []string) ([]canceledJob, error) {
	keys := []string{keyspace.Installation(installation).Waiting()}
	for class := range classes() {
		keys = append(keys, keyspace.Installation(installation).Slots(string(job.Class(class))), keyspace.Installation(installation).Parked(string(job.Class(class))))
	}
	arguments := []any{
		keyspace.Installation(installation).Job(""), c.Now().UnixMilli(), c.Retention.Milliseconds(),
		failureText(fault.Canceled, "the app was removed from the workspace before the job ran"),
	}
	for _, id := range ids {
		arguments = append(arguments, id)
	}
	answer, err := texts(cancelAllScript.Run(ctx, c.Redis, keys, arguments...).Result())
	if err != nil {
		return nil, unavailable(err, "cancel the jobs")
	}
	canceled := make([]canceledJob, 0, len(answer)/4)
	for fields := answer[1:]; len(fields) >= 4; fields = fields[4:] {
		canceled = append(canceled, canceledJob{fields[1], fields[2], job.Class(fields[3]), fields[0] == "asked"})
	}
	return canceled, nil
}

// deleteFlights is how many tasks are deleted at the same time.
const deleteFlights = 8

// tellCanceled tells workers of the jobs that run, and deletes the tasks of the others. A task that stays finds its job ended.
func (c *Client) tellCanceled(ctx context.Context, installation string, canceled []canceledJob) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deleteFlights)
	for _, each := range canceled {
		group.Go(func() error {
			if each.running {
				err := c.Redis.Publish(ctx, keyspace.CancelChannel, cancelMessage(installation, each.id, each.generation)).Err()
				if err != nil {
					return unavailable(err, "cancel the jobs")
				}
				return nil
			}
			generation, _ := strconv.Atoi(each.generation) // the script read it
			if err := c.inspector.DeleteTask(string(each.class), taskID(each.id, generation)); err != nil && !isGone(err) {
				c.Logger.DebugContext(ctx, "a canceled job's task could not be deleted; it ends when it is taken up", slog.String("error", err.Error()))
			}
			return ctx.Err()
		})
	}
	return group.Wait()
}

// EraseAll deletes what asynq holds of an installation's jobs, of every generation. The records, which say what there is, are deleted
// after it with the installation's other keys.
func (c *Client) EraseAll(ctx context.Context, installation string) error {
	return c.eachJob(ctx, installation, func(ids []string) error {
		for _, id := range ids {
			found, err := c.Redis.HMGet(ctx, keyspace.Installation(installation).Job(id), "class", "generation").Result()
			if err != nil {
				return unavailable(err, "erase the jobs")
			}
			class, _ := found[0].(string)
			newest, _ := found[1].(string)
			last, _ := strconv.Atoi(newest) // without a record there is one generation at most that nobody knows of
			for generation := range last + 1 {
				if err := c.eraseTask(class, taskID(id, generation)); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (c *Client) eraseTask(class, task string) error {
	queues := []string{class}
	if class == "" {
		queues = queues[:0]
		for name := range classes() {
			queues = append(queues, name)
		}
	}
	for _, queue := range queues {
		err := c.inspector.DeleteTask(queue, task)
		// A task that runs is not deleted; its record is gone then, and it ends when it looks.
		if err != nil && !isGone(err) && !strings.Contains(err.Error(), "active state") {
			return unavailable(err, "erase the jobs")
		}
	}
	return nil
}

// eachPage is how many jobs eachJob gives at a time: a script holds up everybody else.
const eachPage = 100

// eachJob gives the ids of all jobs that are known of an installation, some twice: those that are parked, wait, or have a slot, which
// need not be in the index, and those in the index.
func (c *Client) eachJob(ctx context.Context, installation string, do func(ids []string) error) error {
	keys := []string{keyspace.Installation(installation).Waiting(), keyspace.Installation(installation).Jobs()}
	for class := range classes() {
		keys = append(keys, keyspace.Installation(installation).Slots(string(job.Class(class))), keyspace.Installation(installation).Parked(string(job.Class(class))))
	}
	for _, key := range keys {
		ids, err := c.Redis.ZRange(ctx, key, 0, -1).Result()
		if err != nil {
			return unavailable(err, "look for the jobs")
		}
		for len(ids) > 0 {
			page := ids[:min(len(ids), eachPage)]
			if err := do(page); err != nil {
				return err
			}
			ids = ids[len(page):]
		}
	}
	return nil
}
