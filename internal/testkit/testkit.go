// Package testkit holds what the tests of several packages share: waiting without sleeping, a log that can be read while it is
// written, a key ring, an address. It is for tests and test kits alone.
package testkit

import (
	"bytes"
	"encoding/base64"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/secret"
)

// A wait ends after so many looks, not at a time of day: half a minute on an idle machine, and longer on a loaded one, where each
// look is as slow as what it waits for. What only a sweep repairs a minute later still counts as lost.
const (
	interval = 5 * time.Millisecond
	looks    = int(30*time.Second/interval) + 1
	margin   = 5 * time.Second // before the end of the test binary, to say what was seen
)

// Eventually calls try until it returns nil. After half a minute's worth of calls, 5 ms apart, it fails the test with what was awaited
// and the last error, which should say what was seen instead; also when the test binary is about to be ended. It must be called by the
// test's own goroutine.
func Eventually(tb testing.TB, what string, try func() error) {
	tb.Helper()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	began, left := time.Now(), Left(tb)-margin
	for look := 1; ; look++ {
		err := try()
		if err == nil {
			return
		}
		if took := time.Since(began); look >= looks || took > left {
			tb.Fatalf("%s: still not after %d looks in %v: %v", what, look, took.Round(time.Second), err)
		}
		<-tick.C
	}
}

// Receive returns the next value of a channel, the zero value if it is closed. Without one it fails the test after as many looks as
// [Eventually] takes.
func Receive[T any](tb testing.TB, what string, from <-chan T) T {
	tb.Helper()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for range looks {
		select {
		case value := <-from:
			return value
		case <-tick.C:
		}
	}
	tb.Fatalf("%s: no signal after %d looks", what, looks)
	panic("unreachable")
}

// Left returns how long the test binary may still run, an hour if nothing limits it. It is for code that insists on a limit where the
// test only wants one against a hang.
func Left(tb testing.TB) time.Duration {
	if test, is := tb.(interface{ Deadline() (time.Time, bool) }); is {
		if deadline, limited := test.Deadline(); limited {
			return time.Until(deadline)
		}
	}
	return time.Hour
}

// Buffer is a log that may be read while it is written. The zero value is empty and ready.
type Buffer struct {
	mutex sync.Mutex
	bytes bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.bytes.Write(p)
}

// String returns everything that was written so far.
func (b *Buffer) String() string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	return b.bytes.String()
}

// Keyring returns a key ring of one key: its id, and the byte that it consists of.
func Keyring(tb testing.TB, id string, fill byte) *secret.Keyring {
	tb.Helper()
	ring, err := secret.ParseKeyring(id + ":" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, secret.KeySize)))
	if err != nil {
		tb.Fatal(err)
	}
	return ring
}

// FreeAddress returns an address of this machine at which nothing listens.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	listener, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // nothing was sent
	return listener.Addr().String()
}
