package edit_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

// blob is a file of a tree that is held in memory.
type blob struct {
	Mode    edit.Mode
	Content string // of a submodule: its commit
}

func (b blob) id() string {
	if b.Mode == edit.ModeSubmodule {
		return b.Content
	}
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(b.Content), b.Content))
	return hex.EncodeToString(sum[:])
}

// tree is an edit.Source in memory, by path.
type tree map[string]blob

func files(pathsAndContents ...string) tree {
	made := tree{}
	for i := 0; i < len(pathsAndContents); i += 2 {
		made[pathsAndContents[i]] = blob{edit.ModeRegular, pathsAndContents[i+1]}
	}
	return made
}

func (t tree) Entry(_ context.Context, path string) (edit.Entry, bool, error) {
	if file, found := t[path]; found {
		return edit.Entry{Path: path, Mode: file.Mode, ID: file.id()}, true, nil
	}
	for name := range t {
		if strings.HasPrefix(name, path+"/") {
			return edit.Entry{Path: path, Mode: edit.ModeDir, ID: strings.Repeat("d", 40)}, true, nil
		}
	}
	return edit.Entry{}, false, nil
}

func (t tree) Files(_ context.Context, dir string) ([]edit.Entry, error) {
	var entries []edit.Entry
	for _, path := range slices.Sorted(maps.Keys(t)) {
		if dir == "" || strings.HasPrefix(path, dir+"/") {
			entries = append(entries, edit.Entry{Path: path, Mode: t[path].Mode, ID: t[path].id()})
		}
	}
	return entries, nil
}

func (t tree) Blob(_ context.Context, id string, limit int64) ([]byte, error) {
	for _, file := range t {
		if file.Mode == edit.ModeSubmodule || file.id() != id {
			continue
		}
		if int64(len(file.Content)) > limit {
			return nil, fault.Newf(fault.TooLarge, "blob %s is too large", id)
		}
		return []byte(file.Content), nil
	}
	return nil, fault.Newf(fault.Internal, "no blob %s", id)
}

// with is the tree after changes, which are checked for what holds for every result: sorted, no change that changes nothing, no
// blob that the source lacks, no file above another.
func (t tree) with(tb testing.TB, changes []edit.FileChange) tree {
	tb.Helper()
	if !slices.IsSortedFunc(changes, func(a, b edit.FileChange) int { return strings.Compare(a.Path, b.Path) }) {
		tb.Errorf("the result is not sorted: %v", changes)
	}
	blobs := map[string]string{}
	for _, file := range t {
		blobs[file.id()] = file.Content
	}
	after := maps.Clone(t)
	for _, change := range changes {
		before, existed := t[change.Path]
		next := blob{change.Mode, string(change.Content)}
		if change.ID != "" {
			content, known := blobs[change.ID]
			if !known || change.Content != nil {
				tb.Errorf("%s: blob %s is not the source's, or content stands beside it", change.Path, change.ID)
			}
			next.Content = content
		}
		switch {
		case change.Deleted:
			if !existed || change.Mode != "" || change.ID != "" || change.Content != nil {
				tb.Errorf("a deletion of what was not there, or with content: %+v", change)
			}
			delete(after, change.Path)
			continue
		case existed && next == before:
			tb.Errorf("%s is in the result and has not changed", change.Path)
		}
		after[change.Path] = next
	}
	for path := range after {
		for at := strings.LastIndexByte(path, '/'); at >= 0; at = strings.LastIndexByte(path[:at], '/') {
			if _, isFile := after[path[:at]]; isFile {
				tb.Errorf("%s is below the file %s", path, path[:at])
			}
		}
		if _, existed := t[path]; !existed && len(path) <= edit.MaxPathBytes && edit.CheckPath(path) != nil {
			tb.Errorf("%q was made", path)
		}
	}
	return after
}

func apply(tb testing.TB, source tree, changes ...edit.Change) (tree, error) {
	tb.Helper()
	before := maps.Clone(source)
	result, err := edit.Apply(tb.Context(), source, changes, edit.Limits{})
	if !maps.Equal(before, source) {
		tb.Error("the source was altered")
	}
	if err != nil {
		return nil, err
	}
	return source.with(tb, result), nil
}

func put(path, content string) edit.Change {
	return edit.Change{Put: &edit.Put{Path: path, Content: content}}
}

func remove(path string) edit.Change { return edit.Change{Delete: &edit.Delete{Path: path}} }

func move(from, to string) edit.Change { return edit.Change{Move: &edit.Move{From: from, To: to}} }

func replace(pattern, with string, globs ...string) edit.Change {
	return edit.Change{Replace: &edit.Replace{Paths: globs, Pattern: pattern, With: with}}
}

func replaceRegexp(pattern, with string, globs ...string) edit.Change {
	return edit.Change{Replace: &edit.Replace{Paths: globs, Pattern: pattern, With: with, Regexp: true}}
}

func patch(diff string) edit.Change { return edit.Change{Patch: &edit.Patch{Diff: diff}} }

// git runs the git command in dir, untouched by the machine's settings.
func git(tb testing.TB, dir string, stdin string, args ...string) (string, error) {
	tb.Helper()
	command := exec.CommandContext(tb.Context(), "git", args...)
	command.Dir = dir
	command.Stdin = strings.NewReader(stdin)
	command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir), "LC_ALL=C")
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	if err := command.Run(); err != nil {
		return out.String() + errs.String(), fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

func mustGit(tb testing.TB, dir string, stdin string, args ...string) string {
	tb.Helper()
	out, err := git(tb, dir, stdin, args...)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// checkout writes a tree into dir.
func (t tree) checkout(tb testing.TB, dir string) {
	tb.Helper()
	for path, file := range t {
		path = filepath.Join(dir, path)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil && file.Mode == edit.ModeSymlink {
			err = os.Symlink(file.Content, path)
		} else if err == nil {
			err = os.WriteFile(path, []byte(file.Content), map[edit.Mode]os.FileMode{edit.ModeRegular: 0o644, edit.ModeExecutable: 0o755}[file.Mode])
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// readTree is the tree that stands in dir.
func readTree(tb testing.TB, dir string) tree {
	tb.Helper()
	read := tree{}
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if entry.Name() == ".git" {
				return filepath.SkipDir
			}
			return nil
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if entry.Type()&os.ModeSymlink != 0 {
			target, err := os.Readlink(path)
			read[name] = blob{edit.ModeSymlink, target}
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		mode := edit.ModeRegular
		if info.Mode()&0o100 != 0 {
			mode = edit.ModeExecutable
		}
		content, err := os.ReadFile(path)
		read[name] = blob{mode, string(content)}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return read
}
