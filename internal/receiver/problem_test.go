package receiver

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// TestProblemType: a frontend behind invokeRemote learns why it was refused, as does who speaks RFC 9457.
func TestProblemType(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for accept, want := range map[string]string{
		"":                         "application/json",
		"text/html":                "application/json",
		"application/problem+json": "application/problem+json",
		"application/problem+json, application/json;q=0.5": "application/problem+json",
		"application/json":                  "application/json",
		"application/json, text/plain, */*": "application/json",
		"*/*":                               "application/json",
	} {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/jobs/none", nil)
		request.Header = with(h.user(), "Accept", accept)
		recorder := httptest.NewRecorder()
		h.ServeHTTP(recorder, request)
		answer := reply{recorder.Code, recorder.Header(), recorder.Body.Bytes()}
		if got := answer.Header.Get("Content-Type"); got != want {
			t.Errorf("Accept %q: %s, want %s", accept, got, want)
		}
		refused(t, answer, http.StatusNotFound, fault.NotFound, "")
	}
}

// TestDiffForAFrontend: a dry run's diff is text, and JSON to a frontend, of which too long a one has its beginning.
func TestDiffForAFrontend(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.submit(t, h.user(), pushBody).ID
	path := "/v1/jobs/" + id + "/artifact"
	for name, content := range map[string]string{"short": "--- a/x\n+++ b/x\n-\xff\n+<b>\n", "long": strings.Repeat("+ line\n", 200_000)} {
		h.jobs.set(id, func(status *job.Status) {
			*status = cloned(*status, h, content)
			kept := status.Result.Clone.Artifact
			kept.Format = job.ArchiveDiff
			status.Result = &job.Result{Push: &job.PushResult{DryRun: true, Diff: kept}}
		})
		if answer := h.do(t, http.MethodGet, path, h.user(), ""); answer.Header.Get("Content-Type") != "text/x-diff; charset=utf-8" || string(answer.Body) != content {
			t.Errorf("%s: %s, %d bytes", name, answer.Header.Get("Content-Type"), len(answer.Body))
		}
		answer := h.do(t, http.MethodGet, path, with(h.user(), "Accept", "application/json"), "")
		view := decode[diffView](t, answer)
		if want := strings.ToValidUTF8(content, "\ufffd"); view.Truncated != (name == "long") || !strings.HasPrefix(want, view.Diff) || !view.Truncated && view.Diff != want {
			t.Errorf("%s: %d bytes, truncated %v", name, len(view.Diff), view.Truncated)
		}
	}
}
