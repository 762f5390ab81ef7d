package dispatch_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/dispatch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

const installation = "ari:cloud:ecosystem::installation/1"

var (
	system = forge.Actor{Kind: forge.ActorSystem}
	alice  = forge.Actor{Kind: forge.ActorUser, Principal: "712020:alice"}
)

// bundle is what a test of batches has: the store, a queue, and a driver once it is started.
type bundle struct {
	t      *testing.T
	redis  redis.UniversalClient
	queue  queue.Options
	client *queue.Client
	store  *ledger.Batches
	tokens *tokens
	lister *lister
}

// onBoth runs a test against a real redis-server and against the sandbox's.
func onBoth(t *testing.T, test func(b *bundle)) {
	t.Helper()
	t.Parallel()
	t.Run("redis-server", func(t *testing.T) {
		t.Parallel()
		test(newBundle(t, queuetest.Start(t).Client()))
	})
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(newBundle(t, queuetest.Embedded(t)))
	})
}

func onReal(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	return newBundle(t, queuetest.Start(t).Client())
}

func newBundle(t *testing.T, client redis.UniversalClient) *bundle {
	t.Helper()
	ring := testkit.Keyring(t, "a", 1)
	b := &bundle{t: t, redis: client, tokens: newTokens(), lister: &lister{}}
	b.queue = queue.Options{Redis: client, Keyring: ring, Logger: slog.New(slog.DiscardHandler)}
	b.client = queue.NewClient(b.queue)
	b.store = ledger.NewBatches(ledger.BatchOptions{Redis: client, Keyring: ring, Ledger: b.client.Ledger})
	return b
}

// tokens has a token for each actor until it is taken away.
type tokens struct {
	mutex sync.Mutex
	gone  map[forge.ActorKind]bool

	otherErr error // of taking another token
}

func newTokens() *tokens { return &tokens{gone: map[forge.ActorKind]bool{}} }

func (k *tokens) set(kind forge.ActorKind, there bool) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	k.gone[kind] = !there
}

func (k *tokens) Take(_ context.Context, _ string, actor forge.Actor) (forge.OAuthToken, error) {
	k.mutex.Lock()
	defer k.mutex.Unlock()
	if k.gone[actor.Kind] {
		return forge.OAuthToken{}, fault.Newf(fault.Expired, "there is no token")
	}
	return forge.OAuthToken{Text: secret.New("token"), ExpiresAt: time.Now().Add(30 * 24 * time.Hour)}, nil
}

// TakeOther gives the one before the current token, unless the current one is the only one.
func (k *tokens) TakeOther(context.Context, string, forge.Actor, forge.OAuthToken) (forge.OAuthToken, error) {
	if k.otherErr != nil {
		return forge.OAuthToken{}, k.otherErr
	}
	return forge.OAuthToken{Text: secret.New("other"), ExpiresAt: time.Now().Add(time.Hour)}, nil
}

// lister is a workspace in pages; an error of a page is given once.
type lister struct {
	mutex sync.Mutex
	by    []string // tokens, in order
	pages [][]bitbucket.Details
	fails map[string]error // by page
	asked []bitbucket.ListSpec
}

func (l *lister) List(_ context.Context, token secret.Text, spec bitbucket.ListSpec) (bitbucket.ListPage, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	l.by = append(l.by, token.Reveal())
	l.asked = append(l.asked, spec)
	if err := l.fails[spec.Page]; err != nil {
		delete(l.fails, spec.Page)
		return bitbucket.ListPage{}, err
	}
	at := 0
	if spec.Page != "" {
		_, _ = fmt.Sscanf(spec.Page, "page%d", &at)
	}
	page := bitbucket.ListPage{Repositories: append([]bitbucket.Details{}, l.pages[at]...)}
	if at+1 < len(l.pages) {
		page.Next = fmt.Sprintf("page%d", at+1)
	}
	return page, nil
}

func (l *lister) Workspace(context.Context, string) (string, error) {
	return "11111111-1111-1111-1111-111111111111", nil
}

