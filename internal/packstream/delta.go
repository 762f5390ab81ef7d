package packstream

import (
	"bufio"
	"bytes"
	"container/list"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"crypto/sha1" //nolint:gosec // see stream.go
)

// entry is what stands before an object's zlib stream.
type entry struct {
	kind   Kind
	size   int64 // of the inflated stream
	base   int64 // offsetDelta: where the base is
	baseID ID    // hashDelta
}

func (e entry) isDelta() bool { return e.kind == offsetDelta || e.kind == hashDelta }

func readEntry(from *bufio.Reader, offset int64) (entry, error) {
	first, err := from.ReadByte()
	if err != nil {
		return entry{}, err
	}
	e := entry{kind: Kind(first >> 4 & 7), size: int64(first & 15)}
	for shift := 4; first&0x80 != 0; shift += 7 {
		if first, err = from.ReadByte(); err != nil {
			return entry{}, noEOF(err)
		}
		if shift > 55 {
			return entry{}, damaged("an object's size at %d has no end", offset)
		}
		e.size |= int64(first&0x7f) << shift
	}
	switch e.kind {
	case Commit, Tree, Blob, Tag:
		return e, nil
	case hashDelta:
		_, err = io.ReadFull(from, e.baseID[:])
		return e, noEOF(err)
	case offsetDelta:
		distance, err := readDistance(from)
		e.base = offset - distance
		if err == nil && (distance <= 0 || e.base < headerSize) {
			err = damaged("a delta at %d leads out of the pack", offset)
		}
		return e, err
	}
	return entry{}, damaged("there is no object of kind %d", e.kind)
}

