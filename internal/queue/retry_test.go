package queue_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
)

var alice = forge.Actor{Kind: forge.ActorUser, Principal: "712020:alice"}

// failFirst lets a job's first generation fail, and tells which jobs succeed.
func failFirst(done chan<- job.Job) processor {
	return func(ctx context.Context, j job.Job) (job.Result, error) {
		if j.Generation == 0 {
			return job.Result{}, fault.Newf(fault.Denied, "no")
		}
		done <- j
		return succeed(ctx, j)
	}
}

func TestRetry(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		j := aJob("j1")
		j.Actor, j.Requester, j.Impersonate = alice, alice.Principal, true // another's word may retry it; it stays hers
		b.enqueue(j)
		done := make(chan job.Job, 1)
		server := b.serve(queue.ServerConfig{}, failFirst(done))
		b.taskState("j1", asynq.TaskStateArchived)
		server.Stop()
		status, err := b.client.Retry(t.Context(), installation, "j1")
		if err != nil || status.State != job.Queued || status.Actor != forge.ActorUser || status.Requester != alice.Principal || status.Attempts != 0 || status.Failure != nil || !status.EndedAt.IsZero() {
			t.Errorf("%+v %v", status, err)
		}
		if _, err := b.client.Retry(t.Context(), installation, "j1"); fault.KindOf(err) != fault.Conflict {
			t.Errorf("a retry of a queued job: %v", err)
		}
		b.serve(queue.ServerConfig{}, failFirst(done))
		j.Generation, j.Attempt = 1, 2
		if diff := cmp.Diff(j, receive(t, done)); diff != "" {
			t.Errorf("the retry is another job:\n%s", diff)
		}
		if status := b.await("j1", job.Succeeded); status.Attempts != 1 || status.Failure != nil {
			t.Errorf("%+v", status)
		}
		if n := b.redis.Exists(t.Context(), payloadKey("j1")).Val(); n != 0 {
			t.Error("what a job was that succeeded is still kept")
		}
		if _, err := b.client.Retry(t.Context(), installation, "j1"); fault.KindOf(err) != fault.Conflict || !strings.Contains(fault.Public(err), "succeeded") {
			t.Errorf("a retry of a success: %v", err)
		}
		// The key still names the job: the same request gives it, and runs nothing.
		if status, created, err := b.client.Enqueue(t.Context(), j); err != nil || created || status.State != job.Succeeded {
			t.Errorf("%+v %t %v", status, created, err)
		}
	})
}

// TestRetryWithoutTheArchive: asynq keeps ten thousand failures; a job can be retried as long as its record lives.
func TestRetryWithoutTheArchive(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.enqueue(aJob("j1"))
		done := make(chan job.Job, 1)
		b.serve(queue.ServerConfig{}, failFirst(done))
		b.taskState("j1", asynq.TaskStateArchived)
		if err := b.inspector.DeleteTask(tickets, "j1.0.0"); err != nil {
			t.Fatal(err)
		}
		if life := b.redis.PTTL(t.Context(), payloadKey("j1")).Val(); life < 6*24*time.Hour || life > 7*24*time.Hour {
			t.Errorf("what the job was is kept for %s", life)
		}
		if _, err := b.client.Retry(t.Context(), installation, "j1"); err != nil {
			t.Fatal(err)
		}
		if again := receive(t, done); again.Generation != 1 {
			t.Errorf("%+v", again)
		}
		b.await("j1", job.Succeeded)
	})
}

// TestRetryOfWhatIsNotKept: neither the archive nor we have it any more.
func TestRetryOfWhatIsNotKept(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	b.serve(queue.ServerConfig{}, failFirst(nil))
	b.taskState("j1", asynq.TaskStateArchived)
	b.redis.Del(t.Context(), payloadKey("j1"))
	if err := b.inspector.DeleteTask(tickets, "j1.0.0"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.Retry(t.Context(), installation, "j1"); fault.KindOf(err) != fault.NotFound || !strings.Contains(fault.Public(err), "submit it anew") {
		t.Error(err)
	}
	b.await("j1", job.Failed)
}

// TestRetryTwiceIsOnce: many callers retry at once, and one run comes of it.
func TestRetryTwiceIsOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.enqueue(aJob("j1"))
		var ran atomic.Int32
		server := b.serve(queue.ServerConfig{}, failFirst(nil))
		b.taskState("j1", asynq.TaskStateArchived)
		server.Stop()
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				if _, err := b.client.Retry(t.Context(), installation, "j1"); err != nil && fault.KindOf(err) != fault.Conflict {
					t.Error(err)
				}
			})
		}
		group.Wait()
		b.serve(queue.ServerConfig{Concurrency: 4}, func(ctx context.Context, j job.Job) (job.Result, error) {
			ran.Add(1)
			return succeed(ctx, j)
		})
		b.await("j1", job.Succeeded)
		b.enqueue(aJob("last"))
		b.await("last", job.Succeeded)
		if n := ran.Load(); n != 2 {
			t.Errorf("%d runs, want the retry and the last", n)
		}
	})
}

// dying fails the nth script or command that touches the record or a task, as if the caller had died there.
type dying struct {
	cutter
	left atomic.Int32
}

func (d *dying) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		if d.left.Add(-1) < 0 {
			command.SetErr(errCut)
			return errCut
		}
		return next(ctx, command)
	}
}

