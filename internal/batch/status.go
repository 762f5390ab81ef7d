// Package batch is one change over many repositories: what is asked for, how far it is, and why parts of it failed.
package batch

import (
	"time"

	"github.com/gitsmith/gitsmith/internal/job"
)

// Status is a batch as its installation and the operators see it.
type Status struct {
	ID           string         `json:"id"`
	Title        string         `json:"title"`
	Installation string         `json:"-"`
	State        string         `json:"state"`            // resolving, running, paused, stopped, finished, canceled
	Reason       string         `json:"reason,omitempty"` // why it is paused or stopped; public text
	DryRun       bool           `json:"dry_run"`
	From         string         `json:"from,omitempty"` // the dry run that it applies
	Actor        string         `json:"actor"`
	CreatedAt    time.Time      `json:"created_at"`
	EndedAt      time.Time      `json:"ended_at,omitzero"`
	Total        int            `json:"total"`
	Totals       map[string]int `json:"totals"` // repositories by state
	Stage        *Stage         `json:"stage,omitempty"`
	PerMinute    float64        `json:"per_minute"` // repositories that ended, over the last minutes
	SecondsLeft  *int           `json:"seconds_left,omitempty"`
	Failures     []Group        `json:"failures,omitempty"`
	Skips        []Group        `json:"skips,omitempty"`
}

// Stage is how far a roll-out may go for now.
type Stage struct {
	Name  string `json:"name"`  // canary, then, rest
	Until int    `json:"until"` // how many repositories may be begun
}

// Group is repositories that ended for the same reason.
type Group struct {
	Kind     string   `json:"kind"`
	Reason   string   `json:"reason"`
	Count    int      `json:"count"`
	Examples []string `json:"examples,omitempty"`
}

// Item is one repository of a batch.
type Item struct {
	Repository  string                 `json:"repository"`
	State       string                 `json:"state"`
	Job         string                 `json:"job,omitempty"`
	Branch      string                 `json:"branch,omitempty"`
	Commit      string                 `json:"commit,omitempty"`
	PullRequest *job.PullRequestResult `json:"pull_request,omitempty"`
	Failure     *job.Failure           `json:"failure,omitempty"`
	Skipped     string                 `json:"skipped,omitempty"`
	Changed     int                    `json:"changed"`
	Added       int                    `json:"added"`
	Removed     int                    `json:"removed"`
	Attempts    int                    `json:"attempts"`
	StartedAt   time.Time              `json:"started_at,omitzero"`
	EndedAt     time.Time              `json:"ended_at,omitzero"`
	Diff        bool                   `json:"-"` // there is one to be read
}

// ItemOptions choose a page of a batch's repositories.
type ItemOptions struct {
	State  string // empty: every state
	Limit  int
	Cursor string
}
