package bitbuckettest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// object is a JSON object of the REST API.
type object = map[string]any

func (s *Server) restRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2.0/repositories/{workspace}", s.listRepositories)
	mux.HandleFunc("GET /2.0/repositories/{workspace}/{repository}", s.repositoryRoute(ScopeReadRepository, Read, s.getRepository))
	mux.HandleFunc("GET /2.0/repositories/{workspace}/{repository}/pullrequests",
		s.repositoryRoute(ScopeReadPullRequest, Read, s.listPullRequests))
	mux.HandleFunc("POST /2.0/repositories/{workspace}/{repository}/pullrequests",
		s.repositoryRoute(ScopeWritePullRequest, Write, s.createPullRequest))
	mux.HandleFunc("GET /2.0/repositories/{workspace}/{repository}/pullrequests/{id}",
		s.repositoryRoute(ScopeReadPullRequest, Read, s.getPullRequest))
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, http.StatusNotFound, "Resource not found")
	})
	return mux
}

// nearLimit is how much is left of a scripted limit when X-RateLimit-NearLimit turns true: a fifth.
func nearLimit(limit limit) bool { return limit.left*5 <= limit.total }

func (s *Server) serveREST(w http.ResponseWriter, r *http.Request) {
	limit, limited, over := s.take(REST)
	if limited {
		w.Header().Set("X-RateLimit-Limit", strconv.Itoa(limit.total))
		w.Header().Set("X-RateLimit-Resource", "api-repositories")
		w.Header().Set("X-RateLimit-NearLimit", strconv.FormatBool(nearLimit(limit)))
	}
	if over {
		setRetryAfter(w, limit)
		writeError(w, http.StatusTooManyRequests, textRateLimit)
		return
	}
	s.rest.ServeHTTP(w, r)
}

// bearer answers 401 and is false where the request has no good token.
func (s *Server) bearer(w http.ResponseWriter, r *http.Request) (Grant, bool) {
	token, isBearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	grant, known := s.grant(token)
	if !isBearer || !known {
		writeError(w, http.StatusUnauthorized, "Token is invalid, expired, or not supported for this endpoint.")
		return Grant{}, false
	}
	return grant, true
}

// repositoryRoute checks token, repository, scope and permission before the route's own work.
func (s *Server) repositoryRoute(scope string, permission Permission, serve func(http.ResponseWriter, *http.Request, Repository)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		grant, good := s.bearer(w, r)
		if !good {
			return
		}
		workspace, slug := r.PathValue("workspace"), r.PathValue("repository")
		repository, exists := s.lookup(workspace, slug)
		fullName := repository.Workspace + "/" + repository.Slug
		switch {
		case !grant.has(scope):
			writeError(w, http.StatusForbidden, textNoScope)
		case !exists:
			writeError(w, http.StatusNotFound, fmt.Sprintf("Repository %s/%s not found", workspace, slug))
		case grant.permission(fullName) < permission:
			writeError(w, http.StatusForbidden, textNoAccess)
		default:
			serve(w, r, repository)
		}
	}
}

func (s *Server) getRepository(w http.ResponseWriter, r *http.Request, repository Repository) {
	writeObject(w, r, http.StatusOK, s.repositoryObject(r, repository))
}

func (s *Server) listRepositories(w http.ResponseWriter, r *http.Request) {
	grant, good := s.bearer(w, r)
	if !good {
		return
	}
	if !grant.has(ScopeReadRepository) {
		writeError(w, http.StatusForbidden, textNoScope)
		return
	}
	workspace := r.PathValue("workspace")
	s.mutex.Lock()
	var visible []Repository
	known := false
	for _, candidate := range s.repositories {
		if candidate.Workspace == workspace || candidate.WorkspaceUUID == workspace {
			known = true
			if grant.permission(candidate.fullName()) >= Read {
				visible = append(visible, candidate.Repository)
			}
		}
	}
	s.mutex.Unlock()
	if !known {
		writeError(w, http.StatusNotFound, "No workspace with identifier '"+workspace+"'.")
		return
	}
	objects := make([]object, len(visible))
	for i, repository := range visible {
		objects[i] = s.repositoryObject(r, repository)
	}
	writePage(w, r, objects)
}

func (s *Server) repositoryObject(r *http.Request, repository Repository) object {
	fullName := repository.Workspace + "/" + repository.Slug
	var mainBranch any
	if name, found := s.mainBranch(repository); found {
		mainBranch = object{"type": "branch", "name": name}
	}
	return object{
		"type": "repository", "uuid": repository.UUID, "full_name": fullName, "name": repository.Name, "slug": repository.Slug,
		"language": repository.Language, "updated_on": repository.UpdatedOn.UTC().Format("2006-01-02T15:04:05.000000+00:00"),
		"workspace":  object{"type": "workspace", "uuid": repository.WorkspaceUUID, "slug": repository.Workspace},
		"project":    object{"type": "project", "key": repository.Project},
		"is_private": true, "scm": "git", "size": s.size(repository), "mainbranch": mainBranch,
		"links": object{
			"self": object{"href": origin(r) + "/2.0/repositories/" + fullName},
			"html": object{"href": origin(r) + "/" + fullName},
		},
	}
}

// pullRequest is one in memory.
type pullRequest struct {
	id                     int
	title, description     string
	source, destination    string
	closeSourceBranch      bool
	reviewers              []string
	state                  string
	sourceHash, targetHash string
	created                time.Time
}

