package worker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/repolock"
)

// push brings a job's change onto its branch exactly once, whatever died or moved in between, under the repository's lock. Then
// it sees to the pull request, which needs no lock: opening one twice gives the same one. A dry run does neither.
func (w *Worker) push(ctx context.Context, j job.Job, repository bitbucket.Repository) (*job.PushResult, error) {
	if j.Push.DryRun {
		return w.dryRun(ctx, j, repository)
	}
	var result *job.PushResult
	err := w.budgeted(ctx, j, pushRequests, func(ctx context.Context) (err error) {
		result, err = w.pushLocked(ctx, j, repository)
		return err
	})
	if err != nil || j.Push.PullRequest == nil || result.Skipped != "" || result.Unchanged && result.Created {
		return result, err
	}
	token, err := w.liveToken(ctx, j)
	if err != nil {
		return nil, err
	}
	request := j.Push.PullRequest
	opened, err := w.REST.EnsurePullRequest(ctx, token.Text, repository, bitbucket.PullRequestSpec{
		Title: request.Title, Description: request.Description,
		Source: j.Push.Branch, Destination: request.Destination, CloseSourceBranch: request.CloseSourceBranch,
		Reviewers: request.Reviewers,
	})
	if err != nil {
		return nil, fmt.Errorf("pull request: %w", err)
	}
	result.PullRequest = &job.PullRequestResult{ID: opened.ID, URL: opened.URL}
	return result, nil
}

func (w *Worker) pushLocked(ctx context.Context, j job.Job, repository bitbucket.Repository) (*job.PushResult, error) {
	lock, err := w.Locker.Acquire(ctx, j.Installation, repository.String(), repolock.Holder{Job: j.ID, Attempt: j.Attempt})
	if err != nil {
		return nil, err
	}
	defer func() {
		// The lock is given back even where ctx has ended: others wait for it.
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		if err := lock.Release(release); err != nil {
			w.Logger.WarnContext(ctx, "a repository's lock was not given back and will run out", slog.String("repository", repository.String()), slog.Any("error", err))
		}
	}()
	ctx = lock.Context()
	for restarts := 0; ; restarts++ {
		result, err := w.pushOnce(ctx, j, repository, lock)
		switch {
		case err == nil:
			result.Restarts = restarts
			return result, nil
		case context.Cause(ctx) != nil:
			return w.afterTheEnd(ctx, j, repository, lock)
		case fault.KindOf(err) != fault.Conflict:
			return nil, err
		case restarts == maxRestarts:
			return nil, fmt.Errorf("the branch moved %d times while the change was made: %w", maxRestarts+1, err)
		}
	}
}

// afterTheEnd says how a push stands whose context ended in the middle: done, where its commit reached the branch all the same,
// else the context's own cause.
func (w *Worker) afterTheEnd(ctx context.Context, j job.Job, repository bitbucket.Repository, lock Lock) (*job.PushResult, error) {
	cause := context.Cause(ctx)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if token, err := w.liveToken(ctx, j); err == nil {
		if done, _, err := w.alreadyPushed(ctx, j, remoteOf(j, repository, token), lock); err == nil && done != nil {
			return done, nil
		}
	}
	return nil, fmt.Errorf("push to %s: %w", repository, cause)
}

// pushOnce is one try from the branch's tip as it is now.
func (w *Worker) pushOnce(ctx context.Context, j job.Job, repository bitbucket.Repository, lock Lock) (*job.PushResult, error) {
	token, err := w.liveToken(ctx, j)
	if err != nil {
		return nil, err
	}
	remote := remoteOf(j, repository, token)
	done, mark, err := w.alreadyPushed(ctx, j, remote, lock)
	if done != nil || err != nil {
		return done, err
	}
	commit, result, err := w.build(ctx, j, repository, remote, mark)
	if err != nil || commit == nil {
		return result, err
	}
	return result, w.send(ctx, j, repository, lock, commit, result)
}

// build reads the tip and makes the commit on it; none where there is nothing to push, which the result tells. What was read is closed
// then: a push needs the new objects alone. The tip may be this job's own commit although no intent tells of it: a Redis that died had
// the push done, and lost its last second.
func (w *Worker) build(ctx context.Context, j job.Job, repository bitbucket.Repository, remote gitrepo.Remote, mark gitrepo.Mark) (*gitrepo.Commit, *job.PushResult, error) {
	base, created, err := w.base(ctx, j.Push, remote)
	if err != nil {
		return nil, nil, err
	}
	defer w.closeSnapshot(ctx, base)
	if parent, made := base.MadeBy(mark); made && !created {
		return nil, &job.PushResult{Branch: j.Push.Branch, Commit: base.Commit(), Parent: parent, Read: readOf(base)}, nil
	}
	if !created && !j.Push.DryRun && w.mayHaveRun(j) {
		mark.After = j.CreatedAt.Add(-time.Hour)
		if done, err := w.ownCommit(ctx, j, remote, base, mark, false); done != nil || err != nil {
			return nil, done, err
		}
	}
	if done, err := w.passOver(ctx, j, remote, base, mark, created); done != nil || err != nil {
		return nil, done, err
	}
	if err := w.checkDestination(ctx, j, repository, base); err != nil {
		return nil, nil, err
	}
	changes, err := w.change(ctx, j.Push, base)
	if err != nil {
		return nil, nil, err
	}
	author := w.authorOf(j)
	commit, err := base.Build(ctx, changes, gitrepo.CommitSpec{
		Message: j.Push.Message, AuthorName: author.Name, AuthorEmail: author.Email, Time: j.CreatedAt.Truncate(time.Second), Mark: mark,
	})
	if err != nil {
		return nil, nil, err
	}
	result := &job.PushResult{
		Branch: j.Push.Branch, Commit: commit.Hash, Parent: base.Commit(), Changed: len(changes), Created: created, Read: readOf(base),
	}
	switch expect := j.Push.Expect; {
	case expect != nil && commit.Tree != expect.Tree:
		return nil, skipped(j, base, "the change is another one than in the dry run"), nil
	case commit.Unchanged, len(changes) == 0: // an empty repository has no tree that the commit's could be the same as
		result.Commit, result.Parent, result.Unchanged = base.Commit(), "", true
		return nil, result, nil
	case j.Push.DryRun:
		result.Commit, result.Tree = "", commit.Tree
		return nil, result, w.keepDiff(ctx, j, base, changes, result)
	}
	return commit, result, nil
}

