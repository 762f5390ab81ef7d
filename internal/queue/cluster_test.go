package queue_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

// TestCluster: every script and transaction stays in one slot, as a Redis Cluster demands.
func TestCluster(t *testing.T) {
	t.Parallel()
	b := newBundle(t, queuetest.StartCluster(t).Client())
	var token atomic.Bool
	b.garbage("broken", 1)
	b.enqueue(aJob("fails"), waiting("waits", aJob("").CreatedAt))
	server := b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
		switch {
		case j.ID == "fails" && j.Generation == 0:
			return job.Result{}, fault.Newf(fault.Denied, "no")
		case j.ID == "waits" && !token.Load():
			return job.Result{}, fault.Newf(fault.Expired, "no token")
		case j.ID == "canceled":
			<-ctx.Done()
			return job.Result{}, ctx.Err()
		}
		return succeed(ctx, j)
	})
	if n := b.redis.LLen(t.Context(), quarantineKey).Val(); n != 1 {
		t.Errorf("%d tasks in quarantine", n)
	}
	b.taskState("fails", asynq.TaskStateArchived)
	b.await("waits", job.Waiting)
	if _, err := b.client.Retry(t.Context(), installation, "fails"); err != nil {
		t.Error(err)
	}
	token.Store(true)
	if n, err := b.client.Wake(t.Context(), installation); n != 1 || err != nil {
		t.Errorf("woke %d, %v", n, err)
	}
	b.await("fails", job.Succeeded)
	b.await("waits", job.Succeeded)
	b.enqueue(aJob("canceled"))
	b.await("canceled", job.Running)
	b.cancel("canceled")
	b.await("canceled", job.Canceled)
	server.Stop()
	b.enqueue(aJob("queued"))
	if status := b.cancel("queued"); status.State != job.Canceled {
		t.Errorf("%+v", status)
	}
	if page, err := b.client.List(t.Context(), installation, job.ListOptions{}); err != nil || len(page.Jobs) != 4 {
		t.Errorf("%+v %v", page, err)
	}
}
