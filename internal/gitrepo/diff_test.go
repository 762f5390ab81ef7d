package gitrepo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

var hunkTail = regexp.MustCompile(`(?m)^(@@ .* @@).*$`)

// clone is a bare copy of the repository for the git CLI, with main in its index.
func (b *bench) clone() string {
	b.t.Helper()
	dir := b.t.TempDir()
	for _, args := range [][]string{{"clone", "-q", "--bare", b.git.Path("acme/web"), "."}, {"read-tree", "main"}} {
		if _, err := gittest.Git(b.t.Context(), dir, nil, args...); err != nil {
			b.t.Fatal(err)
		}
	}
	return dir
}

func (b *bench) snapshot() *gitrepo.Snapshot {
	b.t.Helper()
	snapshot, err := b.client.Fetch(b.t.Context(), remote, gitrepo.Want{Ref: "refs/heads/main", Depth: 1})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := snapshot.Close(); err != nil {
			b.t.Error(err)
		}
	})
	return snapshot
}

// applied is the tree that git apply makes of a diff on main.
func applied(dir, diff string) (string, error) {
	ctx := context.Background()
	_, err := gittest.Git(ctx, dir, nil, "read-tree", "main")
	if err == nil && diff != "" {
		_, err = gittest.Git(ctx, dir, strings.NewReader(diff), "apply", "--cached", "-")
	}
	if err != nil {
		return "", err
	}
	return gittest.Git(ctx, dir, nil, "write-tree")
}

// TestDiffIsWhatGitApplies: git apply makes the very tree that Build makes, of random changes to random files.
func TestDiffIsWhatGitApplies(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	files := map[string]string{"long": numbered(3000), "empty": "", "crlf": strings.ReplaceAll(numbered(30), "\n", "\r\n")}
	for path, file := range begin() {
		files[path] = file.content
	}
	b.create(files)
	dir, snapshot := b.clone(), b.snapshot()
	rapid.Check(t, func(r *rapid.T) {
		changes := drawChanges(r, files)
		var diff bytes.Buffer
		stat, err := snapshot.Diff(context.Background(), &diff, changes, 1<<30)
		if err != nil || stat.Truncated {
			r.Fatalf("%+v, %v", stat, err)
		}
		commit, err := snapshot.Build(context.Background(), changes, spec("j1"))
		if err != nil {
			r.Fatal(err)
		}
		if tree, err := applied(dir, diff.String()); err != nil || tree != commit.Tree {
			r.Fatalf("git apply made %s of it (%v), Build %s\n%s", tree, err, commit.Tree, diff.String())
		}
		checkStat(r, dir, diff.String(), stat)
	})
}

// checkStat compares with git's own count of the diff.
func checkStat(r *rapid.T, dir, diff string, stat gitrepo.DiffStat) {
	if diff == "" {
		return
	}
	numbers, err := gittest.Git(context.Background(), dir, strings.NewReader(diff), "apply", "--numstat", "-z", "-")
	if err != nil {
		r.Fatal(err)
	}
	var added, removed int
	for line := range strings.SplitSeq(strings.TrimSuffix(numbers, "\x00"), "\x00") {
		var a, d int
		if _, err := fmt.Sscanf(line, "%d\t%d", &a, &d); err != nil {
			r.Fatalf("%q: %v", line, err)
		}
		added, removed = added+a, removed+d
	}
	if stat.Added != added || stat.Removed != removed {
		r.Errorf("%+v, git counts +%d -%d", stat, added, removed)
	}
}

// drawChanges draws changes of every kind, but none of binary files, of which a diff holds nothing.
func drawChanges(r *rapid.T, files map[string]string) []edit.FileChange {
	if rapid.Bool().Draw(r, "swap") {
		tree := begin()
		changes, _ := swap(r, tree)
		for i := range changes {
			changes[i].Content = bytes.ReplaceAll(changes[i].Content, []byte{0}, []byte{1})
		}
		return changes
	}
	paths := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"long", "empty", "crlf", "a/a/a", "b"}), 1, 3, rapid.ID).Draw(r, "paths")
	var changes []edit.FileChange
	for _, path := range paths {
		lines := strings.SplitAfter(files[path], "\n")
		for range rapid.IntRange(0, 12).Draw(r, "edits") {
			at := rapid.IntRange(0, len(lines)).Draw(r, "at")
			to := min(len(lines), at+rapid.IntRange(0, 5).Draw(r, "remove"))
			add := rapid.SliceOfN(rapid.SampledFrom([]string{"\n", "x\n", "line 7\n", "}\n", "no end", "cr\r\n"}), 0, 4).Draw(r, "add")
			lines = slices.Concat(lines[:at], add, lines[to:])
		}
		mode := rapid.SampledFrom([]edit.Mode{edit.ModeRegular, edit.ModeExecutable}).Draw(r, "mode")
		if rapid.IntRange(0, 9).Draw(r, "shuffle") == 0 {
			lines = rapid.Permutation(lines).Draw(r, "lines")
		}
		changes = append(changes, edit.FileChange{Path: path, Mode: mode, Content: []byte(strings.Join(lines, ""))})
	}
	return changes
}

func numbered(lines int) string {
	var text strings.Builder
	for i := range lines {
		fmt.Fprintf(&text, "line %d\n", i%(lines/2))
	}
	return text.String()
}

