package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"

	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
)

// clone reads a ref and keeps it as an archive.
func (w *Worker) clone(ctx context.Context, j job.Job, remote gitrepo.Remote) (*job.CloneResult, error) {
	want := gitrepo.Want{Ref: j.Clone.Ref, Depth: 1, Sparse: j.Clone.Archive == job.ArchiveNone, TreeDepth: 1}
	if j.Clone.Archive == job.ArchiveBundle {
		want.Depth = 0 // git cannot clone from a bundle that lacks history
	}
	snapshot, err := w.Git.Fetch(ctx, remote, want)
	if err != nil {
		return nil, err
	}
	defer w.closeSnapshot(ctx, snapshot)

	result := &job.CloneResult{Ref: snapshot.Ref(), Commit: snapshot.Commit(), Read: readOf(snapshot)}
	if j.Clone.Archive == job.ArchiveNone {
		return result, nil
	}
	kept := &job.Artifact{Key: artifactKey(j, j.Clone.Archive), Format: j.Clone.Archive, ExpiresAt: w.Now().Add(w.ArtifactTTL).UTC()}
	written, err := w.Artifacts.Put(ctx, kept.Key, func(out io.Writer) (err error) {
		kept.Files, err = snapshot.Archive(ctx, out, gitrepo.ArchiveSpec{Format: j.Clone.Archive, Paths: j.Clone.Paths})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("archive of %s: %w", j.Repository, err)
	}
	kept.Size, kept.SHA256 = written.Size, written.SHA256
	result.Artifact = kept
	return result, nil
}

// artifactKey is the same for every run of a job, so that a second run replaces what the first one left. Installations are
// hashed: their ids hold characters that file systems and object stores treat in their own ways.
func artifactKey(j job.Job, format job.Archive) string {
	return fmt.Sprintf("%s/%s.%s", ArtifactFolder(j.Installation), j.ID, format)
}

// ArtifactFolder is where all archives and diffs of an installation are.
func ArtifactFolder(installation string) string {
	sum := sha256.Sum256([]byte(installation))
	return hex.EncodeToString(sum[:8])
}

func (w *Worker) closeSnapshot(ctx context.Context, snapshot Snapshot) {
	if err := snapshot.Close(); err != nil {
		w.Logger.WarnContext(ctx, "temporary files of a snapshot could not be removed", slog.Any("error", err))
	}
}
