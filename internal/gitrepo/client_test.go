package gitrepo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

const canary = "canary-token-41aa7c"

// bench is a client and a real git server, with a place in between for what goes wrong.
type bench struct {
	t      *testing.T
	git    *gittest.Server
	client *gitrepo.Client
	config gitrepo.Config
	temp   string
	v0     atomic.Bool // the server speaks protocol version 0 only
	// between sees every request; it answers by itself and returns true, or lets the server answer.
	between atomic.Pointer[func(w http.ResponseWriter, r *http.Request) bool]
}

func start(t *testing.T, config gitrepo.Config) *bench {
	t.Helper()
	git, err := gittest.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, git: git, temp: t.TempDir()}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.v0.Load() {
			r.Header.Del("Git-Protocol")
		}
		if between := b.between.Load(); between != nil && (*between)(w, r) {
			return
		}
		b.git.ServeHTTP(w, r)
	}))
	if config.Base, err = url.Parse(server.URL); err != nil {
		t.Fatal(err)
	}
	config.TempDir = b.temp
	b.config = config
	if b.client, err = gitrepo.New(config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.client.Close(); err != nil {
			t.Error(err)
		}
		server.Close()
		if left, _ := filepath.Glob(filepath.Join(b.temp, "*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return b
}

// eachVersion runs a test against a server that speaks protocol version 2, and one that speaks version 0 only.
func eachVersion(t *testing.T, test func(t *testing.T, v0 bool)) {
	for name, v0 := range map[string]bool{"version 0": true, "version 2": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, v0)
		})
	}
}

func (b *bench) intercept(between func(w http.ResponseWriter, r *http.Request) bool) {
	b.between.Store(&between)
}

func (b *bench) create(files map[string]string) {
	b.t.Helper()
	if err := b.git.CreateRepository(b.t.Context(), "acme/web", files); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) cli(args ...string) string {
	b.t.Helper()
	output, err := gittest.Git(b.t.Context(), b.git.Path("acme/web"), nil, args...)
	if err != nil {
		b.t.Fatal(err)
	}
	return output
}

var remote = gitrepo.Remote{Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}, Token: secret.New(canary)}

func spec(id string) gitrepo.CommitSpec {
	return gitrepo.CommitSpec{Message: "Change", AuthorName: "A", AuthorEmail: "a@example.com", Time: time.Unix(1767225600, 0), Mark: markOf("main", id)}
}

func put(path, content string) edit.FileChange {
	return edit.FileChange{Path: path, Mode: edit.ModeRegular, Content: []byte(content)}
}

// push does what a worker does: fetch, build, push.
func (b *bench) push(ctx context.Context, branch string, changes ...edit.FileChange) (*gitrepo.Commit, error) {
	snapshot, err := b.client.Fetch(ctx, remote, gitrepo.Want{Ref: "refs/heads/" + branch, Depth: 1})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := snapshot.Close(); err != nil {
			b.t.Error(err)
		}
	}()
	said := spec("j1")
	said.Mark.Branch = branch
	commit, err := snapshot.Build(ctx, changes, said)
	if err != nil {
		return nil, err
	}
	return commit, b.client.Push(ctx, remote, gitrepo.PushSpec{Branch: branch, Old: snapshot.Commit(), Commit: commit})
}

func is(r *http.Request, method, end string) bool {
	return r.Method == method && strings.HasSuffix(r.URL.Path, end)
}

func TestPushIsJudgedByGit(t *testing.T) {
	t.Parallel()
	eachVersion(t, testPushIsJudgedByGit)
}

