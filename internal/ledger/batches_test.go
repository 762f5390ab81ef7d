package ledger

import (
	"fmt"
	"testing"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

// TestListOfARequester: a page has what one user asked for, whatever others did; what was made before there were requesters is its actor's.
func TestListOfARequester(t *testing.T) {
	t.Parallel()
	a := newAccounts(t, queuetest.Start(t).Client())
	var hers []string
	for i := range 12 {
		actor := system
		if i%4 == 0 {
			actor = alice
			hers = append(hers, fmt.Sprint("b", i))
		}
		a.create(fmt.Sprint("b", i), actor, a.request(1, nil))
	}
	if err := a.redis.HDel(t.Context(), "gitsmith:{"+installation+"}:batch:b4", "requester").Err(); err != nil {
		t.Fatal(err)
	}
	for requester, want := range map[string]int{"": 12, alice.Principal: len(hers), "712020:bob": 0} {
		var got []string
		for cursor, pages := "", 0; pages == 0 || cursor != ""; pages++ {
			page, next, err := a.List(t.Context(), installation, batch.ListOptions{Requester: requester, Limit: 2, Cursor: cursor})
			if err != nil || len(page) > 2 || pages > 12 {
				t.Fatalf("%d batches, %v", len(page), err)
			}
			for _, status := range page {
				got = append(got, status.ID)
			}
			cursor = next
		}
		if len(got) != want {
			t.Errorf("asked for by %q: %q", requester, got)
		}
	}
}

// TestForget: nothing names an installation that is erased, and nobody can make the drivers look for batches that are not there.
func TestForget(t *testing.T) {
	t.Parallel()
	a := newAccounts(t, queuetest.Start(t).Client())
	a.create("b1", system, a.request(1, nil))
	if err := a.Forget(t.Context(), installation); err != nil {
		t.Fatal(err)
	}
	if err := a.Cancel(t.Context(), installation, "none"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("%v", err)
	}
	for _, list := range []string{"gitsmith:batches:active", "gitsmith:batches:recent"} {
		if left := a.redis.ZRange(t.Context(), list, 0, -1).Val(); len(left) != 0 {
			t.Errorf("%s has %q", list, left)
		}
	}
}

// TestCancelAll: with the app's removal its batches end although no worker runs, and none goes on when the app comes back.
func TestCancelAll(t *testing.T) {
	onEach(t, func(a *accounts) {
		for _, id := range []string{"b1", "b2", "b3"} {
			a.create(id, system, a.request(2, nil))
		}
		ctx := a.t.Context()
		if err := a.Cancel(ctx, installation, "b1"); err != nil {
			a.t.Fatal(err)
		}
		if err := a.Pause(ctx, installation, "b2"); err != nil {
			a.t.Fatal(err)
		}
		for range 2 { // doing it again changes nothing
			if err := a.CancelAll(ctx, "another"); err != nil {
				a.t.Fatal(err)
			}
			if err := a.CancelAll(ctx, installation); err != nil {
				a.t.Fatal(err)
			}
		}
		for id, reason := range map[string]string{
			"b1": "canceled by a caller", "b2": "the app was removed from the workspace", "b3": "the app was removed from the workspace",
		} {
			status, err := a.Get(ctx, installation, id)
			if err != nil || status.State != batch.StateCanceled || status.Reason != reason || status.Totals[batch.Canceled] != 2 {
				a.t.Errorf("%+v %v", status, err)
			}
		}
	})
}
