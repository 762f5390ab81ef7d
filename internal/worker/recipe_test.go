package worker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// recipes is what the operator has registered: one that does something in a folder.
type recipes struct {
	do       func(dir string) error
	checkErr error
	runs     []string
}

func (r *recipes) Check(string, map[string]string) error { return r.checkErr }

func (r *recipes) Run(_ context.Context, name string, parameters map[string]string, dir string) error {
	r.runs = append(r.runs, name+" "+parameters["to"])
	return r.do(dir)
}

// withRecipe is a world that has the recipe, and must not keep any of its files.
func withRecipe(t *testing.T, do func(dir string) error) (*world, *recipes) {
	t.Helper()
	w, r := newWorld(), &recipes{do: do}
	w.recipes, w.tempDir = r, t.TempDir()
	w.files = map[string]string{"same": "x\n", "dir/old": "old\n", "moved": "m\n"}
	t.Cleanup(func() {
		if left, err := os.ReadDir(w.tempDir); err != nil || len(left) != 0 {
			t.Errorf("files are left behind: %v, %v", left, err)
		}
	})
	return w, r
}

func cooked(changes ...edit.Change) func(*job.Job) {
	return func(j *job.Job) {
		j.Push.Changes, j.Push.Recipe = changes, &job.Recipe{Name: "bump", Parameters: map[string]string{"to": "2"}}
	}
}

func write(dir, name, content string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)
}

func TestRecipe(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		changes []edit.Change
		do      func(dir string) error
		want    []edit.FileChange
	}{
		"alone": {
			do: func(dir string) error { return write(dir, "same", "y\n") },
			want: []edit.FileChange{
				{Path: "same", Mode: edit.ModeRegular, Content: []byte("y\n")},
			},
		},
		"after the changes": {
			changes: []edit.Change{
				{Put: &edit.Put{Path: "new/deep", Content: "1\n"}},
				{Delete: &edit.Delete{Path: "dir/old"}},
				{Put: &edit.Put{Path: "dir", Content: "a file now\n"}},
				{Move: &edit.Move{From: "moved", To: "there"}},
			},
			do: func(dir string) error {
				content, err := os.ReadFile(filepath.Join(dir, "new/deep"))
				if _, statErr := os.Stat(filepath.Join(dir, "moved")); err != nil || string(content) != "1\n" || statErr == nil {
					return errors.New("the changes were not made before")
				}
				return write(dir, "new/deep", "2\n")
			},
			want: []edit.FileChange{
				{Path: "dir", Mode: edit.ModeRegular, Content: []byte("a file now\n")},
				{Path: "dir/old", Deleted: true},
				{Path: "moved", Deleted: true},
				{Path: "new/deep", Mode: edit.ModeRegular, Content: []byte("2\n")},
				{Path: "there", Mode: edit.ModeRegular, Content: []byte("m\n")},
			},
		},
		"undoes a change": {
			changes: []edit.Change{{Put: &edit.Put{Path: "same", Content: "z\n"}}, {Put: &edit.Put{Path: "b", Content: "b\n"}}},
			do: func(dir string) error {
				return errors.Join(write(dir, "same", "x\n"), os.Remove(filepath.Join(dir, "b")))
			},
		},
		"beside a declared file that git ignores": {
			changes: []edit.Change{{Put: &edit.Put{Path: "ignored", Content: "1\n", Mode: edit.ModeExecutable}}},
			do:      func(dir string) error { return write(dir, "ignored", "2\n") },
			want:    []edit.FileChange{{Path: "ignored", Mode: edit.ModeExecutable, Content: []byte("2\n")}},
		},
		"beside a declared link that git ignores": {
			changes: []edit.Change{{Put: &edit.Put{Path: "d/ignored", Content: "/etc/passwd", Mode: edit.ModeSymlink}}},
			do:      func(string) error { return nil },
			want:    []edit.FileChange{{Path: "d/ignored", Mode: edit.ModeSymlink, Content: []byte("/etc/passwd")}},
		},
		"leaves a folder that cannot be removed": {
			do: func(dir string) error {
				inner := filepath.Join(dir, "a", "ignored")
				return errors.Join(os.MkdirAll(filepath.Dir(inner), 0o700), write(dir, "a/ignored", "x"), os.Chmod(filepath.Dir(inner), 0o500))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, r := withRecipe(t, tc.do)
			result, err := w.worker().Process(t.Context(), pushJob(cooked(tc.changes...)))
			if err != nil {
				t.Fatal(fault.Private(err))
			}
			if diff := cmp.Diff(tc.want, w.built); diff != "" {
				t.Error(diff)
			}
			if !cmp.Equal(r.runs, []string{"bump 2"}) || result.Push.Changed != len(tc.want) || result.Push.Unchanged != (len(tc.want) == 0) {
				t.Errorf("%v, %+v", r.runs, result.Push)
			}
			if !strings.HasPrefix(strings.Join(w.calls, ", "), "snapshot refs/heads/main@push of acme/web, checkout") {
				t.Errorf("the tip is not read in full: %v", w.calls)
			}
		})
	}
}

// TestRecipeFails: the kinds are those of what failed, nothing is pushed, and no files are left.
func TestRecipeFails(t *testing.T) {
	t.Parallel()
	broken := fault.Newf(fault.Invalid, "recipe bump: exit 3")
	for name, tc := range map[string]struct {
		world func(*world, *recipes)
		want  fault.Kind
		text  string
		calls string
	}{
		"no recipes":       {func(w *world, _ *recipes) { w.recipes = nil }, fault.Invalid, "recipes are off: the operator sets GITSMITH_RECIPES", ""},
		"no such recipe":   {func(_ *world, r *recipes) { r.checkErr = broken }, fault.Invalid, "exit 3", ""},
		"it fails":         {func(_ *world, r *recipes) { r.do = func(string) error { return broken } }, fault.Invalid, "exit 3", "checkout"},
		"no checkout":      {func(w *world, _ *recipes) { w.checkoutErr = fault.Newf(fault.TooLarge, "big") }, fault.TooLarge, "big", "checkout"},
		"no place on disk": {func(w *world, _ *recipes) { w.tempDir = filepath.Join(w.tempDir, "none") }, fault.Internal, "no place on disk", "snapshot"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, r := withRecipe(t, func(string) error { return nil })
			tempDir := w.tempDir
			tc.world(w, r)
			_, err := w.worker().Process(t.Context(), pushJob(cooked()))
			w.tempDir = tempDir
			if fault.KindOf(err) != tc.want || !strings.Contains(fault.Public(err), tc.text) {
				t.Errorf("%v, want %s with %q", err, tc.want, tc.text)
			}
			calls := strings.Join(w.calls, ", ")
			if (tc.calls == "") != (calls == "") || !strings.Contains(calls, tc.calls) || strings.Contains(calls, "push main") {
				t.Error(calls)
			}
		})
	}
}

// TestRecipeInADryRun is shown as any other change.
func TestRecipeInADryRun(t *testing.T) {
	t.Parallel()
	w, _ := withRecipe(t, func(dir string) error { return write(dir, "same", "y\n") })
	result, err := w.worker().Process(t.Context(), pushJob(func(j *job.Job) { cooked()(j); j.Push.DryRun = true }))
	if err != nil || result.Push.Diff == nil || result.Push.Changed != 1 || !strings.HasPrefix(w.calls[0], "snapshot refs/heads/main@ of") {
		t.Errorf("%+v, %v, %v", result.Push, err, w.calls)
	}
}
