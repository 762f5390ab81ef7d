package intake_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/intake"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/spool"
	"github.com/gitsmith/gitsmith/internal/testkit"
	"github.com/gitsmith/gitsmith/internal/vault"
)

func TestInRedis(t *testing.T) {
	h := newHouse(t)
	p := h.start(unchanged)
	delivery := h.delivery("e1", h.token(time.Hour))
	if taken := h.take(p, delivery); taken.Spooled || len(taken.Jobs) != 1 || !taken.Jobs[0].Created {
		t.Errorf("%+v", taken)
	}
	if taken := h.take(p, delivery); taken.Spooled || taken.Jobs[0].Created {
		t.Errorf("again: %+v", taken)
	}
	if _, err := h.tokens.Take(t.Context(), forgetest.Installation, forge.Actor{Kind: forge.ActorSystem}); err != nil {
		t.Error(err)
	}
	if record, err := h.known.Get(t.Context(), forgetest.Installation); err != nil || record.State != installation.Active || record.TokenExpiresAt.IsZero() {
		t.Errorf("%+v %v", record, err)
	}
	other := delivery
	other.Jobs = []job.Job{delivery.Jobs[0]}
	other.Jobs[0].Digest, other.Jobs[0].Event = "another", ""
	if _, err := p.Take(t.Context(), other); fault.KindOf(err) != fault.Conflict {
		t.Error(err)
	}
	if len(h.created()) != 1 || h.pending() != 1 {
		t.Error(h.created(), h.pending())
	}
}

// TestRedisDies takes deliveries while Redis is away, across a death of the receiver, and does each once when it is back.
func TestRedisDies(t *testing.T) {
	h := newHouse(t)
	p := h.start(unchanged)
	canary, older := h.token(2*time.Hour), h.token(time.Hour)
	before := h.delivery("before", canary)
	h.take(p, before)
	h.redis.Kill()
	var want []string
	for i := range 30 {
		delivery := h.delivery(fmt.Sprint("away ", i), older)
		delivery.Scheduled = i == 0
		taken := h.take(p, delivery)
		if !taken.Spooled || len(taken.Jobs) != 1 || taken.Jobs[0].Status.ID != delivery.Jobs[0].ID || taken.Jobs[0].Status.State != job.Queued {
			t.Fatalf("%d: %+v", i, taken)
		}
		want = append(want, delivery.Jobs[0].ID)
		if i == 10 { // what was answered is on disk: a receiver that dies loses nothing
			p.kill()
			p = h.start(unchanged)
		}
		if i%7 == 0 {
			h.take(p, delivery) // Forge did not hear the answer
		}
	}
	h.take(p, before)
	if !p.Away() {
		t.Error("nobody says that redis is away")
	}
	if disk := h.onDisk(); bytes.Contains(disk, []byte(older)) || bytes.Contains(disk, []byte(canary)) || bytes.Contains(disk, []byte("acme")) {
		t.Error("the spool shows what it holds")
	}
	h.redis.Restart()
	h.eventually("the spool is empty", func() bool { return h.pending() == 31 && !bytes.Contains(h.onDisk(), []byte("GSr1")) })
	if got := h.created(); !slices.Equal(got[1:], want) {
		t.Errorf("%d jobs in another order or number: %v, want %v", len(got), got, want)
	}
	token, err := h.tokens.Take(t.Context(), forgetest.Installation, forge.Actor{Kind: forge.ActorSystem})
	if err != nil || token.Text.Reveal() != canary {
		t.Errorf("an older token replaced a newer one (%v)", err)
	}
	if record, err := h.known.Get(t.Context(), forgetest.Installation); err != nil || record.LastScheduled.IsZero() {
		t.Errorf("%+v %v", record, err)
	}
	h.eventually("redis is there", func() bool { return !p.Away() })
	if taken := h.take(p, h.delivery("after", canary)); taken.Spooled {
		t.Error("a delivery goes to the spool although redis is back")
	}
}

