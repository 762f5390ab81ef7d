package edit_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

func numbered(from, to int) string {
	var out strings.Builder
	for i := from; i <= to; i++ {
		fmt.Fprintf(&out, "line %d\n", i)
	}
	return out.String()
}

func TestPatchPlaces(t *testing.T) {
	t.Parallel()
	const change = "--- a/f\n+++ b/f\n@@ -4,3 +4,3 @@\n line 4\n-line 5\n+LINE 5\n line 6\n"
	block := "line 4\nline 5\nline 6\n"
	for name, tc := range map[string]struct{ before, diff, want, says string }{
		"where it says":       {before: numbered(1, 9), diff: change, want: strings.Replace(numbered(1, 9), "line 5", "LINE 5", 1)},
		"further down":        {before: "new\nnew\n" + numbered(1, 9), diff: change, want: "new\nnew\n" + strings.Replace(numbered(1, 9), "line 5", "LINE 5", 1)},
		"further up":          {before: numbered(3, 9), diff: change, want: strings.Replace(numbered(3, 9), "line 5", "LINE 5", 1)},
		"the stated one of 2": {before: numbered(1, 6) + block, diff: change, want: strings.Replace(numbered(1, 6), "line 5", "LINE 5", 1) + block},
		"one of two, unclear": {before: "x\n" + numbered(1, 6) + block, diff: change, says: `"f", hunk 1 (@@ -4,3 +4,3 @@): its old lines are not where it says, and are in several other places`},
		"nowhere":             {before: numbered(1, 4), diff: change, says: "neither at line 4 nor elsewhere"},
		"other context":       {before: strings.Replace(numbered(1, 9), "line 6", "line six", 1), diff: change, says: "neither at line 4"},
		"other line ends":     {before: strings.ReplaceAll(numbered(1, 9), "\n", "\r\n"), diff: change, says: "neither at line 4"},
		"CRLF":                {before: strings.ReplaceAll(numbered(1, 9), "\n", "\r\n"), diff: strings.NewReplacer(" 4\n", " 4\r\n", " 5\n", " 5\r\n", " 6\n", " 6\r\n").Replace(change), want: strings.ReplaceAll(strings.Replace(numbered(1, 9), "line 5", "LINE 5", 1), "\n", "\r\n")},
		"second hunk":         {before: numbered(1, 9) + numbered(1, 9), diff: change + "@@ -9,2 +9,3 @@\n line 9\n+between\n line 1\n", want: strings.Replace(numbered(1, 9), "line 5", "LINE 5", 1) + "between\n" + numbered(1, 9)},
		"second hunk, nowhere": {
			before: numbered(1, 9), diff: change + "@@ -9,2 +9,3 @@\n line 9\n+between\n line 1\n", says: `"f", hunk 2 (@@ -9,2 +9,3 @@): its old lines are neither`,
		},
		"hunks out of order": {
			before: numbered(1, 30), diff: "--- a/f\n+++ b/f\n@@ -20,3 +20,3 @@\n line 20\n-line 21\n+x\n line 22\n@@ -4,3 +4,3 @@\n line 4\n-line 5\n+y\n line 6\n", says: "come before those of an earlier hunk",
		},
		"at the beginning":       {before: numbered(1, 9), diff: "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n+zero\n line 1\n line 2\n", want: "zero\n" + numbered(1, 9)},
		"beginning elsewhere":    {before: numbered(0, 9), diff: "--- a/f\n+++ b/f\n@@ -1,2 +1,3 @@\n+zero\n line 1\n line 2\n", says: "not at the beginning"},
		"at the end":             {before: numbered(1, 9), diff: "--- a/f\n+++ b/f\n@@ -8,2 +8,3 @@\n line 8\n line 9\n+line 10\n", want: numbered(1, 10)},
		"the end has moved":      {before: numbered(0, 9), diff: "--- a/f\n+++ b/f\n@@ -8,2 +8,3 @@\n line 8\n line 9\n+line 10\n", want: numbered(0, 10)},
		"end elsewhere":          {before: numbered(1, 10), diff: "--- a/f\n+++ b/f\n@@ -8,2 +8,3 @@\n line 8\n line 9\n+line 10\n", says: "not at the end of the file"},
		"the whole file":         {before: "a\n", diff: "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n", want: "b\n"},
		"not the whole file":     {before: "a\nb\n", diff: "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n", says: "holds the whole file"},
		"into an empty file":     {before: "", diff: "--- a/f\n+++ b/f\n@@ -0,0 +1 @@\n+b\n", want: "b\n"},
		"not into an empty file": {before: "a\n", diff: "--- a/f\n+++ b/f\n@@ -0,0 +1 @@\n+b\n", says: "the file is not empty"},
		"no line feed":           {before: "a\nb", diff: "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n\\ No newline at end of file\n", want: "a\nc"},
		"line feed added":        {before: "a\nb", diff: "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+b\n", want: "a\nb\n"},
		"line feed taken":        {before: "a\nb\n", diff: "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n+b\n\\ No newline at end of file\n", want: "a\nb"},
		"wrong about line feeds": {before: "a\nb\n", diff: "--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n", says: "not at the beginning"},
		"the last feed got lost": {before: "a\n", diff: "--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b", want: "b\n"},
		"names without a folder": {before: "a\n", diff: "--- f\n+++ f\n@@ -1 +1 @@\n-a\n+b\n", want: "b\n"},
		"text around": {
			before: "a\n", diff: "From 257cc5642cb1 Mon Sep 17 00:00:00 2001\nSubject: [PATCH] x\n\n---\n f | 2 +-\n\ndiff --git a/f b/f\nindex 7898192..6178079 100644\n--- a/f\n+++ b/f\n@@ -1 +1 @@\n-a\n+b\n-- \n2.39.5\n", want: "b\n",
		},
		"lines that look like headers": {
			before: "-- x\n-- y\nz\n", diff: "--- a/f\n+++ b/f\n@@ -1,3 +1,3 @@\n--- x\n--- y\n+++ x\n+++ y\n z\n", want: "++ x\n++ y\nz\n",
		},
	} {
		got, err := apply(t, files("f", tc.before), patch(tc.diff))
		switch {
		case tc.says != "":
			if fault.KindOf(err) != fault.Invalid || err == nil || !strings.Contains(fault.Public(err), tc.says) || strings.Contains(fault.Public(err), "…") {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case got["f"].Content != tc.want:
			t.Errorf("%s: %q, want %q", name, got["f"].Content, tc.want)
		}
	}
}

// gitDiff is git's own patch from one tree to another.
func gitDiff(tb testing.TB, before, after tree, options ...string) string {
	tb.Helper()
	dir := tb.TempDir()
	mustGit(tb, dir, "", "init", "-q")
	trees := make([]string, 2)
	for i, tree := range []tree{before, after} {
		mustGit(tb, dir, "", "rm", "-rqf", "--ignore-unmatch", ".")
		tree.checkout(tb, dir)
		mustGit(tb, dir, "", "add", "-A", ".")
		trees[i] = strings.TrimSpace(mustGit(tb, dir, "", "write-tree"))
	}
	return mustGit(tb, dir, "", append(append([]string{"diff"}, options...), trees[0], trees[1])...)
}

// gitApply is what git apply makes of a tree.
func gitApply(tb testing.TB, before tree, diff string) (tree, error) {
	tb.Helper()
	dir := tb.TempDir()
	mustGit(tb, dir, "", "init", "-q")
	before.checkout(tb, dir)
	if _, err := git(tb, dir, diff, "-c", "core.protectHFS=true", "-c", "core.protectNTFS=true", "apply", "--whitespace=nowarn"); err != nil {
		return nil, err
	}
	return readTree(tb, dir), nil
}

// Every patch that git writes between two trees is applied as git applies it.
func TestPatchesOfGit(t *testing.T) {
	t.Parallel()
	base := tree{
		"text":        {edit.ModeRegular, numbered(1, 40)},
		"script":      {edit.ModeRegular, "#!/bin/sh\necho\n"},
		"binary":      {edit.ModeRegular, "\x00\x01" + strings.Repeat("binary", 100)},
		"link":        {edit.ModeSymlink, "text"},
		"dir/one":     {edit.ModeRegular, numbered(1, 20)},
		"dir/two":     {edit.ModeRegular, numbered(20, 40)},
		"sp ace/ü.md": {edit.ModeRegular, "ü\r\nno feed"},
	}
	for name, change := range map[string]tree{
		"text":               {"text": {edit.ModeRegular, strings.NewReplacer("line 3\n", "LINE 3\n", "line 20\n", "", "line 40", "line 40\nline 41").Replace(numbered(1, 40))}},
		"new and deleted":    {"new/er": {edit.ModeRegular, "x\n"}, "empty": {edit.ModeRegular, ""}, "text": {}, "dir/one": {}},
		"mode":               {"script": {edit.ModeExecutable, "#!/bin/sh\necho\n"}},
		"mode and content":   {"script": {edit.ModeExecutable, "#!/bin/sh\necho hello\n"}},
		"binary":             {"binary": {edit.ModeRegular, "\x00\x01" + strings.Repeat("binary", 90) + "changed"}},
		"binary new":         {"binary2": {edit.ModeRegular, "\x00\xff\xfe"}},
		"binary deleted":     {"binary": {}},
		"symlink":            {"link": {edit.ModeSymlink, "dir/one"}},
		"symlink new":        {"link2": {edit.ModeSymlink, "../out"}},
		"symlink to file":    {"link": {edit.ModeRegular, "text\n"}},
		"file to symlink":    {"script": {edit.ModeSymlink, "text"}},
		"rename":             {"dir/one": {}, "moved/one": {edit.ModeRegular, numbered(1, 20)}},
		"rename and change":  {"dir/one": {}, "moved/one": {edit.ModeExecutable, numbered(1, 19) + "last\n"}},
		"names exchanged":    {"dir/one": {edit.ModeRegular, numbered(20, 40)}, "dir/two": {edit.ModeRegular, numbered(1, 20)}},
		"copy":               {"dir/copy": {edit.ModeRegular, numbered(1, 20) + "more\n"}, "dir/one": {edit.ModeRegular, "first\n" + numbered(1, 20)}},
		"no feed, CRLF":      {"sp ace/ü.md": {edit.ModeRegular, "ü\r\nno feed\r\nat all"}},
		"feed added":         {"sp ace/ü.md": {edit.ModeRegular, "ü\r\nno feed\n"}},
		"file to directory":  {"script": {}, "script/x": {edit.ModeRegular, "x\n"}},
		"directory to file":  {"dir/one": {}, "dir/two": {}, "dir": {edit.ModeRegular, "x\n"}},
		"everything deleted": {"text": {}, "script": {}, "binary": {}, "link": {}, "dir/one": {}, "dir/two": {}, "sp ace/ü.md": {}},
	} {
		after := tree{}
		for path, file := range base {
			after[path] = file
		}
		for path, file := range change {
			if file.Mode == "" {
				delete(after, path)
			} else {
				after[path] = file
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, options := range [][]string{{"--binary"}, {"--binary", "-M", "-C", "-C"}, {"--binary", "-U1", "--no-renames"}, {"--binary", "-B", "-M", "--histogram"}} {
				diff := gitDiff(t, base, after, options...)
				byGit, err := gitApply(t, base, diff)
				if err != nil || !cmp.Equal(byGit, after) {
					if name != "names exchanged" && name != "directory to file" {
						t.Errorf("%v: git itself: %v\n%s", options, err, cmp.Diff(after, byGit))
					}
				}
				got, err := apply(t, base, patch(diff))
				if err != nil || !cmp.Equal(got, after) {
					t.Errorf("%v: %v\n%s\n%s", options, err, cmp.Diff(after, got), diff)
				}
			}
		})
	}
}

// lines are drawn from few words, so that hunks find themselves in several places.
func someLines(least int) *rapid.Generator[[]string] {
	return rapid.SliceOfN(rapid.SampledFrom([]string{"a\n", "b\n", "c\n", "d\n", "e\r\n", "\n"}), least, 24)
}

// mutate makes a few changes to lines.
func mutate(rt *rapid.T, lines []string, label string) []string {
	mutated := append([]string(nil), lines...)
	for i := range rapid.IntRange(0, 3).Draw(rt, label+" edits") {
		at := rapid.IntRange(0, len(mutated)).Draw(rt, label+" at "+strconv.Itoa(i))
		word := rapid.SampledFrom([]string{"a\n", "x\n", "y\n", "b\r\n"}).Draw(rt, label+" word")
		switch action := rapid.IntRange(0, 2).Draw(rt, label+" action"); {
		case action == 0 || at == len(mutated):
			mutated = append(mutated[:at:at], append([]string{word}, mutated[at:]...)...)
		case action == 1:
			mutated[at] = word
		default:
			mutated = append(mutated[:at:at], mutated[at+1:]...)
		}
	}
	return mutated
}

// Random patches on files that have moved on: what we take and git takes too, ends the same.
func TestRandomPatchesAgainstGit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	both, ours, theirs := 0, 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		base := someLines(0).Draw(rt, "base")
		join := func(lines []string, label string) string {
			text := strings.Join(lines, "")
			if rapid.IntRange(0, 4).Draw(rt, label+" feed") == 0 {
				text = strings.TrimSuffix(text, "\n")
			}
			return text
		}
		before, after := join(base, "base"), join(mutate(rt, base, "after"), "after")
		moved := before
		if rapid.Bool().Draw(rt, "moved on") {
			moved = join(mutate(rt, base, "moved"), "moved")
		}
		context := rapid.SampledFrom([]string{"-U3", "-U1", "-U2"}).Draw(rt, "context")
		write("before", before)
		write("after", after)
		diff, _ := git(t, dir, "", "diff", "--no-index", context, "before", "after") // 1 where they differ
		diff = strings.NewReplacer("a/before", "a/f", "b/after", "b/f").Replace(diff)
		if diff == "" {
			return
		}
		got, err := apply(t, files("f", moved), patch(diff))
		write("f", moved)
		_, gitErr := git(t, dir, diff, "apply", "--whitespace=nowarn")
		switch {
		case err == nil && gitErr == nil:
			both++
			byGit, readErr := os.ReadFile(filepath.Join(dir, "f"))
			if readErr != nil || got["f"].Content != string(byGit) {
				rt.Fatalf("%q\n%s\nours: %q\ngit:  %q", moved, diff, got["f"].Content, byGit)
			}
			if moved == before && string(byGit) != after {
				rt.Fatalf("git made %q of %q, not %q", byGit, before, after)
			}
		case err == nil:
			ours++
			rt.Fatalf("git refuses: %v\n%q\n%s\nours: %q", gitErr, moved, diff, got["f"].Content)
		case gitErr == nil:
			theirs++
			if moved == before {
				rt.Fatalf("on the very file that it was made from: %v\n%q\n%s", err, moved, diff)
			}
		}
	})
	t.Logf("taken by both %d, by git alone %d, by us alone %d", both, theirs, ours)
	if both == 0 {
		t.Error("no patch was taken: the comparison compares nothing")
	}
}

