package gitrepo

import (
	"bytes"
	"slices"
	"sort"
)

const (
	maxEditDistance = 512      // up to which Myers' algorithm looks for the shortest edit between two ranges
	maxDiffWork     = 64 << 20 // steps of one diff; beyond, what differs in a file is one replacement
)

// lineDiff finds which lines of two texts differ. Small differences are shortest ones, by Myers' algorithm; where that would take
// too long, lines that occur once on each side are matched (as git's patience does), and what is between them replaced as a
// whole. So the time is bounded, and the outcome always right.
type lineDiff struct {
	before, after  []int32 // each line's number
	removed, added []bool  // the lines that differ
	work           *int    // steps left for Myers' algorithm
}

// splitLines cuts a text after each newline.
func splitLines(text []byte) [][]byte {
	var lines [][]byte
	for line := range bytes.Lines(text) {
		lines = append(lines, line)
	}
	return lines
}

// diffLines reports by line which ones of before are removed and which of after added.
func diffLines(before, after [][]byte, work *int) (removed, added []bool) {
	numbers := map[string]int32{}
	number := func(lines [][]byte) []int32 {
		found := make([]int32, len(lines))
		for i, line := range lines {
			n, known := numbers[string(line)]
			if !known {
				n = int32(len(numbers)) //nolint:gosec // a text is bounded far below 2^31 lines
				numbers[string(line)] = n
			}
			found[i] = n
		}
		return found
	}
	d := lineDiff{
		before: number(before), after: number(after),
		removed: make([]bool, len(before)), added: make([]bool, len(after)), work: work,
	}
	d.compare(lineRange{0, len(before), 0, len(after)})
	return d.removed, d.added
}

// lineRange is a part of both texts; the ends are not in it.
type lineRange struct{ from, to, afterFrom, afterTo int }

func (d *lineDiff) compare(r lineRange) {
	for r.from < r.to && r.afterFrom < r.afterTo && d.before[r.from] == d.after[r.afterFrom] {
		r.from++
		r.afterFrom++
	}
	for r.from < r.to && r.afterFrom < r.afterTo && d.before[r.to-1] == d.after[r.afterTo-1] {
		r.to--
		r.afterTo--
	}
	if r.from < r.to && r.afterFrom < r.afterTo {
		if d.shortest(r) {
			return
		}
		if anchors := d.anchors(r); len(anchors) > 0 {
			for _, at := range anchors {
				d.compare(lineRange{r.from, at.before, r.afterFrom, at.after})
				r.from, r.afterFrom = at.before+1, at.after+1
			}
			d.compare(r)
			return
		}
	}
	for i := r.from; i < r.to; i++ {
		d.removed[i] = true
	}
	for i := r.afterFrom; i < r.afterTo; i++ {
		d.added[i] = true
	}
}

// shortest marks the shortest edit by Myers' greedy algorithm; false, with nothing marked, where that would take too long.
func (d *lineDiff) shortest(r lineRange) bool {
	n, m := r.to-r.from, r.afterTo-r.afterFrom
	most := min(n+m, maxEditDistance)
	if n-m > most || m-n > most {
		return false
	}
	// furthest[most+k] is how far before is read on the diagonal k = x-y.
	furthest := make([]int, 2*most+2)
	var trace [][]int
	for distance := 0; distance <= most && *d.work > 0; distance++ {
		trace = append(trace, slices.Clone(furthest[most-distance:most+distance+1]))
		for k := -distance; k <= distance; k += 2 {
			x := d.step(furthest, most, distance, k)
			start, y := x, x-k
			for x < n && y < m && d.before[r.from+x] == d.after[r.afterFrom+y] {
				x++
				y++
			}
			*d.work -= 1 + x - start
			furthest[most+k] = x
			if x >= n && y >= m {
				d.mark(r, trace, distance)
				return true
			}
		}
	}
	return false
}

// step is where a path of one more edit begins on the diagonal k.
func (d *lineDiff) step(furthest []int, most, distance, k int) int {
	switch {
	case distance == 0:
		return 0
	case k == -distance, k != distance && furthest[most+k-1] < furthest[most+k+1]:
		return furthest[most+k+1]
	}
	return furthest[most+k-1] + 1
}

// mark goes back along the path that was found. trace[d] holds the diagonals -d to d as they were before the step d.
func (d *lineDiff) mark(r lineRange, trace [][]int, distance int) {
	x, y := r.to-r.from, r.afterTo-r.afterFrom
	for ; distance > 0; distance-- {
		at := func(k int) int { return trace[distance][distance+k] }
		k := x - y
		if k == -distance || k != distance && at(k-1) < at(k+1) {
			x = at(k + 1)
			y = x - (k + 1)
			d.added[r.afterFrom+y] = true
		} else {
			x = at(k - 1)
			y = x - (k - 1)
			d.removed[r.from+x] = true
		}
	}
}

// anchor is a line that both texts have.
type anchor struct{ before, after int }

// anchors are the most lines that occur once in each part and come in the same order.
func (d *lineDiff) anchors(r lineRange) []anchor {
	if *d.work -= r.to - r.from + r.afterTo - r.afterFrom; *d.work <= 0 {
		return nil
	}
	type occurrence struct{ before, after, countBefore, countAfter int }
	found := map[int32]*occurrence{}
	for i := r.from; i < r.to; i++ {
		at := found[d.before[i]]
		if at == nil {
			at = &occurrence{before: i}
			found[d.before[i]] = at
		}
		at.countBefore++
	}
	for i := r.afterFrom; i < r.afterTo; i++ {
		if at := found[d.after[i]]; at != nil {
			at.after = i
			at.countAfter++
		}
	}
	var both []anchor
	for i := r.from; i < r.to; i++ {
		if at := found[d.before[i]]; at.countBefore == 1 && at.countAfter == 1 {
			both = append(both, anchor{i, at.after})
		}
	}
	return increasing(both)
}

// increasing is the longest choice of anchors whose places in after increase; those in before do already.
func increasing(all []anchor) []anchor {
	var ends []int // by length of a choice: the anchor that ends it earliest
	previous := make([]int, len(all))
	for i, at := range all {
		length := sort.Search(len(ends), func(l int) bool { return all[ends[l]].after >= at.after })
		previous[i] = -1
		if length > 0 {
			previous[i] = ends[length-1]
		}
		if length == len(ends) {
			ends = append(ends, i)
		} else {
			ends[length] = i
		}
	}
	chosen := make([]anchor, len(ends))
	for i, at := len(ends)-1, -1; i >= 0; i-- {
		if at < 0 {
			at = ends[i]
		} else {
			at = previous[at]
		}
		chosen[i] = all[at]
	}
	return chosen
}
