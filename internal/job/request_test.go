package job_test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

const repository = `"repository":{"workspace":"acme","slug":"web"}`

// push is a body whose push has the given fields beside a change.
func push(fields string) string {
	return fmt.Sprintf(`{%s,"push":{%s,"changes":[{"put":{"path":"a","content":"x"}}]}}`, repository, fields)
}

func TestParseRequestRefuses(t *testing.T) {
	t.Parallel()
	const good = `"branch":"main","message":"m"`
	for name, tc := range map[string]struct{ body, want string }{
		"empty":               {``, "the body is empty"},
		"no JSON":             {`{"a"`, "ends too early"},
		"not JSON at all":     {`<html>`, "is no JSON"},
		"two values":          {push(good) + `{}`, "more than one JSON value"},
		"an array":            {`[]`, "the body: a JSON array stands where an object is wanted"},
		"unknown field":       {`{"repo":1}`, `unknown field "repo"`},
		"unknown inner field": {push(`"branch":"main","mesage":"m"`), `unknown field "mesage"`},
		"wrong type":          {`{` + repository + `,"clone":{"depth":"1"}}`, "clone.depth: a JSON string stands where a whole number"},
		"nothing to do":       {`{` + repository + `}`, "clone or push is missing"},
		"both":                {`{` + repository + `,"clone":{},"push":{}}`, "one of the two"},
		"no repository":       {`{"clone":{}}`, "repository.workspace"},
		"a path as workspace": {`{"repository":{"workspace":"../x","slug":"web"},"clone":{}}`, "repository.workspace"},
		"dots as slug":        {`{"repository":{"workspace":"acme","slug":".."},"clone":{}}`, "repository.slug"},
		"slug and uuid":       {`{"repository":{"workspace":"acme","slug":"web","workspace_uuid":"{x}"},"clone":{}}`, "not both"},
		"uuid without braces": {`{"repository":{"workspace_uuid":"5f1c9a00-0000-0000-0000-000000000000"},"clone":{}}`, "repository.workspace_uuid"},
		"uuid alone":          {`{"repository":{"workspace_uuid":"{5f1c9a00-0000-0000-0000-000000000000}"},"clone":{}}`, "repository.repository_uuid"},
		"actor":               {`{` + repository + `,"actor":"root","clone":{}}`, `neither "system" nor "user"`},
		"on_expiry":           {`{` + repository + `,"on_expiry":"hope","clone":{}}`, "on_expiry"},
		"ref":                 {`{` + repository + `,"clone":{"ref":"a..b"}}`, "clone.ref"},
		"archive":             {`{` + repository + `,"clone":{"archive":"rar"}}`, "clone.archive"},
		"depth":               {`{` + repository + `,"clone":{"depth":-1}}`, "clone.depth"},
		"shallow bundle":      {`{` + repository + `,"clone":{"archive":"bundle","depth":1}}`, "clone.depth: a bundle"},
		"bundle of paths":     {`{` + repository + `,"clone":{"archive":"bundle","paths":["a"]}}`, "clone.paths: a bundle"},
		"glob":                {`{` + repository + `,"clone":{"paths":["a","["]}}`, "clone.paths[1]"},
		"121 bytes of glob":   {`{` + repository + `,"clone":{"paths":["` + strings.Repeat("*{a,a}", 20) + `b"]}}`, "clone.paths[0]"},
		"long glob":           {`{` + repository + `,"clone":{"paths":["*` + strings.Repeat("a", 1024) + `"]}}`, "at most 1024 bytes"},
		"long path":           {`{` + repository + `,"clone":{"paths":["` + strings.Repeat("a", 4097) + `"]}}`, "more than 4096 bytes"},
		"branch":              {push(`"branch":"-x","message":"m"`), "push.branch"},
		"full ref as branch":  {push(`"branch":"refs/heads/x","message":"m"`), "short name"},
		"base alone":          {push(good + `,"base":"main"`), "push.base"},
		"no message":          {push(`"branch":"main","message":" "`), "push.message: it is empty"},
		"NUL in the message":  {push(`"branch":"main","message":"a\u0000"`), "push.message: it holds a NUL"},
		"long message":        {push(`"branch":"main","message":"` + strings.Repeat("x", 70_000) + `"`), "push.message: 70000 bytes"},
		"author":              {push(good + `,"author":{"name":"<","email":"a@b"}`), "push.author.name"},
		"author's email":      {push(good + `,"author":{"name":"A","email":""}`), "push.author.email"},
		"no changes":          {`{` + repository + `,"push":{` + good + `,"changes":[]}}`, "push.changes"},
		"put without content": {`{` + repository + `,"push":{` + good + `,"changes":[{"put":{"path":"a"}}]}}`, "changes[0].put.content"},
		"put of null":         {`{` + repository + `,"push":{` + good + `,"changes":[{"put":{"path":"a","content":null}}]}}`, "changes[0].put.content"},
		"half a character":    {push(`"branch":"main","message":"\ud800"`), "half of a character"},
		"the other half":      {push(`"branch":"main","message":"\\\udc00 x"`), "half of a character"},
		"two first halves":    {push(`"branch":"main","message":"\ud800\ud800"`), "half of a character"},
		"untitled request":    {push(good + `,"pull_request":{"title":""}`), "push.pull_request.title"},
		"has_file elsewhere":  {push(good + `,"has_file":"../go.mod"`), "push.has_file: path"},
		"has_file of git":     {push(good + `,"has_file":".git/config"`), "push.has_file"},
		"on_conflict":         {push(good + `,"create":true,"on_conflict":"force"`), `none of "update", "skip", "fail"`},
		"skip, no create":     {push(good + `,"on_conflict":"skip"`), `add "create": true`},
		"fail, no create":     {push(good + `,"on_conflict":"fail"`), `add "create": true`},
		"expect":              {push(good + `,"expect":{"tree":"a"}`), "push.expect: it cannot be given"},
		"no recipe's name":    {push(good + `,"recipe":{}`), "push.recipe.name"},
		"recipe's name":       {push(good + `,"recipe":{"name":"../sh"}`), "push.recipe.name"},
		"parameter's name":    {push(good + `,"recipe":{"name":"r","parameters":{"PATH":"x"}}`), `push.recipe.parameters: "PATH"`},
		"long parameter":      {push(good + `,"recipe":{"name":"r","parameters":{"a":"` + strings.Repeat("x", 1025) + `"}}`), "push.recipe.parameters.a: 1025 bytes"},
		"NUL in a parameter":  {push(good + `,"recipe":{"name":"r","parameters":{"a":"\u0000"}}`), "push.recipe.parameters.a: it holds a NUL"},
		"33 parameters":       {push(good + `,"recipe":{"name":"r","parameters":{` + numbered(33, `"p%d":""`) + `}}`), "33 parameters, at most 32"},
		"a reviewer":          {push(good + `,"pull_request":{"title":"t","reviewers":["712020:a","not one"]}`), "push.pull_request.reviewers[1]"},
		"51 reviewers":        {push(good + `,"pull_request":{"title":"t","reviewers":[` + numbered(51, `"a%d"`) + `]}`), "51 reviewers, at most 50"},
		"request to a ref":    {push(good + `,"pull_request":{"title":"t","destination":"refs/heads/stable"}`), "give the short name"},
		"request to its ref":  {push(good + `,"pull_request":{"title":"t","destination":"refs/heads/main"}`), "push.pull_request.destination"},
		"request to itself":   {push(good + `,"pull_request":{"title":"t","destination":"main"}`), "push.pull_request.destination"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := job.ParseRequest([]byte(tc.body), job.DefaultLimits())
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), tc.want) {
				t.Errorf("%v, want invalid with %q", err, tc.want)
			}
		})
	}
}

