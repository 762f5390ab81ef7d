package worker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// command is a recipe as a function.
type command func(ctx context.Context, dir string) error

func (command) Check(string, map[string]string) error { return nil }

func (c command) Run(ctx context.Context, _ string, _ map[string]string, dir string) error {
	return c(ctx, dir)
}

// TestRecipeOnGit: a command sees the tip with the declared changes, and what it leaves is committed as git would.
func TestRecipeOnGit(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"a": "a\n", "old/x": "x\n", "moved": "m\n", ".gitignore": "*.log\n/out/\n"})
	b.config.Recipes = command(func(_ context.Context, dir string) error {
		content, err := os.ReadFile(filepath.Join(dir, "to", "here"))
		if err != nil || string(content) != "m\n" {
			return errors.Join(err, errors.New("the move was not made"))
		}
		if _, err := os.Lstat(filepath.Join(dir, "old")); err == nil {
			return errors.New("a directory without files is there")
		}
		return errors.Join(
			os.WriteFile(filepath.Join(dir, "a"), []byte("by the recipe\n"), 0o600),
			os.WriteFile(filepath.Join(dir, "run.log"), []byte("noise\n"), 0o600),
			os.WriteFile(filepath.Join(dir, "tool"), []byte("#!/bin/sh\n"), 0o700),
			os.Symlink("/etc/passwd", filepath.Join(dir, "link")),
			os.Mkdir(filepath.Join(dir, ".git"), 0o700),
		)
	})
	push := job.Push{Branch: "topic", Create: true, Recipe: &job.Recipe{Name: "r"}, Changes: []edit.Change{
		{Move: &edit.Move{From: "moved", To: "to/here"}},
		{Delete: &edit.Delete{Path: "old"}},
		{Put: &edit.Put{Path: "kept.log", Content: "declared\n"}},
		{Put: &edit.Put{Path: "outside", Content: "../../elsewhere", Mode: edit.ModeSymlink}},
	}}
	dry := push
	dry.DryRun = true
	found := b.do("dry", dry)
	push.Expect = &job.Expect{Parent: found.Parent, Tree: found.Tree}
	pushed := b.do("apply", push)
	if pushed.Skipped != "" || pushed.Changed != found.Changed || b.git("rev-parse", "topic^{tree}") != found.Tree {
		t.Errorf("dry %+v, pushed %+v", found, pushed)
	}
	want := "100644 .gitignore\n100644 a\n100644 kept.log\n120000 link\n120000 outside\n100644 to/here\n100755 tool"
	if got := b.git("ls-tree", "-r", "--format=%(objectmode) %(path)", "topic"); got != want {
		t.Errorf("the tree is\n%s", got)
	}
	if got := b.git("show", "topic:a"); got != "by the recipe" {
		t.Errorf("a is %q", got)
	}
}

// TestRecipeAlone: a recipe needs no changes; one that does nothing pushes nothing, also in an empty repository.
func TestRecipeAlone(t *testing.T) {
	t.Parallel()
	for name, files := range map[string]map[string]string{"with files": {"a": "a\n"}, "empty": nil} {
		b := newBench(t, files)
		b.config.Recipes = command(func(context.Context, string) error { return nil })
		if result := b.do("1", job.Push{Branch: "main", Recipe: &job.Recipe{Name: "r"}}); !result.Unchanged {
			t.Errorf("%s: %+v", name, result)
		}
		b.config.Recipes = command(func(_ context.Context, dir string) error {
			return os.WriteFile(filepath.Join(dir, "new"), []byte("n\n"), 0o600)
		})
		if result := b.do("2", job.Push{Branch: "main", Recipe: &job.Recipe{Name: "r"}}); result.Changed != 1 || b.git("show", "main:new") != "n" {
			t.Errorf("%s: %+v", name, result)
		}
		b.config.Recipes = command(func(context.Context, string) error { return fault.Newf(fault.Invalid, "recipe r: exit 3") })
		if _, err := b.try("3", job.Push{Branch: "main", Recipe: &job.Recipe{Name: "r"}}); fault.Public(err) != "recipe r: exit 3" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
