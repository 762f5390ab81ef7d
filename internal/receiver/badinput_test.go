package receiver

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// push is a body with these changes.
func push(changes ...string) string {
	return `{"repository": {"workspace": "acme", "slug": "web"}, "push": {"branch": "main", "message": "m", "changes": [` + strings.Join(changes, ",") + `]}}`
}

func put(path string) string {
	return fmt.Sprintf(`{"put": {"path": %s, "content": "x"}}`, path)
}

// field is a push with one field of it replaced or added.
func field(text string) string {
	return strings.Replace(push(put(`"a"`)), `"message": "m"`, text, 1)
}

func repository(text string) string { return `{"repository": ` + text + `, "clone": {}}` }

func clone(text string) string {
	return `{"repository": {"workspace": "acme", "slug": "web"}, "clone": {` + text + `}}`
}

// TestBadInput: each has a problem of its own which names the field and says what to do; nothing is queued.
func TestBadInput(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	many := make([]string, 1001)
	for i := range many {
		many[i] = put(fmt.Sprintf(`"f%d"`, i))
	}
	cases := map[string]struct{ body, says string }{
		"no body":                    {"", "the body is empty"},
		"no JSON":                    {`{"repository": nope}`, "the body is no JSON"},
		"half a JSON":                {`{"repository": {`, "ends too early"},
		"two JSONs":                  {pushBody + pushBody, "more than one JSON value"},
		"an array":                   {`[]`, "a JSON array stands where an object is wanted"},
		"another type":               {`{"repository": 5}`, "repository: a JSON number"},
		"an unknown field":           {`{"repo": {}}`, `unknown field "repo"`},
		"an unknown field below":     {field(`"message": "m", "force": true`), `unknown field "force"`},
		"an unknown change":          {push(`{"chmod": {"path": "a"}}`), `unknown field "chmod"`},
		"nothing to do":              {`{"repository": {"workspace": "acme", "slug": "web"}}`, "clone or push is missing"},
		"two things to do":           {strings.Replace(pushBody, `"push"`, `"clone": {}, "push"`, 1), "clone and push"},
		"another actor":              {strings.Replace(pushBody, "{", `{"actor": "root",`, 1), `actor: "root" is neither`},
		"another on_expiry":          {strings.Replace(pushBody, "{", `{"on_expiry": "pray",`, 1), `on_expiry: "pray" is not "wait"`},
		"waiting as a user":          {strings.Replace(pushBody, "{", `{"on_expiry": "wait",`, 1), `on_expiry: "wait" is for the system actor`},
		"no repository":              {repository(`{}`), "repository.workspace"},
		"no workspace's slug":        {repository(`{"workspace": "ac/me", "slug": "web"}`), `repository.workspace: "ac/me"`},
		"no repository's slug":       {repository(`{"workspace": "acme", "slug": ".."}`), `repository.slug: ".."`},
		"no workspace's UUID":        {repository(`{"workspace_uuid": "11111111-2222-4333-8444-555555555555", "repository_uuid": "x"}`), "repository.workspace_uuid"},
		"no repository's UUID":       {repository(`{"workspace_uuid": "{11111111-2222-4333-8444-555555555555}", "repository_uuid": "{x}"}`), "repository.repository_uuid"},
		"slugs and UUIDs":            {repository(`{"workspace": "acme", "slug": "web", "workspace_uuid": "x"}`), "not both"},
		"a ref with dots":            {clone(`"ref": "a..b"`), "it holds '..'"},
		"a ref with a space":         {clone(`"ref": "a b"`), "a space"},
		"a ref with a lock":          {clone(`"ref": "refs/heads/a.lock"`), "'.lock'"},
		"a ref that is an option":    {clone(`"ref": "--upload-pack=x"`), "begins with '-'"},
		"a ref with braces":          {clone(`"ref": "main@{1}"`), "it holds '@{'"},
		"a ref of 241 bytes":         {clone(`"ref": "` + strings.Repeat("r", 241) + `"`), "longer than 240"},
		"another archive":            {clone(`"archive": "rar"`), `clone.archive: "rar"`},
		"a negative depth":           {clone(`"depth": -1`), "clone.depth: -1"},
		"a glob that is none":        {clone(`"paths": ["[a"]`), "clone.paths[0]"},
		"a bundle of paths":          {clone(`"archive": "bundle", "paths": ["a"]`), "clone.paths: a bundle"},
		"no branch":                  {strings.Replace(push(put(`"a"`)), "main", "", 1), "push.branch"},
		"a full ref as a branch":     {strings.Replace(push(put(`"a"`)), "main", "refs/heads/main", 1), "short name"},
		"a base without create":      {field(`"message": "m", "base": "main"`), `"create": true`},
		"no message":                 {field(`"message": " \n"`), "push.message: it is empty"},
		"a long message":             {field(`"message": "` + strings.Repeat("m", 65537) + `"`), "push.message: 65537 bytes"},
		"an author in brackets":      {field(`"message": "m", "author": {"name": "Eve <eve>", "email": "e@example.com"}`), "push.author.name"},
		"a request without a title":  {field(`"message": "m", "pull_request": {"title": ""}`), "push.pull_request.title"},
		"a request to itself":        {field(`"message": "m", "pull_request": {"title": "t", "destination": "main"}`), "push.pull_request.destination"},
		"no changes":                 {push(), "push.changes: it is empty"},
		"1,001 changes":              {push(many...), "1001 changes, at most 1000"},
		"an empty change":            {push(`{}`), "changes[0]: it is empty"},
		"two changes in one":         {push(`{"put": {"path": "a", "content": ""}, "delete": {"path": "b"}}`), "changes[0]: it holds 2"},
		"two changes to one path":    {push(put(`"a"`), `{"delete": {"path": "a"}}`), "changes[1].delete.path"},
		"two moves from one path":    {push(`{"move": {"from": "a", "to": "b"}}`, `{"move": {"from": "a", "to": "c"}}`), "changes[1].move.from"},
		"a file that is a directory": {push(put(`"a"`), put(`"a/b"`)), "changes[1].put.path"},
		"invalid base64":             {push(`{"put": {"path": "a", "content": "%%%", "encoding": "base64"}}`), "changes[0].put.content"},
		"another encoding":           {push(`{"put": {"path": "a", "content": "", "encoding": "rot13"}}`), "changes[0].put.encoding"},
		"a submodule's mode":         {push(`{"put": {"path": "a", "content": "", "mode": "160000"}}`), "changes[0].put.mode"},
		"a symlink to nowhere":       {push(`{"put": {"path": "a", "content": "", "mode": "120000"}}`), "changes[0].put.content"},
		"a symlink that git reads":   {push(`{"put": {"path": ".gitmodules", "content": "x", "mode": "120000"}}`), "changes[0].put"},
		"content in Latin-1":         {push("{\"put\": {\"path\": \"a\", \"content\": \"caf\xe9\"}}"), `"encoding": "base64"`},
		"a regexp that is none":      {push(`{"replace": {"paths": ["**"], "pattern": "a(", "with": "b", "regexp": true}}`), "changes[0].replace.pattern"},
		"an empty pattern":           {push(`{"replace": {"paths": ["**"], "pattern": "", "with": "b"}}`), "changes[0].replace.pattern"},
		"a replace without paths":    {push(`{"replace": {"paths": [], "pattern": "a", "with": "b"}}`), "changes[0].replace.paths"},
		"a patch that is none":       {push(`{"patch": {"diff": "hello"}}`), "changes[0].patch.diff"},
		"a patch with a broken hunk": {push(`{"patch": {"diff": "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n-a\n"}}`), "changes[0].patch.diff"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			header := with(h.user(), "Content-Type", "application/json")
			refused(t, h.do(t, http.MethodPost, "/v1/jobs", header, tc.body), http.StatusBadRequest, fault.Invalid, tc.says)
		})
	}
	t.Cleanup(func() {
		if n := len(h.jobs.queued()); n != 0 {
			t.Errorf("%d jobs are queued", n)
		}
	})
}

