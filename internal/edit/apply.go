package edit

import (
	"context"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Apply makes changes in order, each on what the ones before it left, and returns in which files the outcome differs from
// source, by path; none where nothing does. A file that ends up as it was is not among them. Nothing in source is altered. An
// error names the change as [Validate] does: Invalid where the changes do not fit the tree, TooLarge where they exceed limits,
// else source's own. It stops soon after the end of ctx with its cause.
func Apply(ctx context.Context, source Source, changes []Change, limits Limits) ([]FileChange, error) {
	limits = limits.withDefaults()
	operations, err := compile(changes, limits)
	if err != nil {
		return nil, err
	}
	if prefetcher, is := source.(Prefetcher); is {
		ids, err := reads(ctx, source, operations, limits)
		if err == nil && len(ids) > 0 {
			err = prefetcher.Prefetch(ctx, ids)
		}
		if err != nil {
			return nil, err
		}
	}
	tree := newOverlay(source, limits)
	for _, operation := range operations {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if err := operation.apply(ctx, tree); err != nil {
			return nil, err
		}
	}
	return tree.net(), nil
}

// room says why there is no place for a new file or directory at path: something that path is below is no directory.
func (o *overlay) room(ctx context.Context, field, path string) error {
	for dir := range ancestors(path) {
		above, what, err := o.at(ctx, dir)
		switch {
		case err != nil:
			return err
		case what == isDirectory:
			return nil
		case what == isFile && above.mode == ModeSubmodule:
			return fault.Newf(fault.Invalid, "%s: %s is inside of the submodule %s; push to the submodule's own repository", field, quote(path), quote(dir))
		case what == isFile:
			return fault.Newf(fault.Invalid, "%s: %s cannot be made, because %s is a file; move or delete that first", field, quote(path), quote(dir))
		}
	}
	return nil
}

// vacant says why nothing can be made at path where nothing may be.
func (o *overlay) vacant(ctx context.Context, field, path string) error {
	_, what, err := o.at(ctx, path)
	switch {
	case err != nil:
		return err
	case what == isFile:
		return fault.Newf(fault.Invalid, "%s: %s exists already; delete it first or choose another path", field, quote(path))
	case what == isDirectory:
		return fault.Newf(fault.Invalid, "%s: %s exists already and is a directory; choose another path", field, quote(path))
	}
	return o.room(ctx, field, path)
}

type putOperation struct {
	field   string
	path    string
	mode    Mode
	content []byte
}

func (p putOperation) apply(ctx context.Context, tree *overlay) error {
	current, what, err := tree.at(ctx, p.path)
	if err != nil {
		return err
	}
	mode := p.mode
	switch {
	case what == isDirectory:
		return fault.Newf(fault.Invalid, "%s.path: %s is a directory; put a file into it, or delete it in a push before", p.field, quote(p.path))
	case what == nothing:
		if err := tree.room(ctx, p.field+".path", p.path); err != nil {
			return err
		}
		if mode == "" {
			mode = ModeRegular
		}
	case current.mode == ModeSubmodule:
		return fault.Newf(fault.Invalid, "%s.path: %s is a submodule; delete it in a push before", p.field, quote(p.path))
	case mode == "" && current.mode == ModeSymlink:
		return fault.Newf(fault.Invalid, `%s.mode: %s is a symbolic link; say "120000" to give it another target, or "100644" to make it a file`, p.field, quote(p.path))
	case mode == "":
		mode = current.mode
	}
	return tree.write(ctx, p.field+".content", p.path, newFile(mode, p.content))
}

type deleteOperation struct{ field, path string }

func (d deleteOperation) apply(ctx context.Context, tree *overlay) error {
	_, what, err := tree.at(ctx, d.path)
	if err != nil {
		return err
	}
	switch what {
	case nothing:
		return fault.Newf(fault.Invalid, "%s.path: there is no %s to delete; check the path against the branch's tip", d.field, quote(d.path))
	case isFile:
		return tree.remove(ctx, d.field+".path", d.path)
	}
	files, err := tree.files(ctx, d.path)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := tree.remove(ctx, d.field+".path", file.path); err != nil {
			return err
		}
	}
	return nil
}

type moveOperation struct{ field, from, to string }

func (m moveOperation) apply(ctx context.Context, tree *overlay) error {
	moved, what, err := tree.at(ctx, m.from)
	if err != nil {
		return err
	}
	if what == nothing {
		return fault.Newf(fault.Invalid, "%s.from: there is no %s to move; check the path against the branch's tip", m.field, quote(m.from))
	}
	if err := tree.vacant(ctx, m.field+".to", m.to); err != nil {
		return err
	}
	files := []found{{m.from, moved}}
	if what == isDirectory {
		if files, err = tree.files(ctx, m.from); err != nil {
			return err
		}
	}
	for _, file := range files {
		if err := tree.remove(ctx, m.field+".from", file.path); err != nil {
			return err
		}
		to := m.to + file.path[len(m.from):]
		if len(to) > tree.limits.PathBytes {
			return fault.Newf(fault.Invalid, "%s.to: %s would have %d bytes, at most %d are taken", m.field, quote(to), len(to), tree.limits.PathBytes)
		}
		if err := tree.write(ctx, m.field+".to", to, file.file); err != nil {
			return err
		}
	}
	return nil
}
