package queue_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
)

const slotsKey = "gitsmith:{" + installation + "}:slots:interactive"

// sweeper is a server that takes no jobs.
func (b *bundle) sweeper(options queue.Options) *queue.Server {
	b.t.Helper()
	server := queue.NewServer(options, queue.ServerConfig{Processor: processor(succeed)})
	b.t.Cleanup(server.Stop)
	return server
}

// is fails the test unless the job is in the state.
func (b *bundle) is(id string, wanted job.State) {
	b.t.Helper()
	status, err := b.client.Get(b.t.Context(), installation, id)
	if err != nil || status.State != wanted {
		b.t.Errorf("job %s is %s (%+v), want %s: %v", id, status.State, status.Failure, wanted, err)
	}
}

// TestLostQueueNamesEndNoJob: without asynq:queues, asynq finds no task. That is no reason to end jobs, or to leave damaged tasks.
func TestLostQueueNamesEndNoJob(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		ctx := t.Context()
		b.capped(1)
		b.enqueue(aJob("first"), aJob("second"))
		long := time.Now().Add(-time.Hour) // a job that has waited for so long is doubtful
		b.redis.ZAdd(ctx, slotsKey, zed("first", long))
		b.redis.HSet(ctx, recordKey("first"), "opened", long.UnixMilli())
		b.redis.SAdd(ctx, "gitsmith:parked", installation)
		b.garbage("broken", 1)
		b.redis.Del(ctx, "asynq:queues")
		b.sweeper(b.options).Sweep(ctx)
		b.is("first", job.Queued)
		b.is("second", job.Queued)
		if n := b.redis.LLen(ctx, quarantineKey).Val(); n != 1 {
			t.Errorf("%d tasks in quarantine", n)
		}
		b.serve(queue.ServerConfig{}, succeed)
		b.await("first", job.Succeeded)
		b.await("second", job.Succeeded)
	})
}

// withoutScan is a Redis that fails when its keys are searched.
type withoutScan struct{ cutter }

func (*withoutScan) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		if command.Name() == "scan" {
			command.SetErr(errCut)
			return errCut
		}
		return next(ctx, command)
	}
}

// TestLostTaskIsRemembered: the id is taken out of asynq's list, so that only our note of it is left when the search for its job fails.
func TestLostTaskIsRemembered(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	b.redis.Del(t.Context(), "asynq:{interactive}:t:j1")
	failing := b.options
	client := redis.NewClient(&redis.Options{Addr: b.redis.(*redis.Client).Options().Addr})
	t.Cleanup(func() { _ = client.Close() })
	client.AddHook(&withoutScan{})
	failing.Redis = client
	b.sweeper(failing).Sweep(t.Context())
	b.is("j1", job.Queued)
	b.sweeper(b.options).Sweep(t.Context())
	b.is("j1", job.Failed)
}

// TestAttemptOfALostTask: an attempt whose task is lost may go on. Where it does not end the job, nothing will run the job again.
func TestAttemptOfALostTask(t *testing.T) {
	t.Run("is put off", func(t *testing.T) {
		onBoth(t, func(t *testing.T, b *bundle) {
			lost := make(chan struct{})
			server := b.serve(queue.ServerConfig{}, func(context.Context, job.Job) (job.Result, error) {
				<-lost
				return job.Result{}, fault.Newf(fault.Unavailable, "not now")
			})
			b.enqueue(aJob("j1"))
			b.await("j1", job.Running)
			b.redis.Del(t.Context(), "asynq:{interactive}:t:j1")
			server.Sweep(t.Context())
			b.is("j1", job.Running)
			close(lost)
			b.await("j1", job.Retrying)
			server.Sweep(t.Context())
			b.is("j1", job.Failed)
		})
	})
	t.Run("dies with its worker", func(t *testing.T) {
		onBoth(t, func(t *testing.T, b *bundle) {
			b.enqueue(aJob("j1"))
			b.abandon("j1")
			b.redis.Del(t.Context(), "asynq:{interactive}:t:j1")
			b.sweeper(b.options).Sweep(t.Context())
			b.is("j1", job.Running)
			later := b.options
			later.Now = func() time.Time { return time.Now().Add(time.Hour) }
			b.sweeper(later).Sweep(t.Context())
			b.is("j1", job.Failed)
			if n := b.redis.Exists(t.Context(), "gitsmith:lost").Val(); n != 0 {
				t.Error("the note of the lost task stays")
			}
		})
	})
}

// TestSweepsDoNotDisturbEachOther, as where one takes longer than the pause between two.
func TestSweepsDoNotDisturbEachOther(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	server := b.sweeper(b.options)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() { server.Sweep(t.Context()) })
	}
	group.Wait()
	b.taskState("j1", asynq.TaskStatePending)
}

// before is a Redis that does something before commands of the kind; an error it returns is theirs.
type before struct {
	cutter
	kind func(redis.Cmder) bool
	do   func(ctx context.Context) error
}

func (h *before) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		if h.kind(command) {
			if err := h.do(ctx); err != nil {
				command.SetErr(err)
				return err
			}
		}
		return next(ctx, command)
	}
}

// sweepWith sweeps once by a client with the hook.
func (b *bundle) sweepWith(hook redis.Hook) {
	b.t.Helper()
	options := b.options
	client := redis.NewClient(&redis.Options{Addr: b.redis.(*redis.Client).Options().Addr})
	b.t.Cleanup(func() { _ = client.Close() })
	client.AddHook(hook)
	options.Redis = client
	b.sweeper(options).Sweep(b.t.Context())
}

// TestLostTaskIsNotedFirst: a sweep that dies once it has found the id leaves it where the next one finds it.
func TestLostTaskIsNotedFirst(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	b.redis.Del(t.Context(), "asynq:{interactive}:t:j1")
	b.sweepWith(&before{
		kind: func(command redis.Cmder) bool {
			return command.Name() == "sadd" && command.Args()[1] == "gitsmith:lost"
		},
		do: func(context.Context) error { return errCut },
	})
	b.is("j1", job.Queued)
	b.sweeper(b.options).Sweep(t.Context())
	b.is("j1", job.Failed)
}

// TestLostTaskIsBack: an attempt that begins while its job is about to be ended for want of a task goes on.
func TestLostTaskIsBack(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	b.redis.Del(t.Context(), "asynq:{interactive}:t:j1")
	b.sweepWith(&before{
		kind: func(command redis.Cmder) bool { return slices.Contains(command.Args(), any("none")) },
		do: func(ctx context.Context) error {
			return b.redis.HSet(ctx, recordKey("j1"), "state", string(job.Running), "active", 1).Err()
		},
	})
	b.is("j1", job.Running)
}
