package main

import (
	"bytes"
	"errors"
	"flag"
	"path/filepath"
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
	if len(lines) < 19 {
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

func TestWrongArguments(t *testing.T) {
	t.Parallel()
	if err := run(t.Context(), []string{"now"}, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), `"now"`) {
		t.Errorf("%v", err)
	}
	if err := run(t.Context(), []string{"--help"}, new(bytes.Buffer)); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("%v", err)
	}
}
