package deploy_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/deploy/forge/app/bridge"
	"github.com/gitsmith/gitsmith/internal/browsertest"
)

// batch is an answer of GET /v1/batches/{id}, with what is given in place of its own.
func batch(changed map[string]any) string {
	whole := map[string]any{
		"id": "b1", "title": "Add the licence", "state": "running", "reason": "", "dry_run": false, "from": "", "actor": "system",
		"created_at": "2026-11-27T09:00:00Z", "total": 240,
		"totals":     totals(0, 0, 0),
		"per_minute": 120.5, "seconds_left": 95,
		"failures": []any{}, "skips": []any{},
	}
	maps.Copy(whole, changed)
	text, _ := json.Marshal(whole) // of values that all can
	return string(text)
}

func totals(running, succeeded, failed int) map[string]int {
	return map[string]int{
		"queued": 240 - running - succeeded - failed, "running": running, "waiting": 0, "succeeded": succeeded, "unchanged": 0, "failed": failed, "canceled": 0, "skipped": 0,
	}
}

var (
	moving = batch(map[string]any{
		"stage":  map[string]any{"name": "then", "until": 120},
		"totals": map[string]int{"queued": 148, "running": 16, "waiting": 2, "succeeded": 61, "unchanged": 9, "failed": 1, "canceled": 0, "skipped": 3},
		"failures": []any{
			map[string]any{"kind": "denied", "reason": "push to chore/licence: the branch is restricted; ask an administrator of the repository", "count": 1, "examples": []string{"acme/payments"}},
		},
	})
	stopped = batch(map[string]any{
		"state": "stopped", "reason": "38 of 240 failed, which is more than stop_at_failures (10%) allows; look at the failures, then resume or cancel", "seconds_left": nil, "per_minute": 0,
		"totals": map[string]int{"queued": 120, "running": 0, "waiting": 0, "succeeded": 71, "unchanged": 8, "failed": 38, "canceled": 0, "skipped": 3},
		"failures": []any{
			map[string]any{"kind": "denied", "reason": "push to chore/licence: the branch is restricted; ask an administrator of the repository", "count": 31, "examples": []string{"acme/payments", "acme/ledger", "acme/billing", "acme/vault-proxy", "acme/cards"}},
			map[string]any{"kind": "conflict", "reason": "replace in README.md: the pattern was not found in any file", "count": 7, "examples": []string{"acme/docs", "acme/site"}},
		},
		"skips": []any{map[string]any{"kind": "", "reason": "there is no go.mod", "count": 3, "examples": []string{"acme/art", "acme/wiki", "acme/notes"}}},
	})
	done = batch(map[string]any{
		"state": "finished", "ended_at": "2026-11-27T09:02:09Z", "seconds_left": nil,
		"totals": map[string]int{"queued": 0, "running": 0, "waiting": 0, "succeeded": 228, "unchanged": 12, "failed": 0, "canceled": 0, "skipped": 0},
	})
	dry = batch(map[string]any{
		"actor": "user", "rollout": map[string]any{"canary": 5, "then": "50%", "stop_at_failures": "10%"}, "concurrency": 16, "per_hour": 600,
		"state": "finished", "dry_run": true, "ended_at": "2026-11-27T09:02:09Z",
		"totals": map[string]int{"queued": 0, "running": 0, "waiting": 0, "succeeded": 236, "unchanged": 4, "failed": 0, "canceled": 0, "skipped": 0},
	})
)

const (
	// As they are asked for first.
	list  = "GET /v1/batches?limit=20"
	one   = "GET /v1/batches/b1"
	repos = "GET /v1/batches/b1/repositories?limit=25"

	repositories = `{"repositories":[
		{"repository":"acme/web","state":"succeeded","job":"j1","branch":"chore/licence","commit":"5f2c91d07be44c0f9a","pull_request":{"id":12,"url":"https://bitbucket.org/acme/web/pull-requests/12"},"changed":1,"added":21,"attempts":1,"links":{"job":"/v1/jobs/j1"}},
		{"repository":"acme/payments","state":"failed","job":"j2","failure":{"kind":"denied","detail":"push to chore/licence: the branch is restricted; ask an administrator of the repository"},"attempts":3,"links":{"job":"/v1/jobs/j2"}},
		{"repository":"acme/a-service-with-quite-a-long-name-that-somebody-chose","state":"running","attempts":1},
		{"repository":"acme/art","state":"skipped","skipped":"there is no go.mod","attempts":1},
		{"repository":"acme/queue","state":"queued"}],"next":"page2"}`
	planned = `{"repositories":[
		{"repository":"acme/web","state":"succeeded","job":"j1","changed":2,"added":22,"removed":1,"attempts":1,"links":{"job":"/v1/jobs/j1","diff":"/v1/jobs/j1/artifact"}}],"next":""}`
	diff = "diff --git a/README.md b/README.md\n--- a/README.md\n+++ b/README.md\n@@ -1,3 +1,3 @@\n # Web\n-See https://old.example.com\n+See https://new.example.com\n"
)

