package queue_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/dispatch"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const installation = "ari:cloud:ecosystem::installation/1"

// onBoth runs a test against a real redis-server and against the sandbox's.
func onBoth(t *testing.T, test func(t *testing.T, b *bundle)) {
	t.Helper()
	t.Parallel()
	t.Run("redis-server", func(t *testing.T) {
		t.Parallel()
		test(t, newBundle(t, queuetest.Start(t).Client()))
	})
	t.Run("miniredis", func(t *testing.T) {
		t.Parallel()
		test(t, newBundle(t, embedded(t)))
	})
}

// embedded is a client of a Redis as the sandbox has it.
func embedded(t *testing.T) redis.UniversalClient {
	t.Helper()
	return queuetest.Embedded(t)
}

// onReal runs a test against a real redis-server alone.
func onReal(t *testing.T) *bundle {
	t.Helper()
	t.Parallel()
	return newBundle(t, queuetest.Start(t).Client())
}

// bundle is what a test of the queue has.
type bundle struct {
	t         *testing.T
	options   queue.Options
	redis     redis.UniversalClient
	client    *queue.Client
	inspector *asynq.Inspector
	log       *testkit.Buffer
}

func newBundle(t *testing.T, client redis.UniversalClient) *bundle {
	t.Helper()
	b := &bundle{t: t, redis: client, log: new(testkit.Buffer)}
	b.options = queue.Options{
		Redis: client, Keyring: testkit.Keyring(t, "a", 1), Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	b.client = queue.NewClient(b.options)
	b.inspector = asynq.NewInspectorFromRedisClient(client)
	return b
}

// aJob is a push by the system, interactive.
func aJob(id string) job.Job {
	return job.Job{
		ID: id, Installation: installation, Actor: forge.Actor{Kind: forge.ActorSystem}, Class: job.ClassInteractive, Digest: "digest",
		Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}, CreatedAt: time.Now().UTC().Truncate(time.Millisecond),
		Trace: job.Trace{TraceID: "80f198ee56343ba864fe8b2a57d3eff7", SpanID: "e457b5a2e4d86bd1"},
		Push: &job.Push{
			Branch: "main", Message: "Change a file",
			Changes: []edit.Change{{Put: &edit.Put{Path: "a.txt", Content: "content"}}},
		},
	}
}

func (b *bundle) enqueue(jobs ...job.Job) {
	b.t.Helper()
	for _, j := range jobs {
		if _, _, err := b.client.Enqueue(b.t.Context(), j); err != nil {
			b.t.Fatalf("enqueue %s: %v", j.ID, err)
		}
	}
}

// processor is a Processor made of a function.
type processor func(ctx context.Context, j job.Job) (job.Result, error)

func (p processor) Process(ctx context.Context, j job.Job) (job.Result, error) { return p(ctx, j) }

func succeed(context.Context, job.Job) (job.Result, error) {
	return job.Result{Push: &job.PushResult{Branch: "main", Commit: "c0ffee"}}, nil
}

// serve starts a server, with a dispatcher beside it as every worker has one, and stops both at the end of the test.
func (b *bundle) serve(config queue.ServerConfig, process processor) *queue.Server {
	b.t.Helper()
	return b.serveWith(b.options, config, process)
}

func (b *bundle) serveWith(options queue.Options, config queue.ServerConfig, process processor) *queue.Server {
	b.t.Helper()
	config.Processor = process
	server := queue.NewServer(options, config)
	if err := server.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(server.Stop)
	b.dispatch(options)
	return server
}

// dispatch runs a dispatcher until the end of the test.
func (b *bundle) dispatch(options queue.Options) {
	b.t.Helper()
	client := queue.NewClient(options)
	dispatcher := dispatch.New(dispatch.Config{Ledger: client.Ledger, Tickets: client, Logger: b.options.Logger})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = dispatcher.Run(ctx) // it logs
	}()
	b.t.Cleanup(func() {
		cancel()
		<-done
	})
}

// later is a client for which more time has passed than for others.
func (b *bundle) later(by time.Duration) *queue.Client {
	options := b.options
	options.Now = func() time.Time { return time.Now().Add(by) }
	return queue.NewClient(options)
}

