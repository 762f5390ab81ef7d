package deploy_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"github.com/gitsmith/gitsmith/deploy/forge/app/bridge"
)

// patience is how long a test waits for the page to show something.
const patience = 20 * time.Second

// api plays the receiver: to each method and path it has answers, given one after another, the last one ever after.
type api struct {
	mu      sync.Mutex
	answers map[string][]bridge.Answer
	calls   []bridge.Call
}

func (a *api) say(route string, status int, body string) *api {
	a.mu.Lock()
	defer a.mu.Unlock()
	answer := bridge.Answer{Status: status, Headers: http.Header{"Content-Type": {"application/json"}}, Body: body}
	a.answers[route] = append(a.answers[route], answer)
	return a
}

func (a *api) invoke(_ context.Context, call bridge.Call) (bridge.Answer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, call)
	route := call.Method + " " + call.Path
	answers := a.answers[route]
	switch len(answers) {
	case 0:
		return bridge.Answer{Status: http.StatusNotFound, Headers: http.Header{"Content-Type": {"application/json"}}, Body: fmt.Sprintf(`{"detail":"nothing is scripted for %s"}`, route)}, nil
	case 1:
	default:
		a.answers[route] = answers[1:]
	}
	return answers[0], nil
}

// called are the calls of a method and path so far.
func (a *api) called(route string) []bridge.Call {
	a.mu.Lock()
	defer a.mu.Unlock()
	var found []bridge.Call
	for _, call := range a.calls {
		if call.Method+" "+call.Path == route {
			found = append(found, call)
		}
	}
	return found
}

// browser starts a Chromium of the test's own, which ends with it.
func browser(t *testing.T) context.Context {
	t.Helper()
	binary, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not in PATH; run `make test-tools` (Debian: apt-get install chromium)")
	}
	home := t.TempDir()
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(binary), chromedp.NoSandbox, chromedp.UserDataDir(filepath.Join(home, "profile")), chromedp.WSURLReadTimeout(time.Minute),
		chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home), chromedp.Flag("disable-quic", true), chromedp.Flag("disable-gpu", true))
	allocated, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(allocated)
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Logf("chromium did not close by itself: %v", err)
		}
		cancel()
	})
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return ctx
}

// clock holds the page's timers of a second and more until a test lets them go, so that nobody waits.
const clock = `(() => {
	const set = window.setTimeout.bind(window), clear = window.clearTimeout.bind(window), held = new Map();
	let next = -1;
	window.setTimeout = (f, ms, ...more) => (ms >= 1000 ? (held.set(next, { f, ms }), next--) : set(f, ms, ...more));
	window.clearTimeout = (id) => (id < 0 ? held.delete(id) : clear(id));
	window.clock = {
		held: () => [...held.values()].map(({ ms }) => ms),
		tick: () => { const due = [...held.values()]; held.clear(); due.forEach(({ f }) => f()); },
	};
})()`

// view is how a tab looks at the page.
type view struct {
	dark  bool
	width int64
}

// tab is the page in a tab of its own, with an API behind it.
type tab struct {
	*testing.T
	ctx context.Context
	api *api

	mu   sync.Mutex
	said []string // errors and warnings on the console
}

// open shows the page at a place, such as "new" or "batches/b1".
func open(parent context.Context, t *testing.T, api *api, place string, look view) *tab {
	t.Helper()
	dist := filepath.Join("forge", "app", "dist")
	if _, err := os.Stat(filepath.Join(dist, "index.html")); err != nil {
		t.Fatalf("the page is not built; run `make app`: %v", err)
	}
	server := httptest.NewServer(bridge.Handler(os.DirFS(dist), api.invoke))
	t.Cleanup(server.Close)
	ctx, cancel := chromedp.NewContext(parent)
	t.Cleanup(cancel)
	p := &tab{T: t, ctx: ctx, api: api}
	messages := chromedp.Console(ctx)
	go func() {
		for message, err := range messages {
			if err != nil {
				return // the tab was closed
			}
			if text := message.String(); message.IsException() || message.Type == "error" || message.Type == "warning" {
				p.mu.Lock()
				p.said = append(p.said, text)
				p.mu.Unlock()
			}
		}
	}()
	if _, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: clock}); err != nil {
		t.Fatal(err)
	}
	p.look(look)
	p.do(chromedp.Navigate(server.URL + "/#/" + place))
	p.until(`document.querySelector("main h1")`)
	t.Cleanup(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.said) > 0 {
			t.Errorf("the console says %q", p.said)
		}
	})
	return p
}

