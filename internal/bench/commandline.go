package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Work is one job in terms that all ways understand.
type Work struct {
	Way    string `json:"way"`
	Base   string `json:"base"`   // where the git server is
	Slug   string `json:"slug"`   // the repository below it, in the workspace of Workspace
	Folder string `json:"folder"` // an empty folder to work in
	Kept   string `json:"kept"`   // a folder with what the way keeps between jobs; empty where it is to know nothing
	File   string `json:"file"`   // to be edited
	Word   string `json:"word"`   // replaces the first word of File; empty: an archive is made instead
	// Before is another repository on the server, whose file of the same name is edited before the work and outside of the
	// measuring; empty: none is.
	Before string `json:"before"`
}

// Workspace is where the measured repositories are on the git server.
const Workspace = "bench"

// artifactName is the file below Work.Folder that an archive ends in.
const artifactName = "artifact.tar.gz"

func (w Work) url() string { return w.Base + "/" + Workspace + "/" + w.Slug + ".git" }

// byCommandLine does the work as a script would: a clone of depth 1, then edit, commit and push, or git archive.
func byCommandLine(ctx context.Context, work Work) (sample Sample, err error) {
	tree := filepath.Join(work.Folder, "tree")
	start := time.Now()
	if err := command(ctx, &sample, work.Folder, "git", "clone", "--quiet", "--depth", "1", work.url(), tree); err != nil {
		return sample, err
	}
	if work.Word == "" {
		err = command(ctx, &sample, tree, "git", "archive", "--format=tar.gz", "--output", filepath.Join(work.Folder, artifactName), "HEAD")
	} else {
		err = editAndPush(ctx, &sample, tree, work)
	}
	sample.Wall = time.Since(start)
	return sample, err
}

// byMirror does it as a script would that keeps a mirror: fetch, a worktree, then edit, commit and push.
func byMirror(ctx context.Context, work Work) (sample Sample, err error) {
	tree := filepath.Join(work.Folder, "tree")
	start := time.Now()
	for _, args := range [][]string{
		{"fetch", "--quiet", work.url(), "+refs/heads/main:refs/heads/main"}, {"worktree", "add", "--quiet", "--detach", tree, "main"},
	} {
		if err := command(ctx, &sample, work.Kept, "git", args...); err != nil {
			return sample, err
		}
	}
	err = editAndPush(ctx, &sample, tree, work)
	sample.Wall = time.Since(start)
	return sample, err
}

func editAndPush(ctx context.Context, sample *Sample, tree string, work Work) error {
	if err := editFile(filepath.Join(tree, filepath.FromSlash(work.File)), work.Word); err != nil {
		return err
	}
	if err := command(ctx, sample, tree, "git", "commit", "--quiet", "--all", "--message", "one line"); err != nil {
		return err
	}
	return command(ctx, sample, tree, "git", "push", "--quiet", work.url(), "HEAD:main")
}

func editFile(name, word string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	_, rest, found := strings.Cut(string(content), " ")
	if !found {
		return fmt.Errorf("%s has no second word", name)
	}
	return os.WriteFile(name, []byte(word+" "+rest), 0o644) //nolint:gosec // the mode that git gave it
}