func (s *Server) createPullRequest(w http.ResponseWriter, r *http.Request, repository Repository) {
	type endpoint struct {
		Branch struct {
			Name string `json:"name"`
		} `json:"branch"`
	}
	var body struct {
		Title             string    `json:"title"`
		Description       string    `json:"description"`
		CloseSourceBranch bool      `json:"close_source_branch"`
		Source            endpoint  `json:"source"`
		Destination       *endpoint `json:"destination"`
		Reviewers         []struct {
			UUID      string `json:"uuid"`
			AccountID string `json:"account_id"`
		} `json:"reviewers"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&body); err != nil {
		writeError(w, http.StatusBadRequest, "Bad request")
		return
	}
	created := &pullRequest{
		title: body.Title, description: body.Description, closeSourceBranch: body.CloseSourceBranch, state: "OPEN",
		source: body.Source.Branch.Name, created: s.config.Now().UTC(),
	}
	if body.Destination != nil {
		created.destination = body.Destination.Branch.Name
	} else {
		created.destination, _ = s.mainBranch(repository)
	}
	for _, each := range body.Reviewers {
		created.reviewers = append(created.reviewers, each.UUID+each.AccountID)
	}
	created.sourceHash, created.targetHash = s.branchTip(repository, created.source), s.branchTip(repository, created.destination)
	switch {
	case created.title == "":
		writeError(w, http.StatusBadRequest, "title: This field is required.")
		return
	case created.sourceHash == "":
		writeError(w, http.StatusBadRequest, "source: branch \""+created.source+"\" not found")
		return
	case created.targetHash == "":
		writeError(w, http.StatusBadRequest, "destination: branch \""+created.destination+"\" not found")
		return
	case slices.Contains(created.reviewers, ""):
		writeError(w, http.StatusBadRequest, "reviewers: Malformed reviewers list")
		return
	case created.sourceHash == created.targetHash:
		writeError(w, http.StatusBadRequest, "There are no changes to be pulled")
		return
	}
	s.mutex.Lock()
	holder := s.find(repository.Workspace, repository.UUID)
	holder.pullRequests = append(holder.pullRequests, created)
	created.id = len(holder.pullRequests)
	answer := s.pullRequestObject(r, repository, *created)
	s.mutex.Unlock()
	writeObject(w, r, http.StatusCreated, answer)
}

func (s *Server) listPullRequests(w http.ResponseWriter, r *http.Request, repository Repository) {
	asksState := strings.Contains(r.URL.Query().Get("q"), "state") || r.URL.Query().Has("state")
	s.mutex.Lock()
	var objects []object
	for _, candidate := range s.find(repository.Workspace, repository.UUID).pullRequests {
		if (asksState || candidate.state == "OPEN") &&
			(!r.URL.Query().Has("state") || r.URL.Query().Get("state") == candidate.state) {
			objects = append(objects, s.pullRequestObject(r, repository, *candidate))
		}
	}
	s.mutex.Unlock()
	writePage(w, r, objects)
}

func (s *Server) getPullRequest(w http.ResponseWriter, r *http.Request, repository Repository) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	for _, candidate := range s.find(repository.Workspace, repository.UUID).pullRequests {
		if strconv.Itoa(candidate.id) == r.PathValue("id") {
			writeObject(w, r, http.StatusOK, s.pullRequestObject(r, repository, *candidate))
			return
		}
	}
	writeError(w, http.StatusNotFound, "Pull request not found")
}

// PullRequest is one as a test or the sandbox looks at it.
type PullRequest struct {
	ID                  int
	Title, Description  string
	Source, Destination string
	CloseSourceBranch   bool
	Reviewers           []string // UUIDs in braces, or account ids
	State               string   // OPEN, MERGED, DECLINED or SUPERSEDED
}

// PullRequests is every pull request of the repository, oldest first.
func (s *Server) PullRequests(workspace, slug string) []PullRequest {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	found := s.find(workspace, slug)
	if found == nil {
		return nil
	}
	all := make([]PullRequest, len(found.pullRequests))
	for i, p := range found.pullRequests {
		all[i] = PullRequest{
			ID: p.id, Title: p.title, Description: p.description, Source: p.source, Destination: p.destination,
			CloseSourceBranch: p.closeSourceBranch, Reviewers: slices.Clone(p.reviewers), State: p.state,
		}
	}
	return all
}

// SetPullRequestState merges, declines or opens one, in name only; false where there is none.
func (s *Server) SetPullRequestState(workspace, slug string, id int, state string) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	found := s.find(workspace, slug)
	if found == nil || id < 1 || id > len(found.pullRequests) {
		return false
	}
	found.pullRequests[id-1].state = state
	return true
}

func (s *Server) pullRequestObject(r *http.Request, repository Repository, p pullRequest) object {
	fullName := repository.Workspace + "/" + repository.Slug
	endpoint := func(branch, hash string) object {
		return object{
			"branch": object{"name": branch}, "commit": object{"hash": hash[:min(len(hash), 12)]},
			"repository": object{"type": "repository", "full_name": fullName, "name": repository.Slug, "uuid": repository.UUID},
		}
	}
	return object{
		"type": "pullrequest", "id": p.id, "title": p.title, "description": p.description, "state": p.state,
		"close_source_branch": p.closeSourceBranch, "created_on": p.created.Format(time.RFC3339Nano),
		"source": endpoint(p.source, p.sourceHash), "destination": endpoint(p.destination, p.targetHash),
		"links": object{
			"self": object{"href": fmt.Sprintf("%s/2.0/repositories/%s/pullrequests/%d", origin(r), fullName, p.id)},
			"html": object{"href": fmt.Sprintf("%s/%s/pull-requests/%d", origin(r), fullName, p.id)},
		},
	}
}

// origin is the stand-in's own address, as the caller has it.
func origin(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return (&url.URL{Scheme: scheme, Host: r.Host}).String()
}