// look looks at the installation as a dispatcher does, after so much time, and returns how many tickets that brings.
func (b *bundle) look(after time.Duration) int {
	b.t.Helper()
	client := b.later(after)
	backlog, err := b.client.Backlog(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	found, err := client.Look(b.t.Context(), installation, backlog, true)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := client.Issue(b.t.Context(), found.Tickets); err != nil {
		b.t.Fatal(err)
	}
	return len(found.Tickets)
}

// lapse lets the leases of whatever runs run out.
func (b *bundle) lapse() {
	b.t.Helper()
	b.look(time.Minute)
}

// await polls until the job is as wanted.
func (b *bundle) await(id string, wanted job.State) job.Status {
	b.t.Helper()
	var status job.Status
	eventually(b.t, func() error {
		var err error
		status, err = b.client.Get(b.t.Context(), installation, id)
		if err == nil && status.State != wanted {
			err = fmt.Errorf("job %s is %s (%+v), want %s", id, status.State, status.Failure, wanted)
		}
		return err
	})
	return status
}

const tickets = "jobs-interactive"

// ticket is the id of a job's newest ticket; of a task that is none, its own.
func (b *bundle) ticket(id string) string {
	b.t.Helper()
	status, err := b.client.Get(b.t.Context(), installation, id)
	if err != nil {
		return id
	}
	return status.Ticket
}

// hurry lets the next attempt of a job that was put off begin now.
func (b *bundle) hurry(id string) {
	b.t.Helper()
	b.await(id, job.Retrying)
	b.redis.HSet(b.t.Context(), recordKey(id), "next", 1)
	eventually(b.t, func() error { return b.inspector.RunTask(tickets, b.ticket(id)) })
}

// taskState polls until asynq has the job's newest ticket in the state.
func (b *bundle) taskState(id string, wanted asynq.TaskState) *asynq.TaskInfo {
	b.t.Helper()
	var info *asynq.TaskInfo
	eventually(b.t, func() error {
		var err error
		info, err = b.inspector.GetTaskInfo(tickets, b.ticket(id))
		if err == nil && info.State != wanted {
			err = fmt.Errorf("the ticket of %s is %s, want %s", id, info.State, wanted)
		}
		return err
	})
	return info
}

// letGo makes asynq take an attempt for over that goes on, as it does where an operator cancels a task on the dashboard. The word for that is
// lost on a server that has only just begun to listen.
func (b *bundle) letGo(id string) {
	b.t.Helper()
	task := b.ticket(id)
	eventually(b.t, func() error {
		info, err := b.inspector.GetTaskInfo(tickets, task)
		if err != nil || info.Retried > 0 {
			return err
		}
		if err := b.inspector.CancelProcessing(task); err != nil {
			return err
		}
		return fmt.Errorf("task %s is %s", task, info.State)
	})
}

func (b *bundle) field(id, field string) string {
	b.t.Helper()
	value, err := b.redis.HGet(b.t.Context(), recordKey(id), field).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		b.t.Fatal(err)
	}
	return value
}

func recordKey(id string) string { return "gitsmith:{" + installation + "}:job:" + id }

const (
	heldKey = "gitsmith:{" + installation + "}:held:interactive"
	lineKey = "gitsmith:{" + installation + "}:line:interactive"
)

func payloadKey(id string) string { return "gitsmith:{" + installation + "}:payload:" + id }

// eventually polls until try returns nil. Its error says what is awaited.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	testkit.Eventually(t, "the queue", try)
}

// receive waits for a signal.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	return testkit.Receive(t, "the queue", from)
}

// beside is another client of the same Redis, of whatever topology.
func (b *bundle) beside(hook redis.Hook) *queue.Client {
	b.t.Helper()
	var client redis.UniversalClient
	switch own := b.redis.(type) {
	case *redis.Client:
		client = redis.NewClient(&redis.Options{Addr: own.Options().Addr})
	case *redis.ClusterClient:
		client = redis.NewClusterClient(&redis.ClusterOptions{Addrs: own.Options().Addrs})
	}
	b.t.Cleanup(func() { _ = client.Close() })
	client.AddHook(hook)
	options := b.options
	options.Redis = client
	return queue.NewClient(options)
}

// onEach runs a test against a real redis-server, a real cluster and the sandbox's.
func onEach(t *testing.T, test func(t *testing.T, b *bundle)) {
	t.Helper()
	for name, start := range map[string]func(t *testing.T) redis.UniversalClient{
		"redis-server": func(t *testing.T) redis.UniversalClient { t.Helper(); return queuetest.Start(t).Client() },
		"cluster":      func(t *testing.T) redis.UniversalClient { t.Helper(); return queuetest.StartCluster(t).Client() },
		"miniredis":    embedded,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, newBundle(t, start(t)))
		})
	}
}
