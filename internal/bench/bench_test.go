package bench

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

const (
	// minRounds is how often each way is taken at least; -benchtime asks for more.
	minRounds = 5
	// cacheFolder keeps what takes long to build, from one run to the next.
	cacheFolder = "../../build/bench"
)

// report is [Report] for benchmarks that take turns.
func report(b *testing.B, part, machine string, tables []Table) {
	b.Helper()
	Report(b, part, fmt.Sprintf("Measured on %s.\nServer, client and load share the machine. Figures are medians of rounds in which the ways took turns, at least %d; peak RSS is the most of all rounds.",
		machine, minRounds), tables)
}

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
