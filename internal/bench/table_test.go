package bench

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRowsAreMediansBesideTheirPeer(t *testing.T) {
	t.Parallel()
	samples := func(walls ...int) (all []Sample) {
		for _, wall := range walls {
			all = append(all, Sample{
				Wall: time.Duration(wall) * time.Millisecond, CPU: time.Millisecond, RSS: 5e6, Read: "cached", Traffic: Traffic{Requests: 3, Down: 1700},
			})
		}
		return all
	}
	table := comparison("Push", "A note.", []Row{
		{Name: "git", Samples: samples(90, 1000, 100)},
		{Name: "ours", Samples: samples(40, 50, 1), Bound: 0.4, Memory: 5e6},
		{Name: "slow", Samples: samples(50), Bound: 0.4, Memory: 4e6},
	})
	var out strings.Builder
	if err := table.Write(&out); err != nil {
		t.Fatal(err)
	}
	const want = `### Push

| way  |   wall | ratio |   bound | client CPU | peak RSS | requests | down |   read |
|------|-------:|------:|--------:|-----------:|---------:|---------:|-----:|-------:|
| git  | 100 ms | 1.000 |         |       1 ms |     5 MB |        3 | 1 kB | cached |
| ours |  40 ms | 0.400 | ≤ 0.400 |       1 ms |     5 MB |        3 | 1 kB | cached |
| slow |  50 ms | 0.500 | ≤ 0.400 |       1 ms |     5 MB |        3 | 1 kB | cached |

A note.
Not kept: slow: 0.500 of the peer's time, the bound is 0.400; slow: 5 MB, the bound is 4 MB.

`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	if table = comparison("", "", []Row{{Name: "git", Samples: samples(1)}}); table.Note != "Every bound is kept." {
		t.Errorf("without a bound: %q", table.Note)
	}
}

func TestReplacePart(t *testing.T) {
	t.Parallel()
	const whole = "# Head\n\n<!-- a: begin -->\nold\n<!-- a: end -->\n\n<!-- b: begin -->\n<!-- b: end -->\n"
	got, err := replacePart(whole, "a", "new\n")
	if want := "# Head\n\n<!-- a: begin -->\n\nnew\n<!-- a: end -->\n\n<!-- b: begin -->\n<!-- b: end -->\n"; err != nil || got != want {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := replacePart(whole, "c", "new\n"); err == nil {
		t.Error("a part that is not there is replaced")
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
	shape := tiny()
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
		gitOutput(t, directory, "cat-file", "-e", "main:"+shape.Edited())
	}
	if tips[0] != tips[1] {
		t.Errorf("two builds end in %s and %s", tips[0], tips[1])
	}
}
