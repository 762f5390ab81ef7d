package edit_test

import (
	"context"
	"slices"
	"testing"

	"github.com/gitsmith/gitsmith/internal/edit"
)

func TestTreeDepth(t *testing.T) {
	t.Parallel()
	const diff = "--- a/x/y/z\n+++ b/x/y/z\n@@ -1 +1 @@\n-a\n+b\n"
	for name, tc := range map[string]struct {
		changes []edit.Change
		want    int
	}{
		"nothing":            {nil, 1},
		"in the root":        {[]edit.Change{put("a", "")}, 1},
		"the deepest":        {[]edit.Change{put("a/b", ""), remove("c/d/e/f"), put("g", "")}, 4},
		"both ends":          {[]edit.Change{move("a", "b/c/d")}, 3},
		"a literal":          {[]edit.Change{replace("x", "y", "a/b/c.txt")}, 3},
		"stars in one level": {[]edit.Change{replace("x", "y", "a/*/c*.txt")}, 3},
		"all levels":         {[]edit.Change{replace("x", "y", "docs/**/*.md")}, 0},
		"alternatives":       {[]edit.Change{replace("x", "y", "{a,b/c/d}/e")}, 0},
		"a patch":            {[]edit.Change{patch(diff)}, 3},
		"wrong":              {[]edit.Change{put("/", "")}, 0},
	} {
		if got := edit.TreeDepth(tc.changes, edit.Limits{}); got != tc.want {
			t.Errorf("%s: %d, want %d", name, got, tc.want)
		}
	}
}

// prefetching is a tree that notes what it is told to get, and which blobs are then read.
type prefetching struct {
	tree
	told, read []string
}

func (p *prefetching) Prefetch(_ context.Context, ids []string) error {
	p.told = append(p.told, ids...)
	return nil
}

func (p *prefetching) Blob(ctx context.Context, id string, limit int64) ([]byte, error) {
	p.read = append(p.read, id)
	return p.tree.Blob(ctx, id, limit)
}

// Whatever is read of the source was announced, all at once.
func TestPrefetch(t *testing.T) {
	t.Parallel()
	source := &prefetching{tree: files("a/one.txt", "x1\n", "a/two.txt", "x2\n", "b", "x3\n", "same", "x1\n")}
	changes := []edit.Change{
		replace("x", "y", "a/*.txt"), replace("x", "z", "same"), put("b", "new"),
		patch("--- a/a/two.txt\n+++ b/a/two.txt\n@@ -1 +1 @@\n-y2\n+w2\n"),
	}
	if _, err := edit.Apply(t.Context(), source, changes, edit.Limits{}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(source.told)
	if unique := slices.Compact(slices.Clone(source.told)); len(unique) != len(source.told) || len(unique) != 2 {
		t.Errorf("told to get %v", source.told)
	}
	for _, id := range source.read {
		if !slices.Contains(source.told, id) {
			t.Errorf("%s is read and was not announced", id)
		}
	}
}
