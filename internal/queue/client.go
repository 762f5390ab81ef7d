package queue

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/pipeline"
)

// Client queues jobs and looks after them. It may be used concurrently. It owns nothing that must be closed: Redis stays the
// caller's.
type Client struct {
	Options
	grouped   *pipeline.Client
	tasks     *asynq.Client
	inspector *asynq.Inspector
	full      fullness
	probe     probe
}

// NewClient makes a Client.
func NewClient(options Options) *Client {
	options.setDefaults()
	grouped := pipeline.New(options.Redis, pipeline.Options{Most: options.Group})
	return &Client{
		Options: options, grouped: grouped, tasks: asynq.NewClientFromRedisClient(grouped),
		inspector: asynq.NewInspectorFromRedisClient(options.Redis),
	}
}

// Instance names the Redis servers that answer, by the ids that each gives itself at its start; empty where they give none.
func (c *Client) Instance(ctx context.Context) (string, error) {
	cluster, ok := c.Redis.(*redis.ClusterClient)
	if !ok {
		return instanceOf(ctx, c.Redis)
	}
	var mutex sync.Mutex
	var all []string
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		one, err := instanceOf(ctx, node)
		mutex.Lock()
		defer mutex.Unlock()
		all = append(all, one)
		return err
	})
	if err != nil {
		return "", unavailable(err, "redis")
	}
	slices.Sort(all)
	return strings.Join(all, " "), nil
}

// Renew names the queues again, for a Redis that has lost their names or is another than before: asynq's client names each queue once in
// its life, and asynq's inspector finds no queue that is not named.
func (c *Client) Renew(ctx context.Context) error {
	var names []any
	for name := range classes() {
		names = append(names, name)
	}
	if err := c.Redis.SAdd(ctx, "asynq:queues", names...).Err(); err != nil {
		return unavailable(err, "redis")
	}
	return nil
}

func instanceOf(ctx context.Context, node redis.Cmdable) (string, error) {
	info, err := node.Info(ctx, "server").Result()
	if answer := redis.Error(nil); errors.As(err, &answer) { // one that does not say, as the sandbox's, or that may not
		return "", nil
	}
	if err != nil {
		return "", unavailable(err, "redis")
	}
	_, rest, _ := strings.Cut(info, "run_id:")
	id, _, _ := strings.Cut(rest, "\r\n")
	return id, nil
}

// Get is a job of the installation, or a NotFound fault.
func (c *Client) Get(ctx context.Context, installation, id string) (job.Status, error) {
	found, err := read(ctx, c.Redis, installation, id)
	if err != nil {
		return job.Status{}, err
	}
	return found.status(), nil
}

// GetAll are several jobs of the installation, the zero Status for one that is not there.
func (c *Client) GetAll(ctx context.Context, installation string, ids []string) ([]job.Status, error) {
	all := make([]job.Status, 0, len(ids))
	for page := range slices.Chunk(ids, eachPage) {
		pipeline := c.Redis.Pipeline()
		answers := make([]*redis.MapStringStringCmd, len(page))
		for i, id := range page {
			answers[i] = pipeline.HGetAll(ctx, keyspace.Installation(installation).Job(id))
		}
		if _, err := pipeline.Exec(ctx); err != nil {
			return nil, unavailable(err, "look up jobs")
		}
		for _, answer := range answers {
			if found := record(answer.Val()); len(found) > 0 {
				all = append(all, found.status())
			} else {
				all = append(all, job.Status{})
			}
		}
	}
	return all, nil
}

// Cancel ends a job that does not run, and asks a running one to stop; the status it returns may still be running. A job that
// has ended is a Conflict.
func (c *Client) Cancel(ctx context.Context, installation, id string) (job.Status, error) {
	return c.cancel(ctx, installation, id, false)
}

// CancelWaiting ends a job that does not run, and leaves one that does alone.
func (c *Client) CancelWaiting(ctx context.Context, installation, id string) (job.Status, error) {
	return c.cancel(ctx, installation, id, true)
}

