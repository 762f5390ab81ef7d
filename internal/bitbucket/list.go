package bitbucket

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Details is what Bitbucket says about a repository to those who choose among several.
type Details struct {
	Repository    Repository // by workspace and slug
	UUID          string     // in braces, as the workspace's
	WorkspaceUUID string
	Name          string
	Project       string // key
	Language      string // in lower case; empty where none is set
	MainBranch    string // empty in a repository without commits
	UpdatedOn     time.Time
	Size          int64 // bytes
	// NearLimit says, after [Client.Describe], that Bitbucket's rate limit is near.
	NearLimit bool `json:"-"`
}

// ListSpec says which repositories of a workspace are wanted. An empty field wants all.
type ListSpec struct {
	Workspace    string // slug, or UUID in braces; required
	Project      string // key
	Language     string
	MainBranch   string
	UpdatedSince time.Time
	Page         string // ListPage.Next of the page before; empty for the first. The other fields stay the same
}

// ListPage is a page of a list. It may be empty although others follow.
type ListPage struct {
	Repositories []Details
	Next         string // ListSpec.Page of the next page; empty on the last
	NearLimit    bool   // Bitbucket's rate limit is near: further calls that can wait should
}

const (
	detailFields = "full_name,uuid,name,size,language,updated_on,workspace.uuid,project.key,mainbranch.name"
	pageLength   = "100" // the most that Bitbucket gives
	maxCursor    = 4096  // bytes
)

// Describe says of one repository what [Client.List] says of each. It needs the scope read:repository:bitbucket.
func (c *Client) Describe(ctx context.Context, token secret.Text, repository Repository) (Details, error) {
	call := call{
		operation: "look up repository " + repository.String(), scope: scopeReadRepository, subject: repository.String(),
		method: http.MethodGet, url: c.repositoryURL(repository), query: url.Values{"fields": {detailFields}},
	}
	near := false
	call.nearLimit = &near
	var answer details
	if err := c.do(ctx, token, call, &answer); err != nil {
		return Details{}, err
	}
	found, err := answer.public()
	if err != nil {
		return Details{}, fault.Wrapf(fault.Unavailable, err, "%s: bitbucket's answer has no usable full_name; try again", call.operation)
	}
	found.NearLimit = near
	return found, nil
}

// List reads a page of the repositories of a workspace that the token's holder may see. What Bitbucket does not filter by is
// filtered here. A workspace that is not there is a NotFound fault, a Page that is not this list's an Invalid one. It needs the
// scope read:repository:bitbucket.
func (c *Client) List(ctx context.Context, token secret.Text, spec ListSpec) (ListPage, error) {
	call, err := c.listCall(spec)
	if err != nil {
		return ListPage{}, err
	}
	var answer struct {
		Values []details `json:"values"`
		Next   string    `json:"next"`
	}
	page := ListPage{}
	call.nearLimit = &page.NearLimit
	err = c.do(ctx, token, call, &answer)
	if fault.KindOf(err) == fault.Invalid && call.query.Has("q") {
		// It refuses to filter by some field. Then all are read, from the first page on, whose next pages know no filter either.
		c.logger.WarnContext(ctx, "bitbucket does not take the filter, all repositories are listed", slog.Any("error", err))
		call.query.Del("q")
		call.query.Del("page")
		err = c.do(ctx, token, call, &answer)
	}
	if err != nil {
		return ListPage{}, err
	}
	for _, each := range answer.Values {
		switch found, err := each.public(); {
		case err != nil:
			c.logger.WarnContext(ctx, "a repository is left out of a list: bitbucket says no usable full_name", slog.Any("error", err))
		case spec.wants(found):
			page.Repositories = append(page.Repositories, found)
		}
	}
	page.Next, err = c.cursor(call, answer.Next)
	return page, err
}

