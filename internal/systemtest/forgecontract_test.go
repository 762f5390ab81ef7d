package systemtest

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
)

// independentIssuer is testdata/forge/issuer.mjs, running.
type independentIssuer struct {
	t    *testing.T
	base string
}

func startIndependentIssuer(t *testing.T) *independentIssuer {
	t.Helper()
	modules, err := filepath.Abs("../../build/node/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "jose")); err != nil {
		t.Fatalf("npm jose is not installed; run `make test-tools`: %v", err)
	}
	command := exec.Command("node", "testdata/forge/issuer.mjs", modules, forgetest.AppID)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("node (`make test-tools` installs it): %v", err)
	}
	t.Cleanup(func() {
		_ = stdin.Close() // which ends it
		_ = command.Wait()
	})
	port, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return &independentIssuer{t, "http://127.0.0.1:" + strings.TrimSpace(port)}
}

func (i *independentIssuer) fit(kind, principal string) string {
	i.t.Helper()
	response, err := http.Get(i.base + "/fit?" + url.Values{"kind": {kind}, "principal": {principal}}.Encode())
	if err != nil {
		i.t.Fatal(err)
	}
	defer response.Body.Close()
	fit, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		i.t.Fatalf("status %d, %v", response.StatusCode, err)
	}
	return string(fit)
}

// TestForgesContract sends FITs as Atlassian documents them ("Forge Remote essentials", August 2026) for each kind of call, signed by an
// issuer that shares no code with ours, to every kind of route of the real receiver. Its key set is padded, as Forge's is.
func TestForgesContract(t *testing.T) {
	t.Parallel()
	issuer := startIndependentIssuer(t)
	s := newSystem(t)
	s.settings = append(s.settings, "GITSMITH_JWKS_URL="+issuer.base+"/keys") // the later one counts
	s.startReceiver()

	const push = `{"eventType":"avi:bitbucket:push:repository","repository":{"uuid":"{66666666-7777-4888-8999-000000000000}"},` +
		`"workspace":{"uuid":"{11111111-2222-4333-8444-555555555555}"},"push":{"ref":"main","mainbranch":true}}`
	const installed = `{"id":"ari:cloud:ecosystem::installation/5a9db0c0-5a9d-4b0c-8a9d-b05a9db05a9d","installerAccountId":"712020:alice",` +
		`"app":{"id":"` + forgetest.AppID + `","version":"2.1.0"}}`
	clone := `{"repository":{"workspace":"acme","slug":"web"},"clone":{}}`
	asApp := strings.Replace(clone, "{", `{"actor":"system",`, 1)
	routes := []struct{ name, method, path, body string }{
		{"POST /v1/jobs", http.MethodPost, "/v1/jobs", clone},
		{"POST /v1/jobs as the app", http.MethodPost, "/v1/jobs", asApp},
		{"GET /v1/jobs", http.MethodGet, "/v1/jobs", ""},
		{"POST /forge/events", http.MethodPost, "/forge/events", push},
		{"POST /forge/schedule", http.MethodPost, "/forge/schedule", `{"context":{},"contextToken":"eyJ"}`},
		{"POST /forge/lifecycle", http.MethodPost, "/forge/lifecycle", installed},
		{"POST /forge/uninstall", http.MethodPost, "/forge/uninstall", `{}`},
	}
	// By kind of call and user, the status of each route, in the order above. The removal is last: what comes after it is late.
	for _, tc := range []struct {
		kind, principal string
		want            string
	}{
		{"frontend", "712020:alice", "202 403 200 403 403 403 403"},
		{"frontend", "", "403 403 403 403 403 403 403"},
		{"schedule", "", "202 202 200 200 200 200 -"},
		{"event", "", "202 202 200 200 200 200 -"},
		{"event", "712020:alice", "202 403 200 200 200 200 -"},
		{"lifecycle", "", "202 202 200 200 200 200 -"},
		{"function", "", "202 202 200 200 200 200 -"},
		{"function", "712020:alice", "202 403 200 200 200 200 -"},
		{"uninstall", "", "- - - - - - 200"},
	} {
		var got, table []string
		if tc.kind == "schedule" { // the first system token
			s.forgeCall(issuer, "schedule", "", routes[4].method, routes[4].path, "")
		}
		for i, route := range routes {
			if strings.Fields(tc.want)[i] == "-" {
				got = append(got, "-")
				continue
			}
			status := s.forgeCall(issuer, tc.kind, tc.principal, route.method, route.path, route.body)
			got = append(got, fmt.Sprint(status))
			table = append(table, fmt.Sprintf("%s %d", route.name, status))
		}
		t.Logf("%-9s principal %-12q  %s", tc.kind, tc.principal, strings.Join(table, ", "))
		if answered := strings.Join(got, " "); answered != tc.want {
			t.Errorf("%s by %q: %s, want %s", tc.kind, tc.principal, answered, tc.want)
		}
	}
}

// forgeCall sends a call with an independent FIT and both tokens, and returns the answer's status.
func (s *system) forgeCall(issuer *independentIssuer, kind, principal, method, path, body string) int {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.api+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	token := s.issuer.OAuthToken(forgetest.OAuthOptions{ExpiresAt: time.Now().Add(time.Hour)})
	request.Header.Set("Authorization", "Bearer "+issuer.fit(kind, principal))
	request.Header.Set("X-Forge-Oauth-System", token)
	request.Header.Set("X-Forge-Oauth-User", token)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 400 && response.Header.Get("Content-Type") != "application/json" {
		s.t.Errorf("%s %s: %v, %s %s", method, path, err, response.Header.Get("Content-Type"), answer)
	}
	return response.StatusCode
}