func testPushIsJudgedByGit(t *testing.T, v0 bool) {
	for name, limit := range map[string]int64{"in memory": 1 << 20, "on disk": 1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, gitrepo.Config{MemoryLimit: limit})
			b.v0.Store(v0)
			b.create(map[string]string{"a/b/c.txt": "c\n", "a.b": "x\n", "a0": "y\n", "gone/only.txt": "z\n", "swap": "file\n", "dir/f": "g\n"})
			commit, err := b.push(t.Context(), "main", put("a/b/d.txt", "d\n"), put("a/new/deep/er.txt", "e\n"),
				edit.FileChange{Path: "gone/only.txt", Deleted: true}, edit.FileChange{Path: "swap", Deleted: true}, put("swap/inner", "i\n"),
				edit.FileChange{Path: "dir/f", Deleted: true}, put("dir", "now a file\n"),
				edit.FileChange{Path: "link", Mode: edit.ModeSymlink, Content: []byte("a/b")},
				edit.FileChange{Path: "run", Mode: edit.ModeExecutable, Content: []byte("#!/bin/sh\n")},
				edit.FileChange{Path: "sub", Mode: edit.ModeSubmodule, ID: strings.Repeat("1", 40)})
			if err != nil {
				t.Fatal(err)
			}
			if got := b.cli("rev-parse", "main"); got != commit.Hash {
				t.Errorf("main is %s, want %s", got, commit.Hash)
			}
			b.cli("fsck", "--strict", "--no-dangling")
			want := "a.b a/b/c.txt a/b/d.txt a/new/deep/er.txt a0 dir link run sub swap/inner"
			if got := strings.Join(strings.Fields(b.cli("ls-tree", "-r", "--name-only", "main")), " "); got != want {
				t.Errorf("the tree is %s\nwant %s", got, want)
			}
			modes := b.cli("ls-tree", "main", "link", "run", "sub", "dir")
			for _, line := range []string{"120000 blob", "100755 blob", "160000 commit", "100644 blob"} {
				if !strings.Contains(modes, line) {
					t.Errorf("no %s in\n%s", line, modes)
				}
			}
			if got := b.cli("log", "-1", "--format=%(trailers:key=Forge-Job,valueonly)", "main"); strings.TrimSpace(got) != "j1" {
				t.Errorf("the trailer is %q", got)
			}
			// The same again changes nothing and makes no commit.
			snapshot, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{Ref: "main", Depth: 1})
			if err != nil {
				t.Fatal(err)
			}
			same, err := snapshot.Build(t.Context(), []edit.FileChange{put("a/b/d.txt", "d\n")}, spec("j2"))
			if err = errors.Join(err, snapshot.Close()); err != nil || !same.Unchanged {
				t.Errorf("unchanged: %t, %v", same.Unchanged, err)
			}
			// Nor can anything be pushed but a commit: the branch would be removed.
			for _, none := range []*gitrepo.Commit{same, {}, {Hash: "main"}, {Hash: strings.Repeat("0", 40)}} {
				err := b.client.Push(t.Context(), remote, gitrepo.PushSpec{Branch: "main", Old: commit.Hash, Commit: none})
				if fault.KindOf(err) != fault.Internal || b.cli("rev-parse", "main") != commit.Hash {
					t.Errorf("pushed %+v: %v", none, err)
				}
			}
		})
	}
}

func TestEmptyRepository(t *testing.T) {
	t.Parallel()
	eachVersion(t, testEmptyRepository)
}

func testEmptyRepository(t *testing.T, v0 bool) {
	b := start(t, gitrepo.Config{})
	b.v0.Store(v0)
	b.create(nil)
	commit, err := b.push(t.Context(), "main", put("README.md", "# First\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := b.cli("rev-parse", "main"); got != commit.Hash {
		t.Errorf("main is %s", got)
	}
	b.cli("fsck", "--strict")
}

// TestAnswers is what servers say, by a server that really says it.
func TestAnswers(t *testing.T) {
	t.Parallel()
	huge := strings.Repeat("x", 8<<20)
	for name, tc := range map[string]struct {
		status int
		header map[string]string
		body   string
		kind   fault.Kind
		want   string
		wait   time.Duration
	}{
		"401":                {401, nil, "You may not have access to this repository or it no longer exists in this workspace. " + canary, fault.Denied, "does not exist", 0},
		"403 for a scope":    {403, nil, "Your credentials lack one or more required privilege scopes.", fault.Denied, "read:repository:bitbucket", 0},
		"403 for a network":  {403, nil, "Forbidden: https://x-token-auth:" + canary + "@bitbucket.org", fault.Denied, "IP addresses", 0},
		"404":                {404, nil, huge, fault.NotFound, "no such repository", 0},
		"410":                {410, nil, "", fault.NotFound, "no such repository", 0},
		"429":                {429, map[string]string{"Retry-After": "7"}, "", fault.Throttled, "rate limit", 7 * time.Second},
		"429 without a time": {429, nil, "", fault.Throttled, "rate limit", 0},
		"408":                {408, nil, "", fault.Unavailable, "status 408", 0},
		"421":                {421, nil, "", fault.Unavailable, "status 421", 0},
		"425":                {425, map[string]string{"Retry-After": "2"}, "", fault.Unavailable, "status 425", 2 * time.Second},
		"500":                {500, nil, "", fault.Unavailable, "status 500", 0},
		"503":                {503, map[string]string{"Retry-After": "3"}, "", fault.Unavailable, "tried again", 3 * time.Second},
		"a redirect":         {302, map[string]string{"Location": "https://elsewhere.example/"}, "", fault.NotFound, "redirects", 0},
		"an HTML page":       {200, map[string]string{"Content-Type": "text/html"}, "<html>Log in</html>", fault.Unavailable, "GITSMITH_GIT_URL", 0},
		"an empty 200":       {200, map[string]string{"Content-Type": "application/x-git-upload-pack-advertisement"}, "", fault.Unavailable, "", 0},
		"a cut line":         {200, map[string]string{"Content-Type": "application/x-git-upload-pack-advertisement"}, "001e# service=git-up", fault.Unavailable, "", 0},
		"418":                {418, nil, "", fault.Internal, "418", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, gitrepo.Config{})
			b.create(map[string]string{"a": "b"})
			b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if _, password, _ := r.BasicAuth(); password != canary {
					t.Error("the token did not come as password")
				}
				for key, value := range tc.header {
					w.Header().Set(key, value)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body) // the client stops reading
				return true
			})
			_, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{})
			if fault.KindOf(err) != tc.kind || !strings.Contains(fault.Public(err), tc.want) || fault.RetryAfter(err) != tc.wait {
				t.Errorf("%s: %q after %s", fault.KindOf(err), fault.Public(err), fault.RetryAfter(err))
			}
			if text := fault.Private(err) + err.Error(); len(text) > 2000 || strings.Contains(secret.Scrub(text), "x-token-auth:"+canary) {
				t.Errorf("the log gets %d bytes: %.200s", len(text), text)
			}
		})
	}
}

