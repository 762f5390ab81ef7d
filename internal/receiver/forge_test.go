package receiver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/installation"
)

var (
	trigger  = forgetest.FITOptions{ModuleKey: "hourly"}
	appEvent = forgetest.FITOptions{ModuleKey: "lifecycle"}
)

func TestSchedule(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for range 2 {
		answer := h.do(t, http.MethodPost, "/forge/schedule", h.Header(trigger, forgetest.Tokens{}), "")
		if answer.Status != http.StatusOK || strings.TrimSpace(string(answer.Body)) != "{}" {
			t.Errorf("status %d: %s", answer.Status, answer.Body)
		}
	}
	if diff := cmp.Diff([]string{forgetest.Installation, forgetest.Installation}, h.jobs.woken); diff != "" {
		t.Error(diff)
	}
}

// TestWake: a newer system token that Forge delivers wakes what waits for it; nothing else does, and a queue that cannot is no reason to
// refuse the call.
func TestWake(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	brings := func(tokens forgetest.Tokens) []string {
		h.do(t, http.MethodPost, "/forge/lifecycle", h.Header(appEvent, tokens), `{"eventType": "avi:forge:upgraded:app"}`)
		woken := h.jobs.woken
		h.jobs.woken = nil
		return woken
	}
	token := h.token()
	for name, pair := range map[string][2][]string{
		"nothing":                 {brings(forgetest.Tokens{}), nil},
		"a user's token":          {brings(forgetest.Tokens{User: h.token()}), nil},
		"a system token":          {brings(forgetest.Tokens{System: token}), {forgetest.Installation}},
		"the same one again":      {brings(forgetest.Tokens{System: token}), nil},
		"another one, and a user": {brings(forgetest.Tokens{System: h.token(), User: h.token()}), {forgetest.Installation}},
	} {
		if diff := cmp.Diff(pair[1], pair[0]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}

	handler := h.build(t, func(config *Config) { config.Jobs = sleepy{&memoryJobs{}} })
	header := h.Header(appEvent, forgetest.Tokens{System: h.token()})
	if answer := h.to(t, handler, http.MethodPost, "/forge/lifecycle", header, `{"eventType": "avi:forge:upgraded:app"}`); answer.Status != http.StatusOK {
		t.Errorf("status %d: %s", answer.Status, answer.Body)
	}
	if !strings.Contains(h.log.String(), "waiting jobs could not be woken") || !strings.Contains(h.log.String(), "connection refused") {
		t.Errorf("logged %s", h.log)
	}
}

// sleepy is a queue that wakes nobody.
type sleepy struct{ *memoryJobs }

func (sleepy) Wake(context.Context, string) (int, error) {
	return 0, fault.Wrapf(fault.Unavailable, errors.New("connection refused"), "wake waiting jobs")
}

func TestLifecycle(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for name, tc := range map[string]struct {
		body  string
		marks bool
	}{
		"installed":                     {`{"eventType": "avi:forge:installed:app", "context": {"cloudId": "x"}}`, true},
		"installed, in payload":         {`{"payload": {"eventType": "avi:forge:installed:app"}}`, true},
		"installed, in event":           {`{"event": {"eventType": "avi:forge:installed:app"}}`, true},
		"installed, in payload's event": {`{"payload": {"event": {"eventType": "avi:forge:installed:app"}}}`, true},
		"upgraded":                      {`{"eventType": "avi:forge:upgraded:app"}`, true},
		"of tomorrow":                   {`{"eventType": "avi:forge:painted:app"}`, false},
		"as documented, without a type": {`{"id": "ari:cloud:ecosystem::installation/1", "installerAccountId": "712020:a", "app": {"id": "ari:cloud:ecosystem::app/1", "version": "1.0.0"}}`, true},
		"an upgrade without a type":     {`{"id": "ari:cloud:ecosystem::installation/1", "upgraderAccountId": "712020:a", "app": {"id": "ari:cloud:ecosystem::app/1", "version": "2.0.0"}}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tokens := &memoryTokens{kept: map[string]forge.OAuthToken{}}
			handler := h.build(t, func(config *Config) { config.Tokens = tokens })
			answer := h.to(t, handler, http.MethodPost, "/forge/lifecycle", h.Header(appEvent, forgetest.Tokens{System: h.token()}), tc.body)
			if answer.Status != http.StatusOK || strings.TrimSpace(string(answer.Body)) != "{}" {
				t.Errorf("status %d: %s", answer.Status, answer.Body)
			}
			if marked := slices.Contains(tokens.installed, forgetest.Installation); marked != tc.marks || len(tokens.kept) != 1 {
				t.Errorf("marked is %v, %d tokens", marked, len(tokens.kept))
			}
		})
	}
}

func TestLifecycleRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	header := h.Header(appEvent, forgetest.Tokens{})
	for name, body := range map[string]string{"nothing": "", "no JSON": "{", "no event": `{"payload": {}}`, "an array": `[]`, "a number": `{"eventType": 5}`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refused(t, h.do(t, http.MethodPost, "/forge/lifecycle", header, body), http.StatusBadRequest, fault.Invalid, "")
		})
	}
	small := h.build(t, func(config *Config) { config.MaxBody = 10 })
	body := `{"eventType": "avi:forge:installed:app"}`
	refused(t, h.to(t, small, http.MethodPost, "/forge/lifecycle", header, body), http.StatusRequestEntityTooLarge, fault.TooLarge, "10 bytes")

	failing := h.build(t, func(config *Config) { config.Tokens = &forgetful{h.tokens} })
	refused(t, h.to(t, failing, http.MethodPost, "/forge/lifecycle", header, body), http.StatusServiceUnavailable, fault.Unavailable, "away")
}

// forgetful is a vault that cannot remember installs.
type forgetful struct{ *memoryTokens }

func (*forgetful) MarkInstalled(context.Context, string) error {
	return fault.Newf(fault.Unavailable, "redis is away")
}

// TestForgesOwn: Forge's own routes take the platform's calls, and those alone. Every event, lifecycle call, scheduled trigger and
// preUninstall has the module type core:endpoint (Atlassian, "Forge Remote essentials"); a FIT is bound to no path, so any user of the
// workspace has one that verifies.
func TestForgesOwn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const installed = `{"eventType": "avi:forge:installed:app"}`
	pinned := func(config *Config) {
		config.EventKeys, config.ScheduleKeys, config.LifecycleKeys, config.UninstallKeys = []string{"e"}, []string{"s"}, []string{"l", "l2"}, []string{"u"}
	}
	for name, tc := range map[string]struct {
		change  func(*Config)
		paths   string
		options forgetest.FITOptions
		says    string // empty: may
	}{
		"the platform":                  {func(*Config) {}, "events schedule lifecycle uninstall", forgetest.FITOptions{}, ""},
		"the platform, any key":         {func(*Config) {}, "events schedule lifecycle uninstall", forgetest.FITOptions{ModuleKey: "x"}, ""},
		"the platform, naming a user":   {func(*Config) {}, "events schedule lifecycle uninstall", forgetest.FITOptions{ModuleType: "core:endpoint", Principal: ada}, ""},
		"a page":                        {func(*Config) {}, "events schedule lifecycle uninstall", forgetest.FITOptions{Principal: ada}, "UI module"},
		"a page without a user":         {func(*Config) {}, "events schedule lifecycle uninstall", forgetest.FITOptions{ModuleType: "bitbucket:repoMainMenuPage"}, "core:endpoint"},
		"a type that is only similar":   {func(*Config) {}, "events schedule lifecycle uninstall", forgetest.FITOptions{ModuleType: "core:endpoints", ModuleKey: "core:endpoint"}, "core:endpoint"},
		"a trigger's type, as a module": {func(*Config) {}, "events schedule lifecycle uninstall", forgetest.FITOptions{ModuleType: "core:trigger"}, "core:endpoint"},
		"no module at all":              {func(*Config) {}, "events schedule lifecycle uninstall", forgetest.FITOptions{Claims: map[string]any{"app": appWithoutModule(h)}}, "core:endpoint"},
		"the pinned key":                {pinned, "lifecycle", forgetest.FITOptions{ModuleKey: "l2"}, ""},
		"a key that is not pinned":      {pinned, "lifecycle", forgetest.FITOptions{ModuleKey: "s"}, "GITSMITH_LIFECYCLE_KEYS names those that may: l, l2"},
		"of another route":              {pinned, "events", forgetest.FITOptions{ModuleKey: "l"}, "GITSMITH_EVENT_KEYS"},
		"none":                          {pinned, "schedule", forgetest.FITOptions{ModuleKey: "x"}, "GITSMITH_SCHEDULE_KEYS"},
		"of the removal":                {pinned, "uninstall", forgetest.FITOptions{ModuleKey: "e"}, "GITSMITH_UNINSTALL_KEYS"},
		"a page with the pinned key":    {pinned, "lifecycle", forgetest.FITOptions{ModuleKey: "l", Principal: ada}, "UI module"},
	} {
		for path := range strings.FieldsSeq(tc.paths) {
			t.Run(name+", "+path, func(t *testing.T) {
				t.Parallel()
				tokens, jobs, known := &memoryTokens{kept: map[string]forge.OAuthToken{}}, &memoryJobs{}, &memoryInstallations{records: map[string]installation.Record{}}
				handler := h.build(t, func(config *Config) {
					tc.change(config)
					config.Tokens, config.Jobs, config.Installations = tokens, jobs, known
				})
				header := h.Header(tc.options, forgetest.Tokens{System: h.token()})
				answer := h.to(t, handler, http.MethodPost, "/forge/"+path, header, installed)
				did := len(known.records) > 0 || len(tokens.kept) > 0
				if tc.says == "" && (answer.Status != http.StatusOK || !did) {
					t.Errorf("status %d, did it is %v: %s", answer.Status, did, answer.Body)
				}
				if tc.says != "" {
					refused(t, answer, http.StatusForbidden, fault.Denied, tc.says)
					if did {
						t.Error("it was done all the same")
					}
				}
			})
		}
	}
}

// appWithoutModule is a FIT's app claim as today's, without the module.
func appWithoutModule(h *house) map[string]any {
	return map[string]any{"id": h.AppID, "installationId": forgetest.Installation}
}

// TestRefusalsAreLoud: a verified call that a route refuses is a warning with module and setting, and each kind of call is described once.
func TestRefusalsAreLoud(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.Handler = h.build(t, func(config *Config) { config.EventKeys = []string{"pinned"} })
	const event = `{"payload": {"eventType": "avi:forge:upgraded:app"}}`
	h.do(t, http.MethodPost, "/forge/events", h.Header(forgetest.FITOptions{ModuleKey: "another"}, forgetest.Tokens{}), event)
	canary := h.token()
	for range 3 {
		h.do(t, http.MethodPost, "/forge/lifecycle", h.Header(appEvent, forgetest.Tokens{System: canary}), event)
	}
	h.do(t, http.MethodGet, "/v1/jobs", h.Header(forgetest.FITOptions{Principal: ada}, forgetest.Tokens{User: "opaque"}), "")
	h.do(t, http.MethodGet, "/v1/jobs", h.Header(forgetest.FITOptions{ModuleType: "bitbucket:repoMainMenuPage"}, forgetest.Tokens{}), "")

	var sightings, warnings []map[string]any
	for _, line := range h.log.lines(t) {
		if line["msg"] == "first call of its kind" {
			sightings = append(sightings, line)
		}
		if line["level"] == "WARN" {
			warnings = append(warnings, line)
		}
	}
	if len(warnings) != 2 || warnings[0]["module"] != "core:endpoint/another" || warnings[0]["setting"] != "GITSMITH_EVENT_KEYS" || warnings[0]["msg"] != "request" ||
		warnings[1]["module"] != "bitbucket:repoMainMenuPage/endpoint" {
		t.Errorf("warnings: %v", warnings)
	}
	if len(sightings) != 4 {
		t.Fatalf("%d sightings: %v", len(sightings), sightings)
	}
	for i, want := range []map[string]any{
		{"route": "/forge/events", "refused": true, "module_key": "another", "event_type_at": "", "x_forge_oauth_system": "absent"},
		{
			"route": "/forge/lifecycle", "refused": false, "module_type": "core:endpoint", "module_key": "lifecycle", "principal": false,
			"event_type_at": "payload.eventType", "x_forge_oauth_user": "absent", "fit_life": "25s", "forge_keys": float64(1), "body_bytes": float64(len(event)),
		},
		{"route": "/v1/jobs", "principal": true, "x_forge_oauth_user": "6 bytes, exp unreadable"},
		{"route": "/v1/jobs", "principal": false, "refused": true},
	} {
		for field, value := range want {
			if sightings[i][field] != value {
				t.Errorf("sighting %d: %s is %v, want %v", i, field, sightings[i][field], value)
			}
		}
	}
	if shape := fmt.Sprint(sightings[1]["x_forge_oauth_system"]); !strings.HasPrefix(shape, fmt.Sprint(len(canary), " bytes, ")) || !strings.HasSuffix(shape, "s left") {
		t.Errorf("the system token is %q", shape)
	}
	if strings.Contains(h.log.String(), canary) {
		t.Error("the log holds a token")
	}
}

// TestSightingsAreBounded: an app has a few kinds of calls; whatever comes, memory and log have an end.
func TestSightingsAreBounded(t *testing.T) {
	t.Parallel()
	var s sightings
	first := 0
	for i := range 2 * maxSightings {
		for range 2 {
			if s.first(sighting{route: fmt.Sprint(i)}) {
				first++
			}
		}
	}
	if first != maxSightings || len(s.seen) != maxSightings {
		t.Errorf("%d were first, %d are kept", first, len(s.seen))
	}
}
