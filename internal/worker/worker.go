// Package worker is the story of one job: its token, its repository, its git work, its result. What it needs from the outside
// it declares as small interfaces; package app plugs the adapters in.
package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Tokens is the vault. Take returns an actor's current OAuth token and TakeOther the one to use instead of a given token; both return an
// Expired fault if there is none. Put stores a token with the time of its arrival (zero: now). MarkRefused takes a token out of use that
// Bitbucket rejected, while it accepted the actor's other token for the same work.
type Tokens interface {
	Take(ctx context.Context, installation string, actor forge.Actor) (forge.OAuthToken, error)
	TakeOther(ctx context.Context, installation string, actor forge.Actor, than forge.OAuthToken) (forge.OAuthToken, error)
	Put(ctx context.Context, installation string, actor forge.Actor, token forge.OAuthToken, arrived time.Time) (bool, error)
	MarkRefused(ctx context.Context, installation string, actor forge.Actor, token forge.OAuthToken) error
}

// Impersonator exchanges the system's token for a user's who is not in session.
type Impersonator interface {
	Token(ctx context.Context, system secret.Text, workspace, accountID string) (forge.OAuthToken, error)
}

// Budget bounds what is asked of others; a Throttled fault where that much was asked. Spend counts what was asked all the same.
type Budget interface {
	Reserve(ctx context.Context, installation string, requests int) error
	Spend(ctx context.Context, installation string, requests int) error
	Exchange(ctx context.Context) error
}

// Names remembers what Bitbucket said of repositories by their UUIDs, for a while. While Bitbucket's rate limit is near, a name that is
// not known is a Throttled fault.
type Names interface {
	Name(ctx context.Context, installation string, repository bitbucket.Repository) (info bitbucket.Info, found bool, err error)
	KeepName(ctx context.Context, installation string, repository bitbucket.Repository, info bitbucket.Info) error
	DropName(ctx context.Context, installation, repositoryUUID string) error
}

// Installations knows the workspace of each, and is told what jobs find out: that a token which is alive was refused, and which
// commits are the system's own.
type Installations interface {
	Workspace(ctx context.Context, installation string) (uuid string, err error)
	Refused(ctx context.Context, installation string) error
	Pushed(ctx context.Context, installation, commit string) error
}

// Installs knows which installations are so new that Bitbucket may not have granted their permissions yet.
type Installs interface {
	RecentlyInstalled(ctx context.Context, installation string) (bool, error)
}

// Locker locks a repository for one push at a time; a Throttled fault where it is taken for long.
type Locker interface {
	Acquire(ctx context.Context, installation, repository string) (Lock, error)
}

// Lock is a held lock. Intents are what a push was about to do, written down before it; only the newest holder writes them.
type Lock interface {
	// Context ends, with a cause, when the lock is lost or the context given to Acquire ends.
	Context() context.Context
	Intent(ctx context.Context, jobID string) (intent Intent, found bool, err error)
	SetIntent(ctx context.Context, jobID string, intent Intent) error
	Release(ctx context.Context) error
}

// Intent is a push that was about to happen.
type Intent struct {
	Branch  string
	Commit  string
	Parent  string // what the commit builds on; empty for a repository's first
	Created bool   // the branch was to be new
	Changed int    // files
}

// Git opens repositories.
type Git interface {
	// Open takes the installation whose token it is: what is kept between jobs is kept for it alone.
	Open(installation string, repository bitbucket.Repository, token secret.Text) Remote
}

// Remote is one repository at the server, by one actor's token.
type Remote interface {
	// Tip is the commit of a branch; found is false where the branch is not there.
	Tip(ctx context.Context, branch string) (commit string, found bool, err error)
	// Snapshot reads a ref's tip. An empty ref is HEAD; of an empty repository that is an empty snapshot. A NotFound fault
	// where there is no such ref. What is still to come may arrive until ctx ends.
	Snapshot(ctx context.Context, ref string, need Need) (Snapshot, error)
	// Push makes commit the branch's tip where the tip is old ("" for a new branch), and looks afterwards whether it is.
	// A Conflict fault where the tip is another.
	Push(ctx context.Context, branch, old string, commit Commit) error
	// FindJob looks among the commits of the mark's branch after since for the one that the job made.
	FindJob(ctx context.Context, mark Mark, since string) (commit string, found bool, err error)
}

// Need is what a job needs of a tip, so that no more is read.
type Need struct {
	History   bool // all of it; else the commit alone
	Sparse    bool // few of the files
	TreeDepth int  // levels of directories, with Sparse; 0 is all of them
	Push      bool // a push to the ref will follow

	MainBranch bool // the name of the repository's main branch
}

