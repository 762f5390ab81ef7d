package archtest_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const (
	root     = "../.."
	maxLines = 500 // of a Go file
)

// Put together here, so that this file does not find itself.
var (
	machinePath  = regexp.MustCompile(`(^|[\s"'=(:])/(?:work|root|home/[a-z]+|tmp/` + `setup)/`)
	registryHost = regexp.MustCompile(`(?i)https?://[a-z0-9.-]*(?:artifactory|nexus|mirror|registry|` + `goproxy|proxy\.)[a-z0-9.-]*`)
	privateHost  = regexp.MustCompile(`https?://(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))\.\d`)
)

// TestFiles: nothing of the machine on which it was written is in the repository, and Go files keep a readable size.
func TestFiles(t *testing.T) {
	t.Parallel()
	files := tracked(t)
	if len(files) < 30 {
		t.Fatalf("git lists %d files", len(files))
	}
	for _, path := range files {
		content, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			continue // removed, and not committed yet
		}
		for _, complaint := range complaints(path, content) {
			t.Errorf("%s: %s", path, complaint)
		}
	}
}

func TestComplaints(t *testing.T) {
	t.Parallel()
	sleeping := "package x\nimport \"time\"\nfunc f() { time.Sleep(1) }\n"
	bubble := "package x\nimport (\"time\"; \"testing/synctest\")\nfunc f() { synctest.Test(nil, func(any) { time.Sleep(1) }) }\n"
	for name, tc := range map[string]struct {
		path, content string
		want          string // empty: none
	}{
		"clean":               {"a.md", "see https://bitbucket.org/acme and /tmp/x", ""},
		"a machine's path":    {"a.md", "cd " + "/wo" + "rk/main", "line 1: a path of one machine"},
		"a home":              {"a.go", "package a\n// \"/ho" + "me/alice/x\"", "line 2: a path of one machine"},
		"a registry":          {"a.yml", "url: https://npm." + "registry.example.com/x", "line 1: the host of a registry"},
		"a private address":   {"a.yml", "url: http://10." + "1.2.3/x", "line 1: a private address"},
		"binary":              {"a.bin", "\x00/wo" + "rk/", ""},
		"long":                {"a.go", "package a\n" + strings.Repeat("// x\n", maxLines), "501 lines"},
		"long, not Go":        {"a.md", strings.Repeat("x\n", 2*maxLines), ""},
		"sleeping test":       {"a_test.go", sleeping, "line 3: sleeps"},
		"sleeping kit":        {"gitrepo/gittest/a.go", sleeping, "line 3: sleeps"},
		"sleeping testkit":    {"internal/testkit/a.go", sleeping, "line 3: sleeps"},
		"sleeping program":    {"a.go", sleeping, ""},
		"sleep in synctest":   {"a_test.go", bubble, ""},
		"a glob by hand":      {"a.go", "package x\nimport \"path\"\nvar _, _ = path.Match(\"*\", \"a\")\n", "line 3: matches a glob"},
		"the same in a test":  {"a_test.go", "package x\nimport \"path\"\nvar _, _ = path.Match(\"*\", \"a\")\n", ""},
		"a key":               {"a.go", "package x\nvar _ = \"gitsmith:quarantine\"\n", "line 2: spells a key of Redis"},
		"a key, in keyspace":  {"internal/keyspace/a.go", "package x\nvar _ = \"gitsmith:quarantine\"\n", ""},
		"a key in Lua":        {"a.lua", "return 'gitsmith:x'\n", "spells a key of Redis"},
		"a URN":               {"a.go", "package x\nvar _ = \"urn:gitsmith:problem\"\n", ""},
		"a test that is none": {"a_test.go", "package", "does not parse"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			found := complaints(tc.path, []byte(tc.content))
			switch {
			case tc.want == "" && len(found) > 0:
				t.Errorf("complains %q", found)
			case tc.want != "" && (len(found) != 1 || !strings.Contains(found[0], tc.want)):
				t.Errorf("complains %q, want one that says %q", found, tc.want)
			}
		})
	}
}

