// Package packstream reads a git pack (gitformat-pack(5)) while it arrives. Objects are parsed one after the other as they are
// asked for; what has arrived is kept, in memory or in a file, so that earlier objects can be read again. A caller that has
// found what it needs closes the stream, and the rest is never received.
//
// An object is found by its hash, which is computed from its content: whatever a server or a disk did to the bytes, an object
// that is found is the one that was asked for.
package packstream

import (
	"bufio"
	"cmp"
	"crypto/sha1" //nolint:gosec // git's name of an object; the sender, not the hash, is what is trusted
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zlib"
)

// ID is an object's SHA-1.
type ID = [sha1.Size]byte

// Kind is an object's type, numbered as in packs.
type Kind int8

// The kinds.
const (
	Commit Kind = 1
	Tree   Kind = 2
	Blob   Kind = 3
	Tag    Kind = 4

	offsetDelta Kind = 6
	hashDelta   Kind = 7
)

func (k Kind) String() string {
	switch k {
	case Commit:
		return "commit"
	case Tree:
		return "tree"
	case Blob:
		return "blob"
	case Tag:
		return "tag"
	}
	return fmt.Sprintf("kind %d", int8(k))
}

// Errors that a stream ends with, beside the source's own and those of the file system.
var (
	ErrTooLarge = errors.New("the pack, or what is in it, is larger than allowed")
	ErrDamaged  = errors.New("the pack is damaged")
)

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// Options bound a stream. Every field is required unless it says otherwise.
type Options struct {
	// Folder makes a folder of the stream's own for what does not fit in memory. It is called at most once, and the caller
	// removes it after Close.
	Folder      func() (string, error)
	MemoryLimit int64 // bytes of the pack in memory, before it goes to a file
	MaxBytes    int64 // of the pack, and of what is inflated to files; ErrTooLarge beyond
	MaxObjects  int64
	Ahead       int64 // bytes that may arrive before they are asked for; 0 is any number
	// Err says why to stop, nil to go on. It is asked before each 64 KiB or less.
	Err func() error
}

// Object is one object of a pack.
type Object struct {
	ID     ID
	Kind   Kind
	Size   int64  // bytes of content
	depth  uint16 // deltas below it in the pack; 0 for an object that is stored whole
	offset int64
}

const (
	largeObject  = 1 << 20 // bytes from which content is never held in memory as a whole
	contentCache = 4 << 20 // bytes of small contents that are kept for the deltas on them
	maxChain     = 4095    // deltas on deltas, as many as git writes at most
	maxWaiting   = 1 << 16 // deltas that wait for their base at the same time; git's servers send the base first
	headerSize   = 12      // bytes of a pack's header: "PACK", version, count
)

// Stream is a pack that is being read. It serves one goroutine, and must be closed.
type Stream struct {
	options Options
	spool   *spool
	input   *spoolReader
	buffer  *bufio.Reader // on input: the parser's place

	header  bool
	left    int64 // objects that were not parsed yet
	objects []Object
	late    []Object        // deltas that came before their base
	lateAt  map[int64]int32 // place in late, by offset
	byID    map[ID]int32    // place in objects or, if negative, the complement of that in late
	waiting waiting         // deltas whose base is still to come
	broken  error           // what parsing ended with; io.EOF after the last object

	cache   *contents
	files   map[int64]content // large contents that were needed, by offset
	inFiles int64
	folder  func() (string, error)
	zlib    io.ReadCloser // reused
	copying []byte        // reused
	delta   []byte        // reused
}

// Open begins to read a pack from source, in a goroutine that ends with the source, or with Close.
func Open(source io.Reader, options Options) *Stream {
	options.Folder = sync.OnceValues(options.Folder)
	s := &Stream{
		options: options, folder: options.Folder, spool: newSpool(source, options),
		byID: map[ID]int32{}, lateAt: map[int64]int32{}, waiting: newWaiting(), files: map[int64]content{}, cache: newContents(contentCache),
	}
	s.input = &spoolReader{spool: s.spool}
	s.buffer = bufio.NewReaderSize(s.input, fillSize)
	return s
}

// Close ends the reading. The source must have been unblocked before. Nothing of the stream may be used afterwards.
func (s *Stream) Close() error { return s.spool.stop() }

// Unbound lets the pack arrive as fast as it comes, whatever has been asked for.
func (s *Stream) Unbound() { s.spool.unbound() }

// Remaining is how many bytes have arrived and were not parsed yet; ended says that no more will come.
func (s *Stream) Remaining() (bytes int64, ended bool) {
	size, ended := s.spool.arrived()
	return size - s.offset(), ended
}

// Objects gives those parsed so far. Deltas whose base has not come yet are missing.
func (s *Stream) Objects() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for _, part := range [][]Object{s.objects, s.late} {
			for _, object := range part {
				if !yield(object) {
					return
				}
			}
		}
	}
}

