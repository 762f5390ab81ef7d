package queue

import (
	"context"
	"errors"
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
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/pipeline"
)

// Client queues jobs and steers them: each call changes the ledger and issues the tickets that follow from it. It may be used concurrently.
// It owns nothing that must be closed: Redis stays the caller's.
type Client struct {
	Options
	*ledger.Ledger
	tasks     *asynq.Client
	inspector *asynq.Inspector
	probe     probe

	repairing sync.Mutex
	looked    map[string]int // where in asynq's lists the next repair goes on; under repairing
}

// NewClient makes a Client.
func NewClient(options Options) *Client {
	options.setDefaults()
	grouped := pipeline.New(options.Redis, pipeline.Options{Most: options.Group})
	return &Client{
		Options: options, tasks: asynq.NewClientFromRedisClient(grouped), inspector: asynq.NewInspectorFromRedisClient(options.Redis),
		looked: map[string]int{},
		Ledger: ledger.New(ledger.Options{
			Redis: options.Redis, Scripts: grouped, Keyring: options.Keyring, Retention: options.Retention, Cap: options.Cap, Now: options.Now,
			Logger: options.Logger,
		}),
	}
}

// Enqueue queues a job once: the same id with the same digest gives the job that is there, and created is false. The same id
// with another digest is a Conflict; for an event it is the same event, whatever its rule makes of it by now. After an Unavailable
// fault nobody knows whether the job is queued; the same call again finds out.
func (c *Client) Enqueue(ctx context.Context, j job.Job) (status job.Status, created bool, err error) {
	made, err := c.Create(ctx, j)
	switch {
	case err != nil:
		return job.Status{}, false, err
	case made.New:
		c.issueLater(ctx, made.Tickets)
		return j.QueuedStatus(), true, nil
	case made.Digest != j.Digest && j.Event == "":
		return job.Status{}, false, fault.Newf(fault.Conflict, "this Idempotency-Key was used for another request; use a new key, or send the same body")
	}
	status, err = c.Get(ctx, j.Installation, j.ID)
	if err == nil && status.State == job.Queued { // the call that made it may have died before it issued the ticket
		c.issueLater(ctx, made.Tickets)
	}
	return status, false, err
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
	stopping, tickets, err := c.Ledger.Cancel(ctx, installation, id, leaveRunning)
	if err != nil {
		return job.Status{}, err
	}
	if stopping != nil {
		if err := c.tellStopping(ctx, installation, *stopping); err != nil {
			return job.Status{}, err
		}
	}
	c.issueLater(ctx, tickets)
	return c.Get(ctx, installation, id)
}

// tellStopping has the worker of a job stop at once. One that does not hear it reads it in the record when it renews its lease.
func (c *Client) tellStopping(ctx context.Context, installation string, stopping ledger.Stopping) error {
	message := cancelMessage(installation, stopping.Job, stopping.Generation)
	return unavailable(c.Redis.Publish(ctx, keyspace.CancelChannel, message).Err(), "cancel a job")
}

func cancelMessage(installation, id string, generation int) string {
	return installation + " " + id + " " + strconv.Itoa(generation)
}

// CancelAll cancels every job of an installation that has not ended, and returns how many there were: those that wait end at once,
// those that run are asked to stop. It is for an app that was removed, so that no new job comes meanwhile.
func (c *Client) CancelAll(ctx context.Context, installation string) (int, error) {
	return c.Ledger.CancelAll(ctx, installation, func(stopping ledger.Stopping) error { return c.tellStopping(ctx, installation, stopping) })
}

// Retry runs a job again that ended without success, for the same requester, as the same actor and with that actor's current token.
func (c *Client) Retry(ctx context.Context, installation, id string) (job.Status, error) {
	tickets, err := c.Ledger.Retry(ctx, installation, id)
	if err != nil {
		return job.Status{}, err
	}
	c.issueLater(ctx, tickets)
	return c.Get(ctx, installation, id)
}

// Wake runs the installation's jobs that wait for a token, oldest first and as many at once as the installation may have, and returns how
// many wait. The first of them are queued at once, the others soon. A job that is about to wait just now runs again at once instead.
func (c *Client) Wake(ctx context.Context, installation string) (int, error) {
	waiting, err := c.Ledger.Wake(ctx, installation)
	if err != nil || waiting == 0 {
		return waiting, err
	}
	found, err := c.Look(ctx, installation, nil, false)
	if err != nil {
		return waiting, err
	}
	c.issueLater(ctx, found.Tickets)
	return waiting, nil
}

