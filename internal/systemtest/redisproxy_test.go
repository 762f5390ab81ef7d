package systemtest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// redisProxy stands between a process and its Redis and sees every command, so that a test can stop the world between two of
// them. What it holds back never reaches Redis.
type redisProxy struct {
	listener net.Listener
	backend  string

	mu      sync.Mutex
	hold    func(command []string) bool
	reached chan struct{} // closed when a command was held back
	done    chan struct{}
	wait    sync.WaitGroup
}

func startRedisProxy(t testing.TB, backend string) *redisProxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := &redisProxy{listener: listener, backend: backend, done: make(chan struct{})}
	proxy.wait.Go(proxy.accept)
	t.Cleanup(func() {
		close(proxy.done)
		_ = listener.Close()
		proxy.wait.Wait()
	})
	return proxy
}

// holdBack stops the first command that match takes, and everything after it on any connection. The channel is closed when
// that has happened.
func (p *redisProxy) holdBack(match func(command []string) bool) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold, p.reached = match, make(chan struct{})
	return p.reached
}

// letGo forgets what was held back; new connections pass.
func (p *redisProxy) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hold = nil
}

func (p *redisProxy) held(command []string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hold == nil || !p.hold(command) {
		return false
	}
	select {
	case <-p.reached:
	default:
		close(p.reached)
	}
	p.hold = func([]string) bool { return true }
	return true
}

func (p *redisProxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.wait.Go(func() { p.serve(client) })
	}
}

func (p *redisProxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.backend)
	if err != nil {
		return
	}
	defer server.Close()
	p.wait.Go(func() {
		<-p.done
		_ = client.Close()
		_ = server.Close()
	})
	p.wait.Go(func() {
		_, _ = io.Copy(client, server) // ends with either connection
		_ = client.Close()
	})
	reader := bufio.NewReader(client)
	for {
		command, raw, err := readCommand(reader)
		if err != nil {
			return
		}
		if p.held(command) {
			_, _ = io.Copy(io.Discard, client) // until the client is gone
			return
		}
		if _, err := server.Write(raw); err != nil {
			return
		}
	}
}

// readCommand reads one command of the Redis protocol (RESP: an array of bulk strings) and its bytes as they came.
func readCommand(reader *bufio.Reader) (command []string, raw []byte, err error) {
	count, raw, err := readNumber(reader, '*', nil)
	if err != nil {
		return nil, nil, err
	}
	for range count {
		var size int
		if size, raw, err = readNumber(reader, '$', raw); err != nil {
			return nil, nil, err
		}
		value := make([]byte, size+len("\r\n"))
		if _, err := io.ReadFull(reader, value); err != nil {
			return nil, nil, err
		}
		command, raw = append(command, string(value[:size])), append(raw, value...)
	}
	return command, raw, nil
}

func readNumber(reader *bufio.Reader, kind byte, raw []byte) (int, []byte, error) {
	line, err := reader.ReadString('\n')
	if err != nil {
		return 0, nil, err
	}
	if line[0] != kind {
		return 0, nil, fmt.Errorf("%q where %q was expected", line, kind)
	}
	number, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	if err != nil || number < 0 {
		return 0, nil, errors.Join(err, fmt.Errorf("bad length %q", line))
	}
	return number, append(raw, line...), nil
}
