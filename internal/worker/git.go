package worker

import (
	"context"
	"io"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/repolock"
)

// Git is the part of [gitrepo.Client] that jobs use. [NewGit] makes one.
type Git interface {
	Tip(ctx context.Context, remote gitrepo.Remote, branch string) (commit string, found bool, err error)
	Fetch(ctx context.Context, remote gitrepo.Remote, want gitrepo.Want) (Snapshot, error)
	Push(ctx context.Context, remote gitrepo.Remote, spec gitrepo.PushSpec) error
	FindJob(ctx context.Context, remote gitrepo.Remote, mark gitrepo.Mark, since string) (commit string, found bool, err error)
}

// Snapshot is a [gitrepo.Snapshot].
type Snapshot interface {
	edit.Source
	Commit() string
	Ref() string
	Way() gitrepo.Way
	MainBranch() string
	MadeBy(mark gitrepo.Mark) (parent string, made bool)
	Build(ctx context.Context, changes []edit.FileChange, spec gitrepo.CommitSpec) (*gitrepo.Commit, error)
	Diff(ctx context.Context, w io.Writer, changes []edit.FileChange, limit int) (gitrepo.DiffStat, error)
	Checkout(ctx context.Context, dir string) error
	Changes(ctx context.Context, dir string, limits edit.Limits) ([]edit.FileChange, error)
	Archive(ctx context.Context, w io.Writer, spec gitrepo.ArchiveSpec) (files int, err error)
	Close() error
}

// NewGit makes a [Git] of a client, whose Fetch returns a Snapshot of its own type.
func NewGit(client *gitrepo.Client) Git { return gitClient{client} }

type gitClient struct{ *gitrepo.Client }

func (c gitClient) Fetch(ctx context.Context, remote gitrepo.Remote, want gitrepo.Want) (Snapshot, error) {
	snapshot, err := c.Client.Fetch(ctx, remote, want)
	if err != nil {
		return nil, err
	}
	return snapshot, nil
}

// Locker locks a repository for one push at a time. [NewLocker] makes one of a [repolock.Locker].
type Locker interface {
	Acquire(ctx context.Context, installation, repository string, holder repolock.Holder) (Lock, error)
}

// Lock is a [repolock.Lock].
type Lock interface {
	Context() context.Context
	Intent(ctx context.Context, jobID string) (intent repolock.Intent, found bool, err error)
	SetIntent(ctx context.Context, jobID string, intent repolock.Intent) error
	Release(ctx context.Context) error
}

// NewLocker makes a [Locker] of repolock's, whose Acquire returns a Lock of its own type.
func NewLocker(locker *repolock.Locker) Locker { return repositoryLocker{locker} }

type repositoryLocker struct{ *repolock.Locker }

func (l repositoryLocker) Acquire(ctx context.Context, installation, repository string, holder repolock.Holder) (Lock, error) {
	lock, err := l.Locker.Acquire(ctx, installation, repository, holder)
	if err != nil {
		return nil, err
	}
	return lock, nil
}

// readOf is how a snapshot was read, as a job's result says it.
func readOf(snapshot Snapshot) job.Read { return job.Read(snapshot.Way()) }
