package gitrepo_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
)

// TestUnknownOutcome loses the answer to a push, before or after the server did it. The look at the branch decides.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	eachVersion(t, testUnknownOutcome)
}

func testUnknownOutcome(t *testing.T, v0 bool) {
	for name, tc := range map[string]struct {
		serve  bool // the server takes the push
		answer func(w http.ResponseWriter)
		done   bool
	}{
		"cut off after the push":    {true, reset, true},
		"cut off before the push":   {false, reset, false},
		"empty 200 after the push":  {true, emptyResult, true},
		"empty 200 without a push":  {false, emptyResult, false},
		"a lie: ok without a push":  {false, lie, false},
		"a 502 after the push":      {true, func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }, true},
		"a 502 instead of the push": {false, func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, gitrepo.Config{})
			b.v0.Store(v0)
			b.create(map[string]string{"a": "b"})
			b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if !is(r, http.MethodPost, "/git-receive-pack") {
					return false
				}
				if tc.serve {
					b.git.ServeHTTP(httptest.NewRecorder(), r)
				}
				tc.answer(w)
				return true
			})
			_, err := b.push(t.Context(), "main", put("x", "y"))
			if tc.done && err != nil || !tc.done && fault.KindOf(err) != fault.Unavailable {
				t.Errorf("%v", err)
			}
		})
	}
}

func reset(w http.ResponseWriter) {
	connection, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_ = connection.(*net.TCPConn).SetLinger(0) // a reset instead of an orderly end
	_ = connection.Close()
}

func emptyResult(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/x-git-receive-pack-result")
	w.WriteHeader(http.StatusOK)
}

func lie(w http.ResponseWriter) {
	emptyResult(w)
	_, _ = io.WriteString(w, "002e\x01000eunpack ok\n0017ok refs/heads/main\n0000"+"0000")
}