func newAPI() *api { return &api{answers: map[string][]bridge.Answer{}} }

// TestPage drives the built page in Chromium, with the bridge's stand-in around it and a scripted API behind.
func TestPage(t *testing.T) {
	t.Parallel()
	chromium := browsertest.Start(t)
	for name, tc := range map[string]func(t *testing.T, open func(api *api, place string, look view) *tab){
		"starts a batch":           startsABatch,
		"starts one by a query":    startsByQuery,
		"says what is wrong":       saysWhatIsWrong,
		"shows the server's word":  showsTheServersWord,
		"shows progress":           showsProgress,
		"acts":                     acts,
		"groups failures":          groupsFailures,
		"pages":                    pages,
		"shows a dry run":          showsADryRun,
		"lists batches":            listsBatches,
		"rests while it is hidden": restsWhileHidden,
		"looks finished":           looksFinished,
	} {
		t.Run(name, func(t *testing.T) {
			tc(t, func(api *api, place string, look view) *tab { return open(t, chromium, api, place, look) })
		})
	}
}

type opener = func(api *api, place string, look view) *tab

func startsABatch(t *testing.T, open opener) {
	p := open(newAPI().say("POST /v1/batches", http.StatusAccepted, batch(nil)).say(one, 200, batch(nil)).say(repos, 200, repositories).
		say("GET /v1/installation", 200, `{"actors":["user","system"]}`), "new", view{})
	p.Fill("title", "Licence", "list", "acme/web team=core\nhttps://bitbucket.org/acme/api\n", "branch", "chore/licence", "message", "Add the licence",
		"path-0", "LICENSE", "content-0", "MIT\n", "prTitle", "Add the licence to {{ repository.slug }}", "prDescription", "As agreed.",
		"reviewers", "712020:bob, {11111111-2222-4333-8444-555555555555}", "concurrency", "16", "dryRun", "off", "actor", "system")
	p.Press("Add a change")
	p.Fill("kind-1", "replace")
	p.Fill("paths-1", "**/*.md, src/**", "pattern-1", "old", "with-1", "new", "regexp-1", "on")
	p.Press("Add a change")
	p.Fill("kind-2", "json")
	p.Fill("json-2", `[{"delete":{"path":"old.txt"}},{"move":{"from":"a","to":"b"}}]`)
	p.Press("Start the batch")
	p.Sees("0 of 240 repositories")

	calls := p.api.called("POST /v1/batches")
	if len(calls) != 1 {
		t.Fatalf("%d batches were started", len(calls))
	}
	want := `{"title":"Licence","actor":"system",
		"repositories":[{"workspace":"acme","slug":"web","values":{"team":"core"}},{"workspace":"acme","slug":"api"}],
		"push":{"branch":"chore/licence","create":true,"message":"Add the licence",
			"changes":[{"put":{"path":"LICENSE","content":"MIT\n"}},
				{"replace":{"paths":["**/*.md","src/**"],"pattern":"old","with":"new","regexp":true}},
				{"delete":{"path":"old.txt"}},{"move":{"from":"a","to":"b"}}],
			"pull_request":{"title":"Add the licence to {{ repository.slug }}","description":"As agreed.","close_source_branch":true,
				"reviewers":["712020:bob","{11111111-2222-4333-8444-555555555555}"]}},
		"rollout":{"canary":5,"then":"50%","stop_at_failures":"10%"},"concurrency":16}`
	if !same(t, calls[0].Body, want) {
		t.Errorf("sent %s\nwant %s", calls[0].Body, want)
	}
	headers := calls[0].Headers
	if headers["Content-Type"] != "application/json" || headers["Accept"] != "application/json" || len(headers["Idempotency-Key"]) < 16 {
		t.Errorf("headers %v", headers)
	}
}

