package receiver

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

// said is an answer, read to its end.
type said struct {
	status int
	body   []byte
	err    error // of reading the body
	took   time.Duration
}

// sends writes a request and reads the answer.
func sends(t *testing.T, conn net.Conn, text string) said {
	t.Helper()
	begun := time.Now()
	go func() { _, _ = io.WriteString(conn, text) }() // the server may not read it to its end
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	return said{answer.StatusCode, body, err, time.Since(begun)}
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
		status  int
		says    string
	}{
		"a queue that does not answer": {
			trigger, "POST /forge/schedule HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
			func(h *house) {
				h.jobs.meddle = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			}, http.StatusServiceUnavailable, "the time allowed ran out",
		},
		"a body that does not come": {
			appEvent, "POST /forge/lifecycle HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
			func(*house) {}, http.StatusBadRequest, "did not arrive whole in time",
		},
		"a body that nobody reads": {
			trigger, "POST /forge/schedule HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", func(*house) {}, http.StatusOK, "{}",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, tc.options, tc.change, func(t *testing.T, _ *house, handler http.Handler) {
				got := sends(t, dial(t, handler), tc.request)
				if got.err != nil || got.status != tc.status || !strings.Contains(string(got.body), tc.says) || got.took != forgeTime {
					t.Errorf("after %v: %d %s, %v", got.took, got.status, got.body, got.err)
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
		got := sends(t, dial(t, handler), "POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
		if got.status != http.StatusBadRequest || got.took != 30*time.Second {
			t.Errorf("a body is waited for %v: %d %s", got.took, got.status, got.body)
		}
	})
}

// TestHeaderBound: net/http refuses headers that are too large.
func TestHeaderBound(t *testing.T) {
	t.Parallel()
	bubble(t, forgetest.FITOptions{}, func(*house) {}, func(t *testing.T, h *house, handler http.Handler) {
		got := sends(t, dial(t, handler), "GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-Long: "+strings.Repeat("x", 80<<10)+"\r\n\r\n")
		if got.status != http.StatusRequestHeaderFieldsTooLarge || len(h.counts.taken()) != 0 {
			t.Errorf("%d %s, counted %v", got.status, got.body, h.counts.taken())
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

const downloadRequest = "GET /v1/jobs/01987f6e-7d1a-7c3b-9e55-0f6f2a3b4c5d/artifact HTTP/1.1\r\nHost: x\r\n\r\n"

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

// TestLongDownload: one that moves takes longer than the server's times for small answers, but not for ever, not even where
// the store stands still.
func TestLongDownload(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		pieces int
		pause  time.Duration
		took   time.Duration
		err    error
	}{
		"slow":    {100, 20 * time.Second, 2000 * time.Second, nil},
		"endless": {1000, 20 * time.Second, downloadTime, io.ErrUnexpectedEOF},
		"stuck":   {2, 24 * time.Hour, downloadTime, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, forgetest.FITOptions{}, keepSlow(tc.pieces, tc.pause), func(t *testing.T, _ *house, handler http.Handler) {
				got := sends(t, dial(t, handler), downloadRequest)
				if got.status != http.StatusOK || !errors.Is(got.err, tc.err) || got.took != tc.took || tc.err == nil && len(got.body) != 1000*tc.pieces {
					t.Errorf("%d bytes in %v, %v", len(got.body), got.took, got.err)
				}
			})
		})
	}
}

// TestStalledDownload: a caller who stops reading is let go.
func TestStalledDownload(t *testing.T) {
	t.Parallel()
	bubble(t, forgetest.FITOptions{}, keepSlow(1000, time.Millisecond), func(t *testing.T, h *house, handler http.Handler) {
		conn := dial(t, handler)
		if _, err := io.WriteString(conn, downloadRequest); err != nil {
			t.Fatal(err)
		}
		<-time.After(downloadStall + 10*time.Second) // of the bubble's time
		synctest.Wait()
		event := h.log.events(t)[0]
		if event["kind"] != "canceled" || !strings.Contains(event["error"].(string), "did not take the archive") {
			t.Errorf("logged %v", event)
		}
	})
}
