package receiver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
)

func TestSubmit(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.config.Now = func() time.Time { return time.Date(2026, 8, 6, 9, 30, 0, 123_456_789, time.UTC) }
	h.Handler = h.build(t, func(*Config) {})
	const trace = "463ac35c9f6413ad48485a3953bb6124"
	header := with(h.user(), "X-B3-TraceId", trace, "X-B3-SpanId", "a2fb4a1d1a96d312", "Content-Type", "application/json; charset=utf-8")
	answer := h.do(t, http.MethodPost, "/v1/jobs", header, pushBody)
	queued := h.jobs.queued()
	if answer.Status != http.StatusAccepted || len(queued) != 1 {
		t.Fatalf("status %d, %d jobs: %s", answer.Status, len(queued), answer.Body)
	}
	id := queued[0].ID
	if location := answer.Header.Get("Location"); location != "/v1/jobs/"+id {
		t.Errorf("Location %q", location)
	}
	if answer.Header.Get("Cache-Control") != "no-store" || answer.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("header %v", answer.Header)
	}
	want := jobView{
		ID: id, State: job.Queued, Operation: job.OperationPush, Repository: "acme/web", Actor: forge.ActorUser, Branch: "main",
		CreatedAt: h.config.Now().Truncate(time.Millisecond), Links: linksView{Self: "/v1/jobs/" + id, Cancel: "/v1/jobs/" + id + "/cancel"},
	}
	if diff := cmp.Diff(want, decode[jobView](t, answer)); diff != "" {
		t.Error("wanted (-), answered (+):\n" + diff)
	}
	got := queued[0]
	if got.Installation != forgetest.Installation || got.Actor != (forge.Actor{Kind: forge.ActorUser, Principal: ada}) ||
		got.Trace.TraceID != trace || got.Class != job.ClassInteractive || got.Push == nil {
		t.Errorf("queued %+v", got)
	}
	if diff := cmp.Diff([]string{"enqueued push interactive true", "request POST /v1/jobs 202"}, h.counts.taken()); diff != "" {
		t.Error(diff)
	}
}

// TestActor: whose token does the work, and that there is one.
func TestActor(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	nobody := h.Header(forgetest.FITOptions{Installation: other}, forgetest.Tokens{})
	both := h.Header(forgetest.FITOptions{Principal: ada}, forgetest.Tokens{User: h.token(), System: h.token()})
	h.system() // its token is kept
	function := forgetest.FITOptions{ModuleType: forge.ModuleEndpoint, Principal: ada}
	for name, tc := range map[string]struct {
		header http.Header
		actor  string
		want   forge.ActorKind // empty: refused
		says   []string
	}{
		"the user by default":        {both, "", forge.ActorUser, nil},
		"the app by default":         {h.system(), "", forge.ActorSystem, nil},
		"the app, asked for":         {h.system(), `"actor": "system",`, forge.ActorSystem, nil},
		"the user, asked for":        {both, `"actor": "user",`, forge.ActorUser, nil},
		"a user through a function":  {h.Header(function, forgetest.Tokens{User: h.token()}), "", forge.ActorUser, nil},
		"the app, by a user":         {both, `"actor": "system",`, "", []string{"leave actor out", "a rule or a function of the app"}},
		"the app, by a function's":   {h.Header(function, forgetest.Tokens{}), `"actor": "system",`, "", []string{"leave actor out"}},
		"a user without a principal": {h.system(), `"actor": "user",`, "", []string{`"user" needs a user in session`, `use "system"`}},
		"a user without a token":     {h.Header(forgetest.FITOptions{Principal: "557058:eve"}, forgetest.Tokens{System: h.token()}), "", "", []string{`actor "user"`, "X-Forge-Oauth-User"}},
		"a page without a user":      {h.Header(forgetest.FITOptions{ModuleType: "bitbucket:repoMainMenuPage"}, forgetest.Tokens{User: h.token()}), "", "", []string{"UI module", "principal"}},
		"no system token":            {nobody, "", "", []string{`actor "system"`, "none is kept", "auth.appSystemToken.enabled: true", "/forge/schedule"}},
		"a function's own system token": {
			h.Header(forgetest.FITOptions{Installation: other}, forgetest.Tokens{System: h.token()}), "", "", []string{`actor "system"`, "none is kept", "only Forge's own calls bring one"},
		},
		"no user token": {
			h.Header(forgetest.FITOptions{Installation: other, Principal: "557058:bob"}, forgetest.Tokens{}), `"actor": "user",`, "",
			[]string{`actor "user"`, "no X-Forge-Oauth-User header", "auth.appUserToken.enabled: true", "the app's UI"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := strings.Replace(cloneBody, "{", "{"+tc.actor, 1)
			answer := h.do(t, http.MethodPost, "/v1/jobs", tc.header, body)
			if tc.want == "" {
				status, kind := http.StatusBadRequest, fault.Invalid
				if answer.Status == http.StatusForbidden {
					status, kind = http.StatusForbidden, fault.Denied
				}
				refused(t, answer, status, kind, tc.says...)
			} else if made := decode[jobView](t, answer); answer.Status != http.StatusAccepted || made.Actor != tc.want {
				t.Errorf("status %d, actor %q", answer.Status, made.Actor)
			}
		})
	}
}

