package bitbuckettest_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
)

// stand is a stand-in with the repository acme/web, which has the branches main and change, and acme/empty.
type stand struct {
	*bitbuckettest.Server
	t    *testing.T
	url  string
	root string
	now  time.Time
}

func start(t *testing.T) *stand {
	t.Helper()
	s := &stand{t: t, root: t.TempDir(), now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}
	for _, name := range []string{"web", "empty"} {
		s.git("", "init", "--quiet", "--bare", "--initial-branch=main", filepath.Join(s.root, "acme", name+".git"))
	}
	s.Server = bitbuckettest.New(bitbuckettest.Config{Root: s.root, Git: backend(s), Now: func() time.Time { return s.now }})
	for _, name := range []string{"web", "empty"} {
		if _, err := s.AddRepository(bitbuckettest.Repository{Workspace: "acme", Slug: name}); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	s.AddToken("all", bitbuckettest.Grant{Scopes: bitbuckettest.AllScopes(), Default: bitbuckettest.Write, ExpiresAt: s.now.Add(time.Hour)})
	work := t.TempDir()
	s.git(work, "init", "--quiet", "--initial-branch=main")
	s.git(work, "commit", "--quiet", "--allow-empty", "-m", "first")
	s.git(work, "checkout", "--quiet", "-b", "change")
	s.git(work, "commit", "--quiet", "--allow-empty", "-m", "second")
	s.git(work, "push", "--quiet", filepath.Join(s.root, "acme", "web.git"), "main", "change")
	return s
}

// backend is git http-backend over the stand's folder, for bodies with a length.
func backend(s *stand) http.Handler {
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		s.t.Fatal(err)
	}
	return &cgi.Handler{
		Path: filepath.Join(strings.TrimSpace(string(path)), "git-http-backend"),
		Env: []string{
			"GIT_PROJECT_ROOT=" + s.root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=test", "GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "HOME=" + s.root,
		},
		Stderr: io.Discard,
	}
}

// git runs git and fails the test where git fails.
func (s *stand) git(folder string, arguments ...string) string {
	s.t.Helper()
	output, err := tryGit(folder, arguments...)
	if err != nil {
		s.t.Fatalf("git %q: %v\n%s", arguments, err, output)
	}
	return output
}

func tryGit(folder string, arguments ...string) (string, error) {
	command := exec.Command("git", arguments...)
	command.Dir = folder
	command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com", "LC_ALL=C")
	output, err := command.CombinedOutput()
	return string(output), err
}

// gitURL is where the token's holder finds a repository.
func (s *stand) gitURL(user, token, path string) string {
	u, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	u.User = url.UserPassword(user, token)
	return u.JoinPath(path).String()
}

type answer struct {
	status int
	header http.Header
	text   string
}

func (s *stand) ask(method, path, body string, prepare func(*http.Request)) answer {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	prepare(request)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		s.t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header, string(text)}
}

func basic(user, token string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(user, token) }
}

func bearer(token string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
}

func (s *stand) addTokens() {
	s.AddToken("expired", bitbuckettest.Grant{Scopes: bitbuckettest.AllScopes(), Default: bitbuckettest.Write, ExpiresAt: s.now})
	s.AddToken("reader", bitbuckettest.Grant{Scopes: []string{bitbuckettest.ScopeReadRepository, bitbuckettest.ScopeReadPullRequest}, Default: bitbuckettest.Write})
	s.AddToken("writer", bitbuckettest.Grant{Scopes: []string{bitbuckettest.ScopeWriteRepository}, Default: bitbuckettest.Write})
	s.AddToken("no permission", bitbuckettest.Grant{Scopes: bitbuckettest.AllScopes(), Default: bitbuckettest.Write, Permissions: map[string]bitbuckettest.Permission{"acme/web": bitbuckettest.None}})
	s.AddToken("may read", bitbuckettest.Grant{Scopes: bitbuckettest.AllScopes(), Default: bitbuckettest.Read})
}

