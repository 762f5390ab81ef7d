package forge_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
)

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	issuer := forgetest.Start(t)
	now := time.Now()
	ago := func(d time.Duration) int64 { return now.Add(-d).Unix() }
	noKey, strangeKey := "", "forge/invocation-token/staging"
	otherApp := "ari:cloud:ecosystem::app/5a9db0c0-9999-4222-8333-444444444444"
	for name, tc := range map[string]struct {
		fit  forgetest.FITOptions
		want string
	}{
		"alg none":               {forgetest.FITOptions{Algorithm: "none"}, "RS256"},
		"HS256 by public key":    {forgetest.FITOptions{Algorithm: "HS256"}, "RS256"},
		"RS512":                  {forgetest.FITOptions{Algorithm: "RS512"}, "RS256"},
		"a foreign key":          {forgetest.FITOptions{Foreign: true}, "signature"},
		"a damaged signature":    {forgetest.FITOptions{Damaged: true}, "signature"},
		"no kid":                 {forgetest.FITOptions{KeyID: &noKey}, "kid"},
		"a staging key":          {forgetest.FITOptions{KeyID: &strangeKey}, "kid"},
		"another app's aud":      {forgetest.FITOptions{Claims: map[string]any{"aud": otherApp}}, "aud"},
		"no aud":                 {forgetest.FITOptions{Claims: map[string]any{"aud": nil}}, "aud"},
		"two auds":               {forgetest.FITOptions{Claims: map[string]any{"aud": []string{otherApp, forgetest.AppID}}}, "audience"},
		"another app.id":         {forgetest.FITOptions{Claims: map[string]any{"app": map[string]any{"id": otherApp, "installationId": "i"}}}, "app.id"},
		"a context token":        {forgetest.FITOptions{Claims: map[string]any{"iss": "forge/context-token"}}, "iss"},
		"no iss":                 {forgetest.FITOptions{Claims: map[string]any{"iss": nil}}, "iss"},
		"expired":                {forgetest.FITOptions{Life: -6 * time.Second}, "expired"},
		"no exp":                 {forgetest.FITOptions{Claims: map[string]any{"exp": nil}}, "exp"},
		"no nbf":                 {forgetest.FITOptions{Claims: map[string]any{"nbf": nil}}, "nbf"},
		"no iat":                 {forgetest.FITOptions{Claims: map[string]any{"iat": nil}}, "iat"},
		"not valid yet":          {forgetest.FITOptions{Claims: map[string]any{"nbf": ago(-10 * time.Second)}}, "nbf"},
		"issued in the future":   {forgetest.FITOptions{Claims: map[string]any{"iat": ago(-10 * time.Second)}}, "iat"},
		"a life of six minutes":  {forgetest.FITOptions{Life: 6 * time.Minute}, "lives longer"},
		"no installation":        {forgetest.FITOptions{Claims: map[string]any{"app": map[string]any{"id": forgetest.AppID}}}, "installation"},
		"Isolated Cloud unset":   {forgetest.FITOptions{ICLabel: "ic-1"}, "GITSMITH_JWKS_URL_TEMPLATE"},
		"exp that is no number":  {forgetest.FITOptions{Claims: map[string]any{"exp": "soon"}}, "no JWT"},
		"a principal of no text": {forgetest.FITOptions{Claims: map[string]any{"principal": 7}}, "no JWT"},
	} {
		_, err := issuer.Verifier.Verify(t.Context(), issuer.Header(tc.fit, forgetest.Tokens{}))
		if fault.KindOf(err) != fault.Unauthenticated || !strings.Contains(fault.Public(err), tc.want) {
			t.Errorf("%s: %v, want unauthenticated with %q", name, err, tc.want)
		}
	}
}

func TestVerifyRefusesHeaders(t *testing.T) {
	t.Parallel()
	issuer := forgetest.Start(t)
	good := "Bearer " + issuer.FIT(forgetest.FITOptions{})
	for name, tc := range map[string]struct {
		header http.Header
		want   string
	}{
		"none":             {http.Header{}, "no Authorization header"},
		"two":              {http.Header{"Authorization": {good, good}}, "more than one"},
		"basic":            {http.Header{"Authorization": {"Basic eDp5"}}, "Bearer FIT"},
		"empty":            {http.Header{"Authorization": {"Bearer "}}, "Bearer FIT"},
		"no JWT":           {http.Header{"Authorization": {"Bearer abc"}}, "no JWT"},
		"two parts":        {http.Header{"Authorization": {"Bearer eyJhbGciOiJSUzI1NiJ9.e30"}}, "no JWT"},
		"cut":              {http.Header{"Authorization": {good[:len(good)-10]}}, "signature"},
		"padded signature": {http.Header{"Authorization": {good + "=="}}, "refused"},
		"oversized":        {http.Header{"Authorization": {"Bearer " + strings.Repeat("x", 9000)}}, "9000 bytes"},
	} {
		_, err := issuer.Verifier.Verify(t.Context(), tc.header)
		if fault.KindOf(err) != fault.Unauthenticated || !strings.Contains(fault.Public(err), tc.want) {
			t.Errorf("%s: %v, want unauthenticated with %q", name, err, tc.want)
		}
	}
}

