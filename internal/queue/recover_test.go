package queue_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
)

// cutter cuts a client off from Redis.
type cutter struct{ cut atomic.Bool }

var errCut = errors.New("cut off")

func (c *cutter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if c.cut.Load() {
			return nil, errCut
		}
		return next(ctx, network, addr)
	}
}

func (c *cutter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		if c.cut.Load() {
			command.SetErr(errCut)
			return errCut
		}
		return next(ctx, command)
	}
}

func (c *cutter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		if c.cut.Load() {
			return errCut
		}
		return next(ctx, commands)
	}
}

// TestDeadWorker: the job runs again elsewhere; the attempt that died does not count, and leaves no word.
func TestDeadWorker(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.enqueue(aJob("j1"))
		release := b.abandon("j1")
		if status := b.await("j1", job.Running); status.Attempts != 1 {
			t.Errorf("%+v", status)
		}
		b.serve(queue.ServerConfig{}, succeed)
		b.lapse()
		if status := b.await("j1", job.Succeeded); status.Attempts != 1 {
			t.Errorf("%d attempts", status.Attempts)
		}
		release()
		b.await("j1", job.Succeeded)
	})
}

// TestLostLease: a worker that lost its lease goes on and ends its attempt while the next one runs. Its failure is not the job's;
// its success is.
func TestLostLease(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		state job.State // while the second attempt runs
	}{
		"fails":    {fault.Newf(fault.Denied, "no"), job.Running},
		"puts off": {fault.Newf(fault.Unavailable, "away"), job.Running},
		"succeeds": {nil, job.Succeeded},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, b *bundle) {
				b.enqueue(aJob("j1"))
				first, second := make(chan struct{}), make(chan struct{})
				releaseFirst, releaseSecond := make(chan struct{}), make(chan struct{})
				ended := make(chan queue.End, 2)
				var attempts atomic.Int32
				process := func(ctx context.Context, j job.Job) (job.Result, error) {
					if attempts.Add(1) == 1 {
						close(first)
						<-releaseFirst
						if tc.err != nil {
							return job.Result{}, tc.err
						}
						return succeed(ctx, j)
					}
					close(second)
					<-releaseSecond
					return succeed(ctx, j)
				}
				b.serve(queue.ServerConfig{
					Concurrency: 2, Ended: func(_ context.Context, _ job.Job, end queue.End) { ended <- end },
				}, process)
				receive(t, first)
				b.lapse()
				receive(t, second)
				close(releaseFirst)
				end := receive(t, ended)
				if end.State != job.Queued && end.State != tc.state || end.State == job.Queued && end.Kind != fault.Interrupted {
					t.Errorf("%+v", end)
				}
				if status, err := b.client.Get(t.Context(), installation, "j1"); err != nil || status.State != tc.state {
					t.Errorf("%+v %v", status, err)
				}
				close(releaseSecond)
				if status := b.await("j1", job.Succeeded); status.Attempts != 1 || status.Failure != nil {
					t.Errorf("%+v", status)
				}
			})
		})
	}
}

// TestDoneAlready: a job that has ended is not run again when its task is delivered again, as after a crash between the result
// and the acknowledgement.
func TestDoneAlready(t *testing.T) {
	for name, failure := range map[string]error{"succeeded": nil, "failed": fault.Newf(fault.Denied, "no")} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, b *bundle) {
				b.enqueue(aJob("j1"))
				var attempts atomic.Int32
				b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
					attempts.Add(1)
					if failure != nil {
						return job.Result{}, failure
					}
					return succeed(ctx, j)
				})
				wanted, kept := job.Succeeded, asynq.TaskStateCompleted
				if failure != nil {
					wanted, kept = job.Failed, asynq.TaskStateArchived
				}
				b.await("j1", wanted)
				info := b.taskState("j1", kept)
				if err := b.inspector.DeleteTask(tickets, info.ID); err != nil {
					t.Fatal(err)
				}
				tasks := asynq.NewClientFromRedisClient(b.redis)
				if _, err := tasks.Enqueue(asynq.NewTask(info.Type, info.Payload), asynq.TaskID(info.ID), asynq.Queue(tickets), asynq.Retention(time.Hour)); err != nil {
					t.Fatal(err)
				}
				b.taskState("j1", asynq.TaskStateCompleted)
				if b.await("j1", wanted); attempts.Load() != 1 {
					t.Errorf("%d attempts", attempts.Load())
				}
			})
		})
	}
}

