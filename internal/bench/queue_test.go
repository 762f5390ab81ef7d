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

	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/testkit"
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
	token  string // the OAuth token of all requests
	all    []*bare
	file   string // to be edited in each
	atOnce int
	words  int
	jobs   int // that were asked for
	// settled: the disk is given time before each timing.
	settled bool
}

// startFleet serves n copies of a shape, built below cache, from below root, to be edited so many at once.
func startFleet(tb testing.TB, cache, root string, shape Shape, n, atOnce int) *fleet {
	tb.Helper()
	built, err := Build(tb.Context(), cache, shape)
	if err != nil {
		tb.Fatal(err)
	}
	f := &fleet{
		intake: startIntake(tb), server: startGitServer(tb, filepath.Join(root, "server")), root: root, worker: buildProgram(tb, "worker"),
		file: shape.Edited(), atOnce: atOnce,
	}
	f.token = f.issuer.OAuthToken(forgetest.OAuthOptions{
		ExpiresAt: time.Now().Add(4 * time.Hour), Scopes: []string{"read:repository:bitbucket", "write:repository:bitbucket"},
	})
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
		fmt.Sprintf("WORD=word%d", f.words), fmt.Sprintf("N=%d", len(f.all)), fmt.Sprintf("AT_ONCE=%d", f.atOnce))
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

// byWorkers edits all of them by jobs that are asked for one by one.
func (f *fleet) byWorkers(filter bool, tips string) Sample {
	f.tb.Helper()
	f.reset(filter)
	requests := f.requests()
	return f.byWorker(tips, func(log string) {
		f.submit(requests)
		f.awaitDone(log)
	})
}

// byWorker measures a new worker, whose tip cache is in a folder, while all repositories are edited.
func (f *fleet) byWorker(tips string, edit func(log string)) (sample Sample) {
	f.tb.Helper()
	worker, log := f.startWorker(tips)
	defer worker.stop()
	start, redis, receiver := time.Now(), f.redisCPU(), cpuOf(f.tb, f.pid)
	edit(log)
	sample.Wall, sample.RSS = time.Since(start), peakMemory(strconv.Itoa(worker.process.Process.Pid))
	sample.Redis, sample.Receiver = f.redisCPU()-redis, cpuOf(f.tb, f.pid)-receiver
	sample.Traffic = f.server.traffic()
	worker.stop()
	sample.CPU = worker.process.ProcessState.UserTime() + worker.process.ProcessState.SystemTime()
	f.check()
	return sample
}

// startWorker returns when the worker is ready.
func (f *fleet) startWorker(tips string) (worker *binary, log string) {
	f.tb.Helper()
	private := testkit.FreeAddress(f.tb)
	worker, log = startBinary(f.tb, f.worker, append([]string{
		"GITSMITH_GIT_URL=" + f.server.base, "GITSMITH_API_URL=" + f.server.base, "GITSMITH_CONCURRENCY=" + strconv.Itoa(f.atOnce),
		"GITSMITH_CACHE_DIR=" + tips, "GITSMITH_TEMP_DIR=" + filepath.Join(f.root, "temp"), "GITSMITH_OPS_ADDR=" + private,
		"GITSMITH_GIT_BUDGET=1000000000", // counted, but never used up
	}, f.common...))
	f.awaitReady("http://"+private+"/readyz", log)
	return worker, log
}

// jobPush is what a job does in a repository, to be completed by the file and the word.
const jobPush = `{"branch": "main", "message": "one line", "changes": [{"replace": {"paths": [%q], "pattern": "\\A\\w+", "with": "word%d", "regexp": true}}]}`

// requests are for one push a repository. What Forge does, signing them, is not measured.
func (f *fleet) requests() []*http.Request {
	f.tb.Helper()
	requests := make([]*http.Request, len(f.all))
	for i := range requests {
		body := fmt.Sprintf(`{"repository": {"workspace": "bench", "slug": "r%d"}, "push": `+jobPush+`}`, i, f.file, f.words)
		requests[i] = f.request(http.MethodPost, f.url, body)
	}
	return requests
}

// request is a call from the app's UI.
func (f *fleet) request(method, url, body string) *http.Request {
	f.tb.Helper()
	request, err := http.NewRequestWithContext(f.tb.Context(), method, url, strings.NewReader(body))
	if err != nil {
		f.tb.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+f.issuer.FIT(forgetest.FITOptions{Life: fitLife, Principal: "user"}))
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set(forge.HeaderUserToken, f.token)
	return request
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
	completed := "asynq:{" + keyspace.Queue(string(job.ClassInteractive)) + "}:completed" // GetQueueInfo would measure memory each time
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		done, err := f.redis.ZCard(ctx, completed).Result()
		if err == nil && int(done) >= f.jobs {
			return
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			said, _ := os.ReadFile(log)
			f.tb.Fatalf("%d jobs are done, of %d: %v\n%s", done, f.jobs, err, said)
		}
	}
}

// check lets git look at every repository, as after a single push. All began as the same, so all must have the same tree.
func (f *fleet) check() {
	f.tb.Helper()
	tree := f.all[0].expected(f.all[0].tip, f.file, fmt.Sprintf("word%d", f.words))
	for _, repository := range f.all {
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

// fleetOnDisk is a fleet of small repositories on the disk that is measured.
func fleetOnDisk(b *testing.B, n, atOnce int) *fleet {
	b.Helper()
	root, err := os.MkdirTemp(places(b)[0].folder, "fleet-") //nolint:usetesting // see above
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = os.RemoveAll(root) })
	f := startFleet(b, cacheFolder, root, Small(), n, atOnce)
	f.settled = true
	return f
}

// benchmarkQueue is many repositories at once.
func benchmarkQueue(b *testing.B, rounds int) Result {
	f := fleetOnDisk(b, repositories, atOnce)
	rows := queueRows()
	for range rounds {
		f.round(rows)
		printLast("queue", rows)
	}
	return Result{Kind: queueTitle, Day: time.Now().Format(time.DateOnly), Rows: rows, Note: fmt.Sprintf(
		"Time from the first request to the receiver to the end of the last job, by one worker with %d slots that has just started; memory and processor time are the worker's.", atOnce)}
}

// printLast shows what the last round has measured.
func printLast(what string, rows []Row) {
	for _, row := range rows {
		last := row.Samples[len(row.Samples)-1]
		fmt.Fprintf(os.Stderr, "%s %-60s %9s wall %9s cpu %6s\n", what, row.Name, milliseconds(last.Wall), milliseconds(last.CPU), megabytes(last.RSS))
	}
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
	f.inTurn(len(rows[0].Samples), ways, tips)
}

// inTurn takes each way once, none always first, and keeps nothing from one to the next.
func (f *fleet) inTurn(round int, ways []func(), tips string) {
	f.tb.Helper()
	for i := range ways {
		ways[(round+i)%len(ways)]()
		f.forget(tips)
	}
}

func (f *fleet) forget(tips string) {
	f.tb.Helper()
	if err := os.RemoveAll(tips); err != nil {
		f.tb.Fatal(err)
	}
}
