package ops_test

import (
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// ask is one request with the login.
func ask(t *testing.T, handler http.Handler, path string) *httptest.ResponseRecorder {
	t.Helper()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
	request.SetBasicAuth(user, password)
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, request)
	return answer
}

func TestBatchesAreBehindTheLogin(t *testing.T) {
	t.Parallel()
	shown := pages(t, example(), nil)
	for _, path := range []string{
		"/dashboard/batches", firstBatch, "/dashboard/batches/events", firstBatch + "/events", "/dashboard/batches/static/batches.js",
	} {
		for name, login := range map[string]func(*http.Request){
			"none": func(*http.Request) {}, "wrong": func(r *http.Request) { r.SetBasicAuth(user, canary) },
		} {
			request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
			login(request)
			answer := httptest.NewRecorder()
			shown.ServeHTTP(answer, request)
			if answer.Code != http.StatusUnauthorized || strings.Contains(answer.Body.String(), "pipelines") {
				t.Errorf("%s, %s: %d %s", path, name, answer.Code, answer.Body)
			}
		}
	}
	if answer := get(handler(t, opsWithoutDashboard), "/dashboard/batches"); answer.Code != http.StatusNotFound {
		t.Errorf("without a password: %d", answer.Code)
	}
}

func TestBatchesOnlyShow(t *testing.T) {
	t.Parallel()
	shown := pages(t, example(), nil)
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch} {
		for _, path := range []string{"/dashboard/batches", firstBatch, "/dashboard/batches/events"} {
			for site, status := range map[string]int{"same-origin": http.StatusMethodNotAllowed, "cross-site": http.StatusForbidden} {
				request := httptest.NewRequestWithContext(t.Context(), method, path, nil)
				request.SetBasicAuth(user, password)
				request.Header.Set("Sec-Fetch-Site", site)
				answer := httptest.NewRecorder()
				shown.ServeHTTP(answer, request)
				if answer.Code != status {
					t.Errorf("%s %s from %s: %d", method, path, site, answer.Code)
				}
			}
		}
	}
}

var inline = regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|<script(?: [^>]*)?>[^<]|javascript:`)

func TestBatchesHeaders(t *testing.T) {
	t.Parallel()
	shown := pages(t, example(), nil)
	for path, content := range map[string]string{
		"/dashboard/batches": "text/html; charset=utf-8", firstBatch: "text/html; charset=utf-8", "/dashboard/batches/static/batches.css": "text/css; charset=utf-8",
		"/dashboard/batches/static/batches.js": "text/javascript; charset=utf-8", "/dashboard/batches/static/icon.svg": "image/svg+xml",
	} {
		answer := ask(t, shown, path)
		policy := answer.Header().Get("Content-Security-Policy")
		if answer.Code != http.StatusOK || !strings.HasPrefix(policy, "default-src 'none'; script-src 'self'; style-src 'self'; ") || strings.Contains(policy, "unsafe") {
			t.Errorf("%s: %d with policy %q", path, answer.Code, policy)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Content-Type": content,
		} {
			if got := answer.Header().Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
		if found := inline.FindString(answer.Body.String()); strings.HasPrefix(content, "text/html") && found != "" {
			t.Errorf("%s has %q in the page", path, found)
		}
	}
	for path, status := range map[string]int{
		"/dashboard/batches/": http.StatusSeeOther, "/dashboard/batches/static/": http.StatusNotFound, "/dashboard/batches/static/none.js": http.StatusNotFound,
		"/dashboard/batches/one": http.StatusNotFound, "/dashboard/batches/static/..%2Fbatches.html": http.StatusNotFound,
	} {
		if answer := ask(t, shown, path); answer.Code != status {
			t.Errorf("%s: %d", path, answer.Code)
		}
	}
}

func TestBatchesList(t *testing.T) {
	t.Parallel()
	body := ask(t, pages(t, example(), nil), "/dashboard/batches").Body.String()
	for _, want := range []string{
		`<b>683</b> of 1,250`, `· 54 %`, `<b>122</b> a minute`, `about <b>4 min 22 s</b> left`, "12 failed, for 2 reasons", "acme/tax</bdi> and 4 more", ">dry run<",
		"stage: <bdi>then</bdi>", "stopped by itself", "took <b>10 min</b>", `<b>9,321</b> succeeded`, `href="` + firstBatch + `?state=failed"`, `href="/dashboard/"`,
		`aria-label="683 of 1,250 repositories have ended: 590 succeeded, 61 unchanged, 20 skipped, 12 failed, 16 running, 3 waiting, 548 queued"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	first, second := strings.Index(body, "Move the pipelines"), strings.Index(body, "Add the licence")
	if first < 0 || second < first {
		t.Error("the newest is not the first")
	}
	if body := ask(t, pages(t, &stand{}, nil), "/dashboard/batches").Body.String(); !strings.Contains(body, "No batches yet") {
		t.Errorf("without any: %s", body)
	}
	absent := ask(t, pages(t, nil, nil), "/dashboard/batches")
	if absent.Code != http.StatusOK || !strings.Contains(absent.Body.String(), "This process has no batches") || strings.Contains(absent.Body.String(), "data-events") {
		t.Errorf("of a process without batches: %d %s", absent.Code, absent.Body)
	}
	if answer := ask(t, pages(t, nil, nil), "/dashboard/batches/events"); answer.Code != http.StatusNotFound {
		t.Errorf("events of a process without batches: %d", answer.Code)
	}
}

