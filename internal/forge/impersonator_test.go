package forge_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/secret"
)

const systemCanary, userCanary = "canary-of-the-system", "canary-of-the-user"

var exchanged = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// gateway answers every request so.
func gateway(t *testing.T, answer http.HandlerFunc) *forge.Impersonator {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	return forge.NewImpersonator(forge.ImpersonatorConfig{URL: server.URL, Now: func() time.Time { return exchanged }})
}

func body(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = io.WriteString(w, text) }
}

func tokenAnswer(token, ttl string) string {
	return fmt.Sprintf(`{"data":{"offlineUserAuthToken":{"success":true,"errors":[],"authToken":{"token":%q,"ttl":%s}}}}`, token, ttl)
}

// TestImpersonation asks as Atlassian documents it, and believes the shorter of the two lives.
func TestImpersonation(t *testing.T) {
	t.Parallel()
	var asked map[string]any
	var header http.Header
	impersonator := gateway(t, func(w http.ResponseWriter, request *http.Request) {
		header = request.Header
		_ = json.NewDecoder(request.Body).Decode(&asked)
		_, _ = io.WriteString(w, tokenAnswer(userCanary, "3600"))
	})
	token, err := impersonator.Token(t.Context(), secret.New(systemCanary), "{11111111-2222-4333-8444-555555555555}", "557058:ada")
	if err != nil || token.Text.Reveal() != userCanary || !token.ExpiresAt.Equal(exchanged.Add(time.Hour)) {
		t.Fatal(token.ExpiresAt, err)
	}
	want := map[string]any{"input": map[string]any{
		"contextIds": []any{"ari:cloud:bitbucket::workspace/11111111-2222-4333-8444-555555555555"}, "userId": "557058:ada",
	}}
	if diff := cmp.Diff(want, asked["variables"]); diff != "" || !strings.Contains(fmt.Sprint(asked["query"]), "offlineUserAuthToken(input: $input)") {
		t.Error(diff, asked["query"])
	}
	if header.Get("Authorization") != "Bearer "+systemCanary || header.Get("Content-Type") != "application/json" {
		t.Error(header)
	}

	expires := exchanged.Add(10 * time.Minute)
	jwt := "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, expires.Unix())) + ".x"
	for ttl, want := range map[string]time.Time{"3600": expires, "0": expires, "60": exchanged.Add(time.Minute)} {
		token, err := gateway(t, body(200, tokenAnswer(jwt, ttl))).Token(t.Context(), secret.New(systemCanary), "w", "ada")
		if err != nil || !token.ExpiresAt.Equal(want) {
			t.Errorf("ttl %s: %v %v, want %v", ttl, token.ExpiresAt, err, want)
		}
	}
}

func TestImpersonationFails(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a token was sent on after a redirect") }))
	t.Cleanup(elsewhere.Close)
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		want   fault.Kind
		says   string
	}{
		"no success":     {body(200, `{"data":{"offlineUserAuthToken":{"success":false,"errors":[{"message":"no access\nto it"}],"authToken":null}}}`), fault.Denied, `it says "no access to it"`},
		"an error":       {body(200, `{"errors":[{"message":"Bearer `+systemCanary+` is bad"}],"data":null}`), fault.Denied, "allowImpersonation: true"},
		"an empty token": {body(200, tokenAnswer("", "60")), fault.Denied, "atlassian gives no token"},
		"401":            {body(401, systemCanary), fault.Denied, "read:app-user-token"},
		"403":            {body(403, systemCanary), fault.Denied, "read:app-user-token"},
		"500":            {body(500, systemCanary), fault.Unavailable, "tried again"},
		"a page":         {body(200, "<html>"+systemCanary), fault.Unavailable, "not the JSON"},
		"cut off":        {body(200, `{"data":{"offlineUserAuthToken":{"success":true,"authToken":{"token":"`+userCanary), fault.Unavailable, "not the JSON"},
		"too much":       {body(200, `{"data":{"x":"`+strings.Repeat(userCanary, 20_000)+`"}}`), fault.Unavailable, "not the JSON"},
		"429": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(429)
		}, fault.Throttled, "rate limit"},
		"a redirect": {func(w http.ResponseWriter, request *http.Request) {
			http.Redirect(w, request, elsewhere.URL, http.StatusTemporaryRedirect)
		}, fault.Unavailable, "(307)"},
	} {
		_, err := gateway(t, tc.answer).Token(t.Context(), secret.New(systemCanary), "w", "ada")
		if fault.KindOf(err) != tc.want || !strings.Contains(fault.Public(err), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
		for _, text := range []string{fault.Public(err), fault.Private(err)} {
			if strings.Contains(text, systemCanary) || strings.Contains(text, userCanary) {
				t.Errorf("%s: a token is in %q", name, text)
			}
		}
		if name == "429" && fault.RetryAfter(err) != 7*time.Second {
			t.Errorf("after %s", fault.RetryAfter(err))
		}
	}
	nobody := forge.NewImpersonator(forge.ImpersonatorConfig{URL: "http://127.0.0.1:1"})
	if _, err := nobody.Token(t.Context(), secret.New(systemCanary), "w", "ada"); fault.KindOf(err) != fault.Unavailable {
		t.Error(err)
	}
}