// TestPoison: a job that takes its worker down again and again is given up.
func TestPoison(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	for range 5 {
		b.abandon("j1")
		b.lapse()
	}
	ended := make(chan queue.End, 1)
	b.serve(queue.ServerConfig{Ended: func(_ context.Context, _ job.Job, end queue.End) { ended <- end }},
		func(context.Context, job.Job) (job.Result, error) {
			t.Error("it ran a sixth time")
			return job.Result{}, nil
		})
	status := b.await("j1", job.Failed)
	if !strings.Contains(status.Failure.Detail, "took its worker down 5 times") || status.Attempts != 1 {
		t.Errorf("%+v %+v", status, status.Failure)
	}
	if end := receive(t, ended); end.State != job.Failed || end.Kind != fault.Internal || end.Err == nil {
		t.Errorf("%+v", end)
	}
}

// TestStop: what heeds its context is given back uncounted, what finishes in time is finished, what does neither is given
// back all the same.
func TestStop(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.enqueue(aJob("heeds"), aJob("finishes"), aJob("ignores"))
		running, stopping, release := make(chan string, 3), make(chan struct{}), make(chan struct{})
		server := b.serve(queue.ServerConfig{Concurrency: 3, Grace: 300 * time.Millisecond}, func(ctx context.Context, j job.Job) (job.Result, error) {
			running <- j.ID
			switch j.ID {
			case "heeds":
				<-ctx.Done()
				return job.Result{}, ctx.Err()
			case "ignores":
				<-release
				return job.Result{}, fault.Newf(fault.Denied, "much later")
			}
			<-stopping
			return succeed(ctx, j)
		})
		for range 3 {
			receive(t, running)
		}
		time.AfterFunc(50*time.Millisecond, func() { close(stopping) })
		server.Stop()
		b.await("finishes", job.Succeeded)
		for _, id := range []string{"heeds", "ignores"} {
			if status, err := b.client.Get(t.Context(), installation, id); err != nil || status.State != job.Queued || status.Attempts != 0 {
				t.Errorf("%s: %+v %v", id, status, err)
			}
		}
		close(release) // and its failure comes too late
		b.serve(queue.ServerConfig{}, succeed)
		for _, id := range []string{"heeds", "ignores"} {
			if status := b.await(id, job.Succeeded); status.Attempts != 1 {
				t.Errorf("%s: %d attempts", id, status.Attempts)
			}
			if begun := b.field(id, "begun"); begun != "0" {
				t.Errorf("%s: %s attempts are taken for crashes", id, begun)
			}
		}
		server.Stop() // once more does nothing
	})
}

// TestStopWithoutStart gives everything back.
func TestStopWithoutStart(t *testing.T) {
	b := onReal(t)
	queue.NewServer(b.options, queue.ServerConfig{Processor: processor(succeed)}).Stop()
}

// TestRecordIsGone: a ticket whose job is not there does nothing, and does so only once.
func TestRecordIsGone(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.enqueue(aJob("j1"))
		b.redis.Del(t.Context(), recordKey("j1"))
		b.serve(queue.ServerConfig{}, func(_ context.Context, j job.Job) (job.Result, error) {
			if j.ID == "j1" {
				t.Error("it ran")
			}
			return job.Result{}, nil
		})
		b.enqueue(aJob("j2"))
		b.await("j2", job.Succeeded)
		info, err := b.inspector.GetTaskInfo(tickets, "j1.0.0")
		if err != nil || info.State != asynq.TaskStateCompleted {
			t.Errorf("%+v %v", info, err)
		}
	})
}

// TestRecordComesLate: a ticket that is quicker than its record, as on another node of a cluster, is not dropped at once.
func TestRecordComesLate(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	kept := b.redis.HGetAll(t.Context(), recordKey("j1")).Val()
	b.redis.Del(t.Context(), recordKey("j1"))
	var looks atomic.Int32
	client := redis.NewClient(&redis.Options{Addr: b.redis.(*redis.Client).Options().Addr})
	t.Cleanup(func() { _ = client.Close() })
	client.AddHook(&before{
		kind: func(command redis.Cmder) bool {
			return command.Name() == "evalsha" && slices.Contains(command.Args(), any("j1"))
		},
		do: func(ctx context.Context) error {
			if looks.Add(1) == 2 {
				return b.redis.HSet(ctx, recordKey("j1"), kept).Err()
			}
			return nil
		},
	})
	options := b.options
	options.Redis = client
	b.serveWith(options, queue.ServerConfig{}, succeed)
	b.await("j1", job.Succeeded)
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
