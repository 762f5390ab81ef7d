package receiver

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
)

// FuzzJobRequest: whatever a caller sends, the answer is a documented one and no defect of ours, and a job is queued exactly
// where it says so.
func FuzzJobRequest(f *testing.F) {
	for _, body := range []string{
		pushBody, cloneBody, "", "null", "[]", `{"repository": null, "push": null}`, repository(`{"workspace": "acme", "slug": "web"}`),
		field(`"message": "m", "author": {"name": "a", "email": "b"}, "pull_request": {"title": "t"}`),
		clone(`"ref": "refs/heads/main", "depth": 1, "paths": ["docs/**"], "archive": "zip"`),
		push(`{"put": {"path": "a", "content": "YQ==", "encoding": "base64", "mode": "100755"}}`, `{"delete": {"path": "b"}}`, `{"move": {"from": "c", "to": "d"}}`),
		push(`{"replace": {"paths": ["**/*.go"], "pattern": "(a+)+$", "with": "$1", "regexp": true}}`, `{"patch": {"diff": "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"}}`),
	} {
		f.Add([]byte(body), "key")
	}
	h := newHouse(f)
	header := h.Header(forgetest.FITOptions{Principal: ada}, forgetest.Tokens{User: h.token(), System: h.token()})
	f.Fuzz(func(t *testing.T, body []byte, key string) {
		jobs := &memoryJobs{}
		handler := h.build(t, func(config *Config) {
			config.Jobs, config.Metrics, config.Logger = jobs, &counts{}, loggerTo(&logBuffer{})
		})
		request := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/jobs", strings.NewReader(string(body)))
		request.Header = with(header, "Content-Type", "application/json", "Idempotency-Key", key)
		recorder := httptest.NewRecorder()
		handler.ServeHTTP(recorder, request)
		taken := recorder.Code == http.StatusAccepted
		if recorder.Code >= 500 || taken != (len(jobs.queued()) == 1) {
			t.Fatalf("status %d, %d jobs: %s", recorder.Code, len(jobs.queued()), recorder.Body)
		}
		h.document.checkAnswer(t, request, reply{recorder.Code, recorder.Header(), recorder.Body.Bytes()})
	})
}