// TestRefusals are pushes that a real hook refuses, as Bitbucket words it.
func TestRefusals(t *testing.T) {
	t.Parallel()
	eachVersion(t, testRefusals)
}

func testRefusals(t *testing.T, v0 bool) {
	for name, tc := range map[string]struct {
		says string
		kind fault.Kind
		want string
	}{
		"a branch restriction": {"Permission denied to update branch main.", fault.Denied, `"Permission denied to update branch main."`},
		"read only":            {"repository is in read only mode (over 4 GB size limit).", fault.TooLarge, "size limit"},
		"a rule of their own":  {"All commits need an issue key: https://x-token-auth:" + canary + "@bitbucket.org", fault.Denied, "All commits need an issue key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, gitrepo.Config{})
			b.v0.Store(v0)
			b.create(map[string]string{"a": "b"})
			hook := "#!/bin/sh\ncat >/dev/null\necho '" + tc.says + "' >&2\nexit 1\n"
			if err := os.WriteFile(filepath.Join(b.git.Path("acme/web"), "hooks", "pre-receive"), []byte(hook), 0o755); err != nil {
				t.Fatal(err)
			}
			before := b.cli("rev-parse", "main")
			_, err := b.push(t.Context(), "main", put("x", "y"))
			if fault.KindOf(err) != tc.kind || !strings.Contains(fault.Public(err), tc.want) || strings.Contains(fault.Private(err), canary) {
				t.Errorf("%s: %s", fault.KindOf(err), fault.Private(err))
			}
			if b.cli("rev-parse", "main") != before {
				t.Error("the branch moved")
			}
		})
	}
}

func TestScopeToPush(t *testing.T) {
	t.Parallel()
	eachVersion(t, testScopeToPush)
}

func testScopeToPush(t *testing.T, v0 bool) {
	b := start(t, gitrepo.Config{})
	b.v0.Store(v0)
	b.create(map[string]string{"a": "b"})
	b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("service") != "git-receive-pack" {
			return false
		}
		http.Error(w, "Your credentials lack one or more required privilege scopes.", http.StatusForbidden)
		return true
	})
	_, err := b.push(t.Context(), "main", put("x", "y"))
	if fault.KindOf(err) != fault.Denied || !strings.Contains(fault.Public(err), "write:repository:bitbucket") {
		t.Errorf("%v", err)
	}
}

// TestRace lets somebody else push between the look at the branch and the push, and between the fetch and the look.
func TestRace(t *testing.T) {
	t.Parallel()
	eachVersion(t, testRace)
}