// Mark identifies a job's own commits. That a message names the job proves nothing: the commit carries a code that proves that this
// job, of the remote's installation, made it on its parent for its branch.
type Mark struct {
	Job      string
	Branch   string // short name
	Intended string // the commit that the job's intent names, which needs no proof; empty for none
}

// Snapshot is a tree that was read, and the place where new objects are built on it. Close removes what it holds on disk.
type Snapshot interface {
	edit.Source
	Commit() string // empty in an empty repository
	Ref() string    // full name, empty where a commit was asked for
	Read() job.Read // how it was read, empty in an empty repository
	// MainBranch is the short name of the branch that HEAD names; empty if the server did not say, or Need did not ask.
	MainBranch() string
	// MadeBy reports whether the tip is the commit that the job made, and that commit's parent.
	MadeBy(mark Mark) (parent string, made bool)
	Build(ctx context.Context, changes []edit.FileChange, spec CommitSpec) (Commit, error)
	// Diff writes at most limit bytes of a unified diff of what changes make of the tree.
	Diff(ctx context.Context, w io.Writer, changes []edit.FileChange, limit int) (DiffStat, error)
	// Checkout writes all files into an empty folder; Changes finds in what such a folder differs by now.
	Checkout(ctx context.Context, dir string) error
	Changes(ctx context.Context, dir string, limits edit.Limits) ([]edit.FileChange, error)
	Archive(ctx context.Context, w io.Writer, format job.Archive, paths []string) (files int, err error)
	Close() error
}

// DiffStat is what a diff comes to, whether all of it was written or not.
type DiffStat struct {
	Files          int
	Added, Removed int // lines
	Truncated      bool
}

// CommitSpec is what a commit says beside its tree. The same spec on the same tree is the same commit.
type CommitSpec struct {
	Message string
	Author  job.Author
	Time    time.Time
	Mark    Mark // identifies the commit later
}

// Commit is a commit that was built and not pushed yet.
type Commit interface {
	Hash() string
	Tree() string
	Unchanged() bool // its tree is its parent's
}

// Recipes are the commands that the operator registered by name. Check finds what is wrong with a name and its parameters; Run runs
// the command in a folder that holds a repository's files.
type Recipes interface {
	Check(name string, parameters map[string]string) error
	Run(ctx context.Context, name string, parameters map[string]string, dir string) error
}

// Artifacts keeps archives and diffs.
type Artifacts interface {
	Put(ctx context.Context, key string, write func(io.Writer) error) (size int64, sha256 string, err error)
}

// REST is the part of Bitbucket's REST interface that jobs use.
type REST interface {
	Resolve(ctx context.Context, token secret.Text, repository bitbucket.Repository) (bitbucket.Info, error)
	EnsurePullRequest(ctx context.Context, token secret.Text, repository bitbucket.Repository, spec bitbucket.PullRequestSpec) (bitbucket.PullRequest, error)
}

// Recorder counts what operators watch.
type Recorder interface {
	TokenLife(kind forge.ActorKind, left time.Duration)
	ExpiredRejection(kind forge.ActorKind)
}

// Config is what a Worker is made of. Every field is required unless it says otherwise.
type Config struct {
	Tokens        Tokens
	Installs      Installs
	Installations Installations
	Impersonator  Impersonator
	Names         Names
	Budget        Budget
	Locker        Locker
	Git           Git
	Artifacts     Artifacts
	Recipes       Recipes // nil where the operator has none: jobs that name one fail
	REST          REST
	Recorder      Recorder
	Logger        *slog.Logger

	Limits        edit.Limits
	TokenMargin   time.Duration // a token with less life left is as good as gone
	ArtifactTTL   time.Duration
	TempDir       string           // for the files of recipes
	MaxRepository int64            // bytes; larger ones are refused where the size is known beforehand
	Author        job.Author       // of commits whose job names none
	Now           func() time.Time // default: time.Now
}

// maxRestarts is how often a push begins again from a tip that moved under it, before the job fails.
const maxRestarts = 5

// Worker does jobs. It may be used concurrently.
type Worker struct{ Config }

// New makes a Worker.
func New(config Config) *Worker {
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Worker{config}
}

// Process runs one attempt of a job: the token first, so that git is never touched without a live one; then the repository's
// name; then the clone or the push. If Bitbucket rejects the token and the actor has another one, Process repeats the work once with
// that, which is safe because work done twice has the effect of work done once. The error's kind says what becomes of the job; where a
// token is at hand that nobody can renew it is a [job.AttemptError] that bounds retries by the token's life.
func (w *Worker) Process(ctx context.Context, j job.Job) (job.Result, error) {
	var result job.Result
	err := w.withToken(ctx, j, func(w *Worker, token forge.OAuthToken) (err error) {
		result, err = w.run(ctx, j, token)
		return err
	})
	if err != nil {
		return job.Result{}, err
	}
	return result, nil
}

