package worker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/artifact"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/repolock"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/worker"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// world stands for everything outside the worker: one repository with branches of numbered commits, one token, one lock.
type world struct {
	calls []string // every touch of git, in order

	tokens    []forge.OAuthToken // taken in turn; the last one stays
	other     forge.OAuthToken   // beside the current one
	marked    []string           // as refused
	recent    bool
	lockErr   error
	intentErr error
	info      bitbucket.Info
	restErr   error
	describe  func(token secret.Text) (bitbucket.Details, error)

	branches    map[string]string // branch -> commit
	intents     map[string]repolock.Intent
	found       string            // what FindJob finds
	searched    gitrepo.Mark      // what FindJob looked for last
	head        string            // the branch that HEAD names, as snapshots say
	files       map[string]string // of every commit
	built       []edit.FileChange // what the last commit was built of
	message     string            // its
	checkoutErr error
	treeDepth   int // of the last snapshot
	pushErrs    []error
	moveTo      []string // tips that appear when a push conflicts
	unborn      bool
	snapErr     error
	cancel      context.CancelCauseFunc // called by Push before it answers
	closed      int
	opened      int

	recipes  worker.Recipes
	tempDir  string
	kept     map[string]string // artifacts by key
	reviewed []string

	known     known
	atlassian atlassian
	budget    requests
	resolved  int // calls of Resolve
}

func (w *world) Take(context.Context, string, forge.Actor) (forge.OAuthToken, error) {
	token := w.tokens[0]
	if len(w.tokens) > 1 {
		w.tokens = w.tokens[1:]
	}
	if token.IsZero() {
		return token, fault.Newf(fault.Expired, "no token")
	}
	return token, nil
}

func (w *world) TakeOther(_ context.Context, _ string, _ forge.Actor, than forge.OAuthToken) (forge.OAuthToken, error) {
	if w.other.IsZero() || w.other.Text.Equal(than.Text) {
		return forge.OAuthToken{}, fault.Newf(fault.Expired, "no other token")
	}
	return w.other, nil
}

func (w *world) MarkRefused(_ context.Context, _ string, _ forge.Actor, token forge.OAuthToken) error {
	w.marked = append(w.marked, token.Text.Reveal())
	return nil
}

func (w *world) Put(_ context.Context, _ string, actor forge.Actor, token forge.OAuthToken, _ time.Time) (bool, error) {
	w.calls = append(w.calls, "keep "+actor.Principal)
	w.tokens = append(w.tokens, token)
	return true, nil
}

func (w *world) RecentlyInstalled(context.Context, string) (bool, error) { return w.recent, nil }

func (w *world) Acquire(ctx context.Context, _, _ string, _ repolock.Holder) (worker.Lock, error) {
	if w.lockErr != nil {
		return nil, w.lockErr
	}
	return &heldLock{w, ctx}, nil
}

type heldLock struct {
	*world
	ctx context.Context
}

func (l *heldLock) Context() context.Context { return l.ctx }

func (l *heldLock) Intent(_ context.Context, id string) (repolock.Intent, bool, error) {
	intent, found := l.intents[id]
	return intent, found, nil
}

func (l *heldLock) SetIntent(_ context.Context, id string, intent repolock.Intent) error {
	if l.intentErr != nil {
		return l.intentErr
	}
	l.intents[id] = intent
	l.calls = append(l.calls, "intent "+intent.Commit)
	return nil
}

func (l *heldLock) Release(context.Context) error { l.calls = append(l.calls, "release"); return nil }

// checkRemote: every repository is opened for an installation.
func checkRemote(remote gitrepo.Remote) {
	if remote.Installation != "i1" {
		panic("a repository is opened for nobody")
	}
}

func (w *world) Tip(_ context.Context, remote gitrepo.Remote, branch string) (string, bool, error) {
	checkRemote(remote)
	w.calls = append(w.calls, "tip "+branch)
	tip, found := w.branches[branch]
	return tip, found, nil
}

