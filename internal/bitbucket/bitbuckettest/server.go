// Package bitbuckettest is a stand-in for Bitbucket Cloud: git over HTTPS behind the check of token, scope and permission,
// with Bitbucket's own answers, and the REST routes that are used. It needs no testing.T: the sandbox runs it too.
//
// The answers are those of Atlassian's documentation and of public threads (August 2026); none was compared with the real
// Bitbucket.
package bitbuckettest

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"
)

// Scopes that the routes ask for.
const (
	ScopeReadRepository   = "read:repository:bitbucket"
	ScopeWriteRepository  = "write:repository:bitbucket"
	ScopeReadPullRequest  = "read:pullrequest:bitbucket"
	ScopeWritePullRequest = "write:pullrequest:bitbucket"
)

// AllScopes is every scope there is.
func AllScopes() []string {
	return []string{ScopeReadRepository, ScopeWriteRepository, ScopeReadPullRequest, ScopeWritePullRequest}
}

// Permission is what a token's holder may do in a repository.
type Permission int

// The permissions. Write includes Read.
const (
	None Permission = iota
	Read
	Write
)

// Grant is what a token is good for.
type Grant struct {
	Scopes    []string
	ExpiresAt time.Time // the zero time is never
	// Permissions by full name, such as "acme/web". A repository that is not in it has Default.
	Permissions map[string]Permission
	Default     Permission
}

func (g Grant) has(scope string) bool { return slices.Contains(g.Scopes, scope) }

func (g Grant) permission(fullName string) Permission {
	if permission, found := g.Permissions[fullName]; found {
		return permission
	}
	return g.Default
}

// Config is what a Server needs.
type Config struct {
	// Root holds the bare repositories: Root/<workspace>/<slug>.git.
	Root string
	// Git serves those at /<workspace>/<slug>.git/… to whoever it is called by: gittest's handler over the same Root. Without
	// it only REST works.
	Git http.Handler
	// TokenCheck knows tokens that AddToken was not told, such as those that a stand-in Forge has signed. It may be nil.
	TokenCheck func(token string) (Grant, bool)
	// Observe is called after each request, from several goroutines at once. It may be nil.
	Observe func(Request)
	Now     func() time.Time // time.Now by default
}

// Request is one that was answered.
type Request struct {
	Kind   Kind
	Method string
	Path   string
	Status int
}

// Kind tells git from REST.
type Kind string

// The kinds of requests.
const (
	Git  Kind = "git"
	REST Kind = "rest"
)

// Server is the stand-in. It may be used concurrently, also while it serves.
type Server struct {
	config Config
	rest   http.Handler

	mutex        sync.Mutex
	tokens       map[string]Grant
	repositories []*repository
	limits       map[Kind]*limit
	counts       map[Kind]int
}

// limit is a scripted rate limit.
type limit struct {
	total, left int
	retryAfter  string
}

// New makes a server without repositories and tokens.
func New(config Config) *Server {
	if config.Now == nil {
		config.Now = time.Now
	}
	server := &Server{config: config, tokens: map[string]Grant{}, limits: map[Kind]*limit{}, counts: map[Kind]int{}}
	server.rest = server.restRoutes()
	return server
}

// AddToken makes a token known, or changes what it is good for.
func (s *Server) AddToken(token string, grant Grant) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.tokens[token] = grant
}

// Revoke makes a token that AddToken was told worthless.
func (s *Server) Revoke(token string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	delete(s.tokens, token)
}

// Limit lets so many further requests of a kind through and answers 429 to all after them. retryAfter is the header of that
// name; empty for none, as Bitbucket documents none. A negative count ends the limit.
func (s *Server) Limit(kind Kind, requests int, retryAfter string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if requests < 0 {
		delete(s.limits, kind)
		return
	}
	s.limits[kind] = &limit{total: requests, left: requests, retryAfter: retryAfter}
}

// Count is how many requests of a kind came, whatever they were answered.
func (s *Server) Count(kind Kind) int {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.counts[kind]
}

// grant is what the token is good for now; false for one that is unknown or has expired.
func (s *Server) grant(token string) (Grant, bool) {
	if token == "" {
		return Grant{}, false
	}
	s.mutex.Lock()
	grant, found := s.tokens[token]
	s.mutex.Unlock()
	if !found && s.config.TokenCheck != nil {
		grant, found = s.config.TokenCheck(token)
	}
	if !grant.ExpiresAt.IsZero() && !s.config.Now().Before(grant.ExpiresAt) {
		found = false
	}
	return grant, found
}

