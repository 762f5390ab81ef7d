package gitrepo

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/glob"
)

// Changes finds in which files the folder dir differs from the snapshot, by path, as git add -A does: files that are not in the
// snapshot and that a .gitignore file in dir ignores are left out, and whatever is named .git. No symbolic link is followed.
// Nothing should write to dir meanwhile. What no commit of ours can hold (a socket, a name that [edit.CheckPath] refuses) is an
// Invalid fault, and more than limits allow TooLarge: of Files, BlobBytes (of one that is new) and WriteBytes.
func (s *Snapshot) Changes(ctx context.Context, dir string, limits edit.Limits) ([]edit.FileChange, error) {
	files, err := s.Files(ctx, "")
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "%s: the folder with its files cannot be read; the log says why", s.op)
	}
	defer func() { _ = root.Close() }() // nothing was written
	f := changeFinder{
		ctx: ctx, op: s.op, root: root, limits: limits, globs: glob.NewMeter(0),
		tracked: map[string]edit.Entry{}, directories: map[string]bool{}, blobs: map[string]bool{},
	}
	defaults := edit.DefaultLimits()
	f.limits.Files = cmp.Or(limits.Files, defaults.Files)
	f.limits.BlobBytes = cmp.Or(limits.BlobBytes, defaults.BlobBytes)
	f.limits.WriteBytes = cmp.Or(limits.WriteBytes, defaults.WriteBytes)
	for _, file := range files {
		f.tracked[file.Path] = file
		f.blobs[file.ID] = file.Mode != edit.ModeSubmodule
		for i := range len(file.Path) {
			if file.Path[i] == '/' {
				f.directories[file.Path[:i]] = true
			}
		}
	}
	if err := f.directory("", nil, false, 0); err != nil {
		return nil, err
	}
	for path := range f.tracked {
		if err := f.add(edit.FileChange{Path: path, Deleted: true}); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(f.changes, func(a, b edit.FileChange) int { return cmp.Compare(a.Path, b.Path) })
	return f.changes, nil
}

// changeFinder walks through a folder.
type changeFinder struct {
	ctx         context.Context //nolint:containedctx // it lives for one walk
	op          operation
	root        *os.Root
	limits      edit.Limits
	tracked     map[string]edit.Entry // the snapshot's files that were not met yet
	directories map[string]bool       // the snapshot's
	blobs       map[string]bool       // the snapshot's, by id
	entries     int
	held        int64
	globs       *glob.Meter // of the ignore files
	changes     []edit.FileChange
}

// directory walks through a folder and those in it. Of one that is ignored, only what the snapshot has is looked at.
func (f *changeFinder) directory(dir string, rules []ignoreRule, isIgnored bool, depth int) error {
	if depth > maxDepth {
		return fault.Newf(fault.TooLarge, "%s: directories are nested more than %d deep at %.80q", f.op, maxDepth, dir)
	}
	infos, err := f.list(dir)
	if err != nil {
		return err
	}
	if !isIgnored {
		for _, info := range infos {
			if info.Name() == ignoreFile && info.Mode().IsRegular() {
				content, err := f.read(below(dir, ignoreFile), info, maxIgnoreFile)
				if err != nil {
					return err
				}
				rules = append(slices.Clip(rules), parseIgnore(dir, content)...)
			}
		}
	}
	for _, info := range infos {
		if f.ctx.Err() != nil {
			return context.Cause(f.ctx)
		}
		if info.Name() == ".git" {
			continue
		}
		if err := f.entry(below(dir, info.Name()), info, rules, isIgnored, depth); err != nil {
			return err
		}
	}
	return nil
}

