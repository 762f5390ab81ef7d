package bench

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
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

// scriptMany makes one edit in each of N repositories, atOnce at a time.
const scriptMany = `
cat >edit.sh <<'END'
set -e
git clone --quiet --depth 1 "$URL/r$1.git" "tree$1"
cd "tree$1"` + scriptEdit + `
git push --quiet origin main
END
seq 0 $((N - 1)) | xargs -n 1 -P "$AT_ONCE" sh edit.sh
`

// fleet is many small repositories, edited through the queue by the real receiver and a real worker, and by the command line.
type fleet struct {
	*intake
	server *gitServer
	root   string
	worker string // the program
	all    []*bare
	file   string // to be edited in each
	words  int
	jobs   int // that were asked for
	// settled: the disk is given time before each timing.
	settled bool
}

// startFleet serves n copies of a shape, built below cache, from below root.
func startFleet(tb testing.TB, cache, root string, shape Shape, n int) *fleet {
	tb.Helper()
	built, err := Build(tb.Context(), cache, shape)
	if err != nil {
		tb.Fatal(err)
	}
	f := &fleet{
		intake: startIntake(tb), server: startGitServer(tb, filepath.Join(root, "server")), root: root, worker: buildProgram(tb, "worker"),
		file: shape.Edited(),
	}
	for i := range n {
		path := f.server.git.Path(fmt.Sprintf("%s/r%d", Workspace, i))
		install(tb, built, path)
		f.all = append(f.all, openBare(tb, path))
	}
	return f
}

// reset puts all repositories back.
func (f *fleet) reset(filter bool) {
	f.tb.Helper()
	for _, repository := range f.all {
		repository.reset(repository.tip)
		repository.git("config", "uploadpack.allowFilter", strconv.FormatBool(filter))
	}
	if f.settled {
		syscall.Sync() // nobody pays for writing what another way left behind
	}
	f.words++
	f.server.traffic()
}

// byXargs edits all of them by the command line.
func (f *fleet) byXargs() Sample {
	f.tb.Helper()
	f.reset(false)
	folder := filepath.Join(f.root, "trees")
	if err := os.Mkdir(folder, 0o750); err != nil {
		f.tb.Fatal(err)
	}
	sample, err := runScript(f.tb.Context(), folder, scriptMany, "URL="+f.server.base+"/"+Workspace, "FILE="+f.file, "HOME="+folder,
		fmt.Sprintf("WORD=word%d", f.words), fmt.Sprintf("N=%d", len(f.all)), fmt.Sprintf("AT_ONCE=%d", atOnce))
	if err != nil {
		f.tb.Fatal(err)
	}
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
	requests := f.requests()
	start := time.Now()
	f.submit(requests)
	f.awaitDone(log)
	sample.Wall, sample.RSS = time.Since(start), peakMemory(strconv.Itoa(worker.process.Process.Pid))
	sample.Traffic = f.server.traffic()
	worker.stop()
	sample.CPU = worker.process.ProcessState.UserTime() + worker.process.ProcessState.SystemTime()
	f.check()
	return sample
}

// requests are for one push a repository. What Forge does, signing them, is not measured.
func (f *fleet) requests() []*http.Request {
	f.tb.Helper()
	token := f.issuer.OAuthToken(forgetest.OAuthOptions{
		ExpiresAt: time.Now().Add(2 * time.Hour), Scopes: []string{"read:repository:bitbucket", "write:repository:bitbucket"},
	})
	const body = `{"repository": {"workspace": "bench", "slug": "r%d"}, "push": {"branch": "main", "message": "one line", "changes": [
		{"replace": {"paths": [%q], "pattern": "\\A\\w+", "with": "word%d", "regexp": true}}]}}`
	requests := make([]*http.Request, len(f.all))
	for i := range requests {
		request, err := http.NewRequestWithContext(f.tb.Context(), http.MethodPost, f.url, strings.NewReader(fmt.Sprintf(body, i, f.file, f.words)))
		if err != nil {
			f.tb.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+f.issuer.FIT(forgetest.FITOptions{Life: fitLife, Principal: "user"}))
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set(forge.HeaderSystemToken, token)
		requests[i] = request
	}
	return requests
}

// submit sends them to the receiver.
func (f *fleet) submit(requests []*http.Request) {
	f.tb.Helper()
	drive(f.tb, len(requests), func(i int) error {
		answer, err := f.client.Do(requests[i])
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
	f.jobs += len(requests)
}

// awaitDone waits until every job that was asked for is completed.
func (f *fleet) awaitDone(log string) {
	f.tb.Helper()
	ctx, cancel := context.WithTimeout(f.tb.Context(), 5*time.Minute)
	defer cancel()
	inspector := asynq.NewInspectorFromRedisClient(f.redis)
	poll := time.NewTicker(20 * time.Millisecond)
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

// check lets git look at every repository, as after a single push.
func (f *fleet) check() {
	f.tb.Helper()
	for _, repository := range f.all {
		tree := repository.expected(repository.tip, f.file, fmt.Sprintf("word%d", f.words))
		if err := repository.checkPush(repository.tip, tree); err != nil {
			f.tb.Fatalf("%s: %v", repository.path, err)
		}
	}
}

const queueTitle = "200 repositories, one edit each, 8 at a time, through the queue"

// queueRows are the rows, without figures.
func queueRows() []Row {
	return []Row{
		{Name: "git: xargs -P 8 of clone --depth 1, edit, commit, push"},
		{Name: "Gitsmith, cold, no filter", Bound: 0.65},
		{Name: "Gitsmith, cold, filter offered", Bound: 0.42},
		{Name: "Gitsmith, warm", Bound: 0.25},
	}
}

// benchmarkQueue is many repositories at once.
func benchmarkQueue(b *testing.B, rounds int) Result {
	root, err := os.MkdirTemp(places(b)[0].folder, "fleet-") //nolint:usetesting // on the disk that is measured
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(root) })
	f := startFleet(b, cacheFolder, root, Small(), repositories)
	f.settled = true
	rows := queueRows()
	for range rounds {
		f.round(rows)
		for _, row := range rows {
			last := row.Samples[len(row.Samples)-1]
			fmt.Fprintf(os.Stderr, "queue %-60s %9s wall %9s cpu %6s\n", row.Name, milliseconds(last.Wall), milliseconds(last.CPU), megabytes(last.RSS))
		}
	}
	return Result{Kind: queueTitle, Day: time.Now().Format(time.DateOnly), Rows: rows, Note: fmt.Sprintf(
		"Time from the first request to the receiver to the end of the last job, by one worker with %d slots that has just started; memory and processor time are the worker's.", atOnce)}
}

// round takes each way once: in turns, but that the warm one follows the cold one whose tip cache it uses.
func (f *fleet) round(rows []Row) {
	f.tb.Helper()
	tips := filepath.Join(f.root, "tips")
	ways := []func(){
		func() { rows[0].Samples = append(rows[0].Samples, f.byXargs()) },
		func() { rows[2].Samples = append(rows[2].Samples, f.byWorkers(true, tips)) },
		func() {
			rows[1].Samples = append(rows[1].Samples, f.byWorkers(false, tips))
			rows[3].Samples = append(rows[3].Samples, f.byWorkers(false, tips))
		},
	}
	first := len(rows[0].Samples) // none always comes first
	for i := range ways {
		ways[(first+i)%len(ways)]()
		f.forget(tips)
	}
}

func (f *fleet) forget(tips string) {
	f.tb.Helper()
	if err := os.RemoveAll(tips); err != nil {
		f.tb.Fatal(err)
	}
}
