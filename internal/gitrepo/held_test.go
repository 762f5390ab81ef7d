package gitrepo_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
)

// TestHeldBranch: a branch that another push holds, or one whose sender is gone, has not moved. It is tried again later, not at once.
func TestHeldBranch(t *testing.T) {
	t.Parallel()
	eachVersion(t, testHeldBranch)
}

func testHeldBranch(t *testing.T, v0 bool) {
	b := start(t, gitrepo.Config{})
	b.v0.Store(v0)
	b.create(map[string]string{"a.txt": "a\n"})
	held := filepath.Join(b.git.Path("acme/web"), "refs", "heads", "main.lock")
	if err := os.WriteFile(held, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	before := b.cli("rev-parse", "main")
	if _, err := b.push(t.Context(), "main", put("b.txt", "b\n")); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("%v: %v", fault.KindOf(err), err)
	}
	if err := os.Remove(held); err != nil {
		t.Fatal(err)
	}
	if _, err := b.push(t.Context(), "main", put("b.txt", "b\n")); err != nil {
		t.Error(err)
	}
	if b.cli("rev-parse", "main") == before {
		t.Error("the branch did not move")
	}
}
