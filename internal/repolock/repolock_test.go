package repolock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

const (
	installation = "ari:cloud:ecosystem::installation/1"
	repository   = "acme/web"

	// holderAddr makes this test binary a holder that never ends, on the Redis at the address.
	holderAddr = "REPOLOCK_TEST_HOLDER"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(holderAddr); addr != "" {
		holdForever(addr)
	}
	goleak.VerifyTestMain(m)
}

func acquire(t *testing.T, locker *Locker) *Lock {
	t.Helper()
	lock, err := locker.Acquire(t.Context(), installation, repository, Holder{})
	if err != nil {
		t.Fatalf("Acquire: %v", fault.Private(err))
	}
	t.Cleanup(func() { _ = lock.Release(context.Background()) })
	return lock
}

// waitEnd returns the cause with which the lock's context ended.
func waitEnd(t *testing.T, lock *Lock) error {
	t.Helper()
	testkit.Receive(t, "the end of the lock's context", lock.Context().Done())
	return context.Cause(lock.Context())
}

func TestOneHolderAtATime(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	// Two lockers stand for two workers.
	lockers := []*Locker{New(server.Client(), Options{Wait: time.Minute}), New(server.Client(), Options{Wait: time.Minute})}
	var inside, most, last atomic.Int64
	var group sync.WaitGroup
	for i := range 16 {
		group.Go(func() {
			lock, err := lockers[i%2].Acquire(t.Context(), installation, repository, Holder{})
			if err != nil {
				t.Error(err)
				return
			}
			most.Store(max(most.Load(), inside.Add(1)))
			if before := last.Swap(lock.Fence()); before >= lock.Fence() {
				t.Errorf("fence %d after %d", lock.Fence(), before)
			}
			if err := lock.SetIntent(t.Context(), "job", Intent{Branch: "main"}); err != nil {
				t.Error(err)
			}
			inside.Add(-1)
			if err := lock.Release(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if most.Load() != 1 || last.Load() != 16 {
		t.Errorf("%d holders at once, last fence %d; want 1 and 16", most.Load(), last.Load())
	}
}

func TestOtherRepositoriesAndInstallationsAreFree(t *testing.T) {
	t.Parallel()
	locker := New(queuetest.Start(t).Client(), Options{})
	acquire(t, locker)
	for _, other := range [][2]string{{installation, "acme/api"}, {"other", repository}} {
		lock, err := locker.Acquire(t.Context(), other[0], other[1], Holder{})
		if err != nil {
			t.Fatalf("%v: %v", other, err)
		}
		if err := lock.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := locker.Acquire(t.Context(), installation, "", Holder{}); fault.KindOf(err) != fault.Internal {
		t.Errorf("no repository: %v, want an Internal fault", err)
	}
}

func TestWaitingEndsAsThrottled(t *testing.T) {
	t.Parallel()
	locker := New(queuetest.Start(t).Client(), Options{Wait: 50 * time.Millisecond})
	lock := acquire(t, locker)
	_, err := locker.Acquire(t.Context(), installation, repository, Holder{})
	if wait := fault.RetryAfter(err); fault.KindOf(err) != fault.Throttled || wait < time.Second || wait > 5*time.Second {
		t.Fatalf("second holder: %v after %v, want a Throttled fault with a short wait", err, wait)
	}
	if err := lock.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	acquire(t, locker)
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	locker := New(queuetest.Start(t).Client(), Options{Wait: time.Minute})
	acquire(t, locker)
	stopping := errors.New("stopping")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(30*time.Millisecond, func() { cancel(stopping) })
	if _, err := locker.Acquire(ctx, installation, repository, Holder{}); !errors.Is(err, stopping) {
		t.Errorf("Acquire: %v, want the cause of its context", err)
	}
}

func TestReleaseEndsTheContextAndMayBeRepeated(t *testing.T) {
	t.Parallel()
	locker := New(queuetest.Start(t).Client(), Options{})
	lock := acquire(t, locker)
	for range 2 {
		if err := lock.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if cause := waitEnd(t, lock); !errors.Is(cause, context.Canceled) {
		t.Errorf("cause %v, want Canceled", cause)
	}
}

func TestLockOutlivesItsTTLWhileHeld(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	locker := New(client, Options{TTL: time.Second, Wait: 3 * time.Second})
	lock := acquire(t, locker)
	if _, err := locker.Acquire(t.Context(), installation, repository, Holder{}); fault.KindOf(err) != fault.Throttled {
		t.Errorf("three TTLs later another has it: %v", err)
	}
	if lock.Context().Err() != nil {
		t.Errorf("lost: %v", context.Cause(lock.Context()))
	}
}

func TestStolenLockIsNoticed(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	locker := New(client, Options{TTL: 600 * time.Millisecond})
	first := acquire(t, locker)
	// As if it had expired while the holder stood still.
	if err := client.Del(t.Context(), first.mutex.Name()).Err(); err != nil {
		t.Fatal(err)
	}
	second := acquire(t, locker)
	if cause := waitEnd(t, first); fault.KindOf(cause) != fault.Unavailable {
		t.Errorf("cause %v, want an Unavailable fault", cause)
	}
	if err := first.SetIntent(t.Context(), "job", Intent{Commit: "first"}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("the earlier holder's intent: %v, want an Unavailable fault", err)
	}
	if err := second.SetIntent(t.Context(), "job", Intent{Commit: "second"}); err != nil {
		t.Error(err)
	}
	// The earlier holder's Release must not free the later one's lock.
	if err := first.Release(t.Context()); err != nil {
		t.Errorf("Release of a lost lock: %v", err)
	}
	if n := client.Exists(t.Context(), second.mutex.Name()).Val(); n != 1 || second.Context().Err() != nil {
		t.Error("the later holder lost its lock")
	}
	if got, found, err := second.Intent(t.Context(), "job"); got.Commit != "second" || !found || err != nil {
		t.Errorf("Intent = %v, %v, %v", got, found, err)
	}
}

// A holder that stood still between taking the lock and asking for its fence gets none.
func TestNoFenceWithoutTheLock(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	locker := New(client, Options{})
	lock := acquire(t, locker)
	got, err := fenceScript.Run(t.Context(), client, []string{lock.keys.Lock(), lock.keys.Fence()}, "another value", 1000).Int64()
	if got != 0 || err != nil {
		t.Errorf("fence %d, %v; want none", got, err)
	}
}

func TestKilledHolderLosesItToTheNext(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), holderAddr+"="+server.Addr)
	holder.Stderr = os.Stderr
	output, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = holder.Process.Kill() })
	if _, err := output.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the holder did not get the lock: %v", err)
	}
	locker := New(server.Client(), Options{Wait: time.Nanosecond})
	if _, err := locker.Acquire(t.Context(), installation, repository, Holder{}); fault.KindOf(err) != fault.Throttled {
		t.Errorf("while it lives: %v, want a Throttled fault", err)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	patient := New(server.Client(), Options{Wait: 20 * time.Second})
	lock := acquire(t, patient)
	if lock.Fence() != 2 {
		t.Errorf("fence %d, want 2", lock.Fence())
	}
	if got, found, err := lock.Intent(t.Context(), "job"); got.Commit != "of the killed" || !found || err != nil {
		t.Errorf("its intent: %v, %v, %v", got, found, err)
	}
}

// holdForever is the body of the process that TestKilledHolderLosesItToTheNext kills.
func holdForever(addr string) {
	lock, err := New(redis.NewClient(&redis.Options{Addr: addr}), Options{TTL: time.Second}).Acquire(context.Background(), installation, repository, Holder{})
	if err == nil {
		err = lock.SetIntent(context.Background(), "job", Intent{Commit: "of the killed"})
	}
	if err != nil {
		_, _ = os.Stderr.WriteString(fault.Private(err))
		os.Exit(1)
	}
	_, _ = os.Stdout.WriteString("held")
	<-lock.Context().Done()
	os.Exit(1)
}

func TestRedisAwayForShortKeepsTheLock(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	locker := New(server.Client(), Options{TTL: 30 * time.Second})
	lock := acquire(t, locker)
	if err := lock.SetIntent(t.Context(), "job", Intent{Branch: "main", Commit: "c", Parent: "p"}); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if err := lock.SetIntent(t.Context(), "job", Intent{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("SetIntent without Redis: %v, want an Unavailable fault", err)
	}
	if _, _, err := lock.Intent(t.Context(), "job"); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Intent without Redis: %v, want an Unavailable fault", err)
	}
	if _, err := locker.Acquire(t.Context(), installation, "acme/api", Holder{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Acquire without Redis: %v, want an Unavailable fault", err)
	}
	server.Restart()
	again := New(server.Client(), Options{})
	if _, err := again.Acquire(t.Context(), installation, "acme/other", Holder{}); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	testkit.Eventually(t, "the intent is there", func() error {
		got, found, err := lock.Intent(t.Context(), "job")
		if err == nil && (!found || got != Intent{Branch: "main", Commit: "c", Parent: "p"}) {
			err = fmt.Errorf("%+v, found %t", got, found)
		}
		return err
	})
	if lock.Context().Err() != nil {
		t.Errorf("lost: %v", context.Cause(lock.Context()))
	}
}

func TestRedisAwayForLongLosesTheLock(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	locker := New(server.Client(), Options{TTL: 500 * time.Millisecond})
	lock := acquire(t, locker)
	server.Kill()
	if cause := waitEnd(t, lock); fault.KindOf(cause) != fault.Unavailable {
		t.Errorf("cause %v, want an Unavailable fault", cause)
	}
	if err := lock.Release(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("Release without Redis: %v, want an Unavailable fault", err)
	}
}

func TestIntents(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *queuetest.Redis{"single": queuetest.Start, "cluster": queuetest.StartCluster} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			client := start(t).Client()
			lock := acquire(t, New(client, Options{Retention: time.Hour}))
			if got, found, err := lock.Intent(ctx, "job"); found || err != nil {
				t.Errorf("before: %v, %v, %v", got, found, err)
			}
			for _, want := range []Intent{{Branch: "main", Commit: "1", Parent: "0"}, {Branch: "main", Commit: "2", Parent: "1", Created: true, Changed: 3}} {
				if err := lock.SetIntent(ctx, "job", want); err != nil {
					t.Fatal(err)
				}
				if got, found, err := lock.Intent(ctx, "job"); got != want || !found || err != nil {
					t.Errorf("Intent = %v, %v, %v; want %v", got, found, err, want)
				}
			}
			for _, key := range []string{lock.keys.Intent("job"), lock.keys.Fence()} {
				if life := client.PTTL(ctx, key).Val(); life <= 59*time.Minute || life > time.Hour {
					t.Errorf("%s lives %v, want the retention", key, life)
				}
			}
			client.Set(ctx, lock.keys.Intent("job"), "damaged", 0)
			if _, _, err := lock.Intent(ctx, "job"); fault.KindOf(err) != fault.Internal {
				t.Errorf("a damaged intent: %v, want an Internal fault", err)
			}
			// Data that Redis lost must not let a stale holder write.
			client.Del(ctx, lock.keys.Fence())
			if err := lock.SetIntent(ctx, "job", Intent{}); fault.KindOf(err) != fault.Unavailable {
				t.Errorf("without a fence in Redis: %v, want an Unavailable fault", err)
			}
		})
	}
}
