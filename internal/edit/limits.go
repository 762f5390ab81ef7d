package edit

import "github.com/gitsmith/gitsmith/internal/glob"

// Limits bound changes and the work that they cause. A field that is zero has its value from [DefaultLimits].
type Limits struct {
	Changes      int   // in one list
	PathBytes    int   // of a path or a glob
	Globs        int   // of one replace
	PatternBytes int   // of a regular expression
	ContentBytes int64 // of all contents (decoded), patterns, replacements and diffs of a list

	Files      int   // that a list of changes touches, each file of a deleted or moved directory counted
	BlobBytes  int64 // of a file that is read or made
	ReadBytes  int64 // that replace and patch read in all
	WriteBytes int64 // of all contents that are held as the result
	GlobSteps  int64 // of matching globs against the tree's paths
}

// DefaultLimits are the limits where the operator says nothing.
func DefaultLimits() Limits {
	return Limits{
		Changes: 1000, PathBytes: MaxPathBytes, Globs: 100, PatternBytes: 16 << 10, ContentBytes: 8 << 20,
		Files: 20_000, BlobBytes: 16 << 20, ReadBytes: 256 << 20, WriteBytes: 32 << 20, GlobSteps: glob.MaxSteps,
	}
}

func (l Limits) withDefaults() Limits {
	defaults := DefaultLimits()
	orInt := func(value *int, other int) {
		if *value == 0 {
			*value = other
		}
	}
	orInt64 := func(value *int64, other int64) {
		if *value == 0 {
			*value = other
		}
	}
	orInt(&l.Changes, defaults.Changes)
	orInt(&l.PathBytes, defaults.PathBytes)
	orInt(&l.Globs, defaults.Globs)
	orInt(&l.PatternBytes, defaults.PatternBytes)
	orInt64(&l.ContentBytes, defaults.ContentBytes)
	orInt(&l.Files, defaults.Files)
	orInt64(&l.BlobBytes, defaults.BlobBytes)
	orInt64(&l.ReadBytes, defaults.ReadBytes)
	orInt64(&l.WriteBytes, defaults.WriteBytes)
	orInt64(&l.GlobSteps, defaults.GlobSteps)
	return l
}