func complaints(path string, content []byte) []string {
	if bytes.IndexByte(content, 0) >= 0 {
		return nil
	}
	var found []string
	lines := strings.Split(string(content), "\n")
	for i, line := range lines {
		for pattern, what := range map[*regexp.Regexp]string{
			machinePath: "a path of one machine", registryHost: "the host of a registry", privateHost: "a private address",
		} {
			if pattern.MatchString(line) {
				found = append(found, fmt.Sprintf("line %d: %s", i+1, what))
			}
		}
	}
	if strings.HasSuffix(path, ".lua") && bytes.Contains(content, []byte("gitsmith:")) {
		found = append(found, "spells a key of Redis; take it from internal/keyspace")
	}
	if !strings.HasSuffix(path, ".go") {
		return found
	}
	if count := bytes.Count(content, []byte("\n")); count > maxLines {
		found = append(found, fmt.Sprintf("%d lines; split it, %d are the most", count, maxLines))
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, content, parser.SkipObjectResolution)
	switch {
	case err != nil:
		return append(found, "does not parse: "+err.Error())
	case strings.HasSuffix(path, "_test.go"), strings.HasSuffix(filepath.Dir(path), "test"), filepath.Dir(path) == "internal/testkit":
		return append(found, sleeps(set, file)...)
	}
	found = append(found, globsByHand(set, file)...)
	if filepath.Dir(path) != "internal/keyspace" {
		found = append(found, keysByHand(set, file)...)
	}
	return found
}

// keysByHand are the texts that spell a key of Redis, which internal/keyspace alone does. A URN is no key.
func keysByHand(set *token.FileSet, file *ast.File) []string {
	var found []string
	ast.Inspect(file, func(node ast.Node) bool {
		text, ok := node.(*ast.BasicLit)
		if ok && text.Kind == token.STRING && strings.Contains(strings.ReplaceAll(text.Value, "urn:gitsmith:", ""), "gitsmith:") {
			found = append(found, fmt.Sprintf("line %d: spells a key of Redis; take it from internal/keyspace", set.Position(text.Pos()).Line))
		}
		return true
	})
	return found
}

// sleeps are the calls of time.Sleep outside of synctest's bubbles, where it costs nothing and decides nothing by luck.
func sleeps(set *token.FileSet, file *ast.File) []string {
	var found []string
	ast.Inspect(file, func(node ast.Node) bool {
		call, ok := node.(*ast.CallExpr)
		switch {
		case !ok:
			return true
		case calls(call, "synctest", "Test"):
			return false
		case calls(call, "time", "Sleep"):
			found = append(found, fmt.Sprintf("line %d: sleeps; wait for a signal, poll with a deadline, or use synctest", set.Position(call.Pos()).Line))
		}
		return true
	})
	return found
}

// globsByHand are the matches that go past internal/glob, which bounds what they cost.
func globsByHand(set *token.FileSet, file *ast.File) []string {
	var found []string
	ast.Inspect(file, func(node ast.Node) bool {
		if call, ok := node.(*ast.CallExpr); ok && (calls(call, "path", "Match") || calls(call, "filepath", "Match")) {
			found = append(found, fmt.Sprintf("line %d: matches a glob by itself; use internal/glob", set.Position(call.Pos()).Line))
		}
		return true
	})
	return found
}

func calls(call *ast.CallExpr, pkg, function string) bool {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || selector.Sel.Name != function {
		return false
	}
	name, ok := selector.X.(*ast.Ident)
	return ok && name.Name == pkg
}

// tracked are the files that are committed or would be.
func tracked(t *testing.T) []string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	command.Dir = root
	output, err := command.Output()
	if err != nil {
		t.Fatalf("git ls-files: %v; the tests run in a clone", err)
	}
	return strings.Split(strings.TrimSuffix(string(output), "\x00"), "\x00")
}
