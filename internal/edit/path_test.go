package edit_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

// badPaths are refused, each with a text of its own.
var badPaths = map[string]struct{ path, says string }{
	"empty":                  {"", "empty"},
	"absolute":               {"/etc/passwd", "absolute"},
	"trailing slash":         {"docs/", "ends in /"},
	"only a slash":           {"/", "absolute"},
	"double slash":           {"a//b", "empty component"},
	"dot":                    {".", "holds ."},
	"dot inside":             {"a/./b", "holds ."},
	"dot dot":                {"..", "holds .."},
	"dot dot inside":         {"a/../../b", "holds .."},
	"dot dot at the end":     {"a/..", "holds .."},
	"backslash dot dot":      {`..\a`, "backslash"},
	"backslash git":          {`a\.git\config`, "backslash"},
	"drive":                  {"c:/windows", "drive"},
	"drive only":             {"C:", "drive"},
	"NUL":                    {"a\x00b", "U+0000"},
	"line feed":              {"a\nb", "U+000A"},
	"delete":                 {"a\x7fb", "U+007F"},
	"C1":                     {"a\u0085b", "U+0085"},
	"no UTF-8":               {"a\xffb", "UTF-8"},
	"too long":               {strings.Repeat("a/", 2048) + "a", "at most 4096"},
	"too deep":               {strings.Repeat("a/", 256) + "a", "deep"},
	"git":                    {".git", "git's own"},
	"git inside":             {".git/config", "git's own"},
	"git below":              {"vendor/.git/hooks/post-checkout", "git's own"},
	"git in capitals":        {".GIT/config", "git's own"},
	"git in mixed case":      {"a/.gIt", "git's own"},
	"trailing dot":           {".git./config", "git's own"},
	"trailing dots, spaces":  {".git . . /x", "git's own"},
	"trailing space":         {".git ", "git's own"},
	"short name":             {"git~1/config", "git's own"},
	"short name in capitals": {"GIT~1", "git's own"},
	"short name, dots":       {"git~1...", "git's own"},
	"stream":                 {".git::$INDEX_ALLOCATION/config", "git's own"},
	"short name, stream":     {"git~1:x", "git's own"},
	"stream after spaces":    {".git ::$DATA", "git's own"},
	"HFS joiner":             {".g\u200cit/config", "git's own"},
	"HFS mark at the end":    {".git\u200e", "git's own"},
	"HFS mark in front":      {"\ufeff.git", "git's own"},
	"HFS, case":              {".G\u202aI\u206fT", "git's own"},
	"HFS and NTFS":           {"g\u200dit~1", "git's own"},
}

var goodPaths = []string{
	"a", "a/b/c", "README.md", ".github/workflows/ci.yml", ".gitignore", ".gitmodules", ".gitattributes", "git", "gita", ".gita", "a.git",
	"foo.git/x", ".git-hooks", ".gitt", "git~2", "git~10", "..a", "a..", "...", "a b", "foo:b", "aux", "ünïcode/日本語", "a\u200cb", ".\u200c.", "x/.g", "~", "-", "$(x)", "*?[",
	strings.Repeat("a", 4096), strings.Repeat("a/", 255) + "a",
}

