package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
)

func (b *bundle) cancel(id string) job.Status {
	b.t.Helper()
	status, err := b.client.Cancel(b.t.Context(), installation, id)
	if err != nil {
		b.t.Fatal(err)
	}
	return status
}

// TestCancelWhatDoesNotRun: queued, retrying and waiting jobs end at once, and their tasks are gone.
func TestCancelWhatDoesNotRun(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		waits := aJob("waiting")
		waits.OnExpiry = job.OnExpiryWait
		b.enqueue(aJob("retrying"), waits)
		server := b.serve(queue.ServerConfig{}, func(_ context.Context, j job.Job) (job.Result, error) {
			if j.ID == "waiting" {
				return job.Result{}, fault.Newf(fault.Expired, "no token")
			}
			return job.Result{}, fault.Newf(fault.Throttled, "slow down")
		})
		b.await("retrying", job.Retrying)
		b.await("waiting", job.Waiting)
		server.Stop()
		b.enqueue(aJob("queued"))
		for _, id := range []string{"queued", "retrying", "waiting"} {
			status := b.cancel(id)
			if status.State != job.Canceled || status.Failure.Kind != fault.Canceled || status.EndedAt.IsZero() || !status.NextAt.IsZero() {
				t.Errorf("%s: %+v", id, status)
			}
			if _, err := b.client.Cancel(t.Context(), installation, id); fault.KindOf(err) != fault.Conflict || !strings.Contains(fault.Public(err), "canceled") {
				t.Errorf("%s, again: %v", id, err)
			}
			// The idempotency key still names the job that was canceled.
			if status, created, err := b.client.Enqueue(t.Context(), aJob(id)); err != nil || created || status.State != job.Canceled {
				t.Errorf("%s, queued again: %+v %t %v", id, status, created, err)
			}
		}
		if n, err := b.client.Wake(t.Context(), installation); n != 0 || err != nil {
			t.Errorf("woke %d canceled jobs, %v", n, err)
		}
		// Their tickets are still there, and find nothing to do.
		b.serve(queue.ServerConfig{}, func(_ context.Context, j job.Job) (job.Result, error) {
			t.Errorf("%s ran", j.ID)
			return job.Result{}, nil
		})
		eventually(t, func() error {
			depths, err := b.client.Depths(t.Context())
			if err == nil && depths[2].Pending+depths[2].Active > 0 {
				err = fmt.Errorf("%+v", depths[2])
			}
			return err
		})
	})
}

func TestCancelWhatRuns(t *testing.T) {
	for name, tc := range map[string]struct {
		process func(ctx context.Context, j job.Job) (job.Result, error) // after the end of the context
		state   job.State
	}{
		"it stops": {func(ctx context.Context, _ job.Job) (job.Result, error) { return job.Result{}, ctx.Err() }, job.Canceled},
		"it fails in another way": {func(context.Context, job.Job) (job.Result, error) {
			return job.Result{}, fault.Newf(fault.Denied, "no")
		}, job.Canceled},
		"what was pushed stays pushed": {succeed, job.Succeeded},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, b *bundle) {
				b.enqueue(aJob("j1"))
				running := make(chan struct{})
				b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
					close(running)
					<-ctx.Done()
					return tc.process(ctx, j)
				})
				receive(t, running)
				if status := b.cancel("j1"); status.State.Ended() && status.State != tc.state {
					t.Errorf("%+v", status)
				}
				status := b.await("j1", tc.state)
				if status.Attempts != 1 || (status.Failure == nil) != (tc.state == job.Succeeded) {
					t.Errorf("%+v %+v", status, status.Failure)
				}
			})
		})
	}
}

