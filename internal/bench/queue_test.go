package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
)

const (
	repositories = 200
	atOnce       = 8
)

// script is what a shell script does for one repository: $1 is its number, $2 the server, $3 a folder, $4 the file, $5 a word.
const script = `set -e
git clone --quiet --depth 1 "$2/bench/r$1.git" "$3/$1"
cd "$3/$1"
sed -i "1s/^[a-z0-9]*/$5/" "$4"
git commit --quiet --all --message "one line"
git push --quiet origin main
`

// fleet is many small repositories, edited through the queue by the real receiver and a real worker, and by the command line.
type fleet struct {
	*intake
	server *gitServer
	root   string
	worker string // the program
	tip    string
	words  int
	jobs   int // that were asked for
}

func startFleet(b *testing.B, folder string) *fleet {
	root, err := os.MkdirTemp(folder, "fleet-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(root) })
	built, err := Build(b.Context(), cacheFolder, Small())
	if err != nil {
		b.Fatal(err)
	}
	f := &fleet{intake: startIntake(b), server: startGitServer(b, filepath.Join(root, "server")), root: root, worker: buildProgram(b, "worker")}
	for i := range repositories {
		path := f.path(i)
		gitOutput(b, "", "clone", "--quiet", "--bare", "--no-local", built, path)
		for _, setting := range []string{"http.receivepack", "receive.fsckObjects", "uploadpack.allowAnySHA1InWant"} {
			gitOutput(b, path, "config", setting, "true")
		}
	}
	f.tip = gitOutput(b, f.path(0), "rev-parse", "main")
	return f
}

func (f *fleet) path(i int) string { return f.server.git.Path(fmt.Sprintf("%s/r%d", Workspace, i)) }

// reset puts all repositories back.
func (f *fleet) reset(filter bool) {
	f.tb.Helper()
	for i := range repositories {
		gitOutput(f.tb, f.path(i), "update-ref", "refs/heads/main", f.tip)
		gitOutput(f.tb, f.path(i), "config", "uploadpack.allowFilter", strconv.FormatBool(filter))
	}
	f.words++
	f.server.traffic()
}

// byXargs edits all of them by the command line.
func (f *fleet) byXargs() (sample Sample) {
	f.tb.Helper()
	f.reset(false)
	folder := filepath.Join(f.root, "trees")
	if err := os.Mkdir(folder, 0o750); err != nil {
		f.tb.Fatal(err)
	}
	start := time.Now()
	process := exec.CommandContext(f.tb.Context(), "xargs", "-P", strconv.Itoa(atOnce), "-I{}", "sh", "-c", script, "sh", "{}",
		f.server.base, folder, Small().Edited(), fmt.Sprintf("word%d", f.words))
	process.Env = gitEnvironment()
	var numbers strings.Builder
	for i := range repositories {
		fmt.Fprintln(&numbers, i)
	}
	process.Stdin = strings.NewReader(numbers.String())
	if out, err := process.CombinedOutput(); err != nil {
		f.tb.Fatalf("xargs: %v: %s", err, out)
	}
	sample.Wall = time.Since(start)
	sample.CPU = process.ProcessState.UserTime() + process.ProcessState.SystemTime()
	sample.Traffic = f.server.traffic()
	f.check()
	if err := os.RemoveAll(folder); err != nil {
		f.tb.Fatal(err)
	}
	return sample
}

// byWorkers edits all of them by a new worker whose tip cache is in a folder.
func (f *fleet) byWorkers(filter bool, tips string) (sample Sample) {
	f.tb.Helper()
	f.reset(filter)
	private := freeAddress(f.tb)
	worker, log := startBinary(f.tb, f.worker, append([]string{
		"GITSMITH_GIT_URL=" + f.server.base, "GITSMITH_API_URL=" + f.server.base, "GITSMITH_CONCURRENCY=" + strconv.Itoa(atOnce),
		"GITSMITH_CACHE_DIR=" + tips, "GITSMITH_TEMP_DIR=" + filepath.Join(f.root, "temp"), "GITSMITH_OPS_ADDR=" + private,
	}, f.common...))
	defer worker.stop()
	f.awaitReady("http://"+private+"/readyz", log)
	start := time.Now()
	f.submit()
	f.awaitDone(log)
	sample.Wall, sample.RSS = time.Since(start), peakMemory(strconv.Itoa(worker.process.Process.Pid))
	sample.Traffic = f.server.traffic()
	worker.stop()
	sample.CPU = worker.process.ProcessState.UserTime() + worker.process.ProcessState.SystemTime()
	f.check()
	return sample
}

// submit asks the receiver for one push a repository.
func (f *fleet) submit() {
	f.tb.Helper()
	token := f.issuer.OAuthToken(forgetest.OAuthOptions{
		ExpiresAt: time.Now().Add(2 * time.Hour), Scopes: []string{"read:repository:bitbucket", "write:repository:bitbucket"},
	})
	const body = `{"repository": {"workspace": "bench", "slug": "r%d"}, "push": {"branch": "main", "message": "one line", "changes": [
		{"replace": {"paths": [%q], "pattern": "\\A\\w+", "with": "word%d", "regexp": true}}]}}`
	drive(f.tb, repositories, func(i int) error {
		request, err := http.NewRequestWithContext(f.tb.Context(), http.MethodPost, f.url, strings.NewReader(fmt.Sprintf(body, i, Small().Edited(), f.words)))
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+f.issuer.FIT(forgetest.FITOptions{Life: fitLife, Principal: "user"}))
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set(forge.HeaderSystemToken, token)
		answer, err := f.client.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err == nil && answer.StatusCode != http.StatusAccepted {
			err = fmt.Errorf("status %d: %s", answer.StatusCode, text)
		}
		return err
	})
	f.jobs += repositories
}

