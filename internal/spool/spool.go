// Package spool keeps records on the local disk until they can be taken elsewhere: appended durably, taken in order, bounded in bytes
// and age, and read as far as they are whole after whatever befell the disk. It knows nothing of what is in them; whoever appends a
// secret seals it before.
package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Options are what a [Spool] can be told. Dir is required.
type Options struct {
	Dir          string
	MaxBytes     int64         // of all segments; 1 GiB by default. An append beyond it is refused
	MaxAge       time.Duration // records older than that are dropped; 24 h by default
	SegmentBytes int64         // a segment that has that many is not appended to; 8 MiB by default
	Now          func() time.Time

	// Damaged is called for bytes that hold no whole record, when they are come upon: a write that a crash cut off, or a bad disk.
	// The file is kept beside the others, its name ending in .damaged. May be nil.
	Damaged func(segment string, offset, length int64)
	// Expired is called with the number of records that were dropped for their age. May be nil.
	Expired func(count int)
}

// maxDamaged is how many damaged segments are kept.
const maxDamaged = 8

const (
	extension        = ".spool"
	damagedExtension = ".damaged"
	lockName         = "lock"
)

// Spool is an open one. It may be used concurrently; one process has it at a time.
type Spool struct {
	Options
	lock *os.File

	mutex    sync.Mutex // over what follows
	segments []*segment // by number, the newest last; that one is appended to where it is open
	next     *batch     // what the next write takes along
	reserved int64      // bytes of batches that are not written yet
	damaged  int
	closed   bool

	writing  sync.Mutex // over the newest segment's file
	draining sync.Mutex // over the oldest segment's place
}

// segment is one file.
type segment struct {
	number  uint64
	file    *os.File // nil where it is not appended to
	bytes   int64
	records int
	taken   int // of them, the first that were taken
	refused int // of those, by whoever was to take them
	oldest  time.Time
	newest  time.Time
}

// Stats say how full a spool is.
type Stats struct {
	Records int       // that wait to be taken
	Bytes   int64     // on disk
	Oldest  time.Time // when the segment of the first record was begun; zero in an empty spool
	Damaged int       // places without a whole record, and records that could not be taken, that were come upon since Open
}

// Open makes the folder where it is not there and takes it for this process. It reads what an earlier process left.
func Open(options Options) (*Spool, error) {
	if options.MaxBytes <= 0 {
		options.MaxBytes = 1 << 30
	}
	if options.MaxAge <= 0 {
		options.MaxAge = 24 * time.Hour
	}
	if options.SegmentBytes <= 0 {
		options.SegmentBytes = 8 << 20
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	s := &Spool{Options: options}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.lock.Close())
	}
	return s, nil
}

func (s *Spool) takeLock() error {
	lock, err := os.OpenFile(filepath.Join(s.Dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(fmt.Errorf("spool: another process has %s; give each receiver a folder of its own: %w", s.Dir, err), lock.Close())
	}
	s.lock = lock
	return nil
}

// load learns what segments there are.
func (s *Spool) load() error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	for _, entry := range entries {
		number, err := strconv.ParseUint(strings.TrimSuffix(entry.Name(), extension), 10, 64)
		if err != nil || entry.Name() != nameOf(number) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.Dir, entry.Name()))
		if err != nil {
			return fmt.Errorf("spool: %w", err)
		}
		found := &segment{number: number, bytes: int64(len(data))}
		records, _ := readSegment(number, data)
		for _, record := range records {
			found.note(record.time)
		}
		s.segments = append(s.segments, found)
	}
	slices.SortFunc(s.segments, func(a, b *segment) int { return int(a.number) - int(b.number) }) //nolint:gosec // numbers count up from one
	return nil
}

// note counts a record.
func (g *segment) note(when time.Time) {
	if g.records == 0 {
		g.oldest = when
	}
	g.records++
	g.newest = when
}

// Stats says how full the spool is now.
func (s *Spool) Stats() Stats {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	stats := Stats{Damaged: s.damaged}
	for _, each := range s.segments {
		stats.Records += each.records - each.taken
		stats.Bytes += each.bytes
		if stats.Oldest.IsZero() && each.records > each.taken {
			stats.Oldest = each.oldest
		}
	}
	return stats
}

// Close ends the spool for this process, after what is being written and taken. Records stay for the next one.
func (s *Spool) Close() error {
	s.draining.Lock()
	defer s.draining.Unlock()
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if newest := s.newest(); newest != nil && newest.file != nil {
		err = newest.file.Close()
		newest.file = nil
	}
	return errors.Join(err, s.lock.Close())
}

// newest is the segment with the highest number, nil where there is none. The mutex is held.
func (s *Spool) newest() *segment {
	if len(s.segments) == 0 {
		return nil
	}
	return s.segments[len(s.segments)-1]
}

func nameOf(number uint64) string { return fmt.Sprintf("%016d%s", number, extension) }

func (s *Spool) pathOf(number uint64) string { return filepath.Join(s.Dir, nameOf(number)) }

// syncDir makes names of files durable.
func (s *Spool) syncDir() error {
	dir, err := os.Open(s.Dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// remove takes a segment away; one that was damaged is put aside. That it is gone already is fine.
func (s *Spool) remove(number uint64, aside bool) error {
	path := s.pathOf(number)
	err := error(nil)
	if aside {
		err = errors.Join(os.Rename(path, path+damagedExtension), s.dropOldDamaged())
	} else {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.syncDir()
}

func (s *Spool) dropOldDamaged() error {
	found, err := filepath.Glob(filepath.Join(s.Dir, "*"+extension+damagedExtension))
	if err != nil || len(found) <= maxDamaged {
		return err
	}
	slices.Sort(found)
	for _, path := range found[:len(found)-maxDamaged] {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
