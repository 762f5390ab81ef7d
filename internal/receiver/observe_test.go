package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
)

const traceID = "463ac35c9f6413ad48485a3953bb6124"

// traced is a header with the trace that Forge sends.
func traced(header http.Header) http.Header {
	return with(header, "X-B3-TraceId", traceID, "X-B3-SpanId", "a2fb4a1d1a96d312")
}

// TestLog: one event for each request, with what joins it to others.
func TestLog(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.submit(t, traced(h.user()), pushBody).ID
	h.do(t, http.MethodGet, "/v1/jobs/"+id+"/artifact?secret=1", traced(h.user()), "")
	h.do(t, http.MethodGet, "/v1/jobs", traced(http.Header{}), "")
	h.do(t, http.MethodGet, "/nowhere/near", traced(http.Header{}), "")
	h.do(t, strings.Repeat("M", 300), "/nowhere", traced(http.Header{}), "")

	events := h.log.events(t)
	for _, event := range events {
		if duration, ok := event["duration"].(float64); !ok || duration < 0 {
			t.Errorf("duration %v", event["duration"])
		}
		if bytes, ok := event["bytes"].(float64); !ok || bytes <= 0 {
			t.Errorf("bytes %v", event["bytes"])
		}
		for _, name := range []string{"time", "duration", "bytes", "error"} {
			delete(event, name)
		}
	}
	page := map[string]any{"installation": forgetest.Installation, "module": "bitbucket:repoMainMenuPage/page", "job": id}
	want := []map[string]any{
		{"method": "POST", "route": "/v1/jobs", "status": 202.0},
		{"method": "GET", "route": "/v1/jobs/:id/artifact", "status": 409.0, "kind": "conflict"},
		{"method": "GET", "route": "/v1/jobs", "status": 401.0, "kind": "unauthenticated"},
		{"method": "GET", "route": "", "status": 404.0, "kind": "not_found"},
		{"method": "other", "route": "", "status": 404.0, "kind": "not_found"},
	}
	for i, event := range want {
		event["level"], event["msg"], event["trace_id"] = "INFO", "request", traceID
		for name, value := range page {
			if i < 2 {
				event[name] = value
			}
		}
	}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Error("wanted (-), logged (+):\n" + diff)
	}
	if strings.Contains(h.log.String(), "nowhere") || strings.Contains(h.log.String(), "secret=1") {
		t.Error("the log has what a caller put into a URL")
	}
}

// TestTrace: a problem quotes the trace that the log has, the caller's or a new one.
func TestTrace(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if found := decode[problemView](t, h.do(t, http.MethodGet, "/v1/jobs", traced(http.Header{}), "")); found.TraceID != traceID {
		t.Errorf("trace %q", found.TraceID)
	}
	seen := map[string]bool{}
	for range 3 {
		found := decode[problemView](t, h.do(t, http.MethodGet, "/v1/jobs", http.Header{"X-B3-Traceid": {"nonsense"}}, ""))
		seen[found.TraceID] = true
		if !strings.Contains(h.log.String(), found.TraceID) {
			t.Errorf("trace %q is not in the log", found.TraceID)
		}
	}
	if len(seen) != 3 {
		t.Errorf("traces %v", seen)
	}
}

// TestPanic: it is answered and logged with the place, not with what was thrown: that may quote content.
func TestPanic(t *testing.T) {
	t.Parallel()
	const canary = "canary-of-content"
	h := newHouse(t)
	for name, tc := range map[string]struct {
		thrown func()
		logged string
	}{
		"a text":        {func() { panic(canary) }, "panic: string"},
		"an error":      {func() { panic(errors.New(canary)) }, "panic: *errors.errorString"},
		"Go's own":      {func() { var none *job.Status; _ = none.State }, "nil pointer dereference"},
		"a wrapped one": {func() { panic(fmt.Errorf("%w: %s", errors.ErrUnsupported, canary)) }, "panic: *fmt.wrapError"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &logBuffer{}
			handler := h.build(t, func(config *Config) {
				config.Logger = loggerTo(log)
				config.Jobs = &memoryJobs{meddle: func(context.Context) error { tc.thrown(); return nil }}
			})
			answer := h.to(t, handler, http.MethodGet, "/v1/jobs", traced(h.user()), "")
			refused(t, answer, http.StatusInternalServerError, fault.Internal, "trace id")
			event := log.events(t)[0]
			text, _ := event["error"].(string)
			if event["level"] != "ERROR" || !strings.Contains(text, tc.logged) || !strings.Contains(text, "observe_test.go") {
				t.Errorf("logged %v", event)
			}
			if strings.Contains(log.String(), canary) || bytes.Contains(answer.Body, []byte(canary)) {
				t.Errorf("what was thrown is told: %s", log)
			}
		})
	}
}

