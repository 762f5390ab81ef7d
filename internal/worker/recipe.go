package worker

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// checkRecipe refuses, before git is touched, a recipe that cannot be run.
func (w *Worker) checkRecipe(recipe *job.Recipe) error {
	switch {
	case recipe == nil:
		return nil
	case w.Recipes == nil:
		return fault.Newf(fault.Invalid, "recipes are off: the operator sets GITSMITH_RECIPES")
	}
	return w.Recipes.Check(recipe.Name, recipe.Parameters)
}

// cook runs a recipe in a folder with the tip's files, after the changes that were declared, and finds what came of it all. The folder
// is gone afterwards, whatever happened.
func (w *Worker) cook(ctx context.Context, recipe *job.Recipe, base Snapshot, declared []edit.FileChange) ([]edit.FileChange, error) {
	place, err := os.MkdirTemp(w.TempDir, "recipe-")
	if err == nil {
		defer func() {
			if err := removeAll(place); err != nil {
				w.Logger.WarnContext(ctx, "the files of a recipe could not be removed", slog.Any("error", err))
			}
		}()
		err = os.Mkdir(filepath.Join(place, "files"), 0o700) // beside it is room for the recipe's own temporary files
	}
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "recipe %s: there is no place on disk for the files; the log says why", recipe.Name)
	}
	dir := filepath.Join(place, "files")
	if err := base.Checkout(ctx, dir); err != nil {
		return nil, err
	}
	kitchen, err := openKitchen(dir, base, w.Limits)
	if err != nil {
		return nil, err
	}
	defer func() { _ = kitchen.root.Close() }() // each file was closed with its error
	if err := kitchen.lay(ctx, declared); err != nil {
		return nil, err
	}
	if err := w.Recipes.Run(ctx, recipe.Name, recipe.Parameters, dir); err != nil {
		return nil, err
	}
	changes, err := base.Changes(ctx, dir, w.Limits)
	if err != nil {
		return nil, err
	}
	return kitchen.withDeclared(ctx, changes, declared)
}

// removeAll removes a folder in which a command may have taken its own right to do so away.
func removeAll(dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, _ error) error {
		if entry != nil && entry.IsDir() { // no link is
			_ = os.Chmod(name, 0o700) //nolint:gosec // a folder needs x; it is this user's alone
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// kitchen is the folder in which a recipe runs. What is written there goes through no link out of it.
type kitchen struct {
	root *os.Root
	base Snapshot
	size int64 // bytes of a file
}

func openKitchen(dir string, base Snapshot, limits edit.Limits) (*kitchen, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, kitchenFault(err)
	}
	return &kitchen{root, base, cmp.Or(limits.BlobBytes, edit.DefaultLimits().BlobBytes)}, nil
}

func kitchenFault(err error) error {
	return fault.Wrapf(fault.Internal, err, "recipe: the files cannot be written or read back; the log says why")
}

// lay makes the declared changes: first what goes, so that there is room for what comes.
func (k *kitchen) lay(ctx context.Context, declared []edit.FileChange) error {
	for _, change := range declared {
		if !change.Deleted {
			continue
		}
		if err := k.root.Remove(change.Path); err != nil {
			return kitchenFault(err)
		}
		for dir := path.Dir(change.Path); dir != "." && k.root.Remove(dir) == nil; dir = path.Dir(dir) {
			// Git knows no empty directories.
		}
	}
	for _, change := range declared {
		if change.Deleted {
			continue
		}
		if err := k.write(ctx, change); err != nil {
			return err
		}
	}
	return nil
}

func (k *kitchen) write(ctx context.Context, change edit.FileChange) error {
	content := change.Content
	if change.ID != "" && change.Mode != edit.ModeSubmodule {
		var err error
		if content, err = k.base.Blob(ctx, change.ID, k.size); err != nil {
			return err
		}
	}
	if err := k.root.MkdirAll(path.Dir(change.Path), 0o700); err != nil {
		return kitchenFault(err)
	}
	if err := k.root.Remove(change.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return kitchenFault(err)
	}
	var err error
	switch change.Mode {
	case edit.ModeSubmodule:
		err = k.root.Mkdir(change.Path, 0o700)
	case edit.ModeSymlink:
		err = k.root.Symlink(string(content), change.Path)
	case edit.ModeExecutable:
		err = k.root.WriteFile(change.Path, content, 0o700)
	default:
		err = k.root.WriteFile(change.Path, content, 0o600)
	}
	if err != nil {
		return kitchenFault(err)
	}
	return nil
}

// withDeclared adds what was declared and the folder does not show: a new file that .gitignore names, which the caller wants all the
// same, and a submodule, which is an empty folder there.
func (k *kitchen) withDeclared(ctx context.Context, changes, declared []edit.FileChange) ([]edit.FileChange, error) {
	shown := map[string]bool{}
	for _, change := range changes {
		shown[change.Path] = true
	}
	for _, change := range declared {
		if change.Deleted || shown[change.Path] {
			continue
		}
		if _, before, err := k.base.Entry(ctx, change.Path); err != nil {
			return nil, err
		} else if before && change.Mode != edit.ModeSubmodule {
			continue // the recipe made it what it was
		}
		kept, err := k.left(change)
		if err != nil {
			return nil, err
		}
		if kept != nil {
			changes = append(changes, *kept)
		}
	}
	slices.SortStableFunc(changes, func(a, b edit.FileChange) int { return cmp.Compare(a.Path, b.Path) })
	return changes, nil
}

// left is what the recipe left of a declared file; nil where it removed it.
func (k *kitchen) left(change edit.FileChange) (*edit.FileChange, error) {
	info, err := k.root.Lstat(change.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, kitchenFault(err)
	case change.Mode == edit.ModeSubmodule:
		if !info.IsDir() {
			return nil, nil
		}
		return &change, nil
	case info.Mode()&fs.ModeSymlink != 0:
		if err := edit.CheckSymlink(change.Path); err != nil {
			return nil, err
		}
		target, err := k.root.Readlink(change.Path)
		if err != nil {
			return nil, kitchenFault(err)
		}
		return &edit.FileChange{Path: change.Path, Mode: edit.ModeSymlink, Content: []byte(target)}, nil
	case !info.Mode().IsRegular():
		return nil, nil
	case info.Size() > k.size:
		return nil, fault.Newf(fault.TooLarge, "recipe: %.200q has %d bytes now, at most %d are taken", change.Path, info.Size(), k.size)
	}
	mode := edit.ModeRegular
	if info.Mode()&0o100 != 0 {
		mode = edit.ModeExecutable
	}
	content, err := k.root.ReadFile(change.Path)
	if err != nil {
		return nil, kitchenFault(err)
	}
	return &edit.FileChange{Path: change.Path, Mode: mode, Content: content}, nil
}