func (c *Client) cancel(ctx context.Context, installation, id string, leaveRunning bool) (job.Status, error) {
	found, err := read(ctx, c.Redis, installation, id)
	if err != nil {
		return job.Status{}, err
	}
	payload, err := c.payload(found)
	if err != nil {
		return job.Status{}, err
	}
	failure := failureText(fault.Canceled, "the job was canceled before it ran")
	class := job.Class(found["class"])
	keys := []string{
		keyspace.Installation(installation).Job(id), keyspace.Installation(installation).Waiting(), keyspace.Installation(installation).Payload(id), keyspace.Installation(installation).Slots(string(class)), keyspace.Installation(installation).Parked(string(class)),
	}
	answer, err := texts(cancelScript.Run(ctx, c.Redis, keys, c.Now().UnixMilli(), c.retention(class).Milliseconds(), id, failure, payload, c.Cap,
		flag(leaveRunning)).Result())
	if err != nil {
		return job.Status{}, unavailable(err, "cancel a job")
	}
	switch verdict := answer[0]; verdict {
	case "unknown", "left":
	case "asked":
		// A worker that does not hear it looks into the record from time to time.
		if err := c.Redis.Publish(ctx, keyspace.CancelChannel, cancelMessage(installation, id, answer[1])).Err(); err != nil {
			return job.Status{}, unavailable(err, "cancel a job")
		}
	case "ended":
		generation, _ := strconv.Atoi(answer[1]) // the script wrote it
		// A task that a worker has taken up meanwhile, and one that cannot be deleted now, finds its job ended.
		if err := c.inspector.DeleteTask(answer[2], taskID(id, generation)); err != nil && !isGone(err) {
			c.Logger.DebugContext(ctx, "a canceled job's task could not be deleted; it ends when it is taken up", slog.String("error", err.Error()))
		}
		if err := c.run(ctx, installation, class, answer[3:]); err != nil {
			return job.Status{}, err
		}
	default:
		return job.Status{}, fault.Newf(fault.Conflict, "the job has ended already, as %s", verdict)
	}
	return c.Get(ctx, installation, id)
}

// flag is how a script reads yes and no.
func flag(set bool) string {
	if set {
		return "1"
	}
	return ""
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

// Depths are all queues', by name; one that nobody has used yet is empty. They are counted without asynq's GetQueueInfo, which fails for a
// queue in which a single task is damaged, and measures the memory of tasks each time.
func (c *Client) Depths(ctx context.Context) ([]Depth, error) {
	names := slices.Sorted(maps.Keys(classes()))
	pipeline := c.Redis.Pipeline()
	type counts struct {
		pending, active, scheduled, retry, archived *redis.IntCmd
		oldest                                      *redis.StringCmd
	}
	asked := make([]counts, len(names))
	for i, name := range names {
		asked[i] = counts{
			pipeline.LLen(ctx, listKey(name, "pending")), pipeline.LLen(ctx, listKey(name, "active")), pipeline.ZCard(ctx, listKey(name, "scheduled")),
			pipeline.ZCard(ctx, listKey(name, "retry")), pipeline.ZCard(ctx, listKey(name, "archived")), pipeline.LIndex(ctx, listKey(name, "pending"), -1),
		}
	}
	if _, err := pipeline.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, unavailable(err, "look at the queues")
	}
	depths := make([]Depth, len(names))
	for i, name := range names {
		each := asked[i]
		depths[i] = Depth{
			Queue: name, Pending: int(each.pending.Val()), Active: int(each.active.Val()), Scheduled: int(each.scheduled.Val()),
			Retry: int(each.retry.Val()), Archived: int(each.archived.Val()),
		}
		if each.oldest.Val() == "" {
			continue
		}
		since, err := c.Redis.HGet(ctx, taskPrefix(name)+each.oldest.Val(), "pending_since").Int64() // nanoseconds
		switch {
		case err == nil:
			depths[i].Latency = max(c.Now().Sub(time.Unix(0, since)), 0)
		case !errors.Is(err, redis.Nil): // it is being taken just now, or gone
			return nil, unavailable(err, "look at the queues")
		}
	}
	return depths, nil
}
