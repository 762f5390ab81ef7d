// Package worker is the story of one job: its content, its token, its repository, its git work, its result. It speaks gitrepo's, repolock's and
// artifact's types. For everything that tests replace, it declares small interfaces.
package worker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/gitsmith/gitsmith/internal/artifact"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/telemetry"
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

// Recipes are the commands that the operator registered by name. Check finds what is wrong with a name and its parameters; Run runs
// the command in a folder that holds a repository's files.
type Recipes interface {
	Check(name string, parameters map[string]string) error
	Run(ctx context.Context, name string, parameters map[string]string, dir string) error
}

// Artifacts keeps archives and diffs: an [artifact.Store].
type Artifacts interface {
	Put(ctx context.Context, key string, write func(io.Writer) error) (artifact.Written, error)
}

// Content completes a batch's job with the push that the batch keeps for it. An Invalid fault ends the job.
type Content interface {
	Fill(ctx context.Context, j job.Job) (job.Job, error)
}

// REST is the part of Bitbucket's REST interface that jobs use.
type REST interface {
	Describe(ctx context.Context, token secret.Text, repository bitbucket.Repository) (bitbucket.Details, error)
	Resolve(ctx context.Context, token secret.Text, repository bitbucket.Repository) (bitbucket.Info, error)
	EnsurePullRequest(ctx context.Context, token secret.Text, repository bitbucket.Repository, spec bitbucket.PullRequestSpec) (bitbucket.PullRequest, error)
}

// Recorder counts what operators watch, by the kind of a job's actor.
type Recorder interface {
	TokenLife(actor string, left time.Duration)
	ExpiredRejection(actor string)
}

// Config is what a Worker is made of. Every field is required unless it says otherwise.
type Config struct {
	Content       Content // nil where there are no batches: a job of one fails
	Tokens        Tokens
	Installs      Installs
	Installations Installations
	Impersonator  Impersonator
	Names         Names
	Budget        Budget
	Locker        Locker
	Git           Git
	Keyring       *secret.Keyring // makes and verifies the proofs that commits carry; nil: they carry none
	// RedisSince is the time before which another Redis may have answered, which told this one not all that it knew; nil for never. A job from
	// before then is looked for in its branch's history before it is pushed.
	RedisSince func() time.Time
	Artifacts  Artifacts
	Recipes    Recipes // nil where the operator has none: jobs that name one fail
	REST       REST
	Recorder   Recorder
	Tracing    *telemetry.Tracing // nil records nothing
	Logger     *slog.Logger

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

// Process runs one attempt of a job, as part of its caller's trace. It loads the job's content, then takes the token, so that git is
// never touched without a live one, then finds the repository's name, then does the clone or the push. If Bitbucket rejects the token
// and the actor has another one, Process repeats the work once with that, which is safe because work done twice has the effect of work
// done once. The error's kind says what becomes of the job; where a token is at hand that nobody can renew it is a [job.AttemptError]
// that bounds retries by the token's life.
func (w *Worker) Process(ctx context.Context, j job.Job) (job.Result, error) {
	ctx = telemetry.WithTrace(ctx, j.Trace.TraceID, j.Trace.SpanID)
	ctx, end := w.Tracing.Start(ctx, "job "+string(j.Operation()), telemetry.SpanConsumer)
	result, err := w.attempt(ctx, j)
	end(err)
	return result, err
}

func (w *Worker) attempt(ctx context.Context, j job.Job) (job.Result, error) {
	j, err := w.load(ctx, j)
	if err != nil {
		return job.Result{}, err
	}
	var result job.Result
	err = w.withToken(ctx, j, func(w *Worker, token forge.OAuthToken) (err error) {
		result, err = w.run(ctx, j, token)
		return err
	})
	if err != nil {
		return job.Result{}, err
	}
	return result, nil
}

// load completes a batch's job, which comes without its push: the batch keeps that once for all its jobs.
func (w *Worker) load(ctx context.Context, j job.Job) (job.Job, error) {
	switch {
	case j.Batch.ID == "":
		return j, nil
	case w.Content == nil:
		return job.Job{}, fault.Newf(fault.Internal, "load the content of a batch's job: this worker has no batches")
	}
	return w.Content.Fill(ctx, j)
}

// Describe looks up what Bitbucket says of the job's repository, with the token of the job's actor, and once more with the actor's other
// token if Bitbucket rejects the first. Its errors are as those of [Worker.Process].
func (w *Worker) Describe(ctx context.Context, j job.Job) (bitbucket.Details, error) {
	var details bitbucket.Details
	err := w.withToken(ctx, j, func(w *Worker, token forge.OAuthToken) (err error) {
		details, err = w.REST.Describe(ctx, token.Text, j.Repository)
		return err
	})
	return details, err
}

// withoutToken counts a job that had no token.
func (w *Worker) withoutToken(j job.Job, err error) error {
	if fault.KindOf(err) == fault.Expired {
		w.Recorder.ExpiredRejection(string(j.Actor.Kind))
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
		cloned, err = w.clone(ctx, j, remoteOf(j, repository, token))
		return err
	})
	return job.Result{Clone: cloned}, err
}

// remoteOf is the job's repository under its current name, with the token that opens it.
func remoteOf(j job.Job, repository bitbucket.Repository, token forge.OAuthToken) gitrepo.Remote {
	return gitrepo.Remote{Repository: repository, Token: token.Text, Installation: j.Installation}
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
