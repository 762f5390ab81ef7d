package queue_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

const (
	activeKey     = "asynq:{jobs-interactive}:active"
	leaseKey      = "asynq:{jobs-interactive}:lease"
	quarantineKey = "gitsmith:quarantine"
)

// TestUndecodablePayload: a task that asynq can read and we cannot is archived with a public text, and disturbs no other.
func TestUndecodablePayload(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		foreign := newBundle(t, b.redis) // sealed by a key that this worker does not have
		foreign.options.Keyring = testkit.Keyring(t, "a", 2)
		queue.NewClient(foreign.options)
		if _, _, err := queue.NewClient(foreign.options).Enqueue(t.Context(), aJob("foreign")); err != nil {
			t.Fatal(err)
		}
		tasks := asynq.NewClientFromRedisClient(b.redis)
		for id, payload := range map[string]string{
			"garbage": private, "empty": "", "null": "null", "list": "[]", "older": `{"v":1,"id":"older","installation":"y","sealed":"AAAA"}`,
			"no-installation": `{"job":"x"}`,
		} {
			if _, err := tasks.Enqueue(asynq.NewTask("push", []byte(payload)), asynq.TaskID(id), asynq.Queue(tickets)); err != nil {
				t.Fatal(err)
			}
		}
		b.enqueue(aJob("j1"))
		server := b.serve(queue.ServerConfig{}, succeed)
		b.await("j1", job.Succeeded)
		for _, id := range []string{"garbage", "empty", "null", "list", "older", "no-installation"} {
			info := b.taskState(id, asynq.TaskStateArchived)
			if !strings.Contains(info.LastErr, "no ticket of a job") || strings.Contains(info.LastErr, private) || len(info.LastErr) > fault.MaxPublic+50 {
				t.Errorf("%s: %q", id, info.LastErr)
			}
		}
		status := b.await("foreign", job.Failed)
		if status.Failure.Kind != fault.Internal || !strings.Contains(status.Failure.Detail, "GITSMITH_SEAL_KEYS") {
			t.Errorf("%+v", status.Failure)
		}
		if keys := b.redis.Keys(t.Context(), "gitsmith:{y}:*").Val(); len(keys) != 0 {
			t.Errorf("a task that is no ticket made %q", keys)
		}
		// Still no key: it fails again, for the same reason. With the key it runs.
		if _, err := b.client.Retry(t.Context(), installation, "foreign"); err != nil {
			t.Error(err)
		}
		eventually(t, func() error {
			again, err := b.client.Get(t.Context(), installation, "foreign")
			if err == nil && (again.State != job.Failed || again.Generation != 1) {
				err = fmt.Errorf("%+v", again)
			}
			return err
		})
		server.Stop()
		foreign.serve(queue.ServerConfig{}, succeed)
		if _, err := b.client.Retry(t.Context(), installation, "foreign"); err != nil {
			t.Error(err)
		}
		b.await("foreign", job.Succeeded)
	})
}

// garbage puts a task among the active ones that nobody can ever decode.
func (b *bundle) garbage(id string, lease float64) {
	b.t.Helper()
	ctx := b.t.Context()
	b.redis.SAdd(ctx, "asynq:queues", tickets)
	b.redis.HSet(ctx, "asynq:{jobs-interactive}:t:"+id, "msg", "\xff\xff\xff not a message", "state", "active")
	b.redis.LPush(ctx, activeKey, id)
	b.redis.ZAdd(ctx, leaseKey, redis.Z{Score: lease, Member: id})
}

// TestGarbage: one undecodable message keeps asynq from recovering anybody's task. A worker that starts puts it aside first.
func TestGarbage(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.enqueue(aJob("j1"))
		b.abandon("j1")
		b.garbage("broken", 1)
		b.serve(queue.ServerConfig{}, succeed)
		b.lapse()
		b.await("j1", job.Succeeded)
		aside := b.redis.LRange(t.Context(), quarantineKey, 0, -1).Val()
		if len(aside) != 1 || !strings.HasPrefix(aside[0], tickets+" broken \xff\xff\xff") {
			t.Errorf("%q", aside)
		}
		if n := b.redis.Exists(t.Context(), "asynq:{jobs-interactive}:t:broken").Val(); n != 0 {
			t.Error("the task is still there")
		}
		if !strings.Contains(b.log.String(), "a task in Redis is damaged") {
			t.Error("nobody is told")
		}
	})
}

