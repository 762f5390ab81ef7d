package bitbucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
)

const token = "canary-token-0123456789"

var (
	now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	web = bitbucket.Repository{Workspace: "acme", Slug: "web"}
)

func client(t *testing.T, handler http.Handler, logger *slog.Logger) *bitbucket.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return clientOf(t, server.URL, logger)
}

func clientOf(t *testing.T, address string, logger *slog.Logger) *bitbucket.Client {
	t.Helper()
	base, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	made, err := bitbucket.NewClient(bitbucket.Config{Base: base, Now: func() time.Time { return now }, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// stand is a stand-in Bitbucket with acme/web, which has the branches main, change and `odd"name`, and acme/empty.
func stand(t *testing.T) (*bitbuckettest.Server, map[string]bitbuckettest.Repository) {
	t.Helper()
	root := t.TempDir()
	server := bitbuckettest.New(bitbuckettest.Config{Root: root, Now: func() time.Time { return now }})
	added := map[string]bitbuckettest.Repository{}
	for _, name := range []string{"web", "empty"} {
		folder := filepath.Join(root, "acme", name+".git")
		git(t, "", "init", "--quiet", "--bare", "--initial-branch=main", folder)
		if name == "web" {
			stream := "commit refs/heads/main\ncommitter a <a@example.com> 1 +0000\ndata 1\na\n" +
				"commit refs/heads/change\ncommitter a <a@example.com> 2 +0000\ndata 1\nb\nfrom refs/heads/main\n" +
				"reset refs/heads/odd\"name\nfrom refs/heads/change\n\n"
			git(t, stream, "--git-dir", folder, "fast-import", "--quiet")
		}
		repository, err := server.AddRepository(bitbuckettest.Repository{Workspace: "acme", Slug: name, Size: 4711})
		if err != nil {
			t.Fatal(err)
		}
		added[name] = repository
	}
	server.AddToken(token, bitbuckettest.Grant{Scopes: bitbuckettest.AllScopes(), Default: bitbuckettest.Write})
	return server, added
}

func git(t *testing.T, input string, arguments ...string) {
	t.Helper()
	command := exec.Command("git", arguments...)
	command.Stdin = strings.NewReader(input)
	if output, err := command.CombinedOutput(); err != nil {
		t.Fatalf("git %q: %v\n%s", arguments, err, output)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	server, added := stand(t)
	c := client(t, server, nil)
	for name, test := range map[string]struct {
		asked bitbucket.Repository
		want  bitbucket.Info
	}{
		"by slugs": {web, bitbucket.Info{Repository: web, Size: 4711, MainBranch: "main"}},
		"by UUIDs": {
			bitbucket.Repository{WorkspaceUUID: added["web"].WorkspaceUUID, RepositoryUUID: added["web"].UUID},
			bitbucket.Info{Repository: web, Size: 4711, MainBranch: "main"},
		},
		"without commits": {
			bitbucket.Repository{WorkspaceUUID: added["empty"].WorkspaceUUID, RepositoryUUID: added["empty"].UUID},
			bitbucket.Info{Repository: bitbucket.Repository{Workspace: "acme", Slug: "empty"}, Size: 4711},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := c.Resolve(t.Context(), secret.New(token), test.asked)
			if err != nil {
				t.Fatal(fault.Private(err))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestResolveRequest(t *testing.T) {
	t.Parallel()
	var got string
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Method + " " + r.RequestURI + " " + r.Header.Get("Authorization")
		_, _ = fmt.Fprint(w, `{"full_name": "acme/web"}`)
	}), nil)
	uuid := "{11111111-2222-3333-4444-555555555555}"
	if _, err := c.Resolve(t.Context(), secret.New(token), bitbucket.Repository{WorkspaceUUID: uuid, RepositoryUUID: uuid}); err != nil {
		t.Fatal(err)
	}
	escaped := "%7B11111111-2222-3333-4444-555555555555%7D"
	want := "GET /2.0/repositories/" + escaped + "/" + escaped + "?fields=full_name%2Csize%2Cmainbranch.name Bearer " + token
	if got != want {
		t.Errorf("asked %s\nwant  %s", got, want)
	}
}

func TestEnsurePullRequestTwiceIsOnce(t *testing.T) {
	t.Parallel()
	server, _ := stand(t)
	c := client(t, server, nil)
	ensure := func(spec bitbucket.PullRequestSpec) bitbucket.PullRequest {
		t.Helper()
		got, err := c.EnsurePullRequest(t.Context(), secret.New(token), web, spec)
		if err != nil {
			t.Fatal(fault.Private(err))
		}
		if !strings.HasSuffix(got.URL, fmt.Sprintf("/acme/web/pull-requests/%d", got.ID)) {
			t.Errorf("URL %q of %d", got.URL, got.ID)
		}
		return got
	}
	spec := bitbucket.PullRequestSpec{Title: "Change it", Description: "why", Source: "change", Destination: "main", CloseSourceBranch: true}
	first := ensure(spec)
	if again := ensure(spec); again != first {
		t.Errorf("the second time %v, the first time %v", again, first)
	}
	toMain := spec
	toMain.Destination = ""
	if again := ensure(toMain); again != first {
		t.Errorf("to the main branch %v, the first time %v", again, first)
	}
	odd := ensure(bitbucket.PullRequestSpec{Title: "Odd", Source: `odd"name`, Destination: "main"})
	if again := ensure(bitbucket.PullRequestSpec{Title: "Odd", Source: `odd"name`, Destination: "main"}); again != odd || odd == first {
		t.Errorf("a branch with a quotation mark: %v, then %v", odd, again)
	}
	server.SetPullRequestState("acme", "web", first.ID, "MERGED")
	later := ensure(spec)
	want := []bitbuckettest.PullRequest{
		{ID: 1, Title: "Change it", Description: "why", Source: "change", Destination: "main", CloseSourceBranch: true, State: "MERGED"},
		{ID: 2, Title: "Odd", Source: `odd"name`, Destination: "main", State: "OPEN"},
		{ID: 3, Title: "Change it", Description: "why", Source: "change", Destination: "main", CloseSourceBranch: true, State: "OPEN"},
	}
	if diff := cmp.Diff(want, server.PullRequests("acme", "web")); diff != "" || later.ID != 3 {
		t.Errorf("id %d: %s", later.ID, diff)
	}
}

// A branch of the same name in a fork, or another destination, is another pull request; the list may have several pages.
func TestEnsurePullRequestReadsTheWholeList(t *testing.T) {
	t.Parallel()
	entry := func(id int, repository, destination string) string {
		return fmt.Sprintf(`{"id": %d, "links": {"html": {"href": "javascript:alert(1)"}}, "source": {"branch": {"name": "change"}, "repository": {"full_name": %q}}, "destination": {"branch": {"name": %q}}}`, id, repository, destination)
	}
	var posts int
	endless := false
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next := "http://" + r.Host + r.URL.Path + "?page=2"
		switch {
		case r.Method == http.MethodPost:
			posts++
			_, _ = fmt.Fprint(w, `{"id": 9}`)
		case r.URL.Query().Get("page") == "2" && !endless:
			_, _ = fmt.Fprintf(w, `{"values": [%s]}`, entry(3, "ACME/web", "main"))
		default:
			_, _ = fmt.Fprintf(w, `{"values": [%s, %s, {"id": 5}], "next": %q}`, entry(1, "fork/web", "main"), entry(2, "acme/web", "release"), next)
		}
	}), nil)
	for destination, want := range map[string]bitbucket.PullRequest{"main": {ID: 3}, "release": {ID: 2}, "other": {ID: 9}} {
		got, err := c.EnsurePullRequest(t.Context(), secret.New(token), web, bitbucket.PullRequestSpec{Title: "x", Source: "change", Destination: destination})
		if got != want || err != nil {
			t.Errorf("to %s: %v, %v; want %v", destination, got, err, want)
		}
	}
	if posts != 1 {
		t.Errorf("%d were created, want 1", posts)
	}
	endless = true
	_, err := c.EnsurePullRequest(t.Context(), secret.New(token), web, bitbucket.PullRequestSpec{Title: "x", Source: "change", Destination: "other"})
	if fault.KindOf(err) != fault.Invalid || posts != 1 {
		t.Errorf("an endless list: %v, %d created", err, posts)
	}
}

func resolve(ctx context.Context, c *bitbucket.Client) error {
	_, err := c.Resolve(ctx, secret.New(token), web)
	return err
}

func ensure(ctx context.Context, c *bitbucket.Client) error {
	_, err := c.EnsurePullRequest(ctx, secret.New(token), web, bitbucket.PullRequestSpec{Title: "x", Source: "change"})
	return err
}

// says answers every request the same.
func says(status int, header, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if name, value, found := strings.Cut(header, ": "); found {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}
}

// onPost lists nothing and answers a POST by post.
func onPost(post http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			_, _ = fmt.Fprint(w, `{"values": []}`)
			return
		}
		post(w, r)
	}
}

