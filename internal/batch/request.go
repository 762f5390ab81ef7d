package batch

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/glob"
	"github.com/gitsmith/gitsmith/internal/job"
)

// Request is what a caller asks for, as it stands in the body of POST /v1/batches.
type Request struct {
	Title        string          `json:"title,omitempty"` // default: the message's first line
	Repositories []Target        `json:"repositories,omitempty"`
	Query        *Query          `json:"query,omitempty"` // in place of a list
	Actor        forge.ActorKind `json:"actor,omitempty"` // default: the dry run's with From; else the user who calls, else the app
	Push         *job.Push       `json:"push,omitempty"`  // its strings may hold {{ expressions }}
	DryRun       bool            `json:"dry_run,omitempty"`

	From    string  `json:"from,omitempty"`    // a dry run, in place of repositories and push
	Changed Changed `json:"changed,omitempty"` // what to do where the repository is another than in the dry run; default: refuse

	// With From, each of these is the dry run's unless it is given. A roll-out is given as a whole; an empty one has no stages.
	Rollout     *Rollout `json:"rollout,omitempty"`
	Concurrency int      `json:"concurrency,omitempty"` // repositories at once; default 16
	PerHour     int      `json:"per_hour,omitempty"`    // repositories that begin in an hour; zero is no bound
}

// Target is one repository, and values of its own for the expressions.
type Target struct {
	bitbucket.Repository
	Values map[string]string `json:"values,omitempty"`
}

// Query chooses repositories of a workspace. Every condition must hold; empty ones always do.
type Query struct {
	Workspace    string    `json:"workspace,omitempty"` // slug; default: the installation's own
	Name         string    `json:"name,omitempty"`      // glob over the slug: * and ? and [a-z]
	Project      string    `json:"project,omitempty"`   // key
	Language     string    `json:"language,omitempty"`
	MainBranch   string    `json:"main_branch,omitempty"`
	UpdatedSince time.Time `json:"updated_since,omitzero"`
	HasFile      string    `json:"has_file,omitempty"` // looked for by the job, in the tree that it edits: a repository without is skipped
}

// Changed says what becomes of a repository whose tip, or whose change, is not that of the dry run any more.
type Changed string

// What to do with it.
const (
	ChangedRefuse Changed = "refuse" // it is skipped
	ChangedApply  Changed = "apply"  // the change is made as it comes out now
)

// Rollout begins with few repositories. A dry run, which changes nothing, only keeps it for the batch that is started from it.
type Rollout struct {
	Canary         Share `json:"canary,omitzero"` // the first ones, which must have ended before others begin
	Then           Share `json:"then,omitzero"`   // how many may have begun before all others do
	StopAtFailures Share `json:"stop_at_failures,omitzero"`
}

// Share is a number of repositories, or a percentage of them. As JSON it is 5 or "10%".
type Share struct {
	Number  int
	Percent float64 // where Number is zero
}

// IsZero reports whether nothing was given.
func (s Share) IsZero() bool { return s == Share{} }

// MarshalJSON spells the share as callers do.
func (s Share) MarshalJSON() ([]byte, error) {
	if s.Percent > 0 {
		return json.Marshal(s.String())
	}
	return json.Marshal(s.Number)
}

// String is the share as callers spell it.
func (s Share) String() string {
	if s.Percent > 0 {
		return strconv.FormatFloat(s.Percent, 'f', -1, 64) + "%"
	}
	return strconv.Itoa(s.Number)
}

// UnmarshalJSON reads 5, "5" and "10%".
func (s *Share) UnmarshalJSON(text []byte) error {
	var word string
	if json.Unmarshal(text, &word) != nil {
		word = string(text)
	}
	share, err := parseShare(word)
	if err != nil {
		return err
	}
	*s = share
	return nil
}

func parseShare(word string) (Share, error) {
	number, percent := strings.CutSuffix(strings.TrimSpace(word), "%")
	if percent {
		value, err := strconv.ParseFloat(number, 64)
		if err == nil && value > 0 && value <= 100 {
			return Share{Percent: value}, nil
		}
	} else if value, err := strconv.Atoi(number); err == nil && value > 0 {
		return Share{Number: value}, nil
	}
	return Share{}, fault.Newf(fault.Invalid, `rollout: %.40q is neither a number of repositories from 1 nor a percentage such as "10%%"`, word)
}

// Bounds of a request.
const (
	MaxRepositories = 10_000 // of a batch, also of one that comes from a query
	MaxConcurrency  = 100    // repositories at once
)

const (
	maxValues          = 50
	maxValue           = 4096 // bytes
	maxTitle           = 120  // bytes
	defaultConcurrency = 16
	maxPerHour         = 1_000_000
)

// ParseRequest decodes and validates the body of POST /v1/batches. Every error is an Invalid fault that names the field and what to do.
// What expressions give for each repository is checked when it is worked out; for the first ones here too.
func ParseRequest(body []byte, limits job.Limits) (Request, error) {
	var request Request
	if err := job.Decode(body, &request); err != nil {
		return Request{}, err
	}
	if err := request.validate(limits); err != nil {
		return Request{}, err
	}
	return request, nil
}

