// Package batch is one change over many repositories: what was asked for, what it comes to for each repository, and how the whole stands.
// Each repository is a job of the queue; the batch is what they have in common. The package is pure: internal/ledger keeps batches.
package batch

import (
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// Batch is a validated request. [New] makes one from a verified invocation. The zero value is no batch.
type Batch struct {
	ID           string
	Installation string
	Actor        forge.Actor // whose token does the work; the dry run's for a batch that is started from one
	Requester    string      // account id of the user who asked for it; empty where a function of the app did
	CreatedAt    time.Time
	Trace        job.Trace
	Digest       string // of the normalised request: the same key with another digest is another request
	Request
}

// State is how a batch stands.
type State string

// The states.
const (
	StateResolving State = "resolving" // its query is being asked, page by page
	StateRunning   State = "running"
	StatePaused    State = "paused"  // by a caller, or for want of a token
	StateStopped   State = "stopped" // by itself: too many failed
	StateFinished  State = "finished"
	StateCanceled  State = "canceled"

	// StateWriting is of a batch whose repositories are still being written down. Callers do not see it.
	StateWriting State = "writing"
)

// Status is a batch as its installation, or an operator, may see it.
type Status struct {
	ID           string    `json:"id"`
	Installation string    `json:"-"`
	Title        string    `json:"title"`
	State        State     `json:"state"`
	Reason       string    `json:"reason,omitempty"` // public text: why it is paused, stopped or was ended
	DryRun       bool      `json:"dry_run"`
	From         string    `json:"from,omitempty"`    // the dry run that it repeats
	Rollout      *Rollout  `json:"rollout,omitempty"` // of a dry run: how what it shows will be rolled out; it has no stages itself
	Concurrency  int       `json:"concurrency"`
	PerHour      int       `json:"per_hour,omitempty"` // zero is no bound
	Actor        string    `json:"actor"`
	Requester    string    `json:"-"` // account id; empty for the app
	CreatedAt    time.Time `json:"created_at"`
	EndedAt      time.Time `json:"ended_at,omitzero"`

	Total       int               `json:"total"`  // repositories, as far as they are known
	Totals      map[ItemState]int `json:"totals"` // every state; they add up to Total
	Stage       *Stage            `json:"stage,omitempty"`
	PerMinute   float64           `json:"per_minute"`             // repositories that ended, over the last hundred of them
	SecondsLeft *int              `json:"seconds_left,omitempty"` // nil where nobody can tell
	Failures    []Group           `json:"failures"`
	Skips       []Group           `json:"skips"`
}

// Stage is how far a roll-out has come.
type Stage struct {
	Name  string `json:"name"`  // canary, then, rest
	Until int    `json:"until"` // how many repositories may begin in it
}

// Group is repositories that failed, or were left alone, for the same reason.
type Group struct {
	Kind     string   `json:"kind,omitempty"` // of a failure
	Reason   string   `json:"reason"`         // public text, … in place of what differs
	Count    int      `json:"count"`
	Examples []string `json:"examples"` // a few repositories
}

// Item is one repository of a batch.
type Item struct {
	Repository  string                 `json:"repository"`
	State       ItemState              `json:"state"`
	Job         string                 `json:"job,omitempty"` // empty before there is one
	Branch      string                 `json:"branch,omitempty"`
	Commit      string                 `json:"commit,omitempty"`
	PullRequest *job.PullRequestResult `json:"pull_request,omitempty"`
	Failure     *job.Failure           `json:"failure,omitempty"` // also of the last attempt of one that waits
	Skipped     string                 `json:"skipped,omitempty"` // why
	Changed     int                    `json:"changed,omitempty"` // files
	Added       int                    `json:"added,omitempty"`   // lines, of a dry run
	Removed     int                    `json:"removed,omitempty"`
	Attempts    int                    `json:"attempts,omitempty"`
	StartedAt   time.Time              `json:"started_at,omitzero"`
	EndedAt     time.Time              `json:"ended_at,omitzero"`
	Diff        bool                   `json:"-"` // the job's artifact is a diff
	Task        string                 `json:"-"` // what the queue calls the job's newest run
}

// ItemOptions choose a page of a batch's repositories, in the order in which they were given.
type ItemOptions struct {
	State  ItemState // empty: every state
	Limit  int       // 1 to 100; zero is 50
	Cursor string    // of the page before; empty for the first
}

// ListOptions choose a page of an installation's batches, newest first.
type ListOptions struct {
	Requester string // an account id; empty: whoever asked
	Limit     int    // 1 to 100; zero is 50
	Cursor    string // of the page before; empty for the first
}

// MaxAge is how old a batch may become; what has not begun by then is canceled.
const MaxAge = 7 * 24 * time.Hour

// New makes the batch that a verified invocation asks for with a validated request. Its id is a UUID, derived from installation, actor and
// idempotency key where there is one.
func New(invocation forge.Invocation, request Request, key string, trace job.Trace, now time.Time) (Batch, error) {
	if invocation.Installation() == "" {
		return Batch{}, fault.Newf(fault.Internal, "a batch needs a verified invocation")
	}
	actor, err := job.ActorOf(invocation, request.Actor)
	if err != nil {
		return Batch{}, err
	}
	if request.From == "" { // else the dry run says
		request.Actor = actor.Kind
	}
	digest, err := job.DigestOf(request, actor)
	if err != nil {
		return Batch{}, err
	}
	b := Batch{
		Installation: invocation.Installation(), Actor: actor, Requester: invocation.Principal(), CreatedAt: now.UTC().Truncate(time.Millisecond), Trace: trace, Digest: digest, Request: request,
	}
	if key != "" {
		b.ID = derived("batch", b.Installation, string(actor.Kind), actor.Principal, key)
		return b, nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return Batch{}, fault.Wrapf(fault.Internal, err, "no batch id could be made")
	}
	b.ID = id.String()
	return b, nil
}

// idSpace separates our derived UUIDs from everybody else's (RFC 9562, version 5).
var idSpace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://github.com/gitsmith/gitsmith#batch"))

func derived(parts ...string) string {
	var name []byte
	for _, part := range parts {
		name = strconv.AppendQuote(name, part)
	}
	return uuid.NewSHA1(idSpace, name).String()
}

// JobID is the id of the job of one repository: the same whoever begins it, and however often.
func JobID(batch string, item int) string { return derived("job", batch, strconv.Itoa(item)) }

// JobIDs are the ids of the jobs of several repositories.
func JobIDs(batch string, items []int) []string {
	ids := make([]string, len(items))
	for i, item := range items {
		ids[i] = JobID(batch, item)
	}
	return ids
}