// readDistance reads the number that leads an offset delta back to its base.
func readDistance(from *bufio.Reader) (int64, error) {
	var distance int64
	for i := 0; ; i++ {
		next, err := from.ReadByte()
		if err != nil {
			return 0, noEOF(err)
		}
		if i > 8 {
			return 0, damaged("a delta's distance has no end")
		}
		if i > 0 {
			distance++
		}
		distance = distance<<7 | int64(next&0x7f)
		if next&0x80 == 0 {
			return distance, nil
		}
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// newSum begins an object's hash.
func newSum(kind Kind, size int64) hash.Hash {
	sum := sha1.New() //nolint:gosec // see above
	sum.Write(strconv.AppendInt([]byte(kind.String()+" "), size, 10))
	sum.Write([]byte{0})
	return sum
}

// content is an object's content: small ones in memory, large ones in a file.
type content struct {
	bytes []byte
	file  string // empty for a small one
	size  int64
}

func inMemory(b []byte) content { return content{bytes: b, size: int64(len(b))} }

func (c content) open() (io.ReadSeekCloser, error) {
	if c.file != "" {
		return os.Open(c.file)
	}
	return memoryReader{bytes.NewReader(c.bytes)}, nil
}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

func (c content) copyTo(w io.Writer) error {
	if c.file == "" {
		_, err := w.Write(c.bytes)
		return err
	}
	reader, err := c.open()
	if err != nil {
		return err
	}
	_, err = io.Copy(w, reader)
	return errors.Join(err, reader.Close())
}

// content reads the object at an offset again, down the chain of its deltas.
func (s *Stream) content(offset int64) (content, error) {
	var chain []int64 // deltas, the last one on what was found
	for {
		if known, found := s.known(offset); found {
			return s.up(known, chain)
		}
		reader := s.from(offset)
		entry, err := readEntry(reader, offset)
		if err != nil {
			return content{}, err
		}
		if !entry.isDelta() {
			whole, err := s.inflate(reader, entry.size, offset)
			if err != nil {
				return content{}, err
			}
			s.keep(offset, whole)
			return s.up(whole, chain)
		}
		if chain = append(chain, offset); len(chain) > maxChain {
			return content{}, damaged("more than %d deltas on deltas", maxChain)
		}
		if entry.kind == hashDelta {
			base, found := s.Get(entry.baseID)
			if !found {
				return content{}, damaged("a delta's base is missing")
			}
			entry.base = base.offset
		}
		offset = entry.base
	}
}

// up applies a chain of deltas, the last one first.
func (s *Stream) up(base content, chain []int64) (content, error) {
	for i := len(chain) - 1; i >= 0; i-- {
		reader := s.from(chain[i])
		entry, err := readEntry(reader, chain[i])
		if err != nil {
			return content{}, err
		}
		if base, err = s.apply(base, reader, entry.size, chain[i]); err != nil {
			return content{}, err
		}
		s.keep(chain[i], base)
	}
	return base, nil
}

// from is a reader of the pack at an offset that was parsed before.
func (s *Stream) from(offset int64) *bufio.Reader {
	return bufio.NewReaderSize(&spoolReader{spool: s.spool, offset: offset}, 4<<10)
}

func (s *Stream) known(offset int64) (content, bool) {
	if file, found := s.files[offset]; found {
		return file, true
	}
	small, found := s.cache.get(offset)
	return inMemory(small), found
}

func (s *Stream) keep(offset int64, c content) {
	if c.file == "" {
		s.cache.put(offset, c.bytes)
	} else {
		s.files[offset] = c
	}
}

// inflate reads an object's zlib stream, into memory or a file; offset names the file.
func (s *Stream) inflate(from *bufio.Reader, size, offset int64) (content, error) {
	if size <= largeObject {
		small := make([]byte, size)
		return inMemory(small), s.inflateInto(from, small)
	}
	return s.toFile(offset, size, func(w io.Writer) error { return s.inflateTo(from, w, size) })
}

// toFile makes a large content of what write writes.
func (s *Stream) toFile(offset, size int64, write func(io.Writer) error) (content, error) {
	if s.inFiles += size; s.inFiles > s.options.MaxBytes {
		return content{}, ErrTooLarge
	}
	folder, err := s.folder()
	if err != nil {
		return content{}, err
	}
	file, err := os.OpenFile(filepath.Join(folder, fmt.Sprintf("object-%d", offset)), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return content{}, err
	}
	buffered := bufio.NewWriterSize(file, fillSize)
	err = write(buffered)
	if err == nil {
		err = buffered.Flush()
	}
	return content{file: file.Name(), size: size}, errors.Join(err, file.Close())
}

// apply makes the object that a delta, whose zlib stream comes next, makes of its base.
func (s *Stream) apply(base content, from *bufio.Reader, deltaSize, offset int64) (content, error) {
	var delta deltaReader
	if deltaSize <= largeObject {
		s.delta = append(s.delta[:0], make([]byte, deltaSize)...)
		if err := s.inflateInto(from, s.delta); err != nil {
			return content{}, err
		}
		delta = bytes.NewReader(s.delta)
	} else {
		inflating, err := s.inflater(from)
		if err != nil {
			return content{}, err
		}
		delta = bufio.NewReader(inflating)
	}
	baseSize, err := readSize(delta)
	if err != nil {
		return content{}, err
	}
	size, err := readSize(delta)
	if err != nil {
		return content{}, err
	}
	if baseSize != base.size {
		return content{}, damaged("a delta's base has another size than the delta says")
	}
	if size <= largeObject {
		out := bytes.NewBuffer(make([]byte, 0, size))
		err := instruct(out, base, delta, size)
		return inMemory(out.Bytes()), err
	}
	return s.toFile(offset, size, func(w io.Writer) error { return instruct(w, base, delta, size) })
}

type deltaReader interface {
	io.Reader
	io.ByteReader
}

// readSize reads one of the two sizes at a delta's beginning.
func readSize(from io.ByteReader) (int64, error) {
	var size int64
	for shift := 0; ; shift += 7 {
		next, err := from.ReadByte()
		if err != nil {
			return 0, damaged("a delta ends too early")
		}
		if shift > 55 {
			return 0, damaged("a delta's size has no end")
		}
		size |= int64(next&0x7f) << shift
		if next&0x80 == 0 {
			return size, nil
		}
	}
}

// instruct follows a delta's instructions: copy a part of the base, or insert what comes with the delta. They must make size
// bytes.
func instruct(out io.Writer, base content, delta deltaReader, size int64) error {
	reader, err := base.open()
	if err != nil {
		return err
	}
	defer func() { _ = reader.Close() }() // only read
	for made := int64(0); ; {
		op, err := delta.ReadByte()
		if errors.Is(err, io.EOF) {
			if made != size {
				return damaged("a delta makes %d bytes instead of %d", made, size)
			}
			return nil
		}
		if err != nil {
			return inflateError(err)
		}
		var n int64
		if op&0x80 != 0 {
			n, err = copyPart(out, base, reader, delta, op)
		} else if n = int64(op); n == 0 {
			err = damaged("a delta holds an instruction that does not exist")
		} else if _, err = io.CopyN(out, delta, n); errors.Is(err, io.EOF) {
			err = damaged("a delta ends too early")
		}
		if err != nil {
			return err
		}
		if made += n; made > size {
			return damaged("a delta makes more than its %d bytes", size)
		}
	}
}

func copyPart(out io.Writer, base content, reader io.ReadSeeker, delta io.ByteReader, op byte) (int64, error) {
	var numbers [7]byte // offset, 4 bytes, and length, 3 bytes, little end first; the op's bits say which are there
	for i := range numbers {
		if op>>i&1 == 0 {
			continue
		}
		next, err := delta.ReadByte()
		if err != nil {
			return 0, damaged("a delta ends too early")
		}
		numbers[i] = next
	}
	from := int64(numbers[0]) | int64(numbers[1])<<8 | int64(numbers[2])<<16 | int64(numbers[3])<<24
	n := int64(numbers[4]) | int64(numbers[5])<<8 | int64(numbers[6])<<16
	if n == 0 {
		n = 0x10000
	}
	if from+n > base.size {
		return 0, damaged("a delta copies from behind its base")
	}
	if base.file == "" {
		_, err := out.Write(base.bytes[from : from+n])
		return n, err
	}
	if _, err := reader.Seek(from, io.SeekStart); err != nil {
		return 0, err
	}
	_, err := io.CopyN(out, reader, n)
	return n, err
}

// contents keeps small contents by offset, and forgets the oldest when there are too many bytes.
type contents struct {
	limit, held int64
	byOffset    map[int64]*list.Element
	order       *list.List
}

type keptContent struct {
	offset int64
	bytes  []byte
}

func newContents(limit int64) *contents {
	return &contents{limit: limit, byOffset: map[int64]*list.Element{}, order: list.New()}
}

func (c *contents) get(offset int64) ([]byte, bool) {
	element, found := c.byOffset[offset]
	if !found {
		return nil, false
	}
	c.order.MoveToBack(element)
	return element.Value.(*keptContent).bytes, true
}

func (c *contents) put(offset int64, b []byte) {
	if _, found := c.byOffset[offset]; found {
		return
	}
	c.byOffset[offset] = c.order.PushBack(&keptContent{offset, b})
	for c.held += int64(len(b)); c.held > c.limit && c.order.Len() > 1; {
		oldest := c.order.Remove(c.order.Front()).(*keptContent)
		delete(c.byOffset, oldest.offset)
		c.held -= int64(len(oldest.bytes))
	}
}
