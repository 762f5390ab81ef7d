package bitbucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
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

// crowd is a stand-in whose workspace acme has so many repositories: half of them Go's, half CORE's, each a day younger than the one
// before, every tenth with commits.
func crowd(t *testing.T, n int) *bitbuckettest.Server {
	t.Helper()
	root := t.TempDir()
	server := bitbuckettest.New(bitbuckettest.Config{Root: root, Now: func() time.Time { return now }})
	server.AddToken(token, bitbuckettest.Grant{Scopes: bitbuckettest.AllScopes(), Default: bitbuckettest.Read})
	for i := range n {
		added := bitbuckettest.Repository{
			Workspace: "acme", Slug: fmt.Sprintf("r%03d", i), Name: fmt.Sprintf("The %d", i), Size: 1,
			UpdatedOn: now.AddDate(0, 0, i-n), Language: []string{"go", "java"}[i%2], Project: []string{"CORE", "WEB"}[i/2%2],
		}
		files := map[string]string{"HEAD": "ref: refs/heads/main\n"}
		if i%10 == 0 {
			files["refs/heads/main"] = strings.Repeat("a", 40) + "\n"
		}
		for name, content := range files {
			file := filepath.Join(root, "acme", added.Slug+".git", name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(content), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := server.AddRepository(added); err != nil {
			t.Fatal(err)
		}
	}
	return server
}

// listed reads a whole list; the names, and how many pages there were.
func listed(t *testing.T, c *bitbucket.Client, spec bitbucket.ListSpec) (names []string, pages int) {
	t.Helper()
	for {
		page, err := c.List(t.Context(), secret.New(token), spec)
		if err != nil {
			t.Fatal(fault.Private(err))
		}
		for _, each := range page.Repositories {
			names = append(names, each.Repository.Slug)
		}
		if pages++; page.Next == "" {
			return names, pages
		}
		spec.Page = page.Next
	}
}

func TestListReadsEveryPage(t *testing.T) {
	t.Parallel()
	c := client(t, crowd(t, 210), nil)
	all, pages := listed(t, c, bitbucket.ListSpec{Workspace: "acme"})
	if len(all) != 210 || pages != 3 || all[0] != "r000" || all[209] != "r209" {
		t.Errorf("%d repositories in %d pages", len(all), pages)
	}
	page, err := c.List(t.Context(), secret.New(token), bitbucket.ListSpec{Workspace: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	by, _ := listed(t, c, bitbucket.ListSpec{Workspace: page.Repositories[0].WorkspaceUUID})
	if diff := cmp.Diff(all, by); diff != "" {
		t.Error("by the workspace's UUID: " + diff)
	}
	want := bitbucket.Details{
		Repository: bitbucket.Repository{Workspace: "acme", Slug: "r000"}, Name: "The 0", Project: "CORE", Language: "go", UpdatedOn: now.AddDate(0, 0, -210), Size: 1,
		UUID: page.Repositories[0].UUID, MainBranch: "main", WorkspaceUUID: page.Repositories[0].WorkspaceUUID,
	}
	got := page.Repositories[0]
	if got.UpdatedOn = got.UpdatedOn.UTC(); got.UUID == "" || got.WorkspaceUUID == "" {
		t.Error("no UUIDs")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	described, err := c.Describe(t.Context(), secret.New(token), bitbucket.Repository{WorkspaceUUID: got.WorkspaceUUID, RepositoryUUID: got.UUID})
	if described.UpdatedOn = described.UpdatedOn.UTC(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, described); diff != "" {
		t.Error("described: " + diff)
	}
}

// TestListChooses: by what Bitbucket filters, and by ourselves where it takes no notice of that or refuses it.
func TestListChooses(t *testing.T) {
	t.Parallel()
	server := crowd(t, 120)
	ignoring := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query := r.URL.Query()
		query.Del("q")
		r.URL.RawQuery = query.Encode()
		server.ServeHTTP(w, r)
	})
	refusing := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("q") {
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprint(w, `{"type": "error", "error": {"message": "Field \"language\" does not support filtering"}}`)
			return
		}
		server.ServeHTTP(w, r)
	})
	for name, test := range map[string]struct {
		spec bitbucket.ListSpec
		want int
	}{
		"a language":      {bitbucket.ListSpec{Language: "Go"}, 60},
		"a project":       {bitbucket.ListSpec{Project: "CORE"}, 60},
		"both":            {bitbucket.ListSpec{Project: "CORE", Language: "go"}, 30},
		"lately":          {bitbucket.ListSpec{UpdatedSince: now.AddDate(0, 0, -10)}, 10},
		"a main branch":   {bitbucket.ListSpec{MainBranch: "main"}, 12},
		"another one":     {bitbucket.ListSpec{MainBranch: "master"}, 0},
		"a quoted one":    {bitbucket.ListSpec{Project: `X" OR name ~ "`}, 0},
		"all of them":     {bitbucket.ListSpec{}, 120},
		"an hour's zone":  {bitbucket.ListSpec{UpdatedSince: now.AddDate(0, 0, -1).In(time.FixedZone("", 3600))}, 1},
		"a moment beyond": {bitbucket.ListSpec{UpdatedSince: now.Add(time.Second)}, 0},
	} {
		for how, handler := range map[string]http.Handler{"filtering": server, "ignoring": ignoring, "refusing": refusing} {
			t.Run(name+", "+how, func(t *testing.T) {
				t.Parallel()
				spec := test.spec
				spec.Workspace = "acme"
				if got, _ := listed(t, client(t, handler, nil), spec); len(got) != test.want {
					t.Errorf("%d repositories, want %d: %v", len(got), test.want, got)
				}
			})
		}
	}
}

func TestListRequest(t *testing.T) {
	t.Parallel()
	var asked []string
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Query().Get("q"))
		_, _ = fmt.Fprint(w, `{"values": [{"full_name": "acme/../x"}, {"full_name": "acme/web", "uuid": "none", "mainbranch": null, "project": null}]}`)
	}), nil)
	spec := bitbucket.ListSpec{Workspace: "acme", Project: `a"b`, Language: "Go", MainBranch: "", UpdatedSince: now}
	if _, err := c.List(t.Context(), secret.New(token), spec); err != nil {
		t.Fatal(err)
	}
	page, err := c.List(t.Context(), secret.New(token), bitbucket.ListSpec{Workspace: "acme"})
	if err != nil || len(page.Repositories) != 1 || page.Repositories[0] != (bitbucket.Details{Repository: web}) {
		t.Errorf("%+v, %v", page, err)
	}
	want := []string{`project.key="a\"b" AND language="go" AND updated_on >= 2026-11-01T12:00:00+00:00`, ""}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Error(diff)
	}
}

