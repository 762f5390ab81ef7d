package browsertest_test

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/ops/browsertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// judged is a test that ends as [testing.T] does, and says how.
type judged struct {
	testing.TB
	failed, skipped string
}

func (j *judged) Helper() {}

func (j *judged) Fatal(args ...any) { j.failed = args[0].(string); runtime.Goexit() }

func (j *judged) Skip(args ...any) { j.skipped = args[0].(string); runtime.Goexit() }

func TestWithoutChromium(t *testing.T) {
	for _, ci := range []string{"", "true"} {
		t.Setenv("PATH", t.TempDir())
		t.Setenv("CI", ci)
		j := &judged{TB: t}
		done := make(chan struct{})
		go func() {
			defer close(done)
			browsertest.Start(j)
		}()
		<-done
		said := j.skipped
		if ci != "" {
			said = j.failed
		}
		if !strings.Contains(said, "make test-tools") || !strings.Contains(said, "apt-get install chromium") || (j.failed != "" && j.skipped != "") {
			t.Errorf("CI=%q: failed %q, skipped %q", ci, j.failed, j.skipped)
		}
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
