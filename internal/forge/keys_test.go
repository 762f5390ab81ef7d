package forge_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keyServer serves an issuer's keys, or whatever a test puts in their place.
type keyServer struct {
	issuer   *forgetest.Issuer
	verifier *forge.Verifier
	fetches  atomic.Int32
	answer   atomic.Pointer[http.HandlerFunc]
	clock    atomic.Int64 // nanoseconds that have passed
}

func startKeyServer(t *testing.T, change func(*forge.VerifierConfig, string)) *keyServer {
	t.Helper()
	issuer, err := forgetest.NewIssuer()
	if err != nil {
		t.Fatal(err)
	}
	s := &keyServer{issuer: issuer}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.fetches.Add(1)
		if answer := s.answer.Load(); answer != nil {
			(*answer)(w, r)
			return
		}
		issuer.Handler().ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	start := time.Now()
	issuer.Now = func() time.Time { return start.Add(time.Duration(s.clock.Load())) }
	config := forge.VerifierConfig{AppIDs: []string{issuer.AppID}, JWKSURL: server.URL, HTTPClient: server.Client(), Now: issuer.Now}
	if change != nil {
		change(&config, server.URL)
	}
	if s.verifier, err = forge.NewVerifier(config); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *keyServer) pass(d time.Duration) { s.clock.Add(int64(d)) }

func (s *keyServer) serve(handler http.HandlerFunc) { s.answer.Store(&handler) }

func (s *keyServer) verify(t *testing.T, options forgetest.FITOptions) error {
	t.Helper()
	_, err := s.verifier.Verify(t.Context(), http.Header{"Authorization": {"Bearer " + s.issuer.FIT(options)}})
	return err
}

func TestKeysAreFetchedOnce(t *testing.T) {
	t.Parallel()
	s := startKeyServer(t, nil)
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			if err := s.verify(t, forgetest.FITOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := s.fetches.Load(); n != 1 {
		t.Errorf("%d fetches for 64 calls at once, want 1", n)
	}
}

func TestUnknownKeysAreNotFetchedAgain(t *testing.T) {
	t.Parallel()
	s := startKeyServer(t, nil)
	if err := s.verifier.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.pass(20 * time.Second)
	for i := range 50 {
		strange := strings.Repeat("x", i+1)
		if err := s.verify(t, forgetest.FITOptions{KeyID: &strange}); fault.KindOf(err) != fault.Unauthenticated {
			t.Fatal(err)
		}
	}
	if n := s.fetches.Load(); n != 2 {
		t.Errorf("%d fetches for 50 unknown keys, want the first and one more", n)
	}
	// A key that Forge has just begun to use is found after the interval.
	if err := s.issuer.Rotate(); err != nil {
		t.Fatal(err)
	}
	if err := s.verify(t, forgetest.FITOptions{}); fault.KindOf(err) != fault.Unauthenticated {
		t.Errorf("within the interval: %v", err)
	}
	s.pass(16 * time.Second)
	if err := s.verify(t, forgetest.FITOptions{}); err != nil {
		t.Errorf("after the interval: %v", err)
	}
}

func TestOldKeysStay(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]http.HandlerFunc{
		"an error":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"an empty set": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
		"garbage":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`<html>`)) },
		"a redirect":   func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"a set that is too large": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(append([]byte(`{"keys":[`), bytes.Repeat([]byte(" "), 300<<10)...))
		},
		"keys that cannot sign FITs": func(w http.ResponseWriter, _ *http.Request) {
			_ = json.NewEncoder(w).Encode(map[string]any{"keys": []map[string]string{
				{"kty": "RSA", "kid": "short", "n": strings.Repeat("A", 171), "e": "AQAB"},
				{"kty": "EC", "kid": "curve", "crv": "P-256", "x": "AA", "y": "AA"},
				{"kty": "RSA", "kid": "enc", "use": "enc", "n": strings.Repeat("z", 342), "e": "AQAB"},
				{"kty": "RSA", "kid": "alg", "alg": "RS512", "n": strings.Repeat("z", 342), "e": "AQAB"},
				{"kty": "RSA", "n": strings.Repeat("z", 342), "e": "AQAB"},
				{"kty": "RSA", "kid": "even", "n": strings.Repeat("z", 342), "e": "BA"},
			}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startKeyServer(t, nil)
			if err := s.verify(t, forgetest.FITOptions{}); err != nil {
				t.Fatal(err)
			}
			s.serve(answer)
			s.pass(20 * time.Second)
			strange := "strange"
			if err := s.verify(t, forgetest.FITOptions{KeyID: &strange}); fault.KindOf(err) != fault.Unavailable {
				t.Errorf("a key that could not be looked for is refused as %v; 401 would be a verdict", err)
			}
			if n := s.fetches.Load(); n != 2 {
				t.Fatalf("%d fetches, want 2", n)
			}
			if err := s.verify(t, forgetest.FITOptions{}); err != nil {
				t.Errorf("the known key is gone: %v", err)
			}
		})
	}
}

