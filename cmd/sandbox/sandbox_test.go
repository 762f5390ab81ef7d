package main

import (
	"bytes"
	"errors"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOnce runs the sandbox as README says, and asks that each step held and that nothing is left behind.
func TestOnce(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	var out bytes.Buffer
	if err := run(t.Context(), []string{"--once"}, &out); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) < 22 {
		t.Errorf("the walk has shrunk:\n%s", out.String())
	}
	for _, line := range lines {
		if !strings.HasPrefix(line, "ok ") {
			t.Errorf("a step did not hold: %s", line)
		}
	}
	left, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// TestREADME sends the invocations that README shows to POST /invoke.
func TestREADME(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	sandbox, err := start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?s)curl -s "\$FORGE/invoke" -d '(.*?)'`).FindAllStringSubmatch(string(readme), -1)
	if len(shown) != 2 {
		t.Errorf("README shows %d invocations", len(shown))
	}
	for _, each := range shown {
		recorder := httptest.NewRecorder()
		sandbox.forge.routes().ServeHTTP(recorder, httptest.NewRequest(http.MethodPost, "/invoke", strings.NewReader(each[1])))
		if !strings.Contains(recorder.Body.String(), `"status":202`) {
			t.Errorf("%s\n%s", each[1], recorder.Body)
		}
	}
	if err := sandbox.stop(); err != nil {
		t.Error(err)
	}
}

// TestPage: what the page asks for arrives at the receiver, signed, and what is refused comes back as Forge hands it on.
func TestPage(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	sandbox, err := start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ path, body, want string }{
		{"/app/bridge", `{"method":"GET","path":"/v1/jobs","headers":{"Accept":"application/json"}}`, `"status":200`},
		{"/app/bridge", `{"method":"GET","path":"/v1/jobs/none","headers":{"Accept":"application/json"}}`, `"Content-Type":["application/json"]`},
		{"/app/bridge", `{"method":"POST","path":"/forge/uninstall"}`, "below /v1 only"},
		{"/app/bridge", `x`, "no JSON"},
	} {
		request := httptest.NewRequest(http.MethodPost, tc.path, strings.NewReader(tc.body))
		request.Header.Set("Content-Type", "application/json")
		recorder := httptest.NewRecorder()
		sandbox.forge.routes().ServeHTTP(recorder, request)
		if !strings.Contains(recorder.Body.String(), tc.want) {
			t.Errorf("%s: %s", tc.body, recorder.Body)
		}
	}
	if err := sandbox.stop(); err != nil {
		t.Error(err)
	}
}

func TestWrongArguments(t *testing.T) {
	t.Parallel()
	if err := run(t.Context(), []string{"now"}, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), `"now"`) {
		t.Errorf("%v", err)
	}
	if err := run(t.Context(), []string{"--help"}, new(bytes.Buffer)); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("%v", err)
	}
}
