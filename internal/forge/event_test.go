package forge_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
)

const pushEvent = `"eventType":"avi:bitbucket:push:repository","timestamp":"2026-11-23T12:00:00.123456Z","selfGenerated":true,` +
	`"workspace":{"uuid":"{w}"},"repository":{"uuid":"{r}","slug":"web"}`

func TestParseEvent(t *testing.T) {
	t.Parallel()
	want := forge.Event{
		Type: "avi:bitbucket:push:repository", Timestamp: time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC), SelfGenerated: true,
		Workspace: "{w}", Repository: "{r}", Slug: "web",
	}
	for name, tc := range map[string]struct {
		body    string
		place   string
		retries int
	}{
		"top level":          {`{` + pushEvent + `}`, "eventType", 0},
		"payload":            {`{"payload":{` + pushEvent + `}}`, "payload.eventType", 0},
		"event":              {`{"event":{` + pushEvent + `},"context":{}}`, "event.eventType", 0},
		"payload.event":      {`{"payload":{"event":{` + pushEvent + `}}}`, "payload.event.eventType", 0},
		"delivered again":    {`{"payload":{` + pushEvent + `,"retryContext":{"retryCount":2,"retryReason":"x","retryData":null}}}`, "payload.eventType", 2},
		"in another order":   {`{"repository":{"slug":"web","uuid":"{r}"},"workspace":{"uuid":"{w}"},"selfGenerated":true,"timestamp":"2026-11-23T12:00:00.123456Z","eventType":"avi:bitbucket:push:repository"}`, "eventType", 0},
		"an event and event": {`{` + pushEvent + `,"retryContext":{"retryCount":4}}`, "eventType", 4},
	} {
		got, err := forge.ParseEvent([]byte(tc.body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if want.Digest == "" {
			want.Digest = got.Digest // whichever shape comes first: all have the same
		}
		want.RetryCount, want.Place, got.Fields = tc.retries, tc.place, nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	other, err := forge.ParseEvent([]byte(`{` + strings.Replace(pushEvent, "{r}", "{s}", 1) + `}`))
	if err != nil || other.Digest == want.Digest {
		t.Errorf("another event has the same digest (%v)", err)
	}
	for _, body := range []string{``, `[]`, `null`, `{}`, `{"payload":7}`, `{"eventType":7}`, `{"payload":{"payload":{"payload":{"payload":{"eventType":"x"}}}}}`, `{"eventType":"` + strings.Repeat("x", 300) + `"}`} {
		if _, err := forge.ParseEvent([]byte(body)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestLifecycleWithoutType: the documented lifecycle body is id, installerAccountId?, upgraderAccountId?, app, environment? (Atlassian,
// "Life cycle events"); eventType is not among them.
func TestLifecycleWithoutType(t *testing.T) {
	t.Parallel()
	const app = `"id":"ari:cloud:ecosystem::installation/1","app":{"id":"ari:cloud:ecosystem::app/1","version":"2.0.0"}`
	for body, want := range map[string][2]string{
		`{` + app + `,"installerAccountId":"712020:a"}`:                                {forge.EventInstalled, "the body"},
		`{` + app + `,"environment":{"id":"e"}}`:                                       {forge.EventInstalled, "the body"},
		`{` + app + `,"installerAccountId":"712020:a","upgraderAccountId":"712020:b"}`: {forge.EventUpgraded, "the body"},
		`{"payload":{` + app + `}}`:                                                    {forge.EventInstalled, "payload"},
		`{"payload":{"event":{` + app + `}}}`:                                          {forge.EventInstalled, "payload.event"},
		`{` + app + `,"eventType":"avi:forge:upgraded:app"}`:                           {forge.EventUpgraded, "eventType"},
	} {
		got, err := forge.ParseEvent([]byte(body))
		if err != nil || got.Type != want[0] || got.Place != want[1] {
			t.Errorf("%s: %q at %q, %v; want %q", body, got.Type, got.Place, err, want)
		}
	}
	for _, body := range []string{`{"id":"x"}`, `{"app":{"id":"x"}}`, `{"id":7,"app":{"id":"x"}}`, `{"id":"x","app":"y"}`, `{"installerAccountId":"712020:a"}`} {
		if got, err := forge.ParseEvent([]byte(body)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %+v, %v", body, got, err)
		}
	}
}

// TestContextTokenIsNoPartOfAnEvent: Forge makes a new one for each delivery, and it is a token (Atlassian, "Scheduled trigger": context
// and contextToken stand in the body).
func TestContextTokenIsNoPartOfAnEvent(t *testing.T) {
	t.Parallel()
	digests := map[string]bool{}
	for _, body := range []string{
		`{"context":{"cloudId":"c"},` + pushEvent + `}`,
		`{"context":{"cloudId":"c"},` + pushEvent + `,"contextToken":"eyJ1"}`,
		`{"context":{"cloudId":"c","contextToken":"eyJ2"},` + pushEvent + `,"contextToken":"eyJ2","retryContext":{"retryCount":1}}`,
	} {
		event, err := forge.ParseEvent([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(fmt.Sprint(event.Fields), "eyJ") {
			t.Errorf("a rule can read the token: %v", event.Fields)
		}
		digests[event.Digest] = true
	}
	if len(digests) != 1 {
		t.Errorf("one event has several digests: %v", digests)
	}
}

// TestMayBeOurs: a tag never is, whatever it stands on; jobs push none.
func TestMayBeOurs(t *testing.T) {
	t.Parallel()
	const trailer = `"commits":[{"message":{"value":"m\n\nForge-Job: 1","truncated":false}}]`
	for push, want := range map[string]bool{
		`{"ref":"main","mainbranch":true,"after":"a",` + trailer + `}`:                                                                               true,
		`{"ref":"main","mainbranch":true,"after":"a","commits":[{"message":{"value":"m\n\nForge-Job: 1\nForge-Job-Proof: c\n","truncated":false}}]}`: true,
		`{"ref":"main","mainbranch":true,"after":"a","commits":[]}`:                                                                                  true,
		`{"ref":"main","mainbranch":true,"after":"a","commits":[{"message":{"value":"cut","truncated":true}}]}`:                                      true,
		`{"ref":"main","mainbranch":true,"after":"a","commits":[{"message":{"value":"by hand","truncated":false}}]}`:                                 false,
		`{"ref":"main","mainbranch":true,"before":"a","closed":true,"commits":[]}`:                                                                   false,
		`{"ref":"v1","created":true,"after":"a"}`:                                                                                                    false,
		`{"ref":"v1","created":true,"after":"a","message":{"value":"Forge-Job: 1","truncated":false}}`:                                               false,
	} {
		event, err := forge.ParseEvent([]byte(`{"eventType":"avi:bitbucket:push:repository","push":` + push + `}`))
		if err != nil || event.MayBeOurs() != want {
			t.Errorf("%s: %t, %v", push, event.MayBeOurs(), err)
		}
	}
}

func TestExpiryOf(t *testing.T) {
	t.Parallel()
	token := func(payload string) string {
		return "eyJhbGciOiJYIn0." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".sig"
	}
	for text, want := range map[string]int64{
		token(`{"exp":1800000000}`): 1800000000, token(`{"exp":1800000000.5}`): 1800000000, token(`{"exp":1.8e9}`): 1800000000,
		token(`{"exp":1800000000}`)[:len(token(`{"exp":1800000000}`))-4] + "==.s": 1800000000,
		token(`{}`): 0, token(`{"exp":"1800000000"}`): 0, token(`{"exp":null}`): 0, token(`{"exp":-1}`): 0, token(`{"exp":1800000000000}`): 0,
		token(`[]`): 0, token(`{"exp":`): 0, "opaque": 0, "a.b": 0, "": 0, "a.!.c": 0,
	} {
		got, ok := forge.ExpiryOf(text)
		if ok != (want != 0) || ok && got.Unix() != want {
			t.Errorf("%s: %s %t, want %d", text, got, ok, want)
		}
	}
}

func FuzzExpiryOf(f *testing.F) {
	f.Add("eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjE4MDAwMDAwMDB9.c2ln")
	f.Add("a.e30.c")
	f.Fuzz(func(t *testing.T, token string) {
		if expiry, ok := forge.ExpiryOf(token); ok && (expiry.Year() < 1970 || expiry.Year() > 9999) {
			t.Fatalf("%q expires at %s", token, expiry)
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	f.Add([]byte(`{"payload":{"event":{` + pushEvent + `,"retryContext":{"retryCount":1}}}}`))
	f.Add([]byte(`{"eventType":"avi:forge:installed:app","id":"x"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		event, err := forge.ParseEvent(body)
		switch {
		case err != nil && fault.KindOf(err) != fault.Invalid:
			t.Fatalf("%s: %v", fault.KindOf(err), err)
		case err == nil && (event.Type == "" || len(event.Digest) != 64):
			t.Fatalf("%+v", event)
		}
	})
}

func FuzzVerify(f *testing.F) {
	issuer := forgetest.Start(f)
	good := issuer.FIT(forgetest.FITOptions{Life: 4 * time.Minute})
	f.Add(good)
	f.Add(issuer.FIT(forgetest.FITOptions{Algorithm: "none"}))
	f.Add(issuer.FIT(forgetest.FITOptions{Foreign: true}))
	f.Add("")
	f.Fuzz(func(t *testing.T, fit string) {
		_, err := issuer.Verifier.Verify(t.Context(), http.Header{"Authorization": {"Bearer " + fit}})
		if err == nil && strings.TrimSpace(fit) != good && !strings.HasPrefix(fit, good[:strings.LastIndexByte(good, '.')]) {
			t.Fatalf("accepted what was not signed: %s", fit)
		}
		if kind := fault.KindOf(err); err != nil && kind != fault.Unauthenticated {
			t.Fatalf("%s: %v", kind, err)
		}
	})
}
