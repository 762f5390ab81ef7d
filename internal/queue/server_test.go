package queue_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

const private = "private-5f1c9a"

// TestDispositions: what becomes of the record and of the task, for each way to fail.
func TestDispositions(t *testing.T) {
	classified := func(kind fault.Kind) error { return fault.Wrapf(kind, errors.New(private), "public text") }
	alice := forge.Actor{Kind: forge.ActorUser, Principal: "712020:alice"}
	for name, tc := range map[string]struct {
		err      error
		change   func(*job.Job)
		state    job.State
		task     asynq.TaskState
		attempts int
		retried  int // as asynq counts
	}{
		"invalid":         {classified(fault.Invalid), nil, job.Failed, asynq.TaskStateArchived, 1, 0},
		"denied":          {classified(fault.Denied), nil, job.Failed, asynq.TaskStateArchived, 1, 0},
		"not found":       {classified(fault.NotFound), nil, job.Failed, asynq.TaskStateArchived, 1, 0},
		"too large":       {classified(fault.TooLarge), nil, job.Failed, asynq.TaskStateArchived, 1, 0},
		"conflict":        {classified(fault.Conflict), nil, job.Failed, asynq.TaskStateArchived, 1, 0},
		"expired":         {classified(fault.Expired), nil, job.Expired, asynq.TaskStateArchived, 1, 0},
		"expired, user":   {classified(fault.Expired), func(j *job.Job) { j.Actor = alice }, job.Expired, asynq.TaskStateArchived, 1, 0},
		"expired, waits":  {classified(fault.Expired), func(j *job.Job) { j.OnExpiry = job.OnExpiryWait }, job.Waiting, asynq.TaskStateCompleted, 0, 0},
		"throttled":       {classified(fault.Throttled), nil, job.Retrying, asynq.TaskStateRetry, 0, 0},
		"unavailable":     {classified(fault.Unavailable), nil, job.Retrying, asynq.TaskStateRetry, 1, 1},
		"internal":        {errors.New(private), nil, job.Retrying, asynq.TaskStateRetry, 1, 1},
		"canceled":        {classified(fault.Canceled), nil, job.Canceled, asynq.TaskStateArchived, 1, 0},
		"past the token":  {&job.AttemptError{Err: classified(fault.Unavailable), RetryUntil: time.Now()}, nil, job.Expired, asynq.TaskStateArchived, 1, 0},
		"while it lives":  {&job.AttemptError{Err: classified(fault.Unavailable), RetryUntil: time.Now().Add(time.Hour)}, nil, job.Retrying, asynq.TaskStateRetry, 1, 1},
		"unauthenticated": {classified(fault.Unauthenticated), nil, job.Failed, asynq.TaskStateArchived, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, b *bundle) {
				j := aJob("j1")
				if tc.change != nil {
					tc.change(&j)
				}
				b.enqueue(j)
				ended := make(chan queue.End, 1)
				b.serve(queue.ServerConfig{Ended: func(_ context.Context, _ job.Job, end queue.End) { ended <- end }},
					func(context.Context, job.Job) (job.Result, error) { return job.Result{}, tc.err })
				end := receive(t, ended)
				status := b.await("j1", tc.state)
				if status.Attempts != tc.attempts || status.Failure == nil || status.Failure.Kind != fault.KindOf(tc.err) || status.Result != nil {
					t.Errorf("%+v %+v", status, status.Failure)
				}
				if end.State != tc.state || end.Kind != fault.KindOf(tc.err) || end.Attempt != 1 || !errors.Is(end.Err, tc.err) {
					t.Errorf("%+v", end)
				}
				if status.EndedAt.IsZero() == tc.state.Ended() || status.NextAt.IsZero() != tc.state.Ended() {
					t.Errorf("ended at %s, next at %s", status.EndedAt, status.NextAt)
				}
				info := b.taskState("j1", tc.task)
				if info.Retried != tc.retried || tc.task != asynq.TaskStateCompleted && !strings.Contains(info.LastErr, status.Failure.Detail) || strings.Contains(info.LastErr+status.Failure.Detail, private) {
					t.Errorf("retried %d times, error %q, detail %q", info.Retried, info.LastErr, status.Failure.Detail)
				}
			})
		})
	}
}

