package main

import (
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/browsertest"
)

// TestPageInABrowser starts a batch at the app's page, which stands before the real receiver and worker with the sandbox in the place of
// Forge, sees it fail in one repository, retries that, and looks at the batch where operators do.
func TestPageInABrowser(t *testing.T) {
	if _, err := os.Stat(filepath.Join(builtPage(), "index.html")); err != nil {
		t.Fatalf("the page is not built; run `make app`: %v", err)
	}
	chromium := browsertest.Start(t)
	t.Setenv("TMPDIR", t.TempDir())
	sandbox, err := start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sandbox.stop(); err != nil {
			t.Error(err)
		}
	})
	if err := sandbox.addFleet(t.Context(), 1, 5); err != nil {
		t.Fatal(err)
	}
	if err := sandbox.bitbucket.Restrict("acme", fleetSlug(2), "chore/note"); err != nil {
		t.Fatal(err)
	}

	page := chromium.Page(t)
	page.Size(1000, 900, false)
	page.Open(sandbox.addresses["forge"] + "/app/#/new")
	list := ""
	for i := 1; i <= 5; i++ {
		list += "acme/" + fleetSlug(i) + " team=team-" + strconv.Itoa(i) + "\n"
	}
	page.Fill("title", "Note the teams", "list", list, "branch", "chore/note", "message", "Note the team of {{repository.slug}}",
		"path-0", "TEAM", "content-0", "{{values.team}}\n", "prTitle", "Note the team", "canary", "1", "stop", "", "dryRun", "off")
	page.Press("Start the batch")
	page.Sees("5 of 5 repositories")
	page.Sees("chore/note")
	page.Sees("acme/" + fleetSlug(2))
	page.Shot("sandbox-page-failures")
	if err := sandbox.bitbucket.Restrict("acme", fleetSlug(2)); err != nil {
		t.Fatal(err)
	}
	page.Press("Retry the failed one")
	page.Wait(`document.body.innerText.includes("5 of 5 repositories") && !document.body.innerText.includes("Retry the failed")`)
	page.Shot("sandbox-page-done")
	for i := 1; i <= 5; i++ {
		if content := sandbox.git(t.Context(), fleetSlug(i), "show", "chore/note:TEAM"); content != "team-"+strconv.Itoa(i) {
			t.Errorf("%s has %q", fleetSlug(i), content)
		}
	}
	startsADryRun(t, sandbox, page, list)
	for _, said := range page.Said() {
		if !strings.Contains(said, "favicon.ico") { // of the stand-in's address; at Forge the page is a frame
			t.Errorf("the page's console says %q", said)
		}
	}

	operator := chromium.Page(t)
	operator.Size(1200, 900, false)
	operator.Open(strings.Replace(sandbox.addresses["ops"], "http://", "http://"+dashboardUser+":"+dashboardPassword+"@", 1) + "/dashboard/batches")
	operator.Sees("Note the teams")
	operator.Sees("finished")
	operator.Shot("sandbox-dashboard")
}

// startsADryRun asks for a dry run in stages and starts it: what the form asked for stands beside the button, and holds for the real push.
func startsADryRun(t *testing.T, sandbox *sandbox, page *browsertest.Page, list string) {
	t.Helper()
	page.Open(sandbox.addresses["forge"] + "/app/#/new")
	page.Fill("title", "Name the teams", "list", list, "branch", "chore/name", "message", "Name the team of {{repository.slug}}",
		"path-0", "NAME", "content-0", "{{values.team}}\n", "open", "off", "canary", "1", "then", "60%", "stop", "2", "concurrency", "3", "dryRun", "on")
	page.Press("Start the dry run")
	page.Sees("Nothing was pushed yet")
	page.Wait(`[...document.querySelectorAll(".terms dd")].map((each) => each.innerText).join("; ") ===
		"1 repository first, up to 60% (3) next, then the rest; 2 in a stage; 3 repositories; you"`)
	page.Shot("sandbox-page-start")
	page.Press("Start it")
	page.Wait(`!document.body.innerText.includes("dry run") && document.body.innerText.includes("5 of 5 repositories")`)
	if content := sandbox.git(t.Context(), fleetSlug(5), "show", "chore/name:NAME"); content != "team-5" {
		t.Errorf("%s has %q", fleetSlug(5), content)
	}
	var listed struct {
		Batches []struct {
			DryRun      bool           `json:"dry_run"`
			Stage       *batch.Stage   `json:"stage"`
			Rollout     map[string]any `json:"rollout"`
			Concurrency int            `json:"concurrency"`
		} `json:"batches"`
	}
	if err := sandbox.read(t.Context(), "/v1/batches?limit=2", &listed); err != nil {
		t.Fatal(err)
	}
	for i, each := range listed.Batches {
		want := map[string]any{"canary": 1.0, "then": "60%", "stop_at_failures": 2.0}
		if each.DryRun != (i == 1) || (each.Stage == nil) != each.DryRun || !maps.Equal(each.Rollout, want) || each.Concurrency != 3 {
			t.Errorf("batch %d: %+v, stage %+v", i, each, each.Stage)
		}
	}
}