func below(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func (f *changeFinder) entry(path string, info fs.FileInfo, rules []ignoreRule, isIgnored bool, depth int) error {
	entry, tracked := f.tracked[path]
	if !info.IsDir() {
		if !tracked && !isIgnored {
			var err error
			if isIgnored, err = f.ignored(rules, path, false); err != nil {
				return err
			}
		}
		if !tracked && isIgnored {
			return nil
		}
		delete(f.tracked, path)
		return f.file(path, info, entry)
	}
	if tracked && entry.Mode == edit.ModeSubmodule {
		delete(f.tracked, path) // what is in it belongs to another repository
		return nil
	}
	if !isIgnored {
		var err error
		if isIgnored, err = f.ignored(rules, path, true); err != nil {
			return err
		}
	}
	if isIgnored && !f.directories[path] {
		return nil
	}
	return f.directory(path, rules, isIgnored, depth+1)
}

func (f *changeFinder) ignored(rules []ignoreRule, path string, isDir bool) (bool, error) {
	is, err := ignored(f.ctx, f.globs, rules, path, isDir)
	if fault.KindOf(err) == fault.TooLarge {
		return false, fault.Wrapf(fault.TooLarge, err, "%s: the lines of .gitignore files take too long to match with so many files", f.op)
	}
	return is, err
}

// list reads what is in a folder, in no order.
func (f *changeFinder) list(dir string) ([]fs.FileInfo, error) {
	name := cmp.Or(dir, ".")
	was, err := f.root.Lstat(name)
	if err != nil {
		return nil, f.unreadable(name, err)
	}
	file, err := f.open(name, was, syscall.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // nothing was written
	const batch = 1_000
	var infos []fs.FileInfo
	for {
		some, err := file.Readdir(batch)
		infos = append(infos, some...)
		if f.entries += len(some); f.entries > maxListed {
			return nil, fault.Newf(fault.TooLarge, "%s: there are more than %d files and directories", f.op, maxListed)
		}
		if errors.Is(err, io.EOF) {
			return infos, nil
		}
		if err != nil {
			return nil, f.unreadable(name, err)
		}
	}
}

// open opens what was seen at path, and nothing else: no link that has taken its place leads anywhere.
func (f *changeFinder) open(path string, was fs.FileInfo, flags int) (*os.File, error) {
	file, err := f.root.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|flags, 0)
	if err != nil {
		return nil, f.unreadable(path, err)
	}
	info, err := file.Stat()
	if err == nil && !os.SameFile(was, info) {
		err = errors.New("it was exchanged meanwhile")
	}
	if err != nil {
		_ = file.Close()
		return nil, f.unreadable(path, err)
	}
	return file, nil
}

func (f *changeFinder) unreadable(path string, err error) error {
	return fault.Wrapf(fault.Invalid, err, "%s: %.200q cannot be read back", f.op, path)
}

func (f *changeFinder) file(path string, info fs.FileInfo, entry edit.Entry) error {
	change := edit.FileChange{Path: path, Mode: edit.ModeRegular}
	var err error
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		var target string
		if target, err = f.root.Readlink(path); err != nil {
			return f.unreadable(path, err)
		}
		change.Mode, change.Content = edit.ModeSymlink, []byte(target)
		change.ID = plumbing.ComputeHash(plumbing.BlobObject, change.Content).String()
	case !info.Mode().IsRegular():
		return fault.Newf(fault.Invalid, "%s: %.200q is neither a file nor a directory nor a symbolic link; git keeps nothing else", f.op, path)
	default:
		if info.Mode()&0o100 != 0 {
			change.Mode = edit.ModeExecutable
		}
		if change.ID, change.Content, err = f.content(path, info); err != nil {
			return err
		}
	}
	if change.Mode == entry.Mode && change.ID == entry.ID {
		return nil
	}
	switch {
	case change.Mode == edit.ModeSymlink && entry.Mode != edit.ModeSymlink:
		err = edit.CheckSymlink(path)
	case entry.Mode == "":
		err = edit.CheckPath(path)
	}
	if err != nil {
		return err
	}
	if f.blobs[change.ID] {
		change.Content = nil
	} else {
		change.ID = ""
		if size := info.Size(); size > f.limits.BlobBytes {
			return fault.Newf(fault.TooLarge, "%s: %.200q has %d bytes now, at most %d are taken", f.op, path, size, f.limits.BlobBytes)
		}
	}
	return f.add(change)
}

// content hashes a file, and returns what is in it unless it is one that nobody could have changed to.
func (f *changeFinder) content(path string, info fs.FileInfo) (id string, content []byte, err error) {
	if info.Size() <= f.limits.BlobBytes {
		content, err := f.read(path, info, f.limits.BlobBytes)
		return plumbing.ComputeHash(plumbing.BlobObject, content).String(), content, err
	}
	file, err := f.open(path, info, 0)
	if err != nil {
		return "", nil, err
	}
	defer func() { _ = file.Close() }() // nothing was written
	hasher := plumbing.NewHasher(plumbing.BlobObject, info.Size())
	_, err = io.CopyBuffer(hasher, contextReader{f.ctx, io.LimitReader(file, info.Size())}, make([]byte, archiveBuffer))
	if cause := context.Cause(f.ctx); cause != nil {
		return "", nil, cause
	}
	if err != nil {
		return "", nil, f.unreadable(path, err)
	}
	return hasher.Sum().String(), nil, nil
}

func (f *changeFinder) read(path string, info fs.FileInfo, limit int64) ([]byte, error) {
	file, err := f.open(path, info, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // nothing was written
	content, err := io.ReadAll(io.LimitReader(file, limit))
	if err != nil {
		return nil, f.unreadable(path, err)
	}
	return content, nil
}

func (f *changeFinder) add(change edit.FileChange) error {
	f.changes = append(f.changes, change)
	f.held += int64(len(change.Content))
	switch {
	case len(f.changes) > f.limits.Files:
		return fault.Newf(fault.TooLarge, "%s: more than %d files are changed", f.op, f.limits.Files)
	case f.held > f.limits.WriteBytes:
		return fault.Newf(fault.TooLarge, "%s: the changed files have more than %d bytes together", f.op, f.limits.WriteBytes)
	}
	return nil
}
