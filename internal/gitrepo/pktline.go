package gitrepo

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/gitsmith/gitsmith/internal/packstream"
)

// pkt is what a pkt-line is (gitprotocol-common(5), gitprotocol-v2(5)).
type pkt int8

const (
	pktData      pkt = iota
	pktFlush         // 0000: an answer's end, or a part's
	pktDelimiter     // 0001: between the parts of a version 2 message
	pktEnd           // 0002: the end of an answer, version 2 without a connection of its own
)

const maxPkt = 65520 // bytes of a pkt-line with its length

// refusal is what a server says instead of an answer, in a line that begins with ERR or in the sideband for errors.
type refusal struct{ words string }

func (r *refusal) Error() string { return fmt.Sprintf("the server refuses: %q", quote(r.words)) }

// pktReader reads pkt-lines.
type pktReader struct {
	from   *bufio.Reader
	buffer []byte
}

func newPktReader(from io.Reader) *pktReader { return &pktReader{from: bufio.NewReader(from)} }

// next reads one pkt-line; its content is good until the next call. An end between lines is io.EOF, one within a line
// io.ErrUnexpectedEOF, and ERR a refusal.
func (r *pktReader) next() ([]byte, pkt, error) {
	line, kind, err := r.raw()
	if words, found := errorLine(line); err == nil && found {
		return nil, kind, &refusal{words}
	}
	return line, kind, err
}

// errorLine returns the message of a line that begins with ERR (gitprotocol-pack(5), "pkt-line Format").
func errorLine(line []byte) (words string, found bool) {
	text, found := bytes.CutPrefix(line, []byte("ERR "))
	return string(bytes.TrimSpace(text)), found
}

func (r *pktReader) raw() ([]byte, pkt, error) {
	var digits [4]byte
	if _, err := io.ReadFull(r.from, digits[:]); err != nil {
		return nil, 0, err
	}
	length, err := strconv.ParseUint(string(digits[:]), 16, 16)
	switch {
	case err != nil:
		return nil, 0, fmt.Errorf("%w: %q where a pkt-line begins", packstream.ErrDamaged, digits)
	case length < 3:
		return nil, [...]pkt{pktFlush, pktDelimiter, pktEnd}[length], nil
	case length < 4 || length > maxPkt:
		return nil, 0, fmt.Errorf("%w: a pkt-line of %d bytes", packstream.ErrDamaged, length)
	}
	r.buffer = slices.Grow(r.buffer[:0], int(length))
	line := r.buffer[:length-4]
	if _, err := io.ReadFull(r.from, line); err != nil {
		return nil, 0, noEOF(err)
	}
	return line, pktData, nil
}

// text is next without the line break that lines of text may end with.
func (r *pktReader) text() (string, pkt, error) {
	line, kind, err := r.next()
	return string(bytes.TrimSuffix(line, []byte("\n"))), kind, err
}

// end reads to the end of a body that is over, so that its connection can be used again.
func (r *pktReader) end() error {
	_, err := io.CopyN(io.Discard, r.from, maxPkt)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// sideband reads the data of a multiplexed answer to its end (gitprotocol-pack(5), "Packfile Data"). What the server says for people to
// read goes to words, which may be nil.
type sideband struct {
	lines *pktReader
	words io.Writer
	rest  []byte
	err   error
}

// The bands.
const (
	bandData  = 1
	bandWords = 2
	bandError = 3
)

func (s *sideband) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if s.err == nil {
			s.err = s.fill()
		}
		if s.err != nil {
			return 0, s.err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// fill reads lines until there is data. A flush ends it all; the body is then read to its end, so that the connection can be
// used again.
func (s *sideband) fill() error {
	line, kind, err := s.lines.raw()
	switch {
	case err != nil:
		return noEOF(err)
	case kind != pktData:
		return cmp.Or(s.lines.end(), io.EOF)
	case len(line) == 0:
		return nil
	}
	switch line[0] {
	case bandData:
		s.rest = line[1:]
	case bandWords:
		if s.words != nil {
			_, _ = s.words.Write(line[1:]) // into memory
		}
	case bandError:
		return &refusal{string(bytes.TrimSpace(line[1:]))}
	default:
		if words, found := errorLine(line); found { // the server gave up before it came to the bands
			return &refusal{words}
		}
		return fmt.Errorf("%w: a sideband %d", packstream.ErrDamaged, line[0])
	}
	return nil
}

// pktWriter puts pkt-lines together in memory.
type pktWriter struct{ bytes.Buffer }

func (w *pktWriter) line(format string, args ...any) { w.text(fmt.Sprintf(format, args...) + "\n") }

func (w *pktWriter) text(text string) { fmt.Fprintf(w, "%04x%s", len(text)+4, text) }

func (w *pktWriter) flush()     { w.WriteString("0000") }
func (w *pktWriter) delimiter() { w.WriteString("0001") }
