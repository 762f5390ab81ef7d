package receiver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
)

// The server's times are tested in bubbles of synctest, over pipes: an hour passes at once.

// pipes is a listener whose connections are made in memory.
type pipes struct {
	accept chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.accept:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// known is a verifier of one invocation, made outside of the bubble: the real one fetches keys.
type known struct{ forge.Invocation }

func (k known) Verify(context.Context, http.Header) (forge.Invocation, error) {
	return k.Invocation, nil
}

// dial serves handler in the bubble and connects to it.
func dial(t *testing.T, handler http.Handler) net.Conn {
	t.Helper()
	listener := &pipes{accept: make(chan net.Conn), closed: make(chan struct{})}
	server := NewServer(handler)
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	here, there := net.Pipe()
	listener.accept <- there
	t.Cleanup(func() {
		_ = here.Close()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return here
}

// sends writes a request and reads the answer's head.
func sends(t *testing.T, conn net.Conn, text string) (*http.Response, time.Duration) {
	t.Helper()
	begun := time.Now()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	return answer, time.Since(begun)
}

// bubble runs test with a handler for one known caller.
func bubble(t *testing.T, options forgetest.FITOptions, change func(*house), test func(t *testing.T, h *house, handler http.Handler)) {
	t.Helper()
	h := newHouse(t)
	invocation := h.Invocation(options, forgetest.Tokens{System: h.token()})
	synctest.Test(t, func(t *testing.T) {
		change(h)
		test(t, h, h.build(t, func(config *Config) { config.Verifier = known{invocation} }))
	})
}

// TestForgeTimes: Forge's own calls are answered within its 5 s, whatever is slow.
func TestForgeTimes(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		options forgetest.FITOptions
		request string
		change  func(*house)
		kind    fault.Kind
	}{
		"a queue that does not answer": {
			trigger, "POST /forge/schedule HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
			func(h *house) {
				h.jobs.meddle = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			}, fault.Unavailable,
		},
		"a body that does not come": {
			appEvent, "POST /forge/lifecycle HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", func(*house) {}, fault.Invalid,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, tc.options, tc.change, func(t *testing.T, _ *house, handler http.Handler) {
				answer, took := sends(t, dial(t, handler), tc.request)
				body, err := io.ReadAll(answer.Body)
				if err != nil || answer.StatusCode != tc.kind.Problem().Status && answer.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("status %d, %v: %s", answer.StatusCode, err, body)
				}
				if took < forgeTime-time.Second || took >= 5*time.Second {
					t.Errorf("answered after %v", took)
				}
			})
		})
	}
}

// TestSlowCallers: neither a head nor a body that does not come holds a connection for long.
func TestSlowCallers(t *testing.T) {
	t.Parallel()
	bubble(t, forgetest.FITOptions{}, func(*house) {}, func(t *testing.T, _ *house, handler http.Handler) {
		conn := dial(t, handler)
		begun := time.Now()
		if _, err := io.WriteString(conn, "GET /v1/jobs HTTP/1.1\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil || time.Since(begun) != 5*time.Second {
			t.Errorf("a head is waited for %v, %v", time.Since(begun), err)
		}
	})
	bubble(t, forgetest.FITOptions{}, func(*house) {}, func(t *testing.T, _ *house, handler http.Handler) {
		answer, took := sends(t, dial(t, handler), "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		if answer.StatusCode != http.StatusBadRequest || took != 30*time.Second {
			t.Errorf("a body is waited for %v, status %d", took, answer.StatusCode)
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Error(err)
		}
	})
}

// TestHeaderBound: net/http refuses headers that are too large.
func TestHeaderBound(t *testing.T) {
	t.Parallel()
	bubble(t, forgetest.FITOptions{}, func(*house) {}, func(t *testing.T, h *house, handler http.Handler) {
		conn := dial(t, handler)
		go func() {
			_, _ = fmt.Fprintf(conn, "GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-Long: %s\r\n\r\n", strings.Repeat("x", 80<<10)) // it is not read to its end
		}()
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Fatalf("%+v, %v", answer, err)
		}
		_, _ = io.Copy(io.Discard, answer.Body) // the server closes it
		if lines := h.counts.taken(); len(lines) != 0 {
			t.Errorf("counted %v", lines)
		}
	})
}

