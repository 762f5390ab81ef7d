package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

const parkedKey = "gitsmith:{" + installation + "}:parked:interactive"

// holder holds back the script that puts a parked job's task among asynq's scheduled ones, as a slow network does. Redis does not know
// the script before its first use, so that it comes by itself, after the record.
type holder struct {
	cutter
	once          sync.Once
	held, release chan struct{}
}

func (h *holder) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		text := fmt.Sprint(command.Args()...)
		if command.Name() == "eval" && strings.Contains(text, `"scheduled"`) {
			h.once.Do(func() {
				close(h.held)
				<-h.release
			})
		}
		return next(ctx, command)
	}
}

// beside is another client of the same Redis, of whatever topology.
func (b *bundle) beside(hook redis.Hook) *queue.Client {
	b.t.Helper()
	var client redis.UniversalClient
	switch own := b.redis.(type) {
	case *redis.Client:
		client = redis.NewClient(&redis.Options{Addr: own.Options().Addr})
	case *redis.ClusterClient:
		client = redis.NewClusterClient(&redis.ClusterOptions{Addrs: own.Options().Addrs})
	}
	b.t.Cleanup(func() { _ = client.Close() })
	client.AddHook(hook)
	options := b.options
	options.Redis = client
	return queue.NewClient(options)
}

// TestPromotedBeforeItsTask is the interleaving by which a parked job lost its turn: a receiver parks the second job, the first one
// ends and promotes it, and only then does the second one's task come, put off for twelve hours. Its promoter has to see to it.
func TestPromotedBeforeItsTask(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"within the promoter's patience": false, "after it": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, b *bundle) {
				b.capped(1)
				hold := &holder{held: make(chan struct{}), release: make(chan struct{})}
				receiver := b.beside(hold)
				if _, _, err := receiver.Enqueue(t.Context(), aJob("first")); err != nil {
					t.Fatal(err)
				}
				queued := make(chan error, 1)
				go func() {
					_, _, err := receiver.Enqueue(context.WithoutCancel(t.Context()), aJob("second"))
					queued <- err
				}()
				<-hold.held
				if n := b.redis.ZCard(t.Context(), parkedKey).Val(); n != 1 {
					t.Errorf("%d jobs are parked", n)
				}
				var firstEnded atomic.Bool
				server := b.serve(queue.ServerConfig{Ended: func(_ context.Context, j job.Job, _ queue.End) { firstEnded.Store(j.ID == "first") }}, succeed)
				eventually(t, func() error {
					if n := b.redis.ZCard(t.Context(), parkedKey).Val(); n != 0 {
						return errors.New("the second job is not promoted")
					}
					if late && !firstEnded.Load() {
						return errors.New("the promoter still looks")
					}
					return nil
				})
				if late {
					server.Sweep(t.Context()) // which does not see the task either
				}
				close(hold.release)
				if err := <-queued; err != nil {
					t.Fatal(err)
				}
				if late {
					server.Sweep(t.Context())
				}
				b.await("second", job.Succeeded)
			})
		})
	}
}

// onEach runs a test against a real redis-server, a real cluster and the sandbox's.
func onEach(t *testing.T, test func(t *testing.T, b *bundle)) {
	t.Helper()
	for name, start := range map[string]func(t *testing.T) redis.UniversalClient{
		"redis-server": func(t *testing.T) redis.UniversalClient { t.Helper(); return queuetest.Start(t).Client() },
		"cluster":      func(t *testing.T) redis.UniversalClient { t.Helper(); return queuetest.StartCluster(t).Client() },
		"miniredis":    embedded,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newBundle(t, start(t)))
		})
	}
}

// isPending fails the test unless the task waits to be taken up.
func (b *bundle) isPending(task string) {
	b.t.Helper()
	info, err := b.inspector.GetTaskInfo("interactive", task)
	if err != nil {
		b.t.Errorf("task %s: %v", task, err)
	} else if info.State != asynq.TaskStatePending {
		b.t.Errorf("task %s is %s until %s", task, info.State, info.NextProcessAt)
	}
}

// TestEnqueueCompletesWithASlot: a record that holds a slot and lacks its task, whose receiver died, gets one that runs at once, although
// the receiver that completes it believes that there is no slot left.
func TestEnqueueCompletesWithASlot(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.capped(1)
		b.enqueue(aJob("first"))
		if err := b.inspector.DeleteTask("interactive", "first"); err != nil { // it never came
			t.Fatal(err)
		}
		b.enqueue(aJob("first"))
		b.isPending("first")
		b.serve(queue.ServerConfig{}, succeed)
		b.await("first", job.Succeeded)
	})
}

// TestPromotionPassesOverTheDead: an entry among the parked jobs whose job has ended or is gone takes nobody's turn.
func TestPromotionPassesOverTheDead(t *testing.T) {
	b := onReal(t)
	b.capped(1)
	b.enqueue(aJob("a"), aJob("b"))
	b.redis.ZAdd(t.Context(), parkedKey, zed("gone-1", time.Now().Add(-time.Hour)), zed("gone-2", time.Now().Add(-time.Hour)))
	if _, err := b.client.Cancel(t.Context(), installation, "a"); err != nil {
		t.Fatal(err)
	}
	b.isPending("b")
}

// TestPromotionIsBounded: however many jobs are parked when a cap is taken away, the scripts that promote them do not break on Lua's
// stack. The job that ends is not lost, and the parked ones follow.
func TestPromotionIsBounded(t *testing.T) {
	b := onReal(t)
	const parked = 9_000
	pipeline := b.redis.Pipeline()
	for i := range parked {
		id := fmt.Sprintf("p%04d", i)
		pipeline.HSet(t.Context(), recordKey(id), "id", id, "state", "queued", "generation", 0, "class", "interactive")
		pipeline.ZAdd(t.Context(), parkedKey, zed(id, time.Now()))
	}
	if _, err := pipeline.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.enqueue(aJob("ends"))
	b.serve(queue.ServerConfig{}, succeed)
	b.await("ends", job.Succeeded)
	if n := b.redis.ZCard(t.Context(), parkedKey).Val(); n == 0 || n == parked {
		t.Errorf("%d jobs are parked after one has ended", n)
	}
}