// TestCancelThatNobodyHeard: the channel lost the message; the worker finds it in the record.
func TestCancelThatNobodyHeard(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"), aJob("j2"))
	running := make(chan struct{}, 2)
	release := make(chan struct{})
	b.serve(queue.ServerConfig{Concurrency: 2}, func(ctx context.Context, j job.Job) (job.Result, error) {
		running <- struct{}{}
		select {
		case <-ctx.Done():
			return job.Result{}, ctx.Err()
		case <-release:
			return succeed(ctx, j)
		}
	})
	receive(t, running)
	receive(t, running)
	b.redis.HSet(t.Context(), recordKey("j1"), "cancel", 0)
	b.await("j1", job.Canceled)
	close(release)
	b.await("j2", job.Succeeded)
}

// TestCancelBeforeTheNextAttempt: the attempt fails by itself while the cancel is on its way; there is no next one.
func TestCancelBeforeTheNextAttempt(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	ended := make(chan queue.End, 1)
	b.serve(queue.ServerConfig{Ended: func(_ context.Context, _ job.Job, end queue.End) { ended <- end }},
		func(ctx context.Context, j job.Job) (job.Result, error) {
			b.redis.HSet(ctx, recordKey(j.ID), "cancel", j.Generation)
			return job.Result{}, fault.Newf(fault.Unavailable, "away")
		})
	if end := receive(t, ended); end.State != job.Canceled || end.Kind != fault.Canceled || end.Attempt != 1 {
		t.Errorf("%+v", end)
	}
	b.await("j1", job.Canceled)
	b.taskState("j1", asynq.TaskStateArchived)
}

// TestCancelOfTheDead: the worker died; when its lease has run out, the job ends without running again.
func TestCancelOfTheDead(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	b.abandon("j1")
	if status := b.cancel("j1"); status.State != job.Running {
		t.Errorf("%+v", status)
	}
	b.serve(queue.ServerConfig{}, func(context.Context, job.Job) (job.Result, error) {
		t.Error("a canceled job ran")
		return job.Result{}, nil
	})
	b.lapse()
	if status := b.await("j1", job.Canceled); status.Failure == nil || status.Failure.Kind != fault.Canceled {
		t.Errorf("%+v", status)
	}
}

// TestCancelAndRetry: a job that was canceled before it ran can be retried, and the old cancel does not stop it.
func TestCancelAndRetry(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	b.cancel("j1")
	if status, err := b.client.Retry(t.Context(), installation, "j1"); err != nil || status.State != job.Queued {
		t.Fatalf("%+v %v", status, err)
	}
	running, release := make(chan struct{}), make(chan struct{})
	b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
		close(running)
		select {
		case <-ctx.Done():
			return job.Result{}, ctx.Err()
		case <-release:
			return succeed(ctx, j)
		}
	})
	receive(t, running)
	eventually(t, func() error { // a message for the generation that was canceled comes late, and is heard
		if n := b.redis.Publish(t.Context(), "gitsmith:cancel", installation+" j1 0").Val(); n == 0 {
			return errors.New("the worker does not listen yet")
		}
		return nil
	})
	close(release)
	b.await("j1", job.Succeeded)
}

// abandon runs the job's attempt on a worker that dies in the middle: it is cut off from Redis.
func (b *bundle) abandon(id string) (release func()) {
	b.t.Helper()
	running, hold := make(chan struct{}), make(chan struct{})
	cut := &cutter{}
	options := b.options
	own := b.redis.(*redis.Client).Options()
	client := redis.NewClient(&redis.Options{Addr: own.Addr, MaxRetries: -1})
	client.AddHook(cut)
	b.t.Cleanup(func() { _ = client.Close() })
	options.Redis = client
	server := queue.NewServer(options, queue.ServerConfig{Grace: time.Millisecond, Processor: processor(func(context.Context, job.Job) (job.Result, error) {
		close(running)
		<-hold
		return job.Result{}, fault.Newf(fault.Denied, "told by the dead")
	})})
	if err := server.Start(); err != nil {
		b.t.Fatal(err)
	}
	done := make(chan struct{})
	release = func() {
		select {
		case <-done:
		default:
			close(done)
			close(hold)
			server.Stop()
		}
	}
	b.t.Cleanup(release)
	receive(b.t, running)
	cut.cut.Store(true)
	return release
}
