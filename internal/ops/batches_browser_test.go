package ops_test

import (
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/browsertest"
)

// site is a listener that a browser logs into.
type site struct {
	stand *stand
	page  *browsertest.Page
	base  string
	cut   func() // the connections
}

func (s *site) open(path string) { s.page.Open(s.base + path) }

func newSite(t *testing.T, browser *browsertest.Browser) *site {
	t.Helper()
	stopping := make(chan struct{})
	s := &site{stand: example()}
	server := httptest.NewServer(pages(t, s.stand, stopping))
	t.Cleanup(func() {
		close(stopping)
		server.Close()
	})
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword(user, password)
	s.base, s.page, s.cut = address.String(), browser.Page(t), server.CloseClientConnections
	return s
}

func (s *site) quiet(t *testing.T) {
	t.Helper()
	if said := s.page.Said(); len(said) > 0 {
		t.Errorf("the console says %q", said)
	}
}

var firstBatch = "/dashboard/batches/" + url.PathEscape(installationOne) + "/" + example().statuses[0].ID

func TestBatchesInABrowser(t *testing.T) {
	t.Parallel()
	browser := browsertest.Start(t)
	t.Run("list", func(t *testing.T) { browseList(t, browser) })
	t.Run("live", func(t *testing.T) { browseLive(t, browser) })
	t.Run("away", func(t *testing.T) { browseAway(t, browser) })
	t.Run("cut off", func(t *testing.T) { browseCutOff(t, browser) })
	t.Run("phone", func(t *testing.T) { browsePhone(t, browser) })
	t.Run("dark", func(t *testing.T) { browseDark(t, browser) })
	t.Run("without scripts", func(t *testing.T) { browseWithoutScripts(t, browser) })
	t.Run("hostile", func(t *testing.T) { browseHostile(t, browser) })
}

const isLive = `document.querySelector("#live.on")?.innerText === "live"`

func browseList(t *testing.T, browser *browsertest.Browser) {
	s := newSite(t, browser)
	s.page.Size(1200, 900, false)
	s.open("/dashboard/batches")
	s.page.Wait(isLive)
	if articles := browsertest.Value[int](s.page, `document.querySelectorAll("article").length`); articles != 4 {
		t.Errorf("%d batches are shown", articles)
	}
	s.page.Shot("list-light")
	s.readable(t, "list")
	s.page.Click("article h2 a")
	s.page.Wait(`document.querySelectorAll("tbody tr").length === 12`)
	s.page.Wait(isLive)
	s.page.Shot("batch-light")
	s.readable(t, "batch")
	s.page.Click(`nav.states a[href*="state=failed"]`)
	s.page.Wait(`document.querySelectorAll("tbody tr").length === 3`)
	s.page.Wait(isLive)
	s.page.Shot("batch-failed")
	if rel := browsertest.Value[string](s.page, `document.querySelector("a[target]")?.rel ?? "no link"`); rel != "no link" {
		t.Errorf("a failed one has a pull request: %q", rel)
	}
	s.quiet(t)
}

// browseLive: what changes arrives; what was there stays there.
func browseLive(t *testing.T, browser *browsertest.Browser) {
	s := newSite(t, browser)
	s.page.Size(1000, 500, false)
	s.open("/dashboard/batches")
	s.page.Wait(isLive)
	s.page.Click("article details.bad summary")
	s.page.Wait(`document.querySelector("article details.bad").open`)
	s.page.Do(`window.kept = document.querySelector("article details.bad"); document.querySelector("article h2 a").focus(); scrollTo(0, 150)`)
	s.stand.change(func(s *stand) {
		s.statuses[0].Totals["succeeded"] += 100
		s.statuses[0].Totals["queued"] -= 100
	})
	s.page.Wait(`document.querySelector("article .done b").innerText === "783"`)
	const same = `document.querySelector("article details.bad") === window.kept && window.kept.open && scrollY === 150 &&
		document.activeElement === document.querySelector("article h2 a")`
	if !browsertest.Value[bool](s.page, same) {
		t.Error("an update of a batch loses what was open, focused or scrolled to")
	}
	s.stand.change(func(s *stand) {
		added := s.statuses[1]
		added.ID, added.Title = "0197a4c4-11d2-7c10-9a44-6a1f3f6b0009", "A new one"
		s.statuses = append([]batch.Status{added}, s.statuses...)
	})
	s.page.Wait(`document.querySelector("article h2").innerText === "A new one"`)
	if !browsertest.Value[bool](s.page, `document.querySelector("article details.bad") === window.kept && window.kept.open && document.activeElement.closest("article").contains(window.kept)`) {
		t.Error("a new batch loses what was open or focused")
	}
	s.quiet(t)
}

// browseAway: a page says that it is old, and is live again by itself.
func browseAway(t *testing.T, browser *browsertest.Browser) {
	s := newSite(t, browser)
	s.page.Size(1200, 900, false)
	s.open("/dashboard/batches")
	s.page.Wait(isLive)
	s.stand.change(func(s *stand) { s.err = errAway })
	s.page.Wait(`/not live, last at \d\d:\d\d:\d\d UTC/.test(document.querySelector("#live.off")?.innerText)`)
	s.page.Wait(`document.querySelector("[role=alert]")?.innerText.includes("redis does not answer")`)
	if articles := browsertest.Value[int](s.page, `document.querySelectorAll("article").length`); articles != 4 {
		t.Errorf("%d batches are shown", articles)
	}
	s.page.Shot("list-away")
	s.readable(t, "old list")
	s.stand.change(func(s *stand) { s.err = nil })
	s.page.Wait(isLive)
	s.page.Wait(`!document.querySelector("[role=alert]")`)
	s.quiet(t)
}

