package gitrepo

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

// Snapshot is a ref's tip as it was read: a tree to look into, to build on and to archive. It serves one goroutine and must be
// closed. It is an [edit.Source].
type Snapshot struct {
	op      operation
	store   *store // nil in an empty repository
	tip     tip
	root    plumbing.Hash // the tip's tree
	shallow bool
}

var _ edit.Source = (*Snapshot)(nil)

func newEmptySnapshot(op operation) *Snapshot { return &Snapshot{op: op} }

// newSnapshot reads the tip's commit, peeling annotated tags.
func newSnapshot(op operation, store *store, tip tip, depth int) (*Snapshot, error) {
	for range maxPeel {
		tag, err := store.EncodedObject(plumbing.TagObject, tip.commit)
		if err != nil {
			break // it is a commit, or the read below says what is wrong
		}
		decoded := new(object.Tag)
		if err := decoded.Decode(tag); err != nil {
			return nil, err
		}
		tip.commit = decoded.Target
	}
	commit, err := readCommit(store, tip.commit)
	if err != nil {
		return nil, err
	}
	if _, err := readTree(store, commit.TreeHash); err != nil {
		return nil, err // the pack lacks what it must hold
	}
	return &Snapshot{op: op, store: store, tip: tip, root: commit.TreeHash, shallow: depth > 0}, nil
}

// maxPeel bounds tags that name tags.
const maxPeel = 8

// Commit is the hash of the tip's commit; empty in an empty repository.
func (s *Snapshot) Commit() string {
	if s.store == nil {
		return ""
	}
	return s.tip.commit.String()
}

// Ref is the tip's full name; empty where a commit was asked for.
func (s *Snapshot) Ref() string { return s.tip.ref }

// Close removes what the snapshot holds on disk.
func (s *Snapshot) Close() error {
	if s.store == nil {
		return nil
	}
	return s.store.close()
}

// Archive writes the snapshot in a format and returns how many files it holds. Of an empty repository it is a NotFound fault.
func (s *Snapshot) Archive(ctx context.Context, w io.Writer, spec ArchiveSpec) (int, error) {
	if s.store == nil {
		return 0, fault.Newf(fault.NotFound, "%s: the repository is empty, there is nothing to archive", s.op)
	}
	files, err := writeArchive(ctx, w, archiveSource{
		objects: s.store, commit: s.tip.commit, tip: s.tip.want, ref: s.tip.ref, shallow: s.shallow,
	}, spec)
	return files, s.classify(ctx, err)
}

// classify turns an error of the object storage into a fault: an object that is missing was not sent.
func (s *Snapshot) classify(ctx context.Context, err error) error {
	var classified *fault.Error
	if err == nil || errors.As(err, &classified) {
		return err
	}
	return classifyPack(ctx, s.op, err)
}

// Entry finds what is at path.
func (s *Snapshot) Entry(ctx context.Context, path string) (edit.Entry, bool, error) {
	hash, found := s.root, s.store != nil
	mode := filemode.Dir
	for name := range strings.SplitSeq(path, "/") {
		if !found || mode != filemode.Dir {
			return edit.Entry{}, false, nil
		}
		tree, err := readTree(s.store, hash)
		if err != nil {
			return edit.Entry{}, false, s.classify(ctx, err)
		}
		found = false
		for _, entry := range tree.Entries {
			if entry.Name == name {
				hash, mode, found = entry.Hash, entry.Mode, true
				break
			}
		}
	}
	return edit.Entry{Path: path, Mode: modeOf(mode), ID: hash.String()}, found, nil
}

// Files lists every file below a directory, in git's order; symlinks and submodules count as files.
func (s *Snapshot) Files(ctx context.Context, dir string) ([]edit.Entry, error) {
	if s.store == nil {
		return nil, nil
	}
	hash := s.root
	if dir != "" {
		entry, found, err := s.Entry(ctx, dir)
		if err != nil || !found || entry.Mode != edit.ModeDir {
			return nil, err
		}
		hash = plumbing.NewHash(entry.ID)
		dir += "/"
	}
	var files []edit.Entry
	err := s.list(ctx, hash, dir, 0, &files)
	return files, s.classify(ctx, err)
}

// What a listing may hold: a small repository can name the same tree a billion times.
const (
	maxListed = maxArchiveEntries
	maxDepth  = maxArchiveDepth
)

func (s *Snapshot) list(ctx context.Context, hash plumbing.Hash, prefix string, depth int, files *[]edit.Entry) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if depth > maxDepth || len(*files) > maxListed {
		return fault.Newf(fault.TooLarge, "%s: the tree is nested deeper than %d or holds more than %d files", s.op, maxDepth, maxListed)
	}
	tree, err := readTree(s.store, hash)
	if err != nil {
		return err
	}
	for _, entry := range tree.Entries {
		if entry.Mode == filemode.Dir {
			if err := s.list(ctx, entry.Hash, prefix+entry.Name+"/", depth+1, files); err != nil {
				return err
			}
			continue
		}
		*files = append(*files, edit.Entry{Path: prefix + entry.Name, Mode: modeOf(entry.Mode), ID: entry.Hash.String()})
	}
	return nil
}

// Blob reads a file's content; more than limit bytes is a TooLarge fault.
func (s *Snapshot) Blob(ctx context.Context, id string, limit int64) ([]byte, error) {
	if s.store == nil {
		return nil, fault.Newf(fault.NotFound, "%s: the repository is empty", s.op)
	}
	encoded, err := s.store.EncodedObject(plumbing.BlobObject, plumbing.NewHash(id))
	if err != nil {
		return nil, s.classify(ctx, err)
	}
	if encoded.Size() > limit {
		return nil, fault.Newf(fault.TooLarge, "%s: a file of %d bytes is to be edited, at most %d", s.op, encoded.Size(), limit)
	}
	reader, err := encoded.Reader()
	if err != nil {
		return nil, s.classify(ctx, err)
	}
	content, err := io.ReadAll(io.LimitReader(reader, limit))
	return content, s.classify(ctx, errors.Join(err, reader.Close()))
}

// modeOf spells a mode as trees do. Old versions of git wrote 100664, which git reads as 100644.
func modeOf(mode filemode.FileMode) edit.Mode {
	switch mode {
	case filemode.Executable:
		return edit.ModeExecutable
	case filemode.Symlink:
		return edit.ModeSymlink
	case filemode.Submodule:
		return edit.ModeSubmodule
	case filemode.Dir:
		return edit.ModeDir
	}
	return edit.ModeRegular
}
