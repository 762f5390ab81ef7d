package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	// minRounds is how often each way is taken at least; -benchtime asks for more.
	minRounds = 5
	// cacheFolder keeps what takes long to build, from one run to the next.
	cacheFolder = "../../build/bench"
)

// reportVariable names a file, relative to the top folder, that gets the tables too:
//
//	GITSMITH_BENCH_REPORT=docs/performance.md make bench
const reportVariable = "GITSMITH_BENCH_REPORT"

// BenchmarkGitsmith is all comparisons, and prints their tables at its end.
func BenchmarkGitsmith(b *testing.B) {
	tables := append(benchmarkIntake(b), benchmarkGit(b)...)
	var text bytes.Buffer
	fmt.Fprintf(&text, "# Performance\n\nMeasured by `make bench` on %s: %s.\n\nServer, client and load share the machine. Each figure is the median of at least %d rounds in which the ways took turns.\n\n",
		time.Now().Format(time.DateOnly), Machine(b.Context()), minRounds)
	for _, table := range tables {
		if err := table.Write(&text); err != nil {
			b.Fatal(err)
		}
	}
	fmt.Printf("\n%s", text.Bytes())
	report := os.Getenv(reportVariable)
	if report == "" {
		return
	}
	if !filepath.IsAbs(report) {
		report = filepath.Join("../..", report)
	}
	if err := os.WriteFile(report, bytes.TrimSuffix(text.Bytes(), []byte("\n")), 0o644); err != nil {
		b.Fatal(err)
	}
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