// numbered is a list in JSON, without its brackets.
func numbered(n int, format string) string {
	each := make([]string, n)
	for i := range each {
		each[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(each, ",")
}

// TestOptionsAccepted: what says how a push is made is taken as it was given.
func TestOptionsAccepted(t *testing.T) {
	t.Parallel()
	body := `{` + repository + `,"push":{"branch":"b","message":"m","create":true,"dry_run":true,"has_file":"cmd/go.mod","on_conflict":"skip",
		"recipe":{"name":"bump-2","parameters":{"to_version":"1.2"}},
		"pull_request":{"title":"t","reviewers":["712020:ada-1","{5f1c9a00-0000-0000-0000-000000000000}"]}}}`
	request, err := job.ParseRequest([]byte(body), job.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	want := &job.Push{
		Branch: "b", Message: "m", Create: true, DryRun: true, HasFile: "cmd/go.mod", OnConflict: job.OnConflictSkip,
		Recipe:      &job.Recipe{Name: "bump-2", Parameters: map[string]string{"to_version": "1.2"}},
		PullRequest: &job.PullRequest{Title: "t", Reviewers: []string{"712020:ada-1", "{5f1c9a00-0000-0000-0000-000000000000}"}},
	}
	if diff := cmp.Diff(want, request.Push); diff != "" {
		t.Error(diff)
	}
	if _, err := job.ParseRequest([]byte(push(`"branch":"main","message":"m","on_conflict":"update"`)), job.DefaultLimits()); err != nil {
		t.Errorf("the default, said aloud: %v", err)
	}
}

func TestParseRequestAccepts(t *testing.T) {
	t.Parallel()
	if _, err := job.ParseRequest([]byte(push(`"branch":"main","message":"\ud83d\ude00 \\ud800 \u00e9"`)), job.DefaultLimits()); err != nil {
		t.Errorf("a whole pair, and a backslash before a word: %v", err)
	}
	request, err := job.ParseRequest([]byte(`{`+repository+`,"clone":{"ref":"refs/heads/main","paths":["docs/**"]}}`), job.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	want := job.Request{
		Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"},
		Clone:      &job.Clone{Ref: "refs/heads/main", Paths: []string{"docs/**"}, Archive: job.ArchiveTarGz},
	}
	if diff := cmp.Diff(want, request); diff != "" {
		t.Error(diff)
	}
}

// TestRefsAsGit compares the rules with git's own, over names made of the pieces that the rules speak of.
func TestRefsAsGit(t *testing.T) {
	t.Parallel()
	gitTakes := func(name string) bool {
		return exec.CommandContext(t.Context(), "git", "check-ref-format", "--branch", name).Run() == nil
	}
	rapid.Check(t, func(t *rapid.T) {
		pieces := []string{"a", "main", "/", ".", "..", ".lock", "@", "@{", "{", "-", "~", "^", ":", "?", "*", "[", "\\", " ", "\t", "é", "HEAD", "\x7f"}
		name := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 1, 4).Draw(t, "pieces"), "")
		if name == "@" || strings.HasPrefix(name, "@{") || name == "-" || strings.HasPrefix(name, "HEAD") && strings.Contains(name, "@{") {
			return // `git check-ref-format --branch` takes these for revisions of the current repository, not for names
		}
		if flaw := job.RefFlaw(name); (flaw == "") != gitTakes(name) {
			t.Fatalf("%q: we say %q, git takes it: %t", name, flaw, gitTakes(name))
		}
	})
}

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(push(`"branch":"main","message":"m"`)))
	f.Add([]byte(`{` + repository + `,"clone":{"ref":"v1","archive":"zip","paths":["**/*.md"]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		request, err := job.ParseRequest(body, job.DefaultLimits())
		if err != nil {
			if kind := fault.KindOf(err); kind != fault.Invalid && kind != fault.TooLarge {
				t.Fatalf("%s: %v", kind, err)
			}
			return
		}
		if (request.Clone == nil) == (request.Push == nil) {
			t.Fatal("neither a clone nor a push, or both")
		}
		if err := request.Repository.Validate(); err != nil {
			t.Fatal(err)
		}
	})
}