type errorCase struct {
	handler http.HandlerFunc
	call    func(context.Context, *bitbucket.Client) error
	kind    fault.Kind
	public  []string
	after   time.Duration
}

// errorCases are answers and what becomes of them. A public text must hold each of the parts.
func errorCases() map[string]errorCase {
	return map[string]errorCase{
		"401":            {says(401, "", ""), resolve, fault.Denied, []string{"look up repository acme/web", "(401)", "read:repository:bitbucket"}, 0},
		"403":            {says(403, "", ""), resolve, fault.Denied, []string{"(403)", "read:repository:bitbucket", "permissions.scopes"}, 0},
		"403 on list":    {says(403, "", ""), ensure, fault.Denied, []string{"list the pull requests of acme/web", "read:pullrequest:bitbucket"}, 0},
		"403 on create":  {onPost(says(403, "", "")), ensure, fault.Denied, []string{"create the pull request in acme/web", "write:pullrequest:bitbucket"}, 0},
		"404":            {says(404, "", ""), resolve, fault.NotFound, []string{"acme/web", "no such repository"}, 0},
		"410":            {says(410, "", ""), resolve, fault.NotFound, []string{"no such repository"}, 0},
		"409":            {onPost(says(409, "", "")), ensure, fault.Conflict, []string{"create the pull request"}, 0},
		"429 in seconds": {says(429, "Retry-After: 17", ""), resolve, fault.Throttled, []string{"rate limit"}, 17 * time.Second},
		"429 by date":    {says(429, "Retry-After: Sun, 01 Nov 2026 12:01:00 GMT", ""), resolve, fault.Throttled, []string{"rate limit"}, time.Minute},
		"429 long ago":   {says(429, "Retry-After: Sun, 01 Nov 2026 11:01:00 GMT", ""), resolve, fault.Throttled, nil, 0},
		"429 for days":   {says(429, "Retry-After: 999999", ""), resolve, fault.Throttled, nil, time.Hour},
		"429 odd":        {says(429, "Retry-After: soon", ""), resolve, fault.Throttled, nil, 0},
		"429 bare":       {says(429, "", ""), resolve, fault.Throttled, nil, 0},
		"400 quoted": {
			onPost(says(400, "", `{"type":"error","error":{"message":"There are no\nchanges to be pulled"}}`)), ensure,
			fault.Invalid,
			[]string{"(400)", `it says "There are no changes to be pulled"`},
			0,
		},
		"400 without words":  {onPost(says(400, "", "<html>secret page</html>")), ensure, fault.Invalid, []string{"refused the request (400); correct it"}, 0},
		"500":                {says(500, "", strings.Repeat("x", 3<<20)), resolve, fault.Unavailable, []string{"(500)"}, 0},
		"503":                {says(503, "", ""), ensure, fault.Unavailable, []string{"(503)"}, 0},
		"HTML with 200":      {says(200, "", "<html></html>"), resolve, fault.Unavailable, []string{"not the JSON"}, 0},
		"endless with 200":   {says(200, "", `{"full_name": "`+strings.Repeat("x", 2<<20)+`"}`), resolve, fault.Unavailable, []string{"not the JSON"}, 0},
		"no full_name":       {says(200, "", `{}`), resolve, fault.Unavailable, []string{"full_name"}, 0},
		"evil full_name":     {says(200, "", `{"full_name": "acme/web/../other"}`), resolve, fault.Unavailable, []string{"full_name"}, 0},
		"evil workspace":     {says(200, "", `{"full_name": "acme@evil/web"}`), resolve, fault.Unavailable, []string{"full_name"}, 0},
		"created without id": {onPost(says(201, "", `{}`)), ensure, fault.Unavailable, []string{"no id"}, 0},
		"next elsewhere":     {says(200, "", `{"values": [], "next": "https://evil.example/"}`), ensure, fault.Unavailable, []string{"another host"}, 0},
		"broken off": {
			func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, resolve,
			fault.Unavailable,
			[]string{"cannot be reached, or broke off"},
			0,
		},
		"broken off in the body": {
			func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				_, _ = fmt.Fprint(w, `{"full_name`)
			}, resolve, fault.Unavailable, []string{"broke off"}, 0,
		},
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for name, test := range errorCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := test.call(t.Context(), client(t, test.handler, nil))
			if fault.KindOf(err) != test.kind || err == nil || fault.RetryAfter(err) != test.after {
				t.Fatalf("%v, retry after %v; want %v after %v", err, fault.RetryAfter(err), test.kind, test.after)
			}
			public := fault.Public(err)
			for _, part := range test.public {
				if !strings.Contains(public, part) {
					t.Errorf("%q lacks %q", public, part)
				}
			}
			if strings.Contains(public+fault.Private(err), "canary") || strings.Contains(public, "secret page") || len(public) >= fault.MaxPublic {
				t.Errorf("says too much: %s", fault.Private(err))
			}
		})
	}
}

