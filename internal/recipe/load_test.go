//go:build linux

package recipe_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/recipe"
)

func TestLoadNamesEverythingThatIsWrong(t *testing.T) {
	const text = `recipes:
  - name: Wrong_Name
    argv: ["no-such-program-here"]
    shell: true
  - name: a
    argv: ["./script"]
    timeout: 11m
    memory: 1MiB
    output: much
    network: maybe
    env: {GITSMITH_KEY: x, HOME: /, "a b": c}
    show_output: perhaps
    parameters:
      Version: {pattern: "."}
      open: {pattern: "a)|(b"}
      none: {default: x}
      other: {pattern: "[0-9]+", default: "x1"}
      both: {pattern: ".*", default: "x", required: true}
  - name: a
    argv: ["sh", "-c", "echo {{ parameters.version }}"]
  - {name: empty}
`
	path := filepath.Join(t.TempDir(), "recipes.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := recipe.Load(path)
	if err == nil {
		t.Fatal("all of it is taken")
	}
	for _, want := range []string{
		"line 2: name:", `line 3: argv: there is no program "no-such-program-here"`, `line 4: a recipe: "shell" is not known`, "line 6: argv:", "line 7: timeout:", "line 8: memory:",
		"line 9: output:", "line 10: network:", "line 11: env: GITSMITH_KEY is not for", "line 11: env: HOME is not", `line 11: env: "a b"`, "line 12: show_output:",
		`line 14: parameter "Version": a name`, `line 15: parameter "open": pattern:`, `line 16: parameter "none": pattern:`, `line 17: parameter "other": default:`,
		`line 18: parameter "both": default:`, "line 19: name: a is taken", "line 20: argv: arguments are taken as they stand", "line 21: argv: a list",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing says %q", want)
		}
	}
	if lines := strings.Count(err.Error(), "\n") + 1; lines != 20 {
		t.Errorf("%d problems:\n%v", lines, err)
	}
}

func TestLoad(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "no list": "recipes: x\n", "none": "recipes: []\n", "an alias": "recipes: &a [*a]\n", "no YAML": "\t:", "large": strings.Repeat("# comment\n", 200_000),
	} {
		path := filepath.Join(t.TempDir(), "recipes.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := recipe.Load(path); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := recipe.Load(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a file that is missing is taken")
	}
	if book, err := recipe.Load(""); book != nil || err != nil {
		t.Errorf("no file: %v, %v", book, err)
	}
}

// TestExamples: what the document and the example file show is right.
func TestExamples(t *testing.T) {
	document, err := os.ReadFile("../../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(document), "```yaml\n")
	shown, _, found := strings.Cut(after, "```\n")
	if !found {
		t.Fatal("the document shows no file")
	}
	if err := load(t, shown).Check("set-version", map[string]string{"version": "v1.2"}); err != nil {
		t.Error(err)
	}
	book, err := recipe.Load("../../deploy/recipes/recipes.yaml")
	if err != nil && !load(t, shown).Namespaces() {
		t.Skip("the example wants the network off, and the kernel, or the container, refuses namespaces")
	}
	if err != nil || book.Len() != 3 {
		t.Fatal(book.Len(), err)
	}
	dir := folder(t)
	if err := os.WriteFile(filepath.Join(dir, "a.go"), []byte("package  a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, parameters := range map[string]map[string]string{"gofmt": nil, "set-version": {"version": "v1.2.3"}} {
		if err := book.Run(t.Context(), name, parameters, dir); err != nil {
			t.Error(err)
		}
	}
	if got := read(t, dir, "a.go") + read(t, dir, "VERSION"); got != "package a\nv1.2.3\n" {
		t.Errorf("the files hold %q", got)
	}
}

func TestCheck(t *testing.T) {
	book := load(t, `recipes:
  - name: version
    argv: [sh]
    parameters: {version: {pattern: "v?[0-9.]+|x", required: true}, other: {pattern: "(?s).*"}}
  - {name: bare, argv: [sh]}
`)
	var none *recipe.Book
	for name, test := range map[string]struct {
		book       *recipe.Book
		recipe     string
		parameters map[string]string
		want       string // of the error; empty for none
	}{
		"right":          {book, "version", map[string]string{"version": "v1.2"}, ""},
		"right, bare":    {book, "bare", nil, ""},
		"off":            {none, "bare", nil, "GITSMITH_RECIPES"},
		"unknown":        {book, "go-mod-tidy", nil, `"go-mod-tidy" is not known; there are bare, version`},
		"missing":        {book, "version", nil, "parameter version is required"},
		"a part matches": {book, "version", map[string]string{"version": "v1; x"}, "must match"},
		"the other part": {book, "version", map[string]string{"version": "xx"}, "must match"},
		"a line more":    {book, "version", map[string]string{"version": "1\n"}, "must match"},
		"a zero byte":    {book, "version", map[string]string{"version": "1", "other": "\x00"}, "must match"},
		"long":           {book, "version", map[string]string{"version": strings.Repeat("1", 1025)}, "has 1025 bytes"},
		"no such":        {book, "version", map[string]string{"version": "1", "path": "/"}, `no parameter "path"; there are other, version`},
		"none are taken": {book, "bare", map[string]string{"path": "/"}, "takes no parameters"},
	} {
		err := test.book.Check(test.recipe, test.parameters)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.want != "" && (err == nil || fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), test.want)):
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
		if run := test.book.Run(t.Context(), test.recipe, test.parameters, t.TempDir()); test.want != "" && (run == nil || run.Error() != err.Error()) {
			t.Errorf("%s: Run says %v, Check %v", name, run, err)
		}
	}
}
