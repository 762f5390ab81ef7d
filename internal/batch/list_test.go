package batch_test

import (
	"fmt"
	"testing"

	"github.com/gitsmith/gitsmith/internal/batch"
)

// TestListOfARequester: a page has what one user asked for, whatever others did; what was made before there were requesters is its actor's.
func TestListOfARequester(t *testing.T) {
	b := onReal(t)
	var hers []string
	for i := range 12 {
		actor := system
		if i%4 == 0 {
			actor = alice
			hers = append(hers, fmt.Sprint("b", i))
		}
		b.createAs(fmt.Sprint("b", i), actor, b.request(1, nil))
	}
	if err := b.redis.HDel(t.Context(), "gitsmith:{"+installation+"}:batch:b4", "requester").Err(); err != nil {
		t.Fatal(err)
	}
	for requester, want := range map[string]int{"": 12, alice.Principal: len(hers), "712020:bob": 0} {
		var got []string
		for cursor, pages := "", 0; pages == 0 || cursor != ""; pages++ {
			page, next, err := b.store.List(t.Context(), installation, batch.ListOptions{Requester: requester, Limit: 2, Cursor: cursor})
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
