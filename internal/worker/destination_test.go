package worker_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/repolock"
)

// TestPullRequestToItself: a pull request that would lead from the pushed branch to itself is refused before an intent is written or anything
// is pushed, in a dry run too. If the git server does not say what HEAD names, Bitbucket's REST API is asked.
func TestPullRequestToItself(t *testing.T) {
	t.Parallel()
	const isMain, noMain, isEmpty = "is the main branch", "has no main branch", "is empty"
	develop := func(w *world) { w.branches["develop"], w.head = "d1", "develop" }
	for name, tc := range map[string]struct {
		world    func(*world)
		push     func(*job.Push)
		refused  string // in the public text; empty where it goes on
		resolved int    // questions to the REST interface
	}{
		"the main branch":                 {func(*world) {}, func(*job.Push) {}, isMain, 0},
		"which need not be called main":   {develop, func(p *job.Push) { p.Branch = "develop" }, isMain, 0},
		"with the main branch as base":    {func(*world) {}, func(p *job.Push) { p.Create, p.Base = true, "main" }, isMain, 0},
		"which is not there yet":          {func(w *world) { w.head = "trunk" }, func(p *job.Push) { p.Branch, p.Create, p.Base = "trunk", true, "main" }, isMain, 0},
		"HEAD unknown, Bitbucket says so": {func(w *world) { w.head, w.info.MainBranch = "", "main" }, func(*job.Push) {}, isMain, 1},
		"HEAD unknown, no main branch":    {func(w *world) { w.head = "" }, func(*job.Push) {}, noMain, 1},
		"an empty repository":             {func(w *world) { w.branches, w.unborn, w.head = map[string]string{}, true, "" }, func(*job.Push) {}, isEmpty, 0},
		"an empty repository, to another branch": {
			func(w *world) { w.branches, w.unborn = map[string]string{}, true }, func(p *job.Push) { p.PullRequest.Destination = "stable" }, isEmpty, 0,
		},
		"a change that changes nothing": {func(*world) {}, func(p *job.Push) { p.Changes[0].Put.Path = "same" }, isMain, 0},

		"from main to another branch":              {func(*world) {}, func(p *job.Push) { p.PullRequest.Destination = "stable" }, "", 0},
		"from main, which is not the main branch":  {develop, func(*job.Push) {}, "", 0},
		"from a new branch":                        {func(*world) {}, func(p *job.Push) { p.Branch, p.Create = "topic", true }, "", 0},
		"HEAD unknown, the main branch is another": {func(w *world) { w.head, w.info.MainBranch = "", "develop" }, func(*job.Push) {}, "", 1},
	} {
		for _, dry := range []bool{false, true} {
			w := newWorld()
			w.info = bitbucket.Info{}
			tc.world(w)
			result, err := w.worker().Process(t.Context(), pushJob(func(j *job.Job) {
				j.Push.PullRequest, j.Push.DryRun = &job.PullRequest{Title: "t"}, dry
				tc.push(j.Push)
			}))
			if tc.refused == "" {
				if err != nil || result.Push.Skipped != "" || !dry && result.Push.PullRequest == nil {
					t.Errorf("%s, dry run %t: %+v, %v", name, dry, result.Push, err)
				}
			} else if fault.KindOf(err) != fault.Invalid || !strings.HasPrefix(fault.Public(err), "push.pull_request") || !strings.Contains(fault.Public(err), tc.refused) {
				t.Errorf("%s, dry run %t: %+v, %v", name, dry, result.Push, err)
			}
			touched := slices.ContainsFunc(w.calls, func(call string) bool {
				return strings.HasPrefix(call, "push") || strings.HasPrefix(call, "intent") || strings.HasPrefix(call, "pull request")
			})
			if touched != (tc.refused == "" && !dry) || w.resolved != tc.resolved || w.opened != w.closed {
				t.Errorf("%s, dry run %t: %q, %d questions", name, dry, w.calls, w.resolved)
			}
		}
	}
}

// TestPullRequestToItselfAfterThePush: a job that has pushed is not refused on its retry. Its pull request was possible when it pushed, and
// the branch has become the main branch since.
func TestPullRequestToItselfAfterThePush(t *testing.T) {
	t.Parallel()
	for name, intents := range map[string]map[string]repolock.Intent{
		"with the intent":    {"j1": {Branch: "main", Commit: "by-j1", Parent: "c0"}},
		"without the intent": {},
	} {
		w := newWorld()
		w.branches["main"], w.intents = "by-j1", intents
		result, err := w.worker().Process(t.Context(), pushJob(func(j *job.Job) { j.Push.PullRequest = &job.PullRequest{Title: "t"} }))
		if err != nil || result.Push.Commit != "by-j1" || result.Push.PullRequest == nil {
			t.Errorf("%s: %+v, %v", name, result.Push, err)
		}
	}
}
