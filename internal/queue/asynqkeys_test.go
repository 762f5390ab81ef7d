package queue_test

import (
	"context"
	"fmt"
	"sync"
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
		pipeline.HSet(ctx, "asynq:{jobs-interactive}:t:"+id, "msg", "\x0a\x03job\x12\x02{}\x1a"+string(rune(len(id)))+id+"\x22\x10jobs-interactive", "state", "archived")
		pipeline.ZAdd(ctx, "asynq:{jobs-interactive}:archived", redis.Z{Score: float64(at.Unix()), Member: id})
	}
	pipeline.SAdd(ctx, "asynq:queues", tickets)
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
			left := b.redis.ZCard(t.Context(), "asynq:{jobs-interactive}:archived").Val()
			tasks, err := b.redis.Keys(t.Context(), "asynq:{jobs-interactive}:t:*").Result()
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
		b.serve(queue.ServerConfig{}, succeed)
		b.enqueue(aJob("j1"))
		b.await("j1", job.Succeeded)
		b.redis.Del(t.Context(), "asynq:queues")
		b.repair()
		b.healthy()
	})
}

// TestAsynqLosesTickets of jobs wherever they stand: each gets another one and is done, once. Others do not notice.
func TestAsynqLosesTickets(t *testing.T) {
	for name, limit := range map[string]int{"without a cap": 0, "capped": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for fault, lose := range map[string]func(t *testing.T, b *bundle){
				"tasks": func(t *testing.T, b *bundle) {
					t.Helper()
					for _, id := range []string{"retrying.0.0", "lost.0.0"} {
						b.redis.Del(t.Context(), "asynq:{jobs-interactive}:t:"+id)
					}
					b.redis.HSet(t.Context(), "asynq:{jobs-interactive}:t:damaged.0.0", "msg", "\xff")
				},
				"everything": func(t *testing.T, b *bundle) {
					t.Helper()
					keys := b.redis.Keys(t.Context(), "asynq:*").Val()
					if len(keys) < 6 {
						t.Errorf("there are only %q", keys)
					}
					for _, key := range keys { // a cluster takes one at a time
						b.redis.Del(t.Context(), key)
					}
				},
			} {
				t.Run(fault, func(t *testing.T) {
					t.Parallel()
					onEach(t, func(t *testing.T, b *bundle) { asynqLoses(t, b, limit, lose) })
				})
			}
		})
	}
}

func asynqLoses(t *testing.T, b *bundle, limit int, lose func(t *testing.T, b *bundle)) {
	t.Helper()
	b.capped(limit)
	first := b.serve(queue.ServerConfig{}, func(context.Context, job.Job) (job.Result, error) {
		return job.Result{}, fault.Newf(fault.Unavailable, "not now")
	})
	b.enqueue(aJob("retrying"))
	b.await("retrying", job.Retrying)
	b.taskState("retrying", asynq.TaskStateRetry)
	first.Stop()
	b.enqueue(aJob("lost"), aJob("damaged"), aJob("kept"), aJob("in-line-1"), aJob("in-line-2"))
	lose(t, b)
	if _, err := b.client.Depths(t.Context()); err != nil {
		t.Errorf("metrics: %v", err)
	}
	var mutex sync.Mutex
	ran := map[string]int{}
	b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
		mutex.Lock()
		defer mutex.Unlock()
		ran[j.ID]++
		return succeed(ctx, j)
	})
	for _, id := range []string{"kept", "in-line-1", "in-line-2", "retrying", "lost", "damaged"} {
		eventually(t, func() error {
			b.repair()
			b.look(time.Minute)
			status, err := b.client.Get(t.Context(), installation, id)
			if err == nil && status.State != job.Succeeded {
				err = fmt.Errorf("%s is %s: %+v", id, status.State, status.Failure)
			}
			return err
		})
	}
	mutex.Lock()
	defer mutex.Unlock()
	if len(ran) != 6 {
		t.Errorf("%v", ran)
	}
	for id, times := range ran {
		if times != 1 {
			t.Errorf("%s ran %d times", id, times)
		}
	}
	if held, err := b.redis.ZRange(t.Context(), heldKey, 0, -1).Result(); len(held) > 0 || err != nil {
		t.Errorf("slots of %q: %v", held, err)
	}
	b.healthy()
}

// TestRunningWithoutItsTask: an attempt whose ticket is lost goes on and ends its job.
func TestRunningWithoutItsTask(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.capped(1)
		lost := make(chan struct{})
		b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
			<-lost
			return succeed(ctx, j)
		})
		b.enqueue(aJob("j1"))
		b.await("j1", job.Running)
		b.redis.Del(t.Context(), "asynq:{jobs-interactive}:t:j1.0.0")
		b.repair()
		if n := b.look(0); n != 0 {
			t.Errorf("%d tickets for a job that runs", n)
		}
		close(lost)
		b.await("j1", job.Succeeded)
	})
}