// take counts a request; over says that the limit is passed.
func (s *Server) take(kind Kind) (current limit, limited, over bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.counts[kind]++
	scripted := s.limits[kind]
	switch {
	case scripted == nil:
		return limit{}, false, false
	case scripted.left == 0:
		return *scripted, true, true
	}
	scripted.left--
	return *scripted, true, false
}

// ServeHTTP serves REST below /2.0/ and git everywhere else.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, serve := Git, s.serveGit
	if len(r.URL.Path) >= 5 && r.URL.Path[:5] == "/2.0/" {
		kind, serve = REST, s.serveREST
	}
	recorder := &statusRecorder{ResponseWriter: w, status: http.StatusOK}
	serve(recorder, r)
	if s.config.Observe != nil {
		s.config.Observe(Request{Kind: kind, Method: r.Method, Path: r.URL.Path, Status: recorder.status})
	}
}

// statusRecorder remembers the status. It can be flushed through http.ResponseController.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Flush passes on what net/http/cgi asks of its writer directly.
func (r *statusRecorder) Flush() { _ = http.NewResponseController(r.ResponseWriter).Flush() }

var partShape = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]*$`)

// Repository is one to add. Its folder Root/<workspace>/<slug>.git must be there.
type Repository struct {
	Workspace, Slug string
	// The UUIDs in braces; made of the names where empty.
	WorkspaceUUID, UUID string
	// Size in bytes as REST reports it; what the folder holds where zero.
	Size int64
	// What else REST reports. The name is the slug where empty, the project PROJ, the update when it was added.
	Name, Project, Language string
	UpdatedOn               time.Time
}

type repository struct {
	Repository
	pullRequests []*pullRequest
}

func (r *repository) fullName() string { return r.Workspace + "/" + r.Slug }

// AddRepository makes a repository known to REST and git.
func (s *Server) AddRepository(added Repository) (Repository, error) {
	if !partShape.MatchString(added.Workspace) || !partShape.MatchString(added.Slug) {
		return Repository{}, errors.New("bitbuckettest: workspace or repository is no slug")
	}
	if added.WorkspaceUUID == "" {
		added.WorkspaceUUID = uuidOf(added.Workspace)
	}
	if added.UUID == "" {
		added.UUID = uuidOf(added.Workspace + "/" + added.Slug)
	}
	if added.Name == "" {
		added.Name = added.Slug
	}
	if added.Project == "" {
		added.Project = "PROJ"
	}
	if added.UpdatedOn.IsZero() {
		added.UpdatedOn = s.config.Now()
	}
	if err := installHook(s.folder(added.Workspace, added.Slug)); err != nil {
		return Repository{}, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.find(added.Workspace, added.Slug) != nil {
		return Repository{}, errors.New("bitbuckettest: " + added.Workspace + "/" + added.Slug + " is there already")
	}
	s.repositories = append(s.repositories, &repository{Repository: added})
	return added, nil
}

// Rename gives a repository another slug, as its owner can. Its UUID stays.
func (s *Server) Rename(workspace, slug, newSlug string) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	found := s.find(workspace, slug)
	if found == nil || !partShape.MatchString(newSlug) || s.find(workspace, newSlug) != nil {
		return errors.New("bitbuckettest: no such repository, or no such name can be given")
	}
	if err := os.Rename(s.folder(workspace, slug), s.folder(workspace, newSlug)); err != nil {
		return err
	}
	found.Slug = newSlug
	return nil
}

// find looks a repository up by slugs or by UUIDs. The caller holds the mutex.
func (s *Server) find(workspace, slug string) *repository {
	for _, candidate := range s.repositories {
		if (candidate.Workspace == workspace || candidate.WorkspaceUUID == workspace) &&
			(candidate.Slug == slug || candidate.UUID == slug) {
			return candidate
		}
	}
	return nil
}

// lookup gives a copy of what find finds.
func (s *Server) lookup(workspace, slug string) (Repository, bool) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if found := s.find(workspace, slug); found != nil {
		return found.Repository, true
	}
	return Repository{}, false
}

func (s *Server) folder(workspace, slug string) string {
	return filepath.Join(s.config.Root, workspace, slug+".git")
}
