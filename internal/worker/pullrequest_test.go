package worker_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// standIn is Bitbucket's REST interface with acme/web and its branches main and topic. Every request passes through before.
func standIn(t *testing.T, before func(next http.Handler) http.Handler) (*bitbuckettest.Server, *bitbucket.Client) {
	t.Helper()
	root := t.TempDir()
	server := bitbuckettest.New(bitbuckettest.Config{Root: root})
	folder := filepath.Join(root, "acme", "web.git")
	for _, arguments := range [][]string{
		{"init", "--quiet", "--bare", "--initial-branch=main", folder},
		{"--git-dir", folder, "fast-import", "--quiet"},
	} {
		command := exec.CommandContext(t.Context(), "git", arguments...)
		command.Env = gittest.Environ()
		command.Stdin = strings.NewReader("commit refs/heads/main\ncommitter a <a@example.com> 1 +0000\ndata 1\na\n" +
			"commit refs/heads/topic\ncommitter a <a@example.com> 2 +0000\ndata 1\nb\nfrom refs/heads/main\n\n")
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", arguments, err, output)
		}
	}
	if _, err := server.AddRepository(bitbuckettest.Repository{Workspace: "acme", Slug: "web"}); err != nil {
		t.Fatal(err)
	}
	server.AddToken("t", bitbuckettest.Grant{Scopes: bitbuckettest.AllScopes(), Default: bitbuckettest.Write})
	listening := httptest.NewServer(before(server))
	t.Cleanup(listening.Close)
	base, err := url.Parse(listening.URL)
	if err != nil {
		t.Fatal(err)
	}
	client, err := bitbucket.NewClient(bitbucket.Config{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

// withREST is the worker of the world with another REST interface.
func (w *world) withREST(rest worker.REST) *worker.Worker {
	made := w.worker()
	made.REST = rest
	return made
}

var reviewers = []string{"712020:ada", "{5f1c9a00-0000-0000-0000-000000000000}"}

func reviewed(j *job.Job) {
	j.Push.Branch, j.Push.Create = "topic", true
	j.Push.PullRequest = &job.PullRequest{Title: "Please", Description: "why", Reviewers: reviewers, CloseSourceBranch: true}
}

// TestOnePullRequest: a job that dies around its pull request and runs again has opened one, on one commit.
func TestOnePullRequest(t *testing.T) {
	t.Parallel()
	dies := func(when func(*http.Request) (before, after bool)) func(http.Handler) http.Handler {
		var died atomic.Bool
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				before, after := when(r)
				if died.Load() || !before && !after {
					next.ServeHTTP(w, r)
					return
				}
				if died.Store(true); after {
					next.ServeHTTP(httptest.NewRecorder(), r)
				}
				panic(http.ErrAbortHandler)
			})
		}
	}
	for name, before := range map[string]func(http.Handler) http.Handler{
		"between the push and the pull request": dies(func(*http.Request) (bool, bool) { return true, false }),
		"before the POST":                       dies(func(r *http.Request) (bool, bool) { return r.Method == http.MethodPost, false }),
		"between the POST and its answer":       dies(func(r *http.Request) (bool, bool) { return false, r.Method == http.MethodPost }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, rest := standIn(t, before)
			w := newWorld()
			if _, err := w.withREST(rest).Process(t.Context(), pushJob(reviewed)); fault.KindOf(err) != fault.Unavailable {
				t.Fatalf("the first run: %v", err)
			}
			for range 3 {
				result, err := w.withREST(rest).Process(t.Context(), pushJob(reviewed))
				if err != nil || result.Push.PullRequest == nil || result.Push.PullRequest.ID != 1 || result.Push.Commit != "on-c1" || !result.Push.Created {
					t.Errorf("%+v, %v", result.Push, err)
				}
			}
			want := []bitbuckettest.PullRequest{{
				ID: 1, Title: "Please", Description: "why", Source: "topic", Destination: "main", CloseSourceBranch: true, Reviewers: reviewers, State: "OPEN",
			}}
			if diff := cmp.Diff(want, server.PullRequests("acme", "web")); diff != "" {
				t.Error(diff)
			}
			pushes := slices.DeleteFunc(w.calls, func(call string) bool { return !strings.HasPrefix(call, "push ") })
			if len(pushes) != 1 {
				t.Errorf("it pushed %d times", len(pushes))
			}
		})
	}
}

// TestPullRequestNeedsItsScope: who lacks it is told which, after the push.
func TestPullRequestNeedsItsScope(t *testing.T) {
	t.Parallel()
	server, rest := standIn(t, func(next http.Handler) http.Handler { return next })
	server.AddToken("t", bitbuckettest.Grant{
		Scopes:  []string{bitbuckettest.ScopeReadRepository, bitbuckettest.ScopeWriteRepository, bitbuckettest.ScopeReadPullRequest},
		Default: bitbuckettest.Write,
	})
	w := newWorld()
	_, err := w.withREST(rest).Process(t.Context(), pushJob(reviewed))
	if fault.KindOf(err) != fault.Denied || !strings.Contains(fault.Public(err), bitbuckettest.ScopeWritePullRequest) || w.branches["topic"] != "on-c1" {
		t.Errorf("%v, %v", err, w.branches)
	}
	// Once the scope is granted, the same job goes on where it was.
	server.AddToken("t", bitbuckettest.Grant{Scopes: bitbuckettest.AllScopes(), Default: bitbuckettest.Write})
	result, err := w.withREST(rest).Process(t.Context(), pushJob(reviewed))
	if err != nil || result.Push.PullRequest == nil {
		t.Errorf("%+v, %v", result.Push, err)
	}
}

// TestPullRequestOfNothing: it is seen to where the branch has the change already, and not where there is nothing to ask about.
func TestPullRequestOfNothing(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		job   func(*job.Push)
		world func(*world)
		want  bool
	}{
		"the branch has it":     {func(p *job.Push) { p.Changes[0].Put.Path = "same" }, func(w *world) { w.branches["topic"] = "t1" }, true},
		"there is no branch":    {func(p *job.Push) { p.Changes[0].Put.Path = "same" }, func(*world) {}, false},
		"skipped":               {func(p *job.Push) { p.HasFile = "go.mod" }, func(*world) {}, false},
		"skipped, branch there": {func(p *job.Push) { p.OnConflict = job.OnConflictSkip }, func(w *world) { w.branches["topic"] = "t1" }, false},
		"a dry run":             {func(p *job.Push) { p.DryRun = true }, func(*world) {}, false},
		"a dry run, no change":  {func(p *job.Push) { p.DryRun, p.Changes[0].Put.Path = true, "same" }, func(w *world) { w.branches["topic"] = "t1" }, false},
	} {
		w := newWorld()
		tc.world(w)
		result, err := w.worker().Process(t.Context(), pushJob(func(j *job.Job) { reviewed(j); tc.job(j.Push) }))
		if err != nil || (result.Push.PullRequest != nil) != tc.want || tc.want != cmp.Equal(w.reviewed, reviewers) {
			t.Errorf("%s: %+v, %v, reviewers %v", name, result.Push, err, w.reviewed)
		}
	}
}