// EraseAll deletes the tickets of an installation's jobs from asynq. The records, which say what there is, are deleted after it with the
// installation's other keys.
func (c *Client) EraseAll(ctx context.Context, installation string) error {
	return c.EachJob(ctx, installation, func(ids []string) error {
		statuses, err := c.GetAll(ctx, installation, ids)
		if err != nil {
			return err
		}
		for i, status := range statuses {
			if status.ID == "" {
				status.Ticket = ledger.Ticket{Job: ids[i]}.ID()
			}
			if err := c.eraseTickets(ctx, status); err != nil {
				return err
			}
		}
		return nil
	})
}

// maxErased is how many tickets of a run are looked for. A job that was issued more often was put off for days.
const maxErased = 100

func (c *Client) eraseTickets(ctx context.Context, status job.Status) error {
	id, generation, serial, ok := ledger.ParseTicket(status.Ticket)
	if !ok {
		return nil
	}
	pipeline := c.Redis.Pipeline()
	var found []interface{ Val() int64 }
	var names [][2]string
	for g := range generation + 1 {
		for s := range min(serial, maxErased) + 1 {
			for queue := range queues() {
				name := ledger.Ticket{Job: id, Generation: g, Serial: s}.ID()
				found, names = append(found, pipeline.Exists(ctx, taskPrefix(queue)+name)), append(names, [2]string{queue, name})
			}
		}
	}
	if _, err := pipeline.Exec(ctx); err != nil {
		return unavailable(err, "erase the jobs")
	}
	for i, one := range found {
		if one.Val() == 0 {
			continue
		}
		err := c.inspector.DeleteTask(names[i][0], names[i][1])
		// One that runs is not deleted; its record is gone then, and it ends when it looks.
		if err != nil && !isGone(err) && !strings.Contains(err.Error(), "active state") {
			return unavailable(err, "erase the jobs")
		}
	}
	return nil
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
	for name := range queues() {
		names = append(names, name)
	}
	return unavailable(c.Redis.SAdd(ctx, "asynq:queues", names...).Err(), "redis")
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

// isGone reports that there is no such task.
func isGone(err error) bool {
	return errors.Is(err, asynq.ErrTaskNotFound) || errors.Is(err, asynq.ErrQueueNotFound)
}

func isNil(err error) bool { return errors.Is(err, redis.Nil) }

// Depth is how full a queue is.
type Depth struct {
	Queue                                       string // the class of its jobs
	Pending, Active, Scheduled, Retry, Archived int
	Latency                                     time.Duration // age of the oldest pending ticket
}

// Depths are all queues', by class; one that nobody has used yet is empty. They are counted without asynq's GetQueueInfo, which fails for a
// queue in which a single task is damaged, and measures the memory of tasks each time.
func (c *Client) Depths(ctx context.Context) ([]Depth, error) {
	classes := job.Classes()
	slices.Sort(classes)
	pipeline := c.Redis.Pipeline()
	type counts struct {
		pending, active, scheduled, retry, archived *redis.IntCmd
		oldest                                      *redis.StringCmd
	}
	asked := make([]counts, len(classes))
	for i, class := range classes {
		name := queueOf(class)
		asked[i] = counts{
			pipeline.LLen(ctx, listKey(name, "pending")), pipeline.LLen(ctx, listKey(name, "active")), pipeline.ZCard(ctx, listKey(name, "scheduled")),
			pipeline.ZCard(ctx, listKey(name, "retry")), pipeline.ZCard(ctx, listKey(name, "archived")), pipeline.LIndex(ctx, listKey(name, "pending"), -1),
		}
	}
	if _, err := pipeline.Exec(ctx); err != nil && !isNil(err) {
		return nil, unavailable(err, "look at the queues")
	}
	depths := make([]Depth, len(classes))
	for i, class := range classes {
		each := asked[i]
		depths[i] = Depth{
			Queue: string(class), Pending: int(each.pending.Val()), Active: int(each.active.Val()), Scheduled: int(each.scheduled.Val()),
			Retry: int(each.retry.Val()), Archived: int(each.archived.Val()),
		}
		var err error
		if depths[i].Latency, _, err = c.age(ctx, queueOf(class), each.oldest.Val()); err != nil {
			return nil, err
		}
	}
	return depths, nil
}