// WithToken calls do with the token of the job's actor, and once more with the actor's other token if Bitbucket rejects the first. Its
// errors are as those of [Worker.Process].
func (w *Worker) WithToken(ctx context.Context, j job.Job, do func(token forge.OAuthToken) error) error {
	return w.withToken(ctx, j, func(_ *Worker, token forge.OAuthToken) error { return do(token) })
}

// withoutToken counts a job that had no token.
func (w *Worker) withoutToken(j job.Job, err error) error {
	if fault.KindOf(err) == fault.Expired {
		w.Recorder.ExpiredRejection(j.Actor.Kind)
	}
	return err
}

// outlived is what a refusal means of a token whose time ran out while it was used, as under a transfer that takes longer than the
// margin: nothing is known of the rights. With another token it is tried again, else the job is one without a token.
func (w *Worker) outlived(ctx context.Context, j job.Job, refusal error) error {
	if _, err := w.liveToken(ctx, j); err != nil {
		return w.withoutToken(j, err)
	}
	w.Logger.InfoContext(ctx, "a token ran out while it was used", slog.String("error", fault.Private(refusal)))
	return fault.Newf(fault.Unavailable, "the %s token ran out while it was used; it is tried again with the one that came since", j.Actor.Kind)
}

// run does the job on the repository by the name that it has now.
func (w *Worker) run(ctx context.Context, j job.Job, token forge.OAuthToken) (job.Result, error) {
	repository, remembered, err := w.resolve(ctx, j, token)
	if err != nil {
		return job.Result{}, err
	}
	result, err := w.work(ctx, j, token, repository)
	if err == nil || j.Repository.Resolved() || !maybeRenamed(err) {
		return result, err
	}
	dropErr := w.Names.DropName(ctx, j.Installation, j.Repository.RepositoryUUID)
	if !remembered {
		return result, err
	}
	if dropErr != nil {
		return job.Result{}, dropErr // it may have a new name; the failure counts only once that is known
	}
	renamed, _, resolveErr := w.resolve(ctx, j, token)
	switch kind := fault.KindOf(resolveErr); {
	case resolveErr != nil && kind != fault.Denied && kind != fault.NotFound:
		return job.Result{}, resolveErr // for the same reason
	case resolveErr != nil || renamed == repository:
		return result, err
	}
	return w.work(ctx, j, token, renamed)
}

func (w *Worker) work(ctx context.Context, j job.Job, token forge.OAuthToken, repository bitbucket.Repository) (job.Result, error) {
	if j.Push != nil {
		if err := w.checkRecipe(j.Push.Recipe); err != nil {
			return job.Result{}, err
		}
		pushed, err := w.push(ctx, j, repository)
		return job.Result{Push: pushed}, err
	}
	var cloned *job.CloneResult
	err := w.budgeted(ctx, j, cloneRequests, func(ctx context.Context) (err error) {
		cloned, err = w.clone(ctx, j, w.Git.Open(j.Installation, repository, token.Text))
		return err
	})
	return job.Result{Clone: cloned}, err
}

// What a job asks of the git server where nothing comes in between.
const (
	cloneRequests = 3
	pushRequests  = 5
)

// budgeted does git work within the installation's budget of requests. What it asks beyond what was reserved counts too.
func (w *Worker) budgeted(ctx context.Context, j job.Job, reserve int, do func(context.Context) error) error {
	if err := w.Budget.Reserve(ctx, j.Installation, reserve); err != nil {
		return err
	}
	var asked atomic.Int64
	err := do(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { asked.Add(1) }}))
	if more := int(asked.Load()) - reserve; more > 0 {
		counting, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := w.Budget.Spend(counting, j.Installation, more); err != nil {
			w.Logger.WarnContext(ctx, "git requests beyond what was reserved could not be counted", slog.Any("error", err))
		}
	}
	return err
}

// judge writes down what a failure says of the installation, and makes a refusal worth another try while Bitbucket may still be
// granting a new installation's permissions.
func (w *Worker) judge(ctx context.Context, j job.Job, err error) error {
	if errors.Is(err, fault.ErrTokenRefused) && (j.Actor.Kind == forge.ActorSystem || j.Impersonate) {
		if noteErr := w.Installations.Refused(ctx, j.Installation); noteErr != nil {
			w.Logger.WarnContext(ctx, "that a token was refused could not be noted", slog.Any("error", noteErr))
		}
	}
	if fault.KindOf(err) != fault.Denied {
		return err
	}
	recent, installErr := w.Installs.RecentlyInstalled(ctx, j.Installation)
	if installErr != nil || !recent {
		return err
	}
	return fault.Wrapf(fault.Unavailable, err, "%s (the app was installed minutes ago, so this is tried again)", fault.Public(err))
}