// TestBatchesHostile: whatever somebody gave a name to, it is text, and no secret.
func TestBatchesHostile(t *testing.T) {
	t.Parallel()
	const attack = "\"'><script>alert(1)</script>{{.}}&\u202e\r\n\r\ndata: x\x00"
	const leaked = "https://x-token-auth:" + canary + "@bitbucket.org/acme/web"
	s := &stand{
		statuses: []batch.Status{{
			ID: attack, Installation: attack, Title: attack + leaked, State: attack, Reason: attack + leaked, Actor: attack, From: attack, Total: 1,
			Totals: map[batch.ItemState]int{attack: 1, "failed": 1, "skipped": 1}, Stage: &batch.Stage{Name: attack + leaked, Until: 1},
			Failures: []batch.Group{{Kind: attack, Reason: attack + leaked, Count: 1, Examples: []string{attack + leaked}}},
			Skips:    []batch.Group{{Reason: attack + leaked, Count: 1, Examples: []string{attack + leaked}}},
		}},
		items: []batch.Item{
			{
				Repository: attack + leaked, State: attack, Job: attack, Branch: attack + leaked, Commit: attack, Skipped: attack + leaked,
				PullRequest: &job.PullRequestResult{ID: 7, URL: "javascript:alert(1)"},
			},
			{Repository: "b", State: "failed", Failure: &job.Failure{Kind: fault.Denied, Detail: attack + leaked}, PullRequest: &job.PullRequestResult{ID: 8, URL: leaked + "/\"><script>"}},
			{Repository: "c", PullRequest: &job.PullRequestResult{ID: 9, URL: "data:text/html,x"}},
		},
	}
	shown := pages(t, s, nil)
	for _, path := range []string{"/dashboard/batches", "/dashboard/batches/" + url.PathEscape(attack) + "/" + url.PathEscape(attack)} {
		answer := ask(t, shown, path)
		body := answer.Body.String()
		if answer.Code != http.StatusOK || strings.Contains(body, "<script>") || strings.Contains(body, "javascript:") || strings.Contains(body, "data:text") {
			t.Errorf("%s: %d, an attack comes through:\n%s", path, answer.Code, body)
		}
		if strings.Contains(body, canary) {
			t.Errorf("%s shows a secret:\n%s", path, body)
		}
		if found := inline.FindString(strings.ReplaceAll(body, "&#34;", "")); found != "" {
			t.Errorf("%s has %q in the page", path, found)
		}
	}
}

func TestOneBatch(t *testing.T) {
	t.Parallel()
	s := example()
	for i := range 130 {
		s.items = append(s.items, batch.Item{Repository: fmt.Sprintf("acme/many-%03d", i), State: "waiting", Job: fmt.Sprint("job/", i)})
	}
	shown := pages(t, s, nil)
	body := ask(t, shown, firstBatch+"?state=waiting").Body.String()
	for _, want := range []string{"acme/many-000", "acme/many-049", `href="/dashboard/queues/jobs-batch/tasks/job%2F3"`, "Move the pipelines", `rel="next"`} {
		if !strings.Contains(body, want) {
			t.Errorf("the first page lacks %q", want)
		}
	}
	if strings.Contains(body, "acme/many-050") || strings.Contains(body, "First page") {
		t.Error("the first page is not the first page of 50")
	}
	next := regexp.MustCompile(`href="([^"]*)" rel="next"`)
	for page := 1; page < 3; page++ {
		found := next.FindStringSubmatch(body)
		if found == nil {
			t.Fatalf("page %d has no next one: %s", page, body)
		}
		body = ask(t, shown, html.UnescapeString(found[1])).Body.String()
	}
	if !strings.Contains(body, "acme/many-129") || next.MatchString(body) || !strings.Contains(body, "First page") {
		t.Errorf("the last page is another: %s", body)
	}
	body = ask(t, shown, firstBatch).Body.String()
	if want := `href="https://bitbucket.org/acme/service-00/pull-requests/40" rel="noopener noreferrer"`; !strings.Contains(body, want) {
		t.Errorf("no %q", want)
	}
	for path, status := range map[string]int{
		firstBatch + "?state=odd": http.StatusBadRequest, firstBatch + "?cursor=odd": http.StatusBadRequest, firstBatch + "x": http.StatusNotFound,
		firstBatch + "?cursor=" + strings.Repeat("x", 2000): http.StatusBadRequest, "/dashboard/batches/other/one": http.StatusNotFound,
	} {
		if answer := ask(t, shown, path); answer.Code != status || !strings.Contains(answer.Body.String(), "Nothing to show") {
			t.Errorf("%.80s: %d", path, answer.Code)
		}
	}
}

// TestBatchesWithoutRedis: what was seen last is shown and said to be old.
func TestBatchesWithoutRedis(t *testing.T) {
	t.Parallel()
	s := example()
	s.err = errAway
	shown := pages(t, s, nil)
	for _, path := range []string{"/dashboard/batches", firstBatch} {
		s.change(func(s *stand) { s.err = errAway })
		answer := ask(t, shown, path)
		if body := answer.Body.String(); answer.Code != http.StatusServiceUnavailable || !strings.Contains(body, "redis does not answer") || strings.Contains(body, canary) {
			t.Errorf("%s before the first look: %d %s", path, answer.Code, body)
		}
		s.change(func(s *stand) { s.err = nil })
		ask(t, shown, path)
		s.change(func(s *stand) { s.err = fmt.Errorf("dial: %s", canary) })
		body := ask(t, shown, path).Body.String()
		if !strings.Contains(body, "Move the pipelines") || !strings.Contains(body, "Shown is what was known at <time") || strings.Contains(body, canary) {
			t.Errorf("%s while redis is away: %s", path, body)
		}
		s.change(func(s *stand) { s.err = nil })
		if body := ask(t, shown, path).Body.String(); strings.Contains(body, "what was known") {
			t.Errorf("%s is old although redis is back", path)
		}
	}
}