func TestGitIsServedToWhoMay(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.addTokens()
	const (
		fetch = "/info/refs?service=git-upload-pack"
		push  = "/info/refs?service=git-receive-pack"
		gone  = "You may not have access to this repository or it no longer exists in this workspace."
		scope = "Your credentials lack one or more required privilege scopes."
	)
	for name, test := range map[string]struct {
		path   string
		auth   func(*http.Request)
		status int
		text   string
	}{
		"all may fetch":            {"/acme/web.git" + fetch, basic("x-token-auth", "all"), 200, "refs/heads/main"},
		"all may push":             {"/acme/web.git" + push, basic("x-token-auth", "all"), 200, "report-status"},
		"nobody":                   {"/acme/web.git" + fetch, func(*http.Request) {}, 401, gone},
		"another user":             {"/acme/web.git" + fetch, basic("somebody", "all"), 401, gone},
		"bearer is no basic":       {"/acme/web.git" + fetch, bearer("all"), 401, gone},
		"unknown token":            {"/acme/web.git" + fetch, basic("x-token-auth", "unknown"), 401, gone},
		"empty token":              {"/acme/web.git" + fetch, basic("x-token-auth", ""), 401, gone},
		"expired token":            {"/acme/web.git" + fetch, basic("x-token-auth", "expired"), 401, gone},
		"missing repository":       {"/acme/none.git" + fetch, basic("x-token-auth", "all"), 401, gone},
		"reader fetches":           {"/acme/web.git" + fetch, basic("x-token-auth", "reader"), 200, "refs/heads/main"},
		"reader pushes":            {"/acme/web.git" + push, basic("x-token-auth", "reader"), 403, scope},
		"reader posts a push":      {"/acme/web.git/git-receive-pack", basic("x-token-auth", "reader"), 403, scope},
		"writer fetches":           {"/acme/web.git" + fetch, basic("x-token-auth", "writer"), 403, scope},
		"no permission":            {"/acme/web.git" + fetch, basic("x-token-auth", "no permission"), 403, "permission"},
		"permission to read":       {"/acme/web.git" + push, basic("x-token-auth", "may read"), 403, "permission"},
		"a file of the repository": {"/acme/web.git/config", basic("x-token-auth", "all"), 404, "Not found"},
		"leaving the folder":       {"/acme/..%2fweb.git" + fetch, basic("x-token-auth", "all"), 404, "Not found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			method := http.MethodGet
			if !strings.Contains(test.path, "?") {
				method = http.MethodPost
			}
			got := s.ask(method, test.path, "", test.auth)
			if got.status != test.status || !strings.Contains(got.text, test.text) {
				t.Errorf("answered %d %q, want %d %q", got.status, got.text, test.status, test.text)
			}
			if (got.status == 401) != (got.header.Get("WWW-Authenticate") == `Basic realm="Bitbucket.org HTTP"`) {
				t.Errorf("%d with WWW-Authenticate %q", got.status, got.header.Get("WWW-Authenticate"))
			}
		})
	}
}

