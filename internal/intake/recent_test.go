package intake

import (
	"fmt"
	"testing"

	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/installation"
)

// TestRecentIsBounded keeps the newest deliveries, and a token that comes with each of them once.
func TestRecentIsBounded(t *testing.T) {
	t.Parallel()
	var r recent
	for i := range maxRecent + 100 {
		r.add(done{bytes: 1, entry: entry{
			Call:   installation.Call{ID: "i", AppVersion: fmt.Sprint(i)},
			Tokens: []keptToken{{Actor: forge.Actor{Kind: forge.ActorSystem}, Text: []byte("the same")}},
		}})
	}
	all := r.all()
	if len(all) != maxRecent || all[0].entry.Call.AppVersion != "100" || &all[0].entry.Tokens[0].Text[0] != &all[maxRecent-1].entry.Tokens[0].Text[0] {
		t.Errorf("%d are kept, the oldest %q", len(all), all[0].entry.Call.AppVersion)
	}
	r.add(done{bytes: maxRecentBytes})
	if all := r.all(); len(all) != 1 || r.bytes != maxRecentBytes {
		t.Errorf("%d are kept beside one as large as all may be, %d bytes", len(all)-1, r.bytes)
	}
}
