package receiver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/intake"
)

// unread is a body that must not be read.
type unread struct{ tb testing.TB }

func (u unread) Read([]byte) (int, error) {
	u.tb.Error("the body was read")
	return 0, io.EOF
}

// TestFIT: without a right FIT nothing happens, whichever the route; what is wrong is said, and counted by a few words.
func TestFIT(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	fit := func(options forgetest.FITOptions) http.Header {
		return h.Header(options, forgetest.Tokens{System: h.token()})
	}
	staging := "staging-key"
	for name, tc := range map[string]struct {
		header http.Header
		says   string
		reason string
	}{
		"none":                         {http.Header{}, "no FIT came", "missing"},
		"two":                          {http.Header{"Authorization": {"Bearer a.b.c", "Bearer a.b.c"}}, "more than one", "malformed"},
		"basic":                        {http.Header{"Authorization": {"Basic YTpi"}}, "Bearer FIT", "malformed"},
		"no JWT":                       {http.Header{"Authorization": {"Bearer x"}}, "no JWT", "malformed"},
		"oversized":                    {http.Header{"Authorization": {"Bearer a.b." + strings.Repeat("x", 9000)}}, "at most", "refused"},
		"alg none":                     {fit(forgetest.FITOptions{Algorithm: "none"}), "RS256", "refused"},
		"HS256 by the public key":      {fit(forgetest.FITOptions{Algorithm: "HS256"}), "RS256", "refused"},
		"RS512":                        {fit(forgetest.FITOptions{Algorithm: "RS512"}), "RS256", "refused"},
		"another's key":                {fit(forgetest.FITOptions{Foreign: true}), "signature", "refused"},
		"a bit of the signature":       {fit(forgetest.FITOptions{Damaged: true}), "signature", "refused"},
		"staging's key":                {fit(forgetest.FITOptions{KeyID: &staging}), "staging", "refused"},
		"another app's":                {fit(forgetest.FITOptions{Claims: map[string]any{"aud": "ari:cloud:ecosystem::app/other"}}), "another app (aud)", "refused"},
		"expired":                      {fit(forgetest.FITOptions{Life: -time.Minute}), "expired (exp)", "refused"},
		"of another issuer":            {fit(forgetest.FITOptions{Claims: map[string]any{"iss": "me"}}), "issuer (iss)", "refused"},
		"without nbf":                  {fit(forgetest.FITOptions{Claims: map[string]any{"nbf": nil}}), "nbf", "refused"},
		"of another app by app.id":     {fit(forgetest.FITOptions{Claims: map[string]any{"app": map[string]any{"id": "x", "installationId": "y"}}}), "app.id", "refused"},
		"of an Isolated Cloud":         {fit(forgetest.FITOptions{ICLabel: "somewhere"}), "GITSMITH_JWKS_URL_TEMPLATE", "refused"},
		"living longer than it should": {fit(forgetest.FITOptions{Life: time.Hour}), "lives longer", "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			counted := &counts{}
			handler := h.build(t, func(config *Config) { config.Metrics = counted })
			for _, route := range []string{
				"POST /v1/jobs", "GET /v1/jobs", "GET /v1/jobs/x", "POST /v1/jobs/x/cancel", "POST /v1/jobs/x/retry", "GET /v1/jobs/x/artifact",
				"HEAD /v1/jobs/x/artifact", "POST /forge/schedule", "POST /forge/lifecycle",
			} {
				method, path, _ := strings.Cut(route, " ")
				request := httptest.NewRequestWithContext(t.Context(), method, path, unread{t})
				request.Header = with(tc.header, "Content-Type", "application/json")
				recorder := httptest.NewRecorder()
				handler.ServeHTTP(recorder, request)
				answer := reply{recorder.Code, recorder.Header(), recorder.Body.Bytes()}
				if answer.Header.Get("WWW-Authenticate") != "Bearer" {
					t.Errorf("%s: header %v", route, answer.Header)
				}
				h.document.check(t, request, "", answer)
				if method != http.MethodHead {
					refused(t, answer, http.StatusUnauthorized, fault.Unauthenticated, tc.says)
				}
			}
			if got := counted.taken(); got[0] != "refused "+tc.reason {
				t.Errorf("counted %v", got)
			}
		})
	}
	t.Cleanup(func() {
		if len(h.jobs.queued()) != 0 || len(h.tokens.kept) != 0 {
			t.Errorf("left behind: %d jobs, %d tokens", len(h.jobs.queued()), len(h.tokens.kept))
		}
	})
}

