// Package browsertest drives a real Chromium without a window. Tests use it to see what pages look like and do, and what they
// write to their consoles. Each browser has its own profile and ends with its test.
package browsertest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// Binary is the program that is looked for in PATH.
const Binary = "chromium"

const (
	patience     = 30 * time.Second // for one action or wait, on a loaded machine
	startTimeout = time.Minute
	closeTimeout = 10 * time.Second
	pollInterval = 10 * time.Millisecond
)

// Browser is a running Chromium. It takes a second to start: share one among the parts of a test.
type Browser struct{ ctx context.Context }

// Start runs a Chromium for tb and ends it with the test. If there is none in PATH, the test fails and says what to install.
func Start(tb testing.TB) *Browser {
	tb.Helper()
	binary, err := exec.LookPath(Binary)
	if err != nil {
		tb.Fatal("chromium is not in PATH; run `make test-tools` (Debian: apt-get install chromium)")
	}
	home := tb.TempDir() // removed after the browser has ended
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(binary), chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home, "TMPDIR="+home),
		chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-crash-reporter", true), chromedp.Flag("hide-scrollbars", false),
		chromedp.WSURLReadTimeout(startTimeout),
	)
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium does not start as root otherwise
	}
	allocator, free := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	tb.Cleanup(func() {
		closing, done := context.WithTimeout(ctx, closeTimeout)
		defer done()
		if err := chromedp.Cancel(closing); err != nil {
			tb.Logf("chromium did not close by itself: %v", err)
		}
		cancel()
		free() // waits until the process is gone
	})
	if err := chromedp.Do(ctx); err != nil {
		tb.Fatalf("start chromium: %v", err)
	}
	return &Browser{ctx}
}