// TestBadPaths: whatever would leave the tree or touch .git on any system that checks it out.
func TestBadPaths(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for name, path := range map[string]string{
		"empty": `""`, "absolute": `"/etc/passwd"`, "the parent": `"../a"`, "a parent below": `"a/../../b"`, "itself": `"./a"`, "an empty part": `"a//b"`,
		"a slash at the end": `"a/"`, "NUL": `"a\u0000b"`, "a drive": `"C:/a"`, "backslashes": `"..\\a"`,
		"git": `".git"`, "git below": `"a/.git/hooks/post-checkout"`, "git in capitals": `".GIT/config"`, "git in both": `".gIt/config"`,
		"git with a dot": `".git./config"`, "git with a space": `".git /config"`, "git's short name": `"GIT~1/config"`,
		"git's stream": `".git::$INDEX_ALLOCATION/config"`, "git for HFS": `".g\u200cit/config"`, "git for HFS, marked": `"\ufeff.git/config"`,
		"too long": `"` + strings.Repeat("a/", 2048) + `b"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, change := range []string{
				put(path), `{"delete": {"path": ` + path + `}}`, `{"move": {"from": ` + path + `, "to": "z"}}`, `{"move": {"from": "z", "to": ` + path + `}}`,
			} {
				answer := h.do(t, http.MethodPost, "/v1/jobs", h.user(), push(change))
				refused(t, answer, http.StatusBadRequest, fault.Invalid, "changes[0].")
			}
		})
	}
	t.Cleanup(func() {
		if n := len(h.jobs.queued()); n != 0 {
			t.Errorf("%d jobs are queued", n)
		}
	})
}

// TestBadRequests: what is wrong about a request beside its JSON.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	small := h.build(t, func(config *Config) { config.MaxBody = 100 })
	refused(t, h.to(t, small, http.MethodPost, "/v1/jobs", h.user(), pushBody), http.StatusRequestEntityTooLarge, fault.TooLarge, "100 bytes", "GITSMITH_MAX_BODY")

	for _, fields := range [][]string{
		{"Content-Type", "text/plain"},
		{"Content-Type", "application/json;;"},
		{"Content-Type", "application/x-www-form-urlencoded"},
		{"Content-Type", "application/json", "Content-Encoding", "gzip"},
	} {
		refused(t, h.do(t, http.MethodPost, "/v1/jobs", with(h.user(), fields...), pushBody), http.StatusUnsupportedMediaType, fault.Invalid, "send the job")
	}
	for _, keys := range [][]string{{""}, {strings.Repeat("k", 256)}, {"a b"}, {"a\tb"}, {"schlüssel"}, {"a", "a"}, {"a\x7f"}} {
		header := h.user()
		header["Idempotency-Key"] = keys
		refused(t, h.do(t, http.MethodPost, "/v1/jobs", header, pushBody), http.StatusBadRequest, fault.Invalid, "Idempotency-Key", "1 to 255 visible ASCII")
	}
	if n := len(h.jobs.queued()); n != 0 {
		t.Errorf("%d jobs are queued", n)
	}
	h.submit(t, with(h.user(), "Idempotency-Key", strings.Repeat("~", 255)), pushBody)
}
