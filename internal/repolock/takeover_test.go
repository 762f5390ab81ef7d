package repolock

import (
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

// TestTakeover: a later attempt of the job that holds the lock gets it at once, and the earlier one loses it. Nobody else does.
func TestTakeover(t *testing.T) {
	t.Parallel()
	locker := New(queuetest.Start(t).Client(), Options{TTL: 3 * time.Second, Wait: 10 * time.Millisecond})
	first, err := locker.Acquire(t.Context(), installation, repository, Holder{"job", 2})
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]Holder{
		"itself": {"job", 2}, "an earlier attempt": {"job", 1}, "another job": {"other", 3}, "nobody in particular": {}, "a name's beginning": {"jo", 3},
	} {
		if lock, err := locker.Acquire(t.Context(), installation, repository, other); lock != nil || fault.KindOf(err) != fault.Throttled {
			t.Errorf("%s: %v, %v", name, lock, err)
		}
	}
	second, err := locker.Acquire(t.Context(), installation, repository, Holder{"job", 10})
	if err != nil || second.Fence() <= first.Fence() {
		t.Fatal(second, err)
	}
	defer second.Release(t.Context()) //nolint:errcheck // the server goes away with it
	if err := first.SetIntent(t.Context(), "job", Intent{Branch: "main"}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("the earlier attempt writes down what it is about to push: %v", err)
	}
	if cause := waitEnd(t, first); fault.KindOf(cause) != fault.Unavailable {
		t.Errorf("the earlier attempt ends for %v", cause)
	}
	if err := second.SetIntent(t.Context(), "job", Intent{Branch: "main"}); err != nil {
		t.Error(err)
	}
}