func TestNoKeysIsNoVerdict(t *testing.T) {
	t.Parallel()
	s := startKeyServer(t, nil)
	s.serve(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	for range 3 {
		if err := s.verify(t, forgetest.FITOptions{}); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%v, want unavailable", err)
		}
	}
	if s.verifier.Ready() == nil {
		t.Error("ready without keys")
	}
	if n := s.fetches.Load(); n != 1 {
		t.Errorf("%d fetches within the interval, want 1", n)
	}
	s.answer.Store(nil)
	s.pass(16 * time.Second)
	if err := s.verify(t, forgetest.FITOptions{}); err != nil || s.verifier.Ready() != nil {
		t.Errorf("keys that came back: %v", err)
	}
}

func TestNothingWaitsLong(t *testing.T) {
	t.Parallel()
	s := startKeyServer(t, func(config *forge.VerifierConfig, _ string) { config.FetchTimeout = 50 * time.Millisecond })
	release := make(chan struct{})
	defer close(release)
	s.serve(func(http.ResponseWriter, *http.Request) { <-release })
	if err := s.verify(t, forgetest.FITOptions{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("%v, want unavailable", err)
	}
}

func TestStaleKeysAreFetchedBehindTheBack(t *testing.T) {
	t.Parallel()
	s := startKeyServer(t, nil)
	if err := s.verify(t, forgetest.FITOptions{}); err != nil {
		t.Fatal(err)
	}
	asked, release := make(chan struct{}), make(chan struct{})
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-release
		s.issuer.Handler().ServeHTTP(w, r)
	})
	s.pass(16 * time.Minute)
	if err := s.verify(t, forgetest.FITOptions{}); err != nil { // while the fetch hangs
		t.Error(err)
	}
	<-asked
	close(release)
}

func TestIsolatedCloud(t *testing.T) {
	t.Parallel()
	s := startKeyServer(t, func(config *forge.VerifierConfig, url string) { config.JWKSURLTemplate = url + "/{IC_LABEL}/jwks" })
	s.serve(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ic-1/jwks" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		s.issuer.Handler().ServeHTTP(w, r)
	})
	if err := s.verify(t, forgetest.FITOptions{ICLabel: "ic-1"}); err != nil {
		t.Error(err)
	}
	for _, label := range []string{"../x", "IC", strings.Repeat("a", 51), "a b", "a/b"} {
		if err := s.verify(t, forgetest.FITOptions{ICLabel: label}); fault.KindOf(err) != fault.Unauthenticated {
			t.Errorf("%q: %v", label, err)
		}
	}
	for _, label := range strings.Fields("a b c d e f g h i j k l m n o p q r s t u v") { // more than are kept
		if err := s.verify(t, forgetest.FITOptions{ICLabel: label}); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%q: %v", label, err)
		}
	}
	before := s.fetches.Load()
	if err := s.verify(t, forgetest.FITOptions{ICLabel: "ic-1"}); err != nil || s.fetches.Load() != before {
		t.Errorf("made-up labels have driven a real one out: %v", err)
	}
}
