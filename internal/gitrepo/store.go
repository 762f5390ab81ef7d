package gitrepo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/memfs"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/gitsmith/gitsmith/internal/fault"
)

const (
	objectCache = 4 << 20 // bytes of objects that one snapshot keeps inflated
	largeObject = 1 << 20 // bytes from which an object is streamed instead
)

// store is one pack with its index, in memory or in a folder of its own. It serves one goroutine.
type store struct {
	objects *filesystem.Storage
	folder  string // empty where it is in memory
}

// EncodedObject is [objectReader]'s.
func (s *store) EncodedObject(kind plumbing.ObjectType, hash plumbing.Hash) (plumbing.EncodedObject, error) {
	return s.objects.EncodedObject(kind, hash)
}

func (s *store) close() error {
	err := s.objects.Close()
	if s.folder != "" {
		err = errors.Join(err, os.RemoveAll(s.folder))
	}
	return err
}

// store takes a pack: in memory up to the limit, else on disk, and never more than a repository may have.
func (c *Client) store(pack io.Reader) (*store, error) {
	bounded := &boundedReader{reader: pack, left: c.config.MaxRepository}
	var head bytes.Buffer
	limit := max(c.config.MemoryLimit, packHeader)
	n, err := io.CopyN(&head, bounded, limit+1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := checkCount(head.Bytes(), n <= limit); err != nil {
		return nil, err
	}
	if n <= limit {
		return index(memfs.New(), "", &head)
	}
	folder, err := c.scratch.make()
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "there is no place on disk for a pack")
	}
	s, err := index(osfs.New(folder, osfs.WithBoundOS()), folder, io.MultiReader(&head, bounded))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(folder))
	}
	return s, nil
}

func index(files billy.Filesystem, folder string, pack io.Reader) (*store, error) {
	objects := filesystem.NewStorageWithOptions(files, cache.NewObjectLRU(objectCache), filesystem.Options{
		LargeObjectThreshold: largeObject, KeepDescriptors: true,
	})
	if err := packfile.UpdateObjectStorage(objects, pack); err != nil {
		return nil, errors.Join(fmt.Errorf("pack: %w", err), objects.Close())
	}
	return &store{objects, folder}, nil
}

// What a pack's header may claim. go-git makes room for as many objects as it says before it reads one.
const (
	minPacked  = 9 // bytes of the smallest object in a pack: a byte of header and an empty zlib stream
	maxObjects = 8_000_000
	packHeader = 12 // bytes: "PACK", version, count
)

// checkCount refuses a pack that claims more objects than it can hold; whole says that head is all of it.
func checkCount(head []byte, whole bool) error {
	if len(head) < packHeader {
		return io.ErrUnexpectedEOF
	}
	count := int64(binary.BigEndian.Uint32(head[packHeader-4:]))
	switch {
	case whole && count > int64(len(head))/minPacked:
		return fmt.Errorf("the pack of %d bytes claims %d objects", len(head), count)
	case count > maxObjects:
		return fault.Newf(fault.TooLarge, "the repository has more than %d objects", maxObjects)
	}
	return nil
}

// boundedReader ends with a TooLarge fault after so many bytes.
type boundedReader struct {
	reader io.Reader
	left   int64
}

func (r *boundedReader) Read(p []byte) (int, error) {
	n, err := r.reader.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return 0, fault.Newf(fault.TooLarge, "the repository is larger than GITSMITH_MAX_REPOSITORY allows")
	}
	return n, err
}