// TestAbort: net/http's own way to break off an answer stays one.
func TestAbort(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	handler := h.build(t, func(config *Config) {
		config.Jobs = &memoryJobs{meddle: func(context.Context) error { panic(http.ErrAbortHandler) }}
	})
	defer func() {
		if thrown, _ := recover().(error); !errors.Is(thrown, http.ErrAbortHandler) {
			t.Errorf("recovered %v", thrown)
		}
	}()
	request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/jobs", nil)
	request.Header = h.user()
	handler.ServeHTTP(httptest.NewRecorder(), request)
}

// TestCanary: neither FIT nor tokens nor content nor an artifact's key come back in an answer, a log or a metric, however a
// call ends.
func TestCanary(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const content = "canary-of-content-8f1c"
	system, user := h.token(), h.token()
	header := with(h.Header(forgetest.FITOptions{Principal: ada}, forgetest.Tokens{System: system, User: user}), "X-Canary", "canary-of-a-header", "Cookie", "c=canary-of-a-cookie")
	fit := strings.TrimPrefix(header.Get("Authorization"), "Bearer ")
	body := strings.Replace(pushBody, `"content": "b"`, `"content": "`+content+`"`, 1)
	leaky := h.build(t, func(config *Config) {
		config.Jobs = &memoryJobs{meddle: func(context.Context) error {
			return fmt.Errorf("dial: Authorization: Bearer %s refused; https://x-token-auth:%s@bitbucket.org", fit, user)
		}}
	})
	var told strings.Builder
	tell := func(answer reply) {
		fmt.Fprintf(&told, "%d %v %s\n", answer.Status, answer.Header, answer.Body)
	}
	made := h.do(t, http.MethodPost, "/v1/jobs", header, body)
	id := decode[jobView](t, made).ID
	h.jobs.set(id, func(status *job.Status) { *status = cloned(*status, h, "the archive") })
	tell(made)
	for _, route := range []string{"GET /v1/jobs", "GET /v1/jobs/" + id, "POST /v1/jobs/" + id + "/cancel", "POST /v1/jobs/" + id + "/retry", "GET /v1/jobs/" + id + "/artifact", "POST /forge/schedule"} {
		method, path, _ := strings.Cut(route, " ")
		tell(h.do(t, method, path, header, ""))
	}
	tell(h.do(t, http.MethodPost, "/v1/jobs", header, strings.Replace(body, `"branch"`, `"brunch"`, 1)))
	tell(h.do(t, http.MethodPost, "/v1/jobs", header, body+body))
	tell(h.do(t, http.MethodPost, "/v1/jobs", header, strings.Replace(body, `"path": "a"`, `"path": ".git"`, 1)))
	tell(h.do(t, http.MethodPost, "/v1/jobs", with(header, "Authorization", "Bearer "+fit[:len(fit)-4]+"AAAA"), body))
	tell(h.do(t, http.MethodPost, "/v1/jobs", with(header, forge.HeaderUserToken, user+strings.Repeat("x", 9000)), body))
	tell(h.to(t, leaky, http.MethodPost, "/v1/jobs", header, body))

	everything := told.String() + h.log.String() + strings.Join(h.counts.taken(), "\n")
	for name, canary := range map[string]string{
		"FIT": fit, "a part of the FIT": strings.Split(fit, ".")[2][:20], "system token": system, "user token": user, "content": content,
		"header": "canary-of-a-header", "cookie": "canary-of-a-cookie", "artifact's key": artifactKey,
	} {
		if strings.Contains(everything, canary) {
			t.Errorf("the %s is told", name)
		}
	}
	if !strings.Contains(everything, id) || !strings.Contains(everything, "x-token-auth") && !strings.Contains(everything, "[redacted]") {
		t.Error("the search finds nothing at all")
	}
}
