package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/packstream"
)

// Snapshot is a ref's tip as it was read: a tree to look into, to build on and to archive. It serves one goroutine and must be
// closed. It is an [edit.Source].
type Snapshot struct {
	op      operation
	client  *Client
	objects *objects      // nil in an empty repository
	root    plumbing.Hash // the tip's tree
	commit  *object.Commit
	head    string // full name of the branch that HEAD names
	way     Way
	want    Want
	meta    cached // as the tip cache had it
	failed  bool   // something could not be read: nothing of it is kept
}

var _ edit.Source = (*Snapshot)(nil)

// open reads the tip's commit, peeling annotated tags, and its tree.
func (s *Snapshot) open(ctx context.Context) error {
	o := s.objects
	for range maxPeel {
		found := o.local(o.tip.commit)
		if found == nil {
			var err error
			if found, err = o.arriving(o.tip.commit); err != nil {
				return err
			}
		}
		if found == nil || found.kind != plumbing.TagObject {
			break // it is a commit, or the read below says what is wrong
		}
		tag := new(object.Tag)
		if err := tag.Decode(found); err != nil {
			return fmt.Errorf("%w: %w", packstream.ErrDamaged, err)
		}
		o.tip.commit = tag.Target
	}
	commit, err := readCommit(o.at(ctx), o.tip.commit)
	if err != nil {
		return err
	}
	s.root, s.commit = commit.TreeHash, commit
	_, err = o.tree(ctx, s.root)
	return err
}

// maxPeel bounds tags that name tags.
const maxPeel = 8

// Commit is the hash of the tip's commit; empty in an empty repository.
func (s *Snapshot) Commit() string {
	if s.objects == nil {
		return ""
	}
	return s.objects.tip.commit.String()
}

// MadeBy reports whether the tip is a commit that the job made, and that commit's parent, empty for none.
func (s *Snapshot) MadeBy(mark Mark) (parent string, made bool) {
	if s.objects == nil || !mark.made(s.commit) {
		return "", false
	}
	if hash := parentOf(s.commit); !hash.IsZero() {
		parent = hash.String()
	}
	return parent, true
}

// Ref is the tip's full name; empty where a commit was asked for.
func (s *Snapshot) Ref() string {
	if s.objects == nil {
		return ""
	}
	return s.objects.tip.ref
}

// MainBranch is the short name of the branch that HEAD names, which on Bitbucket is the main branch. It is empty for an empty
// repository, if HEAD names no branch, and if the server did not say or [Want] did not ask. A server that speaks version 0 names no
// branch that does not exist yet.
func (s *Snapshot) MainBranch() string {
	if name, isBranch := strings.CutPrefix(s.head, "refs/heads/"); isBranch {
		return name
	}
	return ""
}

// Way is how the tip was read; empty in an empty repository.
func (s *Snapshot) Way() Way { return s.way }

// Close keeps in the tip cache what the next reading can use, for which more may go on arriving, ends what else is being received, and
// removes what the snapshot holds on disk.
func (s *Snapshot) Close() error {
	if s.objects == nil {
		return nil
	}
	if s.want.Sparse && s.want.Push && !s.failed && s.client.cache != nil && s.objects.remote.Installation != "" {
		if s.way != WayCached && s.fill() {
			return nil
		}
		s.keep()
	}
	return s.objects.close()
}

// keep puts what was read into the tip cache. That it fails is no harm to anybody.
func (s *Snapshot) keep() {
	o := s.objects
	if o.main != nil && o.main.all() != nil { // the trees that the next edit needs may come last
		return
	}
	add, err := o.worthKeeping()
	if err != nil || len(add) == 0 && s.way == WayCached {
		return
	}
	s.client.put(o.remote, o.tip.commit, o.entry, s.meta, add)
}

// Archive writes the snapshot in a format and returns how many files it holds. Of an empty repository it is a NotFound fault.
func (s *Snapshot) Archive(ctx context.Context, w io.Writer, spec ArchiveSpec) (int, error) {
	if s.objects == nil {
		return 0, fault.Newf(fault.NotFound, "%s: the repository is empty, there is nothing to archive", s.op)
	}
	o := s.objects
	files, err := writeArchive(ctx, w, archiveSource{
		objects: o.at(ctx), commit: o.tip.commit, tip: o.tip.want, ref: o.tip.ref, shallow: s.want.Depth > 0, pack: o.main,
	}, spec)
	if err == nil && !s.want.Sparse {
		err = o.main.all() // what was not needed is sound too, or the server is not to be believed
	}
	return files, s.classify(ctx, err)
}

// Prefetch gets blobs that will be read, in one request where that is cheaper. Ids that are none are left for Blob to refuse.
func (s *Snapshot) Prefetch(ctx context.Context, ids []string) error {
	if s.objects == nil {
		return nil
	}
	hashes := make([]plumbing.Hash, 0, len(ids))
	for _, id := range ids {
		if hash, err := parseHash(id); err == nil {
			hashes = append(hashes, hash)
		}
	}
	return s.classify(ctx, s.objects.prefetch(ctx, hashes))
}

// classify turns an error of the object storage into a fault: an object that is missing was not sent.
func (s *Snapshot) classify(ctx context.Context, err error) error {
	var classified *fault.Error
	if err == nil || errors.As(err, &classified) {
		return err
	}
	s.failed = true
	return packFault(ctx, s.op, err)
}

// Entry finds what is at path.
func (s *Snapshot) Entry(ctx context.Context, path string) (edit.Entry, bool, error) {
	hash, found := s.root, s.objects != nil
	mode := filemode.Dir
	for name := range strings.SplitSeq(path, "/") {
		if !found || mode != filemode.Dir {
			return edit.Entry{}, false, nil
		}
		tree, err := s.objects.tree(ctx, hash)
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
	if s.objects == nil {
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
	tree, err := s.objects.tree(ctx, hash)
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
	if s.objects == nil {
		return nil, fault.Newf(fault.NotFound, "%s: the repository is empty", s.op)
	}
	hash := plumbing.NewHash(id)
	found, err := s.objects.find(ctx, plumbing.BlobObject, hash)
	if err != nil {
		return nil, s.classify(ctx, err)
	}
	if found.size > limit {
		return nil, fault.Newf(fault.TooLarge, "%s: a file of %d bytes is to be edited, at most %d", s.op, found.size, limit)
	}
	content, err := found.content()
	if err == nil && found.size <= largeObject {
		if s.objects.blobs == nil {
			s.objects.blobs = map[plumbing.Hash]*readObject{}
		}
		s.objects.blobs[hash] = found
	}
	return content, s.classify(ctx, err)
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
