package receiver

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
)

var (
	trigger  = forgetest.FITOptions{ModuleType: "core:scheduledTrigger", ModuleKey: "hourly"}
	appEvent = forgetest.FITOptions{ModuleType: "core:trigger", ModuleKey: "lifecycle"}
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

// TestWake: a newer system token wakes what waits for it, whichever call brings it; nothing else does, and a queue that cannot
// is no reason to refuse the call.
func TestWake(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	brings := func(tokens forgetest.Tokens) []string {
		h.do(t, http.MethodGet, "/v1/jobs", h.Header(forgetest.FITOptions{Principal: ada}, tokens), "")
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
	if answer := h.to(t, handler, http.MethodGet, "/v1/jobs", h.system(), ""); answer.Status != http.StatusOK {
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

// TestForgesOwn: who may call what only Forge calls. A FIT is bound to no path, so a page's user has one that verifies.
func TestForgesOwn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const installed = `{"eventType": "avi:forge:installed:app"}`
	for name, tc := range map[string]struct {
		path    string
		options forgetest.FITOptions
		says    string // empty: may
	}{
		"a trigger":                            {"/forge/schedule", trigger, ""},
		"an app's event":                       {"/forge/lifecycle", appEvent, ""},
		"a page":                               {"/forge/schedule", forgetest.FITOptions{}, "GITSMITH_SCHEDULE_MODULES"},
		"a page's event":                       {"/forge/lifecycle", forgetest.FITOptions{}, "GITSMITH_LIFECYCLE_MODULES"},
		"an app's event as a trigger":          {"/forge/schedule", appEvent, `type "core:trigger"`},
		"a trigger's event":                    {"/forge/lifecycle", trigger, `module "hourly"`},
		"another key where the key is told":    {"/forge/lifecycle", forgetest.FITOptions{ModuleType: "core:trigger", ModuleKey: "push"}, `"push"`},
		"the type in the key":                  {"/forge/schedule", forgetest.FITOptions{ModuleType: "x", ModuleKey: "core:scheduledTrigger"}, "GITSMITH_SCHEDULE_MODULES"},
		"a user, through a trigger":            {"/forge/schedule", forgetest.FITOptions{ModuleType: "core:scheduledTrigger", Principal: ada}, "by a user"},
		"a user, through an app's event":       {"/forge/lifecycle", forgetest.FITOptions{ModuleType: "core:trigger", ModuleKey: "lifecycle", Principal: ada}, "by a user"},
		"a user, through a page":               {"/forge/lifecycle", forgetest.FITOptions{Principal: ada}, "by a user"},
		"a trigger with any key of that type":  {"/forge/schedule", forgetest.FITOptions{ModuleType: "core:scheduledTrigger", ModuleKey: "other"}, ""},
		"a trigger whose type is only similar": {"/forge/schedule", forgetest.FITOptions{ModuleType: "core:scheduledTriggers"}, "GITSMITH_SCHEDULE_MODULES"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tokens, jobs := &memoryTokens{kept: map[string]forge.OAuthToken{}}, &memoryJobs{}
			handler := h.build(t, func(config *Config) { config.Tokens, config.Jobs = tokens, jobs })
			answer := h.to(t, handler, http.MethodPost, tc.path, h.Header(tc.options, forgetest.Tokens{}), installed)
			switch did := len(tokens.installed)+len(jobs.woken) > 0; {
			case tc.says == "" && (answer.Status != http.StatusOK || !did):
				t.Errorf("status %d, did it is %v: %s", answer.Status, did, answer.Body)
			case tc.says != "":
				refused(t, answer, http.StatusForbidden, fault.Denied, tc.says)
				if did {
					t.Error("it was done all the same")
				}
			}
		})
	}
}
