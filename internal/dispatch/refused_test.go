package dispatch_test

import (
	"slices"
	"testing"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
)

// TestQueryWithARefusedToken asks once more with the actor's other token, and stops the batch where that is refused too or there is none.
func TestQueryWithARefusedToken(t *testing.T) {
	t.Parallel()
	refused := fault.Wrapf(fault.Denied, fault.ErrTokenRefused, "list the repositories: refused")
	for name, tc := range map[string]struct {
		fails    map[string]error
		otherErr error
		want     batch.State
		by       []string
	}{
		"the other one is taken":    {map[string]error{"": refused}, nil, batch.StateFinished, []string{"token", "other"}},
		"there is no other one":     {map[string]error{"": refused}, fault.Newf(fault.Expired, "none"), batch.StateStopped, []string{"token"}},
		"the refusal is of a scope": {map[string]error{"": fault.Newf(fault.Denied, "list the repositories: no scope")}, nil, batch.StateStopped, []string{"token"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := onReal(t)
			b.lister.pages = [][]bitbucket.Details{{{Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}}}}
			b.lister.fails, b.tokens.otherErr = tc.fails, tc.otherErr
			b.serve(succeed)
			b.create("b1", b.request(0, map[string]any{"query": map[string]any{"workspace": "acme"}}))
			b.await("b1", string(tc.want), func(s batch.Status) bool { return s.State == tc.want })
			b.lister.mutex.Lock()
			defer b.lister.mutex.Unlock()
			if !slices.Equal(b.lister.by, tc.by) {
				t.Errorf("asked with %q, want %q", b.lister.by, tc.by)
			}
		})
	}
}
