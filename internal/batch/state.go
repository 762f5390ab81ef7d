package batch

import (
	"github.com/gitsmith/gitsmith/internal/job"
)

// ItemState is how one repository of a batch stands.
type ItemState string

// The states. A repository is in exactly one.
const (
	Queued    ItemState = "queued" // not begun
	Running   ItemState = "running"
	Waiting   ItemState = "waiting" // for another attempt, or for a token
	Succeeded ItemState = "succeeded"
	Unchanged ItemState = "unchanged" // nothing had to be changed
	Failed    ItemState = "failed"    // or its token ran out
	Canceled  ItemState = "canceled"
	Skipped   ItemState = "skipped" // left alone on purpose
)

// ItemStates are all of them, in the order in which a batch goes.
func ItemStates() []ItemState {
	return []ItemState{Queued, Running, Waiting, Succeeded, Unchanged, Skipped, Failed, Canceled}
}

// Pending is the state of those that have no job yet. It is the ledger's own: for callers they are queued.
const Pending ItemState = "pending"

// Sets are the states that the ledger has a set for: all of them, and Pending.
func Sets() []ItemState { return append(ItemStates(), Pending) }

// StateOf is where the ledger has a repository whose job is in a state, with a result where it has succeeded.
func StateOf(state job.State, result job.Result) ItemState {
	switch state {
	case job.Running:
		return Running
	case job.Retrying, job.Waiting:
		return Waiting
	case job.Failed, job.Expired:
		return Failed
	case job.Canceled:
		return Canceled
	case job.Succeeded:
		switch pushed := result.Push; {
		case pushed == nil:
			return Succeeded
		case pushed.Skipped != "":
			return Skipped
		case pushed.Unchanged:
			return Unchanged
		}
		return Succeeded
	}
	return Queued
}
