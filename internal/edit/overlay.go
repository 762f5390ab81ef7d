package edit

import (
	"context"
	"crypto/sha1" //nolint:gosec // git's name for a blob, no protection
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/glob"
)

// file is a file as the changes so far have left it. Its id is always known; content is held where the source lacks it.
type file struct {
	mode    Mode
	id      string
	content []byte
	made    bool // content is ours; else the source has the blob
}

func newFile(mode Mode, content []byte) file {
	return file{mode: mode, id: blobID(content), content: content, made: true}
}

// blobID is the name that git gives a blob in a SHA-1 repository.
func blobID(content []byte) string {
	hash := sha1.New() //nolint:gosec // see above
	fmt.Fprintf(hash, "blob %d\x00", len(content))
	hash.Write(content)
	return hex.EncodeToString(hash.Sum(nil))
}

// node is a path that a change has touched.
type node struct {
	now *file // nil: nothing
	was *file // the source's file; nil: none, or a directory
}

// overlay is the source with the changes so far on top.
type overlay struct {
	source Source
	limits Limits
	nodes  map[string]*node
	added  map[string]int // by directory: files below it that the source has not
	gone   map[string]int // by directory: the source's files below it that are no more
	counts map[string]int // by directory: the source's files below it, where it was needed
	read   int64
	held   int64
	globs  *glob.Meter

	listed  string // the directory that was listed last; changes often name the same
	listing []Entry
}

func newOverlay(source Source, limits Limits) *overlay {
	return &overlay{
		source: source, limits: limits,
		nodes: map[string]*node{}, added: map[string]int{}, gone: map[string]int{}, counts: map[string]int{}, globs: glob.NewMeter(limits.GlobSteps),
	}
}

// kind is what is at a path.
type kind uint8

const (
	nothing kind = iota
	isFile
	isDirectory
)

// at says what is at path now; found is set where it is a file.
func (o *overlay) at(ctx context.Context, path string) (found file, what kind, err error) {
	touched := o.nodes[path]
	if touched != nil && touched.now != nil {
		return *touched.now, isFile, nil
	}
	if o.added[path] > 0 {
		return file{}, isDirectory, nil
	}
	if touched != nil && touched.was != nil {
		return file{}, nothing, nil
	}
	entry, exists, err := o.source.Entry(ctx, path)
	switch {
	case err != nil || !exists:
		return file{}, nothing, err
	case entry.Mode != ModeDir:
		return file{mode: entry.Mode, id: entry.ID}, isFile, nil
	case o.gone[path] == 0:
		return file{}, isDirectory, nil
	}
	count, err := o.count(ctx, path)
	if err != nil || count == o.gone[path] {
		return file{}, nothing, err
	}
	return file{}, isDirectory, nil
}

func (o *overlay) count(ctx context.Context, dir string) (int, error) {
	if count, known := o.counts[dir]; known {
		return count, nil
	}
	entries, err := o.list(ctx, dir)
	if err != nil {
		return 0, err
	}
	o.counts[dir] = len(entries)
	return len(entries), nil
}

// list is the source's files below dir.
func (o *overlay) list(ctx context.Context, dir string) ([]Entry, error) {
	if o.listing != nil && o.listed == dir {
		return o.listing, nil
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	entries, err := o.source.Files(ctx, dir)
	if err != nil {
		return nil, err
	}
	o.listed, o.listing = dir, entries
	return entries, nil
}

// found is a file with its path.
type found struct {
	path string
	file
}

// files lists the files below dir as they are now, by path; "" is the root.
func (o *overlay) files(ctx context.Context, dir string) ([]found, error) {
	var files []found
	inSource := dir == ""
	if !inSource {
		entry, exists, err := o.source.Entry(ctx, dir)
		if err != nil {
			return nil, err
		}
		inSource = exists && entry.Mode == ModeDir
	}
	if inSource {
		entries, err := o.list(ctx, dir)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			if o.nodes[entry.Path] == nil {
				files = append(files, found{entry.Path, file{mode: entry.Mode, id: entry.ID}})
			}
		}
	}
	for path, touched := range o.nodes {
		if touched.now != nil && (dir == "" || isBelow(path, dir)) {
			files = append(files, found{path, *touched.now})
		}
	}
	slices.SortFunc(files, func(a, b found) int { return strings.Compare(a.path, b.path) })
	return files, nil
}

