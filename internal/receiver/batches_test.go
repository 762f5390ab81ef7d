package receiver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

// memoryBatches is the real store on an embedded Redis; its jobs are what a test says they are.
type memoryBatches struct {
	*ledger.Batches
	redis redis.UniversalClient
	jobs  map[string]job.Status
}

func newBatches(tb testing.TB) *memoryBatches {
	tb.Helper()
	client := queuetest.Embedded(tb)
	ring := testkit.Keyring(tb, "a", 1)
	m := &memoryBatches{redis: client, jobs: map[string]job.Status{}}
	m.Batches = ledger.NewBatches(ledger.BatchOptions{Redis: client, Keyring: ring, Jobs: m})
	return m
}

func (m *memoryBatches) GetAll(_ context.Context, _ string, ids []string) ([]job.Status, error) {
	all := make([]job.Status, len(ids))
	for i, id := range ids {
		all[i] = m.jobs[id]
	}
	return all, nil
}

// end puts a repository where its job's end would.
func (m *memoryBatches) end(tb testing.TB, installation, id string, item int, state batch.ItemState, status job.Status) {
	tb.Helper()
	status.ID = batch.JobID(id, item)
	m.jobs[status.ID] = status
	key := "gitsmith:{" + installation + "}:batch:" + id
	for _, command := range [][]any{{"ZREM", key + ":pending", item}, {"ZADD", key + ":" + string(state), item, item}, {"HINCRBY", key, "changes", 1}} {
		if err := m.redis.Do(tb.Context(), command...).Err(); err != nil {
			tb.Fatal(err)
		}
	}
}

const batchBody = `{"repositories": [{"workspace": "acme", "slug": "web", "values": {"team": "core"}}, {"workspace": "acme", "slug": "api", "values": {"team": "edge"}}],
	"push": {"branch": "chore/owners", "create": true, "message": "Owners of {{repository.slug}}", "changes": [{"put": {"path": "OWNERS", "content": "{{values.team}}"}}]},
	"rollout": {"canary": 1, "then": "50%", "stop_at_failures": "10%"}, "concurrency": 4, "per_hour": 100}`

func (h *house) submitBatch(tb testing.TB, header http.Header, body string) batchView {
	tb.Helper()
	answer := h.do(tb, http.MethodPost, "/v1/batches", header, body)
	if answer.Status != http.StatusAccepted {
		tb.Fatalf("status %d: %s", answer.Status, answer.Body)
	}
	view := decode[batchView](tb, answer)
	if answer.Header.Get("Location") != view.Links.Self {
		tb.Errorf("location %q, self %q", answer.Header.Get("Location"), view.Links.Self)
	}
	return view
}

func TestSubmitBatch(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	made := h.submitBatch(t, with(h.user(), "Idempotency-Key", "k1"), batchBody)
	if made.State != batch.StateRunning || made.Total != 2 || made.Totals[batch.Queued] != 2 || made.Actor != "user" || made.Title != "Owners of {{repository.slug}}" {
		t.Errorf("%+v", made)
	}
	if made.Links.Cancel == "" || made.Links.Pause == "" || made.Links.Resume != "" || made.Links.Retry != "" {
		t.Errorf("links %+v", made.Links)
	}
	again := h.do(t, http.MethodPost, "/v1/batches", with(h.user(), "Idempotency-Key", "k1"), batchBody)
	if again.Status != http.StatusOK || decode[batchView](t, again).ID != made.ID {
		t.Errorf("status %d: %s", again.Status, again.Body)
	}
	other := h.do(t, http.MethodPost, "/v1/batches", with(h.user(), "Idempotency-Key", "k1"), strings.Replace(batchBody, "OWNERS", "CODEOWNERS", 1))
	refused(t, other, http.StatusConflict, fault.Conflict, "Idempotency-Key")

	list := decode[batchListView](t, h.do(t, http.MethodGet, "/v1/batches?limit=1", h.user(), ""))
	if len(list.Batches) != 1 || list.Batches[0].ID != made.ID || list.Next != "" {
		t.Errorf("%+v", list)
	}
	if list := decode[batchListView](t, h.do(t, http.MethodGet, "/v1/batches", h.foreign(), "")); len(list.Batches) != 0 {
		t.Errorf("another installation sees %+v", list)
	}
	if !strings.Contains(h.log.String(), made.ID) || strings.Contains(h.log.String(), "Owners of") {
		t.Error("the log lacks the batch's id, or has its text")
	}
}

