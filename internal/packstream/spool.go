package packstream

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// spool holds the bytes of a source as they arrive: in memory up to a limit, then in a file. One goroutine fills it; any may
// read, and a reader of bytes that are still to come waits for them.
type spool struct {
	options Options
	source  io.Reader

	mu     sync.Mutex
	moved  sync.Cond // something below changed
	memory []byte    // everything, as long as there is no file
	file   *os.File
	size   int64 // bytes that arrived
	wanted int64 // up to where a reader has asked
	err    error // why no more will come; io.EOF at the source's end
	closed bool
	filled chan struct{} // closed when the filling goroutine has ended
}

// errClosed ends a reader that waits while the stream is closed.
var errClosed = errors.New("the pack is closed")

const fillSize = 64 << 10 // bytes that are taken from the source at once

func newSpool(source io.Reader, options Options) *spool {
	s := &spool{options: options, source: source, filled: make(chan struct{})}
	s.moved.L = &s.mu
	go s.fill()
	return s
}

func (s *spool) fill() {
	defer close(s.filled)
	buffer := make([]byte, fillSize)
	for {
		n, err := s.source.Read(buffer)
		if stored := s.store(buffer[:n]); err == nil {
			err = stored
		}
		s.mu.Lock()
		for err == nil && !s.closed && s.options.Ahead > 0 && s.size > s.wanted+s.options.Ahead {
			s.moved.Wait()
		}
		if err == nil && s.closed {
			err = errClosed
		}
		if err != nil {
			s.err = err
		}
		s.moved.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// store keeps bytes that have arrived and tells the readers.
func (s *spool) store(arrived []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.size+int64(len(arrived)) > s.options.MaxBytes {
		return ErrTooLarge
	}
	if s.file == nil && s.size+int64(len(arrived)) > s.options.MemoryLimit {
		if err := s.moveToFile(); err != nil {
			return err
		}
	}
	if s.file == nil {
		s.memory = append(s.memory, arrived...)
	} else if _, err := s.file.WriteAt(arrived, s.size); err != nil {
		return fmt.Errorf("keep what arrives: %w", err)
	}
	s.size += int64(len(arrived))
	s.moved.Broadcast()
	return nil
}

func (s *spool) moveToFile() error {
	folder, err := s.options.Folder()
	if err != nil {
		return fmt.Errorf("keep what arrives: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(folder, "pack"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("keep what arrives: %w", err)
	}
	if _, err := file.Write(s.memory); err != nil {
		return fmt.Errorf("keep what arrives: %w", errors.Join(err, file.Close()))
	}
	s.file, s.memory = file, nil
	return nil
}

// ReadAt reads at least one byte at an offset, and waits for it; it reads no more than has arrived then.
func (s *spool) ReadAt(p []byte, offset int64) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	s.mu.Lock()
	if offset+int64(len(p)) > s.wanted {
		s.wanted = offset + int64(len(p))
		s.moved.Broadcast()
	}
	for s.size <= offset && s.err == nil && !s.closed {
		s.moved.Wait()
	}
	err := s.err
	if s.closed {
		err = errClosed
	}
	if stop := s.options.Err(); stop != nil {
		err = stop
	} else if s.size > offset && !s.closed {
		err = nil
	}
	if err != nil {
		s.mu.Unlock()
		return 0, err
	}
	p = p[:min(int64(len(p)), s.size-offset)]
	if s.file == nil {
		defer s.mu.Unlock()
		return copy(p, s.memory[offset:]), nil
	}
	file := s.file
	s.mu.Unlock()
	return file.ReadAt(p, offset)
}

// arrived reports how many bytes there are, and whether the source has ended with them.
func (s *spool) arrived() (size int64, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.size, errors.Is(s.err, io.EOF)
}

// unbound lets the source run ahead of its readers as far as it likes.
func (s *spool) unbound() {
	s.mu.Lock()
	s.options.Ahead = 0
	s.moved.Broadcast()
	s.mu.Unlock()
}

// stop ends the filling; the source must not block any more.
func (s *spool) stop() error {
	s.mu.Lock()
	s.closed = true
	s.moved.Broadcast()
	s.mu.Unlock()
	<-s.filled
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// spoolReader reads a spool from an offset on.
type spoolReader struct {
	spool  *spool
	offset int64
}

func (r *spoolReader) Read(p []byte) (int, error) {
	n, err := r.spool.ReadAt(p, r.offset)
	r.offset += int64(n)
	return n, err
}
