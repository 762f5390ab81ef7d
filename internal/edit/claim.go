package edit

import (
	"strings"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// verb is what a change does to a path that it names.
type verb uint8

const (
	makesFile verb = iota // put.path
	makes                 // move.to: a file or a directory
	removes               // delete.path, move.from
)

// claim is a path that a put, a delete or a move names. Replace and patch claim nothing: they work on what earlier changes
// left.
type claim struct {
	verb  verb
	field string
	path  string
}

// claims finds the contradictions between changes that need no tree to be seen.
type claims struct {
	at    map[string]claim // by path
	below map[string]claim // by directory: one that makes something below it
}

func newClaims() *claims { return &claims{at: map[string]claim{}, below: map[string]claim{}} }

// add takes one more claim, or says which earlier one it contradicts.
func (c *claims) add(next claim) error {
	if earlier, found := c.at[next.path]; found {
		return fault.Newf(fault.Invalid, "%s: %s is changed by %s already; name each path in one change only", next.field, quote(next.path), earlier.field)
	}
	for dir := range ancestors(next.path) {
		earlier, found := c.at[dir]
		switch {
		case found && earlier.verb == makesFile:
			return fault.Newf(fault.Invalid, "%s: %s cannot be below %s, which %s makes a file", next.field, quote(next.path), quote(dir), earlier.field)
		case found && earlier.verb == removes && next.verb == removes:
			return fault.Newf(fault.Invalid, "%s: %s is gone already with %s by %s; leave one of the two out", next.field, quote(next.path), quote(dir), earlier.field)
		}
	}
	if earlier, found := c.below[next.path]; found {
		switch {
		case next.verb == makesFile || next.verb == makes:
			return fault.Newf(fault.Invalid, "%s: %s is a directory by then, because %s makes %s", next.field, quote(next.path), earlier.field, quote(earlier.path))
		case strings.HasSuffix(next.field, ".delete.path"):
			return fault.Newf(fault.Invalid, "%s: %s would take away what %s makes; leave one of the two out", next.field, quote(next.path), earlier.field)
		}
	}
	c.at[next.path] = next
	if next.verb != removes {
		for dir := range ancestors(next.path) {
			c.below[dir] = next
		}
	}
	return nil
}

// ancestors yields the directories that path is in, the nearest one first, without the root.
func ancestors(path string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for at := strings.LastIndexByte(path, '/'); at >= 0; at = strings.LastIndexByte(path[:at], '/') {
			if !yield(path[:at]) {
				return
			}
		}
	}
}

// isBelow reports whether path is strictly below dir.
func isBelow(path, dir string) bool {
	return len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}
