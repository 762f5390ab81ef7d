package gitrepo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/glob"
)

// treeWalk hands the entries of a tree to a writer, depth first, in the order in which git keeps them.
type treeWalk struct {
	ctx     context.Context //nolint:containedctx // it lives for one walk
	objects objectReader
	globs   []pathGlob
	meter   *glob.Meter
	writer  archiveWriter // nil: only count

	pending []string // directories on the way here that are not written yet: one without a match never is
	matched bool
	files   int
	entries int
	content int64
}

// walkTree writes what globs choose (all of it where there are none) and counts files and symlinks. Submodules become empty
// directories; .gitattributes (export-ignore, export-subst, filters) is not applied: an archive is the tree as committed,
// and a file kept by Git LFS is its pointer. Where globs choose nothing the error is NotFound.
func walkTree(ctx context.Context, objects objectReader, root plumbing.Hash, paths []string, writer archiveWriter) (int, error) {
	walk := treeWalk{ctx: ctx, objects: objects, writer: writer, meter: glob.NewMeter(0)}
	for _, path := range paths {
		parsed, err := newPathGlob(path)
		if err != nil {
			return 0, err
		}
		walk.globs = append(walk.globs, parsed)
	}
	if err := walk.tree(root, "", 0); err != nil {
		return 0, err
	}
	if len(paths) > 0 && !walk.matched {
		return 0, fault.Newf(fault.NotFound, "archive: no file matches %s; give globs over full paths, such as docs/** or **/*.go", quoteAll(paths))
	}
	return walk.files, nil
}

func (w *treeWalk) tree(hash plumbing.Hash, directory string, depth int) error {
	if depth > maxArchiveDepth {
		return fault.Newf(fault.TooLarge, "archive: directories are nested more than %d deep at %.80q", maxArchiveDepth, directory)
	}
	tree, err := readTree(w.objects, hash)
	if err != nil {
		return err
	}
	for i := range tree.Entries {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if err := w.entry(&tree.Entries[i], directory, depth); err != nil {
			return err
		}
	}
	return nil
}

func (w *treeWalk) entry(entry *object.TreeEntry, directory string, depth int) error {
	path := directory + entry.Name
	if !safeName(entry.Name) {
		return fault.Newf(fault.Invalid, "archive: the commit holds %.200q, a name that could write outside the folder it is unpacked in; rename it, or choose other paths", path)
	}
	if entry.Mode == filemode.Dir {
		return w.directory(entry.Hash, path, depth)
	}
	if wanted, err := w.wants(path); err != nil || !wanted {
		return err
	}
	w.matched = true
	if err := w.count(path); err != nil {
		return err
	}
	if err := w.parents(); err != nil {
		return err
	}
	if entry.Mode == filemode.Submodule {
		return w.submodule(path)
	}
	w.files++
	if w.writer == nil {
		return nil
	}
	return w.blob(entry, path)
}

func (w *treeWalk) directory(hash plumbing.Hash, path string, depth int) error {
	if !w.wantsBelow(path) {
		return nil
	}
	if err := w.count(path); err != nil {
		return err
	}
	before := len(w.pending)
	w.pending = append(w.pending, path)
	if err := w.tree(hash, path+"/", depth+1); err != nil {
		return err
	}
	w.pending = w.pending[:min(before, len(w.pending))]
	return nil
}

// parents writes the directories that lead to the entry which comes next.
func (w *treeWalk) parents() error {
	if w.writer != nil {
		for _, path := range w.pending {
			if err := w.writer.directory(path); err != nil {
				return fmt.Errorf("archive: %w", err)
			}
		}
	}
	w.pending = w.pending[:0]
	return nil
}