// TestBatchOfUser: a batch of a user who has no token could only wait; one of the system waits for the next.
func TestBatchTokens(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bare := h.Header(forgetest.FITOptions{Principal: ada}, forgetest.Tokens{})
	body := strings.Replace(batchBody, `"concurrency"`, `"actor": "user", "concurrency"`, 1)
	refused(t, h.do(t, http.MethodPost, "/v1/batches", bare, body), http.StatusBadRequest, fault.Invalid, "X-Forge-Oauth-User")
	nobody := h.Header(forgetest.FITOptions{}, forgetest.Tokens{})
	refused(t, h.do(t, http.MethodPost, "/v1/batches", nobody, body), http.StatusBadRequest, fault.Invalid, "no")
	asApp := strings.Replace(batchBody, `"concurrency"`, `"actor": "system", "concurrency"`, 1)
	refused(t, h.do(t, http.MethodPost, "/v1/batches", h.user(), asApp), http.StatusForbidden, fault.Denied, "leave actor out")
	h.submitBatch(t, nobody, batchBody)
}

func TestBatchRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	push := `"push": {"branch": "b", "create": true, "message": "m", "changes": [{"put": {"path": "a", "content": "b"}}]}`
	one := `"repositories": [{"workspace": "acme", "slug": "web"}]`
	for name, tc := range map[string]struct{ body, says string }{
		"nothing":               {`{}`, "push is missing"},
		"no repositories":       {`{` + push + `}`, "repositories and query"},
		"both":                  {`{` + one + `, "query": {}, ` + push + `}`, "repositories and query"},
		"twice the same":        {`{"repositories": [{"workspace": "acme", "slug": "web"}, {"workspace": "acme", "slug": "web"}], ` + push + `}`, "repositories[1]: acme/web stands at 0 already"},
		"a wrong repository":    {`{"repositories": [{"workspace": "acme", "slug": "../x"}], ` + push + `}`, "repositories[0]"},
		"an unknown field":      {`{` + one + `, "canary": 1, ` + push + `}`, "unknown field"},
		"a wrong share":         {`{` + one + `, "rollout": {"canary": "0%"}, ` + push + `}`, "rollout"},
		"more than all":         {`{` + one + `, "rollout": {"then": "101%"}, ` + push + `}`, "rollout"},
		"a dry push":            {`{` + one + `, ` + strings.Replace(push, `"create"`, `"dry_run": true, "create"`, 1) + `}`, "push.dry_run"},
		"an expectation":        {`{` + one + `, ` + strings.Replace(push, `"create"`, `"expect": {"tree": "x"}, "create"`, 1) + `}`, "expect"},
		"a put without content": {`{` + one + `, "push": {"branch": "b", "message": "m", "changes": [{"put": {"path": "a"}}]}}`, "content"},
		"an unknown member":     {`{` + one + `, ` + strings.Replace(push, `"m"`, `"{{repository.owner}}"`, 1) + `}`, "owner"},
		"a missing value":       {`{` + one + `, ` + strings.Replace(push, `"m"`, `"{{values.team}}"`, 1) + `}`, "values.team"},
		"a path that leaves":    {`{` + one + `, ` + strings.Replace(push, `"a"`, `"{{\"..\"}}/x"`, 1) + `}`, ".."},
		"a wrong glob":          {`{"query": {"name": "["}, ` + push + `}`, "query.name"},
		"a wrong workspace":     {`{"query": {"workspace": "a/b"}, ` + push + `}`, "query.workspace"},
		"concurrency":           {`{` + one + `, "concurrency": 101, ` + push + `}`, "concurrency"},
		"per_hour":              {`{` + one + `, "per_hour": -1, ` + push + `}`, "per_hour"},
		"title":                 {`{` + one + `, "title": "a\nb", ` + push + `}`, "title"},
		"actor":                 {`{` + one + `, "actor": "root", ` + push + `}`, "actor"},
		"changed without from":  {`{` + one + `, "changed": "apply", ` + push + `}`, "changed"},
		"from with more":        {`{"from": "0197a4c4-0000-7000-8000-000000000001", ` + push + `}`, "from"},
		"from nowhere":          {`{"from": "0197a4c4-0000-7000-8000-000000000001"}`, "there is no batch"},
		"from, changed wrong":   {`{"from": "0197a4c4-0000-7000-8000-000000000001", "changed": "maybe"}`, "changed"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, h.do(t, http.MethodPost, "/v1/batches", h.system(), tc.body), http.StatusBadRequest, fault.Invalid, tc.says)
		})
	}
	many := make([]string, 10_001)
	for i := range many {
		many[i] = fmt.Sprintf(`{"workspace": "acme", "slug": "r%d"}`, i)
	}
	refused(t, h.do(t, http.MethodPost, "/v1/batches", h.system(), `{"repositories": [`+strings.Join(many, ",")+`], `+push+`}`),
		http.StatusBadRequest, fault.Invalid, "10001 of them, at most 10000")
}

