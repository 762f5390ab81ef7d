package receiver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/rule"
)

const ruleFile = `
rules:
  - name: archive
    on: "avi:bitbucket:push:repository"
    when: 'event.push.ref == "main"'
    job:
      clone: {ref: "{{ event.push.after }}", archive: zip}
  - name: second
    on: "avi:bitbucket:push:repository"
    when: 'event.push.ref == "main"'
    job:
      clone: {ref: refs/heads/main, archive: none}
  - name: broken
    on: "avi:bitbucket:deleted:repository"
    when: 'event.missing.field == 1'
    job:
      clone: {ref: refs/heads/main}
`

var pushes = forgetest.FITOptions{ModuleKey: "push"}

// eventHouse is a house with the rules above.
func eventHouse(t *testing.T) *house {
	t.Helper()
	h := newHouse(t)
	set, err := rule.Parse([]byte(ruleFile), job.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	h.config.Rules = func() *rule.Set { return set }
	h.Handler = h.build(t, func(*Config) {})
	return h
}

// aPush is an event body; change may alter the event.
func aPush(t *testing.T, when time.Time, change func(map[string]any)) string {
	t.Helper()
	event := map[string]any{
		"eventType": forge.EventPush, "timestamp": when.UTC().Format(time.RFC3339Nano),
		"workspace":  map[string]any{"uuid": "{11111111-2222-4333-8444-555555555555}"},
		"repository": map[string]any{"uuid": "{6a5f1d0e-6f0a-4f38-9a2a-0f3c6a8f3a10}", "slug": "web"},
		"push": map[string]any{
			"ref": "main", "mainbranch": true, "after": strings.Repeat("ab", 20),
			"commits": []any{map[string]any{"hash": strings.Repeat("ab", 20), "message": map[string]any{"value": "by a person", "truncated": false}}},
		},
	}
	change(event)
	text, err := json.Marshal(map[string]any{"payload": event})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func unchanged(map[string]any) {}

func (h *house) event(t *testing.T, body string) (int, eventView) {
	t.Helper()
	answer := h.do(t, http.MethodPost, "/forge/events", h.Header(pushes, forgetest.Tokens{System: h.token()}), body)
	return answer.Status, decode[eventView](t, answer)
}

// TestEventOnce: an event makes its rules' jobs, and its redelivery, or the same event by another road, names them again.
func TestEventOnce(t *testing.T) {
	t.Parallel()
	h := eventHouse(t)
	when := time.Now()
	status, first := h.event(t, aPush(t, when, unchanged))
	if status != http.StatusAccepted || first.Outcome != "queued" || len(first.Jobs) != 2 || first.Jobs[0].Rule != "archive" {
		t.Fatalf("status %d: %+v", status, first)
	}
	status, again := h.event(t, aPush(t, when, func(event map[string]any) {
		event["retryContext"] = map[string]any{"retryCount": 2, "retryReason": "FUNCTION_TIME_OUT"}
	}))
	if status != http.StatusOK || again.Outcome != "duplicate" || !slices.Equal(again.Jobs, first.Jobs) {
		t.Errorf("a redelivery: status %d, %+v; first %+v", status, again, first)
	}
	if status, other := h.event(t, aPush(t, when.Add(time.Second), unchanged)); status != http.StatusAccepted || other.Jobs[0].ID == first.Jobs[0].ID {
		t.Errorf("another event: status %d, %+v", status, other)
	}
	queued := h.jobs.queued()
	if len(queued) != 4 {
		t.Fatalf("%d jobs", len(queued))
	}
	made := queued[0]
	if made.Class != job.ClassEvent || made.Actor.Kind != forge.ActorSystem || made.Coalesce == "" || made.HappenedAt.IsZero() || made.Clone.Ref != strings.Repeat("ab", 20) ||
		made.Repository.RepositoryUUID != "{6a5f1d0e-6f0a-4f38-9a2a-0f3c6a8f3a10}" || made.Installation != forgetest.Installation {
		t.Errorf("made %+v", made)
	}
}

// TestAKeyOfACallerIsNoEvent: nobody can take an event's place beforehand.
func TestAKeyOfACallerIsNoEvent(t *testing.T) {
	t.Parallel()
	h := eventHouse(t)
	body := aPush(t, time.Now(), unchanged)
	parsed, err := forge.ParseEvent([]byte(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"event " + parsed.Digest + " archive", "event%20" + parsed.Digest + "%20archive", "event+" + parsed.Digest + "+archive"} {
		header := with(h.system(), "Idempotency-Key", key)
		h.do(t, http.MethodPost, "/v1/jobs", header, strings.Replace(cloneBody, `"clone"`, `"actor": "system", "clone"`, 1))
	}
	if _, view := h.event(t, body); view.Outcome != "queued" {
		t.Errorf("%+v", view)
	}
}

// TestEventsThatMakeNoJob: each is taken, said why, counted, and its tokens are kept.
func TestEventsThatMakeNoJob(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tc := range map[string]struct {
		change  func(map[string]any)
		when    time.Time
		outcome string
	}{
		"no rule's condition":     {func(e map[string]any) { e["push"].(map[string]any)["ref"] = "topic" }, now, "unwanted"},
		"of tomorrow":             {func(e map[string]any) { e["eventType"] = "avi:bitbucket:painted:repository" }, now, "unwanted"},
		"generated by the app":    {func(e map[string]any) { e["selfGenerated"] = true }, now, "self_generated"},
		"old":                     {unchanged, now.Add(-25 * time.Hour), "too_old"},
		"a rule fails":            {func(e map[string]any) { e["eventType"] = forge.EventRepositoryDeleted }, now, "unwanted"},
		"a commit of a job":       {ownCommit, now, "own_commit"},
		"a job's, not told whole": {func(e map[string]any) { ownCommit(e); delete(e["push"].(map[string]any), "commits") }, now, "own_commit"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := eventHouse(t)
			h.known.ours = []string{strings.Repeat("0d", 20)}
			body := aPush(t, tc.when, tc.change)
			status, view := h.event(t, body)
			if status != http.StatusOK || view.Outcome != tc.outcome || len(view.Jobs) != 0 || len(h.jobs.queued()) != 0 || len(h.tokens.kept) != 1 {
				t.Errorf("status %d: %+v, %d jobs, %d tokens", status, view, len(h.jobs.queued()), len(h.tokens.kept))
			}
			kind, _ := forge.ParseEvent([]byte(body))
			if want := fmt.Sprintf("event %s %s", kind.Type, tc.outcome); !slices.Contains(h.counts.taken(), want) {
				t.Errorf("counted %q, not %q", h.counts.taken(), want)
			}
			if failed := slices.Contains(h.counts.taken(), "rule failed broken"); failed != (name == "a rule fails") {
				t.Errorf("counted %q", h.counts.taken())
			}
			if call := h.known.calls[0]; call.TooOld != (tc.outcome == "too_old") {
				t.Errorf("noted %+v", call)
			}
		})
	}
}

func ownCommit(event map[string]any) {
	push := event["push"].(map[string]any)
	push["after"] = strings.Repeat("0d", 20)
	push["commits"].([]any)[0].(map[string]any)["message"] = map[string]any{"value": "Change\n\nForge-Job: 1\nForge-Job-Proof: " + strings.Repeat("A", 43) + "\n"}
}

// TestATrailerIsNoProof: anybody can write the line that our commits end in.
func TestATrailerIsNoProof(t *testing.T) {
	t.Parallel()
	h := eventHouse(t)
	if status, view := h.event(t, aPush(t, time.Now(), ownCommit)); status != http.StatusAccepted {
		t.Errorf("status %d: %+v", status, view)
	}
}

// TestEventsOfTheRepository: what may have changed a name drops it.
func TestEventsOfTheRepository(t *testing.T) {
	t.Parallel()
	h := eventHouse(t)
	for _, kind := range []string{forge.EventRepositoryUpdated, forge.EventRepositoryDeleted, forge.EventPush} {
		h.event(t, aPush(t, time.Now(), func(event map[string]any) { event["eventType"] = kind }))
	}
	const uuid = "{6a5f1d0e-6f0a-4f38-9a2a-0f3c6a8f3a10}"
	if diff := cmp.Diff([]string{uuid, uuid}, h.known.dropped); diff != "" {
		t.Error(diff)
	}
}

// TestEveryFixture: each event that Bitbucket documents is taken, whatever fields it has.
func TestEveryFixture(t *testing.T) {
	t.Parallel()
	h := eventHouse(t)
	files, err := filepath.Glob("../forge/testdata/events/*.json")
	if err != nil || len(files) < 40 {
		t.Fatalf("%d fixtures, %v", len(files), err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if status, view := h.event(t, string(content)); status != http.StatusOK && status != http.StatusAccepted {
			t.Errorf("%s: status %d, %+v", filepath.Base(file), status, view)
		}
	}
}

func TestUninstall(t *testing.T) {
	t.Parallel()
	h := eventHouse(t)
	h.event(t, aPush(t, time.Now(), unchanged))
	header := h.Header(forgetest.FITOptions{}, forgetest.Tokens{System: h.token()})
	for range 2 {
		if answer := h.do(t, http.MethodPost, "/forge/uninstall", header, ""); answer.Status != http.StatusOK {
			t.Fatalf("status %d: %s", answer.Status, answer.Body)
		}
	}
	if len(h.tokens.kept) != 0 || !slices.Equal(h.jobs.canceled, []string{forgetest.Installation, forgetest.Installation}) {
		t.Errorf("%d tokens, canceled %q", len(h.tokens.kept), h.jobs.canceled)
	}
	if status, view := h.event(t, aPush(t, time.Now(), unchanged)); status != http.StatusOK || view.Outcome != "removed" {
		t.Errorf("a late event: status %d, %+v", status, view)
	}
	refused(t, h.do(t, http.MethodPost, "/v1/jobs", h.user(), pushBody), http.StatusForbidden, fault.Denied, "removed minutes ago")
	refused(t, h.do(t, http.MethodPost, "/forge/uninstall", h.user(), ""), http.StatusForbidden, fault.Denied, "UI module")
}

// TestUninstallOutlivesItsCaller: Forge delivers a removal once and ignores what becomes of it, so it is completed although nobody waits.
func TestUninstallOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	h := eventHouse(t)
	h.event(t, aPush(t, time.Now(), unchanged))
	ctx, hangUp := context.WithCancel(t.Context())
	h.jobs.meddle = func(ctx context.Context) error { // the first thing that a removal asks of the queue
		hangUp()
		return ctx.Err()
	}
	request := httptest.NewRequestWithContext(ctx, http.MethodPost, "/forge/uninstall", strings.NewReader(""))
	request.Header = h.Header(forgetest.FITOptions{}, forgetest.Tokens{System: h.token()})
	recorder := httptest.NewRecorder()
	h.ServeHTTP(recorder, request)
	if recorder.Code != http.StatusOK || len(h.jobs.canceled) != 1 || len(h.tokens.kept) != 0 {
		t.Errorf("status %d, canceled %q, %d tokens", recorder.Code, h.jobs.canceled, len(h.tokens.kept))
	}
}

func TestInstallation(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	when := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	h.known.records[forgetest.Installation] = installation.Record{FirstSeen: when, LastScheduled: when, TooOld: 3, Environment: "PRODUCTION"}
	view := decode[installationView](t, h.do(t, http.MethodGet, "/v1/installation", h.user(), ""))
	if view.ID != forgetest.Installation || view.State != installation.Active || !view.FirstSeenAt.Equal(when) || !view.LastScheduledAt.Equal(when) ||
		view.EventsTooOld != 3 || view.Environment != "PRODUCTION" {
		t.Errorf("%+v", view)
	}
}

// TestSpooled: while Redis is away an event is a promise, as long as there is a place to keep it.
func TestSpooled(t *testing.T) {
	t.Parallel()
	h := eventHouse(t)
	away := &awayIntake{}
	h.Handler = h.build(t, func(config *Config) { config.Intake = away })
	if status, view := h.event(t, aPush(t, time.Now(), unchanged)); status != http.StatusAccepted || view.Outcome != "queued" || len(view.Jobs) != 2 {
		t.Errorf("status %d: %+v", status, view)
	}
	// Nobody can be asked for a token now, so nobody is.
	header := h.Header(forgetest.FITOptions{Principal: ada}, forgetest.Tokens{})
	answer := h.do(t, http.MethodPost, "/v1/jobs", header, strings.Replace(cloneBody, `"clone"`, `"actor": "user", "clone"`, 1))
	if answer.Status != http.StatusAccepted {
		t.Errorf("status %d: %s", answer.Status, answer.Body)
	}
	uninstalled := h.Header(forgetest.FITOptions{}, forgetest.Tokens{})
	if answer := h.do(t, http.MethodPost, "/forge/uninstall", uninstalled, ""); answer.Status != http.StatusOK || len(h.jobs.canceled) > 0 {
		t.Errorf("status %d: %s, %q", answer.Status, answer.Body, h.jobs.canceled)
	}
}
