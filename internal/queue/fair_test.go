package queue_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
)

// capped is a client and options with a cap.
func (b *bundle) capped(most int) {
	b.options.Cap = most
	b.client = queue.NewClient(b.options)
}

// TestCapOfAnInstallation keeps no more than the cap in asynq's queue, however many are queued, and none gets lost.
func TestCapOfAnInstallation(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.capped(3)
		const jobs = 40
		for i := range jobs {
			b.enqueue(aJob(fmt.Sprintf("j%02d", i)))
		}
		if info, err := b.inspector.GetQueueInfo(tickets); err != nil || info.Size != 3 {
			t.Fatalf("%+v %v", info, err)
		}
		var running, most, done atomic.Int64
		var order []string
		var mutex sync.Mutex
		b.serve(queue.ServerConfig{Concurrency: 8}, func(_ context.Context, j job.Job) (job.Result, error) {
			now := running.Add(1)
			for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
			mutex.Lock()
			order = append(order, j.ID)
			mutex.Unlock()
			running.Add(-1)
			done.Add(1)
			if j.ID == "j05" {
				return job.Result{}, fault.Newf(fault.Invalid, "wrong")
			}
			return succeed(context.Background(), j)
		})
		b.await(fmt.Sprintf("j%02d", jobs-1), job.Succeeded)
		eventually(t, func() error {
			if done.Load() != jobs {
				return fmt.Errorf("%d jobs done", done.Load())
			}
			return nil
		})
		if most.Load() > 3 {
			t.Errorf("%d jobs ran at once", most.Load())
		}
		mutex.Lock()
		defer mutex.Unlock()
		oldest := slices.Sorted(slices.Values(order))
		for i, id := range order {
			if want := slices.Index(oldest, id); max(want-i, i-want) > 6 {
				t.Errorf("job %s was the %dth to begin", id, i)
			}
		}
	})
}

// TestQuietBesideNoisy lets one installation's job run at once although another has hundreds waiting.
func TestQuietBesideNoisy(t *testing.T) {
	b := onReal(t)
	b.capped(4)
	for i := range 300 {
		b.enqueue(aJob(fmt.Sprintf("noisy-%03d", i)))
	}
	quiet := aJob("quiet")
	quiet.Installation = "ari:cloud:ecosystem::installation/quiet"
	b.enqueue(quiet)
	var before atomic.Int64
	began := make(chan int64, 1)
	b.serve(queue.ServerConfig{Concurrency: 1}, func(_ context.Context, j job.Job) (job.Result, error) {
		if j.ID == "quiet" {
			began <- before.Load()
		}
		before.Add(1)
		return succeed(context.Background(), j)
	})
	if n := receive(t, began); n > 4 {
		t.Errorf("%d jobs of the noisy installation ran before", n)
	}
}

// TestRetriesHoldNoSlot lets others go on while a job waits for its next attempt, and keeps the cap when it comes back.
func TestRetriesHoldNoSlot(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.capped(1)
		b.enqueue(aJob("first"), aJob("second"), aJob("third"))
		var attempts sync.Map
		b.serve(queue.ServerConfig{Concurrency: 4}, func(_ context.Context, j job.Job) (job.Result, error) {
			if _, again := attempts.LoadOrStore(j.ID, true); !again && j.ID == "first" {
				return job.Result{}, fault.Newf(fault.Unavailable, "away")
			}
			return succeed(context.Background(), j)
		})
		b.await("third", job.Succeeded)
		b.await("first", job.Succeeded)
	})
}

// TestForgottenSlots: a slot whose job is not there is given to the next in line.
func TestForgottenSlots(t *testing.T) {
	b := onReal(t)
	b.capped(2)
	for _, lost := range []string{"dead-1", "dead-2"} {
		if err := b.redis.ZAdd(t.Context(), heldKey, zed(lost, time.Now().Add(-time.Hour))).Err(); err != nil {
			t.Fatal(err)
		}
	}
	b.enqueue(aJob("a"))
	if n := b.redis.ZCard(t.Context(), lineKey).Val(); n != 1 {
		t.Fatalf("%d stand in line", n)
	}
	b.serve(queue.ServerConfig{}, succeed)
	b.look(0)
	b.await("a", job.Succeeded)
}

