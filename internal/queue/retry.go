package queue

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// Retry runs a job again that ended without success, as the given actor and with that actor's current token.
//
// Whatever dies in between, nothing is lost and nothing runs twice: what the job was lies beside its record from the very step
// that ended it until a run succeeds. The new run is a task of its own generation, queued before the record is opened again; a
// worker that takes it up earlier opens the record itself, and the same call again finds the task there. The old task goes last.
func (c *Client) Retry(ctx context.Context, installation, id string, actor forge.Actor) (job.Status, error) {
	found, err := read(ctx, c.Redis, installation, id)
	if err != nil {
		return job.Status{}, err
	}
	switch state := job.State(found["state"]); {
	case state == job.Succeeded:
		return job.Status{}, fault.Newf(fault.Conflict, "the job has succeeded; there is nothing to retry")
	case !state.Ended():
		return job.Status{}, fault.Newf(fault.Conflict, "the job is %s; only one that has ended can be retried", state)
	}
	payload, err := c.kept(ctx, installation, found)
	if err != nil {
		return job.Status{}, err
	}
	again, err := job.Unmarshal(payload, c.Keyring)
	if err != nil {
		return job.Status{}, err
	}
	generation := found.number("generation")
	again.Actor, again.Generation = actor, generation+1
	task, err := newTask(again, c.Keyring)
	if err != nil {
		return job.Status{}, err
	}
	if _, err := c.tasks.EnqueueContext(ctx, task); err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return job.Status{}, unavailable(err, "retry a job")
	}
	err = reopenScript.Run(ctx, c.Redis, []string{recordKey(installation, id)}, again.Generation, c.Now().UnixMilli(), liveLife.Milliseconds(), string(actor.Kind)).Err()
	if err != nil {
		return job.Status{}, unavailable(err, "retry a job")
	}
	if err := c.inspector.DeleteTask(found["class"], taskID(id, generation)); err != nil && !isGone(err) {
		c.Logger.DebugContext(ctx, "a retried job's old task stays where it is", slog.String("error", err.Error()))
	}
	return c.Get(ctx, installation, id)
}

// kept is what a job was that ended without success.
func (c *Client) kept(ctx context.Context, installation string, found record) ([]byte, error) {
	payload, err := c.Redis.Get(ctx, payloadKey(installation, found["id"])).Bytes()
	if errors.Is(err, redis.Nil) {
		payload, err = c.payload(found)
	}
	switch {
	case err != nil:
		return nil, unavailable(err, "retry a job")
	case payload == nil:
		return nil, fault.Newf(fault.NotFound, "what the job was to do is not kept any more; submit it anew")
	}
	return payload, nil
}

const (
	wakeWait  = 2 * time.Second // for tasks that are on their way into their wait
	wakePause = 20 * time.Millisecond
)

// Wake runs the installation's jobs that wait for a token, oldest first, and returns how many. A job that is about to wait just
// now runs again at once instead.
func (c *Client) Wake(ctx context.Context, installation string) (int, error) {
	pipeline := c.Redis.TxPipeline()
	pipeline.Incr(ctx, wakesKey(installation))
	pipeline.PExpire(ctx, wakesKey(installation), wakesLife)
	waiting := pipeline.ZRangeWithScores(ctx, waitingKey(installation), 0, -1)
	if _, err := pipeline.Exec(ctx); err != nil {
		return 0, unavailable(err, "wake waiting jobs")
	}
	woken := 0
	giveUp := time.After(wakeWait)
	for left := waiting.Val(); len(left) > 0; {
		busy, n, err := c.wakeEach(ctx, installation, left)
		woken += n
		if err != nil || len(busy) == 0 {
			return woken, err
		}
		left = busy
		select {
		case <-giveUp:
			c.Logger.WarnContext(ctx, "waiting jobs could not be woken; they look for a token by themselves", slog.Int("count", len(left)))
			return woken, nil
		case <-ctx.Done():
			return woken, unavailable(ctx.Err(), "wake waiting jobs")
		case <-time.After(wakePause):
		}
	}
	return woken, nil
}

// wakeEach wakes what it can, and returns those whose record says waiting while their task is still on its way.
func (c *Client) wakeEach(ctx context.Context, installation string, waiting []redis.Z) (busy []redis.Z, woken int, err error) {
	records, err := c.readAll(ctx, installation, waiting)
	if err != nil {
		return nil, 0, err
	}
	for i, member := range waiting {
		id, found := member.Member.(string), records[i]
		if found["state"] == string(job.Waiting) {
			queue, task := found["class"], taskID(id, found.number("generation"))
			switch err := c.inspector.RunTask(queue, task); {
			case err == nil:
				woken++
			case isGone(err):
				c.Logger.WarnContext(ctx, "a waiting job has no task any more", slog.String("job", id))
				continue
			default:
				info, infoErr := c.inspector.GetTaskInfo(queue, task)
				if infoErr != nil && !isGone(infoErr) {
					return nil, woken, unavailable(err, "wake waiting jobs")
				}
				if infoErr != nil || info.State != asynq.TaskStatePending {
					busy = append(busy, member)
					continue
				}
			}
		}
		if err := wokenScript.Run(ctx, c.Redis, []string{recordKey(installation, id), waitingKey(installation)}, id, found["run"]).Err(); err != nil {
			return nil, woken, unavailable(err, "wake waiting jobs")
		}
	}
	return busy, woken, nil
}
