package edit_test

import (
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

func TestValidateRefuses(t *testing.T) {
	t.Parallel()
	put2 := func(p edit.Put) edit.Change { return edit.Change{Put: &p} }
	for name, tc := range map[string]struct {
		changes []edit.Change
		says    string
	}{
		"no field":            {[]edit.Change{put("a", ""), {}}, "changes[1]: it is empty; give one of put, delete, move, replace, patch"},
		"several fields":      {[]edit.Change{{Put: &edit.Put{Path: "a"}, Delete: &edit.Delete{Path: "b"}}}, "changes[0]: it holds 2 changes"},
		"too many":            {make([]edit.Change, 1001), "changes: 1001 changes, at most 1000"},
		"put path":            {[]edit.Change{put("a", ""), put("../b", "")}, `changes[1].put.path: "../b": it holds ..`},
		"delete path":         {[]edit.Change{remove("/a")}, "changes[0].delete.path: "},
		"move from":           {[]edit.Change{move(".git/a", "b")}, "changes[0].move.from: "},
		"move to":             {[]edit.Change{move("a", ".GIT/b")}, "changes[0].move.to: "},
		"encoding":            {[]edit.Change{put2(edit.Put{Path: "a", Encoding: "latin1"})}, `changes[0].put.encoding: "latin1" is neither`},
		"base64":              {[]edit.Change{put2(edit.Put{Path: "a", Encoding: "base64", Content: "YWJj*"})}, "changes[0].put.content: it is no base64 (RFC 4648 section 4, with padding): wrong at byte 4"},
		"base64 cut":          {[]edit.Change{put2(edit.Put{Path: "a", Encoding: "base64", Content: "YWJ"})}, "changes[0].put.content: it is no base64"},
		"no UTF-8":            {[]edit.Change{put("a", "\xff")}, `send it with "encoding": "base64"`},
		"mode":                {[]edit.Change{put2(edit.Put{Path: "a", Mode: "0644"})}, `changes[0].put.mode: "0644" is none of`},
		"submodule":           {[]edit.Change{put2(edit.Put{Path: "a", Mode: edit.ModeSubmodule})}, "changes[0].put.mode: "},
		"directory":           {[]edit.Change{put2(edit.Put{Path: "a", Mode: edit.ModeDir})}, "changes[0].put.mode: "},
		"symlink, no target":  {[]edit.Change{put2(edit.Put{Path: "a", Mode: edit.ModeSymlink})}, "no target"},
		"symlink, NUL":        {[]edit.Change{put2(edit.Put{Path: "a", Mode: edit.ModeSymlink, Content: "a\x00b"})}, "NUL"},
		"symlink, long":       {[]edit.Change{put2(edit.Put{Path: "a", Mode: edit.ModeSymlink, Content: strings.Repeat("x", 4096)})}, "4095"},
		"symlink .gitmodules": {[]edit.Change{put2(edit.Put{Path: "a/.gitmodules", Mode: edit.ModeSymlink, Content: "x"})}, "cannot be a symbolic link"},
		"content too large":   {[]edit.Change{put("a", strings.Repeat("x", 5<<20)), put("b", strings.Repeat("x", 5<<20))}, "changes[1].put.content: with it the changes hold more than 8388608 bytes"},

		"put twice":               {[]edit.Change{put("a", "1"), put("a", "2")}, `changes[1].put.path: "a" is changed by changes[0].put.path already`},
		"put and delete":          {[]edit.Change{put("a", "1"), remove("a")}, "already"},
		"delete and put":          {[]edit.Change{remove("a"), put("a", "1")}, "already"},
		"delete twice":            {[]edit.Change{remove("a"), remove("a")}, "already"},
		"move and put back":       {[]edit.Change{move("a", "b"), put("a", "")}, "changes[0].move.from already"},
		"two moves to one":        {[]edit.Change{move("a", "c"), move("b", "c")}, "changes[0].move.to already"},
		"put on a move":           {[]edit.Change{move("a", "b"), put("b", "")}, "already"},
		"put below a put":         {[]edit.Change{put("a", "1"), put("a/b", "2")}, `changes[1].put.path: "a/b" cannot be below "a", which changes[0].put.path makes a file`},
		"put deep below a put":    {[]edit.Change{put("a", "1"), put("a/b/c/d", "2")}, "cannot be below"},
		"put above a put":         {[]edit.Change{put("a/b/c", "1"), put("a", "2")}, `"a" is a directory by then, because changes[0].put.path makes "a/b/c"`},
		"move below a put":        {[]edit.Change{put("a", "1"), move("x", "a/x")}, "cannot be below"},
		"delete below a put":      {[]edit.Change{put("a", "1"), remove("a/x")}, "cannot be below"},
		"delete above a put":      {[]edit.Change{put("a/b", "1"), remove("a")}, "would take away what changes[0].put.path makes"},
		"delete above a move":     {[]edit.Change{move("x", "a/b"), remove("a")}, "would take away"},
		"delete below a delete":   {[]edit.Change{remove("a"), remove("a/b")}, `"a/b" is gone already with "a"`},
		"move out of a delete":    {[]edit.Change{remove("a"), move("a/b", "c")}, "gone already"},
		"delete below a move":     {[]edit.Change{move("a", "c"), remove("a/b")}, "gone already"},
		"move onto a directory":   {[]edit.Change{put("a/b", "1"), move("x", "a")}, "is a directory by then"},
		"move into itself":        {[]edit.Change{move("a", "a/b")}, "moves into itself"},
		"move onto itself":        {[]edit.Change{move("a", "a")}, "same path"},
		"move onto its directory": {[]edit.Change{move("a/b", "a")}, "something is there"},

		"no globs":         {[]edit.Change{replace("a", "b")}, "changes[0].replace.paths: it is empty"},
		"too many globs":   {[]edit.Change{replace("a", "b", make([]string, 101)...)}, "101 globs"},
		"glob":             {[]edit.Change{replace("a", "b", "*.go", "[")}, `changes[0].replace.paths[1]: "[": it is no glob`},
		"empty glob":       {[]edit.Change{replace("a", "b", "")}, "no glob"},
		"absolute glob":    {[]edit.Change{replace("a", "b", "/**")}, "begins with /"},
		"glob out":         {[]edit.Change{replace("a", "b", "../*")}, "would match nothing"},
		"glob too long":    {[]edit.Change{replace("a", "b", strings.Repeat("a", 4097))}, "too long"},
		"glob explodes":    {[]edit.Change{replace("a", "b", strings.Repeat("{a,b}", 11))}, "braces"},
		"empty pattern":    {[]edit.Change{replace("", "b", "**")}, "changes[0].replace.pattern: it is empty"},
		"empty expression": {[]edit.Change{replaceRegexp("", "b", "**")}, "changes[0].replace.pattern: it is empty"},
		"expression":       {[]edit.Change{replaceRegexp("a(b", "b", "**")}, "changes[0].replace.pattern: it is no RE2 regular expression (https://golang.org/s/re2syntax): missing closing )"},
		"look-ahead":       {[]edit.Change{replaceRegexp("a(?=b)", "b", "**")}, "no RE2"},
		"long expression":  {[]edit.Change{replaceRegexp(strings.Repeat("a", 16<<10+1), "b", "**")}, "at most 16384"},
		"unknown group":    {[]edit.Change{replaceRegexp("(a)", "$2", "**")}, `no group "2"`},
		"group runs on":    {[]edit.Change{replaceRegexp("(a)", "$1x", "**")}, `no group "1x"`},
		"unknown name":     {[]edit.Change{replaceRegexp("(?P<n>a)", "$$ $ ${n} ${m}", "**")}, `no group "m"`},
		"no UTF-8 with":    {[]edit.Change{replace("a", "\xff", "**")}, "not UTF-8"},

		"empty diff":          {[]edit.Change{patch(" \n")}, "changes[0].patch.diff: it is empty"},
		"no diff":             {[]edit.Change{patch("hello\n")}, "changes[0].patch.diff: it holds no file's diff"},
		"miscounted":          {[]edit.Change{patch("--- a/x\n+++ b/x\n@@ -1,3 +1,2 @@\n a\n-b\n")}, "changes[0].patch.diff: line 3: "},
		"miscounted, second":  {[]edit.Change{patch(diffX + "--- a/y\n+++ b/y\n@@ -1,3 +1,2 @@\n a\n-b\n")}, "changes[0].patch.diff: line 8: "},
		"bad line":            {[]edit.Change{patch("--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n a\n*b\n")}, "changes[0].patch.diff: line 5: invalid line operation"},
		"hunk without a file": {[]edit.Change{patch("@@ -1 +1 @@ func secretName()\n-a\n+b\n")}, "patch fragment without file header"},
		"no prefix":           {[]edit.Change{patch("--- src/x\n+++ src/x\n@@ -1 +1 @@\n-a\n+b\n")}, `"src/x" has no a/ or b/ in front`},
		"leaves the tree":     {[]edit.Change{patch("--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n")}, "holds .."},
		"diff of git's own":   {[]edit.Change{patch("diff --git a/.git/config b/.git/config\n--- a/.git/config\n+++ b/.git/config\n@@ -1 +1 @@\n-a\n+b\n")}, "git's own"},
		"rename into git":     {[]edit.Change{patch("diff --git a/x b/.git/x\nsimilarity index 100%\nrename from x\nrename to .git/x\n")}, "git's own"},
		"binary without data": {[]edit.Change{patch("diff --git a/x b/x\nindex 257cc56..3bd1f0e 100644\nBinary files a/x and b/x differ\n")}, "git diff --binary"},
		"binary, short index": {[]edit.Change{patch("diff --git a/x b/x\nindex 257cc56..3bd1f0e 100644\nGIT binary patch\nliteral 0\nHcmV?d00001\n\n")}, "full index line"},
		"diff of a submodule": {[]edit.Change{patch("diff --git a/s b/s\nindex 257cc56..3bd1f0e 160000\n--- a/s\n+++ b/s\n@@ -1 +1 @@\n-Subproject commit 257cc56\n+Subproject commit 3bd1f0e\n")}, "submodule"},
		"mode of a patch":     {[]edit.Change{patch("diff --git a/x b/x\nold mode 100644\nnew mode 100600\n")}, "100600"},
		"patch of .gitmodules": {
			[]edit.Change{patch("diff --git a/.gitmodules b/.gitmodules\nnew file mode 120000\n--- /dev/null\n+++ b/.gitmodules\n@@ -0,0 +1 @@\n+x\n\\ No newline at end of file\n")}, "cannot be a symbolic link",
		},
		"changes nothing":   {[]edit.Change{patch("diff --git a/x b/x\n")}, "changes nothing"},
		"twice in a patch":  {[]edit.Change{patch(diffX + diffX)}, "stands in it twice"},
		"made twice":        {[]edit.Change{patch(newX + strings.ReplaceAll(newX, "+x", "+y"))}, "stands in it twice"},
		"no context":        {[]edit.Change{patch("--- a/x\n+++ b/x\n@@ -3,0 +4 @@\n+a\n")}, "hunk 1 (@@ -3,0 +4,1 @@): it holds no line of the file"},
		"mixed headers":     {[]edit.Change{patch("diff --git a/x b/x\nold mode 100644\nnew mode 100755\n\n" + diffX)}, "send two patches"},
		"quoted name, ends": {[]edit.Change{patch("diff --git \"a/x b/x\n")}, "line 1"},
	} {
		err := edit.Validate(tc.changes, edit.Limits{})
		if err == nil || fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secretName") || strings.Contains(err.Error(), "…")) {
			t.Errorf("%s: the error is cut or quotes code: %v", name, err)
		}
	}
}