// browseCutOff: a connection that breaks is another within seconds, and nothing that changed meanwhile is missed.
func browseCutOff(t *testing.T, browser *browsertest.Browser) {
	s := newSite(t, browser)
	s.open("/dashboard/batches")
	s.page.Wait(isLive)
	s.cut()
	s.page.Wait(`document.querySelector("#live.off")?.innerText.startsWith("not live, last at ")`)
	s.stand.change(func(s *stand) { s.statuses[0].Title = "Changed meanwhile" })
	s.page.Wait(isLive)
	s.page.Wait(`document.querySelector("article h2").innerText === "Changed meanwhile"`)
}

// faint are the texts with less contrast than WCAG's AA asks of text, 4.5 to 1.
const faint = `[...document.querySelectorAll("body *")].filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) && e.checkVisibility()).map(e => {
	const parse = text => { const n = text.match(/[\d.]+/g).map(Number); return text.startsWith("color") ? n : [n[0] / 255, n[1] / 255, n[2] / 255, n[3]] };
	const light = ([r, g, b]) => [r, g, b].map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4).reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
	let ground = e;
	while (ground !== document.body && (parse(getComputedStyle(ground).backgroundColor)[3] ?? 1) < 1) ground = ground.parentElement;
	const [a, b] = [parse(getComputedStyle(e).color), parse(getComputedStyle(ground).backgroundColor)].map(light);
	return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 80)];
}).filter(([contrast]) => !(contrast >= 4.5)).map(([contrast, text]) => contrast.toFixed(2) + " " + text)`

func (s *site) readable(t *testing.T, what string) {
	t.Helper()
	for _, text := range browsertest.Value[[]string](s.page, faint) {
		t.Errorf("%s: too little contrast: %s", what, text)
	}
}

func browsePhone(t *testing.T, browser *browsertest.Browser) {
	s := newSite(t, browser)
	s.page.Size(360, 740, true)
	for name, path := range map[string]string{"list-phone": "/dashboard/batches", "batch-phone": firstBatch} {
		s.open(path)
		s.page.Wait(isLive)
		if width := browsertest.Value[int](s.page, `document.documentElement.scrollWidth`); width > 360 {
			wide := browsertest.Value[[]string](s.page, `[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > 360).map(e => e.outerHTML.slice(0, 90))`)
			t.Errorf("%s is %d wide: %q", name, width, wide)
		}
		s.page.Shot(name)
	}
	s.quiet(t)
}

func browseDark(t *testing.T, browser *browsertest.Browser) {
	s := newSite(t, browser)
	const ground = `getComputedStyle(document.body).backgroundColor`
	s.page.Size(1200, 900, false)
	s.open("/dashboard/batches")
	light := browsertest.Value[string](s.page, ground)
	s.page.Prefer("prefers-color-scheme", "dark")
	s.page.Wait(isLive)
	if dark := browsertest.Value[string](s.page, ground); light != "rgb(244, 246, 249)" || dark != "rgb(14, 19, 26)" {
		t.Errorf("light %s, dark %s", light, dark)
	}
	s.page.Shot("list-dark")
	s.readable(t, "dark list")
	s.open(firstBatch)
	s.page.Wait(isLive)
	s.page.Shot("batch-dark")
	s.readable(t, "dark batch")
	s.quiet(t)
}

func browseWithoutScripts(t *testing.T, browser *browsertest.Browser) {
	s := newSite(t, browser)
	s.page.WithoutScripts()
	s.open("/dashboard/batches")
	const shown = `document.querySelectorAll("article").length === 4 && /as of \d\d:\d\d:\d\d UTC; reloads every 10 s/.test(document.querySelector("#live").innerText) &&
		document.querySelector("head meta[http-equiv=refresh]")?.content === "10"`
	if !browsertest.Value[bool](s.page, shown) {
		t.Errorf("without scripts: %s", browsertest.Value[string](s.page, "document.documentElement.outerHTML"))
	}
	s.page.Click("article details.bad summary")
	if !browsertest.Value[bool](s.page, `document.querySelector("article details.bad").open`) {
		t.Error("failures cannot be opened without scripts")
	}
	s.quiet(t)
}

func browseHostile(t *testing.T, browser *browsertest.Browser) {
	s := newSite(t, browser)
	const attack = `"><img src=x onerror="window.attacked=1"><script>window.attacked=1</script>`
	s.stand.statuses[0].Title = attack
	s.open("/dashboard/batches")
	s.page.Wait(isLive)
	s.stand.change(func(s *stand) { s.statuses[0].Title = attack + "\r\n\r\nevent: page\ndata: <h1>taken</h1>" })
	s.page.Wait(`document.querySelector("article h2").innerText.includes("taken")`)
	if !browsertest.Value[bool](s.page, `!window.attacked && document.querySelectorAll("main img, main script, main h1").length === 1`) {
		t.Error("a title is more than text")
	}
	s.quiet(t)
}
