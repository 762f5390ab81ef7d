package bitbucket

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// PullRequestSpec is the pull request that should be there.
type PullRequestSpec struct {
	Title             string
	Description       string
	Source            string // branch
	Destination       string // branch; empty for the repository's main branch
	CloseSourceBranch bool
	Reviewers         []string // account ids, or UUIDs in braces; of one that is created
}

// PullRequest is one that is there.
type PullRequest struct {
	ID  int
	URL string // of its page; empty where Bitbucket's answer has none
}

// maxPages bounds how far a list is followed.
const maxPages = 10

// EnsurePullRequest returns the open pull request between the two branches of the repository, or creates it: to call it again
// is harmless. One that is there keeps its title, description and reviewers. It needs the scopes read:pullrequest:bitbucket and
// write:pullrequest:bitbucket.
func (c *Client) EnsurePullRequest(ctx context.Context, token secret.Text, repository Repository, spec PullRequestSpec) (PullRequest, error) {
	found, err := c.openPullRequest(ctx, token, repository, spec)
	if err != nil || found != nil {
		return found.public(), err
	}
	body := pullRequest{Title: spec.Title, Description: spec.Description, CloseSourceBranch: spec.CloseSourceBranch}
	body.Source = &endpoint{Branch: branch{spec.Source}}
	for _, each := range spec.Reviewers {
		if IsUUID(each) {
			body.Reviewers = append(body.Reviewers, reviewer{UUID: each})
		} else {
			body.Reviewers = append(body.Reviewers, reviewer{AccountID: each})
		}
	}
	if spec.Destination != "" {
		body.Destination = &endpoint{Branch: branch{spec.Destination}}
	}
	created := &pullRequest{}
	err = c.do(ctx, token, call{
		operation: "create the pull request in " + repository.String(), scope: scopeWritePullRequest, subject: repository.String(),
		method: http.MethodPost, url: c.repositoryURL(repository).JoinPath("pullrequests"),
		query: url.Values{"fields": {"id,links.html.href"}}, body: body,
	}, created)
	if err != nil {
		return PullRequest{}, err
	}
	if created.ID == 0 {
		return PullRequest{}, fault.Newf(fault.Unavailable, "create the pull request in %s: bitbucket's answer has no id; try again", repository)
	}
	return created.public(), nil
}

// openPullRequest is nil where there is none.
func (c *Client) openPullRequest(ctx context.Context, token secret.Text, repository Repository, spec PullRequestSpec) (*pullRequest, error) {
	list := call{
		operation: "list the pull requests of " + repository.String(), scope: scopeReadPullRequest, subject: repository.String(),
		method: http.MethodGet, url: c.repositoryURL(repository).JoinPath("pullrequests"),
		query: url.Values{
			"q":       {"source.branch.name=" + queryString(spec.Source) + ` AND state="OPEN"`},
			"fields":  {"next,values.id,values.links.html.href,values.source.branch.name,values.source.repository.full_name,values.destination.branch.name"},
			"pagelen": {"50"},
		},
	}
	for range maxPages {
		var page struct {
			Values []pullRequest `json:"values"`
			Next   string        `json:"next"`
		}
		if err := c.do(ctx, token, list, &page); err != nil {
			return nil, err
		}
		for i := range page.Values {
			if page.Values[i].matches(repository, spec) {
				return &page.Values[i], nil
			}
		}
		if page.Next == "" {
			return nil, nil
		}
		next, err := url.Parse(page.Next)
		if err != nil || next.Scheme != c.base.Scheme || next.Host != c.base.Host {
			return nil, fault.Newf(fault.Unavailable, "%s: the list goes on at another host, which is not followed; check GITSMITH_API_URL", list.operation)
		}
		list.url, list.query = next, nil
	}
	return nil, fault.Newf(fault.Invalid, "%s: more than %d pages are open from branch %.100q; close some", list.operation, maxPages, spec.Source)
}

// queryString quotes text for Bitbucket's query language.
func queryString(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text) + `"`
}

// pullRequest is one as the REST API writes it, as far as it is used.
type pullRequest struct {
	ID                int        `json:"id,omitempty"`
	Title             string     `json:"title,omitempty"`
	Description       string     `json:"description,omitempty"`
	CloseSourceBranch bool       `json:"close_source_branch,omitempty"`
	Reviewers         []reviewer `json:"reviewers,omitempty"`
	Source            *endpoint  `json:"source,omitempty"`
	Destination       *endpoint  `json:"destination,omitempty"`
	Links             *struct {
		HTML struct {
			Href string `json:"href"`
		} `json:"html"`
	} `json:"links,omitempty"`
}

type reviewer struct {
	UUID      string `json:"uuid,omitempty"`
	AccountID string `json:"account_id,omitempty"`
}

type endpoint struct {
	Branch     branch `json:"branch"`
	Repository *struct {
		FullName string `json:"full_name"`
	} `json:"repository,omitempty"`
}

type branch struct {
	Name string `json:"name"`
}

// matches reports whether the pull request is the one asked for: of these branches, and not from a fork that has a branch
// of the same name.
func (p *pullRequest) matches(repository Repository, spec PullRequestSpec) bool {
	if p.Source == nil || p.Destination == nil || p.Source.Branch.Name != spec.Source {
		return false
	}
	if spec.Destination != "" && p.Destination.Branch.Name != spec.Destination {
		return false
	}
	from := p.Source.Repository
	return from == nil || !repository.Resolved() || strings.EqualFold(from.FullName, repository.String())
}

func (p *pullRequest) public() PullRequest {
	if p == nil {
		return PullRequest{}
	}
	public := PullRequest{ID: p.ID}
	if p.Links == nil {
		return public
	}
	// It is shown as a link: nothing but http.
	if page, err := url.Parse(p.Links.HTML.Href); err == nil && (page.Scheme == "https" || page.Scheme == "http") {
		public.URL = page.String()
	}
	return public
}
