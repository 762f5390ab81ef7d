package spool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// batch is records that go to disk together.
type batch struct {
	records [][]byte
	bytes   int64
	done    chan struct{} // closed once err says what became of it
	err     error
}

// Append writes a record down and returns once it is on disk, together with those that others append at the same time. The error is
// an Unavailable fault where the spool is full or the disk does not take it; the record is not in the spool then, as far as the disk
// can still be told. Where ctx ends before, it may be there or not.
func (s *Spool) Append(ctx context.Context, content []byte) error {
	if len(content) > maxRecord {
		return fault.Newf(fault.TooLarge, "a record of the spool has %d bytes, and %d is the most", len(content), maxRecord)
	}
	mine, first, err := s.join(content)
	if err != nil {
		return err
	}
	if first {
		s.write(mine)
		return mine.err
	}
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// join adds a record to the batch that is written next. Whoever is first in it writes it.
func (s *Spool) join(content []byte) (mine *batch, first bool, err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closed {
		return nil, false, fault.Newf(fault.Unavailable, "the spool is closed")
	}
	size := int64(headerSize + len(content))
	if s.onDisk()+s.reserved+size > s.MaxBytes {
		s.expire()
	}
	if s.onDisk()+s.reserved+size > s.MaxBytes {
		return nil, false, fault.Newf(fault.Unavailable, "the spool is full (GITSMITH_SPOOL_SIZE) and redis is away; try again")
	}
	s.reserved += size
	if first = s.next == nil; first {
		s.next = &batch{done: make(chan struct{})}
	}
	s.next.records = append(s.next.records, content)
	s.next.bytes += size
	return s.next, first, nil
}

func (s *Spool) onDisk() (bytes int64) {
	for _, each := range s.segments {
		bytes += each.bytes
	}
	return bytes
}

// expire drops whole segments of which every record is too old. The mutex is held; the oldest segment is left where it is being taken.
func (s *Spool) expire() {
	if !s.draining.TryLock() {
		return
	}
	defer s.draining.Unlock()
	limit := s.Now().Add(-s.MaxAge)
	for len(s.segments) > 0 && s.segments[0].file == nil && s.segments[0].newest.Before(limit) {
		if err := s.remove(s.segments[0].number, false); err != nil {
			return // it counts on, and the next append tries again
		}
		if s.Expired != nil {
			s.Expired(s.segments[0].records - s.segments[0].taken)
		}
		s.segments = s.segments[1:]
	}
}

// write puts a batch on disk, once nobody else writes; until then others join it.
func (s *Spool) write(mine *batch) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mutex.Lock()
	s.next = nil
	s.mutex.Unlock()
	if err := s.writeBatch(mine); err != nil {
		mine.err = fault.Wrapf(fault.Unavailable, err, "the spool cannot be written and redis is away; try again")
	}
	s.mutex.Lock()
	s.reserved -= mine.bytes
	s.mutex.Unlock()
	close(mine.done)
}

func (s *Spool) writeBatch(mine *batch) error {
	target, err := s.open()
	if err != nil {
		return err
	}
	now := s.Now()
	data := make([]byte, 0, mine.bytes)
	for _, content := range mine.records {
		data = appendRecord(data, target.number, content, now)
	}
	_, err = target.file.WriteAt(data, target.bytes)
	if err == nil {
		err = target.file.Sync()
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if err != nil {
		// What is in the file beyond its good end was promised to nobody. After a failed sync the file is not trusted again.
		err = errors.Join(err, target.file.Truncate(target.bytes), target.file.Close())
		target.file = nil
		if target.bytes == 0 { // else a full disk fills up with empty files
			err = errors.Join(err, os.Remove(s.pathOf(target.number)))
			s.segments = s.segments[:len(s.segments)-1]
		}
		return err
	}
	for range mine.records {
		target.note(now)
	}
	target.bytes += int64(len(data))
	return nil
}

// open is the segment to append to; a new one where the newest is full, was closed, or is an earlier process's.
func (s *Spool) open() (*segment, error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closed {
		return nil, errors.New("the spool is closed")
	}
	newest, number := s.newest(), uint64(1)
	if newest != nil {
		if newest.file != nil && newest.bytes < s.SegmentBytes {
			return newest, nil
		}
		number = newest.number + 1
		if newest.file != nil {
			if err := newest.file.Close(); err != nil {
				return nil, err
			}
			newest.file = nil
		}
	}
	file, number, err := s.create(number)
	if err != nil {
		return nil, err
	}
	made := &segment{number: number, file: file}
	s.segments = append(s.segments, made)
	return made, nil
}

// create makes the file of a new segment. A number whose file was put aside as damaged is not used again.
func (s *Spool) create(number uint64) (*os.File, uint64, error) {
	for {
		if _, err := os.Lstat(s.pathOf(number) + damagedExtension); err != nil {
			break
		}
		number++
	}
	file, err := os.OpenFile(s.pathOf(number), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, err
	}
	if err := s.syncDir(); err != nil {
		return nil, 0, errors.Join(fmt.Errorf("sync %s: %w", s.Dir, err), file.Close(), os.Remove(file.Name()))
	}
	return file, number, nil
}