func testRace(t *testing.T, v0 bool) {
	for name, moment := range map[string]func(r *http.Request) bool{
		"before the look":   func(r *http.Request) bool { return r.URL.Query().Get("service") == "git-receive-pack" },
		"right at the push": func(r *http.Request) bool { return is(r, http.MethodPost, "/git-receive-pack") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, gitrepo.Config{})
			b.v0.Store(v0)
			b.create(map[string]string{"a": "b"})
			var once atomic.Bool
			b.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
				if moment(r) && !once.Swap(true) {
					if err := b.git.Commit(context.Background(), "acme/web", "main", "Other", map[string]string{"other": "x"}); err != nil {
						t.Error(err)
					}
				}
				return false
			})
			if _, err := b.push(t.Context(), "main", put("x", "y")); fault.KindOf(err) != fault.Conflict {
				t.Errorf("%v, want a conflict", err)
			}
			if commit, err := b.push(t.Context(), "main", put("x", "y")); err != nil || b.cli("rev-parse", "main") != commit.Hash {
				t.Errorf("again: %v", err)
			}
			b.cli("fsck", "--strict", "--no-dangling")
		})
	}
}

// TestDamagedPacks cuts what a fetch brings at every length, and flips bits: nothing of it is taken for a repository.
func TestDamagedPacks(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{})
	b.create(map[string]string{"a": "b", "c/d": strings.Repeat("text\n", 200)})
	answers := make(chan []byte, 1)
	b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if !asksForPack(t, r) {
			return false
		}
		recorded := httptest.NewRecorder()
		b.git.ServeHTTP(recorded, r)
		answers <- recorded.Body.Bytes()
		reset(w)
		return true
	})
	if _, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{Depth: 1}); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("cut off: %v", err)
	}
	whole := <-answers
	damage := func(answer []byte) error {
		b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if !asksForPack(t, r) {
				return false
			}
			w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
			_, _ = w.Write(answer)
			return true
		})
		snapshot, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{Depth: 1})
		if err != nil {
			return err
		}
		_, err = snapshot.Archive(t.Context(), io.Discard, gitrepo.ArchiveSpec{Format: job.ArchiveTarGz})
		return errors.Join(err, snapshot.Close())
	}
	if err := damage(whole); err != nil {
		t.Fatalf("the undamaged answer: %v", err)
	}
	packEnd := len(whole) - len("0000")
	for n := 0; n < packEnd; n += 1 + n/40 {
		if err := damage(whole[:n]); err == nil {
			t.Errorf("cut at %d of %d: taken", n, len(whole))
		} else if kind := fault.KindOf(err); kind != fault.Unavailable {
			t.Errorf("cut at %d: %s: %v", n, kind, err)
		}
	}
	begin := strings.Index(string(whole), "PACK")
	for n := begin + 12; n < packEnd; n += 7 {
		flipped := append([]byte(nil), whole...)
		flipped[n] ^= 0x10
		if err := damage(flipped); err == nil {
			t.Errorf("a bit flipped at %d of %d: taken", n, len(whole))
		}
	}
}

// asksForPack tells a request for a pack from one for refs, which version 2 sends to the same address.
func asksForPack(t *testing.T, r *http.Request) bool {
	t.Helper()
	if !is(r, http.MethodPost, "/git-upload-pack") {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return !bytes.Contains(body, []byte("command=ls-refs"))
}

func TestTimeAndInterruption(t *testing.T) {
	t.Parallel()
	b := start(t, gitrepo.Config{IdleTimeout: 50 * time.Millisecond})
	b.create(map[string]string{"a": "b"})
	release := make(chan struct{})
	defer close(release)
	b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		select {
		case <-release:
		case <-r.Context().Done():
		}
		return true
	})
	if _, err := b.client.Fetch(t.Context(), remote, gitrepo.Want{}); fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.Public(err), "nothing for too long") {
		t.Errorf("a silent server: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.client.Fetch(canceled, remote, gitrepo.Want{}); fault.KindOf(err) != fault.Interrupted {
		t.Errorf("canceled: %v", err)
	}
	late, cancelLate := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancelLate()
	if _, err := b.client.Fetch(late, remote, gitrepo.Want{}); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("late: %v", err)
	}
	caused, cancelCause := context.WithCancelCause(t.Context())
	cancelCause(fault.Newf(fault.Canceled, "by its caller"))
	if _, err := b.client.Fetch(caused, remote, gitrepo.Want{}); fault.KindOf(err) != fault.Canceled {
		t.Errorf("canceled by its caller: %v", err)
	}
}
