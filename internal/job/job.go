// Package job is the unit of work: a clone or a push on one repository, for one actor of one installation. It validates what a
// caller asks for, and holds the wire format in which a job waits in the queue.
package job

import (
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
)

// Job is validated work. It names its OAuth token by installation and actor and holds none. [New] makes one from a verified
// invocation; the queue reads one back with [Unmarshal]. The zero value is no job.
type Job struct {
	ID           string
	Installation string
	Actor        forge.Actor // whose token does the work
	// Requester is the account id of the user who asked for the work: only he, and the app itself, may see and steer it. Empty where a
	// function of the app or a rule asked.
	Requester  string
	Repository bitbucket.Repository
	OnExpiry   OnExpiry
	Class      Class
	CreatedAt  time.Time
	Trace      Trace
	// Digest is the hex SHA-256 of the normalised request and actor: the same key with another digest is another request.
	Digest string
	// Rule is the name of the rule that made the job of an event, and Event the event's digest; empty where a caller asked for it.
	Rule, Event string
	// Coalesce names what the job does, where one of a newer event makes it needless while it waits; empty for never. HappenedAt is
	// when the event did.
	Coalesce   string
	HappenedAt time.Time
	// Impersonate lets the worker ask Forge for the user's token where none is kept.
	Impersonate bool
	// Generation counts the retries that a caller asked for; it tells a new run from the same run delivered twice.
	Generation int
	// Attempt counts how often the job ever began, over all generations; whoever has a greater one has taken the job over.
	Attempt int
	// Batch is the batch that the job is part of; zero for none.
	Batch BatchRef

	// Exactly one of the two is set; neither in a batch's job while it waits, for what it does is kept once with the batch.
	Clone *Clone
	Push  *Push
}

// BatchRef names one repository's place in a batch.
type BatchRef struct {
	ID   string
	Item int // from 0
}

// Class chooses the queue.
type Class string

// The classes, most urgent first.
const (
	ClassInteractive Class = "interactive" // somebody waits for it
	ClassEvent       Class = "event"
	ClassBatch       Class = "batch"
)

// Classes are all of them, most urgent first.
func Classes() []Class { return []Class{ClassInteractive, ClassEvent, ClassBatch} }

// Operation names what a job does.
type Operation string

// The operations.
const (
	OperationClone Operation = "clone"
	OperationPush  Operation = "push"
)

// Operation is what the job does.
func (j Job) Operation() Operation {
	if j.Push != nil || j.Batch.ID != "" {
		return OperationPush
	}
	return OperationClone
}

// OnExpiry says what a job does that finds its token gone.
type OnExpiry string

// What to do without a token.
const (
	OnExpiryFail OnExpiry = ""     // end as expired
	OnExpiryWait OnExpiry = "wait" // wait for the installation's next system token
)

// Trace is the caller's trace, as B3 headers name it: 16 or 32 hex digits and 16 hex digits. Empty where none came.
type Trace struct {
	TraceID string `json:"trace_id,omitempty"`
	SpanID  string `json:"span_id,omitempty"`
}

// Clone reads a tree and keeps it as an archive.
type Clone struct {
	Ref     string   `json:"ref,omitempty"`   // full ref, a branch or tag name, or a commit's full hash; default HEAD
	Depth   int      `json:"depth,omitempty"` // commits of history in a bundle; 0 is all of them. Other archives need one
	Paths   []string `json:"paths,omitempty"` // globs as package glob reads them; none is everything
	Archive Archive  `json:"archive,omitempty"`
}

// Archive is the format of a clone's artifact.
type Archive string

// The archive formats.
const (
	ArchiveTarGz  Archive = "tar.gz" // the default
	ArchiveZip    Archive = "zip"
	ArchiveBundle Archive = "bundle" // a git bundle with the history
	ArchiveNone   Archive = "none"   // nothing is kept: proves that the ref can be read
	// ArchiveDiff is what a dry run keeps, a unified diff. No clone can ask for it.
	ArchiveDiff Archive = "diff"
)

// Push commits changes on a branch.
type Push struct {
	Branch      string        `json:"branch"`           // short name
	Base        string        `json:"base,omitempty"`   // where a new branch starts: a branch; default the main branch
	Create      bool          `json:"create,omitempty"` // the branch may be new
	Message     string        `json:"message"`
	Author      *Author       `json:"author,omitempty"` // default: Gitsmith
	Changes     []edit.Change `json:"changes"`          // may be empty where there is a recipe
	PullRequest *PullRequest  `json:"pull_request,omitempty"`

	DryRun     bool       `json:"dry_run,omitempty"`     // read and edit, push nothing; the result has the diff
	HasFile    string     `json:"has_file,omitempty"`    // skip a repository whose tip has no such file or directory
	OnConflict OnConflict `json:"on_conflict,omitempty"` // what to do with a branch that exists; default: update it
	Recipe     *Recipe    `json:"recipe,omitempty"`      // is run after the changes
	// Expect is what a dry run found, set by whatever applies one. A caller cannot give it.
	Expect *Expect `json:"expect,omitempty"`
}

// OnConflict says what a push does that may make its branch and finds one which is not its own doing.
type OnConflict string

// What to do with a branch that exists.
const (
	OnConflictUpdate OnConflict = "update" // commit on it; what happens by default
	OnConflictSkip   OnConflict = "skip"   // leave it, end as skipped
	OnConflictFail   OnConflict = "fail"   // leave it, end as failed
)

