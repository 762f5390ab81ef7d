package worker_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/repolock"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// passOverCase is a push that may do nothing.
type passOverCase struct {
	world func(*world)
	job   func(*job.Push)
	want  job.PushResult
	calls string
	fails string // the public text of an Invalid fault
}

const (
	readMain  = "snapshot refs/heads/main@push+some of acme/web"
	readTopic = "snapshot refs/heads/topic@push+some of acme/web"
	sent      = `, intent on-c1, push main "c1"->on-c1, release`
)

func newTopic(on job.OnConflict) func(*job.Push) {
	return func(p *job.Push) { p.Branch, p.Create, p.OnConflict = "topic", true, on }
}

func passOverCases() map[string]passOverCase {
	pushed := job.PushResult{Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1}
	topic := func(w *world) { w.branches["topic"] = "t1" }
	return map[string]passOverCase{
		"it has the file": {
			job: func(p *job.Push) { p.HasFile = "same" }, want: pushed, calls: readMain + sent,
		},
		"it lacks the file": {
			job: func(p *job.Push) {
				p.HasFile, p.PullRequest = "go.mod", &job.PullRequest{Title: "t", Destination: "stable"}
			},
			want: job.PushResult{Branch: "main", Skipped: "there is no go.mod"}, calls: readMain + ", release",
		},
		"the base of a new branch lacks it": {
			job:   func(p *job.Push) { newTopic("")(p); p.HasFile = "go.mod" },
			want:  job.PushResult{Branch: "topic", Skipped: "there is no go.mod"},
			calls: readTopic + ", snapshot @push+some of acme/web, release",
		},
		"it lacks the file, but the job has pushed": {
			world: func(w *world) { w.branches["main"] = "by-j1" },
			job:   func(p *job.Push) { p.HasFile = "go.mod" },
			want:  job.PushResult{Branch: "main", Commit: "by-j1", Parent: "c0"}, calls: readMain + ", release",
		},
		"a branch in the way is updated": {
			world: topic, job: newTopic(job.OnConflictUpdate),
			want:  job.PushResult{Branch: "topic", Commit: "on-t1", Parent: "t1", Changed: 1},
			calls: readTopic + `, intent on-t1, push topic "t1"->on-t1, release`,
		},
		"a branch in the way is left": {
			world: topic, job: newTopic(job.OnConflictSkip),
			want: job.PushResult{Branch: "topic", Skipped: "branch topic exists"}, calls: readTopic + ", find since , release",
		},
		"a branch in the way is a failure": {
			world: topic, job: newTopic(job.OnConflictFail),
			fails: "branch topic exists in the repository; choose another, or on_conflict: update", calls: readTopic + ", find since , release",
		},
		"no branch in the way": {
			job:   newTopic(job.OnConflictFail),
			want:  job.PushResult{Branch: "topic", Commit: "on-c1", Parent: "c1", Changed: 1, Created: true},
			calls: readTopic + `, snapshot @push+some of acme/web, intent on-c1, push topic ""->on-c1, release`,
		},
		"the first commit of an empty repository is in nobody's way": {
			world: func(w *world) { w.branches, w.unborn = map[string]string{}, true }, job: newTopic(job.OnConflictFail),
			want:  job.PushResult{Branch: "topic", Commit: "on-", Changed: 1, Created: true},
			calls: readTopic + `, intent on-, push topic ""->on-, release`,
		},
		"the branch in the way is the job's, as the intent says": {
			world: func(w *world) {
				w.branches["topic"] = "on-c1"
				w.intents["j1"] = repolock.Intent{Branch: "topic", Commit: "on-c1", Parent: "c1", Changed: 1, Created: true}
			},
			job:  newTopic(job.OnConflictFail),
			want: job.PushResult{Branch: "topic", Commit: "on-c1", Parent: "c1", Changed: 1, Created: true}, calls: "tip topic, release",
		},
		"the branch in the way is the job's, as its tip says": {
			world: func(w *world) { w.branches["topic"] = "by-j1" }, job: newTopic(job.OnConflictSkip),
			want: job.PushResult{Branch: "topic", Commit: "by-j1", Parent: "c0"}, calls: readTopic + ", release",
		},
		"the branch in the way is the job's, below others' commits": {
			world: func(w *world) { topic(w); w.found = "on-c1" }, job: newTopic(job.OnConflictFail),
			want: job.PushResult{Branch: "topic", Commit: "on-c1", Created: true}, calls: readTopic + ", find since , release",
		},
		"a branch comes in the way while the change is made": {
			world: func(w *world) {
				w.pushErrs, w.moveTo = []error{fault.Newf(fault.Conflict, "moved")}, []string{"t1"}
			},
			job:  newTopic(job.OnConflictSkip),
			want: job.PushResult{Branch: "topic", Skipped: "branch topic exists", Restarts: 1},
			calls: readTopic + `, snapshot @push+some of acme/web, intent on-c1, push topic ""->on-c1, tip topic, find since c1, ` +
				readTopic + ", find since , release",
		},
		"as in the dry run": {
			job: func(p *job.Push) { p.Expect = &job.Expect{Parent: "c1", Tree: "tree-on-c1"} }, want: pushed, calls: readMain + sent,
		},
		"the tip has moved since the dry run": {
			job:  func(p *job.Push) { p.Expect = &job.Expect{Parent: "c0", Tree: "tree-on-c1"} },
			want: job.PushResult{Branch: "main", Skipped: "the branch's tip has moved since the dry run"}, calls: readMain + ", find since c0, release",
		},
		"the tip of a new branch's base has moved since the dry run": {
			job:   func(p *job.Push) { newTopic("")(p); p.Expect = &job.Expect{Parent: "c0", Tree: "t"} },
			want:  job.PushResult{Branch: "topic", Skipped: "the branch's tip has moved since the dry run"},
			calls: readTopic + ", snapshot @push+some of acme/web, release",
		},
		"another change than in the dry run": {
			job:  func(p *job.Push) { p.Expect = &job.Expect{Parent: "c1", Tree: "another"} },
			want: job.PushResult{Branch: "main", Skipped: "the change is another one than in the dry run"}, calls: readMain + ", release",
		},
		"moved since the dry run by the job itself, as the intent says": {
			world: func(w *world) {
				w.branches["main"] = "on-c1"
				w.intents["j1"] = repolock.Intent{Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1}
			},
			job: func(p *job.Push) { p.Expect = &job.Expect{Parent: "c1", Tree: "t"} }, want: pushed, calls: "tip main, release",
		},
		"moved since the dry run by the job itself, as the tip says": {
			world: func(w *world) { w.branches["main"] = "by-j1" },
			job:   func(p *job.Push) { p.Expect = &job.Expect{Parent: "c0", Tree: "t"} },
			want:  job.PushResult{Branch: "main", Commit: "by-j1", Parent: "c0"}, calls: readMain + ", release",
		},
		"moved since the dry run by the job itself, and then by others": {
			world: func(w *world) { w.branches["main"], w.found = "c9", "on-c1" },
			job:   func(p *job.Push) { p.Expect = &job.Expect{Parent: "c1", Tree: "t"} },
			want:  job.PushResult{Branch: "main", Commit: "on-c1", Parent: "c1"}, calls: readMain + ", find since c1, release",
		},
	}
}

