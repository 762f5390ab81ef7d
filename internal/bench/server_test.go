package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// serverVariable makes this program a git server over the folder that it names, until its standard input ends: what serving
// costs is then no cost of the client, whose processor time and memory are measured.
const serverVariable = "GITSMITH_BENCH_SERVER"

// counting is a handler that counts what passes through.
type counting struct {
	next           http.Handler
	requests, down atomic.Int64
}

func (c *counting) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == trafficPath {
		_ = json.NewEncoder(w).Encode(Traffic{c.requests.Swap(0), c.down.Swap(0)}) // whoever went away needs no numbers
		return
	}
	c.requests.Add(1)
	c.next.ServeHTTP(&countingWriter{w, &c.down}, r)
}

// countingWriter lets through what the wrapped writer can do beside writing.
type countingWriter struct {
	http.ResponseWriter
	down *atomic.Int64
}

func (w *countingWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p)
	w.down.Add(int64(n))
	return n, err
}

func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// serveAlone is the server's process: it prints its base URL.
func serveAlone(root string) error {
	git, err := gittest.New(root)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &counting{next: git}}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // ends with the process that started this one
		_ = server.Close()
	}()
	fmt.Println("http://" + listener.Addr().String())
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// gitServer is a git server in a process of its own.
type gitServer struct {
	tb   testing.TB
	base string
	git  *gittest.Server // for its paths
}

func startGitServer(tb testing.TB, root string) *gitServer {
	tb.Helper()
	git, err := gittest.New(root)
	if err != nil {
		tb.Fatal(err)
	}
	process := exec.Command(os.Args[0], "-test.run=^$")
	process.Env = append(os.Environ(), serverVariable+"="+root, "TMPDIR="+root)
	process.Stderr = os.Stderr
	life, err := process.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	said, err := process.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := process.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = life.Close()
		_ = process.Wait()
	})
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		tb.Fatalf("the git server did not start: %v", err)
	}
	return &gitServer{tb: tb, base: strings.TrimSpace(line), git: git}
}

// traffic is what was asked for since the last call.
func (s *gitServer) traffic() Traffic {
	s.tb.Helper()
	asked, err := traffic(s.tb.Context(), s.base)
	if err != nil {
		s.tb.Fatal(err)
	}
	return asked
}