const (
	diffX = "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n"
	newX  = "diff --git a/x b/x\nnew file mode 100644\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+x\n"
)

func TestValidateAccepts(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string][]edit.Change{
		"nothing":                       nil,
		"one of each":                   {put("a", "1"), remove("b"), move("c", "d"), replace("x", "y", "**/*.go"), patch(diffX)},
		"replace and patch after a put": {put("x", "a\n"), replace("a", "b", "x"), patch(diffX)},
		"two patches to a file":         {patch(diffX), patch(diffX)},
		"put into a deleted directory":  {remove("a"), put("a/b", "1")},
		"put into a moved directory":    {move("a", "b"), put("a/x", "1")},
		"put beside":                    {put("a/b", "1"), put("a/c", "1"), put("a.b", "1")},
		"put, then move its directory":  {put("a/b", "1"), move("a", "c")},
		"delete inside, then above":     {remove("a/b"), remove("a")},
		"base64 with line feeds":        {{Put: &edit.Put{Path: "a", Encoding: "base64", Content: "YWJj\nZGVm\n"}}},
		"symlink out of the tree":       {{Put: &edit.Put{Path: "a", Mode: edit.ModeSymlink, Content: "../../etc/passwd"}}},
		"dollars":                       {replaceRegexp("(?P<n>a)(b)", "$$5 ${1}x $n $2 $ $. ${", "**"), replace("a", "$9", "**")},
		"expression of nothing":         {replaceRegexp("(?m)^", "// ", "**/*.go")},
	} {
		if err := edit.Validate(changes, edit.Limits{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