// TestRetryDiesAnywhere: whatever step of a retry is the last one, the job is either as it was and can be retried, or runs once.
func TestRetryDiesAnywhere(t *testing.T) {
	t.Parallel()
	completed := false
	for steps := int32(0); !completed; steps++ {
		if steps > 40 {
			t.Fatal("a retry never completes")
		}
		t.Run(fmt.Sprintf("after %d commands", steps), func(t *testing.T) {
			b := newBundle(t, embedded(t))
			b.enqueue(aJob("j1"))
			server := b.serve(queue.ServerConfig{}, failFirst(nil))
			b.taskState("j1", asynq.TaskStateArchived)
			server.Stop()

			mortal := redis.NewClient(&redis.Options{Addr: b.redis.(*redis.Client).Options().Addr, MaxRetries: -1})
			defer mortal.Close()
			hook := &dying{}
			hook.left.Store(steps)
			mortal.AddHook(hook)
			options := b.options
			options.Redis = mortal
			_, err := queue.NewClient(options).Retry(t.Context(), installation, "j1")
			completed = err == nil

			done := make(chan job.Job, 4)
			b.serve(queue.ServerConfig{}, failFirst(done))
			b.look(time.Minute) // the ticket may be what is missing
			if _, err := b.client.Retry(t.Context(), installation, "j1"); err != nil && fault.KindOf(err) != fault.Conflict {
				t.Errorf("the next retry: %v", err)
			}
			if again := receive(t, done); again.Generation != 1 {
				t.Errorf("%+v", again)
			}
			b.await("j1", job.Succeeded)
			b.enqueue(func() job.Job { last := aJob("last"); last.Generation = 1; return last }())
			if again := receive(t, done); again.ID != "last" {
				t.Errorf("it ran again")
			}
		})
	}
}

func waiting(id string, at time.Time) job.Job {
	j := aJob(id)
	j.OnExpiry, j.CreatedAt = job.OnExpiryWait, at.UTC().Truncate(time.Millisecond)
	return j
}

func TestWakeRunsTheOldestFirst(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		now := time.Now()
		ids := []string{"oldest", "older", "young", "youngest"}
		for i := len(ids) - 1; i >= 0; i-- { // queued in another order
			b.enqueue(waiting(ids[i], now.Add(time.Duration(i)*time.Second)))
		}
		var token atomic.Bool
		order := make(chan string, len(ids))
		b.serve(queue.ServerConfig{Concurrency: 1}, func(ctx context.Context, j job.Job) (job.Result, error) {
			if !token.Load() {
				return job.Result{}, fault.Newf(fault.Expired, "no token")
			}
			order <- j.ID
			return succeed(ctx, j)
		})
		for _, id := range ids {
			if status := b.await(id, job.Waiting); status.Attempts != 0 || status.Failure.Detail != "no token" {
				t.Errorf("%+v", status)
			}
		}
		if n, err := b.client.Wake(t.Context(), "another"); n != 0 || err != nil {
			t.Errorf("another installation woke %d, %v", n, err)
		}
		token.Store(true)
		woken := time.Now()
		if n, err := b.client.Wake(t.Context(), installation); n != len(ids) || err != nil {
			t.Errorf("woke %d, %v", n, err)
		}
		var got []string
		for range ids {
			got = append(got, receive(t, order))
		}
		if took := time.Since(woken); took > 5*time.Second {
			t.Errorf("took %s", took)
		}
		if diff := cmp.Diff(ids, got); diff != "" {
			t.Error(diff)
		}
		for _, id := range ids {
			if status := b.await(id, job.Succeeded); status.Attempts != 1 {
				t.Errorf("%+v", status)
			}
		}
		if n, err := b.client.Wake(t.Context(), installation); n != 0 || err != nil {
			t.Errorf("woke %d again, %v", n, err)
		}
	})
}

// TestWakeIsNotLost: the token comes after the worker found none and before the job waits.
func TestWakeIsNotLost(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.enqueue(waiting("j1", time.Now()))
		looked, kept := make(chan struct{}), make(chan struct{})
		var attempts atomic.Int32
		b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
			if attempts.Add(1) > 1 {
				return succeed(ctx, j)
			}
			close(looked)
			<-kept
			return job.Result{}, fault.Newf(fault.Expired, "no token")
		})
		receive(t, looked)
		if n, err := b.client.Wake(t.Context(), installation); n != 0 || err != nil {
			t.Errorf("woke %d, %v", n, err)
		}
		close(kept)
		b.await("j1", job.Succeeded)
	})
}

// TestWaitEnds: a job that waited long enough ends as expired.
func TestWaitEnds(t *testing.T) {
	b := onReal(t)
	b.enqueue(waiting("j1", time.Now()))
	var later atomic.Int64 // nanoseconds
	b.options.Now = func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	b.serve(queue.ServerConfig{TokenWait: time.Hour}, func(context.Context, job.Job) (job.Result, error) {
		return job.Result{}, fault.Newf(fault.Expired, "no token came")
	})
	b.await("j1", job.Waiting)
	later.Store(int64(2 * time.Hour))
	b.look(2 * time.Hour)
	if status := b.await("j1", job.Expired); status.Failure.Detail != "no token came" || status.Failure.Kind != fault.Expired {
		t.Errorf("%+v", status.Failure)
	}
	if n, err := b.client.Wake(t.Context(), installation); n != 0 || err != nil {
		t.Errorf("woke %d, %v", n, err)
	}
}
