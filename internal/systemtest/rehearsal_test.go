package systemtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

// rehearsal is a few repositories, acme/r0 and on, and the folder of their bare repositories.
type rehearsal struct {
	*system
	git    *gittest.Server
	caller caller
}

func startRehearsal(t *testing.T, n int, files func(i int) map[string]string) *rehearsal {
	t.Helper()
	s := newSystem(t)
	root := t.TempDir()
	git, err := gittest.New(root)
	if err != nil {
		t.Fatal(err)
	}
	s.bitbucket = bitbuckettest.New(bitbuckettest.Config{Root: root, Git: git})
	for i := range n {
		name := fmt.Sprintf("r%d", i)
		if err := git.CreateRepository(t.Context(), workspace+"/"+name, files(i)); err != nil {
			t.Fatal(err)
		}
		added := bitbuckettest.Repository{Workspace: workspace, Slug: name, Name: fmt.Sprintf("Repo %d", i), Project: "CORE"}
		if _, err := s.bitbucket.AddRepository(added); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer(s.bitbucket)
	t.Cleanup(server.Close)
	s.gitURL = server.URL
	s.startReceiver()
	return &rehearsal{system: s, git: git, caller: caller{installation: installation, systemToken: s.oauthToken(4 * time.Hour)}}
}

// in runs git in a repository's folder.
func (h *rehearsal) in(name string, args ...string) string {
	h.t.Helper()
	answer, err := gittest.Git(h.t.Context(), h.git.Path(workspace+"/"+name), nil, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return answer
}

// standing is a batch as the receiver shows it.
type standing struct {
	ID      string         `json:"id"`
	State   string         `json:"state"`
	Total   int            `json:"total"`
	Totals  map[string]int `json:"totals"`
	EndedAt string         `json:"ended_at"`
	Skips   []struct {
		Reason   string   `json:"reason"`
		Examples []string `json:"examples"`
	} `json:"skips"`
}

type member struct {
	Repository  string `json:"repository"`
	State       string `json:"state"`
	Job         string `json:"job"`
	Branch      string `json:"branch"`
	Commit      string `json:"commit"`
	PullRequest struct {
		URL string `json:"url"`
	} `json:"pull_request"`
	Added   int `json:"added"`
	Removed int `json:"removed"`
	Links   struct {
		Diff string `json:"diff"`
	} `json:"links"`
}

// run makes a batch and waits until it has finished.
func (h *rehearsal) run(body string) standing {
	h.t.Helper()
	status, answer := h.call(h.caller, http.MethodPost, "/v1/batches", body)
	if status != http.StatusAccepted {
		h.t.Fatalf("status %d: %s", status, answer)
	}
	var got standing
	read := func() {
		h.t.Helper()
		got = standing{}
		if err := json.Unmarshal([]byte(answer), &got); err != nil {
			h.t.Fatalf("%v in %s", err, answer)
		}
	}
	read()
	testkit.Eventually(h.t, "batch "+got.ID+" has finished", func() error {
		_, answer = h.call(h.caller, http.MethodGet, "/v1/batches/"+got.ID, "")
		if read(); got.State != "finished" || got.EndedAt == "" {
			return fmt.Errorf("%s", answer)
		}
		return nil
	})
	for state, count := range got.Totals {
		if count == 0 {
			delete(got.Totals, state)
		}
	}
	return got
}

// members are a batch's repositories by name, read in pages.
func (h *rehearsal) members(id string) map[string]member {
	h.t.Helper()
	members := map[string]member{}
	for cursor := ""; ; {
		status, answer := h.call(h.caller, http.MethodGet, "/v1/batches/"+id+"/repositories?limit=4&cursor="+cursor, "")
		var page struct {
			Repositories []member `json:"repositories"`
			Next         string   `json:"next"`
		}
		if err := json.Unmarshal([]byte(answer), &page); err != nil || status != http.StatusOK {
			h.t.Fatalf("status %d, %v: %s", status, err, answer)
		}
		for _, each := range page.Repositories {
			members[strings.TrimPrefix(each.Repository, workspace+"/")] = each
		}
		if cursor = page.Next; cursor == "" {
			return members
		}
	}
}

// applied is the tree that git makes of a repository's main branch and the dry run's diff.
func (h *rehearsal) applied(name string, dry member) string {
	h.t.Helper()
	status, diff := h.call(h.caller, http.MethodGet, dry.Links.Diff, "")
	if status != http.StatusOK || !strings.HasPrefix(diff, "diff --git ") {
		h.t.Fatalf("diff of %s: status %d: %s", name, status, diff)
	}
	folder := h.t.TempDir()
	file := filepath.Join(folder, "the.diff")
	if err := os.WriteFile(file, []byte(diff), 0o600); err != nil {
		h.t.Fatal(err)
	}
	tree := ""
	for _, args := range [][]string{
		{"clone", "--quiet", h.git.Path(workspace + "/" + name), "clone"},
		{"-C", "clone", "apply", "--index", "--whitespace=nowarn", file},
		{"-C", "clone", "write-tree"},
	} {
		answer, err := gittest.Git(h.t.Context(), folder, nil, args...)
		if err != nil {
			h.t.Fatalf("%s: %v\n%s", name, err, diff)
		}
		tree = answer
	}
	return tree
}

const rehearsed = `{"actor":"system","dry_run":true,"concurrency":3,"repositories":[%s],"push":{
  "branch":"chore/{{ repository.slug }}-{{ values.team }}","base":"main","create":true,
  "message":"Owners of {{ repository.full_name }}\n\n{{ values.team }}, {{ index }}",
  "changes":[
    {"put":{"path":"owners/{{ repository.slug }}.txt","content":"{{ values.team }} owns {{ repository.name }} of {{ repository.project }}, {{ index }}\n"}},
    {"replace":{"paths":["*.txt"],"pattern":"team = \\w+","with":"team = {{ values.team }}","regexp":true}}],
  "pull_request":{"title":"Owners of {{ repository.slug }}","description":"By {{ values.team }}","destination":"main"}}}`

// TestRehearsal: a dry run's diffs, applied by git, are the trees that the batch which repeats it pushes. A repository that moved in
// between is left alone, unless the caller wants the change as it comes out now.
func TestRehearsal(t *testing.T) {
	t.Parallel()
	h := startRehearsal(t, 6, func(i int) map[string]string {
		files := map[string]string{"README.md": fmt.Sprintf("# R%d\n", i), "config.txt": "a = 1\nteam = old\nb = 2\n", "docs/a.md": "A\n"}
		if i == 0 { // as the batch wants it already
			files["config.txt"], files["owners/r0.txt"] = "team = team0\n", "team0 owns Repo 0 of CORE, 0\n"
		}
		return files
	})
	h.startWorker()
	var targets []string
	for i := range 6 {
		targets = append(targets, fmt.Sprintf(`{"workspace":"acme","slug":"r%d","values":{"team":"team%d"}}`, i, i))
	}
	dry := h.run(fmt.Sprintf(rehearsed, strings.Join(targets, ",")))
	if diff := cmp.Diff(map[string]int{"succeeded": 5, "unchanged": 1}, dry.Totals); diff != "" {
		t.Fatal(diff)
	}
	trees := map[string]string{}
	for name, each := range h.members(dry.ID) {
		if name == "r0" {
			continue
		}
		if each.State != "succeeded" || each.Added != 2 || each.Removed != 1 {
			t.Errorf("%s: %+v", name, each)
		}
		trees[name] = h.applied(name, each)
		if refs := h.in(name, "for-each-ref", "--format=%(refname)"); refs != "refs/heads/main" {
			t.Errorf("a dry run made %s in %s", refs, name)
		}
	}
	if err := h.git.Commit(t.Context(), workspace+"/r3", "main", "Later", map[string]string{"later.txt": "later\n"}); err != nil {
		t.Fatal(err)
	}

	done := h.run(fmt.Sprintf(`{"from":%q,"actor":"system"}`, dry.ID))
	if diff := cmp.Diff(map[string]int{"succeeded": 4, "skipped": 1}, done.Totals); diff != "" {
		t.Fatal(diff)
	}
	if len(done.Skips) != 1 || done.Skips[0].Reason != "the branch's tip has moved since the dry run" || done.Skips[0].Examples[0] != "acme/r3" {
		t.Errorf("%+v", done.Skips)
	}
	members := h.members(done.ID)
	for _, name := range []string{"r1", "r2", "r4", "r5"} {
		h.pushed(name, members[name], trees[name])
	}
	if refs := h.in("r3", "for-each-ref", "--format=%(refname)"); refs != "refs/heads/main" {
		t.Errorf("r3 was to be left alone and has %s", refs)
	}

	applied := h.run(fmt.Sprintf(`{"from":%q,"actor":"system","changed":"apply"}`, dry.ID))
	if diff := cmp.Diff(map[string]int{"succeeded": 1, "unchanged": 4}, applied.Totals); diff != "" {
		t.Fatal(diff)
	}
	h.pushed("r3", h.members(applied.ID)["r3"], "")
	if later := h.in("r3", "show", "chore/r3-team3:later.txt"); later != "later" {
		t.Errorf("r3 lost %q", later)
	}
	if refs := h.in("r0", "for-each-ref", "--format=%(refname)"); refs != "refs/heads/main" {
		t.Errorf("r0 needed nothing and has %s", refs)
	}
}

// pushed asks that a repository has the batch's one commit, sound to git, with that tree, and its pull request.
func (h *rehearsal) pushed(name string, each member, tree string) {
	h.t.Helper()
	i := strings.TrimPrefix(name, "r")
	branch := "chore/" + name + "-team" + i
	if each.State != "succeeded" || each.Branch != branch || each.Commit != h.in(name, "rev-parse", branch) {
		h.t.Errorf("%s: %+v", name, each)
	}
	if made := h.in(name, "rev-parse", branch+"^{tree}"); tree != "" && made != tree {
		h.t.Errorf("%s: the tree is %s, and the dry run's diff makes %s of main", name, made, tree)
	}
	if parent, main := h.in(name, "rev-parse", branch+"^"), h.in(name, "rev-parse", "main"); parent != main {
		h.t.Errorf("%s: the commit is on %s, not on main", name, parent)
	}
	proof := h.in(name, "log", "-1", "--format=%(trailers:key=Forge-Job-Proof,valueonly,separator=)", branch)
	if len(proof) != 43 {
		h.t.Errorf("%s: the proof is %q", name, proof)
	}
	message := fmt.Sprintf("Owners of acme/%s\n\nteam%s, %s\n\nForge-Job: %s\nForge-Job-Proof: %s", name, i, i, each.Job, proof)
	if got := strings.TrimSpace(h.in(name, "log", "-1", "--format=%B", branch)); got != message {
		h.t.Errorf("%s: %s", name, cmp.Diff(message, got))
	}
	if got, want := h.in(name, "show", branch+":owners/"+name+".txt"), fmt.Sprintf("team%s owns Repo %s of CORE, %s", i, i, i); got != want {
		h.t.Errorf("%s: %q, wanted %q", name, got, want)
	}
	h.in(name, "fsck", "--strict", "--no-dangling")
	requests := h.bitbucket.PullRequests(workspace, name)
	if len(requests) != 1 || requests[0].Title != "Owners of "+name || requests[0].Description != "By team"+i || requests[0].Source != branch || each.PullRequest.URL == "" {
		h.t.Errorf("%s: %+v, %+v", name, requests, each.PullRequest)
	}
}
