// Package queuetest starts real redis-servers for tests, as production runs them: append-only file with fsync every second,
// no eviction, no snapshots. Each server lives in its own temporary folder on a free port of the loopback interface and is
// gone when its test is over, however the test ends.
package queuetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// Binary is the program that is looked for in PATH.
const Binary = "redis-server"

const (
	startTimeout = 20 * time.Second      // a loaded machine included
	pollInterval = 10 * time.Millisecond // between two looks at a server that starts
	portAttempts = 20
	unlimited    = -1 // for go-redis
)

// Redis is a running redis-server. Its methods fail the test it was started for and belong to that test's goroutine.
type Redis struct {
	// URL is what GITSMITH_REDIS_URL takes.
	URL string
	// Addr is host:port, the same after a Restart.
	Addr string

	tb      testing.TB
	dir     string
	cluster bool
	more    []string // arguments
	dial    func() redis.UniversalClient
	process *process
}

// Start runs a redis-server of its own for tb and stops it at the end. A server takes some 50 ms to start, so each parallel
// test can have one. Without redis-server in PATH the test fails and says how to get it.
func Start(tb testing.TB) *Redis {
	tb.Helper()
	return start(tb, false)
}

// StartCluster is [Start] for a Redis Cluster of one node that holds every slot: a script or a transaction over keys of
// several slots fails on it as on a larger one.
func StartCluster(tb testing.TB) *Redis {
	tb.Helper()
	server := start(tb, true)
	ctx, cancel := context.WithTimeout(tb.Context(), startTimeout)
	defer cancel()
	node := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer node.Close() //nolint:errcheck // nothing is buffered
	if err := node.ClusterAddSlotsRange(ctx, 0, 16383).Err(); err != nil {
		tb.Fatalf("queuetest: give the cluster its slots: %v", err)
	}
	for {
		info, err := node.ClusterInfo(ctx).Result()
		if strings.Contains(info, "cluster_state:ok") {
			return server
		}
		if pause(ctx) != nil {
			tb.Fatalf("queuetest: the cluster did not come up: %v: %s", err, info)
		}
	}
}

func start(tb testing.TB, cluster bool, more ...string) *Redis {
	tb.Helper()
	if _, err := exec.LookPath(Binary); err != nil {
		tb.Fatalf("queuetest: %s is not in PATH; run `make test-tools` (Debian: apt-get install redis-server)", Binary)
	}
	server := &Redis{tb: tb, dir: tb.TempDir(), cluster: cluster, more: more}
	// After TempDir, so that the server is gone before its folder is.
	tb.Cleanup(func() {
		if server.process != nil {
			server.process.stop()
		}
	})
	var failure error
	for range portAttempts {
		// Below the range from which Linux takes the ports of outgoing connections, so that the port is still free for a
		// Restart. A server that lost the race for its port ends at once, and the next one is tried.
		server.Addr = freeAddr()
		if failure = server.run(); failure == nil {
			server.URL = "redis://" + server.Addr + "/0"
			if cluster {
				server.URL = "redis-cluster://" + server.Addr
			}
			return server
		}
	}
	tb.Fatalf("queuetest: %s did not start: %v", Binary, failure)
	return nil
}

func freeAddr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000))) }

// Client is a new client of the server, closed when the test is over. It gives up soon on a server that is away, and finds
// it again after a Restart, though only about a second later where many calls have failed: poll then. For an answer it waits as long
// as the server lives: otherwise go-redis would send a command again that a loaded machine had not answered in 5 s.
func (r *Redis) Client() redis.UniversalClient {
	r.tb.Helper()
	var client redis.UniversalClient
	if r.dial != nil {
		return r.dial()
	}
	if r.cluster {
		client = redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{r.Addr}, DialerRetries: 1, ReadTimeout: unlimited, WriteTimeout: unlimited})
	} else {
		client = redis.NewClient(&redis.Options{Addr: r.Addr, DialerRetries: 1, ReadTimeout: unlimited, WriteTimeout: unlimited})
	}
	r.tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Embedded is a client of a Redis within this process, as the sandbox has it. It waits for an answer as [Redis.Client]'s does.
func Embedded(tb testing.TB) redis.UniversalClient {
	tb.Helper()
	server := miniredis.RunT(tb)
	server.ClockTTL(true)
	client := redis.NewClient(&redis.Options{Addr: server.Addr(), ReadTimeout: unlimited, WriteTimeout: unlimited})
	tb.Cleanup(func() { _ = client.Close() })
	return client
}

