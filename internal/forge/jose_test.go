package forge_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

// TestIndependentIssuer compares the verifier's verdicts with those that testdata/jose/issue.mjs expects of tokens which npm
// jose has signed and broken: an issuer that shares no code with ours.
func TestIndependentIssuer(t *testing.T) {
	t.Parallel()
	modules, err := filepath.Abs("../../build/node/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "jose")); err != nil {
		t.Fatalf("npm jose is not installed; run `make test-tools`: %v", err)
	}
	command := exec.CommandContext(t.Context(), "node", "testdata/jose/issue.mjs", modules, forgetest.AppID)
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		t.Fatalf("node (`make test-tools` installs it): %v", err)
	}
	var issued struct {
		Now   int64 // by which every token was issued, however long that took
		JWKS  json.RawMessage
		Cases []struct{ Name, Token, Want string }
	}
	if err := json.Unmarshal(output, &issued); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(issued.JWKS) // the verifier says so if it did not arrive
	}))
	defer server.Close()
	verifier, err := forge.NewVerifier(forge.VerifierConfig{
		AppIDs: []string{forgetest.AppID}, JWKSURL: server.URL, Now: func() time.Time { return time.Unix(issued.Now, 0) }, HTTPClient: server.Client(),
		FetchTimeout: testkit.Left(t), // not the caller's 2 s: with the clock held, keys that come late would never be fetched again
	})
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, tc := range issued.Cases {
		_, err := verifier.Verify(t.Context(), http.Header{"Authorization": {"Bearer " + tc.Token}})
		got := "accept"
		if err != nil {
			got = "refuse"
			if kind := fault.KindOf(err); kind != fault.Unauthenticated {
				t.Errorf("%s: refused as %s, not with 401: %v", tc.Name, kind, err)
			}
		}
		if got != tc.Want {
			t.Errorf("%s: we %s, jose's issuer wants %s (%v)", tc.Name, got, tc.Want, err)
		}
		counts[got]++
		t.Logf("%-45s %s  %s", tc.Name, got, publicOf(err))
	}
	if counts["accept"] < 9 || counts["refuse"] < 40 {
		t.Errorf("the matrix has shrunk: %v", counts)
	}
}

func publicOf(err error) string {
	if err == nil {
		return ""
	}
	return fault.Public(err)
}
