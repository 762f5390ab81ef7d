package keyspace_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// TestDocument: the table "Redis" of docs/architecture.md lists each key and channel, and no other.
func TestDocument(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(content), "\n## Redis\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if diff := cmp.Diff(spelled(t), documented(section)); diff != "" {
		t.Errorf("the package spells (-), docs/architecture.md lists (+):\n%s", diff)
	}
}

// documented are the keys in the first column. A name that begins with a colon is one of the installation's.
func documented(section string) []string {
	var found []string
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		cell, _, _ := strings.Cut(line[1:], "|")
		for _, quoted := range regexp.MustCompile("`[^`]+`").FindAllString(cell, -1) {
			name := regexp.MustCompile("<[^>]*>").ReplaceAllString(strings.TrimPrefix(strings.Trim(quoted, "`"), "rate:"), "<>")
			if strings.HasPrefix(name, ":") {
				name = "gitsmith:{installation}" + name
			}
			if strings.HasPrefix(name, "gitsmith:") {
				found = append(found, name)
			}
		}
	}
	slices.Sort(found)
	return found
}

// spelled are the constants of the package and what its methods return, with <> for what they are given.
func spelled(t *testing.T) []string {
	t.Helper()
	found := append(append(constants(t), keyspace.WritableOf("<>"), numbered(keyspace.Live), numbered(keyspace.Lease)), keysOf(reflect.ValueOf(keyspace.Installation("installation")))...)
	slices.Sort(found)
	return slices.Compact(found)
}

// numbered is the key of no number in particular.
func numbered(key func(number int) string) string { return strings.TrimSuffix(key(1), "1") + "<>" }

func constants(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "keyspace.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, declaration := range file.Decls {
		general, ok := declaration.(*ast.GenDecl)
		if !ok || general.Tok != token.CONST {
			continue
		}
		for _, spec := range general.Specs {
			for _, value := range spec.(*ast.ValueSpec).Values {
				literal := value.(*ast.BasicLit)
				if literal.Kind != token.STRING {
					continue
				}
				text, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, text)
			}
		}
	}
	return found
}

// keysOf are what the methods that return a string return, and those of what the other ones return.
func keysOf(value reflect.Value) []string {
	var found []string
	for i := range value.NumMethod() {
		method := value.Method(i)
		if method.Type().Out(0).Kind() != reflect.String || slices.Contains([]string{"Pattern", "Prefix"}, value.Type().Method(i).Name) {
			continue
		}
		arguments := make([]reflect.Value, method.Type().NumIn())
		for n := range arguments {
			arguments[n] = reflect.ValueOf("<>")
		}
		result := method.Call(arguments)[0]
		if result.NumMethod() > 0 {
			found = append(found, keysOf(result)...)
		} else {
			found = append(found, result.String())
		}
	}
	return found
}

func TestOwnership(t *testing.T) {
	t.Parallel()
	for key, owned := range map[string]bool{
		keyspace.Installation("a").Record():                  true,
		"rate:" + keyspace.Installation("a").Git():           true,
		keyspace.Installation("b").Record():                  false,
		keyspace.Installation("ab").Record():                 false,
		keyspace.Installation("b").Token("user:{a}:x"):       false,
		keyspace.Scheduled:                                   false,
		keyspace.Installation("a").Repository("{b}:").Lock(): true,
	} {
		if keyspace.Installation("a").Owns(key) != owned {
			t.Errorf("%s: owned is %v", key, !owned)
		}
	}
	if got, want := keyspace.Installation("a*[b]").Pattern(), `*{a\*\[b\]}:*`; got != want {
		t.Errorf("pattern %s, want %s", got, want)
	}
}