// TestCanceledFreesItsSlot lets the next parked job follow one that is canceled in the queue.
func TestCanceledFreesItsSlot(t *testing.T) {
	b := onReal(t)
	b.capped(1)
	b.enqueue(aJob("a"), aJob("b"), aJob("c"))
	for _, id := range []string{"c", "a"} { // a parked one and the one with the slot
		if _, err := b.client.Cancel(t.Context(), installation, id); err != nil {
			t.Fatal(err)
		}
	}
	b.taskState("b", asynq.TaskStatePending)
	b.serve(queue.ServerConfig{}, succeed)
	b.await("b", job.Succeeded)
	b.await("c", job.Canceled)
}

// event is an event's job that replaces older ones of the same thing.
func event(id string, happened time.Time) job.Job {
	j := aJob(id)
	j.Class, j.Event, j.Rule, j.Coalesce, j.HappenedAt = job.ClassEvent, "digest-"+id, "archive", "web main", happened
	return j
}

// TestCoalesce leaves of the jobs that wait for the same thing the one of the newest event, in whichever order they come.
func TestCoalesce(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		now := time.Now()
		b.enqueue(event("old", now), event("newer", now.Add(time.Second)), event("late", now.Add(-time.Second)))
		b.await("old", job.Canceled)
		b.await("late", job.Canceled)
		release, begun := make(chan struct{}), make(chan struct{}, 4)
		var ran []string
		var mutex sync.Mutex
		b.serve(queue.ServerConfig{Concurrency: 2}, func(_ context.Context, j job.Job) (job.Result, error) {
			mutex.Lock()
			ran = append(ran, j.ID)
			mutex.Unlock()
			begun <- struct{}{}
			<-release
			return succeed(context.Background(), j)
		})
		<-begun
		b.enqueue(event("newest", now.Add(2*time.Second))) // the one that runs goes on
		<-begun
		close(release)
		b.await("newer", job.Succeeded)
		b.await("newest", job.Succeeded)
		b.await("old", job.Canceled)
		mutex.Lock()
		defer mutex.Unlock()
		if len(ran) != 2 {
			t.Errorf("%v ran", ran)
		}
	})
}

// TestSameEventIsDoneOnce answers with the first job whatever became of it, even where its rule would make another of it now.
func TestSameEventIsDoneOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		j := event("once", time.Now())
		b.enqueue(j)
		b.serve(queue.ServerConfig{}, succeed)
		b.await("once", job.Succeeded)
		j.Digest = "of a newer rule"
		status, created, err := b.client.Enqueue(t.Context(), j)
		if err != nil || created || status.State != job.Succeeded {
			t.Fatalf("%+v %t %v", status, created, err)
		}
		if life := b.redis.PTTL(t.Context(), "gitsmith:{"+installation+"}:job:once").Val(); life < 24*time.Hour {
			t.Errorf("the job is known for %s", life)
		}
	})
}

// TestGoneInstallation queues nothing for an app that was removed, whichever way it comes.
func TestGoneInstallation(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		if err := b.redis.Set(t.Context(), "gitsmith:{"+installation+"}:gone", 1, time.Minute).Err(); err != nil {
			t.Fatal(err)
		}
		_, _, err := b.client.Enqueue(t.Context(), aJob("late"))
		if fault.KindOf(err) != fault.Denied {
			t.Errorf("%v", err)
		}
		ran := make(chan string, 2)
		b.serve(queue.ServerConfig{}, func(_ context.Context, j job.Job) (job.Result, error) {
			ran <- j.ID
			return succeed(context.Background(), j)
		})
		other := aJob("other")
		other.Installation = "another"
		b.enqueue(other)
		if id := <-ran; id != "other" {
			t.Errorf("%s ran", id)
		}
	})
}