func TestPassOver(t *testing.T) {
	t.Parallel()
	for name, tc := range passOverCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			if tc.world != nil {
				tc.world(w)
			}
			result, err := w.worker().Process(t.Context(), pushJob(func(j *job.Job) { tc.job(j.Push) }))
			switch {
			case tc.fails != "":
				if fault.KindOf(err) != fault.Invalid || fault.Public(err) != tc.fails {
					t.Errorf("%v, want %q", err, tc.fails)
				}
			case err != nil:
				t.Fatal(err)
			default:
				if strings.Contains(tc.calls, "snapshot") {
					tc.want.Read = "shallow"
				}
				if diff := cmp.Diff(&tc.want, result.Push); diff != "" {
					t.Error(diff)
				}
			}
			if diff := cmp.Diff(tc.calls, strings.Join(w.calls, ", ")); diff != "" {
				t.Error(diff)
			}
			if w.opened != w.closed {
				t.Errorf("%d snapshots opened, %d closed", w.opened, w.closed)
			}
		})
	}
}

// TestDryRun: the change is made and shown; nothing is locked, written down, pushed or asked for.
func TestDryRun(t *testing.T) {
	t.Parallel()
	dry := func(change func(*job.Push)) func(*job.Job) {
		return func(j *job.Job) {
			j.Push.DryRun, j.Push.PullRequest = true, &job.PullRequest{Title: "t", Destination: "stable"}
			if change != nil {
				change(j.Push)
			}
		}
	}
	shown := &job.Artifact{
		Format: job.ArchiveDiff, Size: int64(len("diff of 1 files within 262144")), SHA256: "digest", Files: 1, Truncated: true, ExpiresAt: now.Add(time.Hour),
	}
	topic := func(w *world) { w.branches["topic"] = "t1" }
	for name, tc := range map[string]passOverCase{
		"of a change": {
			want:  job.PushResult{Branch: "main", Parent: "c1", Changed: 1, Tree: "tree-on-c1", Added: 2, Removed: 1, Diff: shown},
			calls: "snapshot refs/heads/main@some of acme/web, artifact",
		},
		"on a new branch": {
			job:   newTopic(job.OnConflictFail),
			want:  job.PushResult{Branch: "topic", Parent: "c1", Changed: 1, Tree: "tree-on-c1", Added: 2, Removed: 1, Diff: shown, Created: true},
			calls: "snapshot refs/heads/topic@some of acme/web, snapshot @some of acme/web, artifact",
		},
		"of nothing": {
			job:   func(p *job.Push) { p.Changes[0].Put.Path = "same" },
			want:  job.PushResult{Branch: "main", Commit: "c1", Unchanged: true},
			calls: "snapshot refs/heads/main@some of acme/web",
		},
		"without the file": {
			job:   func(p *job.Push) { p.HasFile = "go.mod" },
			want:  job.PushResult{Branch: "main", Skipped: "there is no go.mod"},
			calls: "snapshot refs/heads/main@some of acme/web",
		},
		"with a branch in the way": {
			world: topic, job: newTopic(job.OnConflictSkip),
			want: job.PushResult{Branch: "topic", Skipped: "branch topic exists"}, calls: "snapshot refs/heads/topic@some of acme/web",
		},
		"with a branch in the way, which is a failure": {
			world: topic, job: newTopic(job.OnConflictFail), fails: "branch topic exists", calls: "snapshot refs/heads/topic@some of acme/web",
		},
		"while the repository is locked": {
			world: func(w *world) { w.lockErr = fault.Newf(fault.Throttled, "busy") },
			want:  job.PushResult{Branch: "main", Parent: "c1", Changed: 1, Tree: "tree-on-c1", Added: 2, Removed: 1, Diff: shown},
			calls: "snapshot refs/heads/main@some of acme/web, artifact",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			if tc.world != nil {
				tc.world(w)
			}
			result, err := w.worker().Process(t.Context(), pushJob(dry(tc.job)))
			if tc.fails != "" {
				if fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), tc.fails) {
					t.Errorf("%v, want %q", err, tc.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tc.want.DryRun, tc.want.Read = true, "shallow"
			if result.Push.Diff != nil {
				wanted := fmt.Sprintf("%s/j1.diff", worker.ArtifactFolder("i1"))
				if result.Push.Diff.Key != wanted || len(w.kept) != 1 || w.kept[wanted] != fmt.Sprintf("diff of 1 files within %d", worker.MaxDiff) {
					t.Error(result.Push.Diff.Key, w.kept)
				}
				result.Push.Diff.Key = ""
			}
			if diff := cmp.Diff(&tc.want, result.Push); diff != "" {
				t.Error(diff)
			}
			if calls := strings.Join(w.calls, ", "); !strings.HasPrefix(calls, tc.calls) || strings.Count(calls, ",") != strings.Count(tc.calls, ",") {
				t.Errorf("%s, want %s", calls, tc.calls)
			}
			if w.opened != w.closed || len(w.intents) != 0 || len(w.known.pushed) != 0 {
				t.Error(w.opened, w.closed, w.intents, w.known.pushed)
			}
		})
	}
}

