package deploy_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gitsmith/gitsmith/deploy/forge/app/bridge"
	"github.com/gitsmith/gitsmith/internal/browsertest"
)

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
	*browsertest.Page
	api *api
}

// open shows the page at a place, such as "new" or "batches/b1".
func open(t *testing.T, chromium *browsertest.Browser, api *api, place string, look view) *tab {
	t.Helper()
	dist := filepath.Join("forge", "app", "dist")
	if _, err := os.Stat(filepath.Join(dist, "index.html")); err != nil {
		t.Fatalf("the page is not built; run `make app`: %v", err)
	}
	server := httptest.NewServer(bridge.Handler(os.DirFS(dist), api.invoke))
	t.Cleanup(server.Close)
	p := &tab{T: t, Page: chromium.Page(t), api: api}
	p.OnLoad(clock)
	p.look(look)
	p.Open(server.URL + "/#/" + place)
	p.Wait(`document.querySelector("main h1")`)
	t.Cleanup(func() {
		if said := p.Said(); len(said) > 0 {
			t.Errorf("the console says %q", said)
		}
	})
	return p
}

// look sets the width, and the theme that the browser prefers.
func (p *tab) look(look view) {
	p.Helper()
	p.Prefer("prefers-color-scheme", map[bool]string{false: "light", true: "dark"}[look.dark], "prefers-reduced-motion", "reduce")
	p.Size(cmp.Or(look.width, 1000), 900, false)
}

// tick lets the page's waits end.
func (p *tab) tick() {
	p.Helper()
	p.Wait("window.clock.held().length > 0")
	p.Do("window.clock.tick()")
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
