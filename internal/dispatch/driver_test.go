package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
)

// totals are those that are not zero.
func totals(status batch.Status) map[batch.ItemState]int {
	some := maps.Clone(status.Totals)
	maps.DeleteFunc(some, func(_ batch.ItemState, count int) bool { return count == 0 })
	return some
}

// TestEveryEnd: repositories end in all the ways there are, never more at once than asked for, and the batch says so.
func TestEveryEnd(t *testing.T) {
	onBoth(t, func(b *bundle) {
		var running, most atomic.Int32
		b.serve(func(ctx context.Context, j job.Job) (job.Result, error) {
			if now := running.Add(1); now > most.Load() {
				most.Store(now)
			}
			defer running.Add(-1)
			switch j.Batch.Item % 6 {
			case 0:
				return job.Result{Push: &job.PushResult{Branch: "b", Unchanged: true}}, nil
			case 1:
				return job.Result{Push: &job.PushResult{Branch: "b", Skipped: "there is no go.mod"}}, nil
			case 2:
				return job.Result{}, fault.Newf(fault.Denied, "push to %s: the scope write:repository:bitbucket is missing", j.Repository)
			case 3:
				return job.Result{}, fault.Newf(fault.NotFound, "%s is not there, in %s", j.Repository.Slug, "0123456789012345678901234567890123456789")
			}
			return succeed(ctx, j)
		})
		b.create("b1", b.request(60, map[string]any{"concurrency": 4}))
		status := b.finished("b1")
		want := map[batch.ItemState]int{batch.Unchanged: 10, batch.Skipped: 10, batch.Failed: 20, batch.Succeeded: 20}
		if diff := cmp.Diff(want, totals(status)); diff != "" {
			b.t.Error(diff)
		}
		if most.Load() > 4 {
			b.t.Errorf("%d at once, wanted 4", most.Load())
		}
		wantFailures := []batch.Group{
			{Kind: "denied", Reason: "push to …: the scope write:repository:bitbucket is missing", Count: 10, Examples: []string{"acme/repo2", "acme/repo8", "acme/repo14", "acme/repo20", "acme/repo26"}},
			{Kind: "not_found", Reason: "… is not there, in …", Count: 10, Examples: []string{"acme/repo3", "acme/repo9", "acme/repo15", "acme/repo21", "acme/repo27"}},
		}
		if diff := cmp.Diff(wantFailures, status.Failures); diff != "" {
			b.t.Error(diff)
		}
		if len(status.Skips) != 1 || status.Skips[0].Count != 10 || status.Skips[0].Reason != "there is no go.mod" {
			b.t.Errorf("%+v", status.Skips)
		}
		if status.PerMinute <= 0 || status.SecondsLeft != nil || status.Title != "Add a file" {
			b.t.Errorf("%+v", status)
		}
	})
}

// TestAtOnce: a batch begins when it is asked for, and goes on when it is resumed, before anybody looks for batches.
func TestAtOnce(t *testing.T) {
	b := onReal(t)
	b.redis.Set(t.Context(), "gitsmith:{"+installation+"}:batch:b1:tick", 1, 0) // no look ever finds it
	b.serve(succeed)
	b.heard("gitsmith:batches:wake")
	b.create("b1", b.request(3, map[string]any{"concurrency": 1, "rollout": map[string]any{"canary": 1}}))
	b.await("b1", "the batch ends", func(s batch.Status) bool { return s.Totals[batch.Succeeded] == 3 })
	b.redis.Set(t.Context(), "gitsmith:{"+installation+"}:batch:b2:tick", 1, 0)
	b.tokens.set(forge.ActorSystem, false)
	b.create("b2", b.request(1, nil))
	b.await("b2", "it is held", func(s batch.Status) bool { return s.State == batch.StatePaused })
	b.tokens.set(forge.ActorSystem, true)
	if err := b.store.Resume(t.Context(), installation, "b2"); err != nil {
		t.Fatal(err)
	}
	b.finished("b2")
}

