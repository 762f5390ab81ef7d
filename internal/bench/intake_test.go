package bench

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

const (
	connections = 64
	// requestsARound and tasksARound take about a second each.
	requestsARound = 8_000
	tasksARound    = 20_000
	// fitLife is the longest that a verifier takes. A round's FITs are signed before it begins.
	fitLife = 5 * time.Minute
)

// load is what one round of requests came to.
type load struct {
	rate     float64 // a second
	p50, p99 time.Duration
}

// drive calls do for 0 to n-1 from as many goroutines as there are connections.
func drive(tb testing.TB, n int, do func(i int) error) load {
	tb.Helper()
	took := make([]time.Duration, n)
	errs := make([]error, connections)
	var next atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	for worker := range connections {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[worker] == nil; i = int(next.Add(1)) - 1 {
				begin := time.Now()
				errs[worker] = do(i)
				took[i] = time.Since(begin)
			}
		})
	}
	group.Wait()
	elapsed := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
	slices.Sort(took)
	return load{rate: float64(n) / elapsed.Seconds(), p50: took[n/2], p99: took[n*99/100]}
}

// intake is a receiver, the binary that is deployed, with its Redis and a stand-in issuer.
type intake struct {
	tb     testing.TB
	issuer *forgetest.Issuer
	redis  redis.UniversalClient
	client *http.Client
	url    string
	pid    int
	common []string // settings that a worker shares
}

func startIntake(tb testing.TB) *intake {
	tb.Helper()
	issuer, err := forgetest.NewIssuer()
	if err != nil {
		tb.Fatal(err)
	}
	keys := httptest.NewServer(issuer.Handler())
	tb.Cleanup(keys.Close)
	server := queuetest.Start(tb)
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	public, private := freeAddress(tb), freeAddress(tb)
	common := []string{
		"HOME=" + tb.TempDir(), "PATH=" + os.Getenv("PATH"), "GITSMITH_REDIS_URL=" + server.URL,
		"GITSMITH_SEAL_KEYS=bench:" + base64.StdEncoding.EncodeToString(key),
	}
	api, log := startBinary(tb, buildProgram(tb, "api"), append(slices.Clone(common), "GITSMITH_APP_ID="+issuer.AppID, "GITSMITH_JWKS_URL="+keys.URL,
		"GITSMITH_ADDR="+public, "GITSMITH_OPS_ADDR="+private))
	tb.Cleanup(api.stop)
	transport := &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}
	tb.Cleanup(transport.CloseIdleConnections)
	in := &intake{
		tb: tb, issuer: issuer, redis: server.Client(), client: &http.Client{Transport: transport, Timeout: time.Minute},
		url: "http://" + public + "/v1/jobs", pid: api.process.Process.Pid, common: common,
	}
	in.awaitReady("http://"+private+"/readyz", log)
	return in
}

// binary is one of the programs, running.
type binary struct {
	process *exec.Cmd
	log     *os.File
}

// startBinary starts a program by its settings alone, and names the file that it writes to.
func startBinary(tb testing.TB, name string, environ []string) (*binary, string) {
	tb.Helper()
	log, err := os.Create(filepath.Join(tb.TempDir(), "log"))
	if err != nil {
		tb.Fatal(err)
	}
	process := exec.Command(name)
	process.Env, process.Stdout, process.Stderr = environ, log, log
	if err := process.Start(); err != nil {
		tb.Fatal(err)
	}
	return &binary{process, log}, log.Name()
}

// stop ends it softly. It may be called again.
func (b *binary) stop() {
	if b.process.ProcessState == nil {
		_ = b.process.Process.Signal(syscall.SIGTERM)
		_ = b.process.Wait()
		_ = b.log.Close()
	}
}

func buildProgram(tb testing.TB, program string) string {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), program)
	command := exec.CommandContext(tb.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", name, "./cmd/"+program)
	command.Dir, command.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := command.CombinedOutput(); err != nil {
		tb.Fatalf("go build: %v: %s", err, out)
	}
	return name
}

func freeAddress(tb testing.TB) string {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func (in *intake) awaitReady(url, log string) {
	in.tb.Helper()
	ctx, cancel := context.WithTimeout(in.tb.Context(), 20*time.Second)
	defer cancel()
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			in.tb.Fatal(err)
		}
		if response, err := in.client.Do(request); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			said, _ := os.ReadFile(log)
			in.tb.Fatalf("the receiver did not become ready: %s", said)
		}
	}
}

// body is a push of one line: what most jobs look like.
const body = `{"repository": {"workspace": "acme", "slug": "web"}, "push": {"branch": "chore/license", "base": "main", "create": true,
	"message": "Update the year\n\nIt is in many files.", "changes": [
	{"replace": {"paths": ["LICENSE", "**/*.go"], "pattern": "Copyright 2025", "with": "Copyright 2026"}}]}}`