// look sets the width, and the theme that the browser prefers.
func (p *tab) look(look view) {
	p.Helper()
	theme := "light"
	if look.dark {
		theme = "dark"
	}
	features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}, {Name: "prefers-reduced-motion", Value: "reduce"}}
	if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features}); err != nil {
		p.Fatal(err)
	}
	p.do(chromedp.EmulateViewport(cmp.Or(look.width, 1000), 900))
}

func (p *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.Fatal(err)
	}
}

// js runs a script in the page.
func (p *tab) js(script string) {
	p.Helper()
	p.do(chromedp.Evaluate[chromedp.Void](script))
}

// value is what an expression comes to in the page.
func value[T any](p *tab, expression string) T {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	found, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.Fatalf("%s: %v", expression, err)
	}
	return found
}

// until waits for a JavaScript expression to hold. It asks from here: the page's own timers are held.
func (p *tab) until(expression string) {
	p.Helper()
	p.wait(expression, func() bool { return value[bool](p, "Boolean("+expression+")") })
}

// wait waits for what cannot be told by an event.
func (p *tab) wait(what string, holds func() bool) {
	p.Helper()
	deadline, tick := time.After(patience), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			p.Fatalf("not seen in %v: %s; the page says:\n%s", patience, what, p.text("body"))
		}
	}
}

// sees waits for texts anywhere on the page.
func (p *tab) sees(texts ...string) {
	p.Helper()
	for _, text := range texts {
		p.until("document.body.innerText.includes(" + quoted(text) + ")")
	}
}

func (p *tab) text(selector string) string {
	p.Helper()
	return value[string](p, `document.querySelector(`+quoted(selector)+`)?.innerText ?? ""`)
}

// click clicks the button or link with this text, as soon as there is one.
func (p *tab) click(text string) {
	p.Helper()
	find := `[...document.querySelectorAll("button, a")].find((each) => each.innerText.trim() === ` + quoted(text) + ` && !each.disabled)`
	p.until(find)
	p.js(find + ".click()")
}

// fill writes into fields by their ids, as a user's typing does for React; "on" and "off" are for boxes.
func (p *tab) fill(fields ...string) {
	p.Helper()
	for pair := range slices.Chunk(fields, 2) {
		id, value := pair[0], pair[1]
		p.until("document.getElementById(" + quoted(id) + ")")
		p.js(`((field, value) => {
			if (field.type === "checkbox") { if (field.checked !== (value === "on")) field.click(); return; }
			Object.getOwnPropertyDescriptor(Object.getPrototypeOf(field), "value").set.call(field, value);
			field.dispatchEvent(new Event(field.tagName === "SELECT" ? "change" : "input", { bubbles: true }));
		})(document.getElementById(` + quoted(id) + `), ` + quoted(value) + `)`)
	}
}

// tick lets the page's waits end.
func (p *tab) tick() {
	p.Helper()
	p.until("window.clock.held().length > 0")
	p.js("window.clock.tick()")
}

// shot keeps a picture of the whole page where GITSMITH_SHOTS says so, for those who change how it looks.
func (p *tab) shot(name string) {
	p.Helper()
	folder := os.Getenv("GITSMITH_SHOTS")
	if folder == "" {
		return
	}
	picture, err := chromedp.Run(p.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		p.Fatal(err)
	}
	writeFile(p.T, filepath.Join(folder, "app-"+name+".png"), string(picture))
}

func quoted(text string) string {
	encoded, _ := json.Marshal(text) // a string always can
	return string(encoded)
}

// same reports whether two JSON texts mean the same.
func same(t *testing.T, got json.RawMessage, want string) bool {
	t.Helper()
	var values [2]any
	for i, text := range []string{string(got), want} {
		if err := json.Unmarshal([]byte(text), &values[i]); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
	}
	texts := [2]string{}
	for i, value := range values {
		encoded, _ := json.Marshal(value) // it was decoded from JSON
		texts[i] = string(encoded)
	}
	return texts[0] == texts[1]
}