// TestFITReused: Forge caches FITs, so one may come twice.
func TestFITReused(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	header := h.user()
	h.submit(t, header, pushBody)
	h.submit(t, header, pushBody)
}

// TestOAuthHeaders: a broken one is the call's fault, and says nothing about the FIT.
func TestOAuthHeaders(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for name, tc := range map[string]struct {
		header http.Header
		says   string
	}{
		"too large": {with(h.user(), forge.HeaderUserToken, strings.Repeat("x", 9000)), "at most"},
		"twice": {
			http.Header{"Authorization": h.system()["Authorization"], forge.HeaderSystemToken: {"a", "b"}}, "more than once",
		},
	} {
		refused(t, h.do(t, http.MethodPost, "/v1/jobs", tc.header, pushBody), http.StatusBadRequest, fault.Invalid, "X-Forge-Oauth", tc.says)
		if counted := h.counts.taken(); slices.ContainsFunc(counted, func(line string) bool { return strings.HasPrefix(line, "refused") }) {
			t.Errorf("%s: counted %v", name, counted)
		}
	}
}

// stuckVerifier is one that has no keys.
type stuckVerifier struct{ err error }

func (s stuckVerifier) Verify(context.Context, http.Header) (forge.Invocation, error) {
	return forge.Invocation{}, s.err
}

// TestAway: what is missing behind the receiver is no verdict on the caller.
func TestAway(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	away := fault.Newf(fault.Unavailable, "it is away")
	for name, change := range map[string]func(*Config){
		"keys":   func(config *Config) { config.Verifier = stuckVerifier{away} },
		"tokens": func(config *Config) { config.Tokens = &memoryTokens{kept: map[string]forge.OAuthToken{}, fail: away} },
		"queue":  func(config *Config) { config.Jobs = &memoryJobs{meddle: func(context.Context) error { return away }} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			counted := &counts{}
			handler := h.build(t, func(config *Config) { config.Metrics = counted; change(config) })
			answer := h.to(t, handler, http.MethodPost, "/v1/jobs", h.user(), pushBody)
			refused(t, answer, http.StatusServiceUnavailable, fault.Unavailable, "it is away")
			if answer.Header.Get("Retry-After") != "5" {
				t.Errorf("Retry-After %q", answer.Header.Get("Retry-After"))
			}
			if first := counted.taken()[0]; (first == "refused keys") != (name == "keys") {
				t.Errorf("counted %q", first)
			}
		})
	}
}

