package job

import (
	"maps"
	"regexp"
	"slices"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

// Bounds of a recipe's parameters, which become environment variables of its command, and of a pull request's reviewers.
const (
	maxParameters     = 32
	maxParameterBytes = 1024
	maxReviewers      = 50
)

var (
	recipeShape    = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	parameterShape = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
)

// validateOptions checks what says how a push is made, beside the change itself.
func (p *Push) validateOptions() error {
	if p.HasFile != "" {
		if err := edit.CheckPath(p.HasFile); err != nil {
			return fault.Wrapf(fault.Invalid, err, "push.has_file: %s", fault.Public(err))
		}
	}
	switch p.OnConflict {
	case "", OnConflictUpdate:
	case OnConflictSkip, OnConflictFail:
		if !p.Create {
			return fault.Newf(fault.Invalid, `push.on_conflict: only a branch that is to be new can be there before; add "create": true, or leave on_conflict out`)
		}
	default:
		return fault.Newf(fault.Invalid, `push.on_conflict: %.80q is none of "update", "skip", "fail"`, p.OnConflict)
	}
	if p.Expect != nil {
		return fault.Newf(fault.Invalid, "push.expect: it cannot be given; to push what a dry run found, apply a batch that was one")
	}
	return p.Recipe.validate()
}

func (r *Recipe) validate() error {
	switch {
	case r == nil:
		return nil
	case !recipeShape.MatchString(r.Name):
		return fault.Newf(fault.Invalid, "push.recipe.name: %.80q is no recipe's name: lower case letters, digits and dashes, at most 64", r.Name)
	case len(r.Parameters) > maxParameters:
		return fault.Newf(fault.Invalid, "push.recipe.parameters: %d parameters, at most %d", len(r.Parameters), maxParameters)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Parameters)) {
		if !parameterShape.MatchString(name) {
			return fault.Newf(fault.Invalid, "push.recipe.parameters: %.80q is no parameter's name: lower case letters, digits and _, a letter first, at most 32", name)
		}
		if err := checkText("push.recipe.parameters."+name, r.Parameters[name], maxParameterBytes); err != nil {
			return err
		}
	}
	return nil
}

func checkReviewers(reviewers []string) error {
	if len(reviewers) > maxReviewers {
		return fault.Newf(fault.Invalid, "push.pull_request.reviewers: %d reviewers, at most %d", len(reviewers), maxReviewers)
	}
	for i, reviewer := range reviewers {
		if !bitbucket.IsUUID(reviewer) && !bitbucket.IsAccountID(reviewer) {
			return fault.Newf(fault.Invalid, "push.pull_request.reviewers[%d]: %.80q is neither an account id, such as 712020:00000000-0000-0000-0000-000000000000, nor a UUID in braces", i, reviewer)
		}
	}
	return nil
}
