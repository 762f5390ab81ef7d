package gitrepo_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// line commits count times on top of a branch.
func (b *bench) line(branch string, count int) {
	b.t.Helper()
	var stream strings.Builder
	for i := range count {
		fmt.Fprintf(&stream, "commit refs/heads/%s\ncommitter T <t@example.com> 1767225600 +0000\ndata 1\n-\n", branch)
		if i == 0 {
			fmt.Fprintf(&stream, "from refs/heads/%s^0\n", branch)
		}
		fmt.Fprintf(&stream, "M 100644 inline line\ndata <<.\n%d\n.\n\n", i)
	}
	if _, err := gittest.Git(b.t.Context(), b.git.Path("acme/web"), strings.NewReader(stream.String()), "fast-import", "--quiet"); err != nil {
		b.t.Fatal(err)
	}
}

// merge puts a merge of other on top of main, with main's tree.
func (b *bench) merge(other string) {
	b.t.Helper()
	b.cli("update-ref", "refs/heads/main", b.cli("-c", "user.name=T", "-c", "user.email=t@example.com",
		"commit-tree", "main^{tree}", "-p", "main", "-p", other, "-m", "Merge"))
}

// gone is a start that the server does not know.
var gone = strings.Repeat("1", 40)

// history is what became of main after a job pushed to it on a chain of four commits; the branch old is at the first of them.
type history struct {
	make     func(b *bench)
	since    string // main's commit before the push where empty; "-" for no start at all; "after" for none, but a time
	found    bool
	requests int64
}

var histories = map[string]history{
	"directly above":          {func(b *bench) { b.line("main", 3) }, "", true, 1},
	"farther than one step":   {func(b *bench) { b.line("main", 60) }, "", true, 2},
	"farther, the start gone": {func(b *bench) { b.line("main", 520) }, gone, true, 3},
	"below a merge of an older branch": {func(b *bench) {
		b.line("old", 1)
		b.merge("old")
		b.line("main", 1)
	}, "", true, 1},
	"in a merged branch": {func(b *bench) {
		b.cli("update-ref", "refs/heads/side", "main")
		b.cli("update-ref", "refs/heads/main", "main~1")
		b.line("main", 2)
		b.merge("side")
	}, "", true, 1},
	"not there, with an older branch": {func(b *bench) {
		b.cli("update-ref", "refs/heads/main", "main~1")
		b.line("old", 1)
		b.merge("old")
	}, "", false, 1},
	"not there, the start is gone":    {func(b *bench) { b.cli("update-ref", "refs/heads/main", "main~1") }, gone, false, 1},
	"the branch was reset":            {func(b *bench) { b.cli("update-ref", "refs/heads/main", "main~1") }, "", false, 0},
	"the branch was reset behind it":  {func(b *bench) { b.cli("update-ref", "refs/heads/main", "main~2") }, "", false, 1},
	"the branch was made anew":        {func(b *bench) { b.cli("update-ref", "refs/heads/main", "fresh") }, "", false, 1},
	"as far back as the time":         {func(b *bench) { b.line("main", 60) }, "after", true, 2},
	"no further than the time":        {func(b *bench) { b.line("main", 60) }, "too late", false, 1},
	"only the last fifty are of note": {func(b *bench) { b.line("main", 60) }, "-", false, 1},
}

// TestFindJobInHistory: the job's commit is found wherever it is above the start, whatever the server has packed, and without more
// requests than the distance takes.
func TestFindJobInHistory(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v0 bool) {
		for name, tc := range histories {
			for _, filter := range []string{"false", "true"} {
				t.Run(name+", filter "+filter, func(t *testing.T) {
					t.Parallel()
					b := start(t, gitrepo.Config{})
					b.v0.Store(v0)
					b.search(tc, filter)
				})
			}
		}
	})
}

// TestFindJobWithoutItsFilter: a server may have filters and refuse the one that leaves out all but commits.
func TestFindJobWithoutItsFilter(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v0 bool) {
		b := start(t, gitrepo.Config{})
		b.v0.Store(v0)
		b.search(history{func(b *bench) {
			b.cli("config", "uploadpackfilter.tree.allow", "false")
			b.line("main", 60)
		}, "", true, 3}, "true")
	})
}

// search makes a history and looks for the job's commit in it.
func (b *bench) search(h history, filter string) {
	b.t.Helper()
	b.create(map[string]string{"a": "1", "dir/b": "2"})
	b.cli("config", "uploadpack.allowFilter", filter)
	b.cli("update-ref", "refs/heads/old", "main")
	b.line("main", 3)
	if err := b.git.Commit(b.t.Context(), "acme/web", "fresh", "Other", map[string]string{"c": "3"}); err != nil {
		b.t.Fatal(err)
	}
	since := b.cli("rev-parse", "main")
	made, err := b.push(b.t.Context(), "main", put("x", "y"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.cli("repack", "-adfbq")
	h.make(b)
	switch h.since {
	case gone:
		since = gone
	case "-", "after", "too late":
		since = ""
	}
	mark := markOf("main", "j1")
	switch h.since {
	case "after":
		mark.After = time.Unix(1_767_225_600, 0) // as old as the commits that others pushed
	case "too late":
		mark.After = time.Unix(1_767_225_601, 0)
	}
	var asked atomic.Int64
	b.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if gittest.PhaseOf(r) == "upload_pack" {
			asked.Add(1)
		}
		return false
	})
	hash, found, err := b.client.FindJob(b.t.Context(), remote, mark, since)
	if err != nil || found != h.found || found && hash != made.Hash {
		b.t.Errorf("%q %t %v", hash, found, err)
	}
	if asked.Load() != h.requests {
		b.t.Errorf("%d requests, want %d", asked.Load(), h.requests)
	}
}

// TestFindJobWithoutTheTip: a server that does not send the tip has not said that the job's commit is not there.
func TestFindJobWithoutTheTip(t *testing.T) {
	t.Parallel()
	eachVersion(t, testFindJobWithoutTheTip)
}

func testFindJobWithoutTheTip(t *testing.T, v0 bool) {
	b := start(t, gitrepo.Config{})
	b.v0.Store(v0)
	b.create(map[string]string{"a": "1"})
	first := b.cli("rev-parse", "main")
	b.line("main", 2)
	if _, err := b.push(t.Context(), "main", put("x", "y")); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ want, since string }{
		"the pack of another":         {b.cli("rev-parse", "main~1"), first},
		"of another, without a start": {first, ""},
	} {
		b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if gittest.PhaseOf(r) != "upload_pack" {
				return false
			}
			gittest.Rewrite(func(line string) string {
				if strings.HasPrefix(line, "want ") {
					return "want " + tc.want + line[len("want ")+len(tc.want):] // by version 0 with capabilities
				}
				return line
			})(w, r, b.git)
			return true
		})
		if hash, found, err := b.client.FindJob(t.Context(), remote, markOf("main", "j1"), tc.since); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s: %q %t %v", name, hash, found, err)
		}
	}
}
