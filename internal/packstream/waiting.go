package packstream

import "io"

// waiting holds the deltas whose base is still to come. A delta names its base by hash, or by the offset of a delta that waits
// itself; git index-pack accepts both. Thin packs are never asked for, so the base is in the pack or the pack is damaged.
type waiting struct {
	byID     map[ID][]int64    // offsets of deltas, by their base's hash
	byOffset map[int64][]int64 // offsets of deltas, by their base's offset
	offsets  map[int64]struct{}
}

func newWaiting() waiting {
	return waiting{byID: map[ID][]int64{}, byOffset: map[int64][]int64{}, offsets: map[int64]struct{}{}}
}

func (w *waiting) count() int { return len(w.offsets) }

// ready takes out the deltas that waited for an object.
func (w *waiting) ready(object Object) []int64 {
	found := append(w.byID[object.ID], w.byOffset[object.offset]...)
	delete(w.byID, object.ID)
	delete(w.byOffset, object.offset)
	for _, offset := range found {
		delete(w.offsets, offset)
	}
	return found
}

// wait notes a delta for the time when its base comes, and skips its zlib stream.
func (s *Stream) wait(offset int64, delta entry) error {
	w := &s.waiting
	if w.count() >= maxWaiting {
		return ErrTooLarge
	}
	if delta.kind == hashDelta {
		w.byID[delta.baseID] = append(w.byID[delta.baseID], offset)
	} else {
		if _, waits := w.offsets[delta.base]; !waits {
			return damaged("a delta at %d leads to %d, where no object begins", offset, delta.base)
		}
		w.byOffset[delta.base] = append(w.byOffset[delta.base], offset)
	}
	w.offsets[offset] = struct{}{}
	return s.inflateTo(s.buffer, io.Discard, delta.size)
}

// resolve makes the objects of the deltas that waited for base, and of those that waited for these. The work is a list, so a
// long chain costs no stack. The delta that became ready last is next: its base is most likely still in memory.
func (s *Stream) resolve(base Object) error {
	type step struct {
		offset int64
		base   Object
	}
	var steps []step
	ready := func(base Object) {
		for _, offset := range s.waiting.ready(base) {
			steps = append(steps, step{offset, base})
		}
	}
	for ready(base); len(steps) > 0; {
		next := steps[len(steps)-1]
		steps = steps[:len(steps)-1]
		from := s.from(next.offset)
		delta, err := readEntry(from, next.offset)
		if err != nil {
			return err
		}
		made, err := s.readDelta(from, next.offset, delta.size, next.base)
		if err != nil {
			return err
		}
		ready(made)
	}
	return nil
}