func TestGitClonesAndPushes(t *testing.T) {
	t.Parallel()
	s := start(t)
	remote := s.gitURL("x-token-auth", "all", "/acme/web.git")
	work := t.TempDir()
	s.git("", "clone", "--quiet", remote, work)
	s.git(work, "commit", "--quiet", "--allow-empty", "-m", "third")

	if err := s.Restrict("acme", "web", "main", "release"); err != nil {
		t.Fatal(err)
	}
	output, err := tryGit(work, "push", "origin", "main")
	if err == nil || !strings.Contains(output, "remote: Permission denied to update branch main.") || !strings.Contains(output, "pre-receive hook declined") {
		t.Errorf("push to a restricted branch: %v\n%s", err, output)
	}
	s.git(work, "push", "--quiet", "origin", "main:free")
	if err := s.Restrict("acme", "web"); err != nil {
		t.Fatal(err)
	}
	if err := s.SetReadOnly("acme", "web", "4 GB"); err != nil {
		t.Fatal(err)
	}
	output, err = tryGit(work, "push", "origin", "main")
	if err == nil || !strings.Contains(output, "remote: repository is in read only mode (over 4 GB size limit).") {
		t.Errorf("push over the size limit: %v\n%s", err, output)
	}
	if err := s.SetReadOnly("acme", "web", ""); err != nil {
		t.Fatal(err)
	}
	s.git(work, "push", "--quiet", "origin", "main")

	if err := s.Rename("acme", "web", "site"); err != nil {
		t.Fatal(err)
	}
	if output, err := tryGit(work, "fetch", "origin"); err == nil {
		t.Errorf("the old name still works: %s", output)
	}
	s.git(work, "fetch", "--quiet", s.gitURL("x-token-auth", "all", "/acme/site.git"))
	if n := s.Count(bitbuckettest.Git); n < 8 {
		t.Errorf("%d git requests were counted", n)
	}
	s.Revoke("all")
	if output, err := tryGit(work, "fetch", s.gitURL("x-token-auth", "all", "/acme/site.git")); err == nil {
		t.Errorf("a revoked token works: %s", output)
	}
}

