// Package browsertest drives a real Chromium without a window: what pages look like and do, and what their consoles say. Each
// browser has a profile of its own and is gone when its test is over.
package browsertest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Binary is the program that is looked for in PATH.
const Binary = "chromium"

const (
	actionTimeout = 30 * time.Second // a loaded machine included
	closeTimeout  = 10 * time.Second
	pollInterval  = 20 * time.Millisecond
)

// Browser is a running Chromium. It takes a second to start: share one among the parts of a test.
type Browser struct{ ctx context.Context }

// Start runs a Chromium for tb and ends it with the test. Without one in PATH the test is skipped and says how to get it; where
// CI is set in the environment, it fails.
func Start(tb testing.TB) *Browser {
	tb.Helper()
	binary, err := exec.LookPath(Binary)
	if err != nil {
		const say = "chromium is not in PATH; run `make test-tools` (Debian: apt-get install chromium)"
		if os.Getenv("CI") != "" {
			tb.Fatal(say)
		}
		tb.Skip(say)
	}
	home := tb.TempDir() // removed after the browser has ended
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(binary), chromedp.UserDataDir(filepath.Join(home, "profile")),
		chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home, "TMPDIR="+home),
		chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-crash-reporter", true), chromedp.Flag("hide-scrollbars", false),
		chromedp.WSURLReadTimeout(actionTimeout),
	)
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it refuses root otherwise
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

// Page is a tab with cookies, cache and logins of its own. Its methods fail the test that it was opened for and belong to that
// test's goroutine.
type Page struct {
	tb  testing.TB
	ctx context.Context

	lock sync.Mutex
	said []string
}

// Page opens an empty tab, which closes with tb.
func (b *Browser) Page(tb testing.TB) *Page {
	tb.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	tb.Cleanup(cancel)
	p := &Page{tb: tb, ctx: ctx}
	if err := chromedp.Listen(ctx, p.hear); err != nil {
		tb.Fatalf("open a tab: %v", err)
	}
	if _, err := chromedp.Call(ctx, log.Enable, struct{}{}); err != nil {
		tb.Fatalf("read a tab's console: %v", err)
	}
	return p
}

func (p *Page) hear(event any) {
	var text string
	switch event := event.(type) {
	case *log.EventEntryAdded:
		text = event.Entry.Level.String() + ": " + event.Entry.Text + " " + event.Entry.URL
	case *runtime.EventExceptionThrown:
		text = "exception: " + event.ExceptionDetails.Text
		if thrown := event.ExceptionDetails.Exception; thrown != nil {
			text += " " + thrown.Description
		}
	case *runtime.EventConsoleAPICalled:
		var words []string
		for _, argument := range event.Args {
			words = append(words, string(argument.Value))
		}
		text = event.Type.String() + ": " + strings.Join(words, " ")
	default:
		return
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	p.said = append(p.said, text)
}

// Said is what stood on the page's console until now: errors and exceptions of scripts, refused loads, violations of the content
// security policy.
func (p *Page) Said() []string {
	p.lock.Lock()
	defer p.lock.Unlock()
	return append([]string(nil), p.said...)
}

func (p *Page) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, actionTimeout)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.tb.Fatalf("%s: %v; the console says %q", what, err, p.Said())
	}
}

// Open goes to an address, which may hold a login, and waits until it is loaded.
func (p *Page) Open(address string) {
	p.tb.Helper()
	p.do("open "+address, chromedp.Navigate(address))
}

// Click clicks on the first element that a CSS selector finds.
func (p *Page) Click(selector string) {
	p.tb.Helper()
	p.do("click on "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Wait waits until a JavaScript expression is true, on this page or the one that the browser goes to meanwhile.
func (p *Page) Wait(expression string) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, actionTimeout)
	defer cancel()
	look := time.NewTicker(pollInterval)
	defer look.Stop()
	for {
		// Between two pages there is nothing that could be evaluated.
		is, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("!!("+expression+")"))
		if err == nil && is {
			return
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			text, _ := chromedp.Run(p.ctx, chromedp.Evaluate[string]("document.body.innerText"))
			p.tb.Fatalf("wait for %s: %v; the console says %q, the page:\n%s", expression, err, p.Said(), text)
		}
	}
}

// Size makes the page as large as a window, or as a phone's.
func (p *Page) Size(width, height int64, phone bool) {
	p.tb.Helper()
	var options []chromedp.EmulateViewportOption
	if phone {
		options = append(options, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	p.do("resize", chromedp.EmulateViewport(width, height, options...))
}

// Dark says that the user likes dark pages.
func (p *Page) Dark() {
	p.tb.Helper()
	dark := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}}
	if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, dark); err != nil {
		p.tb.Fatalf("prefer dark: %v", err)
	}
}

// WithoutScripts lets no script of a page run that is opened after it.
func (p *Page) WithoutScripts() {
	p.tb.Helper()
	if _, err := chromedp.Call(p.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		p.tb.Fatalf("disable scripts: %v", err)
	}
}

// Screenshot writes the whole page as PNG.
func (p *Page) Screenshot(path string) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, actionTimeout)
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(path, picture, 0o600)
	}
	if err != nil {
		p.tb.Fatalf("screenshot: %v", err)
	}
}

// Value is what a JavaScript expression is on the page now.
func Value[T any](p *Page, expression string) T {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, actionTimeout)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.tb.Fatalf("%s: %v", expression, err)
	}
	return value
}