// TestInterruptedGoesBack: an interrupted attempt is not counted and the job runs again.
func TestInterruptedGoesBack(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.enqueue(aJob("j1"))
		var attempts atomic.Int32
		b.serve(queue.ServerConfig{}, func(ctx context.Context, j job.Job) (job.Result, error) {
			if attempts.Add(1) == 1 {
				return job.Result{}, context.Canceled
			}
			return succeed(ctx, j)
		})
		if status := b.await("j1", job.Succeeded); status.Attempts != 1 || attempts.Load() != 2 {
			t.Errorf("%d attempts counted of %d", status.Attempts, attempts.Load())
		}
	})
}

func TestAttemptsRunOut(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		b.enqueue(aJob("j1"))
		var attempts atomic.Int32
		b.serve(queue.ServerConfig{Attempts: 3}, func(context.Context, job.Job) (job.Result, error) {
			switch attempts.Add(1) {
			case 2: // does not count
				return job.Result{}, fault.Newf(fault.Throttled, "slow down")
			default:
				return job.Result{}, fault.Newf(fault.Unavailable, "away")
			}
		})
		for range 3 {
			b.hurry("j1")
		}
		status := b.await("j1", job.Failed)
		if status.Attempts != 3 || attempts.Load() != 4 || status.Failure.Detail != "away; given up after 3 attempts; try later" {
			t.Errorf("%d attempts counted of %d: %+v", status.Attempts, attempts.Load(), status.Failure)
		}
	})
}

// TestTimeout: the end of an attempt's time counts, whatever it looks like from inside, and keeps the bound on the next one.
func TestTimeout(t *testing.T) {
	for name, tc := range map[string]struct {
		wrap  func(error) error
		state job.State
	}{
		"bare":       {func(err error) error { return err }, job.Retrying},
		"classified": {func(err error) error { return fault.Wrapf(fault.Interrupted, err, "clone: interrupted") }, job.Retrying},
		"other kind": {func(err error) error { return fault.Wrapf(fault.Unavailable, err, "clone: broke off") }, job.Retrying},
		"bounded":    {func(err error) error { return &job.AttemptError{Err: err, RetryUntil: time.Now()} }, job.Expired},
	} {
		t.Run(name, func(t *testing.T) {
			b := onReal(t)
			b.enqueue(aJob("j1"))
			b.serve(queue.ServerConfig{JobTimeout: time.Millisecond}, func(ctx context.Context, _ job.Job) (job.Result, error) {
				<-ctx.Done()
				return job.Result{}, tc.wrap(ctx.Err())
			})
			status := b.await("j1", tc.state)
			if status.Attempts != 1 || status.Failure.Kind != fault.Unavailable || !strings.Contains(status.Failure.Detail, "took longer than 1ms") {
				t.Errorf("%+v %+v", status, status.Failure)
			}
		})
	}
}

// TestPanic: a defect that one job meets does not end its neighbours.
func TestPanic(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"), aJob("j2"))
	ended := make(chan queue.End, 2)
	b.serve(queue.ServerConfig{Ended: func(_ context.Context, _ job.Job, end queue.End) { ended <- end }},
		func(ctx context.Context, j job.Job) (job.Result, error) {
			if j.ID == "j1" {
				panic(private)
			}
			return succeed(ctx, j)
		})
	end := receive(t, ended)
	if end.Kind != fault.Internal || !strings.Contains(fault.Private(end.Err), "server_test.go") || strings.Contains(fault.Public(end.Err), private) {
		t.Errorf("the error does not lead to the place: %s", fault.Private(end.Err))
	}
	b.await("j1", job.Retrying)
	b.await("j2", job.Succeeded)
}