func TestQuoteIsScrubbedAndBounded(t *testing.T) {
	t.Parallel()
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, `{"error": {"message": "https://x-token-auth:%s@bitbucket.org\u001b[31m %s"}}`, token, strings.Repeat("ä", 4000))
	}), nil)
	_, err := c.Resolve(t.Context(), secret.New(token), web)
	public := fault.Public(err)
	if strings.Contains(public, token) || strings.Contains(public, "\x1b") || !strings.Contains(public, secret.Redacted) || len(public) > 450 {
		t.Errorf("%d bytes: %s", len(public), public)
	}
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	var leaked []string
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		leaked = append(leaked, r.Header.Get("Authorization"))
	}))
	t.Cleanup(elsewhere.Close)
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/renamed"):
			http.Redirect(w, r, "/2.0/repositories/acme/web", http.StatusMovedPermanently)
		case strings.HasSuffix(r.URL.Path, "/elsewhere"):
			http.Redirect(w, r, elsewhere.URL, http.StatusMovedPermanently)
		case strings.HasSuffix(r.URL.Path, "/loop"):
			http.Redirect(w, r, r.URL.Path, http.StatusMovedPermanently)
		case r.Header.Get("Authorization") == "Bearer "+token:
			_, _ = fmt.Fprint(w, `{"full_name": "acme/web"}`)
		}
	}), nil)
	if got, err := c.Resolve(t.Context(), secret.New(token), bitbucket.Repository{Workspace: "acme", Slug: "renamed"}); err != nil || got.Repository != web {
		t.Errorf("a renamed repository: %v, %v", got, err)
	}
	for _, slug := range []string{"elsewhere", "loop"} {
		if _, err := c.Resolve(t.Context(), secret.New(token), bitbucket.Repository{Workspace: "acme", Slug: slug}); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s: %v, want an Unavailable fault", slug, err)
		}
	}
	if leaked != nil {
		t.Errorf("the other host was asked with %q", leaked)
	}
}

