package app

import (
	"context"
	"io"

	"github.com/gitsmith/gitsmith/internal/artifact"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/repolock"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// The adapters below say gitrepo's, repolock's and artifact's words to the worker, which knows none of the three.

type gitAdapter struct {
	client *gitrepo.Client
	keys   *secret.Keyring // make and verify the proofs that commits carry
}

func (g gitAdapter) Open(installation string, repository bitbucket.Repository, token secret.Text) worker.Remote {
	return remoteAdapter{g.client, gitrepo.Remote{Repository: repository, Token: token, Installation: installation}, g.keys}
}

type remoteAdapter struct {
	client *gitrepo.Client
	remote gitrepo.Remote
	keys   *secret.Keyring
}

// mark adds what the worker does not know: the remote's installation and the process's keys.
func (r remoteAdapter) mark(mark worker.Mark) gitrepo.Mark {
	return gitrepo.Mark{Installation: r.remote.Installation, Job: mark.Job, Branch: mark.Branch, Keys: r.keys, Intended: mark.Intended}
}

func (r remoteAdapter) Tip(ctx context.Context, branch string) (string, bool, error) {
	return r.client.Tip(ctx, r.remote, branch)
}

func (r remoteAdapter) Snapshot(ctx context.Context, ref string, need worker.Need) (worker.Snapshot, error) {
	want := gitrepo.Want{Ref: ref, Depth: 1, Sparse: need.Sparse, TreeDepth: need.TreeDepth, Push: need.Push, MainBranch: need.MainBranch}
	if need.History {
		want.Depth = 0
	}
	snapshot, err := r.client.Fetch(ctx, r.remote, want)
	if err != nil {
		return nil, err
	}
	return snapshotAdapter{snapshot, r}, nil
}

func (r remoteAdapter) Push(ctx context.Context, branch, old string, commit worker.Commit) error {
	return r.client.Push(ctx, r.remote, gitrepo.PushSpec{Branch: branch, Old: old, Commit: commit.(*gitrepo.Commit)})
}

func (r remoteAdapter) FindJob(ctx context.Context, mark worker.Mark, since string) (string, bool, error) {
	return r.client.FindJob(ctx, r.remote, r.mark(mark), since)
}

type snapshotAdapter struct {
	*gitrepo.Snapshot
	of remoteAdapter
}

func (s snapshotAdapter) MadeBy(mark worker.Mark) (string, bool) {
	return s.Snapshot.MadeBy(s.of.mark(mark))
}

func (s snapshotAdapter) Build(ctx context.Context, changes []edit.FileChange, spec worker.CommitSpec) (worker.Commit, error) {
	return s.Snapshot.Build(ctx, changes, gitrepo.CommitSpec{
		Message: spec.Message, AuthorName: spec.Author.Name, AuthorEmail: spec.Author.Email, Time: spec.Time, Mark: s.of.mark(spec.Mark),
	})
}

func (s snapshotAdapter) Diff(ctx context.Context, w io.Writer, changes []edit.FileChange, limit int) (worker.DiffStat, error) {
	stat, err := s.Snapshot.Diff(ctx, w, changes, limit)
	return worker.DiffStat(stat), err
}

func (s snapshotAdapter) Read() job.Read { return job.Read(s.Way()) }

func (s snapshotAdapter) Archive(ctx context.Context, w io.Writer, format job.Archive, paths []string) (int, error) {
	return s.Snapshot.Archive(ctx, w, gitrepo.ArchiveSpec{Format: format, Paths: paths})
}

type lockerAdapter struct{ *repolock.Locker }

func (l lockerAdapter) Acquire(ctx context.Context, installation, repository string) (worker.Lock, error) {
	lock, err := l.Locker.Acquire(ctx, installation, repository)
	if err != nil {
		return nil, err
	}
	return lockAdapter{lock}, nil
}

type lockAdapter struct{ *repolock.Lock }

func (l lockAdapter) Intent(ctx context.Context, jobID string) (worker.Intent, bool, error) {
	intent, found, err := l.Lock.Intent(ctx, jobID)
	return worker.Intent(intent), found, err
}

func (l lockAdapter) SetIntent(ctx context.Context, jobID string, intent worker.Intent) error {
	return l.Lock.SetIntent(ctx, jobID, repolock.Intent(intent))
}

type artifactAdapter struct{ *artifact.Store }

func (a artifactAdapter) Put(ctx context.Context, key string, write func(io.Writer) error) (int64, string, error) {
	written, err := a.Store.Put(ctx, key, write)
	return written.Size, written.SHA256, err
}