func startsByQuery(t *testing.T, open opener) {
	p := open(newAPI().say("POST /v1/batches", http.StatusAccepted, batch(nil)).say(one, 200, batch(nil)).say(repos, 200, repositories).
		say("GET /v1/installation", 200, `{"actors":["user"]}`), "new", view{})
	p.sends("GET /v1/installation")
	p.Wait(`document.getElementById("actor") === null && !document.body.innerText.includes("The app")`)
	p.Do(`document.querySelector("[name=by][value=query]").click()`)
	p.Fill("name", "web-*", "project", "CORE", "language", "go", "hasFile", "go.mod", "branch", "b", "message", "m", "path-0", "f", "open", "off", "staged", "off")
	p.Press("Start the dry run")
	p.Sees("0 of 240 repositories")
	want := `{"query":{"workspace":"acme","name":"web-*","project":"CORE","language":"go","has_file":"go.mod"},"actor":"user","dry_run":true,
		"push":{"branch":"b","create":true,"message":"m","changes":[{"put":{"path":"f","content":""}}]}}`
	if calls := p.api.called("POST /v1/batches"); len(calls) != 1 || !same(t, calls[0].Body, want) {
		t.Errorf("sent %s\nwant %s", calls, want)
	}
}

func saysWhatIsWrong(t *testing.T, open opener) {
	p := open(newAPI(), "new", view{})
	p.Fill("list", "acme/web\nacme web\n", "canary", "none", "stop", "200%", "concurrency", "0")
	p.Press("Start the dry run")
	for id, want := range map[string]string{
		"list": "Line 2: write workspace/slug", "branch": "Name the branch", "message": "Write the commit's message", "path-0": "Name the file",
		"prTitle": "Write the pull requests' title", "canary": "A number of repositories", "stop": "A number of repositories", "concurrency": "A whole number",
	} {
		p.Wait(fmt.Sprintf(`document.getElementById("%s").getAttribute("aria-invalid") === "true"`, id))
		p.Wait(fmt.Sprintf(`document.getElementById("%s").getAttribute("aria-describedby").split(" ").includes("%s-error")`, id, id))
		if got := browsertest.Value[string](p.Page, fmt.Sprintf(`document.getElementById("%s-error")?.innerText ?? ""`, id)); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
	p.Wait(`document.activeElement.id === "list"`)
	p.Fill("kind-0", "json")
	p.Fill("json-0", "{", "list", "acme/web\nacme/web")
	p.Press("Start the dry run")
	p.Sees("This is no JSON", "Line 2: acme/web is on line 1 too")
	p.Fill("kind-0", "put")
	p.Fill("list", "acme/web", "branch", "b", "message", "m", "path-0", "f", "content-0", strings.Repeat("x", 500_001), "prTitle", "t", "canary", "1", "stop", "10%", "concurrency", "")
	p.Press("Start the dry run")
	p.Sees("Forge takes 500 KB at most")
	if calls := p.api.called("POST /v1/batches"); len(calls) > 0 {
		t.Errorf("sent nevertheless: %s", calls[0].Body)
	}
	p.Do(`document.getElementById("content-0").scrollIntoView()`)
}

func showsTheServersWord(t *testing.T, open opener) {
	const detail = "query: workspace acme has 10,412 repositories that match; at most 10,000 go into a batch; narrow the query"
	api := newAPI().say("POST /v1/batches", 422, `{"title":"Invalid","status":422,"detail":"`+detail+`"}`).say("POST /v1/batches", 202, batch(nil)).
		say(one, 200, batch(nil)).say(repos, 200, repositories)
	p := open(api, "new", view{})
	p.Fill("list", "acme/web", "branch", "b", "message", "m", "path-0", "f", "open", "off")
	p.Press("Start the dry run")
	p.Sees(detail)
	p.Wait(`document.querySelector("[role=alert]").innerText === ` + strconv.Quote(detail))
	p.Press("Start the dry run")
	p.Sees("0 of 240 repositories")
	if calls := api.called("POST /v1/batches"); len(calls) != 2 || calls[0].Headers["Idempotency-Key"] != calls[1].Headers["Idempotency-Key"] {
		t.Error("the same content again has another Idempotency-Key")
	}
}
