package dispatch_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/dispatch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// carrier takes tickets and counts what is asked of it.
type carrier struct {
	mutex   sync.Mutex
	issued  []ledger.Ticket
	repairs int
}

func (c *carrier) Issue(_ context.Context, tickets []ledger.Ticket) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.issued = append(c.issued, tickets...)
	return nil
}

func (c *carrier) Backlog(context.Context) (ledger.Backlog, error) { return ledger.Backlog{}, nil }

func (c *carrier) Repair(context.Context) error {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.repairs++
	return nil
}

func (c *carrier) Adopt(context.Context) error              { return nil }
func (c *carrier) Instance(context.Context) (string, error) { return "one", nil }

func (c *carrier) count() (issued, repairs int) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return len(c.issued), c.repairs
}

func newLedger(t *testing.T, server *queuetest.Redis, limit int) *ledger.Ledger {
	t.Helper()
	ring, err := secret.ParseKeyring("a:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, secret.KeySize)))
	if err != nil {
		t.Fatal(err)
	}
	return ledger.New(ledger.Options{Redis: server.Client(), Keyring: ring, Cap: limit})
}

func aJob(installation, id string) job.Job {
	return job.Job{
		ID: id, Installation: installation, Actor: forge.Actor{Kind: forge.ActorSystem}, Class: job.ClassInteractive, Digest: "digest",
		Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}, CreatedAt: time.Now(), OnExpiry: job.OnExpiryWait,
		Push: &job.Push{Branch: "main", Message: "Change a file"},
	}
}

// sleep has a job wait for a token.
func sleep(t *testing.T, books *ledger.Ledger, installation, id string) {
	t.Helper()
	created, err := books.Create(t.Context(), aJob(installation, id))
	if err != nil {
		t.Fatal(err)
	}
	begun, err := books.Begin(t.Context(), created.Tickets[0], "attempt")
	if err != nil || begun.Verdict != ledger.Run {
		t.Fatal(begun, err)
	}
	verdict, _, err := books.End(t.Context(), created.Tickets[0], begun.Attempt, ledger.Outcome{
		State: job.Waiting, After: time.Hour, Kind: fault.Expired, Detail: "no token",
	})
	if err != nil || verdict != ledger.Written {
		t.Fatal(verdict, err)
	}
}

// TestWakeInPages: more jobs than one script moves are woken all, and each gets one ticket.
func TestWakeInPages(t *testing.T) {
	t.Parallel()
	books := newLedger(t, queuetest.Start(t), 0)
	const jobs = 250
	for i := range jobs {
		sleep(t, books, "i", fmt.Sprint(i))
	}
	tickets := &carrier{}
	dispatcher := dispatch.New(dispatch.Config{Ledger: books, Tickets: tickets, Logger: slog.New(slog.DiscardHandler)})
	if n, err := books.Wake(t.Context(), "i"); n != jobs || err != nil {
		t.Fatal(n, err)
	}
	if err := dispatcher.Round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if issued, repairs := tickets.count(); issued != jobs || repairs != 1 {
		t.Errorf("%d tickets, %d repairs", issued, repairs)
	}
}

// TestOneLooksAtAShard: of several dispatchers one looks at an installation; when it stops, another does at once.
func TestOneLooksAtAShard(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	books := newLedger(t, server, 0)
	first, second := &carrier{}, &carrier{}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		_ = dispatch.New(dispatch.Config{Ledger: newLedger(t, server, 0), Tickets: first, Logger: slog.New(slog.DiscardHandler)}).Run(ctx)
	})
	client := server.Client()
	eventually(t, func() error {
		for shard := range keyspace.Shards {
			if client.Exists(t.Context(), keyspace.Lease(shard)).Val() == 0 {
				return errors.New("a shard has no lease")
			}
		}
		return nil
	})
	all, end := context.WithCancel(t.Context())
	running.Go(func() {
		_ = dispatch.New(dispatch.Config{Ledger: newLedger(t, server, 0), Tickets: second, Logger: slog.New(slog.DiscardHandler)}).Run(all)
	})
	wake := func(installation string, by *carrier, want int) {
		t.Helper()
		sleep(t, books, installation, "j")
		if n, err := books.Wake(t.Context(), installation); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		eventually(t, func() error {
			if issued, _ := by.count(); issued != want {
				return fmt.Errorf("%d tickets", issued)
			}
			return nil
		})
	}
	for i := range 5 {
		wake(fmt.Sprint("first-", i), first, i+1)
	}
	if issued, repairs := second.count(); issued != 0 || repairs != 0 {
		t.Errorf("both looked: %d tickets, %d repairs", issued, repairs)
	}
	stop()
	for i := range 5 {
		wake(fmt.Sprint("second-", i), second, i+1)
	}
	end()
	running.Wait()
}

func eventually(t *testing.T, try func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}