func FuzzPatch(f *testing.F) {
	f.Add(diffX, "a\n")
	f.Add(newX, "")
	f.Add("diff --git a/f b/g\nsimilarity index 100%\nrename from f\nrename to g\n", "x")
	f.Add("diff --git a/f b/f\nindex 7898192261678079..6178079822 100644\nGIT binary patch\nliteral 1\nIcmZQzU|?im0000$\n\ndelta 3\nKcmZQzU|?im0000$\n\n", "\x00")
	f.Add("diff --git \"a/\\303\\274\" \"b/\\303\\274\"\nold mode 100644\nnew mode 100755\n", "")
	f.Add("--- a/f\n+++ b/f\n@@ -1,2 +1,2 @@\n a\n-b\n\\ No newline at end of file\n+c\n", "a\nb")
	f.Add("--- a/f\n+++ b/f\n@@ -9223372036854775807,1 +1,2 @@\n a\n+b\n", "a\n")
	f.Fuzz(func(t *testing.T, diff, content string) {
		source := tree{"f": {edit.ModeRegular, content}, "x": {edit.ModeRegular, "a\n"}, "l": {edit.ModeSymlink, "f"}}
		if _, err := apply(t, source, patch(diff)); err != nil && fault.KindOf(err) != fault.Invalid && fault.KindOf(err) != fault.TooLarge {
			t.Errorf("%v", err)
		}
	})
}

