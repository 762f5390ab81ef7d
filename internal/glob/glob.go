// Package glob matches paths against globs in a bounded number of steps: at most a constant times the glob's length times the path's. Every
// pattern that a caller, an operator or a repository's .gitignore gives, and that is no regular expression, is a [Glob].
//
//   - any characters but /
//     **       as a whole part between slashes: any number of directories; at the end also everything below, and the directory itself
//     ?        one character but /
//     [a-z]    one of these characters, never /; [!a-z] and [^a-z] one of the others
//     {a,b}    either; braces nest, and may hold / and wildcards
//     \c       the character c itself
//
// A glob with braces matches what any of its alternatives matches when it is written out. A glob matches whole paths. The syntax is that of
// package doublestar; the tests compare the two, and list the few cases where they differ and why.
package glob

import (
	"context"
	"strings"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Bounds of a glob with wildcards. One without them is compared as it stands, and may be as long as a path.
const (
	MaxBytes = 1024

	maxParts        = 64   // between slashes
	maxStars        = 64   // * and ** together
	maxGlobstars    = 16   // **
	maxDepth        = 8    // of braces in braces
	maxAlternatives = 1024 // that the braces stand for, written out
	maxProgram      = 2048 // instructions
)

// Glob is a parsed pattern. It is never changed and may be used concurrently. [Parse] makes one; the zero value matches only the empty path.
type Glob struct {
	pattern string
	literal bool
	prefix  string // what every match begins with
	suffix  string // and ends with
	base    string
	program program
}

// String is the pattern as it was written.
func (g *Glob) String() string { return g.pattern }

// Literal is the one path that a glob without wildcards matches; is is false where the glob has some.
func (g *Glob) Literal() (path string, is bool) { return g.prefix, g.literal }

// Base is the deepest directory that every match is in, or is: what stands before the first wildcard. It is empty for the root.
func (g *Glob) Base() string { return g.base }

// Match reports whether the glob matches all of path, which is relative and clean. It takes at most [Glob.Bound] steps.
func (g *Glob) Match(path string) bool {
	matched, _ := g.match(path)
	return matched
}

// Bound is how many steps it takes at most to match a path of so many bytes.
func (g *Glob) Bound(bytes int) int { return 1 + stepsPerState*g.program.size()*(bytes+1) }

// match also counts the steps.
func (g *Glob) match(path string) (matched bool, steps int) {
	if g.literal || g.program.code == nil {
		return path == g.prefix, 1
	}
	if !strings.HasPrefix(path, g.prefix) || !strings.HasSuffix(path, g.suffix) {
		return false, 1
	}
	return g.program.run(path)
}

// Meter bounds what the matching of many paths costs altogether. It is for one goroutine.
type Meter struct {
	left int64
}

// MaxSteps is what a [Meter] allows by default: seconds of one core, and a thousand times what an honest job needs.
const MaxSteps = 1 << 30

// NewMeter makes a Meter that allows so many steps; zero is [MaxSteps].
func NewMeter(steps int64) *Meter {
	if steps == 0 {
		steps = MaxSteps
	}
	return &Meter{left: steps}
}

// Match is [Glob.Match]. It fails with the cause of ctx's end, or with a TooLarge fault once the steps are used up.
func (m *Meter) Match(ctx context.Context, g *Glob, path string) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if m.left <= 0 {
		return false, fault.Newf(fault.TooLarge, "the globs take too long to match in a repository with so many files; give fewer, or begin them with a directory")
	}
	matched, steps := g.match(path)
	m.left -= int64(steps)
	return matched, nil
}
