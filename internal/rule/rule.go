// Package rule says which event makes which job. An operator writes rules in a YAML file; this package reads it whole, reports
// everything that is wrong by line, and turns an event into the requests that it asks for. It reads no file and calls nobody.
//
// A rule names event types by glob, gives a condition, and holds a job in the words of POST /v1/jobs. The condition, and whatever
// stands between {{ and }} in a string of the job, are expressions of expr-lang over two variables: event, the event as Forge
// delivered it, and invocation, what the FIT says of the call.
package rule

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/expression"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/glob"
	"github.com/gitsmith/gitsmith/internal/job"
)

// Set is the rules of one file. It is never changed and may be used concurrently. The zero value wants no event.
type Set struct {
	rules  []*rule
	limits job.Limits
}

// rule is one rule, ready to be asked.
type rule struct {
	name      string
	on        []*glob.Glob
	when      *expression.Condition
	class     job.Class
	user      *expression.Text // nil: the system
	coalesce  *expression.Text // nil: the default; never where none is set
	none      bool
	ownPlace  bool // the job's repository is the rule's, not the event's
	blueprint job.Request
	templates *expression.Templates // of the blueprint
}

// Decision is one job that an event asks for.
type Decision struct {
	Rule     string
	Request  job.Request
	Class    job.Class
	User     string // account id of the user to act as; empty for the system
	Coalesce string // names what the job does, among those of its installation; empty where nothing replaces it
}

// Failure is a rule that made no job because it could not be worked out for an event.
type Failure struct {
	Rule string
	Err  error
}

// Invocation is what expressions know of the call.
type Invocation struct {
	Installation string `expr:"installation"`
	Workspace    string `expr:"workspace"` // UUID without braces
	AppVersion   string `expr:"app_version"`
	Environment  string `expr:"environment"`
	Module       string `expr:"module"` // key
}

// Len is how many rules there are.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.rules)
}

// Decide is what the rules make of an event, in the order of the file. A rule whose expressions cannot be worked out for this
// event, or give a job that is none, is among the failures with an Invalid fault and makes no job; it does not keep others from theirs.
func (s *Set) Decide(event forge.Event, invocation Invocation) (decisions []Decision, failures []Failure) {
	if s == nil {
		return nil, nil
	}
	var variables map[string]any
	for _, r := range s.rules {
		if !r.takes(event.Type) {
			continue
		}
		if variables == nil {
			variables = environment(event, invocation)
		}
		decision, wanted, err := r.decide(event, variables, s.limits)
		switch {
		case err != nil:
			failures = append(failures, Failure{r.name, err})
		case wanted:
			decisions = append(decisions, decision)
		}
	}
	return decisions, failures
}

func (r *rule) takes(kind string) bool {
	return slices.ContainsFunc(r.on, func(each *glob.Glob) bool { return each.Match(kind) })
}

func (r *rule) decide(event forge.Event, variables map[string]any, limits job.Limits) (_ Decision, wanted bool, err error) {
	if r.when != nil {
		if yes, err := r.when.Holds("when", variables); err != nil || !yes {
			return Decision{}, false, err
		}
	}
	request := r.blueprint
	if err := r.templates.Render(&request, variables); err != nil {
		return Decision{}, false, err
	}
	if !r.ownPlace {
		request.Repository = bitbucket.Repository{WorkspaceUUID: event.Workspace, RepositoryUUID: event.Repository}
	}
	if err := request.Validate(limits); err != nil {
		return Decision{}, false, err
	}
	decision := Decision{Rule: r.name, Request: request, Class: r.class}
	if r.user != nil {
		if decision.User, err = r.user.Render("actor.user", variables); err != nil {
			return Decision{}, false, err
		}
		if decision.User == "" || len(decision.User) > maxUser {
			return Decision{}, false, fault.Newf(fault.Invalid, "actor.user: the expression gives %d bytes, and an account id has 1 to %d", len(decision.User), maxUser)
		}
	}
	decision.Coalesce, err = r.coalesceKey(event, request, variables)
	return decision, true, err
}

const maxUser = 128

// coalesceKey is what a newer event's job replaces this one by. By default a clone replaces an older one of the same rule,
// repository and ref; a push replaces nothing, since each has something to say.
func (r *rule) coalesceKey(event forge.Event, request job.Request, variables map[string]any) (string, error) {
	what := ""
	switch {
	case r.none:
		return "", nil
	case r.coalesce != nil:
		text, err := r.coalesce.Render("coalesce", variables)
		if err != nil || text == "" {
			return "", err
		}
		what = text
	case request.Clone != nil && event.Type == forge.EventPush:
		push, _ := variables["event"].(map[string]any)["push"].(map[string]any)
		what, _ = push["ref"].(string)
		if _, isBranch := push["mainbranch"]; what != "" && !isBranch { // a tag's event; its ref may be called as a branch is
			what = "tag " + what
		}
	}
	if what == "" || event.Timestamp.IsZero() { // nobody can tell which is newer
		return "", nil
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q%q%q", r.name, request.Repository.String(), what))
	return hex.EncodeToString(sum[:16]), nil
}

// language is what the expressions of rules speak of.
var language = expression.Language{
	Variables: map[string]any{"event": map[string]any{}, "invocation": Invocation{}},
	Subject:   "this event",
}

// environment is what expressions see.
func environment(event forge.Event, invocation Invocation) map[string]any {
	return map[string]any{"event": plain(event.Fields), "invocation": invocation}
}

// plain turns numbers as they were written into Go's.
func plain(value any) any {
	switch value := value.(type) {
	case map[string]any:
		fresh := make(map[string]any, len(value))
		for name, each := range value {
			fresh[name] = plain(each)
		}
		return fresh
	case []any:
		fresh := make([]any, len(value))
		for i, each := range value {
			fresh[i] = plain(each)
		}
		return fresh
	case json.Number:
		if whole, err := value.Int64(); err == nil {
			return int(whole)
		}
		number, _ := value.Float64() // out of range is infinite
		return number
	}
	return value
}
