package gittest_test

import (
	"path/filepath"
	"testing"

	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// TestOutOfAHook: git tells its hooks, and what they run, which repository it works on. The kit's commands work on their own all the same.
func TestOutOfAHook(t *testing.T) {
	folder := t.TempDir()
	for _, variable := range []string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"} {
		t.Setenv(variable, filepath.Join(folder, "of the hook"))
	}
	own := filepath.Join(folder, "own")
	if _, err := gittest.Git(t.Context(), folder, nil, "init", "--quiet", own); err != nil {
		t.Fatal(err)
	}
	if found, err := gittest.Git(t.Context(), own, nil, "rev-parse", "--absolute-git-dir"); err != nil || found != filepath.Join(own, ".git") {
		t.Errorf("%q, %v", found, err)
	}
}
