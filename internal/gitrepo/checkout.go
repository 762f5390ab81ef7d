package gitrepo

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

// Checkout writes the whole tree into dir, an empty folder: files, executable or not, readable by this user alone, and symbolic
// links, of which none is ever followed. Submodules become empty folders, and neither filters nor line ends are applied. A
// tree that no folder can hold is an Invalid fault, one over GITSMITH_MAX_REPOSITORY TooLarge. What was written stays after an error.
func (s *Snapshot) Checkout(ctx context.Context, dir string) error {
	left, err := os.ReadDir(dir)
	if err == nil && len(left) > 0 {
		err = errors.New("the folder is not empty")
	}
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "%s: there is no folder for its files; the log says why", s.op)
	}
	if s.objects == nil {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "%s: there is no folder for its files; the log says why", s.op)
	}
	defer func() { _ = root.Close() }() // each file was closed with its error
	if err := s.bringAll(ctx); err != nil {
		return s.classify(ctx, err)
	}
	_, err = walkTree(ctx, s.objects.at(ctx), s.root, nil, &checkout{ctx: ctx, op: s.op, root: root, left: s.client.config.MaxRepository})
	return s.classify(ctx, err)
}

// manyFiles are so many that the whole tip is asked for instead of them.
const manyFiles = 2_000

// bringAll gets the tip's files in one request, where they are neither here nor coming.
func (s *Snapshot) bringAll(ctx context.Context) error {
	if s.objects.whole {
		return nil
	}
	files, err := s.Files(ctx, "")
	if err != nil {
		return err
	}
	var missing []plumbing.Hash
	for _, file := range files {
		if hash := plumbing.NewHash(file.ID); file.Mode != edit.ModeSubmodule && s.objects.local(hash) == nil {
			missing = append(missing, hash)
		}
	}
	if len(missing) > manyFiles {
		return s.objects.fetchWhole(ctx)
	}
	return s.objects.prefetch(ctx, missing)
}

// checkout is the [archiveWriter] that is a folder. Each folder and file is made by it, or is refused: so nothing that it writes
// goes through a link, even where a tree holds a name twice.
type checkout struct {
	ctx    context.Context //nolint:containedctx // it lives for one walk
	op     operation
	root   *os.Root
	left   int64 // bytes that may still be written
	buffer [archiveBuffer]byte
}

func (c *checkout) directory(path string) error {
	return c.made(path, c.root.Mkdir(path, 0o700))
}

func (c *checkout) file(path string, executable bool, size int64, content io.Reader) error {
	if c.left -= size; c.left < 0 {
		return fault.Newf(fault.TooLarge, "%s: the files are larger than GITSMITH_MAX_REPOSITORY allows", c.op)
	}
	mode := fs.FileMode(0o600)
	if executable {
		mode = 0o700
	}
	file, err := c.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return c.made(path, err)
	}
	target := &archiveTarget{ctx: c.ctx, out: file}
	err = copyExactly(target, content, size, c.buffer[:])
	if target.err != nil {
		err = target.err
	}
	return errors.Join(err, file.Close())
}

func (c *checkout) symlink(path, target string) error {
	if target == "" {
		return fault.Newf(fault.Invalid, "%s: the symbolic link %.200q has no target, which no file system takes", c.op, path)
	}
	return c.made(path, c.root.Symlink(target, path))
}

// Close does nothing.
func (c *checkout) Close() error { return nil }

// made says whose fault it is that something could not be made.
func (c *checkout) made(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		return fault.Wrapf(fault.Invalid, err, "%s: %.200q is in the tree twice; no folder can hold it", c.op, path)
	case errors.Is(err, syscall.ENAMETOOLONG):
		return fault.Wrapf(fault.Invalid, err, "%s: the name %.200q is longer than a file system takes", c.op, path)
	}
	return fault.Wrapf(fault.Internal, err, "%s: there is no place on disk for its files; the log says why", c.op)
}