// TestDryRunThenPush: what the dry run found is what the push expects.
func TestDryRunThenPush(t *testing.T) {
	t.Parallel()
	w := newWorld()
	found, err := w.worker().Process(t.Context(), pushJob(func(j *job.Job) { j.ID, j.Push.DryRun = "dry", true }))
	if err != nil {
		t.Fatal(err)
	}
	expect := &job.Expect{Parent: found.Push.Parent, Tree: found.Push.Tree}
	for range 2 { // the second is a rerun
		done, err := w.worker().Process(t.Context(), pushJob(func(j *job.Job) { j.Push.Expect = expect }))
		if err != nil || done.Push.Skipped != "" || done.Push.Commit != "on-c1" {
			t.Errorf("%+v, %v", done.Push, err)
		}
	}
}

// TestHasFileIsLookedForDeep: as many levels of directories are read as the file needs.
func TestHasFileIsLookedForDeep(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		hasFile string
		change  edit.Change
		want    int
	}{
		{"", edit.Change{Put: &edit.Put{Path: "a"}}, 1},
		{"go.mod", edit.Change{Put: &edit.Put{Path: "a/b"}}, 2},
		{"a/b/go.mod", edit.Change{Put: &edit.Put{Path: "a"}}, 3},
		{"a/b/go.mod", edit.Change{Replace: &edit.Replace{Paths: []string{"**"}, Pattern: "x"}}, 0},
	} {
		w := newWorld()
		_, _ = w.worker().Process(t.Context(), pushJob(func(j *job.Job) { j.Push.HasFile, j.Push.Changes = tc.hasFile, []edit.Change{tc.change} }))
		if w.treeDepth != tc.want {
			t.Errorf("%s and %+v: %d levels, want %d", tc.hasFile, tc.change, w.treeDepth, tc.want)
		}
	}
}