// TestItems: pages in the given order, by state, whose cursor outlives changes.
func TestItems(t *testing.T) {
	b := onReal(t)
	b.create("b1", b.request(7, nil))
	var names []string
	for cursor := ""; ; {
		page, next, err := b.store.Items(t.Context(), installation, "b1", batch.ItemOptions{Limit: 3, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page {
			names = append(names, item.Repository)
			if item.State != batch.Queued || item.Job != "" {
				t.Errorf("%+v", item)
			}
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	if want := []string{"acme/repo0", "acme/repo1", "acme/repo2", "acme/repo3", "acme/repo4", "acme/repo5", "acme/repo6"}; !slices.Equal(names, want) {
		t.Errorf("%v", names)
	}
	b.serve(func(ctx context.Context, j job.Job) (job.Result, error) {
		if j.Batch.Item == 5 {
			return job.Result{}, fault.Newf(fault.Invalid, "no")
		}
		return succeed(ctx, j)
	})
	b.finished("b1")
	page, next, err := b.store.Items(t.Context(), installation, "b1", batch.ItemOptions{State: batch.Failed})
	if err != nil || next != "" || len(page) != 1 {
		t.Fatalf("%v %q %v", page, next, err)
	}
	if item := page[0]; item.Repository != "acme/repo5" || item.Failure == nil || item.Failure.Detail != "no" || item.Job != batch.JobID("b1", 5) || item.Attempts != 1 {
		t.Errorf("%+v", item)
	}
	if page, _, _ = b.store.Items(t.Context(), installation, "b1", batch.ItemOptions{State: batch.Succeeded, Limit: 1}); page[0].Commit != fmt.Sprintf("%040d", 0) {
		t.Errorf("%+v", page[0])
	}
	for _, wrong := range []string{"x", "-1", "99999999"} {
		if _, _, err := b.store.Items(t.Context(), installation, "b1", batch.ItemOptions{Cursor: wrong}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	if _, _, err := b.store.Items(t.Context(), "another", "b1", batch.ItemOptions{}); err == nil || fault.KindOf(err) != fault.NotFound {
		t.Errorf("another installation: %v", err)
	}
}

// TestRetry: what failed runs again, for the same requester and as the same actor; what succeeded does not.
func TestRetry(t *testing.T) {
	onBoth(t, func(b *bundle) {
		var mutex sync.Mutex
		runs, actors := map[int]int{}, map[int]forge.Actor{}
		b.serve(func(ctx context.Context, j job.Job) (job.Result, error) {
			mutex.Lock()
			defer mutex.Unlock()
			runs[j.Batch.Item]++
			actors[j.Batch.Item] = j.Actor
			if j.Requester != alice.Principal {
				b.t.Errorf("repository %d is asked for by %q", j.Batch.Item, j.Requester)
			}
			if j.Batch.Item%3 == 0 && runs[j.Batch.Item] < 3 {
				return job.Result{}, fault.Newf(fault.Invalid, "not yet")
			}
			return succeed(ctx, j)
		})
		b.createAs("b1", alice, b.request(30, nil))
		if status := b.finished("b1"); status.Totals[batch.Failed] != 10 {
			b.t.Fatalf("%v", status.Totals)
		}
		for range 2 {
			if err := b.store.Retry(b.t.Context(), installation, "b1"); err != nil {
				b.t.Fatal(err)
			}
			b.finished("b1")
		}
		status := b.finished("b1")
		if diff := cmp.Diff(map[batch.ItemState]int{batch.Succeeded: 30}, totals(status)); diff != "" || len(status.Failures) != 0 {
			b.t.Errorf("%s %v", diff, status.Failures)
		}
		mutex.Lock()
		defer mutex.Unlock()
		for item, count := range runs {
			want := 1
			if item%3 == 0 {
				want = 3
			}
			if count != want || actors[item] != alice {
				b.t.Errorf("repository %d ran %d times, last as %v", item, count, actors[item])
			}
		}
		if err := b.store.Retry(b.t.Context(), installation, "b1"); fault.KindOf(err) != fault.Conflict {
			b.t.Errorf("nothing failed: %v", err)
		}
	})
}

// TestPauseResumeCancel: what runs finishes, what waits does not begin.
func TestPauseResumeCancel(t *testing.T) {
	onBoth(t, func(b *bundle) {
		gate := make(chan struct{})
		b.serve(gated(gate))
		b.create("b1", b.request(20, map[string]any{"concurrency": 3}))
		b.await("b1", "three run", func(s batch.Status) bool { return s.Totals[batch.Running] == 3 })
		ctx := b.t.Context()
		if err := b.store.Pause(ctx, installation, "b1"); err != nil {
			b.t.Fatal(err)
		}
		for range 3 {
			gate <- struct{}{}
		}
		paused := b.await("b1", "three end", func(s batch.Status) bool { return s.Totals[batch.Succeeded] == 3 })
		if paused.State != batch.StatePaused || paused.Totals[batch.Queued] != 17 || paused.SecondsLeft != nil {
			b.t.Errorf("%+v", paused)
		}
		if err := b.store.Pause(ctx, installation, "b1"); fault.KindOf(err) != fault.Conflict {
			b.t.Errorf("paused twice: %v", err)
		}
		if err := b.store.Resume(ctx, installation, "b1"); err != nil {
			b.t.Fatal(err)
		}
		b.await("b1", "three more run", func(s batch.Status) bool { return s.Totals[batch.Running] == 3 })
		if err := b.store.Cancel(ctx, installation, "b1"); err != nil {
			b.t.Fatal(err)
		}
		canceled := b.await("b1", "the rest is canceled", func(s batch.Status) bool { return s.Totals[batch.Canceled] == 14 })
		if canceled.State != batch.StateCanceled || canceled.Totals[batch.Running] != 3 {
			b.t.Errorf("%+v", canceled)
		}
		close(gate)
		ended := b.await("b1", "what ran ends", func(s batch.Status) bool { return !s.EndedAt.IsZero() })
		if diff := cmp.Diff(map[batch.ItemState]int{batch.Succeeded: 6, batch.Canceled: 14}, totals(ended)); diff != "" {
			b.t.Error(diff)
		}
		for what, act := range map[string]error{
			"resume": b.store.Resume(ctx, installation, "b1"), "cancel": b.store.Cancel(ctx, installation, "b1"), "retry": b.store.Retry(ctx, installation, "b1"),
		} {
			if fault.KindOf(act) != fault.Conflict {
				b.t.Errorf("%s a canceled batch: %v", what, act)
			}
		}
		if err := b.store.Cancel(ctx, "another", "b1"); fault.KindOf(err) != fault.NotFound {
			b.t.Errorf("another installation's: %v", err)
		}
	})
}

// TestCancelEndsWhatWaits: repositories that wait for another attempt end with the batch.
func TestCancelEndsWhatWaits(t *testing.T) {
	b := onReal(t)
	b.serve(func(context.Context, job.Job) (job.Result, error) {
		return job.Result{}, &fault.Error{Kind: fault.Throttled, Public: "slow down", RetryAfter: time.Hour}
	})
	b.create("b1", b.request(30, map[string]any{"concurrency": 4}))
	// As many as may run at once wait beside those that may run: then nothing more begins.
	b.await("b1", "they wait", func(s batch.Status) bool { return s.Totals[batch.Waiting] == 8 && s.Totals[batch.Queued] == 22 })
	if err := b.store.Cancel(t.Context(), installation, "b1"); err != nil {
		t.Fatal(err)
	}
	b.await("b1", "all are canceled", func(s batch.Status) bool { return s.Totals[batch.Canceled] == 30 && !s.EndedAt.IsZero() })
}

// TestToken: without a token nothing begins; the next one lets the batch go on by itself.
func TestToken(t *testing.T) {
	for _, actor := range []forge.Actor{system, alice} {
		t.Run(string(actor.Kind), func(t *testing.T) {
			b := onReal(t)
			var ran atomic.Int32
			b.serve(func(ctx context.Context, j job.Job) (job.Result, error) {
				if ran.Add(1) == 5 {
					b.tokens.set(actor.Kind, false)
				}
				return succeed(ctx, j)
			})
			b.createAs("b1", actor, b.request(40, map[string]any{"concurrency": 2}))
			held := b.await("b1", "it waits for a token", func(s batch.Status) bool { return s.State == batch.StatePaused && s.Totals[batch.Running] == 0 })
			if held.Reason == "" || held.Totals[batch.Failed] != 0 || held.Totals[batch.Queued] == 0 {
				t.Errorf("%+v", held)
			}
			b.tokens.set(actor.Kind, true)
			if status := b.finished("b1"); status.Totals[batch.Succeeded] != 40 || status.Reason != "" || ran.Load() != 40 {
				t.Errorf("%+v, %d ran", status, ran.Load())
			}
		})
	}
}

// TestQuery: pages are asked for one after another, trouble puts the query off or stops it, and the percentages of a roll-out are of what
// was found.
func TestQuery(t *testing.T) {
	onBoth(t, func(b *bundle) {
		for page := range 3 {
			var found []bitbucket.Details
			for i := range 4 {
				found = append(found, bitbucket.Details{
					Repository: bitbucket.Repository{Workspace: "acme", Slug: fmt.Sprintf("web-%d-%d", page, i)}, Project: "CORE", Name: "Web", MainBranch: "main",
				})
			}
			found = append(found, bitbucket.Details{Repository: bitbucket.Repository{Workspace: "acme", Slug: "other"}})
			b.lister.pages = append(b.lister.pages, found)
		}
		b.lister.fails = map[string]error{"page1": fault.Newf(fault.Denied, "list the repositories: the scope is missing")}
		b.serve(succeed)
		b.create("b1", b.request(0, map[string]any{"query": map[string]any{"name": "web-*", "project": "CORE", "has_file": "go.mod"}}))
		stopped := b.await("b1", "the refusal stops it", func(s batch.Status) bool { return s.State == batch.StateStopped })
		if stopped.Total != 4 || stopped.Reason != "list the repositories: the scope is missing" || stopped.Totals[batch.Queued] != 4 {
			b.t.Errorf("%+v", stopped)
		}
		if err := b.store.Resume(b.t.Context(), installation, "b1"); err != nil {
			b.t.Fatal(err)
		}
		if status := b.finished("b1"); status.Total != 12 || status.Totals[batch.Succeeded] != 12 {
			b.t.Errorf("%+v", status)
		}
		b.lister.mutex.Lock()
		defer b.lister.mutex.Unlock()
		if first := b.lister.asked[0]; first.Workspace != "{11111111-1111-1111-1111-111111111111}" || first.Project != "CORE" || len(b.lister.asked) != 4 {
			b.t.Errorf("asked %+v", b.lister.asked)
		}
	})
}

func TestQueryFindsNothing(t *testing.T) {
	b := onReal(t)
	b.lister.pages = [][]bitbucket.Details{{}}
	b.serve(succeed)
	b.create("b1", b.request(0, map[string]any{"query": map[string]any{"workspace": "acme"}}))
	if status := b.finished("b1"); status.Total != 0 || status.Reason != "the query finds no repository" {
		t.Errorf("%+v", status)
	}
}

// TestTakerDies: repositories that a worker had taken, and not queued when it died, are queued by another.
func TestTakerDies(t *testing.T) {
	onBoth(t, func(b *bundle) {
		b.create("b1", b.request(10, nil))
		key := "gitsmith:{" + installation + "}:batch:b1"
		for _, item := range []int{0, 1, 2} {
			pipeline := b.redis.TxPipeline()
			pipeline.ZRem(b.t.Context(), key+":pending", item)
			pipeline.ZAdd(b.t.Context(), key+":queued", z(item))
			if _, err := pipeline.Exec(b.t.Context()); err != nil {
				b.t.Fatal(err)
			}
		}
		var ran atomic.Int32
		b.serve(func(ctx context.Context, j job.Job) (job.Result, error) { ran.Add(1); return succeed(ctx, j) })
		if status := b.finished("b1"); status.Totals[batch.Succeeded] != 10 || ran.Load() != 10 {
			b.t.Errorf("%v, %d ran", status.Totals, ran.Load())
		}
	})
}

// TestQueuerDies: a job whose record is there and whose ticket is not, because who queued it died in between, gets another one.
func TestQueuerDies(t *testing.T) {
	onBoth(t, func(b *bundle) {
		b.create("b1", b.request(6, nil))
		_, stop := b.drive()
		b.await("b1", "all are queued", func(batch.Status) bool {
			items, _, err := b.store.Items(b.t.Context(), installation, "b1", batch.ItemOptions{})
			return err == nil && !slices.ContainsFunc(items, func(item batch.Item) bool { return item.Job == "" })
		})
		stop()
		inspector := asynq.NewInspectorFromRedisClient(b.redis)
		for _, item := range []int{1, 4} {
			err := inspector.DeleteTask("jobs-batch", batch.JobID("b1", item)+".0.0")
			if err != nil && !errors.Is(err, asynq.ErrTaskNotFound) { // the stop came in between: so it is
				b.t.Fatal(err)
			}
		}
		var ran atomic.Int32
		b.serve(func(ctx context.Context, j job.Job) (job.Result, error) { ran.Add(1); return succeed(ctx, j) })
		if status := b.finished("b1"); status.Totals[batch.Succeeded] != 6 || ran.Load() != 6 {
			b.t.Errorf("%v, %d ran", status.Totals, ran.Load())
		}
	})
}

// TestManyDrivers: several workers look after one batch, and each repository runs once.
func TestManyDrivers(t *testing.T) {
	b := onReal(t)
	for range 3 {
		b.drive()
	}
	var ran atomic.Int32
	b.serve(func(ctx context.Context, j job.Job) (job.Result, error) { ran.Add(1); return succeed(ctx, j) })
	b.create("b1", b.request(200, map[string]any{"concurrency": 20}))
	if status := b.finished("b1"); status.Totals[batch.Succeeded] != 200 || ran.Load() != 200 {
		t.Errorf("%v, %d ran", status.Totals, ran.Load())
	}
	left, err := b.redis.ZCard(t.Context(), "gitsmith:batches:active").Result()
	b.await("b1", "nobody looks after it", func(batch.Status) bool {
		left, err = b.redis.ZCard(t.Context(), "gitsmith:batches:active").Result()
		return err == nil && left == 0
	})
}

// TestJobsByThemselves: a job of a batch is a job like others; the ledger follows what is done to it.
func TestJobsByThemselves(t *testing.T) {
	onBoth(t, func(b *bundle) {
		var fail atomic.Bool
		fail.Store(true)
		b.serve(func(ctx context.Context, j job.Job) (job.Result, error) {
			if fail.Load() {
				return job.Result{}, fault.Newf(fault.Invalid, "no")
			}
			return succeed(ctx, j)
		})
		b.create("b1", b.request(2, nil))
		b.finished("b1")
		fail.Store(false)
		if _, err := b.client.Retry(b.t.Context(), installation, batch.JobID("b1", 1)); err != nil {
			b.t.Fatal(err)
		}
		status := b.await("b1", "one has succeeded", func(s batch.Status) bool { return s.Totals[batch.Succeeded] == 1 })
		if status.Totals[batch.Failed] != 1 || status.State != batch.StateFinished {
			b.t.Errorf("%+v", status)
		}
		// The same end, told again by a worker that thought that nobody knew.
		state, err := b.client.Get(b.t.Context(), installation, batch.JobID("b1", 1))
		if err != nil || state.Batch != "b1" {
			b.t.Errorf("%+v %v", state, err)
		}
	})
}

// TestRemoved: with the installation's removal its batches end.
func TestRemoved(t *testing.T) {
	b := onReal(t)
	gate := make(chan struct{})
	b.serve(gated(gate))
	b.create("b1", b.request(10, map[string]any{"concurrency": 2}))
	b.await("b1", "two run", func(s batch.Status) bool { return s.Totals[batch.Running] == 2 })
	if err := b.redis.Set(t.Context(), "gitsmith:{"+installation+"}:gone", 1, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.CancelAll(t.Context(), installation); err != nil {
		t.Fatal(err)
	}
	close(gate)
	b.await("b1", "it ends", func(s batch.Status) bool {
		return s.State == batch.StateCanceled && !s.EndedAt.IsZero() && s.Totals[batch.Canceled] >= 8
	})
	_, _, err := b.store.Create(t.Context(), batch.Batch{ID: "b2", Installation: installation, Actor: system, CreatedAt: time.Now(), Request: b.request(1, nil)})
	if fault.KindOf(err) != fault.Denied {
		t.Errorf("a batch of a removed installation: %v", err)
	}
}

// TestLedgerFollowsRedelivery: an attempt that was given up and ends late counts once.
func TestLedgerFollowsRedelivery(t *testing.T) {
	b := onReal(t)
	b.create("b1", b.request(1, nil))
	began, gate := make(chan struct{}, 2), make(chan struct{})
	slow := queue.NewServer(b.queue, queue.ServerConfig{Processor: processor(func(ctx context.Context, j job.Job) (job.Result, error) {
		began <- struct{}{}
		<-gate
		return succeed(ctx, j)
	}), Concurrency: 1, Grace: time.Millisecond})
	if err := slow.Start(); err != nil {
		t.Fatal(err)
	}
	b.drive()
	<-began
	stopped := make(chan struct{})
	go func() { defer close(stopped); slow.Stop() }() // gives the job back although it runs
	b.serve(succeed)
	b.finished("b1")
	close(gate)
	<-stopped
	if status := b.finished("b1"); status.Totals[batch.Succeeded] != 1 || status.Total != 1 {
		t.Errorf("%v", status.Totals)
	}
}