func (r *Request) validate(limits job.Limits) error {
	switch r.Actor {
	case "", forge.ActorSystem, forge.ActorUser:
	default:
		return fault.Newf(fault.Invalid, `actor: %.80q is neither "system" nor "user"`, r.Actor)
	}
	if len(r.Title) > maxTitle || !utf8.ValidString(r.Title) || strings.ContainsAny(r.Title, "\x00\r\n") {
		return fault.Newf(fault.Invalid, "title: it has more than %d bytes, or a line break", maxTitle)
	}
	switch {
	case r.Concurrency < 0 || r.Concurrency > MaxConcurrency:
		return fault.Newf(fault.Invalid, "concurrency: %d is not from 1 to %d", r.Concurrency, MaxConcurrency)
	case r.PerHour < 0 || r.PerHour > maxPerHour:
		return fault.Newf(fault.Invalid, "per_hour: %d is not from 1 to %d; leave it out for no bound", r.PerHour, maxPerHour)
	case r.Concurrency == 0 && r.From == "":
		r.Concurrency = defaultConcurrency
	}
	if r.From != "" {
		return r.validateFrom()
	}
	return r.validateNew(limits)
}

// validateFrom checks a batch that repeats a dry run.
func (r *Request) validateFrom() error {
	switch {
	case len(r.Repositories) > 0 || r.Query != nil || r.Push != nil:
		return fault.Newf(fault.Invalid, "from: a batch that repeats a dry run takes repositories and push from it; leave them out")
	case r.DryRun:
		return fault.Newf(fault.Invalid, "dry_run: from names a dry run already; leave one of the two out")
	}
	switch r.Changed {
	case "":
		r.Changed = ChangedRefuse
	case ChangedRefuse, ChangedApply:
	default:
		return fault.Newf(fault.Invalid, `changed: %.80q is neither "refuse" nor "apply"`, r.Changed)
	}
	return nil
}

func (r *Request) validateNew(limits job.Limits) error {
	switch {
	case r.Changed != "":
		return fault.Newf(fault.Invalid, "changed: it is for a batch that repeats a dry run; give from too, or leave it out")
	case r.Push == nil:
		return fault.Newf(fault.Invalid, "push is missing: say what the batch does, or give from to repeat a dry run")
	case r.Push.DryRun:
		return fault.Newf(fault.Invalid, "push.dry_run: give dry_run beside push, for the whole batch")
	case (len(r.Repositories) > 0) == (r.Query != nil):
		return fault.Newf(fault.Invalid, "repositories and query: give one of the two")
	case len(r.Repositories) > MaxRepositories:
		return fault.Newf(fault.Invalid, "repositories: %d of them, at most %d; make several batches", len(r.Repositories), MaxRepositories)
	}
	if err := r.validateTargets(); err != nil {
		return err
	}
	if err := r.Query.validate(); err != nil {
		return err
	}
	if r.Query != nil && r.Query.HasFile != "" {
		if r.Push.HasFile != "" && r.Push.HasFile != r.Query.HasFile {
			return fault.Newf(fault.Invalid, "push.has_file: query.has_file says another; give one of the two")
		}
		r.Push.HasFile = r.Query.HasFile
	}
	r.Push.DryRun = r.DryRun
	return r.tryExpressions(limits)
}

func (r *Request) validateTargets() error {
	seen := make(map[bitbucket.Repository]int, len(r.Repositories))
	for i, target := range r.Repositories {
		if err := target.Validate(); err != nil {
			return fault.Newf(fault.Invalid, "repositories[%d]: %s", i, fault.Public(err))
		}
		if first, found := seen[target.Repository]; found {
			return fault.Newf(fault.Invalid, "repositories[%d]: %s stands at %d already; name each once", i, target.Repository, first)
		}
		seen[target.Repository] = i
		if len(target.Values) > maxValues {
			return fault.Newf(fault.Invalid, "repositories[%d].values: %d of them, at most %d", i, len(target.Values), maxValues)
		}
		for name, value := range target.Values {
			if len(name) > maxTitle || len(value) > maxValue {
				return fault.Newf(fault.Invalid, "repositories[%d].values: %.40q is too long; a name has at most %d bytes, a value %d", i, name, maxTitle, maxValue)
			}
		}
	}
	return nil
}

func (q *Query) validate() error {
	if q == nil {
		return nil
	}
	if q.Workspace != "" {
		if err := (bitbucket.Repository{Workspace: q.Workspace, Slug: "any"}).Validate(); err != nil {
			return fault.Newf(fault.Invalid, "query.workspace: %.80q is no workspace's slug; leave it out for the app's own", q.Workspace)
		}
	}
	for field, text := range map[string]string{"name": q.Name, "project": q.Project, "language": q.Language, "main_branch": q.MainBranch} {
		if len(text) > 256 || !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\r\n") {
			return fault.Newf(fault.Invalid, "query.%s: it has more than 256 bytes, or a line break", field)
		}
	}
	_, err := q.Pattern()
	return err
}

// Pattern is what the repositories' slugs must match; nil where any will do.
func (q *Query) Pattern() (*glob.Glob, error) {
	if q.Name == "" {
		return nil, nil
	}
	parsed, err := glob.Parse(q.Name)
	if err != nil {
		return nil, fault.Newf(fault.Invalid, "query.name: %.80q: %s", q.Name, err)
	}
	return parsed, nil
}