// trickle is an archive from a slow store; it ends with its context, as the real one.
type trickle struct {
	ctx    context.Context
	pieces int
	pause  time.Duration
}

func (s *trickle) Read(p []byte) (int, error) {
	if s.pieces == 0 {
		return 0, io.EOF
	}
	select {
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	case <-time.After(s.pause):
	}
	s.pieces--
	return copy(p, strings.Repeat("x", 1000)), nil
}

func (s *trickle) Close() error { return nil }

const download1 = "GET /v1/jobs/01987f6e-7d1a-7c3b-9e55-0f6f2a3b4c5d/artifact HTTP/1.1\r\nHost: x\r\n\r\n"

// keepSlow makes the download's job and its archive of so many pieces.
func keepSlow(pieces int, pause time.Duration) func(*house) {
	return func(h *house) {
		const id = "01987f6e-7d1a-7c3b-9e55-0f6f2a3b4c5d"
		h.jobs.jobs = append(h.jobs.jobs, job.Job{ID: id, Installation: forgetest.Installation})
		status := cloned(job.Status{ID: id}, h, "")
		status.Result.Clone.Artifact.Size = int64(pieces) * 1000
		status.Result.Clone.Artifact.ExpiresAt = time.Now().Add(24 * time.Hour)
		h.jobs.status = map[string]job.Status{id: status}
		h.artifacts.open = func(ctx context.Context, _ string) (io.ReadCloser, int64, error) {
			return &trickle{ctx, pieces, pause}, int64(pieces) * 1000, nil
		}
	}
}

// TestLongDownload: one that moves takes longer than the server's times for small answers.
func TestLongDownload(t *testing.T) {
	t.Parallel()
	bubble(t, forgetest.FITOptions{}, keepSlow(100, 20*time.Second), func(t *testing.T, _ *house, handler http.Handler) {
		conn := dial(t, handler)
		begun := time.Now()
		answer, _ := sends(t, conn, download1)
		n, err := io.Copy(io.Discard, answer.Body)
		if err != nil || n != 100_000 || time.Since(begun) != 2000*time.Second {
			t.Errorf("%d bytes in %v, %v", n, time.Since(begun), err)
		}
	})
}

// TestEndlessDownload: it does not take for ever.
func TestEndlessDownload(t *testing.T) {
	t.Parallel()
	bubble(t, forgetest.FITOptions{}, keepSlow(1000, 20*time.Second), func(t *testing.T, _ *house, handler http.Handler) {
		conn := dial(t, handler)
		begun := time.Now()
		answer, _ := sends(t, conn, download1)
		if _, err := io.Copy(io.Discard, answer.Body); !errors.Is(err, io.ErrUnexpectedEOF) || time.Since(begun) != downloadTime {
			t.Errorf("cut off after %v, %v", time.Since(begun), err)
		}
	})
}

// TestStalledDownload: a caller who stops reading is let go.
func TestStalledDownload(t *testing.T) {
	t.Parallel()
	bubble(t, forgetest.FITOptions{}, keepSlow(1000, time.Millisecond), func(t *testing.T, h *house, handler http.Handler) {
		conn := dial(t, handler)
		if _, err := io.WriteString(conn, download1); err != nil {
			t.Fatal(err)
		}
		time.Sleep(downloadStall + 10*time.Second) // of the bubble's time
		synctest.Wait()
		event := h.log.events(t)[0]
		if event["kind"] != "canceled" || !strings.Contains(event["error"].(string), "did not take the archive") {
			t.Errorf("logged %v", event)
		}
	})
}
