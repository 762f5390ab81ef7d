package browsertest_test

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/browsertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// judged keeps what a test that fails says.
type judged struct {
	testing.TB
	failed string
}

func (j *judged) Helper() {}

func (j *judged) Fatal(args ...any) { j.failed = args[0].(string); runtime.Goexit() }

// TestWithoutChromium: a test that needs a browser fails, on a developer's machine too. It is not skipped.
func TestWithoutChromium(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv("CI", "")
	j := &judged{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		browsertest.Start(j)
	}()
	<-done
	if !strings.Contains(j.failed, "make test-tools") || !strings.Contains(j.failed, "apt-get install chromium") {
		t.Errorf("failed with %q", j.failed)
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Security-Policy", "script-src 'self'")
		_, _ = w.Write([]byte(`<!doctype html><link rel="icon" href="data:,"><p id="p">text</p><script>window.ran = true</script>`))
	}))
	t.Cleanup(server.Close)
	page := browsertest.Start(t).Page(t)
	page.Open(server.URL)
	page.Wait(`document.querySelector("#p").innerText === "text"`)
	if browsertest.Value[bool](page, "!!window.ran") {
		t.Error("the policy let an inline script run")
	}
	if said := strings.Join(page.Said(), "\n"); !strings.Contains(said, "Content Security Policy") {
		t.Errorf("a violation of the policy is not heard: %q", said)
	}
}
