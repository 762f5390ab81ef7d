package queue

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
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
	answer, err := texts(createScript.Run(ctx, c.Redis, keysOf(j.Installation, j.ID)[:2], arguments...).Result())
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

const (
	pageSize  = 20
	maxPage   = 100
	maxLooked = 2_000 // records that one call reads to find a state
)

// List is a page of an installation's jobs, newest first. With a state, a page can be short though more follow: Next says so.
func (c *Client) List(ctx context.Context, installation string, options job.ListOptions) (job.List, error) {
	limit := options.Limit
	if limit <= 0 {
		limit = pageSize
	}
	limit = min(limit, maxPage)
	score, after, err := parseCursor(options.Cursor)
	if err != nil {
		return job.List{}, err
	}
	var page job.List
	for looked := 0; looked < maxLooked; {
		// Jobs of one millisecond are ordered by id, so a page may begin in the middle of them.
		members, err := c.Redis.ZRangeArgsWithScores(ctx, redis.ZRangeArgs{
			Key: indexKey(installation), Start: score, Stop: "-inf", ByScore: true, Rev: true, Count: maxPage + 1,
		}).Result()
		if err != nil {
			return job.List{}, unavailable(err, "list jobs")
		}
		members = following(members, score, after)
		if len(members) == 0 {
			return page, nil
		}
		records, err := c.readAll(ctx, installation, members)
		if err != nil {
			return job.List{}, err
		}
		for i, member := range members {
			looked++
			score, after = strconv.FormatInt(int64(member.Score), 10), member.Member.(string)
			if len(records[i]) > 0 && (options.State == "" || records[i]["state"] == string(options.State)) {
				page.Jobs = append(page.Jobs, records[i].status())
			}
			if len(page.Jobs) == limit {
				page.Next = score + "_" + after
				return page, nil
			}
		}
	}
	page.Next = score + "_" + after
	return page, nil
}

// parseCursor splits List.Next into the score and the id that the page before ended with.
func parseCursor(cursor string) (score, after string, err error) {
	if cursor == "" {
		return "+inf", "", nil
	}
	score, after, found := strings.Cut(cursor, "_")
	if _, err := strconv.ParseInt(score, 10, 64); err != nil || !found {
		return "", "", fault.Newf(fault.Invalid, "cursor: %.80q is none; take it from the page before, or leave it out", cursor)
	}
	return score, after, nil
}

// following drops what the page before has shown: members of its last score up to its last id (ids descend within a score).
func following(members []redis.Z, score, after string) []redis.Z {
	for len(members) > 0 && after != "" && strconv.FormatInt(int64(members[0].Score), 10) == score && members[0].Member.(string) >= after {
		members = members[1:]
	}
	return members
}

// readAll reads records in one round trip, and forgets the ids of those that are gone.
func (c *Client) readAll(ctx context.Context, installation string, members []redis.Z) ([]record, error) {
	pipeline := c.Redis.Pipeline()
	answers := make([]*redis.MapStringStringCmd, len(members))
	for i, member := range members {
		answers[i] = pipeline.HGetAll(ctx, recordKey(installation, member.Member.(string)))
	}
	if _, err := pipeline.Exec(ctx); err != nil {
		return nil, unavailable(err, "list jobs")
	}
	records := make([]record, len(members))
	for i, answer := range answers {
		records[i] = answer.Val()
		if len(records[i]) == 0 {
			c.Redis.ZRem(ctx, indexKey(installation), members[i].Member) // a page without it is right already
		}
	}
	return records, nil
}

// Cancel ends a job that waits and asks a running one to stop; the status it returns may still be running. A job that has
// ended is a Conflict.
func (c *Client) Cancel(ctx context.Context, installation, id string) (job.Status, error) {
	failure := failureText(fault.Canceled, "the job was canceled before it ran")
	answer, err := texts(cancelScript.Run(ctx, c.Redis, keysOf(installation, id), c.Now().UnixMilli(), c.Retention.Milliseconds(), id, failure).Result())
	if err != nil {
		return job.Status{}, unavailable(err, "cancel a job")
	}
	switch verdict := answer[0]; verdict {
	case "unknown":
		return c.Get(ctx, installation, id)
	case "asked":
		if err := c.Redis.Publish(ctx, cancelChannel, installation+" "+id).Err(); err != nil {
			return job.Status{}, unavailable(err, "cancel a job")
		}
	case "canceled now":
		generation, _ := strconv.Atoi(answer[1]) // the script wrote it
		// Archived, not deleted: a retry needs the payload. A task that began meanwhile finds its job ended.
		if err := c.inspector.ArchiveTask(answer[2], taskID(id, generation)); err != nil {
			c.Logger.DebugContext(ctx, "a canceled job's task could not be archived; it ends when it is taken up", "error", err.Error())
		}
	default:
		return job.Status{}, fault.Newf(fault.Conflict, "the job has ended already, as %s", verdict)
	}
	return c.Get(ctx, installation, id)
}

// Retry runs a job again that ended without success, with the actor's current token. The new run is queued before the old one
// is forgotten, and under a generation of its own, so that a crash in between loses nothing and runs nothing twice.
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
	generation := found.number("generation")
	old, err := c.inspector.GetTaskInfo(found["class"], taskID(id, generation))
	switch {
	case errors.Is(err, asynq.ErrTaskNotFound), errors.Is(err, asynq.ErrQueueNotFound):
		return job.Status{}, fault.Newf(fault.NotFound, "what the job was to do is not kept any more; submit it anew")
	case err != nil:
		return job.Status{}, unavailable(err, "retry a job")
	}
	again, err := job.Unmarshal(old.Payload, c.Keyring)
	if err != nil {
		return job.Status{}, err
	}
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
	if err := c.inspector.DeleteTask(found["class"], taskID(id, generation)); err != nil {
		c.Logger.DebugContext(ctx, "a retried job's old task stays in the archive", "error", err.Error())
	}
	return c.Get(ctx, installation, id)
}

// Wake runs the installation's jobs that wait for a token, oldest first, and returns how many.
func (c *Client) Wake(ctx context.Context, installation string) (int, error) {
	ids, err := c.Redis.ZRange(ctx, waitingKey(installation), 0, -1).Result()
	if err != nil {
		return 0, unavailable(err, "wake waiting jobs")
	}
	woken := 0
	for _, id := range ids {
		found, err := read(ctx, c.Redis, installation, id)
		if err == nil && found["state"] == string(job.Waiting) {
			err = c.inspector.RunTask(found["class"], taskID(id, found.number("generation")))
		}
		switch {
		case err == nil:
			woken++
		case fault.KindOf(err) == fault.Unavailable:
			return woken, err
		default:
			c.Logger.WarnContext(ctx, "a waiting job could not be woken; it wakes by itself at the end of its wait", "job", id, "error", err.Error())
		}
	}
	return woken, nil
}

// Depth is how full a queue is.
type Depth struct {
	Queue                                       string
	Pending, Active, Scheduled, Retry, Archived int
	Latency                                     time.Duration // age of the oldest pending task
}

// Depths are all queues'; one that nobody has used yet is empty.
func (c *Client) Depths(_ context.Context) ([]Depth, error) {
	var depths []Depth
	for name := range classes() {
		info, err := c.inspector.GetQueueInfo(name)
		switch {
		case errors.Is(err, asynq.ErrQueueNotFound) || err != nil && strings.Contains(err.Error(), "NOT_FOUND"):
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