// awaitDone waits until every job that was asked for is completed.
func (f *fleet) awaitDone(log string) {
	f.tb.Helper()
	ctx, cancel := context.WithTimeout(f.tb.Context(), 5*time.Minute)
	defer cancel()
	inspector := asynq.NewInspectorFromRedisClient(f.redis)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		info, err := inspector.GetQueueInfo(string(job.ClassInteractive))
		if err == nil && info.Completed == f.jobs {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			said, _ := os.ReadFile(log)
			f.tb.Fatalf("the jobs are not done: %+v, %v\n%s", info, err, said)
		}
	}
}

func (f *fleet) check() {
	f.tb.Helper()
	tree := ""
	for i := range repositories {
		if parent := gitOutput(f.tb, f.path(i), "rev-parse", "main^"); parent != f.tip {
			f.tb.Fatalf("r%d: the commit stands on %s", i, parent)
		}
		made := gitOutput(f.tb, f.path(i), "rev-parse", "main^{tree}")
		if tree == "" {
			tree = made
		}
		if made != tree {
			f.tb.Fatalf("r%d: the tree is %s, that of r0 %s", i, made, tree)
		}
		if said := gitOutput(f.tb, f.path(i), "fsck", "--strict", "--no-dangling"); strings.Contains(said, "error") {
			f.tb.Fatalf("r%d: git fsck: %s", i, said)
		}
	}
	if content := gitOutput(f.tb, f.path(0), "show", "main:"+Small().Edited()); !strings.HasPrefix(content, fmt.Sprintf("word%d ", f.words)) {
		f.tb.Fatalf("the file begins %.20q", content)
	}
}

// benchmarkQueue is many repositories at once.
func benchmarkQueue(b *testing.B) Table {
	f := startFleet(b, places(b)[0].folder)
	rows := []Row{
		{Name: "git: xargs -P 8 of clone --depth 1, edit, commit, push"},
		{Name: "Gitsmith, cold, no filter", Bound: 0.65},
		{Name: "Gitsmith, cold, filter offered", Bound: 0.42},
		{Name: "Gitsmith, warm", Bound: 0.25},
	}
	for len(rows[0].Samples) < minRounds {
		tips := filepath.Join(f.root, "tips")
		rows[0].Samples = append(rows[0].Samples, f.byXargs())
		rows[2].Samples = append(rows[2].Samples, f.byWorkers(true, tips))
		f.forget(tips)
		rows[1].Samples = append(rows[1].Samples, f.byWorkers(false, tips))
		rows[3].Samples = append(rows[3].Samples, f.byWorkers(false, tips))
		f.forget(tips)
	}
	return comparison("200 repositories, one edit each, 8 at a time, through the queue", fmt.Sprintf(
		"Time from the first request to the receiver to the end of the last job, by one worker with %d slots that has just started; memory and\nprocessor time are the worker's. The command line's memory is not looked at.", atOnce), rows)
}

func (f *fleet) forget(tips string) {
	f.tb.Helper()
	if err := os.RemoveAll(tips); err != nil {
		f.tb.Fatal(err)
	}
}
