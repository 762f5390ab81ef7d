package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Drain gives the records to apply, oldest first, until there are none, and returns how many were taken. It stops at the first error,
// which it returns, and goes on from there the next time; appends go on meanwhile. Only an Invalid fault is about the record itself: nobody
// can take it now, so the others are, and its segment is put aside like a damaged one. Should the process die before a segment is at its
// end, all of its records come again: apply does twice what is done once.
func (s *Spool) Drain(ctx context.Context, apply func(ctx context.Context, content []byte) error) (int, error) {
	s.draining.Lock()
	defer s.draining.Unlock()
	total := 0
	for {
		oldest, err := s.oldest()
		if oldest == nil || err != nil {
			return total, err
		}
		n, err := s.drainSegment(ctx, oldest, apply)
		total += n
		if err != nil {
			return total, err
		}
	}
}

// oldest is the segment to take next, which nobody appends to any more; nil in an empty spool.
func (s *Spool) oldest() (*segment, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.closed || len(s.segments) == 0 {
		return nil, nil //nolint:nilnil // there is none
	}
	oldest := s.segments[0]
	if oldest.file != nil {
		err := oldest.file.Close()
		oldest.file = nil
		if err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
	}
	return oldest, nil
}

func (s *Spool) drainSegment(ctx context.Context, from *segment, apply func(context.Context, []byte) error) (int, error) {
	data, err := os.ReadFile(s.pathOf(from.number))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("spool: %w", err)
	}
	records, damaged := readSegment(from.number, data)
	if err != nil { // somebody took the file away
		damaged = []region{{0, from.bytes}}
	}
	limit, taken, expired := s.Now().Add(-s.MaxAge), 0, 0
	for _, each := range records[min(from.taken, len(records)):] {
		if err := ctx.Err(); err != nil {
			return taken, err
		}
		if each.time.Before(limit) {
			expired++
		} else if err := apply(ctx, each.content); fault.KindOf(err) == fault.Invalid {
			from.refused++
		} else if err != nil {
			s.tellExpired(expired)
			return taken, err
		} else {
			taken++
		}
		s.mutex.Lock()
		from.taken++
		s.mutex.Unlock()
	}
	s.tellExpired(expired)
	if err := s.remove(from.number, len(damaged)+from.refused > 0); err != nil {
		return taken, fmt.Errorf("spool: %w", err)
	}
	for _, each := range damaged {
		if s.Damaged != nil {
			s.Damaged(nameOf(from.number), each.offset, each.length)
		}
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.damaged += len(damaged) + from.refused
	s.segments = s.segments[1:]
	return taken, nil
}

func (s *Spool) tellExpired(count int) {
	if count > 0 && s.Expired != nil {
		s.Expired(count)
	}
}
