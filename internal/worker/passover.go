package worker

import (
	"context"
	"fmt"
	"io"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
)

// MaxDiff bounds the diff that a dry run keeps, in bytes.
const MaxDiff = 256 << 10

// passOver decides whether a push does anything on the tip that was read: a result where it does not, which is that it was skipped
// unless the job's own commit is on the branch already.
func (w *Worker) passOver(ctx context.Context, j job.Job, remote gitrepo.Remote, base Snapshot, mark gitrepo.Mark, created bool) (*job.PushResult, error) {
	push := j.Push
	if push.HasFile != "" {
		if _, found, err := base.Entry(ctx, push.HasFile); err != nil {
			return nil, err
		} else if !found {
			return skipped(j, base, fmt.Sprintf("there is no %.200s", push.HasFile)), nil
		}
	}
	inTheWay := !created && (push.OnConflict == job.OnConflictSkip || push.OnConflict == job.OnConflictFail)
	moved := push.Expect != nil && base.Commit() != push.Expect.Parent
	if !inTheWay && !moved {
		return nil, nil
	}
	if !created && !push.DryRun {
		if own, err := w.ownCommit(ctx, j, remote, base, mark, inTheWay); own != nil || err != nil {
			return own, err
		}
	}
	switch {
	case !inTheWay:
		return skipped(j, base, "the branch's tip has moved since the dry run"), nil
	case push.OnConflict == job.OnConflictSkip:
		return skipped(j, base, fmt.Sprintf("branch %.200s exists", push.Branch)), nil
	}
	// Not a Conflict: to begin again from the new tip is what the caller does not want.
	return nil, fault.Newf(fault.Invalid, "branch %.200s exists in the repository; choose another, or on_conflict: update", push.Branch)
}

// ownCommit finds what an earlier run of the job pushed and others have pushed on since, where no intent tells of it any more.
func (w *Worker) ownCommit(ctx context.Context, j job.Job, remote gitrepo.Remote, base Snapshot, mark gitrepo.Mark, created bool) (*job.PushResult, error) {
	since := ""
	if j.Push.Expect != nil {
		since = j.Push.Expect.Parent
	}
	commit, found, err := w.Git.FindJob(ctx, remote, mark, since)
	if err != nil || !found {
		return nil, err
	}
	return &job.PushResult{Branch: j.Push.Branch, Commit: commit, Parent: since, Created: created, Read: readOf(base)}, nil
}

func skipped(j job.Job, base Snapshot, why string) *job.PushResult {
	return &job.PushResult{Branch: j.Push.Branch, Skipped: why, Read: readOf(base)}
}

// dryRun makes a push's change on the tip as it is now and keeps the diff. Nothing is locked or written down, since nothing is pushed.
func (w *Worker) dryRun(ctx context.Context, j job.Job, repository bitbucket.Repository) (*job.PushResult, error) {
	var result *job.PushResult
	err := w.budgeted(ctx, j, cloneRequests, func(ctx context.Context) error {
		token, err := w.liveToken(ctx, j)
		if err != nil {
			return err
		}
		_, result, err = w.build(ctx, j, repository, remoteOf(j, repository, token), w.markOf(j))
		return err
	})
	if err != nil {
		return nil, err
	}
	result.DryRun = true
	return result, nil
}

// keepDiff puts the diff of a dry run into the artifact store, and what it comes to into the result.
func (w *Worker) keepDiff(ctx context.Context, j job.Job, base Snapshot, changes []edit.FileChange, result *job.PushResult) error {
	kept := &job.Artifact{Key: artifactKey(j, job.ArchiveDiff), Format: job.ArchiveDiff, ExpiresAt: w.Now().Add(w.ArtifactTTL).UTC()}
	var stat gitrepo.DiffStat
	written, err := w.Artifacts.Put(ctx, kept.Key, func(out io.Writer) (err error) {
		stat, err = base.Diff(ctx, out, changes, MaxDiff)
		return err
	})
	if err != nil {
		return fmt.Errorf("diff of %s: %w", j.Repository, err)
	}
	kept.Size, kept.SHA256, kept.Files, kept.Truncated = written.Size, written.SHA256, stat.Files, stat.Truncated
	result.Added, result.Removed, result.Diff = stat.Added, stat.Removed, kept
	return nil
}