// Kill ends the server with SIGKILL and returns when it is gone. What it had answered is in its file: the last second or
// two, which a server with fsync every second may lose, are written first, so that no test is decided by luck.
func (r *Redis) Kill() {
	r.tb.Helper()
	if r.process == nil {
		r.tb.Fatal("queuetest: Kill: the server is not running")
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	client := redis.NewClient(&redis.Options{Addr: r.Addr})
	defer client.Close() //nolint:errcheck // nothing is buffered
	// The answer comes after the file is written.
	if err := client.ConfigSet(ctx, "appendfsync", "always").Err(); err != nil {
		r.tb.Errorf("queuetest: Kill: write the append-only file: %v", err)
	}
	r.process.stop()
	r.process = nil
}

// Runs reports whether the server runs.
func (r *Redis) Runs() bool { return r.process != nil }

// Written is how many bytes the append-only file has.
func (r *Redis) Written() int64 {
	r.tb.Helper()
	info, err := os.Stat(r.appendOnlyFile())
	if err != nil {
		r.tb.Fatalf("queuetest: %v", err)
	}
	return info.Size()
}

// Crash ends the server with SIGKILL as it is, and cuts its append-only file off where it was at [Redis.Written], as if the machine
// had lost what was not on its disk yet; a negative length cuts nothing.
func (r *Redis) Crash(length int64) {
	r.tb.Helper()
	if r.process == nil {
		r.tb.Fatal("queuetest: Crash: the server is not running")
	}
	r.process.stop()
	r.process = nil
	if length < 0 {
		return
	}
	if err := os.Truncate(r.appendOnlyFile(), length); err != nil {
		r.tb.Fatalf("queuetest: Crash: %v", err)
	}
}

// appendOnlyFile is the one that is written to. A server that was never asked to rewrite it has one.
func (r *Redis) appendOnlyFile() string {
	r.tb.Helper()
	files, err := filepath.Glob(filepath.Join(r.dir, "appendonlydir", "*.incr.aof"))
	if err != nil || len(files) == 0 {
		r.tb.Fatalf("queuetest: no append-only file: %v", err)
	}
	slices.Sort(files)
	return files[len(files)-1]
}

// Restart runs the server again on the same address with the data it had. A server still running is ended by SIGTERM
// first, as an orderly restart does.
func (r *Redis) Restart() {
	r.tb.Helper()
	if r.process != nil {
		_ = r.process.command.Process.Signal(syscall.SIGTERM)
		select {
		case <-r.process.gone:
		case <-time.After(startTimeout):
		}
		r.process.stop()
		r.process = nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := r.run()
		if err == nil {
			return
		}
		if pause(ctx) != nil {
			r.tb.Fatalf("queuetest: %s did not start again: %v", Binary, err)
		}
	}
}

// run starts one server process on r.Addr and waits until that very process answers.
func (r *Redis) run() error {
	host, port, err := net.SplitHostPort(r.Addr)
	if err != nil {
		return err
	}
	arguments := []string{
		"--bind", host, "--port", port, "--dir", r.dir, "--daemonize", "no",
		"--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction", "--save", "",
	}
	if r.cluster {
		arguments = append(arguments, "--cluster-enabled", "yes", "--cluster-announce-ip", host)
	}
	started, err := startProcess(filepath.Join(r.dir, "log"), append(arguments, r.more...))
	if err != nil {
		return err
	}
	if err := started.await(r.Addr); err != nil {
		started.stop()
		written, _ := os.ReadFile(filepath.Join(r.dir, "log"))
		return fmt.Errorf("%w; its log: %s", err, written)
	}
	r.process = started
	return nil
}

// process is one redis-server with the watcher that ends it should the test binary die without cleaning up.
type process struct {
	command *exec.Cmd
	watcher *exec.Cmd
	gone    chan struct{} // closed when the server has ended
}

func startProcess(log string, arguments []string) (*process, error) {
	output, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer output.Close() //nolint:errcheck // the child holds its own descriptor
	command := exec.Command(Binary, arguments...)
	command.Stdout, command.Stderr = output, output
	if err := command.Start(); err != nil {
		return nil, err
	}
	p := &process{command: command, gone: make(chan struct{})}
	go func() {
		defer close(p.gone)
		_ = command.Wait()
	}()
	// The watcher's input ends when this process does, whatever ended it.
	p.watcher = exec.Command("sh", "-c", "read -r _; kill -9 $0", strconv.Itoa(command.Process.Pid))
	if _, err := p.watcher.StdinPipe(); err != nil {
		p.stop()
		return nil, err
	}
	if err := p.watcher.Start(); err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}

// await returns when the process answers on addr, and an error when it ends or takes too long.
func (p *process) await(addr string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	client := redis.NewClient(&redis.Options{Addr: addr, MaxRetries: -1})
	defer client.Close() //nolint:errcheck // nothing is buffered
	own := "process_id:" + strconv.Itoa(p.command.Process.Pid) + "\r\n"
	for {
		// Loading the append-only file is answered with an error; a stranger on the port has another process id.
		if info, err := client.Info(ctx, "server").Result(); err == nil && strings.Contains(info, own) {
			if client.Ping(ctx).Err() == nil {
				return nil
			}
		}
		select {
		case <-p.gone:
			return errors.New("it ended at once")
		default:
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("it did not answer within %v", startTimeout)
		}
	}
}

// stop kills the watcher, then the server, and waits for both.
func (p *process) stop() {
	if p.watcher != nil && p.watcher.Process != nil {
		_ = p.watcher.Process.Kill()
		_ = p.watcher.Wait()
	}
	_ = p.command.Process.Kill()
	<-p.gone
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
