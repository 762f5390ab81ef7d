package gitrepo_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// version is a file of the model.
type version struct {
	mode    edit.Mode
	content string
}

// names are components of paths that sort in the ways that trees are told apart by, and that quoting and encodings can break.
var names = []string{"a", "a.b", "a-b", "a0", "A", "b", "sub", "with space", `quo"te`, "ünï", "zz", "~", "0"}

// rawNames can be in a tree, but callers cannot name them.
var rawNames = append([]string{"latin-\xe9", "\xff", `back\slash`, "tab\tbed", "new\nline"}, names...)

// begin is the tree that every check starts from.
func begin() map[string]version {
	files := map[string]version{}
	for _, path := range []string{"a/a/a", "a/a.b", "a.b", "a0/a", "sub/b/0", "sub/b/zz", "sub/a", "b", "zz/with space/~"} {
		files[path] = version{edit.ModeRegular, "one\ntwo " + path + "\n"}
	}
	return files
}

// differential applies the same changes by Gitsmith and by the git CLI, on branches of one repository.
type differential struct {
	*bench
	theirs string // the CLI's repository
	checks atomic.Int64
}

// TestEditsAreTheGitCommandLines makes 300 random edits by both: the trees are the same.
func TestEditsAreTheGitCommandLines(t *testing.T) {
	t.Parallel()
	const edits = 3
	checks := int64(100)
	if testing.Short() {
		checks /= 5 // as rapid does
	}
	d := &differential{bench: start(t, gitrepo.Config{CacheDir: t.TempDir()}), theirs: t.TempDir()}
	files := map[string]string{}
	for path, file := range begin() {
		files[path] = file.content
	}
	d.create(files)
	if _, err := gittest.Git(t.Context(), "", nil, "clone", "-q", "--bare", d.git.Path("acme/web"), d.theirs); err != nil {
		t.Fatal(err)
	}
	first := d.cli("rev-parse", "main")
	rapid.Check(t, func(r *rapid.T) {
		d.v0.Store(rapid.Bool().Draw(r, "version 0"))
		branch := fmt.Sprintf("check%d", d.checks.Add(1))
		d.cli("update-ref", "refs/heads/"+branch, first)
		d.their(r, "update-ref", "refs/heads/"+branch, first)
		tree := begin()
		for i := range edits {
			before := slices.Sorted(maps.Keys(tree))
			var declared []edit.Change
			var raw []edit.FileChange
			var stream string
			if rapid.Bool().Draw(r, "declared") {
				declared, stream = declare(r, tree)
			} else {
				raw, stream = swap(r, tree)
			}
			ours := d.apply(r, branch, declared, raw)
			if theirs := d.commit(r, branch, stream); ours != theirs {
				r.Fatalf("edit %d of %q: tree %s, the command line made %s\n%s", i, before, ours, theirs, stream)
			}
		}
	})
	if made := d.checks.Load() * edits; made < checks*edits && os.Getenv("RAPID_CHECKS") == "" {
		t.Errorf("%d edits were made, want %d", made, checks*edits)
	}
	d.cli("fsck", "--strict", "--no-dangling")
}

func (d *differential) their(r *rapid.T, args ...string) string {
	output, err := gittest.Git(context.Background(), d.theirs, nil, args...)
	if err != nil {
		r.Fatal(err)
	}
	return output
}

// apply pushes changes as a worker does and gives the branch's tree at the server.
func (d *differential) apply(r *rapid.T, branch string, declared []edit.Change, changes []edit.FileChange) string {
	snapshot, err := d.client.Fetch(context.Background(), cachedRemote, gitrepo.Want{Ref: "refs/heads/" + branch, Depth: 1, Sparse: true, Push: true})
	if err != nil {
		r.Fatal(err)
	}
	if declared != nil {
		if changes, err = edit.Apply(context.Background(), snapshot, declared, edit.Limits{}); err != nil {
			r.Fatal(err)
		}
	}
	commit, err := snapshot.Build(context.Background(), changes, spec("j1"))
	if err == nil {
		err = snapshot.Close()
	}
	if err == nil && !commit.Unchanged {
		err = d.client.Push(context.Background(), cachedRemote, gitrepo.PushSpec{Branch: branch, Old: snapshot.Commit(), Commit: commit})
	}
	if err != nil {
		r.Fatal(err)
	}
	return d.cli("rev-parse", branch+"^{tree}")
}

// commit lets git fast-import make the commit and gives its tree.
func (d *differential) commit(r *rapid.T, branch, stream string) string {
	ref := "refs/heads/" + branch
	stream = fmt.Sprintf("commit %s\ncommitter T <t@example.com> 1767225600 +0000\ndata 1\nx\nfrom %s^0\n%s\n", ref, ref, stream)
	if _, err := gittest.Git(context.Background(), d.theirs, strings.NewReader(stream), "fast-import", "--quiet"); err != nil {
		r.Fatalf("%v\n%s", err, stream)
	}
	return d.their(r, "rev-parse", ref+"^{tree}")
}