func TestTokenCheckKnowsFurtherTokens(t *testing.T) {
	t.Parallel()
	var seen []bitbuckettest.Request
	server := bitbuckettest.New(bitbuckettest.Config{
		Root: t.TempDir(),
		TokenCheck: func(token string) (bitbuckettest.Grant, bool) {
			return bitbuckettest.Grant{Scopes: bitbuckettest.AllScopes()}, token == "signed elsewhere"
		},
		Observe: func(r bitbuckettest.Request) { seen = append(seen, r) },
	})
	for token, want := range map[string]int{"signed elsewhere": 404, "forged": 401} {
		recorder := httptest.NewRecorder()
		request := httptest.NewRequest(http.MethodGet, "/2.0/repositories/acme/web", nil)
		bearer(token)(request)
		server.ServeHTTP(recorder, request)
		if recorder.Code != want {
			t.Errorf("%s: %d, want %d", token, recorder.Code, want)
		}
	}
	if len(seen) != 2 || seen[0].Kind != bitbuckettest.REST || seen[0].Status+seen[1].Status != 805 {
		t.Errorf("observed %v", seen)
	}
	if _, err := server.AddRepository(bitbuckettest.Repository{Workspace: "acme", Slug: "web"}); err == nil {
		t.Error("a repository without a folder was added")
	}
	if _, err := server.AddRepository(bitbuckettest.Repository{Workspace: "..", Slug: "web"}); err == nil {
		t.Error("a workspace .. was added")
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.Limit(bitbuckettest.REST, 5, "17")
	s.Limit(bitbuckettest.Git, 0, "")
	for i := range 6 {
		got := s.ask(http.MethodGet, "/2.0/repositories/acme/web", "", bearer("all"))
		want, near := 200, i >= 3
		if i == 5 {
			want = 429
		}
		if got.status != want || (got.header.Get("X-RateLimit-NearLimit") == "true") != near || got.header.Get("X-RateLimit-Limit") != "5" {
			t.Errorf("request %d: %d, near %q, limit %q", i, got.status, got.header.Get("X-RateLimit-NearLimit"), got.header.Get("X-RateLimit-Limit"))
		}
		if (got.header.Get("Retry-After") == "17") != (want == 429) {
			t.Errorf("request %d: Retry-After %q", i, got.header.Get("Retry-After"))
		}
	}
	got := s.ask(http.MethodGet, "/acme/web.git/info/refs?service=git-upload-pack", "", basic("x-token-auth", "all"))
	if got.status != 429 || got.header.Get("Retry-After") != "" {
		t.Errorf("git over its limit: %d, Retry-After %q", got.status, got.header.Get("Retry-After"))
	}
	s.Limit(bitbuckettest.REST, -1, "")
	if got := s.ask(http.MethodGet, "/2.0/repositories/acme/web", "", bearer("all")); got.status != 200 || got.header.Get("X-RateLimit-Limit") != "" {
		t.Errorf("after the limit: %d", got.status)
	}
}

func TestREST(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.addTokens()
	for name, test := range map[string]struct {
		path, token string
		status      int
		want        string
	}{
		"repository":         {"/2.0/repositories/acme/web?fields=full_name,mainbranch.name", "all", 200, `{"full_name":"acme/web","mainbranch":{"name":"main"}}`},
		"no commits":         {"/2.0/repositories/acme/empty?fields=full_name,mainbranch.name", "reader", 200, `{"full_name":"acme/empty","mainbranch":null}`},
		"unknown token":      {"/2.0/repositories/acme/web", "unknown", 401, `{"error":{"message":"Token is invalid, expired, or not supported for this endpoint."},"type":"error"}`},
		"expired token":      {"/2.0/repositories/acme/web", "expired", 401, `{"error":{"message":"Token is invalid, expired, or not supported for this endpoint."},"type":"error"}`},
		"no scope":           {"/2.0/repositories/acme/web", "writer", 403, `{"error":{"message":"Your credentials lack one or more required privilege scopes."},"type":"error"}`},
		"no permission":      {"/2.0/repositories/acme/web", "no permission", 403, `{"error":{"message":"You do not have the permission that this request requires in this repository."},"type":"error"}`},
		"missing":            {"/2.0/repositories/acme/none", "all", 404, `{"error":{"message":"Repository acme/none not found"},"type":"error"}`},
		"no route":           {"/2.0/user", "all", 404, `{"error":{"message":"Resource not found"},"type":"error"}`},
		"list, first page":   {"/2.0/repositories/acme?pagelen=1&fields=next,size,values.slug", "all", 200, `{"next":"` + s.url + `/2.0/repositories/acme?fields=next%2Csize%2Cvalues.slug&page=2&pagelen=1","size":2,"values":[{"slug":"web"}]}`},
		"list, last page":    {"/2.0/repositories/acme?pagelen=1&page=2&fields=next,values.slug", "all", 200, `{"values":[{"slug":"empty"}]}`},
		"list by q":          {"/2.0/repositories/acme?fields=values.slug&q=" + url.QueryEscape(`name ~ "EMP"`), "all", 200, `{"values":[{"slug":"empty"}]}`},
		"list what one may":  {"/2.0/repositories/acme?fields=values.slug", "no permission", 200, `{"values":[{"slug":"empty"}]}`},
		"list bad q":         {"/2.0/repositories/acme?q=name", "all", 400, `{"error":{"message":"Invalid query: name"},"type":"error"}`},
		"list bad page":      {"/2.0/repositories/acme?pagelen=101", "all", 400, `{"error":{"message":"Invalid pagelen"},"type":"error"}`},
		"list no scope":      {"/2.0/repositories/acme", "writer", 403, `{"error":{"message":"Your credentials lack one or more required privilege scopes."},"type":"error"}`},
		"list no workspace":  {"/2.0/repositories/other", "all", 404, `{"error":{"message":"No workspace with identifier 'other'."},"type":"error"}`},
		"list unknown token": {"/2.0/repositories/acme", "", 401, `{"error":{"message":"Token is invalid, expired, or not supported for this endpoint."},"type":"error"}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := s.ask(http.MethodGet, test.path, "", bearer(test.token))
			if diff := cmp.Diff(test.want, strings.TrimSpace(got.text)); diff != "" || got.status != test.status {
				t.Errorf("status %d, want %d: %s", got.status, test.status, diff)
			}
		})
	}
}

func TestRepositoryByUUID(t *testing.T) {
	t.Parallel()
	s := start(t)
	var whole struct {
		UUID string
		Size int64
	}
	got := s.ask(http.MethodGet, "/2.0/repositories/acme/web", "", bearer("all"))
	if err := json.Unmarshal([]byte(got.text), &whole); err != nil || whole.Size == 0 {
		t.Fatalf("%v: %s", err, got.text)
	}
	escaped := strings.NewReplacer("{", "%7B", "}", "%7D").Replace(whole.UUID)
	if again := s.ask(http.MethodGet, "/2.0/repositories/acme/"+escaped, "", bearer("all")); again.text != got.text {
		t.Errorf("by UUID: %s", again.text)
	}
}

func TestPullRequests(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.addTokens()
	const route = "/2.0/repositories/acme/web/pullrequests"
	body := func(title, source, destination string) string {
		encoded, err := json.Marshal(map[string]any{
			"title": title, "source": map[string]any{"branch": map[string]any{"name": source}},
			"destination": map[string]any{"branch": map[string]any{"name": destination}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(encoded)
	}
	for name, test := range map[string]struct {
		body, token string
		status      int
		text        string
	}{
		"no title":       {body("", "change", "main"), "all", 400, "title: This field is required."},
		"no source":      {body("x", "none", "main"), "all", 400, `branch \"none\" not found`},
		"no destination": {body("x", "change", "none"), "all", 400, `branch \"none\" not found`},
		"no difference":  {body("x", "main", "main"), "all", 400, "There are no changes to be pulled"},
		"no JSON":        {"{", "all", 400, "Bad request"},
		"no scope":       {body("x", "change", "main"), "reader", 403, "lack one or more required privilege scopes"},
		"no permission":  {body("x", "change", "main"), "may read", 403, "permission"},
	} {
		if got := s.ask(http.MethodPost, route, test.body, bearer(test.token)); got.status != test.status || !strings.Contains(got.text, test.text) {
			t.Errorf("%s: %d %s", name, got.status, got.text)
		}
	}
	if got := s.ask(http.MethodPost, route+"?fields=id,state,destination.branch.name", `{"title":"x","source":{"branch":{"name":"change"}}}`, bearer("all")); got.status != 201 ||
		got.text != `{"destination":{"branch":{"name":"main"}},"id":1,"state":"OPEN"}`+"\n" {
		t.Fatalf("created: %d %s", got.status, got.text)
	}
	if got := s.ask(http.MethodGet, route+"/1?fields=title", "", bearer("reader")); got.text != `{"title":"x"}`+"\n" {
		t.Errorf("got: %s", got.text)
	}
	if got := s.ask(http.MethodGet, route+"/2", "", bearer("reader")); got.status != 404 {
		t.Errorf("a missing one: %d", got.status)
	}
	list := route + "?fields=values.id&q=" + url.QueryEscape(`source.branch.name="change" AND state="OPEN"`)
	if got := s.ask(http.MethodGet, list, "", bearer("reader")); got.text != `{"values":[{"id":1}]}`+"\n" {
		t.Errorf("open ones: %s", got.text)
	}
	if !s.SetPullRequestState("acme", "web", 1, "DECLINED") || s.SetPullRequestState("acme", "web", 2, "DECLINED") {
		t.Error("the state was set on the wrong one")
	}
	for _, path := range []string{list, route + "?fields=values.id"} {
		if got := s.ask(http.MethodGet, path, "", bearer("reader")); got.text != `{"values":[]}`+"\n" {
			t.Errorf("declined, but listed: %s", got.text)
		}
	}
	want := []bitbuckettest.PullRequest{{ID: 1, Title: "x", Source: "change", Destination: "main", State: "DECLINED"}}
	if diff := cmp.Diff(want, s.PullRequests("acme", "web")); diff != "" {
		t.Error(diff)
	}
}