func TestVerifyAccepts(t *testing.T) {
	t.Parallel()
	issuer := forgetest.Start(t)
	expiry := time.Now().Add(3 * time.Hour).Truncate(time.Second)
	system := issuer.OAuthToken(forgetest.OAuthOptions{ExpiresAt: expiry, Algorithm: "ES999"})
	options := forgetest.FITOptions{Principal: "712020:alice", ModuleType: "core:endpoint", ModuleKey: "k", AppVersion: "2.0.0"}
	invocation := issuer.Invocation(options, forgetest.Tokens{System: system, User: "opaque"})

	if got := invocation.Token(forge.ActorSystem); got.Text.Reveal() != system || !got.ExpiresAt.Equal(expiry) {
		t.Errorf("the system token expires at %s, want %s", got.ExpiresAt, expiry)
	}
	if left := time.Until(invocation.Token(forge.ActorUser).ExpiresAt); left > 15*time.Minute || left < 14*time.Minute {
		t.Errorf("a token whose exp cannot be read gets %s", left)
	}
	if got := invocation.Module(); got != (forge.Module{Type: "core:endpoint", Key: "k"}) {
		t.Errorf("module %+v", got)
	}
	if invocation.AppID() != forgetest.AppID || invocation.Installation() != forgetest.Installation || invocation.Principal() != "712020:alice" ||
		invocation.WorkspaceID() != forgetest.WorkspaceID || invocation.AppVersion() != "2.0.0" || invocation.Environment() != "DEVELOPMENT" {
		t.Errorf("%+v", invocation)
	}
	if got := invocation.Actor(forge.ActorUser); got != (forge.Actor{Kind: forge.ActorUser, Principal: "712020:alice"}) {
		t.Errorf("actor %+v", got)
	}
	header := issuer.Header(forgetest.FITOptions{}, forgetest.Tokens{})
	for range 2 { // Forge caches FITs of requestRemote: the same one may come again
		if _, err := issuer.Verifier.Verify(t.Context(), header); err != nil {
			t.Error(err)
		}
	}
	for name, fit := range map[string]forgetest.FITOptions{
		"expired within the leeway":  {Life: -2 * time.Second},
		"nbf within the leeway":      {Claims: map[string]any{"nbf": time.Now().Add(3 * time.Second).Unix()}},
		"headers that are not asked": {Header: map[string]any{"jku": "https://attacker.example/keys", "jwk": map[string]any{"kty": "RSA"}}},
		"installation.id alone": {Claims: map[string]any{"app": map[string]any{
			"id": forgetest.AppID, "installation": map[string]any{"id": "i", "contexts": []any{map[string]any{"workspaceId": "w"}}},
		}, "context": nil}},
	} {
		if _, err := issuer.Verifier.Verify(t.Context(), issuer.Header(fit, forgetest.Tokens{})); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyRefusesTokens(t *testing.T) {
	t.Parallel()
	issuer := forgetest.Start(t)
	twice := issuer.Header(forgetest.FITOptions{Principal: "p"}, forgetest.Tokens{System: "a"})
	twice.Add(forge.HeaderSystemToken, "b")
	for name, header := range map[string]http.Header{
		"oversized": issuer.Header(forgetest.FITOptions{}, forgetest.Tokens{System: strings.Repeat("x", 9000)}),
		"twice":     twice,
	} {
		_, err := issuer.Verifier.Verify(t.Context(), header)
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), "X-Forge-Oauth-") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUserTokenWithoutAUser: a Forge function may pass on a user's token although its FIT names nobody.
func TestUserTokenWithoutAUser(t *testing.T) {
	t.Parallel()
	issuer := forgetest.Start(t)
	got, err := issuer.Verifier.Verify(t.Context(), issuer.Header(forgetest.FITOptions{}, forgetest.Tokens{System: "s", User: strings.Repeat("u", 9000)}))
	if err != nil || !got.Token(forge.ActorUser).IsZero() || got.Token(forge.ActorSystem).IsZero() || !got.WithoutSystemToken().Token(forge.ActorSystem).IsZero() {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNewVerifierRefuses(t *testing.T) {
	t.Parallel()
	const url = "https://example.com/keys"
	for name, config := range map[string]forge.VerifierConfig{
		"no app":              {JWKSURL: url},
		"an empty app":        {AppIDs: []string{""}, JWKSURL: url},
		"no ARI":              {AppIDs: []string{"gitsmith"}, JWKSURL: url},
		"no URL":              {AppIDs: []string{forgetest.AppID}},
		"plain http":          {AppIDs: []string{forgetest.AppID}, JWKSURL: "http://example.com/keys"},
		"template, no label":  {AppIDs: []string{forgetest.AppID}, JWKSURL: url, JWKSURLTemplate: url},
		"template, plain":     {AppIDs: []string{forgetest.AppID}, JWKSURL: url, JWKSURLTemplate: "http://{IC_LABEL}.example.com"},
		"template is garbage": {AppIDs: []string{forgetest.AppID}, JWKSURL: url, JWKSURLTemplate: "{IC_LABEL}"},
	} {
		if _, err := forge.NewVerifier(config); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