// TestDiffReadsAsGits: of changes that leave no choice the diff is git's to the byte.
func TestDiffReadsAsGits(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	b.create(map[string]string{
		"edited": numbered(60), "with space": "a\nb\n", "mode": "x\n", "both": "1\n2\n", "gone": "bye\n", "becomes-link": "text\n",
		"binary": "a\x00b", "dir/file": "in a directory\n", "moved": "moves\n", "end": "no newline", "empty-gone": "", "ünï": "1\n",
	})
	dir, snapshot := b.clone(), b.snapshot()
	moved, found, err := snapshot.Entry(t.Context(), "moved")
	if err != nil || !found {
		t.Fatal(found, err)
	}
	text := strings.Replace(numbered(60), "line 3\n", "line three\n", 1)
	changes := []edit.FileChange{
		put("edited", "first\n"+strings.TrimSuffix(text, "line 29\n")), put("with space", "a\nc\n"),
		{Path: "mode", Mode: edit.ModeExecutable, Content: []byte("x\n")},
		{Path: "both", Mode: edit.ModeExecutable, Content: []byte("1\n3\n")},
		{Path: "gone", Deleted: true},
		{Path: "becomes-link", Mode: edit.ModeSymlink, Content: []byte("target")},
		put("binary", "a\x00c"), put("new-binary", "\x00"), put("end", "no newline\nbut now\n"), put("new", "new"), put("empty", ""),
		{Path: "dir/file", Deleted: true},
		put("dir", "a file now\n"),
		{Path: "moved", Deleted: true},
		{Path: "moved-to/here", Mode: moved.Mode, ID: moved.ID},
		{Path: "empty-gone", Deleted: true},
		put("quo\"te\tand\ntab", "x\n"), put("ünï", "2\n"),
		{Path: "module", Mode: edit.ModeSubmodule, ID: "0123456789abcdef0123456789abcdef01234567"},
		put("same-as-before", ""),
		{Path: "nothing", Deleted: true},
	}
	var diff bytes.Buffer
	stat, err := snapshot.Diff(t.Context(), &diff, changes, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	commit, err := snapshot.Build(t.Context(), changes, spec("j1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.client.Push(t.Context(), remote, gitrepo.PushSpec{Branch: "main", Old: snapshot.Commit(), Commit: commit}); err != nil {
		t.Fatal(err)
	}
	if tree := b.cli("rev-parse", "main^{tree}"); tree != commit.Tree {
		t.Errorf("Tree is %s, the server has %s", commit.Tree, tree)
	}
	_, err = gittest.Git(t.Context(), dir, nil, "fetch", "-q", b.git.Path("acme/web"), "main")
	want, err2 := gittest.Git(t.Context(), dir, nil, "-c", "core.quotePath=false", "-c", "diff.suppressBlankEmpty=false", "diff", "--no-renames", "--abbrev=7", "main", "FETCH_HEAD")
	if err = errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	// A hunk of git's names the function that it is in, after the second @@; and its order is that of trees.
	want = hunkTail.ReplaceAllString(want, "$1")
	if difference := cmp.Diff(sections(want), sections(diff.String())); difference != "" {
		t.Error(difference)
	}
	if want := (gitrepo.DiffStat{Files: 20, Added: 13, Removed: 10}); stat != want {
		t.Errorf("%+v, want %+v", stat, want)
	}
}

func sections(diff string) []string {
	parts := strings.Split("\n"+strings.TrimSuffix(diff, "\n"), "\ndiff --git ")
	slices.Sort(parts)
	return parts
}

// TestDiffIsBounded: it is cut at the end of a line, and what was cut is counted all the same.
func TestDiffIsBounded(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	huge := strings.Repeat("0123456789abcdef\n", 600_000) // 10 MB
	var words strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&words, "%d\n", i*7919%50_021)
	}
	b.create(map[string]string{"a": numbered(60), "huge": huge, "words": words.String()})
	snapshot := b.snapshot()
	changes := []edit.FileChange{put("a", ""), put("huge", huge+"more\n"), put("words", strings.ReplaceAll(words.String(), "7", "seven")), put("z", "z\n")}
	var whole bytes.Buffer
	stat, err := snapshot.Diff(t.Context(), &whole, changes, 1<<30)
	if err != nil || stat.Truncated {
		t.Fatalf("%+v, %v", stat, err)
	}
	if stat.Added < 610_000 || stat.Removed < 610_000 || !strings.Contains(whole.String(), "Binary files a/huge and b/huge differ\n") {
		t.Errorf("%+v", stat)
	}
	for _, limit := range []int{0, 30, 5000, whole.Len() - 1} {
		var diff bytes.Buffer
		cut, err := snapshot.Diff(t.Context(), &diff, changes, limit)
		if err != nil || !cut.Truncated || cut.Added != stat.Added || cut.Removed != stat.Removed || cut.Files != 4 {
			t.Errorf("%d bytes: %+v, %v", limit, cut, err)
		}
		if diff.Len() > limit || !bytes.HasPrefix(whole.Bytes(), diff.Bytes()) || diff.Len() > 0 && !bytes.HasSuffix(diff.Bytes(), []byte("\n")) {
			t.Errorf("%d bytes: %d are written, or not whole lines of the whole", limit, diff.Len())
		}
	}
	if cut, err := snapshot.Diff(t.Context(), new(bytes.Buffer), changes, whole.Len()); err != nil || cut.Truncated {
		t.Errorf("one that fits: %+v, %v", cut, err)
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, os.ErrPermission }

func TestDiffFails(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	b.create(map[string]string{"a": "a\n"})
	snapshot := b.snapshot()
	if _, err := snapshot.Diff(t.Context(), brokenWriter{}, []edit.FileChange{put("a", "b\n")}, 1000); fault.KindOf(err) != fault.Internal || !errors.Is(err, os.ErrPermission) {
		t.Errorf("a writer that fails: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(fault.Newf(fault.Canceled, "enough"))
	if _, err := snapshot.Diff(ctx, new(bytes.Buffer), []edit.FileChange{put("a", "b\n")}, 1000); fault.KindOf(err) != fault.Canceled {
		t.Errorf("a context that has ended: %v", err)
	}
}