// TestGarbageIsDequeued: a broken message that waits is taken up once, put aside, and the queue goes on.
func TestGarbageIsDequeued(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		b.redis.SAdd(ctx, "asynq:queues", tickets)
		b.redis.HSet(ctx, "asynq:{jobs-interactive}:t:broken", "msg", "\xff\xff", "state", "pending")
		b.redis.LPush(ctx, "asynq:{jobs-interactive}:pending", "broken", "nothing")
		b.enqueue(aJob("j1"))
		b.serve(queue.ServerConfig{}, succeed)
		b.await("j1", job.Succeeded)
		b.taskState("j1", asynq.TaskStateCompleted)                     // asynq is told after the record
		for _, id := range b.redis.ZRange(ctx, leaseKey, 0, -1).Val() { // asynq gave them one when it took them up
			b.redis.ZAdd(ctx, leaseKey, redis.Z{Score: 1, Member: id})
		}
		b.repair()
		if n := b.redis.LLen(ctx, quarantineKey).Val(); n != 1 {
			t.Errorf("%d tasks in quarantine", n)
		}
		if n := b.redis.LLen(ctx, activeKey).Val() + b.redis.ZCard(ctx, leaseKey).Val(); n != 0 {
			t.Errorf("%d traces of broken tasks", n)
		}
	})
}

func TestQuarantineIsBounded(t *testing.T) {
	b := onReal(t)
	for i := range 130 {
		b.garbage(fmt.Sprintf("broken-%d", i), 1)
	}
	b.serve(queue.ServerConfig{}, succeed)
	b.repair()
	if n := b.redis.LLen(t.Context(), quarantineKey).Val(); n != 100 {
		t.Errorf("%d tasks in quarantine", n)
	}
	if n := b.redis.LLen(t.Context(), activeKey).Val(); n != 0 {
		t.Errorf("%d broken tasks are active", n)
	}
}

// TestLeases: an active task without a lease is given one, so that asynq recovers it when that has run out; a lease that is
// nobody's is taken away; a task that runs keeps its own.
func TestLeases(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		b.enqueue(aJob("dead"))
		b.abandon("dead")
		b.redis.ZRem(ctx, leaseKey, "dead.0.0")
		b.redis.ZAdd(ctx, leaseKey, redis.Z{Score: 1, Member: "nobody"})
		running, release := make(chan struct{}), make(chan struct{})
		b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
			close(running)
			<-release
			return succeed(ctx, j)
		})
		b.enqueue(aJob("runs"))
		receive(t, running)
		own := b.redis.ZScore(ctx, leaseKey, "runs.0.0").Val()
		b.repair()
		if given := b.redis.ZScore(ctx, leaseKey, "dead.0.0").Val(); given < float64(time.Now().Unix()+30) || given > float64(time.Now().Unix()+61) {
			t.Errorf("the dead worker's task has a lease until %f", given)
		}
		if after := b.redis.ZScore(ctx, leaseKey, "runs.0.0").Val(); after < own {
			t.Errorf("a running task's lease went from %f to %f", own, after)
		}
		if err := b.redis.ZScore(ctx, leaseKey, "nobody").Err(); err == nil {
			t.Error("a lease that is nobody's stays")
		}
		if n := b.redis.LLen(ctx, quarantineKey).Val(); n != 0 {
			t.Errorf("%d healthy tasks in quarantine", n)
		}
		close(release)
		b.await("runs", job.Succeeded)
	})
}

// repair mends asynq's keys as a dispatcher has it done.
func (b *bundle) repair() {
	b.t.Helper()
	if err := b.client.Repair(b.t.Context()); err != nil {
		b.t.Error(err)
	}
}

// TestRepairWhileBusy: repairing beside workers disturbs nothing, and leaves nothing.
func TestRepairWhileBusy(t *testing.T) {
	b := onReal(t)
	b.serve(queue.ServerConfig{Concurrency: 8}, succeed)
	const total = 200
	for i := range total {
		b.enqueue(aJob(fmt.Sprintf("j%d", i)))
		b.repair()
	}
	for i := range total {
		b.await(fmt.Sprintf("j%d", i), job.Succeeded)
		b.taskState(fmt.Sprintf("j%d", i), asynq.TaskStateCompleted)
	}
	b.repair()
	if n := b.redis.ZCard(t.Context(), leaseKey).Val() + b.redis.LLen(t.Context(), quarantineKey).Val(); n != 0 {
		t.Errorf("%d leases and quarantined tasks are left", n)
	}
}
