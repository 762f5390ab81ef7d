package gitrepo_test

import (
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

func TestRefsAreFound(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	b.create(map[string]string{"a": "1"})
	first := b.cli("rev-parse", "main")
	b.cli("-c", "user.name=T", "-c", "user.email=t@example.com", "tag", "-a", "-m", "v1", "v1", "main")
	b.cli("-c", "user.name=T", "-c", "user.email=t@example.com", "tag", "-a", "-m", "of a tag", "v1-again", "v1")
	b.cli("branch", "topic/x", "main")
	if err := b.git.Commit(t.Context(), "acme/web", "main", "Second", map[string]string{"a": "2"}); err != nil {
		t.Fatal(err)
	}
	tip := b.cli("rev-parse", "main")
	for ref, want := range map[string][2]string{
		"": {tip, "refs/heads/main"}, "HEAD": {tip, "refs/heads/main"}, "main": {tip, "refs/heads/main"}, "refs/heads/topic/x": {first, "refs/heads/topic/x"},
		"v1": {first, "refs/tags/v1"}, "v1-again": {first, "refs/tags/v1-again"}, first: {first, ""},
	} {
		snapshot, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{Ref: ref, Depth: 1})
		if err != nil {
			t.Errorf("%q: %v", ref, err)
			continue
		}
		if snapshot.Commit() != want[0] || snapshot.Ref() != want[1] {
			t.Errorf("%q: %s %s, want %v", ref, snapshot.Commit(), snapshot.Ref(), want)
		}
		if err := snapshot.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, ref := range []string{"nowhere", "refs/heads/nowhere", strings.Repeat("1", 40)} {
		if _, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{Ref: ref, Depth: 1}); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%q: %s", ref, fault.Private(err))
		}
	}
	b.cli("symbolic-ref", "HEAD", "refs/heads/nowhere")
	if _, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{}); fault.KindOf(err) != fault.NotFound || !strings.Contains(fault.Public(err), "HEAD") {
		t.Errorf("HEAD that points nowhere: %v", err)
	}
}

func TestSHA256IsRefused(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	b.create(nil)
	path := b.git.Path("acme/web")
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "-q", "--bare", "--object-format=sha256", "--initial-branch=main", path}} {
		if _, err := gittest.Git(t.Context(), "", nil, args...); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.git.Commit(t.Context(), "acme/web", "main", "m", map[string]string{"a": "b"}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{}); fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), "SHA-256") {
		t.Errorf("%v", err)
	}
}

func TestFindJob(t *testing.T) {
	t.Parallel()
	eachVersion(t, testFindJob)
}

func testFindJob(t *testing.T, v0 bool) {
	b := start(t, gitrepo.Config{})
	b.v0.Store(v0)
	b.create(map[string]string{"a": "1"})
	since := b.cli("rev-parse", "main")
	made, err := b.push(t.Context(), "main", put("x", "y"))
	if err != nil {
		t.Fatal(err)
	}
	tip, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{Ref: "refs/heads/main", Depth: 1})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{"j1": true, "j": false, "j2": false} {
		if parent, made := tip.MadeBy(markOf("main", id)); made != want || made && parent != since {
			t.Errorf("made by %s: %t on %q", id, made, parent)
		}
	}
	if err := tip.Close(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"2", "3"} {
		if err := b.git.Commit(t.Context(), "acme/web", "main", "Later\n\nForge-Job: other\n", map[string]string{"a": text}); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		branch, id, since, want string
	}{
		"among those since":        {"main", "j1", since, made.Hash},
		"since something unknown":  {"main", "j1", strings.Repeat("1", 40), made.Hash},
		"without a start":          {"main", "j1", "", made.Hash},
		"nobody's":                 {"main", "j2", since, ""},
		"not a part of another id": {"main", "j", since, ""},
		"since after it":           {"main", "j1", made.Hash, ""},
		"no such branch":           {"topic", "j1", since, ""},
	} {
		got, found, err := b.client.FindJob(t.Context(), remote, markOf(tc.branch, tc.id), tc.since)
		if err != nil || got != tc.want || found != (tc.want != "") {
			t.Errorf("%s: %q %t %v, want %q", name, got, found, err, tc.want)
		}
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{MaxRepository: 100})
	b.create(map[string]string{"a": strings.Repeat("0123456789abcdef", 100)})
	if _, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{}); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("%v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"http://bitbucket.org", "ftp://127.0.0.1", "https://x-token-auth:" + canary + "@bitbucket.org", "https://"} {
		parsed, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := gitrepo.New(gitrepo.Config{Base: parsed, TempDir: t.TempDir()}); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", base, err)
		}
	}
}
