package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestComparisonsAreMedians(t *testing.T) {
	t.Parallel()
	samples := func(walls ...int) (all []Sample) {
		for _, wall := range walls {
			all = append(all, Sample{Wall: time.Duration(wall) * time.Millisecond, CPU: time.Millisecond, RSS: 5 << 20})
		}
		return all
	}
	table := comparisons("Push", "A note.",
		Comparison{Name: "small", Theirs: samples(90, 1000, 100), Ours: samples(40, 50, 1)},
		Comparison{Name: "a medium one", Theirs: samples(), Ours: samples()})
	var out strings.Builder
	if err := table.Write(&out); err != nil {
		t.Fatal(err)
	}
	const want = `## Push

| repository   |    git | Gitsmith | times quicker | git CPU | Gitsmith CPU | git memory | Gitsmith memory |
|--------------|-------:|---------:|--------------:|--------:|-------------:|-----------:|----------------:|
| small        | 100 ms |    40 ms |          2.50 |    1 ms |         1 ms |       5 MB |            5 MB |
| a medium one |   0 ms |     0 ms |             - |    0 ms |         0 ms |       0 MB |            0 MB |

A note.

`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"git version 2.39.5\n": "git 2.39.5",
		"Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=d81b8ff71cfb150e\n": "redis 7.0.15",
		"something else": "something else",
	} {
		if got := version(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// The figures are only worth something if both ways work on the same repository each time.
func TestShapesAreTheSameEachTime(t *testing.T) {
	t.Parallel()
	shape := Shape{Name: "tiny", Files: 20, Commits: 5, Words: 30, Edits: 2, Rewritten: 3}
	var tips [2]string
	for i := range tips {
		directory, err := Build(t.Context(), t.TempDir(), shape)
		if err != nil {
			t.Fatal(err)
		}
		tips[i] = gitOutput(t, directory, "rev-parse", "main")
		if commits := gitOutput(t, directory, "rev-list", "--count", "main"); commits != "5" {
			t.Errorf("%s commits", commits)
		}
		if files := strings.Count(gitOutput(t, directory, "ls-tree", "-r", "main"), "\n") + 1; files != 20 {
			t.Errorf("%d files", files)
		}
		gitOutput(t, directory, "cat-file", "-e", "main:"+EditedFile)
	}
	if tips[0] != tips[1] {
		t.Errorf("two builds end in %s and %s", tips[0], tips[1])
	}
}
