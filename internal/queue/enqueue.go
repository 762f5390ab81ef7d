package queue

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// Enqueue queues a job once: the same id with the same digest gives the job that is there, and created is false. The same id
// with another digest is a Conflict; for an event it is the same event, whatever its rule makes of it by now. After an Unavailable
// fault nobody knows whether the job is queued; the same call again finds out and completes what is missing.
//
// Record and task go to Redis in one round trip, shared with calls of the same moment. The task goes whatever the record says: one
// too many finds its job ended, or done by another, and one whose record was lost makes it anew.
func (c *Client) Enqueue(ctx context.Context, j job.Job) (status job.Status, created bool, err error) {
	parked := c.Cap > 0 && c.full.has(j.Installation, j.Class)
	var options []asynq.Option
	if parked {
		options = append(options, asynq.ProcessIn(parkedLook))
	}
	task, err := newTask(j, c.Keyring, options...)
	if err != nil {
		return job.Status{}, false, err
	}
	keys, arguments := c.creation(j, parked)
	attachedCtx, record := c.grouped.Attach(ctx, createScript, keys, arguments...)
	_, taskErr := c.tasks.EnqueueContext(attachedCtx, task)
	placed := taskErr == nil
	if errors.Is(taskErr, asynq.ErrTaskIDConflict) {
		taskErr = nil
	}
	answer, err := texts(record.Run(ctx, taskErr))
	if err = errors.Join(err, taskErr); err != nil {
		return job.Status{}, false, unavailable(err, "queue a job")
	}
	switch answer[0] {
	case "2":
		return job.Status{}, false, fault.Newf(fault.Denied, "the app was removed from the workspace; install it again")
	case "0":
		if answer[1] != j.Digest && j.Event == "" {
			return job.Status{}, false, fault.Newf(fault.Conflict, "this Idempotency-Key was used for another request; use a new key, or send the same body")
		}
		if parked && placed {
			// The record was made by a call that did not get as far as the task, and may hold a slot: nobody else would run this one.
			if err := c.run(ctx, j.Installation, j.Class, []string{taskID(j.ID, j.Generation)}); err != nil {
				return job.Status{}, false, err
			}
		}
		status, err := c.Get(ctx, j.Installation, j.ID)
		return status, false, err
	}
	c.forgetReplaced(ctx, answer[3], answer[4])
	if err := c.admit(ctx, j, parked, answer[1] == "1", answer[2] == "1"); err != nil {
		return job.Status{}, false, err
	}
	return j.QueuedStatus(), true, nil
}

// HaveTasks reports of each job whether the task of its first run is there: queued, under way, or ended and not forgotten yet. Record and
// task are not one step where Redis has forgotten its scripts, or is a cluster; a record whose task is missing waits for ever until the
// job is enqueued again.
func (c *Client) HaveTasks(ctx context.Context, class job.Class, ids []string) ([]bool, error) {
	pipeline := c.Redis.Pipeline()
	answers := make([]*redis.BoolCmd, len(ids))
	for i, id := range ids {
		answers[i] = pipeline.HExists(ctx, taskPrefix(string(class))+taskID(id, 0), "msg")
	}
	if _, err := pipeline.Exec(ctx); err != nil && len(ids) > 0 {
		return nil, unavailable(err, "look for tasks")
	}
	there := make([]bool, len(ids))
	for i, answer := range answers {
		there[i] = answer.Val()
	}
	return there, nil
}

// creation is what createScript takes.
func (c *Client) creation(j job.Job, parked bool) (keys []string, arguments []any) {
	now := c.Now()
	newest := keyspace.Installation(j.Installation).Job(j.ID) // not looked at
	happened, failure := "", ""
	if j.Coalesce != "" {
		newest, happened = keyspace.Installation(j.Installation).Newest(j.Coalesce), strconv.FormatInt(j.HappenedAt.UnixMilli(), 10)
		failure = failureText(fault.Canceled, "a newer event asked for the same before the job began")
	}
	oldest := ""
	if now.UnixMilli()%trimEvery == 0 {
		oldest = strconv.FormatInt(now.Add(-liveLife-c.Retention).UnixMilli(), 10)
	}
	keys = []string{
		keyspace.Installation(j.Installation).Job(j.ID), keyspace.Installation(j.Installation).Jobs(), keyspace.Installation(j.Installation).Slots(string(j.Class)), keyspace.Installation(j.Installation).Parked(string(j.Class)),
		keyspace.Installation(j.Installation).Gone(), keyspace.Installation(j.Installation).Waiting(), newest,
	}
	waits := "0"
	if parked {
		waits = "1"
	}
	arguments = append([]any{
		liveLife.Milliseconds(), j.ID, j.CreatedAt.UnixMilli(), oldest, maxIndexed, c.Cap, waits, now.UnixMilli(), happened,
		c.retention(j.Class).Milliseconds(), failure,
	}, fieldsOf(j, now)...)
	return keys, arguments
}

// trimEvery is how rarely the index of an installation's jobs is cut back when a job is added.
const trimEvery = 16

// admit remembers whether the installation has slots left, and runs a task that was put off although it has one.
func (c *Client) admit(ctx context.Context, j job.Job, parked, full, free bool) error {
	if c.Cap == 0 {
		return nil
	}
	c.full.set(j.Installation, j.Class, full)
	switch {
	case free:
		return c.run(ctx, j.Installation, j.Class, []string{taskID(j.ID, j.Generation)})
	case parked && c.full.tell(j.Installation, c.Now()):
		if err := c.Redis.SAdd(ctx, keyspace.Parked, j.Installation).Err(); err != nil {
			return unavailable(err, "queue a job")
		}
	}
	return nil
}

// forgetReplaced deletes the task of a job that was replaced, so that a flood of events on one branch does not fill the queue with tasks
// that find nothing to do. One that is left is harmless.
func (c *Client) forgetReplaced(ctx context.Context, class, task string) {
	if task == "" {
		return
	}
	if err := c.inspector.DeleteTask(class, task); err != nil && !isGone(err) {
		c.Logger.DebugContext(ctx, "a replaced job's task could not be deleted; it ends when it is taken up", slog.String("error", err.Error()))
	}
}

// fullness is what a process knows of installations whose slots are taken, from the last answer. It is a guess: createScript judges.
type fullness struct {
	mutex sync.Mutex
	full  map[string]struct{}
	told  map[string]time.Time // when keyspace.Parked was told of an installation
}

const (
	maxFull   = 10_000
	tellAgain = 10 * time.Second
)

func (f *fullness) has(installation string, class job.Class) bool {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	_, found := f.full[string(class)+installation]
	return found
}

func (f *fullness) set(installation string, class job.Class, full bool) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if !full {
		delete(f.full, string(class)+installation)
		return
	}
	if f.full == nil || len(f.full) >= maxFull {
		f.full = map[string]struct{}{}
	}
	f.full[string(class)+installation] = struct{}{}
}

// tell reports whether keyspace.Parked is to be told now.
func (f *fullness) tell(installation string, now time.Time) bool {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if last, found := f.told[installation]; found && now.Sub(last) < tellAgain {
		return false
	}
	if f.told == nil || len(f.told) >= maxFull {
		f.told = map[string]time.Time{}
	}
	f.told[installation] = now
	return true
}
