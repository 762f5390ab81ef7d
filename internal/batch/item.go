package batch

import (
	"github.com/gitsmith/gitsmith/internal/job"
)

// ItemOf is a repository in a state of the ledger, with its entry and its job; the zero Status where there is none yet.
func ItemOf(kept Entry, state ItemState, status job.Status) Item {
	if state == Pending {
		state = Queued
	}
	item := Item{Repository: kept.Name(), State: state}
	if status.ID == "" {
		return item
	}
	item.Job, item.Branch, item.Attempts, item.StartedAt, item.EndedAt = status.ID, status.Branch, status.Attempts, status.StartedAt, status.EndedAt
	item.Task = status.Ticket
	if state != Succeeded && state != Unchanged && state != Skipped {
		item.Failure = status.Failure
	}
	if status.Result == nil || status.Result.Push == nil {
		return item
	}
	pushed := status.Result.Push
	item.Branch, item.Commit, item.PullRequest, item.Skipped = pushed.Branch, pushed.Commit, pushed.PullRequest, pushed.Skipped
	item.Changed, item.Added, item.Removed, item.Diff = pushed.Changed, pushed.Added, pushed.Removed, pushed.Diff != nil
	return item
}