func TestCheckPath(t *testing.T) {
	t.Parallel()
	for name, tc := range badPaths {
		err := edit.CheckPath(tc.path)
		if fault.KindOf(err) != fault.Invalid || err == nil || !strings.Contains(fault.Public(err), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, path := range goodPaths {
		if err := edit.CheckPath(path); err != nil {
			t.Errorf("%.40q: %v", path, err)
		}
	}
}

const (
	protectHFS  = "core.protectHFS=true"
	protectNTFS = "core.protectNTFS=true"
	emptyBlob   = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
)

func repository(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	mustGit(tb, dir, "", "init", "-q")
	mustGit(tb, dir, "", "hash-object", "-w", "--stdin")
	return dir
}

// gitRefuses reports whether git takes path into no index, as a file or as a symbolic link.
func gitRefuses(tb testing.TB, dir, path string, mode edit.Mode) bool {
	tb.Helper()
	if strings.Contains(path, "\x00") {
		return true
	}
	_, err := git(tb, dir, "", "-c", protectHFS, "-c", protectNTFS, "update-index", "--add", "--replace", "--cacheinfo", string(mode)+","+emptyBlob+","+path)
	return err != nil
}

// fsckRefuses is the set of names with which git fsck --strict finds fault in a tree.
func fsckRefuses(tb testing.TB, dir string, names []string, mode edit.Mode) map[string]bool {
	tb.Helper()
	var batch strings.Builder
	for _, name := range names {
		batch.WriteString(string(mode) + " blob " + emptyBlob + "\t" + name + "\x00\x00")
	}
	trees := strings.Fields(mustGit(tb, dir, batch.String(), "mktree", "-z", "--batch"))
	if len(trees) != len(names) {
		tb.Fatalf("%d trees of %d names", len(trees), len(names))
	}
	report, err := git(tb, dir, "", append([]string{"fsck", "--strict", "--no-dangling"}, trees...)...)
	refused := map[string]bool{}
	for i, tree := range trees {
		if err != nil && strings.Contains(report, "error in tree "+tree) {
			refused[names[i]] = true
		}
	}
	return refused
}

// accepts reports whether a put of a file or a symbolic link at path is valid.
func accepts(path string, mode edit.Mode) bool {
	return edit.Validate([]edit.Change{{Put: &edit.Put{Path: path, Content: "x", Mode: mode}}}, edit.Limits{}) == nil
}

var symlinkNames = []string{
	".gitmodules", ".GITMODULES", ".gitmodules ", ".gitmodules...", ".gitmodules:x", ".gitmodules::$DATA", "gitmod~1", "GITMOD~4", "gitmod~5", "gitmod~1 .",
	"gi7eba~1", "gi7eb~10", "GI7D29~1", "gi7e~123", "g~123456", "~1234567", "~9", "gitmod~0", "gi7eba~9", "gi7eba~1:x", ".gitmodule", ".gitmodules2",
	".git\u200cmodules", "a/.gitmodules", "a/gitmod~2", ".gitmodules/a", ".gitignore",
}

// Every path that git takes into no index, on any system, and every name that git fsck finds fault with is refused.
func TestPathsAgainstGit(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	var paths, names []string
	for _, tc := range badPaths {
		if !strings.Contains(tc.path, "\x00") {
			paths = append(paths, tc.path)
		}
	}
	paths = append(append(paths, goodPaths...), symlinkNames...)
	for _, path := range paths {
		if !strings.Contains(path, "/") && path != "" {
			names = append(names, path)
		}
	}
	for _, mode := range []edit.Mode{edit.ModeRegular, edit.ModeSymlink} {
		fsck := fsckRefuses(t, dir, names, mode)
		refused := 0
		for _, path := range paths {
			byGit := fsck[path] || gitRefuses(t, dir, path, mode)
			if byGit && accepts(path, mode) {
				t.Errorf("git refuses %q with mode %s, and we take it", path, mode)
			}
			if byGit {
				refused++
			}
		}
		if refused < 20 || len(fsck) < 5 {
			t.Errorf("git refuses only %d of %d paths, fsck %d of %d names: the comparison compares nothing", refused, len(paths), len(fsck), len(names))
		}
	}
	for _, path := range goodPaths {
		if gitRefuses(t, dir, path, edit.ModeRegular) {
			t.Errorf("git refuses %q", path)
		}
	}
}

// evilPath is made of pieces that disguises of .git are made of.
func evilPath() *rapid.Generator[string] {
	pieces := rapid.SampledFrom([]string{
		".", "..", "g", "G", "i", "I", "t", "T", ".git", "git", "~", "1", "2", "0", " ", ":", "/", `\`, "modules", "mod", "gi7eba", "gi7", "eba", "9",
		"\u200c", "\u200d", "\u200e", "\u200f", "\u202a", "\u202e", "\u206a", "\u206f", "\ufeff", "a", "c:", "\t", "é", "$DATA", "ı", "ſ",
	})
	return rapid.Map(rapid.SliceOfN(pieces, 1, 8), func(parts []string) string { return strings.Join(parts, "") })
}

func TestRandomPathsAgainstGit(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	rapid.Check(t, func(rt *rapid.T) {
		path := evilPath().Draw(rt, "path")
		mode := rapid.SampledFrom([]edit.Mode{edit.ModeRegular, edit.ModeSymlink}).Draw(rt, "mode")
		if accepts(path, mode) && gitRefuses(t, dir, path, mode) {
			rt.Fatalf("git refuses %q with mode %s, and we take it", path, mode)
		}
	})
	var names []string
	generator := evilPath()
	for seed := range 2000 {
		if name := generator.Example(seed); !strings.Contains(name, "/") {
			names = append(names, name)
		}
	}
	for _, mode := range []edit.Mode{edit.ModeRegular, edit.ModeSymlink} {
		for name := range fsckRefuses(t, dir, names, mode) {
			if accepts(name, mode) {
				t.Errorf("git fsck refuses %q with mode %s, and we take it", name, mode)
			}
		}
	}
}

func FuzzValidatePath(f *testing.F) {
	for _, tc := range badPaths {
		f.Add(tc.path)
	}
	for _, path := range append(goodPaths, symlinkNames...) {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		if edit.CheckPath(path) != nil {
			return
		}
		lower := "/" + strings.ToLower(path) + "/"
		for _, part := range []string{"/../", "/./", "//", "/.git/", `\`, "\x00"} {
			if strings.Contains(lower, part) {
				t.Errorf("%q is taken", path)
			}
		}
		if !utf8.ValidString(path) || len(path) > edit.MaxPathBytes {
			t.Errorf("%q is taken", path)
		}
	})
}
