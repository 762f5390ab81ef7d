package forgetest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/forge"
)

// Running is an issuer whose keys are served, and a verifier that trusts it.
type Running struct {
	*Issuer
	JWKSURL  string
	Verifier *forge.Verifier

	tb testing.TB
}

// Start serves an issuer's keys until the test ends.
func Start(tb testing.TB) *Running {
	tb.Helper()
	issuer, err := NewIssuer()
	if err != nil {
		tb.Fatal(err)
	}
	server := httptest.NewServer(issuer.Handler())
	client := server.Client()
	tb.Cleanup(func() {
		client.CloseIdleConnections()
		server.Close()
	})
	verifier, err := forge.NewVerifier(forge.VerifierConfig{
		AppIDs: []string{issuer.AppID}, JWKSURL: server.URL, HTTPClient: client, Now: func() time.Time { return issuer.Now() },
	})
	if err != nil {
		tb.Fatal(err)
	}
	return &Running{Issuer: issuer, JWKSURL: server.URL, Verifier: verifier, tb: tb}
}

// Tokens are OAuth tokens that come along; empty ones do not.
type Tokens struct{ System, User string }

// Header is what Forge sends with an invocation.
func (r *Running) Header(options FITOptions, tokens Tokens) http.Header {
	header := http.Header{}
	header.Set("Authorization", "Bearer "+r.FIT(options))
	if tokens.System != "" {
		header.Set(forge.HeaderSystemToken, tokens.System)
	}
	if tokens.User != "" {
		header.Set(forge.HeaderUserToken, tokens.User)
	}
	return header
}

// Invocation is a verified one.
func (r *Running) Invocation(options FITOptions, tokens Tokens) forge.Invocation {
	r.tb.Helper()
	invocation, err := r.Verifier.Verify(context.Background(), r.Header(options, tokens))
	if err != nil {
		r.tb.Fatal(err)
	}
	return invocation
}
