package forge_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
)

// publishedKey is an issuer's key as it publishes it, n and e without padding.
func publishedKey(t *testing.T, issuer *forgetest.Issuer) map[string]any {
	t.Helper()
	recorder := httptest.NewRecorder()
	issuer.Handler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(recorder.Body.Bytes(), &set); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(set.Keys[0]["n"].(string), "=") {
		t.Error("the stand-in's keys lack the padding that Forge's have")
	}
	for _, part := range []string{"n", "e"} {
		set.Keys[0][part] = strings.TrimRight(set.Keys[0][part].(string), "=")
	}
	return set.Keys[0]
}

// TestFormsOfKeys: Forge's key set has n and e as base64url with padding, as two independent implementations of remotes had to
// accept (coreos/go-oidc#422, MicahParks/keyfunc#30); RFC 7517 section 5 has entries skipped that are not understood.
func TestFormsOfKeys(t *testing.T) {
	t.Parallel()
	standard := func(text string) string { return strings.NewReplacer("-", "+", "_", "/").Replace(text) }
	padded := func(text string) string { return text + strings.Repeat("=", (4-len(text)%4)%4) }
	with := func(key map[string]any, fields ...any) map[string]any {
		changed := map[string]any{}
		for name, value := range key {
			changed[name] = value
		}
		for i := 0; i < len(fields); i += 2 {
			changed[fields[i].(string)] = fields[i+1]
		}
		return changed
	}
	form := func(change func(string) string) func(key, _ map[string]any) []any {
		return func(key, _ map[string]any) []any {
			return []any{with(key, "n", change(key["n"].(string)), "e", change(key["e"].(string)))}
		}
	}
	beside := func(bad any) func(key, _ map[string]any) []any {
		return func(key, _ map[string]any) []any { return []any{bad, key, bad} }
	}
	zero := base64.RawURLEncoding.EncodeToString([]byte{0, 1, 0, 1})
	for name, tc := range map[string]struct {
		keys func(key, other map[string]any) []any
		good bool
	}{
		"base64url":                       {form(func(text string) string { return text }), true},
		"base64url, padded":               {form(padded), true},
		"base64url, padded too much":      {form(func(text string) string { return text + "====" }), true},
		"standard base64":                 {form(standard), true},
		"standard base64, padded":         {form(func(text string) string { return padded(standard(text)) }), true},
		"an exponent with a leading zero": {func(key, _ map[string]any) []any { return []any{with(key, "e", zero)} }, true},
		"beside a kid that is a number":   {beside(map[string]any{"kty": "RSA", "kid": 5, "n": "AQAB", "e": "AQAB"}), true},
		"beside a text":                   {beside("key"), true},
		"beside null and a list":          {beside([]any{nil, []any{}}), true},
		"beside n that is a list":         {beside(map[string]any{"kty": "RSA", "kid": "x", "n": []any{1}, "e": "AQAB"}), true},
		"beside n that is no base64":      {beside(map[string]any{"kty": "RSA", "kid": "forge/invocation-token/1", "n": "!", "e": "AQAB"}), true},
		"after another key with its id":   {func(key, other map[string]any) []any { return []any{with(other, "kid", key["kid"]), key} }, true},
		"before another key with its id":  {func(key, other map[string]any) []any { return []any{key, with(other, "kid", key["kid"])} }, true},
		"for encryption":                  {func(key, _ map[string]any) []any { return []any{with(key, "use", "enc")} }, false},
		"to wrap keys only":               {func(key, _ map[string]any) []any { return []any{with(key, "key_ops", []any{"wrapKey"})} }, false},
		"to verify":                       {func(key, _ map[string]any) []any { return []any{with(key, "key_ops", []any{"verify"})} }, true},
		"padding inside":                  {form(func(text string) string { return text[:2] + "=" + text[2:] }), false},
		"only another key with its id":    {func(key, other map[string]any) []any { return []any{with(other, "kid", key["kid"])} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startKeyServer(t, nil)
			stranger, err := forgetest.NewIssuer()
			if err != nil {
				t.Fatal(err)
			}
			keys := tc.keys(publishedKey(t, s.issuer), publishedKey(t, stranger))
			s.serve(func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(map[string]any{"keys": keys})
			})
			err = s.verify(t, forgetest.FITOptions{})
			if tc.good && err != nil || !tc.good && err == nil {
				t.Errorf("%v: %s", err, fault.Private(err))
			}
		})
	}
}