// TestRouting: what is no route is told apart from what is no job, before a FIT is asked for.
func TestRouting(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, tc := range []struct {
		method, path string
		status       int
		kind         fault.Kind
		allow, says  string
		route        string
	}{
		{http.MethodGet, "/", http.StatusNotFound, fault.NotFound, "", "/openapi.yaml lists", ""},
		{http.MethodGet, "/v1/secrets-of-mine", http.StatusNotFound, fault.NotFound, "", "no such route", ""},
		{http.MethodPost, "/v1/jobs/x/paint", http.StatusNotFound, fault.NotFound, "", "no such route", ""},
		{http.MethodDelete, "/v1/jobs", http.StatusMethodNotAllowed, fault.Invalid, "GET, POST", "Allow", "/v1/jobs"},
		{http.MethodGet, "/v1/jobs/x/cancel", http.StatusMethodNotAllowed, fault.Invalid, "POST", "Allow", "/v1/jobs/:id/cancel"},
		{http.MethodGet, "/forge/schedule", http.StatusMethodNotAllowed, fault.Invalid, "POST", "Allow", "/forge/schedule"},
		{"PAINT", "/openapi.yaml", http.StatusMethodNotAllowed, fault.Invalid, "GET", "Allow", "/openapi.yaml"},
	} {
		t.Run(tc.method+" "+tc.path, func(t *testing.T) {
			t.Parallel()
			counted := &counts{}
			handler := h.build(t, func(config *Config) { config.Metrics = counted })
			answer := h.to(t, handler, tc.method, tc.path, http.Header{}, "")
			refused(t, answer, tc.status, tc.kind, tc.says)
			for method := range strings.SplitSeq(tc.allow, ", ") {
				if !strings.Contains(answer.Header.Get("Allow"), method) {
					t.Errorf("Allow %q lacks %s", answer.Header.Get("Allow"), method)
				}
			}
			if want := fmt.Sprintf("request %s %s %d", tc.method, tc.route, tc.status); counted.taken()[0] != want {
				t.Errorf("counted %q, not %q", counted.taken(), want)
			}
		})
	}
}

// TestJobIDs: what is no id of ours never reaches the queue.
func TestJobIDs(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	handler := h.build(t, func(config *Config) {
		config.Jobs = &memoryJobs{meddle: func(context.Context) error { t.Error("the queue was asked"); return nil }}
	})
	for _, id := range []string{
		"x", "..", "%7B%7D", "a%2Fb", "%00", "01987F6E-7D1A-7C3B-9E55-0F6F2A3B4C5D", "%7B01987f6e-7d1a-7c3b-9e55-0f6f2a3b4c5d%7D",
		"urn:uuid:01987f6e-7d1a-7c3b-9e55-0f6f2a3b4c5d", "01987f6e7d1a7c3b9e550f6f2a3b4c5d", strings.Repeat("a", 5000),
	} {
		header := h.Header(forgetest.FITOptions{Principal: ada}, forgetest.Tokens{})
		for _, route := range []string{"GET ", "POST /cancel", "POST /retry", "GET /artifact"} {
			method, rest, _ := strings.Cut(route, " ")
			refused(t, h.to(t, handler, method, "/v1/jobs/"+id+rest, header, ""), http.StatusNotFound, fault.NotFound, "there is no job")
		}
	}
	if strings.Contains(h.log.String(), strings.Repeat("a", 41)) {
		t.Error("the log has ids of any length")
	}
}

// TestQuery: of the list's parameters.
func TestQuery(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for query, says := range map[string]string{
		"limit=0": `limit: "0" is no number from 1 to 100`, "limit=101": "limit", "limit=ten": "limit", "limit=-1": "limit", "limit=1e1": "limit",
		"limit=99999999999999999999": "limit", "state=gone": `state: "gone" is none of [queued`, "state=Queued": "state", "cursor=x": "cursor",
	} {
		refused(t, h.do(t, http.MethodGet, "/v1/jobs?"+query, h.user(), ""), http.StatusBadRequest, fault.Invalid, says)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for name, change := range map[string]func(*Config){
		"no verifier": func(c *Config) { c.Verifier = nil }, "no vault": func(c *Config) { c.Tokens = nil },
		"no queue": func(c *Config) { c.Jobs = nil }, "no store": func(c *Config) { c.Artifacts = nil },
		"no metrics": func(c *Config) { c.Metrics = nil }, "no logger": func(c *Config) { c.Logger = nil }, "no bound": func(c *Config) { c.MaxBody = 0 },
		"no intake": func(c *Config) { c.Intake = nil }, "no installations": func(c *Config) { c.Installations = nil },
		"no rules": func(c *Config) { c.Rules = nil }, "no age": func(c *Config) { c.EventAge = 0 },
	} {
		config := h.config
		config.Intake = intake.New(intake.Config{})
		if _, err := New(config); err != nil {
			t.Fatal(err)
		}
		change(&config)
		if _, err := New(config); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
