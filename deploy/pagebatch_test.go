package deploy_test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/browsertest"
)

// showsProgress: the page asks again while the batch goes on, later where nothing moves, and no more once it has ended.
func showsProgress(t *testing.T, open opener) {
	still := batch(map[string]any{"totals": totals(16, 60, 0)})
	api := newAPI().say(repos, 200, repositories).
		say(one, 200, batch(map[string]any{"totals": totals(4, 10, 0)})).say(one, 200, still).say(one, 200, still).
		say(one, 503, `{"detail":"redis is away; try again"}`).say(one, 200, done)
	p := open(api, "batches/b1", view{})
	p.Sees("10 of 240", "4%", "121 a minute", "2 min left")
	p.Wait(`document.querySelector(".bar").getAttribute("aria-valuenow") === "10"`)
	p.tick()
	p.Sees("60 of 240")
	p.Wait(`document.querySelector(".fill-succeeded").getAttribute("width") === "250"`)
	p.Wait(`document.querySelector("[role=status]").innerText.includes("20 percent")`)
	p.Wait(`clock.held()[0] === 2000`)
	p.tick()
	p.Wait(`clock.held()[0] === 3000`)
	p.tick()
	p.Sees("redis is away; try again", "60 of 240")
	p.tick()
	p.Sees("240 of 240", "took 2 min", "done")
	p.Wait(`!document.querySelector("[role=alert]") && clock.held().length === 0`)
}

func acts(t *testing.T, open opener) {
	paused := batch(map[string]any{"state": "paused", "reason": "paused by alice"})
	api := newAPI().say(repos, 200, repositories).say(one, 200, moving).say(one, 200, paused).
		say("POST /v1/batches/b1/pause", 200, paused).
		say("POST /v1/batches/b1/resume", 409, `{"detail":"the batch is not paused"}`).
		say("POST /v1/batches/b1/cancel", 200, batch(map[string]any{"state": "canceled"}))
	p := open(api, "batches/b1", view{})
	p.Press("Pause")
	p.Sees("paused by alice")
	p.Press("Resume")
	p.Sees("the batch is not paused")
	p.Press("Cancel")
	p.Sees("Cancel what has not begun?")
	p.Wait(`document.activeElement.innerText === "Go on"`)
	p.Sees("the batch is not paused")
	p.Press("Cancel the batch")
	for _, action := range []string{"pause", "resume", "cancel"} {
		p.sends("POST /v1/batches/b1/" + action)
	}
}

// sends waits for a call, which has no body.
func (p *tab) sends(route string) {
	p.Helper()
	p.Until(route, func() error {
		if len(p.api.called(route)) == 0 {
			return errors.New("not called")
		}
		return nil
	})
	if calls := p.api.called(route); len(calls[0].Body) > 0 {
		p.Errorf("%s with %s", route, calls[0].Body)
	}
}

func groupsFailures(t *testing.T, open opener) {
	api := newAPI().say(repos, 200, repositories).say("GET /v1/batches/b1/repositories?state=failed&limit=25", 200, repositories).
		say(one, 200, stopped).say(one, 200, moving).say("POST /v1/batches/b1/retry", 200, moving)
	p := open(api, "batches/b1", view{})
	p.Sees("38 of 240 failed, which is more", "the branch is restricted", "acme/payments, acme/ledger", "the pattern was not found", "there is no go.mod")
	p.Press("26 more")
	p.Wait(`[...document.querySelectorAll("[aria-pressed=true]")].map((each) => each.innerText).join() === "failed 38"`)
	p.Press("Retry the failed ones")
	p.sends("POST /v1/batches/b1/retry")
	p.Sees("running 16")
}

func pages(t *testing.T, open opener) {
	next := strings.ReplaceAll(strings.ReplaceAll(repositories, "acme/", "acme/second-"), "page2", "")
	api := newAPI().say(one, 200, done).say(repos, 200, repositories).say(repos+"&cursor=page2", 200, next).
		say("GET /v1/batches/b1/repositories?state=succeeded&limit=25", 200, planned)
	p := open(api, "batches/b1", view{})
	p.Sees("acme/web", "there is no go.mod", "3 attempts")
	p.Press("Pull request #12")
	p.Wait(`window.__bridge.opened.join() === "https://bitbucket.org/acme/web/pull-requests/12"`)
	p.Press("Next")
	p.Sees("acme/second-web", "Page 2")
	p.Press("Previous")
	p.Wait(`document.querySelector(".rows").innerText.includes("acme/web")`)
	p.Press("succeeded 228")
	p.Wait(`document.querySelectorAll(".rows > li").length === 1`)
}

func showsADryRun(t *testing.T, open opener) {
	api := newAPI().say(one, 200, dry).say(repos, 200, planned).say("GET /v1/jobs/j1/artifact", 200, `{"diff":`+strconv.Quote(diff)+`}`).
		say("POST /v1/batches", 202, strings.Replace(batch(nil), `"b1"`, `"b2"`, 1)).
		say("GET /v1/batches/b2", 200, strings.Replace(moving, `"b1"`, `"b2"`, 1)).say("GET /v1/batches/b2/repositories?limit=25", 200, repositories)
	p := open(api, "batches/b1", view{})
	p.Sees("Nothing was pushed yet", "+22", "−1")
	// What the form asked for holds for the real push.
	p.Wait(`[...document.querySelectorAll(".terms dd")].map((each) => each.innerText).join("; ") ===
		"5 repositories first, up to 50% (118) next, then the rest; 10% of a stage; 16 repositories; 600 repositories an hour at most; you"`)
	for how, look := range map[string]view{"light": {}, "dark": {dark: true}, "phone": {width: 360}, "phone-dark": {width: 360, dark: true}} {
		p.look(look)
		p.Wait(`document.documentElement.dataset.colorMode === "` + map[bool]string{false: "light", true: "dark"}[look.dark] + `"`)
		p.fits()
		if poor := p.contrast(); len(poor) > 0 {
			t.Errorf("%s: hard to read: %q", how, poor)
		}
		p.Shot("app-start-" + how)
	}
	p.look(view{})
	p.Press("Diff")
	p.Wait(`document.querySelector(".diff .added")?.innerText.trim() === "+See https://new.example.com"`)
	p.Wait(`document.querySelectorAll(".diff .removed").length === 1`)
	p.Shot("app-dryrun-light")
	p.Press("Start it")
	p.Sees("running 16")
	if calls := api.called("POST /v1/batches"); len(calls) != 1 || !same(t, calls[0].Body, `{"from":"b1"}`) {
		t.Errorf("sent %v", calls)
	}
}

