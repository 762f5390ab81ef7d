package browsertest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// Page is a tab with its own cookies, cache and logins. Its methods fail the test that opened it and must be called from that
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
	call(p, log.Enable, struct{}{})
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
		text = event.Type.String() + ":"
		for _, argument := range event.Args {
			text += " " + cmp.Or(string(argument.Value), argument.Description)
		}
	default:
		return
	}
	p.lock.Lock()
	defer p.lock.Unlock()
	p.said = append(p.said, text)
}

// Said returns what the page's console shows so far: calls of console, uncaught exceptions, refused loads, violations of the
// content security policy.
func (p *Page) Said() []string {
	p.lock.Lock()
	defer p.lock.Unlock()
	return slices.Clone(p.said)
}

// Open goes to an address, which may hold a login, and waits until it is loaded.
func (p *Page) Open(address string) {
	p.tb.Helper()
	run(p, "open "+address, chromedp.Navigate(address))
}

// OnLoad runs a script in every document that is opened after this call, before the document's own scripts.
func (p *Page) OnLoad(script string) {
	p.tb.Helper()
	call(p, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: script})
}

// WithoutScripts disables the scripts of every document that is opened after this call.
func (p *Page) WithoutScripts() {
	p.tb.Helper()
	call(p, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
}

// Size makes the page as large as a window, or as a phone's screen.
func (p *Page) Size(width, height int64, phone bool) {
	p.tb.Helper()
	var options []chromedp.EmulateViewportOption
	if phone {
		options = append(options, chromedp.EmulateMobile, chromedp.EmulateTouch)
	}
	run(p, "resize", chromedp.EmulateViewport(width, height, options...))
}

// Prefer sets the user's preferences, such as "prefers-color-scheme", "dark", in place of those set before.
func (p *Page) Prefer(preferences ...string) {
	p.tb.Helper()
	var features []*emulation.MediaFeature
	for pair := range slices.Chunk(preferences, 2) {
		features = append(features, &emulation.MediaFeature{Name: pair[0], Value: pair[1]})
	}
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
}

// Do runs a script in the page, such as a test's own click.
func (p *Page) Do(script string) {
	p.tb.Helper()
	run(p, script, chromedp.Evaluate[chromedp.Void](script))
}

// Value evaluates a JavaScript expression in the page.
func Value[T any](p *Page, expression string) T {
	p.tb.Helper()
	return run(p, expression, chromedp.Evaluate[T](expression))
}

// Wait waits until a JavaScript expression is true, on this page or on the one that the browser goes to meanwhile.
func (p *Page) Wait(expression string) {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	p.Until(expression, func() error {
		// While the browser goes to another page this fails, and is tried again.
		is, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		if err == nil && !is {
			err = errors.New("it is false")
		}
		return err
	})
}

// Until waits until check returns nil, for what the page cannot see.
func (p *Page) Until(what string, check func() error) {
	p.tb.Helper()
	deadline, tick := time.After(patience), time.NewTicker(pollInterval)
	defer tick.Stop()
	for err := check(); err != nil; err = check() {
		select {
		case <-tick.C:
		case <-deadline:
			ctx, cancel := context.WithTimeout(p.ctx, patience)
			defer cancel()
			text, _ := chromedp.Run(ctx, chromedp.Evaluate[string]("document.body.innerText"))
			p.tb.Fatalf("waited %v for %s: %v; the console says %q, the page:\n%s", patience, what, err, p.Said(), text)
		}
	}
}

// Sees waits for each of some texts to be on the page.
func (p *Page) Sees(texts ...string) {
	p.tb.Helper()
	for _, text := range texts {
		p.Wait("document.body.innerText.includes(" + quoted(text) + ")")
	}
}

// Click clicks on the first element that a CSS selector finds, with the mouse.
func (p *Page) Click(selector string) {
	p.tb.Helper()
	run(p, "click on "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Press clicks the button or link with this text, as soon as there is one that is not disabled.
func (p *Page) Press(text string) {
	p.tb.Helper()
	p.Wait(`((found) => found && (found.click(), true))(
		[...document.querySelectorAll("button, a")].find((each) => each.innerText.trim() === ` + quoted(text) + ` && !each.disabled))`)
}

// Fill writes into fields, given as pairs of id and value, as soon as they exist. React notices it as it notices typing. A checkbox
// is "on" or "off".
func (p *Page) Fill(fields ...string) {
	p.tb.Helper()
	for pair := range slices.Chunk(fields, 2) {
		p.Wait(`((field, value) => {
			if (!field) return false;
			if (field.type === "checkbox") { if (field.checked !== (value === "on")) field.click(); return true; }
			Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set.call(field, value);
			field.dispatchEvent(new Event(field.tagName === "SELECT" ? "change" : "input", { bubbles: true }));
			return true;
		})(document.getElementById(` + quoted(pair[0]) + `), ` + quoted(pair[1]) + `)`)
	}
}

// Shot saves a picture of the whole page as <name>.png in the folder that GITSMITH_SHOTS names, for developers who change how the
// page looks. Without that variable it does nothing.
func (p *Page) Shot(name string) {
	p.tb.Helper()
	folder := os.Getenv("GITSMITH_SHOTS")
	if folder == "" {
		return
	}
	// Finite animations end first. Endless ones cannot be waited for.
	p.Wait(`document.getAnimations().every((each) => each.playState === "finished" || each.effect.getComputedTiming().endTime === Infinity)`)
	picture := run(p, "picture", chromedp.FullScreenshot(100))
	if err := os.WriteFile(filepath.Join(folder, name+".png"), picture, 0o600); err != nil {
		p.tb.Fatal(err)
	}
}

func run[T any](p *Page, what string, action chromedp.Action[T]) T {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		p.tb.Fatalf("%s: %v; the console says %q", what, err, p.Said())
	}
	return result
}

func call[P, R any](p *Page, command cdp.Command[P, R], params P) {
	p.tb.Helper()
	if _, err := chromedp.Call(p.ctx, command, params); err != nil {
		p.tb.Fatalf("call %T: %v", params, err)
	}
}

func quoted(text string) string {
	encoded, _ := json.Marshal(text) // a string always can
	return string(encoded)
}