// TestOneSlot: asynq frees a slot while a handler that it canceled still runs; ours does not.
func TestOneSlot(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"), aJob("j2"))
	started, release := make(chan string, 4), make(chan struct{})
	var running, most atomic.Int32
	b.serve(queue.ServerConfig{Concurrency: 1}, func(ctx context.Context, j job.Job) (job.Result, error) {
		defer running.Add(-1)
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		started <- j.ID
		if j.ID == "j1" {
			<-release // does not heed its context
		}
		return succeed(ctx, j)
	})
	if first := receive(t, started); first != "j1" {
		t.Fatalf("%s began first", first)
	}
	// As an operator's click on the dashboard, or a lost lease: asynq believes that the handler is done, and takes up the next.
	b.letGo("j1")
	b.taskState("j2", asynq.TaskStateActive)
	b.taskState("j1", asynq.TaskStateRetry)
	select {
	case second := <-started:
		t.Errorf("%s began while j1 still ran", second)
	default:
	}
	close(release)
	b.await("j2", job.Succeeded)
	b.await("j1", job.Succeeded)
	if most.Load() != 1 {
		t.Errorf("%d handlers ran at once with concurrency 1", most.Load())
	}
	b.taskState("j1", asynq.TaskStateCompleted) // delivered again, found done
	if len(started) != 1 {
		t.Errorf("j1 ran again after its success")
	}
}

// TestClasses: the interactive queue comes first, and no queue starves.
func TestClasses(t *testing.T) {
	b := onReal(t)
	for i := range 30 {
		for _, class := range []job.Class{job.ClassInteractive, job.ClassEvent, job.ClassBatch} {
			j := aJob(fmt.Sprintf("%s-%d", class, i))
			j.Class = class
			b.enqueue(j)
		}
	}
	order := make(chan job.Class, 90)
	b.serve(queue.ServerConfig{Concurrency: 1}, func(ctx context.Context, j job.Job) (job.Result, error) {
		order <- j.Class
		return succeed(ctx, j)
	})
	counts := map[job.Class]int{}
	for range 45 {
		counts[receive(t, order)]++
	}
	if counts[job.ClassInteractive] <= counts[job.ClassBatch] || counts[job.ClassInteractive] < 15 {
		t.Errorf("the first half: %v", counts)
	}
	for range 45 {
		counts[receive(t, order)]++
	}
	if diff := cmp.Diff(map[job.Class]int{job.ClassInteractive: 30, job.ClassEvent: 30, job.ClassBatch: 30}, counts); diff != "" {
		t.Error(diff)
	}
}

