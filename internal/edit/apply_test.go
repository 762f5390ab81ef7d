package edit_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

const commit = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00"

func sample() tree {
	return tree{
		"README.md":     {edit.ModeRegular, "read me\n"},
		"run.sh":        {edit.ModeExecutable, "#!/bin/sh\n"},
		"link":          {edit.ModeSymlink, "README.md"},
		"vendor/module": {edit.ModeSubmodule, commit},
		"src/a.go":      {edit.ModeRegular, "package a\n"},
		"src/b.go":      {edit.ModeRegular, "package a // b\n"},
		"src/deep/c.go": {edit.ModeRegular, "package c\n"},
		"src.go":        {edit.ModeRegular, "package src\n"},
		"image.png":     {edit.ModeRegular, "\x89PNG\x00package a"},
	}
}

// edited is the sample with some paths changed; a blob without mode is a path that is gone.
func edited(changes tree) tree {
	after := sample()
	for path, file := range changes {
		if file.Mode == "" {
			delete(after, path)
			continue
		}
		after[path] = file
	}
	return after
}

func TestApply(t *testing.T) {
	t.Parallel()
	regular := func(content string) blob { return blob{edit.ModeRegular, content} }
	gone := blob{}
	for name, tc := range map[string]struct {
		changes []edit.Change
		want    tree // what differs from the sample
	}{
		"nothing":             {nil, tree{}},
		"put a new file":      {[]edit.Change{put("new/dir/file", "x")}, tree{"new/dir/file": regular("x")}},
		"put over a file":     {[]edit.Change{put("README.md", "x")}, tree{"README.md": regular("x")}},
		"put an empty file":   {[]edit.Change{put("empty", "")}, tree{"empty": regular("")}},
		"put keeps the mode":  {[]edit.Change{put("run.sh", "x")}, tree{"run.sh": {edit.ModeExecutable, "x"}}},
		"put sets the mode":   {[]edit.Change{{Put: &edit.Put{Path: "README.md", Content: "read me\n", Mode: edit.ModeExecutable}}}, tree{"README.md": {edit.ModeExecutable, "read me\n"}}},
		"put what is there":   {[]edit.Change{put("README.md", "read me\n"), put("run.sh", "#!/bin/sh\n")}, tree{}},
		"put base64":          {[]edit.Change{{Put: &edit.Put{Path: "b", Content: "AP8=", Encoding: "base64"}}}, tree{"b": regular("\x00\xff")}},
		"put a symlink":       {[]edit.Change{{Put: &edit.Put{Path: "link", Content: "run.sh", Mode: edit.ModeSymlink}}}, tree{"link": {edit.ModeSymlink, "run.sh"}}},
		"symlink to file":     {[]edit.Change{{Put: &edit.Put{Path: "link", Content: "x", Mode: edit.ModeRegular}}}, tree{"link": regular("x")}},
		"delete a file":       {[]edit.Change{remove("src/a.go")}, tree{"src/a.go": gone}},
		"delete a directory":  {[]edit.Change{remove("src")}, tree{"src/a.go": gone, "src/b.go": gone, "src/deep/c.go": gone}},
		"delete a submodule":  {[]edit.Change{remove("vendor/module")}, tree{"vendor/module": gone}},
		"delete, then put in": {[]edit.Change{remove("src"), put("src/new.go", "x")}, tree{"src/a.go": gone, "src/b.go": gone, "src/deep/c.go": gone, "src/new.go": regular("x")}},
		"delete, put it back": {[]edit.Change{remove("src"), put("src/a.go", "package a\n")}, tree{"src/b.go": gone, "src/deep/c.go": gone}},
		"the last file below becomes a file": {
			[]edit.Change{remove("src/deep/c.go"), put("src/deep", "x")}, tree{"src/deep/c.go": gone, "src/deep": regular("x")},
		},
		"a file becomes a directory": {[]edit.Change{remove("src.go"), put("src.go/x", "x")}, tree{"src.go": gone, "src.go/x": regular("x")}},
		"move a file":                {[]edit.Change{move("run.sh", "bin/run")}, tree{"run.sh": gone, "bin/run": {edit.ModeExecutable, "#!/bin/sh\n"}}},
		"move a symlink":             {[]edit.Change{move("link", "l")}, tree{"link": gone, "l": {edit.ModeSymlink, "README.md"}}},
		"move a submodule":           {[]edit.Change{move("vendor/module", "m")}, tree{"vendor/module": gone, "m": {edit.ModeSubmodule, commit}}},
		"move a directory": {
			[]edit.Change{move("src", "lib/go")},
			tree{
				"src/a.go": gone, "src/b.go": gone, "src/deep/c.go": gone,
				"lib/go/a.go": regular("package a\n"), "lib/go/b.go": regular("package a // b\n"), "lib/go/deep/c.go": regular("package c\n"),
			},
		},
		"move, then replace": {
			[]edit.Change{move("src/a.go", "src/z.go"), replace("package a", "package z", "src/z.go")},
			tree{"src/a.go": gone, "src/z.go": regular("package z\n")},
		},
		"put, then move its directory": {
			[]edit.Change{put("new/x", "x"), move("new", "old")}, tree{"old/x": regular("x")},
		},
		"move away and in": {
			[]edit.Change{move("src/deep", "deep"), move("README.md", "src/deep/README")},
			tree{"src/deep/c.go": gone, "deep/c.go": regular("package c\n"), "README.md": gone, "src/deep/README": regular("read me\n")},
		},
		"move after delete of what was there": {[]edit.Change{remove("src"), move("run.sh", "src/run")}, tree{
			"src/a.go": gone, "src/b.go": gone, "src/deep/c.go": gone, "run.sh": gone, "src/run": {edit.ModeExecutable, "#!/bin/sh\n"},
		}},
		"replace": {
			[]edit.Change{replace("package", "PACKAGE", "src/**/*.go")},
			tree{"src/a.go": regular("PACKAGE a\n"), "src/b.go": regular("PACKAGE a // b\n"), "src/deep/c.go": regular("PACKAGE c\n")},
		},
		"replace passes over binary files, symlinks and submodules": {[]edit.Change{replace("README", "X", "**"), replace("PNG", "X", "**"), replace("c0ffee", "X", "**")}, tree{}},
		"replace keeps the mode":                                    {[]edit.Change{replace("sh", "bash", "run.sh")}, tree{"run.sh": {edit.ModeExecutable, "#!/bin/bash\n"}}},
		"replace at the root only":                                  {[]edit.Change{replace("package", "X", "*.go")}, tree{"src.go": regular("X src\n")}},
		"replace with braces":                                       {[]edit.Change{replace("package", "X", "src/{a,b}.go")}, tree{"src/a.go": regular("X a\n"), "src/b.go": regular("X a // b\n")}},
		"replace by two globs once":                                 {[]edit.Change{replace("a", "aa", "src/a.go", "src/a*")}, tree{"src/a.go": regular("paackaage aa\n")}},
		"replace in a directory's name":                             {[]edit.Change{replace("package", "X", "src")}, tree{}},
		"replace matches nothing":                                   {[]edit.Change{replace("zzz", "y", "**"), replace("package", "y", "*.rs", "no/such/**", "no/such")}, tree{}},
		"replace literally":                                         {[]edit.Change{replace(".", "$1", "src/deep/*", "README.md")}, tree{}},
		"replace by an expression":                                  {[]edit.Change{replaceRegexp(`package (\w+)`, "${1}kage $$", "src/a.go")}, tree{"src/a.go": regular("akage $\n")}},
		"replace at line starts":                                    {[]edit.Change{replaceRegexp(`(?m)^`, "# ", "README.md")}, tree{"README.md": regular("# read me\n# ")}},
		"replace by itself":                                         {[]edit.Change{replaceRegexp(`p`, "p", "**")}, tree{}},
		"replace there and back":                                    {[]edit.Change{replace("package", "X", "src.go"), replace("X", "package", "src.go")}, tree{}},
		"replace sees earlier changes":                              {[]edit.Change{put("src/n.go", "package n"), replace("package n", "package m", "src/*.go")}, tree{"src/n.go": regular("package m")}},
		"replace does not see the gone":                             {[]edit.Change{remove("src/a.go"), replace("package a\n", "X", "src/*")}, tree{"src/a.go": gone}},
		"replace grows a long match":                                {[]edit.Change{replaceRegexp(`(?s)(.*)`, "$1$1", "src.go")}, tree{"src.go": regular("package src\npackage src\n")}},
		"patch after put":                                           {[]edit.Change{put("x", "a\n"), patch(diffX)}, tree{"x": regular("b\n")}},
		"patch after patch":                                         {[]edit.Change{patch(newX), patch(strings.ReplaceAll(diffX, "-a", "-x"))}, tree{"x": regular("b\n")}},
		"patch there, replace back":                                 {[]edit.Change{put("x", "a\n"), patch(diffX), replace("b", "a", "x")}, tree{"x": regular("a\n")}},
		"a mode and back":                                           {[]edit.Change{patch(mode("src.go", "100644", "100755")), patch(mode("src.go", "100755", "100644"))}, tree{}},
		"patch makes the last a file":                               {[]edit.Change{patch("diff --git a/src/deep/c.go b/src/deep\nsimilarity index 100%\nrename from src/deep/c.go\nrename to src/deep\n")}, tree{"src/deep/c.go": gone, "src/deep": regular("package c\n")}},
		"a directory of one, then a put":                            {[]edit.Change{move("src/deep/c.go", "c.go"), put("src/deep", "x")}, tree{"src/deep/c.go": gone, "c.go": regular("package c\n"), "src/deep": regular("x")}},
	} {
		got, err := apply(t, sample(), tc.changes...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(edited(tc.want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func mode(path, from, to string) string {
	return "diff --git a/" + path + " b/" + path + "\nold mode " + from + "\nnew mode " + to + "\n"
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		changes []edit.Change
		says    string
	}{
		"validates first":                 {[]edit.Change{put("../x", "")}, "changes[0].put.path: "},
		"put over a directory":            {[]edit.Change{put("src", "x")}, `changes[0].put.path: "src" is a directory`},
		"put below a file":                {[]edit.Change{put("README.md/x", "x")}, `changes[0].put.path: "README.md/x" cannot be made, because "README.md" is a file`},
		"put far below a file":            {[]edit.Change{put("src/a.go/b/c", "x")}, `because "src/a.go" is a file`},
		"put below a symlink":             {[]edit.Change{put("link/x", "x")}, `because "link" is a file`},
		"put over a submodule":            {[]edit.Change{put("vendor/module", "x")}, "is a submodule"},
		"put into a submodule":            {[]edit.Change{put("vendor/module/x", "x")}, `inside of the submodule "vendor/module"`},
		"put over a symlink, no mode":     {[]edit.Change{put("link", "x")}, `changes[0].put.mode: "link" is a symbolic link; say "120000"`},
		"put over what a move made":       {[]edit.Change{move("README.md", "n"), put("n/x", "x")}, `because "n" is a file`},
		"delete what is not there":        {[]edit.Change{put("a", ""), remove("nope")}, `changes[1].delete.path: there is no "nope" to delete`},
		"delete below a file":             {[]edit.Change{remove("README.md/x")}, "there is no"},
		"delete an emptied directory":     {[]edit.Change{remove("src/deep/c.go"), remove("src/deep")}, `there is no "src/deep" to delete`},
		"move what is not there":          {[]edit.Change{move("nope", "x")}, `changes[0].move.from: there is no "nope" to move`},
		"move onto a file":                {[]edit.Change{move("run.sh", "README.md")}, `changes[0].move.to: "README.md" exists already`},
		"move onto a directory":           {[]edit.Change{move("run.sh", "src")}, "exists already and is a directory"},
		"move below a file":               {[]edit.Change{move("run.sh", "README.md/run")}, `because "README.md" is a file`},
		"move into a submodule":           {[]edit.Change{move("run.sh", "vendor/module/run")}, "submodule"},
		"move a symlink to .gitmodules":   {[]edit.Change{move("link", ".gitmodules")}, "cannot be a symbolic link"},
		"move onto what a put made":       {[]edit.Change{put("n/x", ""), move("run.sh", "n/x/y")}, "cannot be below"},
		"move makes paths too long":       {[]edit.Change{move("src", strings.Repeat("x", 4090))}, "would have 4100 bytes"},
		"move twice":                      {[]edit.Change{move("src", "n"), move("src/a.go", "b")}, "gone already"},
		"patch of what is not there":      {[]edit.Change{patch(diffX)}, `changes[0].patch: "x": the patch changes "x", which is not there`},
		"patch of a directory":            {[]edit.Change{patch(strings.ReplaceAll(diffX, "/x", "/src"))}, "it is a directory"},
		"patch of a submodule":            {[]edit.Change{patch(strings.ReplaceAll(diffX, "/x", "/vendor/module"))}, "is a submodule"},
		"patch makes what is there":       {[]edit.Change{patch(strings.ReplaceAll(newX, "/x", "/README.md"))}, `"README.md" exists already`},
		"patch makes a file below one":    {[]edit.Change{patch(strings.ReplaceAll(newX, "/x", "/README.md/x"))}, `because "README.md" is a file`},
		"patch makes a file of a dir":     {[]edit.Change{patch(strings.ReplaceAll(newX, "/x", "/src"))}, "exists already and is a directory"},
		"patch of another version":        {[]edit.Change{patch(strings.ReplaceAll(diffX, "/x", "/README.md"))}, `changes[0].patch: "README.md", hunk 1 (@@ -1,1 +1,1 @@): its old lines are not at the beginning`},
		"patch takes a link for a file":   {[]edit.Change{patch("diff --git a/link b/link\nold mode 100644\nnew mode 100755\n")}, "takes \"link\" for mode 100644, and it has 120000"},
		"patch makes a file a link":       {[]edit.Change{patch(mode("README.md", "100644", "120000"))}, "only by deleting and making it anew"},
		"patch renames a link badly":      {[]edit.Change{patch("diff --git a/link b/.gitmodules\nsimilarity index 100%\nrename from link\nrename to .gitmodules\n")}, "cannot be a symbolic link"},
		"patch deletes only a part":       {[]edit.Change{patch("diff --git a/src/a.go b/src/a.go\ndeleted file mode 100644\n")}, "does not remove all of its lines"},
		"patch makes a link nowhere":      {[]edit.Change{patch("diff --git a/n b/n\nnew file mode 120000\nindex 0000000..e69de29\n")}, "no target"},
		"patch after a change in the way": {[]edit.Change{put("src/a.go", "other\n"), patch("--- a/src/a.go\n+++ b/src/a.go\n@@ -1 +1 @@\n-package a\n+package b\n")}, "hunk 1"},
	} {
		_, err := apply(t, sample(), tc.changes...)
		if err == nil || fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestApplyLimits(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		limits  edit.Limits
		changes []edit.Change
		says    string
	}{
		"files of a delete":    {edit.Limits{Files: 2}, []edit.Change{remove("src")}, "changes[0].delete.path: the changes touch more than 2 files"},
		"files of a move":      {edit.Limits{Files: 5}, []edit.Change{move("src", "lib")}, "changes[0].move.to: the changes touch more than 5 files"},
		"a file too large":     {edit.Limits{BlobBytes: 9}, []edit.Change{replace("package", "x", "src/a.go")}, `"src/a.go" is larger than 9 bytes`},
		"a file grows":         {edit.Limits{BlobBytes: 20}, []edit.Change{replace("a", strings.Repeat("b", 9), "src/a.go")}, `"src/a.go" would grow over 20 bytes`},
		"an expression grows":  {edit.Limits{BlobBytes: 20}, []edit.Change{replaceRegexp("(a)", "$1$1$1$1$1$1", "src/a.go")}, "would grow"},
		"reads too much":       {edit.Limits{ReadBytes: 20}, []edit.Change{replace("package", "x", "src/**")}, "read more than 20 bytes"},
		"writes too much":      {edit.Limits{WriteBytes: 20}, []edit.Change{replace("package", "PACKAGE", "src/**")}, "write more than 20 bytes"},
		"a patch reads":        {edit.Limits{BlobBytes: 9}, []edit.Change{patch(strings.ReplaceAll(diffX, "/x", "/src/a.go"))}, "larger than 9 bytes"},
		"a patch makes":        {edit.Limits{BlobBytes: 1}, []edit.Change{patch(newX)}, "at most 1 are allowed for one file"},
		"globs match too long": {edit.Limits{GlobSteps: 100}, []edit.Change{replace("package", "x", "src/a.go", "**/*[a]*[b]*"), replace("a", "b", "**/*")}, "the globs take too long"},
		"a million for a byte": {edit.Limits{}, []edit.Change{put("x", strings.Repeat("a", 1<<20)), replaceRegexp("a", strings.Repeat("b", 1<<20), "x")}, "would grow"},
	} {
		_, err := edit.Apply(t.Context(), sample(), tc.changes, tc.limits)
		if err == nil || fault.KindOf(err) != fault.TooLarge || !strings.Contains(fault.Public(err), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := edit.Apply(t.Context(), sample(), []edit.Change{replace("package", "p", "src/**"), replace("p", "package", "src/**")}, edit.Limits{WriteBytes: 60, ReadBytes: 40}); err != nil {
		t.Errorf("what was written again counts twice: %v", err)
	}
}

// broken fails after some calls, and counts them.
type broken struct {
	tree
	after int
	err   error
}

func (b *broken) fail() error {
	if b.after--; b.after < 0 {
		return b.err
	}
	return nil
}

func (b *broken) Entry(ctx context.Context, path string) (edit.Entry, bool, error) {
	if err := b.fail(); err != nil {
		return edit.Entry{}, false, err
	}
	return b.tree.Entry(ctx, path)
}

func (b *broken) Files(ctx context.Context, dir string) ([]edit.Entry, error) {
	if err := b.fail(); err != nil {
		return nil, err
	}
	return b.tree.Files(ctx, dir)
}

func (b *broken) Blob(ctx context.Context, id string, limit int64) ([]byte, error) {
	if err := b.fail(); err != nil {
		return nil, err
	}
	return b.tree.Blob(ctx, id, limit)
}

// Whichever of the source's answers is an error, it comes back with its kind.
func TestSourceErrors(t *testing.T) {
	t.Parallel()
	changes := []edit.Change{
		remove("src/deep/c.go"), put("src/deep", "x"), move("src", "lib"), put("src/n", "x"), replace("package", "p", "lib/*.go", "README.md", "**"),
		patch(strings.ReplaceAll(strings.ReplaceAll(diffX, "/x", "/README.md"), "-a", "-read me")),
	}
	failure := fault.Newf(fault.Unavailable, "the server went away")
	for after := 0; ; after++ {
		source := &broken{tree: sample(), after: after, err: failure}
		_, err := edit.Apply(t.Context(), source, changes, edit.Limits{})
		if err == nil {
			if after < 15 || source.after < 0 {
				t.Errorf("only %d calls, or an error was lost", after)
			}
			return
		}
		if fault.KindOf(err) != fault.Unavailable {
			t.Fatalf("after %d calls: %v", after, err)
		}
	}
}

func TestApplyEndsWithItsContext(t *testing.T) {
	t.Parallel()
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	for name, change := range map[string]edit.Change{"put": put("a", ""), "replace": replace("a", "b", "**")} {
		if _, err := edit.Apply(ctx, sample(), []edit.Change{change}, edit.Limits{}); !errors.Is(err, stop) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