func (w *world) Fetch(_ context.Context, remote gitrepo.Remote, want gitrepo.Want) (worker.Snapshot, error) {
	checkRemote(remote)
	var needs []string
	ref := want.Ref
	for word, is := range map[string]bool{"history": want.Depth != 1, "some": want.Sparse, "push": want.Push, "main": want.MainBranch} {
		if is {
			needs = append(needs, word)
		}
	}
	slices.Sort(needs)
	w.treeDepth = want.TreeDepth
	w.calls = append(w.calls, fmt.Sprintf("snapshot %s@%s of %s", ref, strings.Join(needs, "+"), remote.Repository))
	if w.snapErr != nil {
		return nil, w.snapErr
	}
	if ref == "" {
		ref = "refs/heads/main"
	}
	tip, found := w.branches[strings.TrimPrefix(ref, "refs/heads/")]
	if !found && !w.unborn {
		return nil, fault.Newf(fault.NotFound, "there is no branch %q", ref)
	}
	w.opened++
	return &snapshot{w, ref, tip}, nil
}

func (w *world) Push(_ context.Context, remote gitrepo.Remote, spec gitrepo.PushSpec) error {
	checkRemote(remote)
	w.calls = append(w.calls, fmt.Sprintf("push %s %q->%s", spec.Branch, spec.Old, spec.Commit.Hash))
	if w.cancel != nil {
		w.branches[spec.Branch] = spec.Commit.Hash
		w.cancel(fault.Newf(fault.Canceled, "canceled"))
		return context.Canceled
	}
	if len(w.pushErrs) > 0 {
		err := w.pushErrs[0]
		w.pushErrs = w.pushErrs[1:]
		if err != nil {
			if len(w.moveTo) > 0 {
				w.branches[spec.Branch], w.moveTo = w.moveTo[0], w.moveTo[1:]
			}
			return err
		}
	}
	w.branches[spec.Branch] = spec.Commit.Hash
	return nil
}

func (w *world) FindJob(_ context.Context, remote gitrepo.Remote, mark gitrepo.Mark, since string) (string, bool, error) {
	checkRemote(remote)
	w.calls = append(w.calls, "find since "+since)
	w.searched = mark
	return w.found, w.found != "", nil
}

// archives is the world's store of them.
type archives struct{ *world }

func (a archives) Put(_ context.Context, key string, write func(io.Writer) error) (artifact.Written, error) {
	var text strings.Builder
	err := write(&text)
	a.calls = append(a.calls, "artifact "+key)
	a.kept[key] = text.String()
	return artifact.Written{Size: int64(text.Len()), SHA256: "digest"}, err
}

func (w *world) Resolve(context.Context, secret.Text, bitbucket.Repository) (bitbucket.Info, error) {
	w.resolved++
	return w.info, w.restErr
}

func (w *world) Describe(_ context.Context, token secret.Text, _ bitbucket.Repository) (bitbucket.Details, error) {
	return w.describe(token)
}

func (w *world) EnsurePullRequest(_ context.Context, _ secret.Text, _ bitbucket.Repository, spec bitbucket.PullRequestSpec) (bitbucket.PullRequest, error) {
	w.calls = append(w.calls, "pull request from "+spec.Source)
	w.reviewed = spec.Reviewers
	return bitbucket.PullRequest{ID: 7, URL: "https://bitbucket.org/acme/web/pull-requests/7"}, w.restErr
}

func (w *world) TokenLife(string, time.Duration) {}
func (w *world) ExpiredRejection(string)         { w.calls = append(w.calls, "expired") }

func token(life time.Duration) forge.OAuthToken {
	return forge.OAuthToken{Text: secret.New("t"), ExpiresAt: now.Add(life)}
}

func newWorld() *world {
	return &world{
		tokens: []forge.OAuthToken{token(time.Hour)}, branches: map[string]string{"main": "c1"}, head: "main",
		intents: map[string]repolock.Intent{}, known: known{names: map[string]bitbucket.Info{}},
		kept: map[string]string{}, files: map[string]string{"same": "x\n"},
	}
}

