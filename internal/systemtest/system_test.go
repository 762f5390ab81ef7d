// Package systemtest runs the two binaries as an operator would, on a real redis-server and a real git http-backend behind the
// stand-in Bitbucket, called by a stand-in Forge.
package systemtest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(cleaning{m}, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// cleaning removes the binaries after the tests.
type cleaning struct{ *testing.M }

func (c cleaning) Run() int {
	status := c.M.Run()
	if folder, _ := binaries(); folder != "" {
		_ = os.RemoveAll(folder)
	}
	http.DefaultClient.CloseIdleConnections()
	return status
}

const workspace, slug = "acme", "web"

// system is everything around the two binaries.
type system struct {
	t         testing.TB
	redis     *queuetest.Redis
	proxy     *redisProxy // between the worker and its Redis
	bitbucket *bitbuckettest.Server
	bare      string // the repository's folder
	gitURL    string
	gate      gate
	issuer    *forgetest.Running
	artifacts string
	temp      string
	cache     string
	spool     string
	sealKeys  string
	api       string // base URL of the receiver
	apiOps    string
	receiver  *process
	settings  []string // of the receiver, beside the common ones
	logs      []*process

	mu       sync.Mutex
	answered [][2]string // what was asked, and the answer with its headers
	sentFITs []string
	// delivered are the system tokens that a scheduled trigger has brought.
	delivered map[string]bool
}

// keep remembers an answer for the canary.
func (s *system) keep(asked, answer string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answered = append(s.answered, [2]string{asked, answer})
}

func (s *system) answers() [][2]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.answered)
}

func (s *system) fits() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.sentFITs)
}

func startSystem(t testing.TB, files map[string]string) *system {
	t.Helper()
	s := newSystem(t)
	s.startBitbucket(files)
	s.startReceiver()
	return s
}

// newSystem is what the binaries need, without a Bitbucket yet.
func newSystem(t testing.TB) *system {
	t.Helper()
	s := &system{t: t, redis: queuetest.Start(t), delivered: map[string]bool{}, artifacts: t.TempDir(), temp: t.TempDir(), cache: t.TempDir(), spool: t.TempDir()}
	s.proxy = startRedisProxy(t, s.redis.Addr)
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	s.sealKeys = "t:" + base64.StdEncoding.EncodeToString(key)
	s.issuer = forgetest.Start(t)
	s.api = "http://" + testkit.FreeAddress(t)
	s.settings = []string{
		"GITSMITH_ADDR=" + strings.TrimPrefix(s.api, "http://"), "GITSMITH_APP_ID=" + s.issuer.AppID, "GITSMITH_JWKS_URL=" + s.issuer.JWKSURL,
		"GITSMITH_SPOOL_DIR=" + s.spool, "GITSMITH_DASHBOARD_PASSWORD=" + dashboardPassword,
	}
	return s
}

// startReceiver starts the receiver, also again after it was killed, on the same address and spool.
func (s *system) startReceiver() {
	s.t.Helper()
	s.receiver = startProcess(s.t, "api", append(s.common(s.redis.Addr), s.settings...)...)
	s.apiOps = s.receiver.ops
	s.logs = append(s.logs, s.receiver)
}

const dashboardPassword = "dashboard-password"

func (s *system) common(redisAddr string) []string {
	return []string{
		"GITSMITH_REDIS_URL=redis://" + redisAddr + "/0", "GITSMITH_SEAL_KEYS=" + s.sealKeys,
		"GITSMITH_ARTIFACT_URL=file://" + s.artifacts, "GITSMITH_LOG_LEVEL=debug", "GITSMITH_LOG_FORMAT=json",
	}
}

// startWorker starts a worker behind the Redis proxy.
func (s *system) startWorker(more ...string) *process {
	s.t.Helper()
	worker := startProcess(s.t, "worker", append(append(s.common(s.proxy.listener.Addr().String()),
		"GITSMITH_GIT_URL="+s.gitURL, "GITSMITH_API_URL="+s.gitURL, "GITSMITH_TEMP_DIR="+s.temp, "GITSMITH_CACHE_DIR="+s.cache, "GITSMITH_CONCURRENCY=2"), more...)...)
	s.logs = append(s.logs, worker)
	return worker
}

func (s *system) startBitbucket(files map[string]string) {
	s.t.Helper()
	root := s.t.TempDir()
	git, err := gittest.New(root)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := git.CreateRepository(s.t.Context(), workspace+"/"+slug, files); err != nil {
		s.t.Fatal(err)
	}
	s.bare = filepath.Join(root, workspace, slug+".git")
	s.bitbucket = bitbuckettest.New(bitbuckettest.Config{Root: root, Git: git})
	if _, err := s.bitbucket.AddRepository(bitbuckettest.Repository{Workspace: workspace, Slug: slug}); err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewServer(s.gate.around(s.bitbucket))
	s.t.Cleanup(func() {
		s.gate.open()
		server.Close()
	})
	s.gitURL = server.URL
}

// gate stops requests on their way to the stand-in Bitbucket.
type gate struct {
	mu      sync.Mutex
	match   func(r *http.Request, served []string) bool
	served  []string // "METHOD last/part?service" of what was answered since the gate was set
	reached chan struct{}
	release chan struct{}
}

// hold stops the first request that match takes, and everything after it, until open. The channel is closed when one was
// stopped.
func (g *gate) hold(match func(r *http.Request, served []string) bool) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.match, g.served, g.reached, g.release = match, nil, make(chan struct{}), make(chan struct{})
	return g.reached
}

// open lets everything pass; what was held is dropped, for whoever sent it is dead.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.release != nil {
		close(g.release)
		g.match, g.release = nil, nil
	}
}