// Patches of git with lines lost, doubled, exchanged or taken from elsewhere: what we take and git takes too, ends the same. We
// alone take a few: damage to the reverse half of a binary diff, /dev/null without a "new file mode" line.
func TestDamagedPatchesAgainstGit(t *testing.T) {
	t.Parallel()
	before := tree{
		"text": {edit.ModeRegular, numbered(1, 12)}, "dir/one": {edit.ModeRegular, numbered(1, 9)}, "script": {edit.ModeExecutable, "#!/bin/sh\n"},
		"link": {edit.ModeSymlink, "text"}, "binary": {edit.ModeRegular, "\x00\x01\x02"}, "f": {edit.ModeRegular, "a\nb"},
	}
	after := tree{
		"text": {edit.ModeRegular, strings.Replace(numbered(0, 12), "line 11\n", "", 1)}, "moved": {edit.ModeRegular, numbered(1, 8) + "x\n"},
		"script": {edit.ModeRegular, "#!/bin/sh\nx\n"}, "link": {edit.ModeSymlink, "f"}, "binary": {edit.ModeRegular, "\x00\x01\x03"}, "f": {edit.ModeRegular, "a\nc\n"},
		"new": {edit.ModeRegular, "new\n"}, "empty": {edit.ModeRegular, ""},
	}
	lines := strings.SplitAfter(gitDiff(t, before, after, "--binary", "-M"), "\n")
	both := 0
	rapid.Check(t, func(rt *rapid.T) {
		damaged := append([]string(nil), lines...)
		for range rapid.IntRange(1, 3).Draw(rt, "damages") {
			at, other := rapid.IntRange(0, len(damaged)-1).Draw(rt, "at"), rapid.IntRange(0, len(damaged)-1).Draw(rt, "other")
			switch rapid.IntRange(0, 3).Draw(rt, "damage") {
			case 0:
				damaged = append(damaged[:at:at], damaged[at+1:]...)
			case 1:
				damaged[at], damaged[other] = damaged[other], damaged[at]
			case 2:
				damaged[at] = damaged[other]
			case 3:
				damaged = append(damaged[:at:at], append([]string{damaged[other]}, damaged[at:]...)...)
			}
		}
		diff := strings.Join(damaged, "")
		got, err := apply(t, before, patch(diff))
		if err != nil {
			return
		}
		byGit, err := gitApply(t, before, diff)
		if err != nil {
			return
		}
		if both++; !cmp.Equal(byGit, got) {
			rt.Fatalf("%s\n(-git +ours) %s", diff, cmp.Diff(byGit, got))
		}
	})
	t.Logf("%d taken by both", both)
}
