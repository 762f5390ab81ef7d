package worker_test

import (
	"context"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/artifact"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/repolock"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// quiet is everything around a worker but git and the artifacts: one token, no bounds, and locks that forget what was written down
// under them, as a Redis that has lost its last second does.
type quiet struct {
	worker.Impersonator
	worker.Names
	worker.REST
}

func (quiet) Take(context.Context, string, forge.Actor) (forge.OAuthToken, error) {
	return forge.OAuthToken{Text: secret.New("t"), ExpiresAt: time.Now().Add(time.Hour)}, nil
}

func (quiet) TakeOther(context.Context, string, forge.Actor, forge.OAuthToken) (forge.OAuthToken, error) {
	return forge.OAuthToken{}, fault.Newf(fault.Expired, "there is no other token")
}

func (quiet) Put(context.Context, string, forge.Actor, forge.OAuthToken, time.Time) (bool, error) {
	return true, nil
}
func (quiet) MarkRefused(context.Context, string, forge.Actor, forge.OAuthToken) error { return nil }

func (quiet) RecentlyInstalled(context.Context, string) (bool, error) { return false, nil }
func (quiet) Workspace(context.Context, string) (string, error)       { return "", nil }
func (quiet) Refused(context.Context, string) error                   { return nil }
func (quiet) Pushed(context.Context, string, string) error            { return nil }
func (quiet) Reserve(context.Context, string, int) error              { return nil }
func (quiet) Spend(context.Context, string, int) error                { return nil }
func (quiet) Exchange(context.Context) error                          { return nil }
func (quiet) TokenLife(string, time.Duration)                         {}
func (quiet) ExpiredRejection(string)                                 {}

func (quiet) Acquire(ctx context.Context, _, _ string, _ repolock.Holder) (worker.Lock, error) {
	return forgetful{ctx}, nil
}

type forgetful struct{ ctx context.Context } //nolint:containedctx // as a lock's

func (f forgetful) Context() context.Context { return f.ctx }

func (forgetful) Intent(context.Context, string) (repolock.Intent, bool, error) {
	return repolock.Intent{}, false, nil
}
func (forgetful) SetIntent(context.Context, string, repolock.Intent) error { return nil }
func (forgetful) Release(context.Context) error                            { return nil }

// bench is a worker before a real git server with acme/web.
type bench struct {
	t      *testing.T
	server *gittest.Server
	client *gitrepo.Client
	store  *artifact.Store
	config worker.Config
}

func newBench(t *testing.T, files map[string]string) *bench {
	t.Helper()
	server, err := gittest.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := server.CreateRepository(t.Context(), "acme/web", files); err != nil {
		t.Fatal(err)
	}
	listening := httptest.NewServer(server)
	t.Cleanup(listening.Close)
	base, err := url.Parse(listening.URL)
	if err != nil {
		t.Fatal(err)
	}
	client, err := gitrepo.New(gitrepo.Config{Base: base, TempDir: t.TempDir(), CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := filepath.Glob(filepath.Join(client.TempFolder(), "*")); err != nil || len(left) > 0 {
			t.Errorf("files are left behind: %v, %v", left, err)
		}
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	store, err := artifact.Open(t.Context(), "file://"+filepath.ToSlash(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	b := &bench{t: t, server: server, client: client, store: store, config: worker.Config{
		Tokens: quiet{}, Installs: quiet{}, Installations: quiet{}, Impersonator: quiet{}, Names: quiet{}, Budget: quiet{}, Locker: quiet{}, Git: worker.NewGit(client),
		REST: quiet{}, Recorder: quiet{}, Artifacts: store, Logger: slog.New(slog.DiscardHandler),
		Limits: edit.DefaultLimits(), TokenMargin: time.Minute, ArtifactTTL: time.Hour, TempDir: client.TempFolder(),
		Author: job.Author{Name: "Gitsmith", Email: "g@example.com"},
	}}
	b.sealedBy("k")
	return b
}

func (b *bench) try(id string, push job.Push) (*job.PushResult, error) {
	if push.Message == "" {
		push.Message = "Change it"
	}
	result, err := worker.New(b.config).Process(b.t.Context(), job.Job{
		ID: id, Installation: "i", Actor: forge.Actor{Kind: forge.ActorSystem}, CreatedAt: time.Unix(1_800_000_000, 0),
		Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}, Push: &push,
	})
	return result.Push, err
}

func (b *bench) do(id string, push job.Push) *job.PushResult {
	b.t.Helper()
	result, err := b.try(id, push)
	if err != nil {
		b.t.Fatal(fault.Private(err))
	}
	return result
}

func (b *bench) git(args ...string) string {
	b.t.Helper()
	output, err := gittest.Git(b.t.Context(), b.server.Path("acme/web"), nil, args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return output
}

func (b *bench) commit(branch, path string) {
	b.t.Helper()
	if err := b.server.Commit(b.t.Context(), "acme/web", branch, "Others", map[string]string{path: "x\n"}); err != nil {
		b.t.Fatal(err)
	}
}

func put(path, content string) []edit.Change {
	return []edit.Change{{Put: &edit.Put{Path: path, Content: content}}}
}

// TestDryRunAndApply: the diff makes the tree, and so does the push that expects it; a branch that has moved, or another change, is
// left alone.
func TestDryRunAndApply(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"a": "one\ntwo\n", "d/b": "b\n"})
	before := b.git("rev-parse", "main")
	push := job.Push{Branch: "topic", Create: true, Changes: append(put("a", "one\n2\nthree\n"), edit.Change{Move: &edit.Move{From: "d/b", To: "c"}})}
	dry := push
	dry.DryRun = true
	found := b.do("dry", dry)
	if found.Parent != before || found.Added != 3 || found.Removed != 2 || found.Changed != 3 || found.Commit != "" || found.Diff.Files != 3 || found.Diff.Truncated {
		t.Errorf("%+v, %+v", found, found.Diff)
	}
	if refs := b.git("for-each-ref", "--format=%(refname)"); refs != "refs/heads/main" {
		t.Errorf("a dry run has pushed: %s", refs)
	}
	content, size, err := b.store.Get(t.Context(), found.Diff.Key)
	if err != nil || size != found.Diff.Size {
		t.Fatal(err, size)
	}
	defer func() { _ = content.Close() }()
	work := t.TempDir()
	b.git("worktree", "add", "--quiet", "--detach", work, "main")
	diff, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := gittest.Git(t.Context(), work, strings.NewReader(string(diff)), "apply", "--index"); err != nil {
		t.Fatalf("%v\n%s", err, diff)
	}
	if tree, err := gittest.Git(t.Context(), work, nil, "write-tree"); err != nil || tree != found.Tree {
		t.Errorf("the diff makes %s, the dry run found %s (%v)", tree, found.Tree, err)
	}

	push.Expect = &job.Expect{Parent: found.Parent, Tree: found.Tree}
	another := push
	another.Changes = put("a", "another\n")
	if result := b.do("another", another); result.Skipped != "the change is another one than in the dry run" {
		t.Errorf("%+v", result)
	}
	pushed := b.do("apply", push)
	if pushed.Skipped != "" || b.git("rev-parse", "topic^{tree}") != found.Tree || b.git("rev-parse", "topic^") != before {
		t.Errorf("%+v", pushed)
	}
	b.commit("topic", "later")
	if again := b.do("apply", push); again.Skipped != "" || again.Commit != pushed.Commit {
		t.Errorf("run again below others' commits: %+v", again)
	}
	if late := b.do("late", push); late.Skipped != "the branch's tip has moved since the dry run" {
		t.Errorf("%+v", late)
	}
	if count := b.git("rev-list", "--count", "topic"); count != "3" {
		t.Errorf("%s commits", count)
	}
}

// TestHasFile looks for a file or a directory, however deep.
func TestHasFile(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"go.mod": "m\n", "cmd/tool/main.go": "package main\n"})
	for path, want := range map[string]bool{"go.mod": true, "cmd/tool": true, "cmd/tool/main.go": true, "cmd/none": false, "go.mod/x": false, "none": false} {
		result := b.do(path, job.Push{Branch: "main", HasFile: path, DryRun: true, Changes: put("new", path)})
		if (result.Skipped == "") != want || !want && result.Skipped != "there is no "+path {
			t.Errorf("%s: %+v", path, result)
		}
	}
}

// TestOnConflict: a branch that others made is left; one that the job made is its success, also below others' commits.
func TestOnConflict(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"a": "a\n"})
	b.commit("theirs", "x")
	skip := job.Push{Branch: "theirs", Create: true, OnConflict: job.OnConflictSkip, Changes: put("a", "b\n")}
	fails := skip
	fails.OnConflict = job.OnConflictFail
	before := b.git("rev-parse", "theirs")
	if result := b.do("1", skip); result.Skipped != "branch theirs exists" {
		t.Errorf("%+v", result)
	}
	if _, err := b.try("1", fails); fault.KindOf(err).Disposition() != fault.Fail || !strings.Contains(fault.Public(err), "branch theirs exists") {
		t.Errorf("%v", err)
	}
	if after := b.git("rev-parse", "theirs"); after != before {
		t.Error("the branch was touched")
	}
	fails.Branch = "ours"
	first := b.do("2", fails)
	if again := b.do("2", fails); again.Commit != first.Commit || again.Skipped != "" {
		t.Errorf("%+v", again)
	}
	b.commit("ours", "x")
	if again := b.do("2", fails); again.Commit != first.Commit || b.git("rev-list", "--count", "ours") != "3" {
		t.Errorf("%+v", again)
	}
	if _, err := b.try("3", fails); fault.KindOf(err) != fault.Invalid {
		t.Errorf("another job: %v", err)
	}
	update := skip
	update.OnConflict = job.OnConflictUpdate
	if result := b.do("4", update); result.Skipped != "" || result.Parent != before || result.Created {
		t.Errorf("%+v", result)
	}
}