func (w *world) worker() *worker.Worker {
	return worker.New(worker.Config{
		Tokens: w, Installs: w, Locker: w, Git: w, Artifacts: archives{w}, REST: w, Recorder: w, Logger: slog.New(slog.DiscardHandler),
		Installations: &w.known, Names: &w.known, Impersonator: &w.atlassian, Budget: &w.budget,
		Limits: edit.DefaultLimits(), TokenMargin: time.Minute, ArtifactTTL: time.Hour, MaxRepository: 1000,
		Recipes: w.recipes, TempDir: w.tempDir, Author: job.Author{Name: "Gitsmith", Email: "g@example.com"}, Now: func() time.Time { return now },
	})
}

func pushJob(change func(*job.Job)) job.Job {
	j := job.Job{
		ID: "j1", Installation: "i1", Actor: forge.Actor{Kind: forge.ActorSystem}, CreatedAt: now,
		Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"},
		Push: &job.Push{Branch: "main", Message: "m", Changes: []edit.Change{
			{Put: &edit.Put{Path: "new", Content: "x\n"}},
		}},
	}
	if change != nil {
		change(&j)
	}
	return j
}

func TestPush(t *testing.T) {
	t.Parallel()
	conflict := fault.Newf(fault.Conflict, "the tip moved")
	for name, tc := range map[string]struct {
		world func(*world)
		job   func(*job.Job)
		want  job.PushResult
		calls string
	}{
		"to an existing branch": {
			want:  job.PushResult{Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1},
			calls: `snapshot refs/heads/main@push+some of acme/web, intent on-c1, push main "c1"->on-c1, release`,
		},
		"nothing to change": {
			job:   func(j *job.Job) { j.Push.Changes[0].Put.Path = "same" },
			want:  job.PushResult{Branch: "main", Commit: "c1", Unchanged: true},
			calls: `snapshot refs/heads/main@push+some of acme/web, release`,
		},
		"the tip is its own, and Redis has lost that": {
			world: func(w *world) { w.branches["main"] = "by-j1" },
			want:  job.PushResult{Branch: "main", Commit: "by-j1", Parent: "c0"},
			calls: `snapshot refs/heads/main@push+some of acme/web, release`,
		},
		"a new branch from its own commit on another": {
			world: func(w *world) { w.branches["main"] = "by-j1" },
			job:   func(j *job.Job) { j.Push.Branch, j.Push.Create = "topic", true },
			want:  job.PushResult{Branch: "topic", Commit: "on-by-j1", Parent: "by-j1", Changed: 1, Created: true},
			calls: `snapshot refs/heads/topic@push+some of acme/web, snapshot @push+some of acme/web, intent on-by-j1, push topic ""->on-by-j1, release`,
		},
		"a new branch from the main branch": {
			job:   func(j *job.Job) { j.Push.Branch, j.Push.Create = "topic", true },
			want:  job.PushResult{Branch: "topic", Commit: "on-c1", Parent: "c1", Changed: 1, Created: true},
			calls: `snapshot refs/heads/topic@push+some of acme/web, snapshot @push+some of acme/web, intent on-c1, push topic ""->on-c1, release`,
		},
		"a new branch from its base": {
			job:   func(j *job.Job) { j.Push.Branch, j.Push.Create, j.Push.Base = "topic", true, "main" },
			want:  job.PushResult{Branch: "topic", Commit: "on-c1", Parent: "c1", Changed: 1, Created: true},
			calls: `snapshot refs/heads/topic@push+some of acme/web, snapshot refs/heads/main@push+some of acme/web, intent on-c1, push topic ""->on-c1, release`,
		},
		"the first commit of an empty repository": {
			world: func(w *world) { w.branches, w.unborn = map[string]string{}, true },
			want:  job.PushResult{Branch: "main", Commit: "on-", Changed: 1, Created: true},
			calls: `snapshot refs/heads/main@push+some of acme/web, intent on-, push main ""->on-, release`,
		},
		"the tip moved twice": {
			world: func(w *world) { w.pushErrs, w.moveTo = []error{conflict, conflict}, []string{"c2", "c3"} },
			want:  job.PushResult{Branch: "main", Commit: "on-c3", Parent: "c3", Changed: 1, Restarts: 2},
			calls: `snapshot refs/heads/main@push+some of acme/web, intent on-c1, push main "c1"->on-c1, ` +
				`tip main, find since c1, snapshot refs/heads/main@push+some of acme/web, intent on-c2, push main "c2"->on-c2, ` +
				`tip main, find since c2, snapshot refs/heads/main@push+some of acme/web, intent on-c3, push main "c3"->on-c3, release`,
		},
		"an earlier run pushed and died": {
			world: func(w *world) {
				w.branches["main"] = "on-c1"
				w.intents["j1"] = repolock.Intent{Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1}
			},
			want:  job.PushResult{Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1},
			calls: `tip main, release`,
		},
		"an earlier run pushed and others pushed on top": {
			world: func(w *world) {
				w.branches["main"], w.found = "c9", "on-c1"
				w.intents["j1"] = repolock.Intent{Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1}
			},
			want:  job.PushResult{Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1},
			calls: `tip main, find since c1, release`,
		},
		"an earlier run died before its push": {
			world: func(w *world) {
				w.intents["j1"] = repolock.Intent{Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1}
			},
			want:  job.PushResult{Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1},
			calls: `tip main, snapshot refs/heads/main@push+some of acme/web, intent on-c1, push main "c1"->on-c1, release`,
		},
		"with a pull request": {
			job: func(j *job.Job) { j.Push.PullRequest = &job.PullRequest{Title: "t", Destination: "stable"} },
			want: job.PushResult{
				Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1,
				PullRequest: &job.PullRequestResult{ID: 7, URL: "https://bitbucket.org/acme/web/pull-requests/7"},
			},
			calls: `snapshot refs/heads/main@push+some of acme/web, intent on-c1, push main "c1"->on-c1, release, pull request from main`,
		},
		"named by UUIDs": {
			world: func(w *world) {
				w.info = bitbucket.Info{Repository: bitbucket.Repository{Workspace: "acme", Slug: "api"}, Size: 10}
			},
			job:   func(j *job.Job) { j.Repository = bitbucket.Repository{WorkspaceUUID: "{a}", RepositoryUUID: "{b}"} },
			want:  job.PushResult{Branch: "main", Commit: "on-c1", Parent: "c1", Changed: 1},
			calls: `snapshot refs/heads/main@push+some of acme/api, intent on-c1, push main "c1"->on-c1, release`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			if tc.world != nil {
				tc.world(w)
			}
			result, err := w.worker().Process(t.Context(), pushJob(tc.job))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(tc.calls, "snapshot") {
				tc.want.Read = "shallow"
			}
			if diff := cmp.Diff(&tc.want, result.Push); diff != "" {
				t.Error(diff)
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

func TestPushFails(t *testing.T) {
	t.Parallel()
	conflict := fault.Newf(fault.Conflict, "the tip moved")
	for name, tc := range map[string]struct {
		world func(*world)
		job   func(*job.Job)
		want  fault.Kind
		text  string
		calls string
	}{
		"no token": {
			world: func(w *world) { w.tokens = []forge.OAuthToken{{}} },
			want:  fault.Expired, text: "no token", calls: "expired",
		},
		"a token within the margin": {
			world: func(w *world) { w.tokens = []forge.OAuthToken{token(time.Minute)} },
			want:  fault.Expired, text: "X-Forge-Oauth-System", calls: "expired",
		},
		"a token that runs out before the push": {
			world: func(w *world) {
				w.tokens = []forge.OAuthToken{token(time.Hour), token(time.Hour), token(time.Second)}
			},
			want: fault.Expired, text: "1s left", calls: "snapshot refs/heads/main@push+some of acme/web, release",
		},
		"no such branch": {
			job:  func(j *job.Job) { j.Push.Branch = "topic" },
			want: fault.NotFound, text: `add "create": true`, calls: "snapshot refs/heads/topic@push+some of acme/web, release",
		},
		"the lock is taken": {
			world: func(w *world) { w.lockErr = fault.Newf(fault.Throttled, "busy") },
			want:  fault.Throttled, text: "busy",
		},
		"a change that cannot be made": {
			job:  func(j *job.Job) { j.Push.Changes = []edit.Change{{Delete: &edit.Delete{Path: "gone"}}} },
			want: fault.Invalid, text: "gone", calls: "snapshot refs/heads/main@push+some of acme/web, release",
		},
		"denied": {
			world: func(w *world) { w.pushErrs = []error{fault.Newf(fault.Denied, "no scope")} },
			want:  fault.Denied, text: "no scope",
			calls: `snapshot refs/heads/main@push+some of acme/web, intent on-c1, push main "c1"->on-c1, release`,
		},
		"denied soon after the install": {
			world: func(w *world) { w.recent, w.snapErr = true, fault.Newf(fault.Denied, "no scope") },
			want:  fault.Unavailable, text: "no scope (the app was installed minutes ago",
			calls: "snapshot refs/heads/main@push+some of acme/web, release",
		},
		"too large": {
			world: func(w *world) {
				w.info = bitbucket.Info{Repository: bitbucket.Repository{Workspace: "acme", Slug: "api"}, Size: 1001}
			},
			job:  func(j *job.Job) { j.Repository = bitbucket.Repository{WorkspaceUUID: "{a}", RepositoryUUID: "{b}"} },
			want: fault.TooLarge, text: "GITSMITH_MAX_REPOSITORY",
		},
		"the lock is lost, and is not asked for again and again": {
			world: func(w *world) {
				w.intentErr = fault.Newf(fault.Unavailable, "the lock was lost")
			},
			want: fault.Unavailable, text: "lost", calls: "snapshot refs/heads/main@push+some of acme/web, release",
		},
		"the tip moves for ever": {
			world: func(w *world) {
				for range 6 {
					w.pushErrs = append(w.pushErrs, conflict)
				}
			},
			want: fault.Conflict, text: "moved",
			calls: strings.Repeat(`snapshot refs/heads/main@push+some of acme/web, intent on-c1, push main "c1"->on-c1, tip main, `, 5) +
				`snapshot refs/heads/main@push+some of acme/web, intent on-c1, push main "c1"->on-c1, release`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			if tc.world != nil {
				tc.world(w)
			}
			_, err := w.worker().Process(t.Context(), pushJob(tc.job))
			if fault.KindOf(err) != tc.want || !strings.Contains(fault.Public(err), tc.text) {
				t.Errorf("%s: %q, want %s with %q", fault.KindOf(err), fault.Public(err), tc.want, tc.text)
			}
			if diff := cmp.Diff(tc.calls, strings.Join(w.calls, ", ")); diff != "" {
				t.Error(diff)
			}
			var attempt *job.AttemptError
			if errors.As(err, &attempt) && !attempt.RetryUntil.Equal(now.Add(59*time.Minute)) {
				t.Errorf("retries until %s", attempt.RetryUntil)
			}
		})
	}
}

func TestCancelDuringThePush(t *testing.T) {
	t.Parallel()
	w := newWorld()
	ctx, cancel := context.WithCancelCause(t.Context())
	w.cancel = cancel
	result, err := w.worker().Process(ctx, pushJob(nil))
	if err != nil || result.Push.Commit != "on-c1" {
		t.Errorf("a push that happened is not told as done: %+v, %v", result.Push, err)
	}

	w = newWorld()
	ctx, cancel = context.WithCancelCause(t.Context())
	cancel(fault.Newf(fault.Canceled, "canceled"))
	w.snapErr = context.Canceled
	if _, err := w.worker().Process(ctx, pushJob(nil)); fault.KindOf(err) != fault.Canceled {
		t.Errorf("a push that did not happen ends as %s", fault.KindOf(err))
	}
}