// content reads a file; field names the change for errors.
func (o *overlay) content(ctx context.Context, field, path string, from file) ([]byte, error) {
	if from.made {
		return from.content, nil
	}
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	content, err := o.source.Blob(ctx, from.id, o.limits.BlobBytes)
	if fault.KindOf(err) == fault.TooLarge {
		return nil, fault.Wrapf(fault.TooLarge, err, "%s: %s is larger than %d bytes, more than a change can read; name other files", field, quote(path), o.limits.BlobBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: read %s: %w", field, quote(path), err)
	}
	if o.read += int64(len(content)); o.read > o.limits.ReadBytes {
		return nil, fault.Newf(fault.TooLarge, "%s: with %s the changes read more than %d bytes; name fewer files or split the push", field, quote(path), o.limits.ReadBytes)
	}
	return content, nil
}

// write makes path a file. The caller has seen that nothing else is there or that a file is.
func (o *overlay) write(ctx context.Context, field, path string, next file) error {
	if next.made {
		if int64(len(next.content)) > o.limits.BlobBytes {
			return fault.Newf(fault.TooLarge, "%s: %s would have %d bytes, at most %d are allowed for one file", field, quote(path), len(next.content), o.limits.BlobBytes)
		}
		if o.held += int64(len(next.content)); o.held > o.limits.WriteBytes {
			return fault.Newf(fault.TooLarge, "%s: with %s the changes write more than %d bytes; split the push", field, quote(path), o.limits.WriteBytes)
		}
	}
	if next.mode == ModeSymlink {
		if problem := symlinkProblem(path); problem != "" {
			return fault.Newf(fault.Invalid, "%s: %s: %s", field, quote(path), problem)
		}
	}
	return o.set(ctx, field, path, &next)
}

// remove makes path nothing. It is a file until then.
func (o *overlay) remove(ctx context.Context, field, path string) error {
	return o.set(ctx, field, path, nil)
}

func (o *overlay) set(ctx context.Context, field, path string, next *file) error {
	touched := o.nodes[path]
	if touched == nil {
		if len(o.nodes) >= o.limits.Files {
			return fault.Newf(fault.TooLarge, "%s: the changes touch more than %d files; split the push", field, o.limits.Files)
		}
		entry, exists, err := o.source.Entry(ctx, path)
		if err != nil {
			return err
		}
		touched = &node{}
		if exists && entry.Mode != ModeDir {
			touched.was = &file{mode: entry.Mode, id: entry.ID}
			touched.now = touched.was
		}
		o.nodes[path] = touched
	}
	if touched.now != nil && touched.now.made {
		o.held -= int64(len(touched.now.content))
	}
	o.tally(path, touched, -1)
	touched.now = next
	o.tally(path, touched, +1)
	return nil
}

// tally counts the node in or out of the directories that it is in.
func (o *overlay) tally(path string, touched *node, by int) {
	var counter map[string]int
	switch {
	case touched.was == nil && touched.now != nil:
		counter = o.added
	case touched.was != nil && touched.now == nil:
		counter = o.gone
	default:
		return
	}
	for dir := range ancestors(path) {
		counter[dir] += by
	}
}

// net is what the tree differs in from the source, by path.
func (o *overlay) net() []FileChange {
	var changes []FileChange
	for _, path := range slices.Sorted(maps.Keys(o.nodes)) {
		touched := o.nodes[path]
		switch now, was := touched.now, touched.was; {
		case now == nil && was == nil:
		case now == nil:
			changes = append(changes, FileChange{Path: path, Deleted: true})
		case was != nil && now.mode == was.mode && now.id == was.id:
		case !now.made:
			changes = append(changes, FileChange{Path: path, Mode: now.mode, ID: now.id})
		case was != nil && now.id == was.id:
			changes = append(changes, FileChange{Path: path, Mode: now.mode, ID: was.id})
		default:
			changes = append(changes, FileChange{Path: path, Mode: now.mode, Content: now.content})
		}
	}
	return changes
}