// Get is an object that was parsed already.
func (s *Stream) Get(id ID) (Object, bool) {
	i, found := s.byID[id]
	switch {
	case !found:
		return Object{}, false
	case i < 0:
		return s.late[^i], true
	}
	return s.objects[i], true
}

// Find parses until an object is there. It is found unless the pack ends before; then the error is nil.
func (s *Stream) Find(id ID) (Object, bool, error) {
	for {
		if object, found := s.Get(id); found {
			return object, true, nil
		}
		if err := s.Next(); errors.Is(err, io.EOF) {
			object, found := s.Get(id)
			return object, found, nil
		} else if err != nil {
			return Object{}, false, err
		}
	}
}

// Next parses one more object; after the last one it checks the pack's own checksum and gives io.EOF. Every other error stays.
func (s *Stream) Next() error {
	if s.broken == nil {
		s.broken = s.next()
		if s.broken != nil && errors.Is(s.broken, io.EOF) && (!s.header || s.left > 0) {
			s.broken = io.ErrUnexpectedEOF
		}
	}
	return s.broken
}

func (s *Stream) next() error {
	if !s.header {
		if err := s.readHeader(); err != nil {
			return err
		}
	}
	if s.left == 0 {
		return io.EOF
	}
	if err := s.readObject(); err != nil {
		return err
	}
	if s.left--; s.left > 0 {
		return nil
	}
	return s.readTrailer()
}

func (s *Stream) readHeader() error {
	var header [headerSize]byte
	if _, err := io.ReadFull(s.buffer, header[:]); err != nil {
		return err
	}
	if string(header[:4]) != "PACK" || binary.BigEndian.Uint32(header[4:]) != 2 {
		return damaged("it begins with %q", header[:8])
	}
	s.left = int64(binary.BigEndian.Uint32(header[8:]))
	if s.left > s.options.MaxObjects {
		return ErrTooLarge
	}
	s.header = true
	if s.left == 0 {
		return s.readTrailer()
	}
	return nil
}

// readTrailer compares the checksum at the end with that of what came before.
func (s *Stream) readTrailer() error {
	end := s.offset()
	var want ID
	if _, err := io.ReadFull(s.buffer, want[:]); err != nil {
		return err
	}
	sum := sha1.New() //nolint:gosec // see above
	if _, err := io.CopyBuffer(sum, io.LimitReader(&spoolReader{spool: s.spool}, end), s.copyBuffer()); err != nil {
		return err
	}
	switch {
	case ID(sum.Sum(nil)) != want:
		return damaged("its checksum is not that of its bytes")
	case s.waiting.count() > 0:
		return damaged("it holds deltas on objects that it lacks")
	}
	return nil
}

func (s *Stream) copyBuffer() []byte {
	if s.copying == nil {
		s.copying = make([]byte, fillSize)
	}
	return s.copying
}

// offset is where the parser stands.
func (s *Stream) offset() int64 { return s.input.offset - int64(s.buffer.Buffered()) }

// readObject parses the object at the parser's place, and then makes the objects of the deltas that waited for it.
func (s *Stream) readObject() error {
	object, made, err := s.parseObject()
	if err != nil || !made {
		return err
	}
	return s.resolve(object)
}

// parseObject parses the object at the parser's place; made is false if it is a delta whose base is still to come.
func (s *Stream) parseObject() (object Object, made bool, err error) {
	offset := s.offset()
	entry, err := readEntry(s.buffer, offset)
	if err != nil {
		return Object{}, false, err
	}
	switch {
	case entry.isDelta():
		base, found := s.baseOf(entry)
		if !found {
			return Object{}, false, s.wait(offset, entry)
		}
		object, err = s.readDelta(s.buffer, offset, entry.size, base)
	case entry.size > s.options.MaxBytes:
		err = ErrTooLarge
	case entry.size > largeObject:
		sum := newSum(entry.kind, entry.size)
		if err = s.inflateTo(s.buffer, sum, entry.size); err == nil {
			object = s.add(Object{ID: ID(sum.Sum(nil)), Kind: entry.kind, Size: entry.size, offset: offset})
		}
	default:
		var whole content
		if whole, err = s.inflate(s.buffer, entry.size, offset); err == nil {
			object, err = s.addContent(Object{Kind: entry.kind, offset: offset}, whole)
		}
	}
	return object, err == nil, err
}

// readDelta makes the object of a delta, whose zlib stream comes next.
func (s *Stream) readDelta(from *bufio.Reader, offset, size int64, base Object) (Object, error) {
	if base.depth >= maxChain {
		return Object{}, damaged("more than %d deltas on deltas", maxChain)
	}
	content, err := s.content(base.offset)
	if err != nil {
		return Object{}, err
	}
	made, err := s.apply(content, from, size, offset)
	if err != nil {
		return Object{}, err
	}
	return s.addContent(Object{Kind: base.Kind, offset: offset, depth: base.depth + 1}, made)
}