// TestDeathInTheMiddle begins a segment again whose draining broke off: what was done is not done twice.
func TestDeathInTheMiddle(t *testing.T) {
	h := newHouse(t)
	h.redis.Kill()
	p := h.start(unchanged)
	for i := range 20 {
		h.take(p, h.delivery(fmt.Sprint(i), ""))
	}
	p.kill()
	h.redis.Restart()
	stopped := make(chan struct{})
	p = h.start(func(config *intake.Config) { config.Jobs = &dying{Jobs: config.Jobs, after: 7, stopped: stopped} })
	<-stopped
	p.kill()
	if n := h.pending(); n != 8 {
		t.Fatalf("%d jobs", n)
	}
	h.start(unchanged)
	h.eventually("all are taken", func() bool { return h.pending() == 20 && !bytes.Contains(h.onDisk(), []byte("GSr1")) })
	if n := len(h.created()); n != 20 {
		t.Errorf("%d jobs", n)
	}
}

// dying queues some jobs and then hangs, after having queued one more.
type dying struct {
	intake.Jobs
	after   int
	stopped chan struct{}
}

func (d *dying) Enqueue(ctx context.Context, j job.Job) (job.Status, bool, error) {
	status, created, err := d.Jobs.Enqueue(ctx, j)
	if d.after--; d.after < 0 {
		if d.after == -1 {
			close(d.stopped)
		}
		<-ctx.Done()
		return job.Status{}, false, fault.Wrapf(fault.Unavailable, ctx.Err(), "gone")
	}
	return status, created, err
}

// TestRemovalWhileAway is done when Redis is back, and what Forge delivers late does not undo it.
func TestRemovalWhileAway(t *testing.T) {
	h := newHouse(t)
	p := h.start(unchanged)
	event := h.delivery("e1", h.token(time.Hour))
	h.take(p, event)
	h.redis.Kill()
	removal := intake.Delivery{Invocation: event.Invocation, Removed: true}
	if taken := h.take(p, removal); !taken.Spooled {
		t.Errorf("%+v", taken)
	}
	h.redis.Restart()
	h.eventually("the removal is done", func() bool {
		record, err := h.known.Get(t.Context(), forgetest.Installation)
		return err == nil && record.State == installation.Gone
	})
	h.eventually("redis is there", func() bool { return !p.Away() })
	if taken := h.take(p, h.delivery("late", h.token(time.Hour))); !taken.Late || len(taken.Jobs) != 0 {
		t.Errorf("%+v", taken)
	}
	h.eventually("no token is kept", func() bool {
		_, err := h.tokens.Take(t.Context(), forgetest.Installation, forge.Actor{Kind: forge.ActorSystem})
		return fault.KindOf(err) == fault.Expired
	})
}

// TestOwnCommit makes no job of what a job of ours pushed, in Redis and by the spool.
func TestOwnCommit(t *testing.T) {
	h := newHouse(t)
	p := h.start(unchanged)
	const commit = "0123456789012345678901234567890123456789"
	if err := h.known.Pushed(t.Context(), forgetest.Installation, commit); err != nil {
		t.Fatal(err)
	}
	event := h.delivery("own", "")
	event.Commit = commit
	if taken := h.take(p, event); !taken.Ours || len(taken.Jobs) != 0 {
		t.Errorf("%+v", taken)
	}
	h.redis.Kill()
	h.take(p, event)
	h.redis.Restart()
	h.eventually("the spool is empty", func() bool { return !p.Away() && !bytes.Contains(h.onDisk(), []byte("GSr1")) })
	if n := len(h.created()); n != 0 {
		t.Errorf("%d jobs", n)
	}
}

// TestNowhereToGo refuses, so that Forge delivers again.
func TestNowhereToGo(t *testing.T) {
	h := newHouse(t)
	h.redis.Kill()
	delivery := h.delivery("e1", "")
	none := intake.New(h.config())
	if _, err := none.Take(t.Context(), delivery); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("without a spool: %v", err)
	}
	full, err := spool.Open(spool.Options{Dir: h.dir, MaxBytes: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = full.Close() })
	config := h.config()
	config.Spool = full
	if _, err := intake.New(config).Take(t.Context(), delivery); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("with a full spool: %v", err)
	}
}

