package intake_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/intake"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/spool"
	"github.com/gitsmith/gitsmith/internal/testkit"
	"github.com/gitsmith/gitsmith/internal/vault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// house is an intake with everything real around it.
type house struct {
	t      *testing.T
	redis  *queuetest.Redis
	client redis.UniversalClient
	issuer *forgetest.Running
	ring   *secret.Keyring
	dir    string // of the spool
	log    *testkit.Buffer

	jobs   *queue.Client
	tokens *vault.Vault
	known  *installation.Store
}

func newHouse(t *testing.T) *house {
	t.Helper()
	t.Parallel()
	h := &house{t: t, redis: queuetest.Start(t), issuer: forgetest.Start(t), ring: testkit.Keyring(t, "k1", 1), dir: t.TempDir(), log: new(testkit.Buffer)}
	h.client = h.redis.Client()
	h.jobs = queue.NewClient(queue.Options{Redis: h.client, Keyring: h.ring})
	h.tokens = vault.New(h.client, h.ring, vault.Options{Remember: -1})
	h.known = installation.New(h.client, installation.Options{Remember: -1})
	return h
}

// config is an intake's without a spool.
func (h *house) config() intake.Config {
	return intake.Config{
		Jobs: h.jobs, Tokens: h.tokens, Installations: h.known, Ping: h.jobs.Writable, Keyring: h.ring,
		Logger: slog.New(slog.NewJSONHandler(h.log, nil)), Look: 10 * time.Millisecond,
	}
}

// process is one receiver's intake: it runs until it is killed, or until the test is over.
type process struct {
	*intake.Intake
	kill func()
}

func (h *house) start(change func(*intake.Config)) process {
	h.t.Helper()
	disk, err := spool.Open(spool.Options{Dir: h.dir})
	if err != nil {
		h.t.Fatal(err)
	}
	config := h.config()
	config.Spool = disk
	change(&config)
	taken := intake.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() { defer close(ran); _ = taken.Run(ctx) }()
	kill := sync.OnceFunc(func() { cancel(); <-ran; _ = disk.Close() })
	h.t.Cleanup(kill)
	return process{taken, kill}
}

func unchanged(*intake.Config) {}

// token is a system token that lives so long.
func (h *house) token(life time.Duration) string {
	return h.issuer.OAuthToken(forgetest.OAuthOptions{ExpiresAt: time.Now().Add(life)})
}

// delivery is an event's, with one job.
func (h *house) delivery(event, token string) intake.Delivery {
	h.t.Helper()
	invocation := h.issuer.Invocation(forgetest.FITOptions{}, forgetest.Tokens{System: token})
	made, err := job.New(invocation, job.Request{
		Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}, Actor: forge.ActorSystem, Clone: &job.Clone{Ref: "main"},
	}, job.Options{IdempotencyKey: "event " + event, Class: job.ClassEvent, Now: time.Now(), Event: event, Rule: "archive"})
	if err != nil {
		h.t.Fatal(err)
	}
	return intake.Delivery{Invocation: invocation, Jobs: []job.Job{made}}
}

func (h *house) take(to process, delivery intake.Delivery) intake.Taken {
	h.t.Helper()
	taken, err := to.Take(h.t.Context(), delivery)
	if err != nil {
		h.t.Fatal(fault.Private(err))
	}
	return taken
}

// created are the events' jobs in the order of their making, as the queue has them.
func (h *house) created() []string {
	h.t.Helper()
	var ids []string
	list, err := h.jobs.List(h.t.Context(), forgetest.Installation, job.ListOptions{Limit: 100})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, each := range list.Jobs {
		ids = append(ids, each.ID)
	}
	slices.Reverse(ids)
	return ids
}

func (h *house) pending() int {
	h.t.Helper()
	depths, err := h.jobs.Depths(h.t.Context())
	if err != nil {
		return -1
	}
	total := 0
	for _, depth := range depths {
		total += depth.Pending + depth.Active + depth.Scheduled
	}
	return total
}

func (h *house) eventually(what string, is func() bool) {
	h.t.Helper()
	testkit.Eventually(h.t, what, func() error {
		if !is() {
			return fmt.Errorf("the log:\n%s", h.log)
		}
		return nil
	})
}

// onDisk is everything in the spool's folder.
func (h *house) onDisk() []byte {
	h.t.Helper()
	var all []byte
	names, err := filepath.Glob(filepath.Join(h.dir, "*"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			h.t.Fatal(err)
		}
		all = append(all, content...)
	}
	return all
}
