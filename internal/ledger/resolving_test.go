package ledger

import (
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// TestResolvingLeavesPausedAlone: what asks the queries reads no batch that is due in days, as a paused one is, until it is steered.
func TestResolvingLeavesPausedAlone(t *testing.T) {
	onEach(t, func(a *accounts) {
		ctx, books := a.t.Context(), a.Batches
		a.create("b1", system, a.request(0, map[string]any{
			"query": map[string]any{"workspace": "acme"}, "push": map[string]any{"branch": "x", "message": "m", "changes": []any{map[string]any{"put": map[string]any{"path": "a.txt", "content": "x"}}}},
		}))
		mustBe := func(want int, what string) {
			a.t.Helper()
			if found, err := books.Resolving(ctx); err != nil || len(found) != want {
				a.t.Errorf("%s: %v, %v", what, found, err)
			}
		}
		mustBe(1, "made")
		settle := func(after time.Duration) {
			a.t.Helper()
			if _, err := books.Claim(ctx); err != nil {
				a.t.Fatal(err)
			}
			if err := books.Settle(ctx, Active{installation, "b1"}, 0, after); err != nil {
				a.t.Fatal(err)
			}
		}
		settle(5 * time.Second)
		mustBe(1, "looked at")
		if err := books.Pause(ctx, installation, "b1"); err != nil {
			a.t.Fatal(err)
		}
		mustBe(0, "paused")
		settle(6 * 24 * time.Hour)
		// As if it resolved: only its time says that it does not.
		if err := a.redis.HSet(ctx, keyspace.Installation(installation).Batch("b1").Root(), "state", "resolving").Err(); err != nil {
			a.t.Fatal(err)
		}
		mustBe(0, "due in days")
		if err := a.redis.HSet(ctx, keyspace.Installation(installation).Batch("b1").Root(), "state", "paused").Err(); err != nil {
			a.t.Fatal(err)
		}
		if err := books.Resume(ctx, installation, "b1"); err != nil {
			a.t.Fatal(err)
		}
		mustBe(1, "resumed")
	})
}
