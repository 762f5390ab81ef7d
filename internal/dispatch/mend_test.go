package dispatch_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

func key(id string) string { return "gitsmith:{" + installation + "}:batch:" + id }

// TestRetryOfWhatIsGone: a repository whose job is not kept any more is retried all the same: its content is the batch's.
func TestRetryOfWhatIsGone(t *testing.T) {
	onBoth(t, func(b *bundle) {
		b.serve(func(ctx context.Context, j job.Job) (job.Result, error) {
			if j.Generation == 0 {
				return job.Result{}, fault.Newf(fault.Invalid, "not yet")
			}
			return succeed(ctx, j)
		})
		b.create("b1", b.request(20, nil))
		b.finished("b1")
		for _, gone := range []int{0, 7} {
			id, ctx := batch.JobID("b1", gone), b.t.Context()
			for _, name := range []string{"gitsmith:{" + installation + "}:payload:" + id, "asynq:{batch}:t:" + id} {
				if err := b.redis.Del(ctx, name).Err(); err != nil {
					b.t.Fatal(err)
				}
			}
			if err := b.redis.ZRem(ctx, "asynq:{batch}:archived", id).Err(); err != nil {
				b.t.Fatal(err)
			}
		}
		if err := b.store.Retry(b.t.Context(), installation, "b1"); err != nil {
			b.t.Fatal(err)
		}
		status := b.finished("b1")
		if diff := cmp.Diff(map[batch.ItemState]int{batch.Succeeded: 20}, totals(status)); diff != "" {
			b.t.Error(diff)
		}
	})
}

