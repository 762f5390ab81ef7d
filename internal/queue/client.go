package queue

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// Client queues jobs and looks after them. It may be used concurrently. It owns nothing that must be closed: Redis stays the
// caller's.
type Client struct {
	Options
	tasks     *asynq.Client
	inspector *asynq.Inspector
}

// NewClient makes a Client.
func NewClient(options Options) *Client {
	options.setDefaults()
	return &Client{
		Options: options, tasks: asynq.NewClientFromRedisClient(options.Redis), inspector: asynq.NewInspectorFromRedisClient(options.Redis),
	}
}

// Ping reports whether Redis is there.
func (c *Client) Ping(ctx context.Context) error {
	if err := c.Redis.Ping(ctx).Err(); err != nil {
		return unavailable(err, "redis")
	}
	return nil
}

// Enqueue queues a job once: the same id with the same digest gives the job that is there, and created is false. The same id
// with another digest is a Conflict. After an Unavailable fault nobody knows whether the job is queued; the same call again
// finds out and completes what is missing.
func (c *Client) Enqueue(ctx context.Context, j job.Job) (status job.Status, created bool, err error) {
	task, err := newTask(j, c.Keyring)
	if err != nil {
		return job.Status{}, false, err
	}
	now := c.Now()
	arguments := append([]any{
		liveLife.Milliseconds(), j.ID, j.CreatedAt.UnixMilli(), now.Add(-liveLife - c.Retention).UnixMilli(), maxIndexed,
	}, fieldsOf(j, now)...)
	answer, err := texts(createScript.Run(ctx, c.Redis, []string{recordKey(j.Installation, j.ID), indexKey(j.Installation)}, arguments...).Result())
	if err != nil {
		return job.Status{}, false, unavailable(err, "queue a job")
	}
	if created = answer[0] == "1"; !created {
		if answer[1] != j.Digest {
			return job.Status{}, false, fault.Newf(fault.Conflict, "this Idempotency-Key was used for another request; use a new key, or send the same body")
		}
		if job.State(answer[2]).Ended() || answer[3] != strconv.Itoa(j.Generation) {
			status, err := c.Get(ctx, j.Installation, j.ID)
			return status, false, err
		}
	}
	// A record whose task is missing was left by a receiver that died between the two: this mends it.
	if _, err := c.tasks.EnqueueContext(ctx, task); err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return job.Status{}, false, unavailable(err, "queue a job")
	}
	if !created {
		status, err := c.Get(ctx, j.Installation, j.ID)
		return status, false, err
	}
	meta := j.MetaOf()
	return job.Status{
		ID: j.ID, State: job.Queued, Operation: meta.Operation, Repository: j.Repository.String(), Actor: j.Actor.Kind,
		Branch: meta.Branch, Ref: meta.Ref, CreatedAt: j.CreatedAt,
	}, true, nil
}

// Get is a job of the installation, or a NotFound fault.
func (c *Client) Get(ctx context.Context, installation, id string) (job.Status, error) {
	found, err := read(ctx, c.Redis, installation, id)
	if err != nil {
		return job.Status{}, err
	}
	return found.status(), nil
}

// Cancel ends a job that does not run, and asks a running one to stop; the status it returns may still be running. A job that
// has ended is a Conflict.
func (c *Client) Cancel(ctx context.Context, installation, id string) (job.Status, error) {
	found, err := read(ctx, c.Redis, installation, id)
	if err != nil {
		return job.Status{}, err
	}
	payload, err := c.payload(found)
	if err != nil {
		return job.Status{}, err
	}
	failure := failureText(fault.Canceled, "the job was canceled before it ran")
	keys := []string{recordKey(installation, id), waitingKey(installation), payloadKey(installation, id)}
	answer, err := texts(cancelScript.Run(ctx, c.Redis, keys, c.Now().UnixMilli(), c.Retention.Milliseconds(), id, failure, payload).Result())
	if err != nil {
		return job.Status{}, unavailable(err, "cancel a job")
	}
	switch verdict := answer[0]; verdict {
	case "unknown":
	case "asked":
		// A worker that does not hear it looks into the record from time to time.
		if err := c.Redis.Publish(ctx, cancelChannel, cancelMessage(installation, id, answer[1])).Err(); err != nil {
			return job.Status{}, unavailable(err, "cancel a job")
		}
	case "ended":
		generation, _ := strconv.Atoi(answer[1]) // the script wrote it
		// A task that a worker has taken up meanwhile, and one that cannot be deleted now, finds its job ended.
		if err := c.inspector.DeleteTask(answer[2], taskID(id, generation)); err != nil && !isGone(err) {
			c.Logger.DebugContext(ctx, "a canceled job's task could not be deleted; it ends when it is taken up", slog.String("error", err.Error()))
		}
	default:
		return job.Status{}, fault.Newf(fault.Conflict, "the job has ended already, as %s", verdict)
	}
	return c.Get(ctx, installation, id)
}

// payload is what a job's newest task holds, nil where it has none.
func (c *Client) payload(found record) ([]byte, error) {
	info, err := c.inspector.GetTaskInfo(found["class"], taskID(found["id"], found.number("generation")))
	switch {
	case isGone(err):
		return nil, nil
	case err != nil:
		return nil, unavailable(err, "look up a job's task")
	}
	return info.Payload, nil
}

// isGone reports that there is no such task.
func isGone(err error) bool {
	return errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound)
}

func cancelMessage(installation, id, generation string) string {
	return installation + " " + id + " " + generation
}

// Depth is how full a queue is.
type Depth struct {
	Queue                                       string
	Pending, Active, Scheduled, Retry, Archived int
	Latency                                     time.Duration // age of the oldest pending task
}

// Depths are all queues', by name; one that nobody has used yet is empty.
func (c *Client) Depths(_ context.Context) ([]Depth, error) {
	var depths []Depth
	for _, name := range slices.Sorted(maps.Keys(classes())) {
		info, err := c.inspector.GetQueueInfo(name)
		switch { // asynq exports no error for a queue that is not there yet
		case err != nil && strings.Contains(err.Error(), "NOT_FOUND"):
			depths = append(depths, Depth{Queue: name})
		case err != nil:
			return nil, unavailable(err, "look at the queues")
		default:
			depths = append(depths, Depth{
				Queue: name, Pending: info.Pending, Active: info.Active, Scheduled: info.Scheduled, Retry: info.Retry,
				Archived: info.Archived, Latency: info.Latency,
			})
		}
	}
	return depths, nil
}
