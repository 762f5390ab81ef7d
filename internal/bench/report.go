package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ReportVariable names a file, relative to the top folder, that gets the tables too:
//
//	GITSMITH_BENCH_REPORT=docs/performance.md make bench-ingest
const ReportVariable = "GITSMITH_BENCH_REPORT"

// Report prints tables below an introduction, and puts them into the part of the report that is theirs, between two marks. The
// caller's package lies two folders below the top.
func Report(tb testing.TB, part, introduction string, tables []Table) {
	tb.Helper()
	var text bytes.Buffer
	fmt.Fprintf(&text, "%s\n\n", introduction)
	for _, table := range tables {
		if err := table.Write(&text); err != nil {
			tb.Fatal(err)
		}
	}
	fmt.Printf("\n%s", text.Bytes())
	name := os.Getenv(ReportVariable)
	if name == "" {
		return
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join("../..", name)
	}
	whole, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	changed, err := replacePart(string(whole), part, text.String())
	if err == nil {
		err = os.WriteFile(name, []byte(changed), 0o644) //nolint:gosec // a document of the repository, with git's mode
	}
	if err != nil {
		tb.Fatal(err)
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
