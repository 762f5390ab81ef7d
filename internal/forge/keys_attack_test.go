package forge_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
)

// TestSteadyTrafficFindsANewKey asks for a key each second that is published only later, as behind a CDN that lags.
func TestSteadyTrafficFindsANewKey(t *testing.T) {
	t.Parallel()
	s := startKeyServer(t, nil)
	if err := s.verify(t, forgetest.FITOptions{}); err != nil {
		t.Fatal(err)
	}
	s.pass(20 * time.Second)
	early := "forge/invocation-token/2" // what Rotate will call its key
	if err := s.verify(t, forgetest.FITOptions{KeyID: &early}); fault.KindOf(err) != fault.Unauthenticated {
		t.Fatal(err)
	}
	if err := s.issuer.Rotate(); err != nil {
		t.Fatal(err)
	}
	for range 16 {
		s.pass(time.Second)
		if s.verify(t, forgetest.FITOptions{}) == nil {
			return
		}
	}
	t.Errorf("not found after the interval and %d fetches", s.fetches.Load())
}

// TestFailedFetchIsNoVerdict calls again within the interval after a fetch that failed: nobody knows the key yet.
func TestFailedFetchIsNoVerdict(t *testing.T) {
	t.Parallel()
	s := startKeyServer(t, nil)
	if err := s.verify(t, forgetest.FITOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := s.issuer.Rotate(); err != nil {
		t.Fatal(err)
	}
	s.pass(20 * time.Second)
	s.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	for range 3 {
		if err := s.verify(t, forgetest.FITOptions{}); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%v, want unavailable", err)
		}
	}
	if n := s.fetches.Load(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
}

// TestEndOfARequestIsNoVerdict ends the request while its keys are fetched.
func TestEndOfARequestIsNoVerdict(t *testing.T) {
	t.Parallel()
	s := startKeyServer(t, nil)
	release := make(chan struct{})
	defer close(release)
	s.serve(func(http.ResponseWriter, *http.Request) { <-release })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := s.verifier.Verify(ctx, http.Header{"Authorization": {"Bearer " + s.issuer.FIT(forgetest.FITOptions{})}})
	if fault.KindOf(err) != fault.Unavailable {
		t.Errorf("%v, want unavailable", err)
	}
}

// TestMadeUpLabelsCauseFewFetches calls with labels that nobody has signed.
func TestMadeUpLabelsCauseFewFetches(t *testing.T) {
	t.Parallel()
	s := startKeyServer(t, func(config *forge.VerifierConfig, url string) { config.JWKSURLTemplate = url + "/{IC_LABEL}/jwks" })
	s.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) })
	for i := range 500 {
		if err := s.verify(t, forgetest.FITOptions{ICLabel: fmt.Sprintf("x%d", i)}); fault.KindOf(err) != fault.Unavailable {
			t.Fatal(err)
		}
	}
	if n := s.fetches.Load(); n > 32 {
		t.Errorf("500 labels caused %d fetches", n)
	}
}

// TestPlantedTokenDoesNotLast brings a token that claims to live for thousands of years: no real one would replace it.
func TestPlantedTokenDoesNotLast(t *testing.T) {
	t.Parallel()
	issuer := forgetest.Start(t)
	planted := issuer.OAuthToken(forgetest.OAuthOptions{ExpiresAt: time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)})
	invocation := issuer.Invocation(forgetest.FITOptions{Principal: "p"}, forgetest.Tokens{System: planted})
	if left := time.Until(invocation.Token(forge.ActorSystem).ExpiresAt); left > 4*time.Hour+time.Minute {
		t.Errorf("it lives for %s", left)
	}
}