// TestSearchesKnowTheIntent: each search for the job's own commit knows the intended one, which needs no proof.
func TestSearchesKnowTheIntent(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		intended string // branch
		push     func(*job.Push)
		want     gitrepo.Mark
	}{
		"in the history":             {"main", func(*job.Push) {}, gitrepo.Mark{Installation: "i1", Job: "j1", Branch: "main", Intended: "on-c1"}},
		"in the history, passing by": {"main", func(p *job.Push) { p.Expect = &job.Expect{Parent: "c1", Tree: "t"} }, gitrepo.Mark{Installation: "i1", Job: "j1", Branch: "main", Intended: "on-c1"}},
		"intended for another branch": {"other", func(p *job.Push) { p.Expect = &job.Expect{Parent: "c1", Tree: "t"} }, gitrepo.Mark{
			Installation: "i1", Job: "j1", Branch: "main",
		}},
	} {
		w := newWorld()
		w.branches["main"], w.intents["j1"] = "c9", repolock.Intent{Branch: tc.intended, Commit: "on-c1", Parent: "c1"}
		if _, err := w.worker().Process(t.Context(), pushJob(func(j *job.Job) { tc.push(j.Push) })); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if w.searched != tc.want {
			t.Errorf("%s: searched for %+v", name, w.searched)
		}
	}
	// The branch moves between the look at its tip and the reading: the tip that is read is the intended commit.
	w := newWorld()
	w.intents["j1"] = repolock.Intent{Branch: "main", Commit: "on-c1", Parent: "c1"}
	intended := w.worker()
	intended.Git = movesBeforeReading{w}
	done, err := intended.Process(t.Context(), pushJob(nil))
	if err != nil || done.Push.Commit != "on-c1" || done.Push.Parent != "c0" {
		t.Errorf("%+v, %v", done.Push, err)
	}
}

// movesBeforeReading lets the job's earlier push arrive right before a tip is read.
type movesBeforeReading struct{ *world }

func (m movesBeforeReading) Fetch(ctx context.Context, remote gitrepo.Remote, want gitrepo.Want) (worker.Snapshot, error) {
	m.branches["main"] = "on-c1"
	return m.world.Fetch(ctx, remote, want)
}
