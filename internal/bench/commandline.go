package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Work is one job in terms that both ways understand.
type Work struct {
	Kind   string `json:"kind"`   // "push" or "archive"
	Base   string `json:"base"`   // where the git server is
	Slug   string `json:"slug"`   // the repository below it, in the workspace of Workspace
	Folder string `json:"folder"` // an empty folder to work in
	// Word replaces the first word of EditedFile.
	Word string `json:"word"`
}

// Workspace is where the measured repositories are on the git server.
const Workspace = "bench"

// The kinds of work.
const (
	Push    = "push"
	Archive = "archive"
)

// artifactName is the file below Work.Folder that an archive ends in.
const artifactName = "artifact.tar.gz"

func (w Work) url() string { return w.Base + "/" + Workspace + "/" + w.Slug + ".git" }

// byCommandLine does the work as a script would: a clone of depth 1, then edit, commit and push, or tar.
func byCommandLine(ctx context.Context, work Work) (Sample, error) {
	var sample Sample
	tree := filepath.Join(work.Folder, "tree")
	git := func(directory string, args ...string) error { return command(ctx, &sample, directory, "git", args...) }
	start := time.Now()
	if err := git(work.Folder, "clone", "--quiet", "--depth", "1", work.url(), tree); err != nil {
		return sample, err
	}
	if work.Kind == Archive {
		err := command(ctx, &sample, work.Folder, "tar", "-czf", artifactName, "--exclude=./.git", "-C", tree, ".")
		sample.Wall = time.Since(start)
		return sample, err
	}
	if err := editFile(filepath.Join(tree, EditedFile), work.Word); err != nil {
		return sample, err
	}
	if err := git(tree, "commit", "--quiet", "--all", "--message", "one line"); err != nil {
		return sample, err
	}
	if err := git(tree, "push", "--quiet", "origin", "main"); err != nil {
		return sample, err
	}
	sample.Wall = time.Since(start)
	return sample, nil
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
