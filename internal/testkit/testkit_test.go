package testkit_test

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitsmith/gitsmith/internal/testkit"
)

// recorder is a test that fails without failing this one.
type recorder struct {
	testing.TB
	left time.Duration
	said string
}

func (r *recorder) Helper() {}

func (r *recorder) Deadline() (time.Time, bool) { return time.Now().Add(r.left), r.left > 0 }

func (r *recorder) Fatalf(format string, arguments ...any) {
	r.said = fmt.Sprintf(format, arguments...)
	runtime.Goexit()
}

// run returns what the test said when it failed, and how long it took.
func run(left time.Duration, test func(tb testing.TB)) (said string, took time.Duration) {
	r, began, done := &recorder{left: left}, time.Now(), make(chan struct{})
	go func() { defer close(done); test(r) }()
	<-done
	return r.said, time.Since(began)
}

func TestEventually(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		each, left, least, most time.Duration // of one look, of the test binary, and what the wait may take
	}{
		"at least half a minute":      {0, 0, 30 * time.Second, 31 * time.Second},
		"longer where a look is slow": {100 * time.Millisecond, 0, 10 * time.Minute, 11 * time.Minute},
		"before the binary is ended":  {time.Second, 10 * time.Minute, 9 * time.Minute, 10*time.Minute - time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				looks := 0
				said, took := run(tc.left, func(tb testing.TB) {
					testkit.Eventually(tb, "the moon rises", func() error {
						looks++
						time.Sleep(tc.each)
						return fmt.Errorf("look %d: dark", looks)
					})
				})
				if want := fmt.Sprintf("look %d: dark", looks); !strings.HasPrefix(said, "the moon rises: ") || !strings.HasSuffix(said, want) {
					t.Errorf("says %q, want the wait's name and %q", said, want)
				}
				if took < tc.least || took > tc.most {
					t.Errorf("gives up after %v", took)
				}
			})
		})
	}
	looks := 0
	testkit.Eventually(t, "the third look", func() error {
		if looks++; looks < 3 {
			return errors.New("too early")
		}
		return nil
	})
	if looks != 3 {
		t.Errorf("%d looks", looks)
	}
}

func TestReceive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		signals := make(chan int, 1)
		signals <- 7
		if got := testkit.Receive(t, "a number", signals); got != 7 {
			t.Errorf("received %d", got)
		}
		said, took := run(0, func(tb testing.TB) { testkit.Receive(tb, "a number", signals) })
		if !strings.HasPrefix(said, "a number: no signal") || took < 30*time.Second {
			t.Errorf("says %q after %v", said, took)
		}
		close(signals)
		if got := testkit.Receive(t, "the end", signals); got != 0 {
			t.Errorf("received %d of a closed channel", got)
		}
	})
}

func TestFreeAddress(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", testkit.FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
}

func TestKeyring(t *testing.T) {
	t.Parallel()
	sealed := testkit.Keyring(t, "a", 1).Seal([]byte("text"))
	if plain, err := testkit.Keyring(t, "a", 1).Open(sealed); err != nil || string(plain) != "text" {
		t.Errorf("the same key: %q, %v", plain, err)
	}
	if _, err := testkit.Keyring(t, "a", 2).Open(sealed); err == nil {
		t.Error("another key opens it")
	}
}
