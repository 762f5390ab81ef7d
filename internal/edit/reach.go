package edit

import (
	"context"
	"strings"
)

// Prefetcher is a [Source] that gets blobs the quicker when it knows all of them at once. [Apply] tells it what it will read, as
// far as that can be known before the first change is made.
type Prefetcher interface {
	Prefetch(ctx context.Context, ids []string) error
}

// TreeDepth is how many levels of directories changes look into, the root's included; 0 where all may be. It is a hint: deleting
// or moving a directory looks at all that is below it.
func TreeDepth(changes []Change, limits Limits) int {
	operations, err := compile(changes, limits.withDefaults())
	if err != nil {
		return 0 // Apply says why
	}
	deepest := 1
	for _, operation := range operations {
		for _, path := range operation.paths() {
			if strings.ContainsAny(path, `{\`) || strings.Contains(path, "**") {
				return 0
			}
			deepest = max(deepest, strings.Count(path, "/")+1)
		}
	}
	return deepest
}

// reads are the blobs that the operations read of an untouched source.
func reads(ctx context.Context, source Source, operations []operation, limits Limits) ([]string, error) {
	tree := newOverlay(source, limits)
	var ids []string
	seen := map[string]bool{}
	for _, each := range operations {
		files, err := each.reads(ctx, tree)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if !seen[file.id] && file.mode != ModeSubmodule {
				seen[file.id] = true
				ids = append(ids, file.id)
			}
		}
	}
	return ids, nil
}

func (p putOperation) paths() []string    { return []string{p.path} }
func (d deleteOperation) paths() []string { return []string{d.path} }
func (m moveOperation) paths() []string   { return []string{m.from, m.to} }

func (r replaceOperation) paths() []string {
	paths := make([]string, len(r.globs))
	for i, each := range r.globs {
		paths[i] = each.String()
	}
	return paths
}

func (p patchOperation) paths() []string {
	var paths []string
	for _, diff := range p.files {
		for _, path := range []string{diff.old, diff.new} {
			if path != "" {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

func (putOperation) reads(context.Context, *overlay) ([]found, error)    { return nil, nil }
func (deleteOperation) reads(context.Context, *overlay) ([]found, error) { return nil, nil }
func (moveOperation) reads(context.Context, *overlay) ([]found, error)   { return nil, nil }

func (r replaceOperation) reads(ctx context.Context, tree *overlay) ([]found, error) {
	files, err := r.files(ctx, tree)
	if err != nil {
		return nil, err
	}
	var read []found
	for _, file := range files {
		if file.mode == ModeRegular || file.mode == ModeExecutable {
			read = append(read, file)
		}
	}
	return read, nil
}

func (p patchOperation) reads(ctx context.Context, tree *overlay) ([]found, error) {
	var read []found
	for _, diff := range p.files {
		if diff.old == "" || len(diff.hunks) == 0 && diff.binary == nil {
			continue
		}
		old, what, err := tree.at(ctx, diff.old)
		if err != nil {
			return nil, err
		}
		if what == isFile {
			read = append(read, found{diff.old, old})
		}
	}
	return read, nil
}