// TestWakeKeepsTheCap wakes many jobs at once; as many run as may.
func TestWakeKeepsTheCap(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.capped(2)
		var token atomic.Bool
		var running, most atomic.Int64
		b.serve(queue.ServerConfig{Concurrency: 8}, func(_ context.Context, j job.Job) (job.Result, error) {
			if !token.Load() {
				return job.Result{}, fault.Newf(fault.Expired, "no token")
			}
			now := running.Add(1)
			defer running.Add(-1)
			for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
			return succeed(context.Background(), j)
		})
		const jobs = 12
		for i := range jobs {
			j := aJob(fmt.Sprint(i))
			j.OnExpiry, j.Actor = job.OnExpiryWait, forge.Actor{Kind: forge.ActorSystem}
			b.enqueue(j)
		}
		for i := range jobs {
			b.await(fmt.Sprint(i), job.Waiting)
		}
		token.Store(true)
		if n, err := b.client.Wake(t.Context(), installation); err != nil || n != jobs {
			t.Fatal(n, err)
		}
		for i := range jobs {
			b.await(fmt.Sprint(i), job.Succeeded)
		}
		if most.Load() > 2 {
			t.Errorf("%d ran at once", most.Load())
		}
	})
}

// TestEnqueueTogether queues many jobs at once through one client: each is there once, or its error says that it is not.
func TestEnqueueTogether(t *testing.T) {
	b := onReal(t)
	var group sync.WaitGroup
	errs := make([]error, 200)
	for i := range errs {
		group.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if i%10 == 9 {
				cancel()
			}
			_, _, errs[i] = b.client.Enqueue(ctx, aJob(fmt.Sprint(i)))
		})
	}
	group.Wait()
	for i, err := range errs {
		if i%10 == 9 {
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
		}
		if info, err := b.inspector.GetTaskInfo(tickets, fmt.Sprint(i, ".0.0")); err != nil || info.State.String() != "pending" {
			t.Errorf("%d: %+v %v", i, info, err)
		}
	}
}

func zed(id string, at time.Time) redis.Z { return redis.Z{Score: float64(at.UnixMilli()), Member: id} }

// TestPromotionPassesOverTheDead: an entry in line whose job has ended or is gone takes nobody's turn.
func TestPromotionPassesOverTheDead(t *testing.T) {
	b := onReal(t)
	b.capped(1)
	b.enqueue(aJob("a"), aJob("b"))
	b.redis.ZAdd(t.Context(), lineKey, zed("gone-1", time.Now().Add(-time.Hour)), zed("gone-2", time.Now().Add(-time.Hour)))
	if _, err := b.client.Cancel(t.Context(), installation, "a"); err != nil {
		t.Fatal(err)
	}
	b.taskState("b", asynq.TaskStatePending)
}

// TestPromotionIsBounded: however many jobs stand in line when a cap is taken away, the scripts that promote them do not break on Lua's
// stack. The job that ends is not lost, and the others follow.
func TestPromotionIsBounded(t *testing.T) {
	b := onReal(t)
	const inLine = 9_000
	pipeline := b.redis.Pipeline()
	for i := range inLine {
		id := fmt.Sprintf("p%04d", i)
		pipeline.HSet(t.Context(), recordKey(id), "id", id, "state", "queued", "generation", 0, "class", "interactive")
		pipeline.ZAdd(t.Context(), lineKey, zed(id, time.Now()))
	}
	if _, err := pipeline.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.enqueue(aJob("ends"))
	b.serve(queue.ServerConfig{}, succeed)
	b.await("ends", job.Succeeded)
	if n := b.redis.ZCard(t.Context(), lineKey).Val(); n == 0 || n == inLine {
		t.Errorf("%d jobs stand in line after one has ended", n)
	}
}
