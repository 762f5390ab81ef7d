package worker_test

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
)

type snapshot struct {
	*world
	ref, commit string
}

func (s *snapshot) Entry(_ context.Context, path string) (edit.Entry, bool, error) {
	content, found := s.files[path]
	if !found {
		return edit.Entry{}, false, nil
	}
	return edit.Entry{Path: path, Mode: edit.ModeRegular, ID: blobID(content)}, true, nil
}

// blobID is what git calls a blob.
func blobID(content string) string {
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(content), content))
	return hex.EncodeToString(sum[:])
}

func (s *snapshot) Files(context.Context, string) ([]edit.Entry, error) { return nil, nil }

func (s *snapshot) Blob(_ context.Context, id string, _ int64) ([]byte, error) {
	for _, content := range s.files {
		if blobID(content) == id {
			return []byte(content), nil
		}
	}
	return nil, errors.New("no such blob")
}

// Checkout writes the world's files, and Changes finds what differs from them, but for new files that are called ignored.
func (s *snapshot) Checkout(_ context.Context, dir string) error {
	s.calls = append(s.calls, "checkout")
	for name, content := range s.files {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o600)); err != nil {
			return err
		}
	}
	return s.checkoutErr
}

func (s *snapshot) Changes(_ context.Context, dir string, _ edit.Limits) ([]edit.FileChange, error) {
	var changes []edit.FileChange
	left := maps.Clone(s.files)
	err := filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		path, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		before, found := left[path]
		delete(left, path)
		if (!found || before != string(content)) && (found || filepath.Base(path) != "ignored") {
			changes = append(changes, edit.FileChange{Path: path, Mode: edit.ModeRegular, Content: content})
		}
		return nil
	})
	for _, path := range slices.Sorted(maps.Keys(left)) {
		changes = append(changes, edit.FileChange{Path: path, Deleted: true})
	}
	return changes, err
}
func (s *snapshot) Commit() string     { return s.commit }
func (s *snapshot) Ref() string        { return s.ref }
func (s *snapshot) Way() gitrepo.Way   { return gitrepo.WayShallow }
func (s *snapshot) MainBranch() string { return s.head }
func (s *snapshot) Close() error       { s.closed++; return nil }

func (s *snapshot) MadeBy(mark gitrepo.Mark) (string, bool) {
	return "c0", s.commit == "by-"+mark.Job || s.commit == mark.Intended
}

func (s *snapshot) Build(_ context.Context, changes []edit.FileChange, spec gitrepo.CommitSpec) (*gitrepo.Commit, error) {
	if spec.Mark.Job == "" || spec.Mark.Branch == "" || spec.AuthorName == "" || spec.Time.IsZero() {
		return nil, errors.New("the commit is not determined")
	}
	s.built, s.message = changes, spec.Message
	hash := "on-" + s.commit
	return &gitrepo.Commit{Hash: hash, Tree: "tree-" + hash, Unchanged: len(changes) == 0}, nil
}

func (s *snapshot) Diff(_ context.Context, w io.Writer, changes []edit.FileChange, limit int) (gitrepo.DiffStat, error) {
	_, err := fmt.Fprintf(w, "diff of %d files within %d", len(changes), limit)
	return gitrepo.DiffStat{Files: len(changes), Added: 2, Removed: 1, Truncated: true}, err
}

func (s *snapshot) Archive(_ context.Context, w io.Writer, spec gitrepo.ArchiveSpec) (int, error) {
	_, err := io.WriteString(w, "archive "+string(spec.Format))
	return 3, err
}
