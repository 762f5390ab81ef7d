// Package bitbucket knows Bitbucket Cloud's workspaces, repositories and their URLs, and the few REST calls that git work
// needs beside git itself.
package bitbucket

import (
	"net/url"
	"regexp"
	"strings"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Repository names a repository, either by workspace and slug or by the two UUIDs (in braces, as Bitbucket writes them).
// Exactly one of the two pairs is filled in what [Repository.Validate] accepts.
type Repository struct {
	Workspace      string `json:"workspace,omitempty"`
	Slug           string `json:"slug,omitempty"`
	WorkspaceUUID  string `json:"workspace_uuid,omitempty"`
	RepositoryUUID string `json:"repository_uuid,omitempty"`
}

// Both parts of a full name, as Bitbucket forms them: nothing that means anything to a URL or a file system. The bound is
// ours.
var (
	slugShape    = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,128}$`)
	accountShape = regexp.MustCompile(`^[A-Za-z0-9:-]{1,128}$`)
	uuidShape    = regexp.MustCompile(`^\{[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\}$`)
)

// Validate reports an Invalid fault that names the wrong part.
func (r Repository) Validate() error {
	bySlug := r.Workspace != "" || r.Slug != ""
	byUUID := r.WorkspaceUUID != "" || r.RepositoryUUID != ""
	switch {
	case bySlug && byUUID:
		return fault.Newf(fault.Invalid, "repository: give workspace and slug, or workspace_uuid and repository_uuid, not both")
	case byUUID:
		if !uuidShape.MatchString(r.WorkspaceUUID) {
			return fault.Newf(fault.Invalid, "repository.workspace_uuid: %.80q is no UUID in braces, such as {00000000-0000-0000-0000-000000000000}", r.WorkspaceUUID)
		}
		if !uuidShape.MatchString(r.RepositoryUUID) {
			return fault.Newf(fault.Invalid, "repository.repository_uuid: %.80q is no UUID in braces, such as {00000000-0000-0000-0000-000000000000}", r.RepositoryUUID)
		}
		return nil
	}
	if !isSlug(r.Workspace) {
		return fault.Newf(fault.Invalid, "repository.workspace: %.80q is no workspace slug: letters, digits, '_', '.' and '-', as in bitbucket.org/WORKSPACE/repository", r.Workspace)
	}
	if !isSlug(r.Slug) {
		return fault.Newf(fault.Invalid, "repository.slug: %.80q is no repository slug: letters, digits, '_', '.' and '-', as in bitbucket.org/workspace/REPOSITORY", r.Slug)
	}
	return nil
}

// IsUUID reports whether text is a UUID as Bitbucket writes them, in braces.
func IsUUID(text string) bool { return uuidShape.MatchString(text) }

// IsAccountID reports whether text may be the id of an Atlassian account, such as 712020:00000000-0000-0000-0000-000000000000.
func IsAccountID(text string) bool { return accountShape.MatchString(text) }

func isSlug(part string) bool {
	return slugShape.MatchString(part) && strings.Trim(part, ".") != ""
}

// Resolved reports whether the repository is named by slugs, so that [Repository.GitURL] can be called.
func (r Repository) Resolved() bool { return r.Slug != "" }

// String is workspace/slug or, before it is resolved, the two UUIDs.
func (r Repository) String() string {
	if r.Resolved() {
		return r.Workspace + "/" + r.Slug
	}
	return r.WorkspaceUUID + "/" + r.RepositoryUUID
}

// GitURL is where git finds the repository below base, such as https://bitbucket.org. It holds no credentials, ever.
func (r Repository) GitURL(base *url.URL) string {
	return base.JoinPath(r.Workspace, r.Slug+".git").String()
}
