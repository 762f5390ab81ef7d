package ops_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/ops"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const canary = "canary-91be40"

type check = func(context.Context) error

func passes(context.Context) error { return nil }

func handler(t *testing.T, config ops.Config) http.Handler {
	t.Helper()
	handler, err := ops.New(config)
	if err != nil {
		t.Fatal(err)
	}
	return handler
}

func get(handler http.Handler, path string) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, path, nil))
	return answer
}

type readyAnswer struct {
	Ready  bool
	Checks map[string]struct {
		OK     bool
		Detail string
	}
}

func ready(t *testing.T, handler http.Handler) (int, readyAnswer) {
	t.Helper()
	answer := get(handler, "/readyz")
	var decoded readyAnswer
	if err := json.Unmarshal(answer.Body.Bytes(), &decoded); err != nil {
		t.Fatalf("%v in %s", err, answer.Body)
	}
	return answer.Code, decoded
}

func TestReadiness(t *testing.T) {
	t.Parallel()
	var failure error
	var log bytes.Buffer
	handler := handler(t, ops.Config{
		Checks: map[string]check{"redis": func(context.Context) error { return failure }, "keys": passes},
		Logger: telemetry.NewLogger(&log, "info", "text"),
	})
	for name, tc := range map[string]struct {
		err    error
		status int
		detail string
	}{
		"all pass":   {nil, http.StatusOK, ""},
		"classified": {fault.Wrapf(fault.Unavailable, errors.New(canary), "redis does not answer"), http.StatusServiceUnavailable, "redis does not answer"},
		"unknown":    {errors.New("dial " + canary), http.StatusServiceUnavailable, "failed; the log says why"},
	} {
		failure = tc.err
		status, answer := ready(t, handler)
		redis := answer.Checks["redis"]
		if status != tc.status || answer.Ready != (tc.err == nil) || redis.OK != (tc.err == nil) || redis.Detail != tc.detail || !answer.Checks["keys"].OK {
			t.Errorf("%s: %d %+v", name, status, answer)
		}
		if live := get(handler, "/livez"); live.Code != http.StatusOK {
			t.Errorf("%s: /livez answers %d", name, live.Code)
		}
	}
	log.Reset()
	for _, failure = range []error{nil, errors.New("first"), errors.New("second"), nil, nil} {
		ready(t, handler)
	}
	got := [...]int{strings.Count(log.String(), "check fails"), strings.Count(log.String(), "passes again")}
	if got[0] != 1 || got[1] < 1 || got[1] > 2 {
		t.Errorf("not one line for each change:\n%s", log.String())
	}
}

func TestReadinessWithoutChecks(t *testing.T) {
	t.Parallel()
	if status, answer := ready(t, handler(t, ops.Config{})); status != http.StatusOK || !answer.Ready {
		t.Errorf("%d %+v", status, answer)
	}
}

func TestReadinessIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		handler := handler(t, ops.Config{Checks: map[string]check{
			"deaf": func(context.Context) error { <-release; return nil }, "fine": passes,
			"slow": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		}})
		begun := time.Now()
		status, answer := ready(t, handler)
		if time.Since(begun) != 2*time.Second || status != http.StatusServiceUnavailable || !answer.Checks["fine"].OK || answer.Checks["deaf"].OK {
			t.Errorf("after %v: %d %+v", time.Since(begun), status, answer)
		}
		close(release)
	})
}

func TestHeadersAndMethods(t *testing.T) {
	t.Parallel()
	handler := handler(t, ops.Config{Metrics: telemetry.NewMetrics().Handler()})
	want := map[string]string{
		"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "X-Content-Type-Options": "nosniff",
		"X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
	}
	for path, status := range map[string]int{
		"/livez": http.StatusOK, "/readyz": http.StatusOK, "/metrics": http.StatusOK, "/dashboard": http.StatusNotFound, "/": http.StatusNotFound,
	} {
		answer := get(handler, path)
		got := map[string]string{}
		for name := range want {
			got[name] = answer.Header().Get(name)
		}
		if diff := cmp.Diff(want, got); diff != "" || answer.Code != status {
			t.Errorf("%s: %d\n%s", path, answer.Code, diff)
		}
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/readyz", nil))
	if answer.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /readyz: %d", answer.Code)
	}
}

func TestDashboardIsOffWithoutPassword(t *testing.T) {
	t.Parallel()
	handler := handler(t, ops.Config{Dashboard: ops.Dashboard{User: "operator"}})
	for _, path := range []string{"/dashboard", "/dashboard/", "/dashboard/api/queues"} {
		request := httptest.NewRequest(http.MethodGet, path, nil)
		request.SetBasicAuth("operator", "")
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		if answer.Code != http.StatusNotFound || !strings.Contains(answer.Body.String(), "GITSMITH_DASHBOARD_PASSWORD") {
			t.Errorf("%s: %d %s", path, answer.Code, answer.Body)
		}
	}
}

func TestDashboardNeedsRedisAndUser(t *testing.T) {
	t.Parallel()
	if _, err := ops.New(ops.Config{Dashboard: ops.Dashboard{User: "operator", Password: secret.New(canary)}}); err == nil {
		t.Error("a dashboard without Redis was accepted")
	}
}