// TestListGoesOnWhereItMay: the cursor is a query, asked of the list's own place.
func TestListGoesOnWhereItMay(t *testing.T) {
	t.Parallel()
	var next, asked string
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.RequestURI
		_, _ = fmt.Fprintf(w, `{"values": [], "next": %q}`, strings.ReplaceAll(next, "HOST", r.Host))
	}), nil)
	for address, test := range map[string]struct{ page, public string }{
		"http://HOST/2.0/repositories/ACME?page=2&x=1":            {page: "page=2&x=1"},
		"http://HOST/2.0/user?page=3":                             {page: "page=3"},
		"https://evil.example/2.0/repositories/acme?page=2":       {public: "another host"},
		"//evil.example/2.0/repositories/acme?page=2":             {public: "another host"},
		"http://HOST/2.0/repositories/acme":                       {public: "how the list goes on"},
		"http://HOST/?page=" + strings.Repeat("x", 5000):          {public: "how the list goes on"},
		"http://HOST/2.0/repositories/acme?page=1%0d%0aX:1&q=%zz": {public: "how the list goes on"},
		"http://%zz": {public: "another host"},
	} {
		next = address
		page, err := c.List(t.Context(), secret.New(token), bitbucket.ListSpec{Workspace: "acme"})
		if test.public != "" && (fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.Public(err), test.public)) || test.public == "" && err != nil {
			t.Errorf("%s: %v", address, err)
		}
		if page.Next != test.page && test.public == "" {
			t.Errorf("%s: cursor %q", address, page.Next)
		}
	}
	next = "http://HOST/2.0/repositories/acme?page=2"
	if _, err := c.List(t.Context(), secret.New(token), bitbucket.ListSpec{Workspace: "acme", Page: "page=2"}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("a list that stands still: %v", err)
	}
	if asked != "/2.0/repositories/acme?page=2" {
		t.Errorf("asked %s", asked)
	}
	for _, page := range []string{"2", "x=1", "page=%zz", "page=" + strings.Repeat("x", 5000)} {
		if _, err := c.List(t.Context(), secret.New(token), bitbucket.ListSpec{Workspace: "acme", Page: page}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("cursor %.20q: %v", page, err)
		}
	}
	for _, workspace := range []string{"", "..", "a/b", "{x}", "a?b"} {
		if _, err := c.List(t.Context(), secret.New(token), bitbucket.ListSpec{Workspace: workspace}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("workspace %q: %v", workspace, err)
		}
	}
}

