package gitrepo_test

import (
	"net/http"
	"testing"

	"github.com/gitsmith/gitsmith/internal/gitrepo"
)

// TestMainBranch: the main branch is the one that HEAD names, in both protocol versions, on the first visit and later.
func TestMainBranch(t *testing.T) {
	t.Parallel()
	for name, version := range map[string]int{"version 0": 0, "version 2": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, gitrepo.Config{})
			b.create(map[string]string{"a": "1"})
			b.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
				if version == 0 {
					r.Header.Del("Git-Protocol")
				}
				return false
			})
			b.cli("branch", "topic", "main")
			reads := func(what, ref, want string) {
				t.Helper()
				snapshot, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{Ref: ref, Depth: 1, Sparse: true, Push: true, MainBranch: true})
				if err != nil {
					t.Fatal(err)
				}
				if got := snapshot.MainBranch(); got != want {
					t.Errorf("%s: %q, want %q", what, got, want)
				}
				if err := snapshot.Close(); err != nil {
					t.Fatal(err)
				}
			}
			reads("on the first visit", "refs/heads/topic", "main")
			reads("on the second", "refs/heads/topic", "main")
			reads("of itself", "refs/heads/main", "main")
			reads("by HEAD", "", "main")
			b.cli("symbolic-ref", "HEAD", "refs/heads/release/1")
			b.cli("branch", "release/1", "main")
			reads("another", "refs/heads/topic", "release/1")
			b.cli("branch", "-D", "release/1")
			unborn := map[int]string{2: "release/1"} // version 0 says nothing of a branch that is not there
			reads("not there yet", "refs/heads/topic", unborn[version])
			b.cli("update-ref", "--no-deref", "HEAD", b.cli("rev-parse", "main"))
			reads("detached", "refs/heads/topic", "")
			b.cli("symbolic-ref", "HEAD", "refs/tags/main")
			b.cli("tag", "main", "main")
			reads("no branch", "refs/heads/topic", "")
		})
	}
}
