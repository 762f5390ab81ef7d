package gitrepo

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // git's checksum of a pack
	"encoding/binary"
	"io"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/klauspost/compress/zlib"
)

// newObject is an object that the server is to get.
type newObject struct {
	hash    plumbing.Hash
	kind    plumbing.ObjectType
	content []byte
}

// deflaters compress quickly rather than well: the objects of a push are small, and servers pack them again.
var deflaters = sync.Pool{New: func() any {
	deflater, err := zlib.NewWriterLevel(io.Discard, zlib.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant that there is
	}
	return deflater
}}

// writePack writes a pack, version 2 (gitformat-pack(5)), of whole objects: they are few, and looking for deltas between them would
// cost more than it saves.
func writePack(out io.Writer, objects []newObject) error {
	sum := sha1.New() //nolint:gosec // see above
	w := io.MultiWriter(out, sum)
	header := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(objects))) //nolint:gosec // bounded by what an edit may touch
	if _, err := w.Write(header); err != nil {
		return err
	}
	deflater := deflaters.Get().(*zlib.Writer)
	defer deflaters.Put(deflater)
	for _, object := range objects {
		if _, err := w.Write(appendEntryHeader(nil, object.kind, len(object.content))); err != nil {
			return err
		}
		deflater.Reset(w)
		if _, err := io.Copy(deflater, bytes.NewReader(object.content)); err != nil {
			return err
		}
		if err := deflater.Close(); err != nil {
			return err
		}
	}
	_, err := out.Write(sum.Sum(nil))
	return err
}

// appendEntryHeader appends an object's kind and size: three bits and four, then seven at a time, the lowest first.
func appendEntryHeader(b []byte, kind plumbing.ObjectType, size int) []byte {
	next := byte(kind)<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		b = append(b, next|0x80)
		next = byte(size & 0x7f)
	}
	return append(b, next)
}
