package systemtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
	"github.com/gitsmith/gitsmith/internal/job"
)

// fleet is many repositories behind git http-backend, and a batch over all of them.
type fleet struct {
	s       *system
	who     caller // brings a system token
	slugs   []string
	folders []string
	id      string // of the batch
	branch  string

	polls, silent int // looks at the batch that were answered, and that were not
}

// startFleet serves repositories r0, r1, … by git http-backend behind the stand-in Bitbucket behind around, and starts the receiver.
func startFleet(t testing.TB, count int, around func(http.Handler) http.Handler) *fleet {
	t.Helper()
	s := newSystem(t)
	s.settings = append(s.settings, "GITSMITH_LOG_LEVEL=warn")
	root := t.TempDir()
	git, err := gittest.New(root)
	if err != nil {
		t.Fatal(err)
	}
	s.bitbucket = bitbuckettest.New(bitbuckettest.Config{Root: root, Git: git})
	f := &fleet{s: s}
	for i := range count {
		slug := "r" + strconv.Itoa(i)
		folder := git.Path(workspace + "/" + slug)
		if i == 0 {
			err = git.CreateRepository(t.Context(), workspace+"/"+slug, map[string]string{"README.md": "# Web\n", "src/main.go": "package main\n"})
		} else {
			err = os.CopyFS(folder, os.DirFS(f.folders[0])) // to make each one costs half a minute in five hundred
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.bitbucket.AddRepository(bitbuckettest.Repository{Workspace: workspace, Slug: slug}); err != nil {
			t.Fatal(err)
		}
		f.slugs, f.folders = append(f.slugs, slug), append(f.folders, folder)
	}
	server := httptest.NewServer(around(s.bitbucket))
	t.Cleanup(server.Close)
	s.gitURL = server.URL
	s.startReceiver()
	f.who = caller{installation: installation, systemToken: s.oauthToken(4 * time.Hour)}
	return f
}

// submit asks for a batch that adds a file on a new branch and opens a pull request in each repository.
func (f *fleet) submit(branch string, concurrency int) {
	f.s.t.Helper()
	targets := make([]map[string]any, len(f.slugs))
	for i, slug := range f.slugs {
		targets[i] = map[string]any{"workspace": workspace, "slug": slug}
	}
	body, err := json.Marshal(map[string]any{
		"repositories": targets, "concurrency": concurrency, "actor": "system",
		"push": map[string]any{
			"branch": branch, "create": true, "message": "Add the licence of {{ repository.slug }}",
			"changes":      []any{map[string]any{"put": map[string]any{"path": branch + "/LICENCE", "content": "Licence of {{ repository.full_name }}\n"}}},
			"pull_request": map[string]any{"title": "Add the licence"},
		},
	})
	if err != nil {
		f.s.t.Fatal(err)
	}
	status, answer := f.s.call(f.who, http.MethodPost, "/v1/batches", string(body), "Idempotency-Key", branch)
	if status != http.StatusAccepted {
		f.s.t.Fatalf("status %d: %s", status, answer)
	}
	made := f.read(answer)
	f.id, f.branch = made.ID, branch
}

func (f *fleet) read(answer string) batch.Status {
	f.s.t.Helper()
	var status batch.Status
	if err := json.Unmarshal([]byte(answer), &status); err != nil {
		f.s.t.Errorf("%v in %s", err, answer)
	}
	sum := 0
	for _, count := range status.Totals {
		sum += count
	}
	if sum != len(f.slugs) || status.Total != len(f.slugs) {
		f.s.t.Errorf("the totals come to %d of %d: %s", sum, len(f.slugs), answer)
	}
	return status
}

// look asks how the batch stands, and sees to it that the totals add up; an error where nobody can say now.
func (f *fleet) look() (batch.Status, error) {
	f.s.t.Helper()
	code, answer, err := f.s.ask(f.who, http.MethodGet, "/v1/batches/"+f.id, "")
	if err != nil || code >= http.StatusInternalServerError {
		f.silent++
		return batch.Status{}, fmt.Errorf("status %d: %s (%w)", code, answer, err)
	}
	if code != http.StatusOK {
		f.s.t.Errorf("status %d: %s", code, answer)
		return batch.Status{}, fmt.Errorf("status %d", code)
	}
	f.polls++
	return f.read(answer), nil
}

// await looks until the batch is as wanted.
func (f *fleet) await(limit time.Duration, what string, wanted func(batch.Status) bool) batch.Status {
	f.s.t.Helper()
	var last batch.Status
	within(f.s.t, limit, what, func() error {
		status, err := f.look()
		if err != nil {
			return err
		}
		if last = status; !wanted(status) {
			return fmt.Errorf("%s %q %v", status.State, status.Reason, status.Totals)
		}
		return nil
	})
	return last
}

func isFinished(status batch.Status) bool {
	return status.State == batch.StateFinished && !status.EndedAt.IsZero()
}

// act asks something of the batch that must be granted.
func (f *fleet) act(what string) batch.Status {
	f.s.t.Helper()
	code, answer := f.s.call(f.who, http.MethodPost, "/v1/batches/"+f.id+"/"+what, "")
	if code != http.StatusOK {
		f.s.t.Fatalf("%s: status %d: %s", what, code, answer)
	}
	return f.read(answer)
}

// items are all repositories of the batch as the receiver lists them.
func (f *fleet) items() []batch.Item {
	f.s.t.Helper()
	var all []batch.Item
	for cursor := ""; ; {
		code, answer := f.s.call(f.who, http.MethodGet, "/v1/batches/"+f.id+"/repositories?limit=100&cursor="+cursor, "")
		var page struct {
			Repositories []batch.Item
			Next         string
		}
		if err := json.Unmarshal([]byte(answer), &page); err != nil || code != http.StatusOK {
			f.s.t.Fatalf("status %d: %s (%v)", code, answer, err)
		}
		all = append(all, page.Repositories...)
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if len(all) != len(f.slugs) {
		f.s.t.Errorf("%d repositories are listed of %d", len(all), len(f.slugs))
	}
	return all
}

// found is what the git server, the stand-in Bitbucket and Redis hold of a batch.
type found struct {
	commits, pullRequests int
	duplicates, lost      int // of both
	unsound               int // repositories that git fsck --strict finds fault with
	apart                 int // repositories whose job's record and place in the ledger differ
}

// judge compares the batch's repositories with what was to be done: one commit by the batch's job and one pull request, or none of both
// where it was refused.
func (f *fleet) judge(refused func(i int) bool) (r found) {
	f.s.t.Helper()
	for i, item := range f.items() {
		want := 1
		if refused(i) {
			want = 0
		}
		if _, err := os.Stat(f.folders[i]); err != nil {
			continue // it was never there
		}
		trailers := f.git(i, "log", "--format=%(trailers:key=Forge-Job,valueonly,separator=%x20)", f.branch, "--not", "main")
		commits := strings.Count(trailers, batch.JobID(f.id, i))
		if len(strings.Fields(trailers)) != commits {
			f.s.t.Errorf("%s has commits of others: %q", f.slugs[i], trailers)
		}
		if commits > 0 && item.Commit != f.git(i, "rev-parse", f.branch) {
			f.s.t.Errorf("%s: the branch is not at %s, which the receiver names", f.slugs[i], item.Commit)
		}
		pullRequests := 0
		for _, each := range f.s.bitbucket.PullRequests(workspace, f.slugs[i]) {
			if each.Source == f.branch {
				pullRequests++
			}
		}
		if commits != want || pullRequests != want {
			f.s.t.Errorf("%s has %d commits and %d pull requests, want %d of each: %+v %+v", f.slugs[i], commits, pullRequests, want, item, item.Failure)
		}
		r.commits, r.pullRequests = r.commits+commits, r.pullRequests+pullRequests
		r.duplicates += max(commits-want, 0) + max(pullRequests-want, 0)
		r.lost += max(want-commits, 0) + max(want-pullRequests, 0)
		if output, err := gitCommand(f.s.t.Context(), f.folders[i], "fsck", "--strict", "--no-dangling").CombinedOutput(); err != nil {
			f.s.t.Errorf("%s: %v\n%s", f.slugs[i], err, output)
			r.unsound++
		}
	}
	r.apart = f.compareLedger()
	return r
}

// git asks a repository something; the answer is empty where there is no such branch.
func (f *fleet) git(i int, arguments ...string) string {
	output, _ := gitCommand(f.s.t.Context(), f.folders[i], arguments...).Output()
	return strings.TrimSpace(string(output))
}

// compareLedger holds every job's record against the sets of the batch's ledger: each repository is in the one set that its record says.
func (f *fleet) compareLedger() (apart int) {
	f.s.t.Helper()
	client, ctx, prefix := f.s.redis.Client(), f.s.t.Context(), "gitsmith:{"+installation+"}:"
	places := map[string][]batch.ItemState{}
	for _, state := range append(batch.ItemStates(), "pending") {
		members, err := client.ZRange(ctx, prefix+"batch:"+f.id+":"+string(state), 0, -1).Result()
		if err != nil {
			f.s.t.Fatal(err)
		}
		for _, member := range members {
			places[member] = append(places[member], state)
		}
	}
	for i := range f.slugs {
		fields, err := client.HGetAll(ctx, prefix+"job:"+batch.JobID(f.id, i)).Result()
		if err != nil {
			f.s.t.Fatal(err)
		}
		want := batch.Queued // there is no job before its turn
		var result job.Result
		if len(fields) > 0 {
			text := fields["result"]
			for last, part := text, 1; len(last) == 64; part++ { // a long one stands in several fields
				last = fields["result."+strconv.Itoa(part)]
				text += last
			}
			if text != "" {
				if err := json.Unmarshal([]byte(text), &result); err != nil {
					f.s.t.Errorf("%v in %s", err, text)
				}
			}
			want = batch.StateOf(job.State(fields["state"]), result)
		} else if have := places[strconv.Itoa(i)]; len(have) == 1 && have[0] == batch.Canceled {
			continue // the batch ended before its turn
		}
		if have := places[strconv.Itoa(i)]; len(have) != 1 || have[0] != want {
			f.s.t.Errorf("%s: the record says %q, the ledger %q", f.slugs[i], want, have)
			apart++
		}
	}
	return apart
}

// dam holds requests for some repositories back while it is closed.
type dam struct {
	mu     sync.Mutex
	from   int           // number of the first repository that is held
	opened chan struct{} // nil while it is open
}

func (d *dam) close(from int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.from, d.opened = from, make(chan struct{})
}

func (d *dam) open() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.opened != nil {
		close(d.opened)
		d.opened = nil
	}
}

func (d *dam) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		opened := d.opened
		if number, err := strconv.Atoi(strings.TrimPrefix(slugOf(r), "r")); err != nil || number < d.from {
			opened = nil
		}
		d.mu.Unlock()
		if opened != nil {
			select {
			case <-opened:
			case <-r.Context().Done():
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// slugOf is the repository that a request is about, over git or REST.
func slugOf(r *http.Request) string {
	path := strings.TrimPrefix(r.URL.Path, "/2.0/repositories")
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 3)
	if len(parts) < 2 {
		return ""
	}
	return strings.TrimSuffix(parts[1], ".git")
}