// drive runs a driver until the end of the test, or until the function it returns is called.
func (b *bundle) drive() (*dispatch.Driver, func()) {
	driver := dispatch.NewDriver(dispatch.DriverConfig{
		Batches: b.store, Queue: b.client, Tokens: b.tokens, Lister: b.lister, Workspaces: b.lister, TokenMargin: time.Minute, Now: b.store.Now, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = driver.Run(ctx) }()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	b.t.Cleanup(stop)
	return driver, stop
}

// heard waits until somebody listens to a channel.
func (b *bundle) heard(channel string) {
	b.t.Helper()
	testkit.Eventually(b.t, "a driver listens to "+channel, func() error {
		heard, err := b.redis.PubSubNumSub(b.t.Context(), channel).Result()
		if err == nil && heard[channel] == 0 {
			err = errors.New("nobody does")
		}
		return err
	})
}

type processor func(ctx context.Context, j job.Job) (job.Result, error)

func (p processor) Process(ctx context.Context, j job.Job) (job.Result, error) { return p(ctx, j) }

// serve runs a worker with a driver and a dispatcher.
func (b *bundle) serve(process processor) *dispatch.Driver {
	b.t.Helper()
	driver, _ := b.drive()
	server := queue.NewServer(b.queue, queue.ServerConfig{
		Processor: process, Concurrency: 32,
		Ended: func(_ context.Context, j job.Job, _ queue.End) { driver.Nudge(j.Installation, j.Batch.ID) },
	})
	if err := server.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(server.Stop)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = dispatch.New(dispatch.Config{Ledger: b.client.Ledger, Tickets: b.client, Logger: slog.New(slog.DiscardHandler)}).Run(ctx)
	}()
	b.t.Cleanup(func() { cancel(); <-done })
	return driver
}

func succeed(_ context.Context, j job.Job) (job.Result, error) {
	return job.Result{Push: &job.PushResult{Branch: "chore/x", Commit: fmt.Sprintf("%040d", j.Batch.Item), Changed: 1}}, nil
}

// request is a batch over n repositories, acme/repo0 and on, with more of the body's members.
func (b *bundle) request(n int, more map[string]any) batch.Request {
	b.t.Helper()
	repositories := make([]map[string]any, n)
	for i := range repositories {
		repositories[i] = map[string]any{"workspace": "acme", "slug": fmt.Sprintf("repo%d", i)}
	}
	body := map[string]any{"push": aPush()}
	if n > 0 {
		body["repositories"] = repositories
	}
	maps.Copy(body, more)
	return b.parse(body)
}

func aPush() map[string]any {
	return map[string]any{
		"branch": "chore/x", "create": true, "message": "Add a file", "changes": []any{map[string]any{"put": map[string]any{"path": "a.txt", "content": "x"}}},
	}
}

func (b *bundle) parse(body map[string]any) batch.Request {
	b.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		b.t.Fatal(err)
	}
	request, err := batch.ParseRequest(text, job.DefaultLimits())
	if err != nil {
		b.t.Fatal(err)
	}
	return request
}

func (b *bundle) create(id string, request batch.Request) batch.Status {
	b.t.Helper()
	return b.createAs(id, system, request)
}

func (b *bundle) createAs(id string, actor forge.Actor, request batch.Request) batch.Status {
	b.t.Helper()
	status, created, err := b.store.Create(b.t.Context(), batch.Batch{
		ID: id, Installation: installation, Actor: actor, Requester: actor.Principal, CreatedAt: time.Now().UTC().Truncate(time.Millisecond), Digest: "digest of " + id, Request: request,
	})
	if err != nil || !created {
		b.t.Fatalf("create: %v, created %t", err, created)
	}
	return status
}

// await polls until the batch is as wanted, and sees to it that the totals add up at each look. Its patience begins anew whenever a
// repository has ended: what decides is that the batch moves, not how long all of it takes.
func (b *bundle) await(id, what string, wanted func(batch.Status) bool) batch.Status {
	b.t.Helper()
	for most := 0; ; {
		var status batch.Status
		done := false
		testkit.Eventually(b.t, what, func() (err error) {
			if status, err = b.store.Get(b.t.Context(), installation, id); err != nil {
				b.t.Fatalf("%s: %v", what, err)
			}
			b.addUp(status)
			if done = wanted(status); done || ended(status) > most {
				return nil
			}
			return fmt.Errorf("%+v", status)
		})
		if done {
			return status
		}
		most = ended(status)
	}
}

// ended counts the repositories that have ended.
func ended(status batch.Status) int {
	return status.Total - status.Totals[batch.Queued] - status.Totals[batch.Running] - status.Totals[batch.Waiting]
}

func (b *bundle) addUp(status batch.Status) {
	b.t.Helper()
	sum := 0
	for _, count := range status.Totals {
		sum += count
	}
	if sum != status.Total {
		b.t.Fatalf("the totals are %d of %d: %v", sum, status.Total, status.Totals)
	}
}

func (b *bundle) finished(id string) batch.Status {
	b.t.Helper()
	return b.await(id, "it ends", func(s batch.Status) bool { return s.State == batch.StateFinished && !s.EndedAt.IsZero() })
}

// gated succeeds when the gate gives or is open.
func gated(gate <-chan struct{}) processor {
	return func(ctx context.Context, j job.Job) (job.Result, error) {
		select {
		case <-gate:
		case <-ctx.Done():
			return job.Result{}, ctx.Err()
		}
		return succeed(ctx, j)
	}
}