// TestNoSecretInRedis: the content of a push and whatever private text an error holds are in no key and no value.
func TestNoSecretInRedis(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		const canary = "canary-d41f77"
		results := map[string]error{
			"done":    nil,
			"failed":  fault.Wrapf(fault.Denied, errors.New(canary), "no"),
			"retried": fmt.Errorf("%s: %w", canary, fault.Newf(fault.Unavailable, "away")),
			"unknown": errors.New(canary),
			"panic":   nil,
		}
		for id := range results {
			j := aJob(id)
			j.Push.Message = canary
			j.Push.Changes[0].Put.Content = canary
			b.enqueue(j)
		}
		running, hold := make(chan struct{}), make(chan struct{})
		held := aJob("held")
		held.Push.Message = canary
		b.serve(queue.ServerConfig{Concurrency: 2}, func(ctx context.Context, j job.Job) (job.Result, error) {
			switch j.ID {
			case "held":
				close(running)
				<-hold
			case "panic":
				panic(canary)
			}
			if j.Push.Message != canary {
				return job.Result{}, fault.Newf(fault.Invalid, "the content was lost")
			}
			if err := results[j.ID]; err != nil {
				return job.Result{}, err
			}
			return succeed(ctx, j)
		})
		b.await("done", job.Succeeded)
		b.await("failed", job.Failed)
		b.await("retried", job.Retrying)
		b.await("unknown", job.Retrying)
		b.await("panic", job.Retrying)
		b.enqueue(held)
		receive(t, running)
		// asynq copies the payload of what runs into its own keys at its next heartbeat.
		eventually(t, func() error {
			if keys := b.redis.Keys(t.Context(), "asynq:workers:*").Val(); len(keys) == 0 {
				return errors.New("no heartbeat yet")
			}
			return nil
		})
		everything := dump(t, b.redis)
		close(hold)
		b.await("held", job.Succeeded)
		everything += dump(t, b.redis)
		for _, form := range disguises(canary) {
			if strings.Contains(everything, form) {
				t.Errorf("the canary is in redis, as %s", form)
			}
		}
		hidden := base64.StdEncoding.EncodeToString([]byte(`{"m":"` + canary + `"}`))
		if !slices.ContainsFunc(disguises(canary), func(form string) bool { return strings.Contains(hidden, form) }) {
			t.Error("the search does not find what is only encoded")
		}
		for _, known := range []string{"acme", "asynq:{jobs-interactive}:t:done.0.0", recordKey("failed"), payloadKey("failed"), "c0ffee", "\"v\":1"} {
			if !strings.Contains(everything, known) {
				t.Errorf("the search does not find %q, which is there", known)
			}
		}
	})
}

// disguises are the forms in which a text may stand without being sealed. Base64 has three, by where in the whole it begins.
func disguises(text string) []string {
	forms := []string{text, hex.EncodeToString([]byte(text))}
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + text))
		forms = append(forms, encoded[4*min(shift, 1):len(encoded)-4])
	}
	return forms
}

// dump is every key and value.
func dump(t *testing.T, client redis.UniversalClient) string {
	t.Helper()
	ctx := t.Context()
	var all strings.Builder
	keys, err := client.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		var value any
		switch kind := client.Type(ctx, key).Val(); kind {
		case "string":
			value = client.Get(ctx, key).Val()
		case "hash":
			value = client.HGetAll(ctx, key).Val()
		case "list":
			value = client.LRange(ctx, key, 0, -1).Val()
		case "set":
			value = client.SMembers(ctx, key).Val()
		case "zset":
			value = client.ZRangeWithScores(ctx, key, 0, -1).Val()
		case "none": // gone meanwhile
		default:
			t.Fatalf("%s is a %s", key, kind)
		}
		fmt.Fprintf(&all, "%s = %v\n", key, value)
	}
	return all.String()
}

// TestIdleServerPolls: what an idle worker asks of Redis, which grows with the number of workers, stays bounded.
func TestIdleServerPolls(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	polls := &pollCounter{enough: make(chan struct{})}
	client.AddHook(polls)
	newBundle(t, client).serve(queue.ServerConfig{Concurrency: 4}, succeed)
	testkit.Receive(t, "the worker polls", polls.enough)
	// However loaded the machine is, it makes polls rarer.
	if rate := float64(pollsCounted) / polls.took.Seconds(); rate > 75 {
		t.Errorf("%.0f dequeues a second", rate)
	}
}

const pollsCounted = 150

// pollCounter is a hook that counts dequeues of nothing, and says how long so many took.
type pollCounter struct {
	seen   atomic.Int64
	began  time.Time
	took   time.Duration
	enough chan struct{}
}

func (p *pollCounter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (p *pollCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (p *pollCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		err := next(ctx, command)
		if command.Name() != "evalsha" || !errors.Is(err, redis.Nil) || !strings.Contains(fmt.Sprint(command.Args()...), ":pending") {
			return err
		}
		switch p.seen.Add(1) { // one goroutine of asynq's polls
		case 1:
			p.began = time.Now()
		case 1 + pollsCounted:
			p.took = time.Since(p.began)
			close(p.enough)
		}
		return err
	}
}
