package queue_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
)

// archive puts tasks into the archive as asynq does, as of the time.
func (b *bundle) archive(name string, count int, at time.Time) {
	b.t.Helper()
	ctx := b.t.Context()
	pipeline := b.redis.Pipeline()
	for i := range count {
		id := fmt.Sprint(name, "-", i)
		pipeline.HSet(ctx, "asynq:{interactive}:t:"+id, "msg", "\x0a\x03job\x12\x02{}\x1a"+string(rune(len(id)))+id+"\x22\x0binteractive", "state", "archived")
		pipeline.ZAdd(ctx, "asynq:{interactive}:archived", redis.Z{Score: float64(at.Unix()), Member: id})
	}
	pipeline.SAdd(ctx, "asynq:queues", "interactive")
	if _, err := pipeline.Exec(ctx); err != nil {
		b.t.Fatal(err)
	}
}

// TestArchiveIsTrimmed before asynq's own script cannot any more: the next job that fails is archived, and asynq's inspector answers.
func TestArchiveIsTrimmed(t *testing.T) {
	for name, tc := range map[string]struct {
		age  time.Duration
		most int64 // that are left
	}{"too old": {91 * 24 * time.Hour, 1}, "too many": {time.Hour, 9_501}} {
		t.Run(name, func(t *testing.T) {
			b := onReal(t)
			b.archive("old", 9_900, time.Now().Add(-tc.age))
			b.enqueue(aJob("j1"))
			b.serve(queue.ServerConfig{}, func(context.Context, job.Job) (job.Result, error) {
				return job.Result{}, fault.Newf(fault.Invalid, "broken")
			})
			b.await("j1", job.Failed)
			b.taskState("j1", asynq.TaskStateArchived)
			left := b.redis.ZCard(t.Context(), "asynq:{interactive}:archived").Val()
			tasks, err := b.redis.Keys(t.Context(), "asynq:{interactive}:t:*").Result()
			if left > tc.most || int64(len(tasks)) != left || err != nil {
				t.Errorf("%d tasks in the archive, %d in Redis (%v)", left, len(tasks), err)
			}
			b.healthy()
		})
	}
}

// healthy fails the test where metrics or the dashboard would show nothing.
func (b *bundle) healthy() {
	b.t.Helper()
	if _, err := b.client.Depths(b.t.Context()); err != nil {
		b.t.Errorf("metrics: %v", err)
	}
	queues, err := b.inspector.Queues()
	if err != nil || len(queues) != 3 {
		b.t.Errorf("the dashboard finds the queues %q: %v", queues, err)
	}
	if _, real := b.redis.ConfigGet(b.t.Context(), "maxmemory").Result(); real != nil {
		return // the sandbox's Redis has no MEMORY USAGE
	}
	for _, name := range queues {
		if _, err := b.inspector.GetQueueInfo(name); err != nil {
			b.t.Errorf("the dashboard: %v", err)
		}
	}
}

// TestQueuesAreNamedAgain although asynq's client names a queue once in its life.
func TestQueuesAreNamedAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		server := b.serve(queue.ServerConfig{}, succeed)
		b.enqueue(aJob("j1"))
		b.await("j1", job.Succeeded)
		b.redis.Del(t.Context(), "asynq:queues")
		server.Sweep(t.Context())
		b.healthy()
	})
}

// TestTaskIsGone: a job whose task Redis has lost, or returns as something else, ends as failed wherever it stood; others do not notice.
func TestTaskIsGone(t *testing.T) {
	for name, limit := range map[string]int{"without a cap": 0, "capped": 3} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, b *bundle) {
				b.capped(limit)
				first := b.serve(queue.ServerConfig{}, func(context.Context, job.Job) (job.Result, error) {
					return job.Result{}, fault.Newf(fault.Unavailable, "not now")
				})
				b.enqueue(aJob("retrying"))
				b.await("retrying", job.Retrying)
				b.taskState("retrying", asynq.TaskStateRetry)
				first.Stop()
				b.enqueue(aJob("lost"), aJob("damaged"), aJob("kept"))
				b.enqueue(aJob("parked"), aJob("parked-and-lost")) // where there is a cap
				ctx := t.Context()
				for _, id := range []string{"retrying", "lost", "parked-and-lost"} {
					b.redis.Del(ctx, "asynq:{interactive}:t:"+id)
				}
				b.redis.HSet(ctx, "asynq:{interactive}:t:damaged", "msg", "\xff")
				if _, err := b.client.Depths(ctx); err != nil {
					t.Errorf("metrics: %v", err)
				}
				server := b.serve(queue.ServerConfig{}, succeed)
				for _, id := range []string{"kept", "parked"} {
					b.await(id, job.Succeeded)
				}
				for _, id := range []string{"retrying", "lost", "damaged", "parked-and-lost"} {
					eventually(t, func() error {
						server.Sweep(ctx)
						status, err := b.client.Get(ctx, installation, id)
						if err == nil && (status.State != job.Failed || !strings.Contains(status.Failure.Detail, "ask for it again")) {
							err = fmt.Errorf("%s is %s: %+v", id, status.State, status.Failure)
						}
						return err
					})
				}
				slots, err := b.redis.ZRange(ctx, "gitsmith:{"+installation+"}:slots:interactive", 0, -1).Result()
				if len(slots) > 0 || err != nil {
					t.Errorf("slots of %q: %v", slots, err)
				}
				aside := b.redis.LRange(ctx, quarantineKey, 0, -1).Val()
				if !slices.Contains(aside, "interactive retrying ") || !slices.Contains(aside, "interactive damaged \xff") {
					t.Errorf("in quarantine: %q", aside)
				}
				b.healthy()
			})
		})
	}
}

// TestRunningWithoutItsTask: an attempt whose task is lost goes on and ends its job.
func TestRunningWithoutItsTask(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.capped(1)
		lost := make(chan struct{})
		server := b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
			<-lost
			return succeed(ctx, j)
		})
		b.enqueue(aJob("j1"))
		b.await("j1", job.Running)
		b.redis.Del(t.Context(), "asynq:{interactive}:t:j1")
		server.Sweep(t.Context())
		if status, err := b.client.Get(t.Context(), installation, "j1"); err != nil || status.State != job.Running {
			t.Errorf("%+v %v", status, err)
		}
		close(lost)
		b.await("j1", job.Succeeded)
	})
}