// declare draws one change as callers write it, applies it to the model, and says it for fast-import.
func declare(r *rapid.T, tree map[string]version) ([]edit.Change, string) {
	path := existing(r, tree, "path")
	switch rapid.IntRange(0, 4).Draw(r, "kind") {
	case 0: // a file, over what is there or new beside it
		if rapid.Bool().Draw(r, "new") {
			path = dir(path) + rapid.SampledFrom(names).Draw(r, "name")
		}
		if under(tree, path) {
			path = existing(r, tree, "instead")
		}
		file := drawFile(r)
		set(tree, path, file)
		put := edit.Put{Path: path, Content: base64.StdEncoding.EncodeToString([]byte(file.content)), Encoding: "base64", Mode: file.mode}
		return []edit.Change{{Put: &put}}, modify(path, file)
	case 1, 2: // a file or a directory goes, or gets another name
		for rapid.Bool().Draw(r, "up") && strings.Contains(path, "/") {
			path = strings.TrimSuffix(dir(path), "/")
		}
		to := "moved/" + rapid.SampledFrom(names).Draw(r, "to")
		if !rapid.Bool().Draw(r, "move") || under(tree, to) || tree[to].mode != "" || path == "moved" {
			remove(tree, path)
			return []edit.Change{{Delete: &edit.Delete{Path: path}}}, "D " + quotePath(path) + "\n"
		}
		for from, file := range maps.Clone(tree) {
			if from == path || strings.HasPrefix(from, path+"/") {
				delete(tree, from)
				tree[to+from[len(path):]] = file
			}
		}
		return []edit.Change{{Move: &edit.Move{From: path, To: to}}}, "R " + quotePath(path) + " " + quotePath(to) + "\n"
	}
	var stream strings.Builder
	for path, file := range tree { // a line in all files
		if file.mode != edit.ModeSymlink && strings.Contains(file.content, "one") {
			file.content = strings.ReplaceAll(file.content, "one", "eins")
			tree[path] = file
			stream.WriteString(modify(path, file))
		}
	}
	return []edit.Change{{Replace: &edit.Replace{Paths: []string{"**"}, Pattern: "one", With: "eins"}}}, stream.String()
}

// swap draws changes of files, directories and names of all kinds, which take each other's places.
func swap(r *rapid.T, tree map[string]version) ([]edit.FileChange, string) {
	before := maps.Clone(tree)
	for range rapid.IntRange(1, 6).Draw(r, "changes") {
		if rapid.IntRange(0, 3).Draw(r, "delete") == 0 && len(tree) > 1 {
			delete(tree, existing(r, tree, "path"))
			continue
		}
		parts := rapid.SliceOfN(rapid.SampledFrom(rawNames), 1, 6).Draw(r, "parts")
		set(tree, strings.Join(parts, "/"), drawFile(r))
	}
	var changes []edit.FileChange
	var gone, made strings.Builder
	for path := range before {
		if _, stays := tree[path]; !stays {
			changes = append(changes, edit.FileChange{Path: path, Deleted: true})
			gone.WriteString("D " + quotePath(path) + "\n")
		}
	}
	for path, file := range tree {
		if before[path] != file {
			changes = append(changes, edit.FileChange{Path: path, Mode: file.mode, Content: []byte(file.content)})
			made.WriteString(modify(path, file))
		}
	}
	return changes, gone.String() + made.String()
}

func drawFile(r *rapid.T) version {
	file := version{rapid.SampledFrom([]edit.Mode{edit.ModeRegular, edit.ModeExecutable, edit.ModeSymlink}).Draw(r, "mode"), "../elsewhere"}
	if file.mode != edit.ModeSymlink {
		file.content = rapid.SampledFrom([]string{"", "x", "one\n", "one\r\ntwo\r\n", "\x00\xff", strings.Repeat("long\n", 500)}).Draw(r, "text")
	}
	file.content += rapid.SampledFrom([]string{"y", "z"}).Draw(r, "more")
	return file
}

// existing draws a file that a change can name.
func existing(r *rapid.T, tree map[string]version, label string) string {
	var paths []string
	for path := range tree {
		if utf8.ValidString(path) && !strings.ContainsAny(path, "\\\t\n") {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		r.Skip("every name is odd")
	}
	slices.Sort(paths)
	return rapid.SampledFrom(paths).Draw(r, label)
}

func dir(path string) string { return path[:strings.LastIndex(path, "/")+1] }

// under reports whether path is a directory, or below a file.
func under(tree map[string]version, path string) bool {
	for other := range tree {
		if strings.HasPrefix(other, path+"/") || strings.HasPrefix(path, other+"/") {
			return true
		}
	}
	return false
}

// set puts a file where it takes the place of whatever is in its way.
func set(tree map[string]version, path string, file version) {
	for other := range tree {
		if strings.HasPrefix(other, path+"/") || strings.HasPrefix(path, other+"/") {
			delete(tree, other)
		}
	}
	tree[path] = file
}

// remove takes a file or a directory away.
func remove(tree map[string]version, path string) {
	for other := range tree {
		if other == path || strings.HasPrefix(other, path+"/") {
			delete(tree, other)
		}
	}
}

func modify(path string, file version) string {
	return fmt.Sprintf("M %s inline %s\ndata %d\n%s\n", file.mode, quotePath(path), len(file.content), file.content)
}

// quotePath writes a path as fast-import's C style strings are written.
func quotePath(path string) string {
	var quoted strings.Builder
	for i := range len(path) {
		if c := path[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			fmt.Fprintf(&quoted, `\%03o`, c)
		} else {
			quoted.WriteByte(c)
		}
	}
	return `"` + quoted.String() + `"`
}
