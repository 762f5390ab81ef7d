package dispatch_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

func z(item int) redis.Z { return redis.Z{Score: float64(item), Member: item} }

// TestRollout: the canaries end before others begin, then half, then all.
func TestRollout(t *testing.T) {
	onBoth(t, func(b *bundle) {
		gates := make([]chan struct{}, 20)
		for i := range gates {
			gates[i] = make(chan struct{})
		}
		b.serve(func(ctx context.Context, j job.Job) (job.Result, error) {
			select {
			case <-gates[j.Batch.Item]:
			case <-ctx.Done():
				return job.Result{}, ctx.Err()
			}
			return succeed(ctx, j)
		})
		b.create("b1", b.request(20, map[string]any{"rollout": map[string]any{"canary": 2, "then": "50%"}, "concurrency": 20}))
		for _, stage := range []batch.Stage{{Name: "canary", Until: 2}, {Name: "then", Until: 10}, {Name: "rest", Until: 20}} {
			begun := func(s batch.Status) int { return s.Totals[batch.Running] + s.Totals[batch.Succeeded] }
			status := b.await("b1", stage.Name, func(s batch.Status) bool { return begun(s) == stage.Until })
			if *status.Stage != stage {
				b.t.Errorf("%+v, wanted %+v", status.Stage, stage)
			}
			for i := range stage.Until {
				select {
				case <-gates[i]:
				default:
					if i < stage.Until-1 || stage.Name == "rest" {
						close(gates[i])
					}
				}
			}
			if stage.Name == "rest" {
				break
			}
			// One of the stage is left: nothing more begins.
			last := b.await("b1", "one is left", func(s batch.Status) bool { return s.Totals[batch.Succeeded] == stage.Until-1 })
			if begun(last) != stage.Until {
				b.t.Errorf("%d have begun in stage %s", begun(last), stage.Name)
			}
			close(gates[stage.Until-1])
		}
		b.finished("b1")
	})
}

// TestStopAtFailures: the batch stops by itself and says why; a resume goes on, and stops again only after as many new failures.
func TestStopAtFailures(t *testing.T) {
	for name, tc := range map[string]struct {
		rollout map[string]any
		begun   int // at most, when it stops
		reason  string
	}{
		"of the canaries": {
			map[string]any{"canary": 5, "stop_at_failures": "20%"},
			5,
			"stopped by itself: 1 of the 5 repositories of this stage failed, and stop_at_failures is 20%; look at the failures, then resume or cancel",
		},
		"a number": {
			map[string]any{"stop_at_failures": 3},
			4,
			"stopped by itself: 3 of the 40 repositories of this stage failed, and stop_at_failures is 3; look at the failures, then resume or cancel",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := onReal(t)
			var mended atomic.Bool
			b.serve(func(ctx context.Context, j job.Job) (job.Result, error) {
				if j.Batch.Item < 4 && !mended.Load() {
					return job.Result{}, fault.Newf(fault.Invalid, "broken")
				}
				return succeed(ctx, j)
			})
			b.create("b1", b.request(40, map[string]any{"rollout": tc.rollout, "concurrency": 1}))
			stopped := b.await("b1", "it stops", func(s batch.Status) bool { return s.State == batch.StateStopped && s.Totals[batch.Running] == 0 })
			if begun := stopped.Total - stopped.Totals[batch.Queued]; stopped.Reason != tc.reason || begun > tc.begun {
				t.Errorf("%d had begun, %q", begun, stopped.Reason)
			}
			for range 5 { // accepts what failed, until nothing more does
				if err := b.store.Resume(t.Context(), installation, "b1"); err != nil {
					t.Fatal(err)
				}
				status := b.await("b1", "it stops or ends", func(s batch.Status) bool { return s.State == batch.StateStopped || !s.EndedAt.IsZero() })
				if status.State == batch.StateFinished {
					break
				}
			}
			mended.Store(true)
			if err := b.store.Retry(t.Context(), installation, "b1"); err != nil {
				t.Fatal(err)
			}
			if status := b.finished("b1"); status.Totals[batch.Succeeded] != 40 {
				t.Errorf("%v", status.Totals)
			}
		})
	}
}

// TestRate: no more begin than the rate allows, which is a minute's worth at once.
func TestRate(t *testing.T) {
	b := onReal(t)
	now := time.Now()
	var clock atomic.Int64
	clock.Store(now.UnixMilli())
	b.store.Now = func() time.Time { return time.UnixMilli(clock.Load()) }
	b.serve(succeed)
	b.create("b1", b.request(30, map[string]any{"per_hour": 600, "concurrency": 50}))
	done := func(n int) func(batch.Status) bool {
		return func(s batch.Status) bool { return s.Totals[batch.Succeeded] == n }
	}
	b.await("b1", "a minute's worth", done(10))
	clock.Add((12 * time.Second).Milliseconds())
	b.await("b1", "two more", done(12))
	clock.Add((5 * time.Second).Milliseconds())
	clock.Add((2 * time.Second).Milliseconds())
	b.await("b1", "one more", done(13))
	clock.Add(time.Hour.Milliseconds())
	b.await("b1", "no more than a minute's worth", done(23))
	clock.Add(time.Hour.Milliseconds())
	b.finished("b1")
}

// TestOldBatchEnds: what has not begun after a week is canceled.
func TestOldBatchEnds(t *testing.T) {
	b := onReal(t)
	b.create("b1", b.request(3, nil))
	if err := b.store.Pause(t.Context(), installation, "b1"); err != nil {
		t.Fatal(err)
	}
	b.store.Now = func() time.Time { return time.Now().Add(batch.MaxAge + time.Minute) }
	b.drive()
	status := b.await("b1", "it ends", func(s batch.Status) bool { return s.State == batch.StateCanceled })
	if status.Totals[batch.Canceled] != 3 || status.Reason != "the batch is a week old; what had not begun was canceled" {
		t.Errorf("%+v", status)
	}
}
