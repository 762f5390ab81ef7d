package queue

// Version 0.9 deletes this file: until then a Redis may hold tasks of a version whose tasks were the jobs, and receivers of that version may go
// on writing them. They lie in queues of other names, which this version does not serve. Each is deleted once the job stands in its record.

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/job"
)

const adoptPage = 100

// oldLists are where asynq keeps tasks that such a version has left, and how its inspector lists them. Those that are active belong to a worker of
// that version, unless asynq has taken it for dead.
func (c *Client) oldLists() map[string]func(queue string, options ...asynq.ListOption) ([]*asynq.TaskInfo, error) {
	return map[string]func(queue string, options ...asynq.ListOption) ([]*asynq.TaskInfo, error){
		"pending": c.inspector.ListPendingTasks, "scheduled": c.inspector.ListScheduledTasks, "retry": c.inspector.ListRetryTasks,
		"archived": c.inspector.ListArchivedTasks, "active": c.inspector.ListActiveTasks,
	}
}

// Adopt takes over the jobs of an older version's tasks.
func (c *Client) Adopt(ctx context.Context) error {
	for _, class := range job.Classes() {
		old := string(class)
		there, err := c.oldTasks(ctx, old)
		if err != nil {
			return unavailable(err, "take over jobs")
		}
		if there == 0 {
			continue
		}
		// asynq's inspector finds no queue that is not named.
		if err := c.Redis.SAdd(ctx, "asynq:queues", old).Err(); err != nil {
			return unavailable(err, "take over jobs")
		}
		for list, tasks := range c.oldLists() {
			if err := c.adoptList(ctx, old, list, tasks); err != nil {
				return err
			}
		}
	}
	return nil
}

// oldTasks is how many tasks there are in a queue.
func (c *Client) oldTasks(ctx context.Context, queue string) (int64, error) {
	pipeline := c.Redis.Pipeline()
	sizes := []*redis.IntCmd{pipeline.LLen(ctx, listKey(queue, "pending")), pipeline.LLen(ctx, listKey(queue, "active"))}
	for _, list := range []string{"scheduled", "retry", "archived"} {
		sizes = append(sizes, pipeline.ZCard(ctx, listKey(queue, list)))
	}
	if _, err := pipeline.Exec(ctx); err != nil {
		return 0, err
	}
	total := int64(0)
	for _, size := range sizes {
		total += size.Val()
	}
	return total, nil
}

// adoptList takes over a list's tasks, page by page. Those that stay are passed over.
func (c *Client) adoptList(
	ctx context.Context, queue, list string, tasks func(string, ...asynq.ListOption) ([]*asynq.TaskInfo, error),
) error {
	if list != "archived" { // what is damaged there does no harm
		if err := c.dropOrphans(ctx, queue, list); err != nil && list != "active" {
			return unavailable(err, "take over jobs")
		}
	}
	for page := 1; ; {
		found, err := tasks(queue, asynq.PageSize(adoptPage), asynq.Page(page))
		if err != nil {
			return unavailable(err, "take over jobs")
		}
		adopted := 0
		for _, info := range found {
			gone, err := c.adoptTask(ctx, queue, info)
			if err != nil {
				return err
			}
			if gone {
				adopted++
			}
		}
		switch {
		case len(found) < adoptPage:
			return nil
		case adopted == 0:
			page++
		}
	}
}

// adoptTask reports whether the task is gone.
func (c *Client) adoptTask(ctx context.Context, queue string, info *asynq.TaskInfo) (bool, error) {
	if info.State == asynq.TaskStateActive && !info.IsOrphaned {
		return false, nil
	}
	meta, err := job.ReadMeta(info.Payload)
	if err != nil || meta.ID == "" || meta.Installation == "" {
		c.Logger.ErrorContext(ctx, "a task of an older version cannot be read and is put into quarantine", slog.String("queue", queue), slog.String("task", info.ID))
		if err := c.putAside(ctx, queue+" "+info.ID+" "); err != nil {
			return false, unavailable(err, "take over jobs")
		}
		return c.deleteOld(ctx, queue, info)
	}
	goesOn, err := c.Ledger.Adopt(ctx, meta, info.Payload)
	if err != nil {
		return false, err
	}
	deleted, err := c.deleteOld(ctx, queue, info)
	if err != nil || !goesOn {
		return deleted, err
	}
	return deleted, c.Adopted(ctx, meta, deleted)
}

// disownScript removes an active task that is nobody's any more.
//
// KEYS: active, lease, task. ARGV: id, now in Unix seconds. Returns 1, or 0 where a worker has it again.
var disownScript = redis.NewScript(`
local expires = redis.call('ZSCORE', KEYS[2], ARGV[1])
if expires and tonumber(expires) > tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
return redis.call('LREM', KEYS[1], 0, ARGV[1])`)

// deleteOld reports whether the task is gone; not so where a worker of its version has taken it up meanwhile.
func (c *Client) deleteOld(ctx context.Context, queue string, info *asynq.TaskInfo) (bool, error) {
	if info.State == asynq.TaskStateActive {
		keys := append(activeKeys(queue), taskPrefix(queue)+info.ID)
		removed, err := disownScript.Run(ctx, c.Redis, keys, info.ID, time.Now().Unix()).Int()
		return removed > 0, unavailable(err, "take over jobs")
	}
	err := c.inspector.DeleteTask(queue, info.ID)
	if err == nil || isGone(err) {
		return true, nil
	}
	found, lookErr := c.inspector.GetTaskInfo(queue, info.ID)
	switch {
	case isGone(lookErr):
		return true, nil
	case lookErr == nil && found.State == asynq.TaskStateActive:
		return false, nil
	}
	return false, unavailable(errors.Join(err, lookErr), "take over jobs")
}
