package worker

import (
	"context"
	"fmt"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// asksForMain reports whether a push's pull request goes to the main branch by default.
func asksForMain(push *job.Push) bool {
	return push.PullRequest != nil && push.PullRequest.Destination == ""
}

// checkDestination refuses, before the push, a pull request that would lead from the pushed branch to itself. Bitbucket would refuse it only
// after the push, when the change is on the main branch without a review. In an empty repository the first branch that is pushed becomes
// the main branch, so no pull request is possible. A destination that is given was compared with the branch when the request was
// validated; only the default is left to check.
func (w *Worker) checkDestination(ctx context.Context, j job.Job, repository bitbucket.Repository, base Snapshot) error {
	if j.Push.PullRequest == nil {
		return nil
	}
	if base.Commit() == "" {
		return fault.Newf(fault.Invalid, "push.pull_request: %s is empty and has no branch for a pull request to go to; make the first commit without a pull request", repository)
	}
	if !asksForMain(j.Push) {
		return nil
	}
	main, err := w.mainBranch(ctx, j, repository, base)
	switch {
	case err != nil:
		return err
	case main == "":
		return fault.Newf(fault.Invalid, "push.pull_request.destination: %s has no main branch; name the branch that the pull request should go to", repository)
	case main == j.Push.Branch:
		return fault.Newf(fault.Invalid, "push.pull_request.destination: %.200s is the main branch, and without a destination the pull request would go to the same branch; push to another branch, or name another destination", main)
	}
	return nil
}

// mainBranch is the branch that HEAD names. If the git server does not name one, Bitbucket's REST API is asked. Empty means that the
// repository has no main branch.
func (w *Worker) mainBranch(ctx context.Context, j job.Job, repository bitbucket.Repository, base Snapshot) (string, error) {
	if main := base.MainBranch(); main != "" {
		return main, nil
	}
	token, err := w.liveToken(ctx, j)
	if err != nil {
		return "", err
	}
	info, err := w.REST.Resolve(ctx, token.Text, repository)
	if err != nil {
		return "", fmt.Errorf("pull request: %w", err)
	}
	return info.MainBranch, nil
}