func TestUnreachableAndStopping(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(nil)
	server.Close()
	c := clientOf(t, server.URL, nil)
	if _, err := c.Resolve(t.Context(), secret.New(token), web); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("refused: %v, want an Unavailable fault", err)
	}
	stopping := fault.Newf(fault.Interrupted, "stopping")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopping)
	if _, err := c.Resolve(ctx, secret.New(token), web); !errors.Is(err, stopping) || fault.KindOf(err) != fault.Interrupted {
		t.Errorf("stopping: %v, want its cause", err)
	}
	if _, err := c.Resolve(t.Context(), secret.Text{}, web); fault.KindOf(err) != fault.Internal {
		t.Errorf("without a token: %v, want an Internal fault", err)
	}
}

func TestNearRateLimitIsLogged(t *testing.T) {
	t.Parallel()
	server, _ := stand(t)
	var log bytes.Buffer
	c := client(t, server, slog.New(slog.NewTextHandler(&log, nil)))
	server.Limit(bitbuckettest.REST, 1, "")
	if _, err := c.Resolve(t.Context(), secret.New(token), web); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "rate limit is near") || strings.Contains(log.String(), "canary") {
		t.Errorf("log: %s", log.String())
	}
	if _, err := c.Resolve(t.Context(), secret.New(token), web); fault.KindOf(err) != fault.Throttled {
		t.Errorf("over the limit: %v", err)
	}
}

func TestNewClientRefusesAnUnsafeBase(t *testing.T) {
	t.Parallel()
	for address, good := range map[string]bool{
		"https://api.bitbucket.org": true, "http://127.0.0.1:1": true, "http://[::1]:1": true, "http://localhost": true,
		"http://api.bitbucket.org": false, "https://a:canary@api.bitbucket.org": false, "ftp://localhost": false, "/2.0": false,
		"http://localhost.evil.example": false,
	} {
		base, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		_, err = bitbucket.NewClient(bitbucket.Config{Base: base})
		if (err == nil) != good || err != nil && (fault.KindOf(err) != fault.Invalid || strings.Contains(err.Error(), "canary")) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, err := bitbucket.NewClient(bitbucket.Config{}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("no base: %v", err)
	}
}