// addContent hashes an object's content and notes the object.
func (s *Stream) addContent(object Object, content content) (Object, error) {
	s.keep(object.offset, content)
	sum := newSum(object.Kind, content.size)
	if err := content.copyTo(sum); err != nil {
		return Object{}, err
	}
	object.ID, object.Size = ID(sum.Sum(nil)), content.size
	return s.add(object), nil
}

// add notes an object. Of two with the same hash the first one stays: its base was noted before it, so a chain of deltas never
// comes back to where it began.
func (s *Stream) add(object Object) Object {
	place := int32(len(s.objects)) //nolint:gosec // MaxObjects is far below
	if len(s.objects) == 0 || s.objects[len(s.objects)-1].offset < object.offset {
		s.objects = append(s.objects, object)
	} else {
		late := int32(len(s.late)) //nolint:gosec // the same
		s.late, s.lateAt[object.offset], place = append(s.late, object), late, ^late
	}
	if _, twice := s.byID[object.ID]; !twice {
		s.byID[object.ID] = place
	}
	return object
}

// baseOf is a delta's base, if it was parsed or made before.
func (s *Stream) baseOf(delta entry) (Object, bool) {
	if delta.kind == hashDelta {
		return s.Get(delta.baseID)
	}
	return s.at(delta.base)
}

// at is the object at an offset.
func (s *Stream) at(offset int64) (Object, bool) {
	i, found := slices.BinarySearchFunc(s.objects, offset, func(object Object, offset int64) int { return cmp.Compare(object.offset, offset) })
	if found {
		return s.objects[i], true
	}
	late, found := s.lateAt[offset]
	if !found {
		return Object{}, false
	}
	return s.late[late], true
}

// Content returns an object's content, or ErrTooLarge above 1 MiB. The caller must not change it.
func (s *Stream) Content(object Object) ([]byte, error) {
	if object.Size > largeObject {
		return nil, ErrTooLarge
	}
	content, err := s.content(object.offset)
	return content.bytes, err
}

// Reader reads an object's content from its beginning. Several readers may be open, and objects be parsed meanwhile.
func (s *Stream) Reader(object Object) (io.ReadCloser, error) {
	if object.Size <= largeObject {
		content, err := s.content(object.offset)
		if err != nil {
			return nil, err
		}
		return content.open()
	}
	from := s.from(object.offset)
	entry, err := readEntry(from, object.offset)
	if err != nil {
		return nil, err
	}
	if entry.isDelta() {
		content, err := s.content(object.offset)
		if err != nil {
			return nil, err
		}
		return content.open()
	}
	reader, err := zlib.NewReader(from)
	return reader, inflateError(err)
}

// WriteTo parses what is left, so that all of the pack is known to be sound, and writes its bytes.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	s.Unbound()
	for err := s.Next(); !errors.Is(err, io.EOF); err = s.Next() {
		if err != nil {
			return 0, err
		}
	}
	return io.CopyBuffer(w, io.LimitReader(&spoolReader{spool: s.spool}, s.offset()), s.copyBuffer())
}

// inflateInto reads the zlib stream that comes next, which must fill content.
func (s *Stream) inflateInto(from *bufio.Reader, content []byte) error {
	reader, err := s.inflater(from)
	if err != nil {
		return err
	}
	if _, err := io.ReadFull(reader, content); err != nil {
		return inflateError(noEOF(err))
	}
	return ends(reader)
}

// inflateTo writes the zlib stream that comes next; it must have size bytes.
func (s *Stream) inflateTo(from *bufio.Reader, w io.Writer, size int64) error {
	reader, err := s.inflater(from)
	if err != nil {
		return err
	}
	if n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(reader, size), s.copyBuffer()); err != nil || n < size {
		return inflateError(cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return ends(reader)
}

// ends checks that a zlib stream is over, which is when its checksum is compared.
func ends(reader io.Reader) error {
	var more [1]byte
	n, err := io.ReadFull(reader, more[:])
	if n > 0 {
		return damaged("an object is larger than its header says")
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return inflateError(err)
}

func (s *Stream) inflater(from *bufio.Reader) (io.Reader, error) {
	if s.zlib != nil {
		return s.zlib, inflateError(s.zlib.(zlib.Resetter).Reset(from, nil))
	}
	reader, err := zlib.NewReader(from)
	if err != nil {
		return nil, inflateError(err)
	}
	s.zlib = reader
	return reader, nil
}

// inflateError marks what the zlib stream itself has wrong; an end that comes too early may be the connection's.
func inflateError(err error) error {
	var corrupt flate.CorruptInputError
	if errors.Is(err, zlib.ErrChecksum) || errors.Is(err, zlib.ErrHeader) || errors.Is(err, zlib.ErrDictionary) || errors.As(err, &corrupt) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}