func listsBatches(t *testing.T, open opener) {
	api := newAPI().say(list, 200, `{"batches":[],"next":""}`).
		say(list, 200, `{"batches":[`+moving+`,`+strings.Replace(stopped, `"b1"`, `"b0"`, 1)+`,`+strings.Replace(dry, `"b1"`, `"b9"`, 1)+`],"next":"older"}`).
		say(list+"&cursor=older", 200, `{"batches":[`+strings.Replace(done, `"b1"`, `"b-1"`, 1)+`],"next":""}`).
		say(one, 200, moving).say(repos, 200, repositories)
	p := open(api, "", view{})
	p.Sees("No batches yet")
	p.tick()
	p.Sees("74 of 240", "stopped", "dry run")
	p.Press("Older")
	p.Wait(`document.querySelectorAll(".card").length === 4`)
	p.Shot("app-list-light")
	p.Do(`document.querySelector(".card").click()`)
	p.Sees("running 16")
	p.Press("Batches")
	p.Press("New batch")
	p.Sees("Commit message")
	p.Shot("app-form-light")
}

func restsWhileHidden(t *testing.T, open opener) {
	api := newAPI().say(repos, 200, repositories).say(one, 200, batch(nil)).say(one, 200, done)
	p := open(api, "batches/b1", view{})
	p.Sees("0 of 240")
	p.Wait("clock.held().length === 1")
	p.Do(`Object.defineProperty(document, "hidden", { configurable: true, value: true }); document.dispatchEvent(new Event("visibilitychange"))`)
	p.Wait("clock.held().length === 0") // nothing is left that could ask
	if calls := api.called(one); len(calls) != 1 {
		t.Errorf("asked %d times", len(calls))
	}
	p.Do(`Object.defineProperty(document, "hidden", { configurable: true, value: false }); document.dispatchEvent(new Event("visibilitychange"))`)
	p.Sees("240 of 240")
}

// looksFinished: three states, in both themes and on a phone, where nothing scrolls sideways and text stands out.
func looksFinished(t *testing.T, open opener) {
	looks := map[string]view{"light": {}, "dark": {dark: true}, "phone": {width: 360}, "phone-dark": {width: 360, dark: true}}
	for name, status := range map[string]string{"running": moving, "failed": stopped, "done": done} {
		p := open(newAPI().say(one, 200, status).say(repos, 200, repositories), "batches/b1", view{})
		p.Sees("acme/web", "of 240")
		for how, look := range looks {
			p.look(look)
			p.Wait(`document.documentElement.dataset.colorMode === "` + map[bool]string{false: "light", true: "dark"}[look.dark] + `"`)
			p.fits()
			if poor := p.contrast(); len(poor) > 0 {
				t.Errorf("%s, %s: hard to read: %q", name, how, poor)
			}
			p.Shot("app-" + name + "-" + how)
		}
	}
	form := open(newAPI(), "new", view{width: 360})
	form.fits()
	form.Shot("app-form-phone")
	dark := open(newAPI(), "new", view{dark: true})
	if ground := browsertest.Value[string](dark.Page, `getComputedStyle(document.documentElement).backgroundColor`); ground != "rgb(31, 31, 33)" {
		t.Errorf("dark is %s", ground)
	}
	dark.Shot("app-form-dark")
}

func (p *tab) fits() {
	p.Helper()
	wide := browsertest.Value[[]string](p.Page, `document.documentElement.scrollWidth <= innerWidth ? [] :
		[...document.querySelectorAll("main *")].filter((each) => each.getBoundingClientRect().right > innerWidth).map((each) => each.className || each.tagName)`)
	if len(wide) > 0 {
		p.Errorf("scrolls sideways: %q", slices.Compact(wide))
	}
}

// contrast are the texts with less than 4.5 to 1 against what is behind them (WCAG 2.2, 1.4.3).
func (p *tab) contrast() []string {
	p.Helper()
	return browsertest.Value[[]string](p.Page, `(() => {
		const channels = (color) => color.match(/[\d.]+/g).map(Number);
		const light = (color) => {
			const [r, g, b] = channels(color).map((c) => ((c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
			return 0.2126 * r + 0.7152 * g + 0.0722 * b;
		};
		const behind = (element) => {
			for (; element; element = element.parentElement) {
				const color = getComputedStyle(element).backgroundColor;
				if (channels(color)[3] !== 0) return color;
			}
			return getComputedStyle(document.documentElement).backgroundColor;
		};
		return [...document.querySelectorAll("main *")]
			.filter((each) => !each.disabled && [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
			.filter((each) => {
				const [a, b] = [light(getComputedStyle(each).color), light(behind(each))].sort((a, b) => b - a);
				return (a + 0.05) / (b + 0.05) < 4.5;
			})
			.map((each) => each.className + ": " + (each.innerText ?? "").slice(0, 40));
	})()`)
}