func (c *Client) listCall(spec ListSpec) (call, error) {
	if !isSlug(spec.Workspace) && !IsUUID(spec.Workspace) {
		return call{}, fault.Newf(fault.Invalid, "workspace: %.80q is neither a workspace's slug nor its UUID in braces", spec.Workspace)
	}
	list := call{
		operation: "list the repositories of workspace " + spec.Workspace, scope: scopeReadRepository, subject: spec.Workspace, thing: "workspace",
		method: http.MethodGet, url: c.base.JoinPath("2.0", "repositories", url.PathEscape(spec.Workspace)), query: spec.query(),
	}
	if spec.Page == "" {
		return list, nil
	}
	query, err := url.ParseQuery(spec.Page)
	if err != nil || len(spec.Page) > maxCursor || !query.Has("page") {
		return call{}, fault.Newf(fault.Invalid, "%s: the cursor is not one that the list gave; begin without one", list.operation)
	}
	list.query = query
	return list, nil
}

// query asks for what Bitbucket's documentation says can be filtered by; a main branch is not among it. The order is one in which
// a repository that is made meanwhile comes last.
func (s ListSpec) query() url.Values {
	var clauses []string
	if s.Project != "" {
		clauses = append(clauses, "project.key="+queryString(s.Project))
	}
	if s.Language != "" {
		clauses = append(clauses, "language="+queryString(strings.ToLower(s.Language)))
	}
	if !s.UpdatedSince.IsZero() {
		clauses = append(clauses, "updated_on >= "+s.UpdatedSince.UTC().Format("2006-01-02T15:04:05+00:00"))
	}
	query := url.Values{"pagelen": {pageLength}, "sort": {"created_on"}, "fields": {"next,values." + strings.ReplaceAll(detailFields, ",", ",values.")}}
	if len(clauses) > 0 {
		query.Set("q", strings.Join(clauses, " AND "))
	}
	return query
}

// wants applies the whole of the spec once more.
func (s ListSpec) wants(found Details) bool {
	return (s.Project == "" || strings.EqualFold(s.Project, found.Project)) &&
		(s.Language == "" || strings.EqualFold(s.Language, found.Language)) &&
		(s.MainBranch == "" || s.MainBranch == found.MainBranch) &&
		!found.UpdatedOn.Before(s.UpdatedSince.Truncate(time.Second))
}

// cursor is the query of the next page's address: a list must go on, and at no other host. The path is not taken from there, as
// Bitbucket may spell the workspace otherwise.
func (c *Client) cursor(list call, address string) (string, error) {
	if address == "" {
		return "", nil
	}
	next, err := url.Parse(address)
	if err != nil || next.Scheme != c.base.Scheme || next.Host != c.base.Host {
		return "", fault.Newf(fault.Unavailable, "%s: the list goes on at another host, which is not followed; check GITSMITH_API_URL", list.operation)
	}
	query, err := url.ParseQuery(next.RawQuery)
	if err != nil || len(next.RawQuery) > maxCursor || !query.Has("page") || query.Get("page") == list.query.Get("page") {
		return "", fault.Newf(fault.Unavailable, "%s: bitbucket does not say how the list goes on; try again", list.operation)
	}
	return next.RawQuery, nil
}

// details is a repository as the REST API writes it, as far as it is used.
type details struct {
	FullName  string `json:"full_name"`
	UUID      string `json:"uuid"`
	Name      string `json:"name"`
	Size      int64  `json:"size"`
	Language  string `json:"language"`
	UpdatedOn string `json:"updated_on"`
	Workspace struct {
		UUID string `json:"uuid"`
	} `json:"workspace"`
	Project struct {
		Key string `json:"key"`
	} `json:"project"`
	MainBranch *struct {
		Name string `json:"name"`
	} `json:"mainbranch"`
}

func (d details) public() (Details, error) {
	workspace, slug, _ := strings.Cut(d.FullName, "/")
	found := Details{
		Repository: Repository{Workspace: workspace, Slug: slug}, Name: d.Name, Project: d.Project.Key, Language: d.Language, Size: d.Size,
	}
	if err := found.Repository.Validate(); err != nil {
		return Details{}, err
	}
	if IsUUID(d.UUID) {
		found.UUID = d.UUID
	}
	if IsUUID(d.Workspace.UUID) {
		found.WorkspaceUUID = d.Workspace.UUID
	}
	if d.MainBranch != nil {
		found.MainBranch = d.MainBranch.Name
	}
	found.UpdatedOn, _ = time.Parse(time.RFC3339Nano, d.UpdatedOn) // without it the repository counts as never updated
	return found, nil
}