func TestBatchRepositories(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	made := h.submitBatch(t, h.system(), batchBody)
	installation := forgetest.Installation
	h.batches.end(t, installation, made.ID, 0, batch.Failed, job.Status{
		State: job.Failed, Repository: "acme/web", Failure: &job.Failure{Kind: fault.Denied, Detail: "push to acme/web: no"}, Attempts: 1,
	})
	h.batches.end(t, installation, made.ID, 1, batch.Succeeded, job.Status{State: job.Succeeded, Repository: "acme/api", Result: &job.Result{Push: &job.PushResult{
		Branch: "chore/owners", Commit: strings.Repeat("a", 40), Changed: 1, PullRequest: &job.PullRequestResult{ID: 7, URL: "https://bitbucket.org/acme/api/pull-requests/7"},
		Diff: &job.Artifact{Key: "private/key"},
	}}})
	status := decode[batchView](t, h.do(t, http.MethodGet, made.Links.Self, h.system(), ""))
	if status.Totals[batch.Failed] != 1 || len(status.Failures) != 1 || status.Failures[0].Reason != "push to …: no" || status.Links.Retry == "" {
		t.Errorf("%+v", status)
	}
	all := h.do(t, http.MethodGet, made.Links.Repositories, h.system(), "")
	page := decode[itemListView](t, all)
	if len(page.Repositories) != 2 || page.Repositories[1].PullRequest.ID != 7 || page.Repositories[1].Links.Diff == "" || strings.Contains(string(all.Body), "private/key") {
		t.Errorf("%s", all.Body)
	}
	failed := decode[itemListView](t, h.do(t, http.MethodGet, made.Links.Repositories+"?state=failed&limit=1", h.system(), ""))
	if len(failed.Repositories) != 1 || failed.Repositories[0].Repository != "acme/web" || failed.Repositories[0].Failure.Kind != fault.Denied {
		t.Errorf("%+v", failed)
	}
	for _, wrong := range []string{"?state=maybe", "?limit=0", "?limit=101", "?cursor=x"} {
		refused(t, h.do(t, http.MethodGet, made.Links.Repositories+wrong, h.system(), ""), http.StatusBadRequest, fault.Invalid)
	}
	refused(t, h.do(t, http.MethodGet, made.Links.Repositories, h.foreign(), ""), http.StatusNotFound, fault.NotFound)
	refused(t, h.do(t, http.MethodGet, made.Links.Self, h.foreign(), ""), http.StatusNotFound, fault.NotFound)
	refused(t, h.do(t, http.MethodGet, "/v1/batches/B1", h.system(), ""), http.StatusNotFound, fault.NotFound, "UUIDs")
}

