package receiver

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
)

// TestAnotherUsersWork: to a user of the same workspace another's jobs, batches, diffs and archives are not there, on any route that
// names one; so are the app's. The app sees all of them.
func TestAnotherUsersWork(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bob := func() http.Header {
		return h.Header(forgetest.FITOptions{Principal: "557058:bob"}, forgetest.Tokens{User: h.token(), System: h.token()})
	}
	byFunction := func() http.Header {
		return h.Header(forgetest.FITOptions{ModuleType: forge.ModuleEndpoint, Principal: "557058:bob"}, forgetest.Tokens{User: h.token()})
	}
	for owner, header := range map[string]http.Header{"a user": h.user(), "the app": h.system()} {
		mine := h.submit(t, header, cloneBody)
		h.jobs.set(mine.ID, func(status *job.Status) { *status = cloned(*status, h, "the archive") })
		made := h.submitBatch(t, header, strings.Replace(batchBody, `"rollout"`, `"dry_run": true, "rollout"`, 1))
		h.batches.end(t, forgetest.Installation, made.ID, 0, batch.Failed, job.Status{State: job.Failed, Repository: "acme/web", Failure: &job.Failure{Detail: "no"}})
		paths := strings.NewReplacer("/v1/jobs/:id", "/v1/jobs/"+mine.ID, "/v1/batches/:id", "/v1/batches/"+made.ID)
		named := 0
		for _, route := range (&receiver{}).router().Routes() { // those of today, and those that nobody has thought of yet
			path := paths.Replace(route.Path)
			if path == route.Path {
				continue
			}
			named++
			for who, as := range map[string]func() http.Header{"another user": bob, "another user, through a function": byFunction} {
				answer := h.do(t, route.Method, path, as(), "")
				if answer.Status != http.StatusNotFound || strings.Contains(string(answer.Body), "acme") {
					t.Errorf("%s's %s %s to %s: status %d, %s", owner, route.Method, route.Path, who, answer.Status, answer.Body)
				}
			}
			if answer := h.do(t, http.MethodGet, paths.Replace("/v1/jobs/:id"), h.system(), ""); answer.Status != http.StatusOK {
				t.Errorf("%s's job to the app: status %d", owner, answer.Status)
			}
		}
		if named < 11 {
			t.Errorf("only %d routes were tried", named)
		}
		refused(t, h.do(t, http.MethodPost, "/v1/batches", bob(), `{"from": "`+made.ID+`"}`), http.StatusBadRequest, fault.Invalid, "there is no batch")
		if state, _ := h.batches.Get(t.Context(), forgetest.Installation, made.ID); state.State != batch.StateRunning {
			t.Errorf("%s's batch is %s", owner, state.State)
		}
	}
	if page := decode[listView](t, h.do(t, http.MethodGet, "/v1/jobs", bob(), "")); len(page.Jobs) != 0 {
		t.Errorf("bob sees %+v", page.Jobs)
	}
	if page := decode[batchListView](t, h.do(t, http.MethodGet, "/v1/batches", bob(), "")); len(page.Batches) != 0 {
		t.Errorf("bob sees %+v", page.Batches)
	}
	for who, header := range map[string]http.Header{"ada": h.user(), "the app": h.system()} {
		want := map[string]int{"ada": 1, "the app": 2}[who]
		jobs := decode[listView](t, h.do(t, http.MethodGet, "/v1/jobs", header, "")).Jobs
		batches := decode[batchListView](t, h.do(t, http.MethodGet, "/v1/batches", header, "")).Batches
		if len(jobs) != want || len(batches) != want {
			t.Errorf("%s sees %d jobs and %d batches, want %d", who, len(jobs), len(batches), want)
		}
	}
}

// TestNoUserTouchesTheSystemToken: whatever a user's browser sends, on any route, the shared token stays what Forge delivered. A FIT
// does not bind the headers beside it.
func TestNoUserTouchesTheSystemToken(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.system()
	system := forge.Actor{Kind: forge.ActorSystem}
	before, err := h.tokens.Take(t.Context(), forgetest.Installation, system)
	if err != nil {
		t.Fatal(err)
	}
	for _, route := range (&receiver{}).router().Routes() {
		for _, options := range []forgetest.FITOptions{
			{Principal: ada}, {ModuleType: "bitbucket:repoMainMenuPage"}, {ModuleType: "core:trigger", Principal: ada}, {ModuleType: "core:trigger"},
		} {
			planted := h.Header(options, forgetest.Tokens{System: h.token(), User: h.token()})
			h.do(t, route.Method, strings.ReplaceAll(route.Path, ":id", "0197a4c4-0000-7000-8000-000000000001"), planted, "")
			if after, err := h.tokens.Take(t.Context(), forgetest.Installation, system); err != nil || !after.Text.Equal(before.Text) {
				t.Errorf("%s %s by %q: the system token is another (%v)", route.Method, route.Path, options.ModuleType, err)
			}
		}
	}
	// A function of the app may have passed on a user's header too.
	h.do(t, http.MethodGet, "/v1/jobs", h.Header(forgetest.FITOptions{}, forgetest.Tokens{System: h.token()}), "")
	if after, _ := h.tokens.Take(t.Context(), forgetest.Installation, system); !after.Text.Equal(before.Text) {
		t.Error("a function replaced the system token")
	}
	if len(h.jobs.woken) != 0 {
		t.Errorf("woken: %q", h.jobs.woken)
	}
	delivered := h.token()
	h.do(t, http.MethodPost, "/forge/schedule", h.Header(trigger, forgetest.Tokens{System: delivered}), "")
	if after, _ := h.tokens.Take(t.Context(), forgetest.Installation, system); after.Text.Reveal() != delivered {
		t.Error("Forge's own delivery did not replace it")
	}
}

// TestInstallationSaysWhoMayBe: the page offers the actors that this names.
func TestInstallationSaysWhoMayBe(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for want, header := range map[forge.ActorKind]http.Header{forge.ActorUser: h.user(), forge.ActorSystem: h.system()} {
		view := decode[installationView](t, h.do(t, http.MethodGet, "/v1/installation", header, ""))
		if len(view.Actors) != 1 || view.Actors[0] != want {
			t.Errorf("actors %v, want %s", view.Actors, want)
		}
	}
}