// Expect is the dry run that a push repeats: it is skipped where it would be another change by now.
type Expect struct {
	Parent string `json:"parent,omitempty"` // the tip that the dry run was made on; empty in an empty repository
	Tree   string `json:"tree"`             // the tree that it would have made
}

// Recipe is a command that the operator registered under a name, with what the caller gives it.
type Recipe struct {
	Name       string            `json:"name"`
	Parameters map[string]string `json:"parameters,omitempty"`
}

// Author is a commit's author and committer.
type Author struct {
	Name  string `json:"name"`
	Email string `json:"email"`
}

// PullRequest asks for a pull request from the pushed branch.
type PullRequest struct {
	Title             string `json:"title"`
	Description       string `json:"description,omitempty"`
	Destination       string `json:"destination,omitempty"` // default: the main branch
	CloseSourceBranch bool   `json:"close_source_branch,omitempty"`
	// Reviewers are account ids, or UUIDs in braces.
	Reviewers []string `json:"reviewers,omitempty"`
}

// State is a job's state as users see it.
type State string

// The states.
const (
	Queued    State = "queued"
	Running   State = "running"
	Retrying  State = "retrying"
	Waiting   State = "waiting" // for a token
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Expired   State = "expired"
	Canceled  State = "canceled"
)

// States lists every state.
func States() []State {
	return []State{Queued, Running, Retrying, Waiting, Succeeded, Failed, Expired, Canceled}
}

// Ended reports whether nothing more happens to the job by itself.
func (s State) Ended() bool {
	return s == Succeeded || s == Failed || s == Expired || s == Canceled
}

// Result is what a finished job has done. It holds no content of the repository.
type Result struct {
	Clone *CloneResult `json:"clone,omitempty"`
	Push  *PushResult  `json:"push,omitempty"`
}

// CloneResult is what a clone read.
type CloneResult struct {
	Ref      string    `json:"ref,omitempty"` // the full ref; empty where a commit was asked for
	Commit   string    `json:"commit"`
	Artifact *Artifact `json:"artifact,omitempty"`
	Read     Read      `json:"read,omitempty"`
}

// Read is how a repository's tip was read: "cached" (the worker had it), "updated" (it had an older tip, and what came since was
// asked for), "partial" (the commit, its trees and the files that were needed), "shallow" (the commit with its files, without
// history), "full" (with history). Empty in an empty repository.
type Read string

// Artifact is an archive or a diff in the artifact store.
type Artifact struct {
	Key       string    `json:"key"` // in the store; not for callers
	Format    Archive   `json:"format"`
	Size      int64     `json:"size"`   // bytes
	SHA256    string    `json:"sha256"` // hex
	Files     int       `json:"files"`
	ExpiresAt time.Time `json:"expires_at"`
	Truncated bool      `json:"truncated,omitempty"` // of a diff: it goes on
}

// PushResult is what a push changed, would change (DryRun), or why it did nothing (Skipped).
type PushResult struct {
	Branch      string             `json:"branch"`
	Commit      string             `json:"commit"`           // the tip that holds the change; empty after a dry run, and where it was skipped
	Parent      string             `json:"parent,omitempty"` // empty for a branch's first commit
	Changed     int                `json:"changed"`          // files
	Unchanged   bool               `json:"unchanged"`        // nothing had to be changed, nothing was pushed
	Created     bool               `json:"created"`          // the branch is new; after a dry run, would be
	Restarts    int                `json:"restarts,omitempty"`
	Read        Read               `json:"read,omitempty"` // empty where an earlier attempt had pushed
	PullRequest *PullRequestResult `json:"pull_request,omitempty"`

	Skipped string    `json:"skipped,omitempty"` // public text
	DryRun  bool      `json:"dry_run,omitempty"`
	Tree    string    `json:"tree,omitempty"`  // of a dry run: what the commit would have
	Added   int       `json:"added,omitempty"` // lines, of a dry run
	Removed int       `json:"removed,omitempty"`
	Diff    *Artifact `json:"diff,omitempty"` // of a dry run
}

// PullRequestResult is the pull request of a push.
type PullRequestResult struct {
	ID  int    `json:"id"`
	URL string `json:"url"`
}

// Failure is why a job ended, or why its last attempt did.
type Failure struct {
	Kind   fault.Kind `json:"kind"`
	Detail string     `json:"detail"` // public text
}

// QueuedStatus is how the job stands that has just been queued.
func (j Job) QueuedStatus() Status {
	meta := j.MetaOf()
	return Status{
		ID: j.ID, State: Queued, Operation: meta.Operation, Repository: j.Repository.String(), Actor: j.Actor.Kind, Requester: j.Requester,
		Branch: meta.Branch, Ref: meta.Ref, Rule: j.Rule, Batch: j.Batch.ID, CreatedAt: j.CreatedAt,
	}
}

// Status is a job as its installation may see it.
type Status struct {
	ID         string
	State      State
	Operation  Operation
	Repository string
	Actor      forge.ActorKind
	Requester  string // account id; empty for the app and its rules
	Branch     string // of a push
	Ref        string // of a clone
	Rule       string // that made it of an event
	Batch      string // that it is part of
	Generation int
	Ticket     string // the newest ticket's id, for operators; empty before the job was ever queued
	CreatedAt  time.Time
	StartedAt  time.Time // of the last attempt; zero before the first
	EndedAt    time.Time // zero while it has not ended
	NextAt     time.Time // of the next attempt while retrying or waiting
	Attempts   int
	Result     *Result
	Failure    *Failure
}
