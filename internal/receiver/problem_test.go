package receiver

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// TestProblemType: a frontend behind invokeRemote learns why it was refused, as does who speaks RFC 9457.
func TestProblemType(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for accept, want := range map[string]string{
		"":                         "application/problem+json",
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
