package queue_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
)

// TestCancelAll: of a removed installation nothing waits any more, in whatever way it did, and what runs stops. Others go on.
func TestCancelAll(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.capped(3)
		running := make(chan struct{})
		waits, elsewhere, done := aJob("waiting"), aJob("elsewhere"), aJob("done")
		waits.OnExpiry, elsewhere.Installation = job.OnExpiryWait, "other"
		b.enqueue(done, waits, aJob("running"))
		server := b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
			switch j.ID {
			case "waiting":
				return job.Result{}, fault.Newf(fault.Expired, "no token")
			case "running":
				close(running)
				<-ctx.Done()
				return job.Result{}, ctx.Err()
			}
			return succeed(ctx, j)
		})
		receive(t, running)
		b.await("waiting", job.Waiting)
		b.await("done", job.Succeeded)
		var queued []string
		for i := range 230 { // more than two pages; most of them are parked
			queued = append(queued, fmt.Sprintf("q%04d", i))
		}
		if err := b.inspector.PauseQueue(tickets); err != nil {
			t.Fatal(err)
		}
		if err := b.inspector.PauseQueue("jobs-event"); err != nil {
			t.Fatal(err)
		}
		for _, id := range queued {
			j := aJob(id)
			j.Class = job.ClassEvent
			b.enqueue(j)
		}
		b.enqueue(elsewhere)

		n, err := b.client.CancelAll(t.Context(), installation)
		if err != nil || n != len(queued)+2 {
			t.Fatalf("%d canceled, %v", n, err)
		}
		b.await("running", job.Canceled)
		for _, id := range append(queued, "waiting") {
			status := b.await(id, job.Canceled)
			if status.Failure == nil || status.Failure.Kind != fault.Canceled {
				t.Fatalf("%s: %+v", id, status)
			}
		}
		if n, err := b.client.CancelAll(t.Context(), installation); n != 0 || err != nil {
			t.Errorf("again: %d, %v", n, err)
		}
		if status, err := b.client.Get(t.Context(), "other", "elsewhere"); err != nil || status.State != job.Queued {
			t.Errorf("another's: %+v %v", status, err)
		}
		server.Stop()
	})
}

// TestEraseAll: no task of a removed installation is left in asynq, of whatever generation; others' are.
func TestEraseAll(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		other := aJob("other")
		other.Installation = "other"
		b.enqueue(aJob("succeeds"), aJob("fails"), other)
		server := b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
			if j.ID == "fails" {
				return job.Result{}, fault.Newf(fault.Denied, "no")
			}
			return succeed(ctx, j)
		})
		b.await("succeeds", job.Succeeded)
		b.await("fails", job.Failed)
		eventually(t, func() error {
			if status, err := b.client.Get(t.Context(), "other", "other"); err != nil || status.State != job.Succeeded {
				return fmt.Errorf("%+v %w", status, err)
			}
			return nil
		})
		server.Stop()
		if _, err := b.client.Retry(t.Context(), installation, "fails"); err != nil {
			t.Fatal(err)
		}
		b.enqueue(aJob("queued"))
		if err := b.client.EraseAll(t.Context(), installation); err != nil {
			t.Fatal(err)
		}
		for _, task := range []string{"succeeds.0.0", "fails.0.0", "fails.1.0", "fails.1.1", "queued.0.0"} {
			if info, err := b.inspector.GetTaskInfo(tickets, task); err == nil {
				t.Errorf("%s is still there: %+v", task, info.State)
			}
		}
		b.taskState("other.0.0", asynq.TaskStateCompleted)
	})
}
