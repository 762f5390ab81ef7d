package tipcache

import (
	"bufio"
	"crypto/sha1" //nolint:gosec // git's name of an object
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// ID is an object's SHA-1.
type ID = [sha1.Size]byte

// Object is a git object. Kind is as in packs: 1 commit, 2 tree, 3 blob, 4 tag.
type Object struct {
	ID      ID
	Kind    int8
	Content []byte
}

// An entry's file is
//
//	magic, length of meta, length of list, checksum of both   4 bytes each, big end first
//	meta
//	list: for each object kind (1 byte), hash (20), size (4)
//	the objects' contents, in the list's order
const (
	magic      = "GTC1"
	headerSize = 16
	itemSize   = 1 + sha1.Size + 4
	maxPart    = 64 << 20 // bytes of meta or of the list
)

type item struct {
	kind   int8
	size   uint32
	offset int64
}

// Entry is an entry as it was when it was loaded, whatever became of its file since. It serves one goroutine.
type Entry struct {
	Meta []byte

	file    *os.File
	order   []ID
	items   map[ID]item
	damaged map[ID]bool
}

var errDamaged = errors.New("the entry is damaged")

func readEntry(file *os.File) (*Entry, error) {
	buffered := bufio.NewReader(file)
	var header [headerSize]byte
	if _, err := io.ReadFull(buffered, header[:]); err != nil {
		return nil, err
	}
	metaSize, listSize := binary.BigEndian.Uint32(header[4:]), binary.BigEndian.Uint32(header[8:])
	if string(header[:4]) != magic || metaSize > maxPart || listSize > maxPart || listSize%itemSize != 0 {
		return nil, errDamaged
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	size := int64(metaSize) + int64(listSize)
	if headerSize+size > info.Size() {
		return nil, errDamaged
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(buffered, text); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(text) != binary.BigEndian.Uint32(header[12:]) {
		return nil, errDamaged
	}
	e := &Entry{Meta: text[:metaSize], file: file, items: make(map[ID]item, listSize/itemSize), damaged: map[ID]bool{}}
	offset := headerSize + size
	for list := text[metaSize:]; len(list) > 0; list = list[itemSize:] {
		id, kept := ID(list[1:]), item{int8(list[0]), binary.BigEndian.Uint32(list[1+sha1.Size:]), offset}
		e.order, e.items[id] = append(e.order, id), kept
		offset += int64(kept.size)
	}
	return e, nil
}

// Has reports whether an object is listed. It may still turn out to be damaged.
func (e *Entry) Has(id ID) bool {
	_, found := e.items[id]
	return found && !e.damaged[id]
}

// Kind is a listed object's, 0 where it is not listed.
func (e *Entry) Kind(id ID) int8 { return e.items[id].kind }

// Get reads an object and compares it with its hash; false where it is not there or is not what it should be.
func (e *Entry) Get(id ID) (Object, bool) {
	found, listed := e.items[id]
	if !listed || e.damaged[id] {
		return Object{}, false
	}
	content := make([]byte, found.size)
	if n, _ := e.file.ReadAt(content, found.offset); n < len(content) || sum(found.kind, content) != id {
		e.damaged[id] = true
		return Object{}, false
	}
	return Object{ID: id, Kind: found.kind, Content: content}, true
}

var kinds = [...]string{1: "commit", 2: "tree", 3: "blob", 4: "tag"}

func sum(kind int8, content []byte) ID {
	if int(kind) >= len(kinds) || kind < 1 {
		return ID{}
	}
	hash := sha1.New() //nolint:gosec // see above
	fmt.Fprintf(hash, "%s %d\x00", kinds[kind], len(content))
	hash.Write(content)
	return ID(hash.Sum(nil))
}

// SizeOf is the bytes of a listed object's content, 0 where it is not listed.
func (e *Entry) SizeOf(id ID) int64 { return int64(e.items[id].size) }

// Size is the bytes of all contents.
func (e *Entry) Size() int64 {
	var size int64
	for _, found := range e.items {
		size += int64(found.size)
	}
	return size
}

// Close closes the file.
func (e *Entry) Close() error { return e.file.Close() }

// writeEntry writes an entry's file and gives its size.
func writeEntry(file *os.File, meta []byte, old *Entry, keep func(ID) bool, add []Object) (int64, error) {
	added := make(map[ID]bool, len(add))
	var list []byte
	note := func(kind int8, id ID, size uint32) {
		list = append(append(list, byte(kind)), id[:]...)
		list = binary.BigEndian.AppendUint32(list, size)
	}
	var fresh []Object
	for _, object := range add {
		if !added[object.ID] {
			added[object.ID] = true
			fresh = append(fresh, object)
			note(object.Kind, object.ID, uint32(len(object.Content))) //nolint:gosec // callers keep objects of a mebibyte at most
		}
	}
	var kept []item
	if old != nil {
		for _, id := range old.order {
			if old.Has(id) && !added[id] && (keep == nil || keep(id)) {
				found := old.items[id]
				kept = append(kept, found)
				note(found.kind, id, found.size)
			}
		}
	}
	if len(list) > maxPart || len(meta) > maxPart {
		return 0, errors.New("the entry has too many objects")
	}
	out := bufio.NewWriterSize(file, 64<<10)
	header := binary.BigEndian.AppendUint32([]byte(magic), uint32(len(meta))) //nolint:gosec // checked above
	header = binary.BigEndian.AppendUint32(header, uint32(len(list)))         //nolint:gosec // checked above
	header = binary.BigEndian.AppendUint32(header, crc32.Update(crc32.ChecksumIEEE(meta), crc32.IEEETable, list))
	size := int64(len(header) + len(meta) + len(list))
	for _, part := range [][]byte{header, meta, list} {
		_, _ = out.Write(part) // Flush gives the error
	}
	for _, object := range fresh {
		_, _ = out.Write(object.Content) // the same
		size += int64(len(object.Content))
	}
	copied, err := copyKept(out, old, kept)
	if err != nil {
		return 0, err
	}
	return size + copied, out.Flush()
}

// copyKept copies objects of an older entry and gives their size. Those that lie side by side, which are most, are read as one.
func copyKept(out io.Writer, old *Entry, kept []item) (int64, error) {
	size := int64(0)
	for len(kept) > 0 {
		begin, end := kept[0].offset, kept[0].offset
		for len(kept) > 0 && kept[0].offset == end {
			end += int64(kept[0].size)
			kept = kept[1:]
		}
		if _, err := io.Copy(out, io.NewSectionReader(old.file, begin, end-begin)); err != nil {
			return 0, err
		}
		size += end - begin
	}
	return size, nil
}