// mayHaveRun reports whether the job may have run under an earlier Redis, which lost its last second, so that neither its record nor its
// intent tells of it.
func (w *Worker) mayHaveRun(j job.Job) bool {
	return w.RedisSince != nil && j.CreatedAt.Before(w.RedisSince())
}

// change is in which files the new tree differs from the tip: the declared changes, then what the recipe makes of them.
func (w *Worker) change(ctx context.Context, push *job.Push, base Snapshot) ([]edit.FileChange, error) {
	changes, err := edit.Apply(ctx, base, push.Changes, w.Limits)
	if err != nil || push.Recipe == nil {
		return changes, err
	}
	return w.cook(ctx, push.Recipe, base, changes)
}

// send pushes what was built, with the token that is current now, after writing down what it is about to do.
func (w *Worker) send(ctx context.Context, j job.Job, repository bitbucket.Repository, lock Lock, commit *gitrepo.Commit, result *job.PushResult) error {
	token, err := w.liveToken(ctx, j)
	if err != nil {
		return fmt.Errorf("before the push: %w", err)
	}
	intent := repolock.Intent{
		Branch: result.Branch, Commit: result.Commit, Parent: result.Parent, Created: result.Created, Changed: result.Changed,
	}
	if err := lock.SetIntent(ctx, j.ID, intent); err != nil {
		return err
	}
	// Before the push: Forge may tell of it before it is answered.
	if err := w.Installations.Pushed(ctx, j.Installation, result.Commit); err != nil {
		return err
	}
	old := result.Parent
	if result.Created {
		old = ""
	}
	return w.Git.Push(ctx, remoteOf(j, repository, token), gitrepo.PushSpec{Branch: result.Branch, Old: old, Commit: commit})
}

// alreadyPushed looks whether an earlier run of the job got its commit onto the branch: the tip is the intended commit, or the
// branch went on from it. The mark identifies the job's commits and includes the intent.
func (w *Worker) alreadyPushed(ctx context.Context, j job.Job, remote gitrepo.Remote, lock Lock) (*job.PushResult, gitrepo.Mark, error) {
	mark := w.markOf(j)
	intent, found, err := lock.Intent(ctx, j.ID)
	if err != nil || !found || intent.Branch != j.Push.Branch {
		return nil, mark, err
	}
	mark.Intended = intent.Commit
	tip, found, err := w.Git.Tip(ctx, remote, intent.Branch)
	if err != nil || !found || tip == intent.Parent {
		return nil, mark, err
	}
	commit := intent.Commit
	if tip != commit {
		commit, found, err = w.Git.FindJob(ctx, remote, mark, intent.Parent)
		if err != nil || !found {
			return nil, mark, err
		}
	}
	return &job.PushResult{
		Branch: intent.Branch, Commit: commit, Parent: intent.Parent, Created: intent.Created, Changed: intent.Changed,
	}, mark, nil
}

// markOf identifies a job's commits, without an intent.
func (w *Worker) markOf(j job.Job) gitrepo.Mark {
	return gitrepo.Mark{Installation: j.Installation, Job: j.ID, Branch: j.Push.Branch, Keys: w.Keyring}
}

// base is the tree that the change builds on: the branch's tip or, for a new branch, its base.
func (w *Worker) base(ctx context.Context, push *job.Push, remote gitrepo.Remote) (base Snapshot, created bool, err error) {
	want := w.want(push)
	want.Ref = "refs/heads/" + push.Branch
	base, err = w.Git.Fetch(ctx, remote, want)
	if err == nil {
		return base, base.Commit() == "", nil // an empty repository has no branch yet
	}
	if fault.KindOf(err) != fault.NotFound {
		return nil, false, err
	}
	if !push.Create {
		return nil, false, fault.Wrapf(fault.NotFound, err, `%s; to make a new branch, add "create": true`, fault.Public(err))
	}
	want.Ref = ""
	if push.Base != "" {
		want.Ref = "refs/heads/" + push.Base
	}
	base, err = w.Git.Fetch(ctx, remote, want)
	return base, true, err
}

// want is what a push looks at of a tip, so that no more is read.
func (w *Worker) want(push *job.Push) gitrepo.Want {
	want := gitrepo.Want{Depth: 1, Push: !push.DryRun, MainBranch: asksForMain(push)}
	if push.Recipe != nil {
		return want // it may look at everything
	}
	depth := edit.TreeDepth(push.Changes, w.Limits)
	if push.HasFile != "" && depth != 0 {
		depth = max(depth, strings.Count(push.HasFile, "/")+1)
	}
	want.Sparse, want.TreeDepth = true, depth
	return want
}

func (w *Worker) authorOf(j job.Job) job.Author {
	if j.Push.Author != nil {
		return *j.Push.Author
	}
	return w.Author
}