func (w *treeWalk) submodule(path string) error {
	if w.writer == nil {
		return nil
	}
	if err := w.writer.directory(path); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

func (w *treeWalk) blob(entry *object.TreeEntry, path string) error {
	encoded, err := w.objects.EncodedObject(plumbing.BlobObject, entry.Hash)
	if err != nil {
		return fmt.Errorf("read blob %s: %w", entry.Hash, err)
	}
	if w.content += encoded.Size(); w.content > maxArchiveContent {
		return fault.Newf(fault.TooLarge, "archive: the files hold more than %d GiB; choose fewer with paths", maxArchiveContent>>30)
	}
	reader, err := encoded.Reader()
	if err != nil {
		return fmt.Errorf("read blob %s: %w", entry.Hash, err)
	}
	content := contextReader{w.ctx, reader}
	if entry.Mode == filemode.Symlink {
		err = w.symlink(path, encoded.Size(), content)
	} else {
		err = w.writer.file(path, entry.Mode == filemode.Executable, encoded.Size(), content)
	}
	if closeErr := reader.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("archive: blob %s: %w", entry.Hash, err)
	}
	return nil
}

func (w *treeWalk) symlink(path string, size int64, content io.Reader) error {
	if size > maxSymlinkTarget {
		return fault.Newf(fault.Invalid, "archive: the symlink %.200q has a target of %d bytes, which no file system takes", path, size)
	}
	target, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	if bytes.IndexByte(target, 0) >= 0 {
		return fault.Newf(fault.Invalid, "archive: the symlink %.200q has a zero byte in its target, which no file system takes", path)
	}
	return w.writer.symlink(path, string(target))
}

func (w *treeWalk) count(path string) error {
	if w.entries++; w.entries > maxArchiveEntries {
		return fault.Newf(fault.TooLarge, "archive: more than %d files and directories, counted as far as %.80q; choose fewer with paths", maxArchiveEntries, path)
	}
	return nil
}

func (w *treeWalk) wants(path string) (bool, error) {
	for _, each := range w.globs {
		matches, err := each.matches(w.ctx, w.meter, path)
		if err != nil {
			return false, fmt.Errorf("archive: %w", err)
		}
		if matches {
			return true, nil
		}
	}
	return len(w.globs) == 0, nil
}

func (w *treeWalk) wantsBelow(directory string) bool {
	for i := range w.globs {
		if w.globs[i].mayMatchBelow(directory) {
			return true
		}
	}
	return len(w.globs) == 0
}

// safeName reports whether an entry's name stays one name in the folder that it is unpacked into, and does not plant a git
// repository there. Git refuses the same names on checkout, so no one commits them by accident.
func safeName(name string) bool {
	switch {
	case name == "", name == ".", name == "..", strings.EqualFold(name, ".git"):
		return false
	}
	return !strings.ContainsAny(name, "/\x00")
}

// pathGlob is one of the paths that an archive is limited to.
type pathGlob struct{ *glob.Glob }

func newPathGlob(path string) (pathGlob, error) {
	parsed, err := glob.Parse(strings.TrimSuffix(path, "/"))
	if err != nil {
		return pathGlob{}, fault.Newf(fault.Invalid, "archive: paths: %.80q: %s", path, err)
	}
	return pathGlob{parsed}, nil
}

func (g pathGlob) matches(ctx context.Context, meter *glob.Meter, path string) (bool, error) {
	if directory, is := g.Literal(); is && isBelow(path, directory) {
		return true, nil
	}
	return meter.Match(ctx, g.Glob, path)
}

// mayMatchBelow is false only where nothing in the directory can match, so that its tree need not be read.
func (g pathGlob) mayMatchBelow(directory string) bool {
	base := g.Base()
	return base == "" || directory == base || isBelow(directory, base) || isBelow(base, directory)
}

func isBelow(path, directory string) bool {
	return len(path) > len(directory) && path[len(directory)] == '/' && path[:len(directory)] == directory
}

func quoteAll(paths []string) string {
	const shown = 3
	quoted := make([]string, 0, shown+1)
	for i, path := range paths {
		if i == shown {
			quoted = append(quoted, fmt.Sprintf("and %d more", len(paths)-shown))
			break
		}
		quoted = append(quoted, fmt.Sprintf("%.80q", path))
	}
	return strings.Join(quoted, ", ")
}
