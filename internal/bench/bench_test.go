package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	// minRounds is how often each way is taken at least; -benchtime asks for more.
	minRounds = 5
	// cacheFolder keeps what takes long to build, from one run to the next.
	cacheFolder = "../../build/bench"
)

// reportVariable names a file, relative to the top folder, that gets the tables too:
//
//	GITSMITH_BENCH_REPORT=docs/performance.md make bench-ingest
const reportVariable = "GITSMITH_BENCH_REPORT"

// report prints tables and puts them into the part of the report that is theirs, between two marks.
func report(b *testing.B, part, machine string, tables []Table) {
	b.Helper()
	var text bytes.Buffer
	fmt.Fprintf(&text, "Measured on %s.\nServer, client and load share the machine. Figures are medians of rounds in which the ways took turns, at least %d; peak RSS is the most of all rounds.\n\n",
		machine, minRounds)
	for _, table := range tables {
		if err := table.Write(&text); err != nil {
			b.Fatal(err)
		}
	}
	fmt.Printf("\n%s", text.Bytes())
	name := os.Getenv(reportVariable)
	if name == "" {
		return
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join("../..", name)
	}
	whole, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	changed, err := replacePart(string(whole), part, text.String())
	if err == nil {
		err = os.WriteFile(name, []byte(changed), 0o644)
	}
	if err != nil {
		b.Fatal(err)
	}
}

// replacePart puts text between the marks of a part.
func replacePart(whole, part, text string) (string, error) {
	begin, end := "<!-- "+part+": begin -->\n", "<!-- "+part+": end -->"
	before, rest, found := strings.Cut(whole, begin)
	_, after, ends := strings.Cut(rest, end)
	if !found || !ends {
		return "", fmt.Errorf("the report lacks the marks %q and %q", strings.TrimSpace(begin), end)
	}
	return before + begin + "\n" + text + end + after, nil
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