// TestHangingRedis spools within the patience, and the next delivery at once.
func TestHangingRedis(t *testing.T) {
	h := newHouse(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	client := redis.NewClient(&redis.Options{Addr: listener.Addr().String(), ContextTimeoutEnabled: true, DialerRetries: 1})
	t.Cleanup(func() { _ = client.Close() })
	h.jobs = queue.NewClient(queue.Options{Redis: client, Keyring: h.ring})
	h.known = installation.New(client, installation.Options{})
	h.tokens = vault.New(client, h.ring, vault.Options{})
	p := h.start(func(config *intake.Config) { config.Patience = 200 * time.Millisecond; config.Ping = h.jobs.Writable })
	delivery := h.delivery("e1", h.token(time.Hour))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second) // what Forge's calls have
	defer cancel()
	for range 20 {
		if taken, err := p.Take(ctx, delivery); err != nil || !taken.Spooled {
			t.Fatalf("%+v %v", taken, err)
		}
	}
}

// TestForeignRecord lets what this receiver cannot open lie, and takes what is behind it.
func TestForeignRecord(t *testing.T) {
	h := newHouse(t)
	h.redis.Kill()
	ours := h.ring
	h.ring = testkit.Keyring(t, "k2", 2)
	p := h.start(unchanged)
	lost := h.delivery("sealed by another key", "")
	h.take(p, lost)
	p.kill()
	h.ring = ours
	p = h.start(unchanged)
	h.take(p, h.delivery("ours", ""))
	h.redis.Restart()
	h.eventually("ours is taken", func() bool { return h.pending() == 1 })
	h.eventually("the other is put aside", func() bool {
		aside, err := filepath.Glob(filepath.Join(h.dir, "*.damaged"))
		return err == nil && len(aside) == 1
	})
	if log := h.log.String(); !bytes.Contains([]byte(log), []byte("GITSMITH_SEAL_KEYS")) {
		t.Errorf("the log does not say what to do: %s", log)
	}
}

// remembering is an intake that notices when another Redis answers, and has met the first.
func (h *house) remembering() process {
	h.t.Helper()
	h.tokens = vault.New(h.client, h.ring, vault.Options{})
	h.known = installation.New(h.client, installation.Options{})
	p := h.start(func(config *intake.Config) {
		config.Instance = h.jobs.Instance
		config.Renewed = func(ctx context.Context) error {
			h.tokens.Renew()
			h.known.Renew()
			return h.jobs.Renew(ctx)
		}
	})
	h.eventually("redis was met", func() bool { return intake.Met(p.Intake) })
	return p
}

// TestRedisForgetsWhatWasDrained takes a delivery out of the spool into a Redis that dies at once: the spool has it no more.
func TestRedisForgetsWhatWasDrained(t *testing.T) {
	h := newHouse(t)
	p := h.remembering()
	h.redis.Kill()
	if taken := h.take(p, h.delivery("spooled", h.token(time.Hour))); !taken.Spooled {
		t.Fatalf("%+v", taken)
	}
	h.redis.Restart()
	h.eventually("the spool is empty", func() bool {
		left, err := filepath.Glob(filepath.Join(h.dir, "*.spool"))
		return err == nil && len(left) == 0 && h.pending() == 1
	})
	if err := h.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	h.redis.Restart()
	h.eventually("the job is back", func() bool { return h.pending() == 1 })
}

// TestRedisForgets does again what a Redis that died had answered and not yet written down, once.
func TestRedisForgets(t *testing.T) {
	h := newHouse(t)
	p := h.remembering()
	var want []string
	token := h.token(time.Hour)
	for i := range 5 {
		delivery := h.delivery(fmt.Sprint(i), token)
		h.take(p, delivery)
		want = append(want, delivery.Jobs[0].ID)
	}
	if err := h.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	h.redis.Restart()
	h.eventually("the jobs are back", func() bool { return h.pending() == len(want) })
	if got := h.created(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	h.eventually("redis is there", func() bool {
		taken, err := p.Take(t.Context(), h.delivery("0", token))
		return err == nil && !taken.Spooled && !taken.Jobs[0].Created
	})
	if _, err := h.tokens.Take(t.Context(), forgetest.Installation, forge.Actor{Kind: forge.ActorSystem}); err != nil {
		t.Errorf("the token is not there again: %v", err)
	}
}
