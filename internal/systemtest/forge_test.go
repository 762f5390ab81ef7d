package systemtest

import (
	"cmp"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
)

const installation = "ari:cloud:ecosystem::installation/5a9db0c0-5a9d-4b0c-8a9d-b05a9db05a9d"

// oauthToken makes a token that Bitbucket takes for everything.
func (s *system) oauthToken(life time.Duration, scopes ...string) string {
	s.t.Helper()
	if len(scopes) == 0 {
		scopes = bitbuckettest.AllScopes()
	}
	expiresAt := time.Now().Add(life)
	token := s.issuer.OAuthToken(forgetest.OAuthOptions{Scopes: scopes, ExpiresAt: expiresAt})
	s.bitbucket.AddToken(token, bitbuckettest.Grant{Scopes: scopes, ExpiresAt: expiresAt, Default: bitbuckettest.Write})
	return token
}

// userCaller is a user of the app's UI with a token of that life.
func (s *system) userCaller(principal string, life time.Duration) caller {
	s.t.Helper()
	return caller{principal: principal, installation: installation, userToken: s.oauthToken(life)}
}

// deliver brings a caller's system token the way that Forge does, once: calls for work do not.
func (s *system) deliver(who caller) error {
	if who.systemToken == "" {
		return nil
	}
	s.mu.Lock()
	known := s.delivered[who.systemToken]
	s.mu.Unlock()
	if known {
		return nil
	}
	status, answer, err := s.ask(caller{installation: who.installation, systemToken: who.systemToken}, http.MethodPost, "/forge/schedule", "")
	if err != nil || status != http.StatusOK {
		return cmp.Or(err, fmt.Errorf("the scheduled trigger: status %d, %s", status, answer))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delivered[who.systemToken] = true
	return nil
}

// sign sets what Forge sets: the FIT, the tokens, the trace.
func (s *system) sign(header http.Header, who caller, path string) {
	s.t.Helper()
	options := forgetest.FITOptions{Principal: who.principal, Installation: who.installation}
	if strings.HasPrefix(path, "/forge/") {
		options.ModuleType, options.ModuleKey = "core:endpoint", "schedule"
	}
	fit := s.issuer.FIT(options)
	s.mu.Lock()
	s.sentFITs = append(s.sentFITs, fit)
	s.mu.Unlock()
	header.Set("Authorization", "Bearer "+fit)
	if who.systemToken != "" {
		header.Set("X-Forge-Oauth-System", who.systemToken)
	}
	if who.userToken != "" {
		header.Set("X-Forge-Oauth-User", who.userToken)
	}
	header.Set("X-B3-Traceid", traceID)
	header.Set("X-B3-Spanid", "a2fb4a1d1a96d312")
}

const traceID = "463ac35c9f6413ad48485a3953bb6124"

// assertEmpty asks that a folder holds no file.
func assertEmpty(t testing.TB, folder string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			t.Errorf("%s was left behind", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