func (g *gate) stop(r *http.Request) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.match == nil || !g.match(r, g.served) {
		return nil
	}
	select {
	case <-g.reached:
	default:
		close(g.reached)
	}
	g.match = func(*http.Request, []string) bool { return true }
	return g.release
}

func (g *gate) around(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if release := g.stop(r); release != nil {
			<-release
			return
		}
		next.ServeHTTP(w, r)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.served = append(g.served, r.Method+" "+r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	})
}

// caller is one invocation's identity.
type caller struct {
	principal    string
	installation string
	systemToken  string
	userToken    string
}

// call sends a request as Forge would and returns status and body.
func (s *system) call(who caller, method, path, body string, headers ...string) (int, string) {
	s.t.Helper()
	status, answer, err := s.ask(who, method, path, body, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	return status, answer
}

// ask is call where there may be nobody to answer.
func (s *system) ask(who caller, method, path, body string, headers ...string) (int, string, error) {
	if strings.HasPrefix(path, "/v1/") {
		if err := s.deliver(who); err != nil {
			return 0, "", err
		}
	}
	request, err := http.NewRequestWithContext(s.t.Context(), method, s.api+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	s.sign(request.Header, who, path)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, "", err
	}
	s.keep(fmt.Sprintf("answer to %s %s (%d)", method, path, response.StatusCode), fmt.Sprintln(response.Header)+string(answer))
	return response.StatusCode, string(answer), nil
}

// view is a job as the receiver shows it.
type view struct {
	ID       string `json:"id"`
	State    string `json:"state"`
	Attempts int    `json:"attempts"`
	Result   struct {
		Push struct {
			Commit   string `json:"commit"`
			Restarts int    `json:"restarts"`
		} `json:"push"`
		Clone struct {
			Commit   string `json:"commit"`
			Artifact struct {
				SHA256 string `json:"sha256"`
			} `json:"artifact"`
		} `json:"clone"`
	} `json:"result"`
	Failure struct {
		Kind   string `json:"kind"`
		Detail string `json:"detail"`
	} `json:"failure"`
}

func (s *system) submit(who caller, body string, headers ...string) view {
	s.t.Helper()
	status, answer := s.call(who, http.MethodPost, "/v1/jobs", body, headers...)
	if status != http.StatusAccepted {
		s.t.Fatalf("status %d: %s", status, answer)
	}
	return s.decode(answer)
}

func (s *system) decode(answer string) view {
	s.t.Helper()
	var got view
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		s.t.Fatalf("%v in %s", err, answer)
	}
	return got
}

// await asks for a job until it is in the state.
func (s *system) await(who caller, id, state string) view {
	s.t.Helper()
	var got view
	testkit.Eventually(s.t, "job "+id+" is "+state, func() error {
		status, answer := s.call(who, http.MethodGet, "/v1/jobs/"+id, "")
		if status != http.StatusOK {
			return fmt.Errorf("status %d: %s", status, answer)
		}
		if got = s.decode(answer); got.State != state {
			return fmt.Errorf("%s", answer)
		}
		return nil
	})
	return got
}

// git runs the git CLI on the server's repository.
func (s *system) git(args ...string) string {
	s.t.Helper()
	output, err := gitCommand(s.t.Context(), s.bare, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, output)
	}
	return strings.TrimSpace(string(output))
}

func gitCommand(ctx context.Context, folder string, args ...string) *exec.Cmd {
	command := exec.CommandContext(ctx, "git", append([]string{"-C", folder}, args...)...)
	command.Env = gittest.Environ()
	return command
}

// judge lets git say that the repository is sound, and that the job made exactly one commit on the branch.
func (s *system) judge(branch string, jobs ...string) {
	s.t.Helper()
	s.git("fsck", "--strict", "--no-dangling")
	for _, id := range jobs {
		commits := s.git("log", "--format=%H", "--grep=^Forge-Job: "+id+"$", branch)
		if n := len(strings.Fields(commits)); n != 1 {
			s.t.Errorf("job %s has %d commits on %s:\n%s", id, n, branch, commits)
		}
	}
}

// forgiveDeadWorkers shortens what a dead worker leaves behind to wait for: the repositories' locks run out now instead of in half a minute.
func (s *system) forgiveDeadWorkers() {
	s.t.Helper()
	ctx, client := s.t.Context(), s.redis.Client()
	locks, err := client.Keys(ctx, "gitsmith:*lock*").Result()
	if err != nil {
		s.t.Fatal(err)
	}
	for _, lock := range locks {
		if kind := client.Type(ctx, lock).Val(); kind == "string" && client.PTTL(ctx, lock).Val() > 0 && client.PTTL(ctx, lock).Val() < time.Minute {
			client.PExpire(ctx, lock, time.Millisecond)
		}
	}
}

// emptyQueues waits until nothing is left to do.
func (s *system) emptyQueues() {
	s.t.Helper()
	testkit.Eventually(s.t, "every job has ended", func() error {
		left, err := s.unfinished()
		if err == nil && left > 0 {
			err = fmt.Errorf("%d are left", left)
		}
		return err
	})
}

func pushBody(branch, path, content string) string {
	var quoted bytes.Buffer
	encoder := json.NewEncoder(&quoted)
	_ = encoder.Encode(content) // a string always encodes
	return fmt.Sprintf(`{"repository":{"workspace":%q,"slug":%q},"push":{"branch":%q,"message":"Add %s","changes":[{"put":{"path":%q,"content":%s}}]}}`,
		workspace, slug, branch, path, path, strings.TrimSpace(quoted.String()))
}
