package bench

import (
	"context"
	"path/filepath"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// byGoGit does the work by go-git's porcelain: a clone of depth 1, add, commit, push. It measures the process that it runs in.
func byGoGit(ctx context.Context, work Work) (sample Sample, err error) {
	used, start := ownCPU(), time.Now()
	tree := filepath.Join(work.Folder, "tree")
	repository, err := git.PlainCloneContext(ctx, tree, false, &git.CloneOptions{
		URL: work.url(), Depth: 1, SingleBranch: true, ReferenceName: plumbing.NewBranchReferenceName("main"),
	})
	if err != nil {
		return sample, err
	}
	if err := editFile(filepath.Join(tree, filepath.FromSlash(work.File)), work.Word); err != nil {
		return sample, err
	}
	worktree, err := repository.Worktree()
	if err != nil {
		return sample, err
	}
	if _, err := worktree.Add(work.File); err != nil {
		return sample, err
	}
	author := object.Signature{Name: "Bench", Email: "bench@example.com", When: time.Now()}
	if _, err := worktree.Commit("one line", &git.CommitOptions{Author: &author}); err != nil {
		return sample, err
	}
	err = repository.PushContext(ctx, &git.PushOptions{})
	return Sample{Wall: time.Since(start), CPU: ownCPU() - used, RSS: peakMemory("self")}, err
}