// TestCanceledWhileTaken: repositories that were taken, and could not be queued before the batch was canceled, end without a worker.
func TestCanceledWhileTaken(t *testing.T) {
	b := onReal(t)
	b.create("b1", b.request(5, nil))
	for _, item := range []int{0, 1} {
		pipeline := b.redis.TxPipeline()
		pipeline.ZRem(t.Context(), key("b1")+":pending", item)
		pipeline.ZAdd(t.Context(), key("b1")+":queued", z(item))
		if _, err := pipeline.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.redis.Set(t.Context(), "gitsmith:{"+installation+"}:gone", 1, time.Hour).Err(); err != nil {
		t.Fatal(err)
	}
	b.drive()
	status := b.await("b1", "it ends", func(s batch.Status) bool { return s.State == batch.StateCanceled && !s.EndedAt.IsZero() })
	if status.Totals[batch.Canceled] != 5 {
		t.Errorf("%v", status.Totals)
	}
}

// TestRepeatedRequest: the same call again is answered with the batch that it made, whatever has become of the dry run, and the
// dashboard knows of the batch even where the first call did not come so far.
func TestRepeatedRequest(t *testing.T) {
	b := onReal(t)
	b.serve(func(context.Context, job.Job) (job.Result, error) {
		return job.Result{Push: &job.PushResult{Branch: "b", DryRun: true, Parent: "p", Tree: "t"}}, nil
	})
	b.create("dry", b.request(2, map[string]any{"dry_run": true}))
	b.finished("dry")
	request := b.parse(map[string]any{"from": "dry"})
	b.create("real", request)
	if err := b.redis.Del(t.Context(), key("dry"), "gitsmith:batches:recent").Err(); err != nil {
		t.Fatal(err)
	}
	again := batch.Batch{ID: "real", Installation: installation, Actor: system, CreatedAt: time.Now(), Digest: "digest of real", Request: request}
	if status, created, err := b.store.Create(t.Context(), again); err != nil || created || status.Total != 2 {
		t.Errorf("%+v, %t, %v", status, created, err)
	}
	if recent, err := b.store.Recent(t.Context(), 10); err != nil || len(recent) != 1 || recent[0].ID != "real" {
		t.Errorf("%+v, %v", recent, err)
	}
	again.Digest = "another"
	if _, _, err := b.store.Create(t.Context(), again); fault.KindOf(err) != fault.Conflict {
		t.Errorf("%v", err)
	}
}

// TestSameIDLater: what a process remembers of a batch is not taken for that of a later one with the same Idempotency-Key.
func TestSameIDLater(t *testing.T) {
	b := onReal(t)
	for _, branch := range []string{"first", "second"} {
		push := aPush()
		push["branch"] = branch
		_, _, err := b.store.Create(t.Context(), batch.Batch{
			ID: "b1", Installation: installation, Actor: system, CreatedAt: time.Now(), Digest: branch, Request: b.request(1, map[string]any{"push": push}),
		})
		if err != nil {
			t.Fatal(err)
		}
		if made, err := b.fill("b1", 0); err != nil || made.Branch != branch {
			t.Errorf("%+v, %v; wanted branch %s", made, err, branch)
		}
		for _, part := range []string{"", ":spec", ":items", ":pending"} {
			if err := b.redis.Del(t.Context(), key("b1")+part).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := b.fill("b1", 0); fault.KindOf(err) != fault.NotFound {
			t.Errorf("of a batch that is gone: %v", err)
		}
	}
}

// TestEveryKeyRunsOut: whatever way a batch goes, none of its keys stays for ever.
func TestEveryKeyRunsOut(t *testing.T) {
	b := onReal(t)
	failing := func(ctx context.Context, j job.Job) (job.Result, error) {
		if j.Batch.Item%4 == 0 && j.Generation == 0 {
			return job.Result{}, fault.Newf(fault.Invalid, "no")
		}
		return succeed(ctx, j)
	}
	b.serve(failing)
	push := aPush()
	push["message"] = "Add {{ repository.name ?? \"\" }}"
	b.create("b1", b.request(12, map[string]any{"push": push, "rollout": map[string]any{"canary": 1, "stop_at_failures": 1}}))
	b.await("b1", "it stops", func(s batch.Status) bool { return s.State == batch.StateStopped })
	if _, err := b.fill("b1", 0); err != nil { // keeps what was looked up
		t.Fatal(err)
	}
	if err := b.store.Retry(t.Context(), installation, "b1"); err != nil {
		t.Fatal(err)
	}
	b.await("b1", "it ends or stops", func(s batch.Status) bool { return s.State == batch.StateStopped || !s.EndedAt.IsZero() })
	_ = b.store.Cancel(t.Context(), installation, "b1") // or it has ended
	b.await("b1", "it ends", func(s batch.Status) bool { return !s.EndedAt.IsZero() })
	keys, err := b.redis.Keys(t.Context(), "*:batch:*").Result()
	if err != nil || len(keys) < 5 {
		t.Fatalf("%q, %v", keys, err)
	}
	for _, name := range keys {
		if life := b.redis.PTTL(t.Context(), name).Val(); life == -1 {
			t.Errorf("%s stays for ever", name)
		}
	}
}

// TestBatchOnCluster: every script and transaction stays in one slot, as a Redis Cluster demands.
func TestBatchOnCluster(t *testing.T) {
	t.Parallel()
	b := newBundle(t, queuetest.StartCluster(t).Client())
	if _, ok := b.redis.(*redis.ClusterClient); !ok {
		t.Fatalf("%T", b.redis)
	}
	b.lister.pages = onePage(6)
	held := make(chan struct{}) // or its only repository may have ended by the time that the batch is paused
	b.serve(func(ctx context.Context, j job.Job) (job.Result, error) {
		switch {
		case j.Batch.ID == "held":
			<-held
		case j.Batch.Item == 1 && j.Generation == 0:
			return job.Result{}, fault.Newf(fault.Invalid, "no")
		case j.Batch.ID == "dry":
			return job.Result{Push: &job.PushResult{Branch: "b", DryRun: true, Parent: "p", Tree: "t"}}, nil
		}
		return succeed(ctx, j)
	})
	b.create("query", b.request(0, map[string]any{"query": map[string]any{"workspace": "acme"}, "rollout": map[string]any{"canary": 2, "stop_at_failures": 1}}))
	b.await("query", "it stops", func(s batch.Status) bool { return s.State == batch.StateStopped && s.Totals[batch.Failed] == 1 })
	if err := b.store.Retry(t.Context(), installation, "query"); err != nil {
		t.Fatal(err)
	}
	if status := b.finished("query"); status.Totals[batch.Succeeded] != 6 {
		t.Errorf("%v", status.Totals)
	}
	b.create("dry", b.request(4, map[string]any{"dry_run": true, "per_hour": 100_000}))
	b.finished("dry")
	if err := b.store.Retry(t.Context(), installation, "dry"); err != nil {
		t.Fatal(err)
	}
	b.finished("dry")
	b.create("real", b.parse(map[string]any{"from": "dry"}))
	b.finished("real")
	b.create("paused", b.request(4, map[string]any{"rollout": map[string]any{"canary": 1}}))
	if err := b.store.Pause(t.Context(), installation, "paused"); err == nil {
		if err := b.store.Resume(t.Context(), installation, "paused"); err != nil {
			t.Error(err)
		}
	}
	b.finished("paused")
	b.create("held", b.request(1, nil))
	if err := b.store.Pause(t.Context(), installation, "held"); err != nil {
		t.Error(err)
	}
	if going, err := b.store.Going(t.Context()); err != nil || !maps.Equal(going, map[string]int{"paused": 1}) {
		t.Errorf("%v, %v", going, err)
	}
	close(held)
	_ = b.store.Cancel(t.Context(), installation, "held") // it is the test's end for it
	for _, look := range []func() (int, error){
		func() (int, error) { all, err := b.store.Recent(t.Context(), 10); return len(all), err },
		func() (int, error) {
			all, _, err := b.store.List(t.Context(), installation, batch.ListOptions{Limit: 10})
			return len(all), err
		},
		func() (int, error) {
			items, _, err := b.store.Items(t.Context(), installation, "dry", batch.ItemOptions{})
			return len(items), err
		},
	} {
		if count, err := look(); err != nil || count < 4 {
			t.Errorf("%d, %v", count, err)
		}
	}
	if err := b.store.Forget(t.Context(), installation); err != nil {
		t.Error(err)
	}
}

func onePage(n int) (pages [][]bitbucket.Details) {
	var found []bitbucket.Details
	for i := range n {
		found = append(found, bitbucket.Details{Repository: bitbucket.Repository{Workspace: "acme", Slug: fmt.Sprintf("web%d", i)}})
	}
	return append(pages, found)
}

// TestNeverCompleted: a batch that was not written to its end is removed after ten minutes, and not before.
func TestNeverCompleted(t *testing.T) {
	onBoth(t, func(b *bundle) {
		ctx := b.t.Context()
		for id, age := range map[string]time.Duration{"old": 11 * time.Minute, "new": 9 * time.Minute} {
			pipeline := b.redis.Pipeline()
			pipeline.HSet(ctx, key(id), "digest", "d", "state", "writing", "resolved", 0, "total", 2, "plan", "p", "written", 1, "actor", "system", "created", time.Now().Add(-age).UnixMilli())
			pipeline.HSet(ctx, key(id)+":items", 0, "{}")
			pipeline.ZAdd(ctx, key(id)+":pending", z(0))
			pipeline.Set(ctx, key(id)+":spec", "sealed", 0)
			pipeline.ZAdd(ctx, "gitsmith:{"+installation+"}:batches", redis.Z{Score: 1, Member: id})
			pipeline.ZAdd(ctx, "gitsmith:batches:active", redis.Z{Score: float64(time.Now().Add(-age).UnixMilli()), Member: installation + " " + id})
			if _, err := pipeline.Exec(ctx); err != nil {
				b.t.Fatal(err)
			}
		}
		b.drive()
		wait, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		for b.redis.ZCard(ctx, "gitsmith:batches:active").Val() != 1 {
			if wait.Err() != nil {
				b.t.Fatal("the old one is looked at for ever")
			}
		}
		left, err := b.redis.Keys(ctx, "*}:batch:old*").Result()
		if index := b.redis.ZRange(ctx, "gitsmith:{"+installation+"}:batches", 0, -1).Val(); err != nil || len(left) != 0 || !slices.Equal(index, []string{"new"}) {
			b.t.Errorf("%q and %q are left, %v", left, index, err)
		}
		if b.redis.ZCard(ctx, key("new")+":pending").Val() != 1 {
			b.t.Error("the new one was touched")
		}
	})
}