// TestKeptToken: a token of an earlier call serves a later one, of the same actor only.
func TestKeptToken(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bare := h.Header(forgetest.FITOptions{Principal: ada}, forgetest.Tokens{})
	body := strings.Replace(cloneBody, "{", `{"actor": "user",`, 1)
	refused(t, h.do(t, http.MethodPost, "/v1/jobs", bare, body), http.StatusBadRequest, fault.Invalid, "none of that user's is kept")
	if answer := h.do(t, http.MethodGet, "/v1/jobs", h.user(), ""); answer.Status != http.StatusOK { // brings it
		t.Fatal(answer.Status)
	}
	h.submit(t, bare, body)
	bob := h.Header(forgetest.FITOptions{Principal: "557058:bob"}, forgetest.Tokens{})
	refused(t, h.do(t, http.MethodPost, "/v1/jobs", bob, body), http.StatusBadRequest, fault.Invalid, "none of that user's is kept")
	if n := len(h.jobs.queued()); n != 1 {
		t.Errorf("%d jobs", n)
	}
}

// TestIdempotency: one key, one job, for each installation and actor.
func TestIdempotency(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	keyed := func(header http.Header) http.Header { return with(header, "Idempotency-Key", "the-key") }
	first := h.submit(t, keyed(h.user()), pushBody)

	again := h.do(t, http.MethodPost, "/v1/jobs", keyed(h.user()), strings.ReplaceAll(pushBody, " ", "\n"))
	if repeated := decode[jobView](t, again); again.Status != http.StatusOK || again.Header.Get("Location") != "" || repeated.ID != first.ID {
		t.Errorf("status %d, %v, id %s, not %s", again.Status, again.Header, repeated.ID, first.ID)
	}
	refused(t, h.do(t, http.MethodPost, "/v1/jobs", keyed(h.user()), cloneBody), http.StatusConflict, fault.Conflict, "Idempotency-Key", "another request")

	ids := []string{
		first.ID, h.submit(t, keyed(h.system()), pushBody).ID, h.submit(t, keyed(h.foreign()), pushBody).ID,
		h.submit(t, with(h.user(), "Idempotency-Key", "another-key"), pushBody).ID, h.submit(t, h.user(), pushBody).ID, h.submit(t, h.user(), pushBody).ID,
	}
	slices.Sort(ids)
	if distinct := slices.Compact(slices.Clone(ids)); len(distinct) != len(ids) || len(h.jobs.queued()) != len(ids) {
		t.Errorf("%d ids, %d distinct, %d jobs", len(ids), len(distinct), len(h.jobs.queued()))
	}
	if counted := h.counts.taken(); !slices.Contains(counted, "enqueued push interactive false") {
		t.Errorf("counted %v", counted)
	}
}

