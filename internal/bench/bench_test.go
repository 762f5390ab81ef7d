package bench

import (
	"os/exec"
	"strings"
	"testing"
)

func gitOutput(tb testing.TB, directory string, args ...string) string {
	tb.Helper()
	command := exec.CommandContext(tb.Context(), "git", args...)
	command.Dir, command.Env = directory, gitEnvironment()
	out, err := command.CombinedOutput()
	if err != nil {
		tb.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}