func TestActOnBatch(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	made := h.submitBatch(t, h.user(), batchBody)
	act := func(what string, header http.Header) reply {
		return h.do(t, http.MethodPost, made.Links.Self+"/"+what, header, "")
	}
	expect := func(what string, header http.Header, state batch.State) {
		t.Helper()
		answer := act(what, header)
		if view := decode[batchView](t, answer); answer.Status != http.StatusOK || view.State != state {
			t.Errorf("%s: status %d, %s", what, answer.Status, answer.Body)
		}
	}
	for _, what := range []string{"cancel", "pause", "resume", "retry"} {
		refused(t, act(what, h.foreign()), http.StatusNotFound, fault.NotFound)
	}
	refused(t, act("resume", h.user()), http.StatusConflict, fault.Conflict, "running already")
	refused(t, act("retry", h.user()), http.StatusConflict, fault.Conflict, "no repository")
	expect("pause", h.system(), batch.StatePaused)
	refused(t, act("pause", h.user()), http.StatusConflict, fault.Conflict, "paused already")
	kept := maps.Clone(h.tokens.kept)
	_ = h.tokens.Forget(t.Context(), forgetest.Installation)
	refused(t, act("resume", h.system()), http.StatusBadRequest, fault.Invalid, "there is no token")
	maps.Copy(h.tokens.kept, kept)
	expect("resume", h.system(), batch.StateRunning)
	if who, _ := h.batches.redis.HGet(t.Context(), "gitsmith:{"+forgetest.Installation+"}:batch:"+made.ID, "principal").Result(); who != ada {
		t.Errorf("it continues as %q", who)
	}
	h.batches.end(t, forgetest.Installation, made.ID, 0, batch.Failed, job.Status{State: job.Failed, Repository: "acme/web", Failure: &job.Failure{Detail: "no"}})
	expect("retry", h.user(), batch.StateRunning)
	expect("cancel", h.system(), batch.StateCanceled)
	for what, says := range map[string]string{"cancel": "nothing to cancel", "pause": "nothing to pause", "resume": "nothing to resume", "retry": "make a new one"} {
		refused(t, act(what, h.user()), http.StatusConflict, fault.Conflict, says)
	}
}

// FuzzBatchRequest: no body makes the reader of batches panic, and what it takes keeps to its bounds.
func FuzzBatchRequest(f *testing.F) {
	f.Add([]byte(batchBody))
	f.Add([]byte(`{"query": {"name": "web-*", "updated_since": "2026-01-01T00:00:00Z"}, "dry_run": true, "push": {"branch": "b{{index}}", "create": true, "message": "{{repository.project ?? 1}}", "changes": [{"put": {"path": "a", "content": "b"}}]}}`))
	f.Add([]byte(`{"from": "0197a4c4-0000-7000-8000-000000000001", "changed": "apply", "rollout": {"canary": "3", "then": "50%"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		request, err := batch.ParseRequest(body, job.DefaultLimits())
		if err != nil {
			if fault.KindOf(err) != fault.Invalid && fault.KindOf(err) != fault.TooLarge {
				t.Fatalf("%v: %v", fault.KindOf(err), err)
			}
			return
		}
		if request.Concurrency < 1 && request.From == "" || request.Concurrency < 0 || request.Concurrency > 100 || (request.From == "") == (request.Push == nil) {
			t.Fatalf("%+v", request)
		}
	})
}