func TestListNearAndOverTheLimit(t *testing.T) {
	t.Parallel()
	server := crowd(t, 110)
	var log bytes.Buffer
	c := client(t, server, slog.New(slog.NewTextHandler(&log, nil)))
	server.Limit(bitbuckettest.REST, 2, "7")
	spec := bitbucket.ListSpec{Workspace: "acme"}
	first, err := c.List(t.Context(), secret.New(token), spec)
	if err != nil || first.NearLimit {
		t.Fatal(first.NearLimit, err)
	}
	spec.Page = first.Next
	second, err := c.List(t.Context(), secret.New(token), spec)
	if err != nil || !second.NearLimit || second.Next != "" || len(second.Repositories) != 10 || !strings.Contains(log.String(), "repository=acme") {
		t.Errorf("%+v, %v, %s", second, err, &log)
	}
	if _, err := c.List(t.Context(), secret.New(token), spec); fault.KindOf(err) != fault.Throttled || fault.RetryAfter(err) != 7*time.Second {
		t.Errorf("over the limit: %v", err)
	}
	server.Limit(bitbuckettest.REST, 1, "")
	if found, err := c.Describe(t.Context(), secret.New(token), first.Repositories[0].Repository); err != nil || !found.NearLimit {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestListErrors(t *testing.T) {
	t.Parallel()
	list := func(ctx context.Context, c *bitbucket.Client) error {
		_, err := c.List(ctx, secret.New(token), bitbucket.ListSpec{Workspace: "acme", Language: "go"})
		return err
	}
	describe := func(ctx context.Context, c *bitbucket.Client) error {
		_, err := c.Describe(ctx, secret.New(token), web)
		return err
	}
	for name, test := range map[string]errorCase{
		"401":          {says(401, "", ""), list, fault.Denied, []string{"list the repositories of workspace acme", "read:repository:bitbucket"}, 0},
		"403":          {says(403, "", ""), list, fault.Denied, []string{"(403)", "read:repository:bitbucket"}, 0},
		"404":          {says(404, "", ""), list, fault.NotFound, []string{"no such workspace"}, 0},
		"400":          {says(400, "", `{"error": {"message": "no"}}`), list, fault.Invalid, []string{"no"}, 0},
		"429":          {says(429, "Retry-After: 9", ""), list, fault.Throttled, nil, 9 * time.Second},
		"no JSON":      {says(200, "", "<html>"), list, fault.Unavailable, nil, 0},
		"no full_name": {says(200, "", "{}"), describe, fault.Unavailable, []string{"full_name"}, 0},
		"describe 404": {says(404, "", ""), describe, fault.NotFound, []string{"no such repository"}, 0},
	} {
		err := test.call(t.Context(), client(t, test.handler, nil))
		if fault.KindOf(err) != test.kind || err == nil || fault.RetryAfter(err) != test.after {
			t.Errorf("%s: %v, want %v", name, err, test.kind)
		}
		for _, part := range test.public {
			if !strings.Contains(fault.Public(err), part) {
				t.Errorf("%s: %q lacks %q", name, fault.Public(err), part)
			}
		}
	}
}

// TestReviewers: they are asked for by what they were given as.
func TestReviewers(t *testing.T) {
	t.Parallel()
	server, _ := stand(t)
	var body bytes.Buffer
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = io.NopCloser(io.TeeReader(r.Body, &body))
		server.ServeHTTP(w, r)
	}), nil)
	reviewers := []string{"{5f1c9a00-0000-0000-0000-000000000000}", "712020:ada"}
	spec := bitbucket.PullRequestSpec{Title: "t", Source: "change", Destination: "main", Reviewers: reviewers}
	for range 2 {
		if _, err := c.EnsurePullRequest(t.Context(), secret.New(token), web, spec); err != nil {
			t.Fatal(err)
		}
	}
	if want := `"reviewers":[{"uuid":"{5f1c9a00-0000-0000-0000-000000000000}"},{"account_id":"712020:ada"}]`; !strings.Contains(body.String(), want) {
		t.Errorf("posted %s", &body)
	}
	if got := server.PullRequests("acme", "web"); len(got) != 1 || !cmp.Equal(got[0].Reviewers, reviewers) {
		t.Errorf("%+v", got)
	}
}