// TestIsolation: to one installation another's jobs are not there, in every way of asking.
func TestIsolation(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	mine := h.submit(t, h.user(), cloneBody)
	h.jobs.set(mine.ID, func(status *job.Status) { *status = cloned(*status, h, "the archive") })
	for _, route := range []string{
		"GET /v1/jobs/" + mine.ID, "POST /v1/jobs/" + mine.ID + "/cancel", "POST /v1/jobs/" + mine.ID + "/retry", "GET /v1/jobs/" + mine.ID + "/artifact",
	} {
		method, path, _ := strings.Cut(route, " ")
		refused(t, h.do(t, method, path, h.foreign(), ""), http.StatusNotFound, fault.NotFound, mine.ID)
	}
	if answer := h.do(t, http.MethodHead, "/v1/jobs/"+mine.ID+"/artifact", h.foreign(), ""); answer.Status != http.StatusNotFound || answer.Header.Get("ETag") != "" {
		t.Errorf("HEAD answers %d, %v", answer.Status, answer.Header)
	}
	if page := decode[listView](t, h.do(t, http.MethodGet, "/v1/jobs", h.foreign(), "")); len(page.Jobs) != 0 {
		t.Errorf("lists %v", page.Jobs)
	}
	if got := decode[jobView](t, h.do(t, http.MethodGet, "/v1/jobs/"+mine.ID, h.user(), "")); got.State != job.Succeeded {
		t.Errorf("mine is %s", got.State)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	var ids []string
	for range 5 {
		ids = append(ids, h.submit(t, h.user(), pushBody).ID)
	}
	slices.Reverse(ids)
	h.jobs.set(ids[1], func(status *job.Status) { status.State = job.Running; status.StartedAt = time.Now() })

	var listed []string
	for next, pages := "", 0; pages == 0 || next != ""; pages++ {
		page := decode[listView](t, h.do(t, http.MethodGet, "/v1/jobs?limit=2&cursor="+next, h.user(), ""))
		for _, found := range page.Jobs {
			listed = append(listed, found.ID)
		}
		next = page.Next
	}
	if diff := cmp.Diff(ids, listed); diff != "" {
		t.Error("submitted (-), listed (+):\n" + diff)
	}
	running := decode[listView](t, h.do(t, http.MethodGet, "/v1/jobs?state=running&limit=100", h.user(), ""))
	if len(running.Jobs) != 1 || running.Jobs[0].ID != ids[1] || running.Next != "" {
		t.Errorf("running: %+v", running)
	}
	if answer := h.do(t, http.MethodGet, "/v1/jobs?state=failed", h.user(), ""); !strings.Contains(string(answer.Body), `"jobs":[]`) {
		t.Errorf("an empty page is %s", answer.Body)
	}
}

func TestCancelAndRetry(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.submit(t, h.user(), pushBody).ID
	refused(t, h.do(t, http.MethodPost, "/v1/jobs/"+id+"/retry", h.user(), ""), http.StatusConflict, fault.Conflict, "queued")

	canceled := decode[jobView](t, h.do(t, http.MethodPost, "/v1/jobs/"+id+"/cancel", h.user(), ""))
	if canceled.State != job.Canceled || canceled.Failure == nil || canceled.Links.Cancel != "" || canceled.Links.Retry == "" || canceled.EndedAt.IsZero() {
		t.Errorf("canceled: %+v", canceled)
	}
	refused(t, h.do(t, http.MethodPost, "/v1/jobs/"+id+"/cancel", h.user(), ""), http.StatusConflict, fault.Conflict, "canceled")

	// The app may retry it, and then too the user's token does the work.
	kept := maps.Clone(h.tokens.kept)
	_ = h.tokens.Forget(t.Context(), forgetest.Installation)
	for _, header := range []http.Header{h.system(), h.Header(forgetest.FITOptions{Principal: ada}, forgetest.Tokens{})} {
		refused(t, h.do(t, http.MethodPost, "/v1/jobs/"+id+"/retry", header, ""), http.StatusBadRequest, fault.Invalid, "X-Forge-Oauth-User")
	}
	maps.Copy(h.tokens.kept, kept)
	again := decode[jobView](t, h.do(t, http.MethodPost, canceled.Links.Retry, h.system(), ""))
	if again.State != job.Queued || again.Failure != nil || again.Actor != forge.ActorUser {
		t.Errorf("again: %+v", again)
	}
	system := h.submit(t, h.system(), pushBody).ID
	h.jobs.set(system, func(status *job.Status) { status.State = job.Failed })
	if again := decode[jobView](t, h.do(t, http.MethodPost, "/v1/jobs/"+system+"/retry", h.system(), "")); again.State != job.Queued {
		t.Errorf("again: %+v", again)
	}
}

// TestJobView: every part of a status as its caller sees it, against the document.
func TestJobView(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	now, commit := time.Now().UTC().Truncate(time.Millisecond), strings.Repeat("a", 40)
	for name, tc := range map[string]struct {
		change func(*job.Status)
		want   func(*jobView)
	}{
		"retrying": {
			func(s *job.Status) {
				s.State, s.Attempts, s.StartedAt, s.NextAt = job.Retrying, 2, now, now.Add(time.Minute)
				s.Failure = &job.Failure{Kind: fault.Unavailable, Detail: "bitbucket is away"}
			},
			func(v *jobView) {
				v.State, v.Attempts, v.StartedAt, v.NextAttemptAt = job.Retrying, 2, now, now.Add(time.Minute)
				v.Failure = &job.Failure{Kind: fault.Unavailable, Detail: "bitbucket is away"}
			},
		},
		"pushed": {
			func(s *job.Status) {
				s.State, s.EndedAt = job.Succeeded, now
				s.Result = &job.Result{Push: &job.PushResult{
					Branch: "main", Commit: commit, Parent: commit, Changed: 3, Created: true, Restarts: 1,
					PullRequest: &job.PullRequestResult{ID: 7, URL: "https://bitbucket.org/acme/web/pull-requests/7"},
				}}
			},
			func(v *jobView) {
				v.State, v.EndedAt, v.Links.Cancel = job.Succeeded, now, ""
				v.Result = &resultView{Push: &pushView{
					Branch: "main", Commit: commit, Parent: commit, Changed: 3, Created: true, Restarts: 1,
					PullRequest: &job.PullRequestResult{ID: 7, URL: "https://bitbucket.org/acme/web/pull-requests/7"},
				}}
			},
		},
		"nothing to push": {
			func(s *job.Status) {
				s.State, s.Result = job.Succeeded, &job.Result{Push: &job.PushResult{Branch: "main", Commit: commit, Unchanged: true}}
			},
			func(v *jobView) {
				v.State, v.Links.Cancel = job.Succeeded, ""
				v.Result = &resultView{Push: &pushView{Branch: "main", Commit: commit, Unchanged: true}}
			},
		},
		"a dry run": {
			func(s *job.Status) {
				s.State, s.Result = job.Succeeded, &job.Result{Push: &job.PushResult{
					Branch: "main", Parent: commit, Tree: commit, Changed: 2, Added: 3, Removed: 4, DryRun: true, Created: true,
					Diff: &job.Artifact{Key: "canary", Format: job.ArchiveDiff, Size: 5, SHA256: strings.Repeat("d", 64), Files: 2, ExpiresAt: now, Truncated: true},
				}}
			},
			func(v *jobView) {
				v.State, v.Links.Cancel, v.Links.Artifact = job.Succeeded, "", v.Links.Self+"/artifact"
				v.Result = &resultView{Push: &pushView{
					Branch: "main", Parent: commit, Tree: commit, Changed: 2, Added: 3, Removed: 4, DryRun: true, Created: true,
					Diff: &artifactView{
						Format: job.ArchiveDiff, Size: 5, SHA256: strings.Repeat("d", 64), Files: 2, ExpiresAt: now, Truncated: true, URL: v.Links.Artifact,
					},
				}}
			},
		},
		"skipped": {
			func(s *job.Status) {
				s.State, s.Result = job.Succeeded, &job.Result{Push: &job.PushResult{Branch: "main", Skipped: "there is no go.mod"}}
			},
			func(v *jobView) {
				v.State, v.Links.Cancel = job.Succeeded, ""
				v.Result = &resultView{Push: &pushView{Branch: "main", Skipped: "there is no go.mod"}}
			},
		},
		"read without an archive": {
			func(s *job.Status) {
				s.State, s.Result = job.Succeeded, &job.Result{Clone: &job.CloneResult{Ref: "refs/heads/main", Commit: commit}}
			},
			func(v *jobView) {
				v.State, v.Links.Cancel = job.Succeeded, ""
				v.Result = &resultView{Clone: &cloneView{Ref: "refs/heads/main", Commit: commit}}
			},
		},
		"failed, of every kind": {
			func(s *job.Status) {
				s.State, s.Failure = job.Failed, &job.Failure{Kind: fault.TooLarge, Detail: "…"}
			},
			func(v *jobView) {
				v.State, v.Failure = job.Failed, &job.Failure{Kind: fault.TooLarge, Detail: "…"}
				v.Links.Cancel, v.Links.Retry = "", v.Links.Self+"/retry"
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := h.submit(t, h.user(), pushBody)
			h.jobs.set(want.ID, tc.change)
			tc.want(&want)
			if diff := cmp.Diff(want, decode[jobView](t, h.do(t, http.MethodGet, "/v1/jobs/"+want.ID, h.user(), ""))); diff != "" {
				t.Error("wanted (-), answered (+):\n" + diff)
			}
		})
	}
}

// TestFaults: each kind that the queue can answer with is a documented problem, and says when to come again.
func TestFaults(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const id = "01987f6e-7d1a-7c3b-9e55-0f6f2a3b4c5d"
	for _, kind := range []fault.Kind{
		fault.Internal, fault.Invalid, fault.NotFound, fault.Conflict, fault.Throttled, fault.Unavailable, fault.Interrupted, fault.Canceled, fault.Expired,
	} {
		for _, after := range []time.Duration{0, 1500 * time.Millisecond} {
			failing := fault.Newf(kind, "the queue says no")
			failing.RetryAfter = after
			handler := h.build(t, func(config *Config) {
				config.Jobs = &memoryJobs{meddle: func(context.Context) error { return fmt.Errorf("get: %w", failing) }}
			})
			answer := h.to(t, handler, http.MethodPost, "/v1/jobs/"+id+"/cancel", h.user(), "")
			refused(t, answer, kind.Problem().Status, kind, "the queue says no")
			want := ""
			switch {
			case after > 0:
				want = "2" // rounded up
			case kind.Problem().Status == http.StatusServiceUnavailable:
				want = "5"
			}
			if got := answer.Header.Get("Retry-After"); got != want {
				t.Errorf("%v after %v: Retry-After %q, not %q", kind, after, got, want)
			}
		}
	}
}

// forgettingTokens is a vault that holds nothing, as it does with a token that is about to expire.
type forgettingTokens struct{ *memoryTokens }

func (forgettingTokens) Put(context.Context, string, forge.Actor, forge.OAuthToken, time.Time) (bool, error) {
	return false, nil
}

// TestBroughtToken: a token that comes along is enough to be queued; what it is worth is the worker's to judge.
func TestBroughtToken(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	handler := h.build(t, func(config *Config) { config.Tokens = forgettingTokens{h.tokens} })
	if answer := h.to(t, handler, http.MethodPost, "/v1/jobs", h.user(), pushBody); answer.Status != http.StatusAccepted {
		t.Errorf("status %d: %s", answer.Status, answer.Body)
	}
}

// TestSubmitWithOptions: what says how a push is made is documented as it is taken.
func TestSubmitWithOptions(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const start = `{"repository":{"workspace":"acme","slug":"web"},"push":{"branch":"b","message":"m","create":true,`
	for name, rest := range map[string]string{
		"every option": `"changes":[],"dry_run":true,"has_file":"go.mod","on_conflict":"skip","recipe":{"name":"bump","parameters":{"to":"2"}},
			"pull_request":{"title":"t","reviewers":["712020:ada","{5f1c9a00-0000-0000-0000-000000000000}"]}}}`,
		"a recipe alone": `"recipe":{"name":"bump"}}}`,
		"the default":    `"on_conflict":"update","changes":[{"delete":{"path":"a"}}]}}`,
	} {
		if answer := h.do(t, http.MethodPost, "/v1/jobs", h.user(), start+rest); answer.Status != http.StatusAccepted {
			t.Errorf("%s: %d %s", name, answer.Status, answer.Body)
		}
	}
	refused(t, h.do(t, http.MethodPost, "/v1/jobs", h.user(), start+`"changes":[{"delete":{"path":"a"}}],"expect":{"tree":"a"}}}`),
		http.StatusBadRequest, fault.Invalid, "push.expect")
}
