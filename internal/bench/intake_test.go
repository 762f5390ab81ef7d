package bench

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

const (
	connections = 64
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
	return driveFrom(tb, connections, n, do)
}

func driveFrom(tb testing.TB, clients, n int, do func(i int) error) load {
	tb.Helper()
	took := make([]time.Duration, n)
	errs := make([]error, clients)
	var next atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	for worker := range clients {
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
	url    string // of jobs
	base   string
	pid    int
	common []string // settings that a worker shares
	ring   *secret.Keyring
}

// startIntake starts a receiver on a Redis of its own, with further settings.
func startIntake(tb testing.TB, settings ...string) *intake {
	tb.Helper()
	issuer, err := forgetest.NewIssuer()
	if err != nil {
		tb.Fatal(err)
	}
	keys := httptest.NewServer(issuer.Handler())
	tb.Cleanup(keys.Close)
	return startReceiver(tb, issuer, keys.URL, settings...)
}

// startReceiver is startIntake with the keys of an issuer that others use too.
func startReceiver(tb testing.TB, issuer *forgetest.Issuer, keys string, settings ...string) *intake {
	tb.Helper()
	server := queuetest.Start(tb)
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	keyring := "bench:" + base64.StdEncoding.EncodeToString(key)
	ring, err := secret.ParseKeyring(keyring)
	if err != nil {
		tb.Fatal(err)
	}
	public, private := testkit.FreeAddress(tb), testkit.FreeAddress(tb)
	common := []string{
		"HOME=" + tb.TempDir(), "PATH=" + os.Getenv("PATH"), "GITSMITH_REDIS_URL=" + server.URL,
		"GITSMITH_SEAL_KEYS=" + keyring,
	}
	api, log := startBinary(tb, buildProgram(tb, "api"), slices.Concat(common, settings, []string{
		"GITSMITH_APP_ID=" + issuer.AppID, "GITSMITH_JWKS_URL=" + keys, "GITSMITH_ADDR=" + public, "GITSMITH_OPS_ADDR=" + private,
	}))
	tb.Cleanup(api.stop)
	transport := &http.Transport{MaxIdleConnsPerHost: connections, MaxConnsPerHost: connections}
	tb.Cleanup(transport.CloseIdleConnections)
	in := &intake{
		tb: tb, issuer: issuer, redis: server.Client(), client: &http.Client{Transport: transport, Timeout: time.Minute},
		url: "http://" + public + "/v1/jobs", base: "http://" + public, pid: api.process.Process.Pid, common: common, ring: ring,
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