// requests is one round: each request has a FIT of its own, and all bring the same OAuth token, as Forge does.
func (in *intake) requests() load {
	in.tb.Helper()
	systemToken := in.issuer.OAuthToken(forgetest.OAuthOptions{ExpiresAt: time.Now().Add(2 * time.Hour), Scopes: []string{"write:repository:bitbucket"}})
	fits := make([]string, requestsARound)
	drive(in.tb, len(fits), func(i int) error {
		fits[i] = in.issuer.FIT(forgetest.FITOptions{Life: fitLife, Principal: "user-" + strconv.Itoa(i%100)})
		return nil
	})
	return drive(in.tb, len(fits), func(i int) error {
		request, err := http.NewRequestWithContext(in.tb.Context(), http.MethodPost, in.url, strings.NewReader(body))
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+fits[i])
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set(forge.HeaderSystemToken, systemToken)
		response, err := in.client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusAccepted {
			err = fmt.Errorf("status %d: %s", response.StatusCode, answer)
		}
		return err
	})
}

// queued is how many jobs wait, and the size of one's payload.
func (in *intake) queued() (count, payload int) {
	in.tb.Helper()
	inspector := asynq.NewInspectorFromRedisClient(in.redis)
	info, err := inspector.GetQueueInfo(string(job.ClassInteractive))
	if err != nil {
		in.tb.Fatal(err)
	}
	tasks, err := inspector.ListPendingTasks(string(job.ClassInteractive), asynq.PageSize(1))
	if err != nil || len(tasks) == 0 {
		in.tb.Fatalf("no task is queued: %v", err)
	}
	return info.Pending, len(tasks[0].Payload)
}

// tasks is one round of bare enqueues.
func (in *intake) tasks(payload int) load {
	in.tb.Helper()
	client := asynq.NewClientFromRedisClient(in.redis)
	content := make([]byte, payload)
	_, _ = rand.Read(content) // never fails (crypto/rand)
	const name = "bare"
	round := drive(in.tb, tasksARound, func(int) error {
		_, err := client.EnqueueContext(in.tb.Context(), asynq.NewTask("push", content),
			asynq.TaskID(uuid.NewString()), asynq.Queue(name), asynq.Timeout(time.Hour), asynq.Retention(time.Hour))
		return err
	})
	if err := asynq.NewInspectorFromRedisClient(in.redis).DeleteQueue(name, true); err != nil {
		in.tb.Fatal(err)
	}
	return round
}

// benchmarkIntake is the table of the receiver beside asynq alone, if it was asked for.
func benchmarkIntake(b *testing.B) (tables []Table) {
	b.Run("intake", func(b *testing.B) {
		in := startIntake(b)
		var receiver, bare []load
		var payload int
		var memory int64
		round := func() {
			receiver = append(receiver, in.requests())
			var count int
			if count, payload = in.queued(); count != len(receiver)*requestsARound {
				b.Fatalf("%d jobs are queued after %d requests", count, len(receiver)*requestsARound)
			}
			memory = peakMemory(strconv.Itoa(in.pid))
			bare = append(bare, in.tasks(payload))
		}
		for b.Loop() {
			round()
		}
		for len(bare) < minRounds {
			round()
		}
		tables = append(tables, intakeTable(bare, receiver, payload, memory))
	})
	return tables
}

func intakeTable(bare, receiver []load, payload int, memory int64) Table {
	rate := func(l load) float64 { return l.rate }
	row := func(name string, all []load, memory string) []string {
		return []string{
			name, fmt.Sprintf("%.0f", median(all, rate)), fmt.Sprintf("%.2f", median(all, rate)/median(bare, rate)),
			fmt.Sprintf("%.1f ms", median(all, func(l load) float64 { return l.p50.Seconds() * 1000 })),
			fmt.Sprintf("%.1f ms", median(all, func(l load) float64 { return l.p99.Seconds() * 1000 })), memory,
		}
	}
	return Table{
		Title: fmt.Sprintf("Intake: %d at once", connections),
		Note: fmt.Sprintf("asynq alone: its client in the load's own process, tasks of %d random bytes. Receiver: the binary, POST /v1/jobs over\n"+
			"loopback, each with its own FIT (RS256, 2048 bits) and an OAuth token; the FIT is verified, the token kept, the job\n"+
			"checked, sealed (%d bytes) and queued. Redis: append-only file, fsync every second.", payload, payload),
		Header: []string{"way", "a second", "of asynq alone", "p50", "p99", "peak memory"},
		Rows: [][]string{
			row("asynq alone", bare, ""),
			row("receiver", receiver, megabytes(memory)),
		},
	}
}
