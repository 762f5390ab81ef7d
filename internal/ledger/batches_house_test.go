package ledger

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const installation = "ari:cloud:ecosystem::installation/1"

var (
	system = forge.Actor{Kind: forge.ActorSystem}
	alice  = forge.Actor{Kind: forge.ActorUser, Principal: "712020:alice"}
)

// accounts are batches without a queue: their jobs are what a test says they are.
type accounts struct {
	*Batches
	t     *testing.T
	redis redis.UniversalClient
	jobs  map[string]job.Status
}

// onEach runs a test against a redis-server, a Redis Cluster and the sandbox's Redis.
func onEach(t *testing.T, test func(a *accounts)) {
	t.Helper()
	t.Parallel()
	for name, client := range map[string]func(t *testing.T) redis.UniversalClient{
		"redis-server": func(t *testing.T) redis.UniversalClient { return queuetest.Start(t).Client() },
		"cluster":      func(t *testing.T) redis.UniversalClient { return queuetest.StartCluster(t).Client() },
		"miniredis": func(t *testing.T) redis.UniversalClient {
			server := miniredis.RunT(t)
			server.ClockTTL(true)
			client := redis.NewClient(&redis.Options{Addr: server.Addr()})
			t.Cleanup(func() { _ = client.Close() })
			return client
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newAccounts(t, client(t)))
		})
	}
}

func newAccounts(t *testing.T, client redis.UniversalClient) *accounts {
	t.Helper()
	ring, err := secret.ParseKeyring("a:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, secret.KeySize)))
	if err != nil {
		t.Fatal(err)
	}
	a := &accounts{t: t, redis: client, jobs: map[string]job.Status{}}
	a.Batches = NewBatches(BatchOptions{Redis: client, Keyring: ring, Jobs: a, Ledger: New(Options{Redis: client, Keyring: ring})})
	return a
}

func (a *accounts) GetAll(_ context.Context, _ string, ids []string) ([]job.Status, error) {
	all := make([]job.Status, len(ids))
	for i, id := range ids {
		all[i] = a.jobs[id]
	}
	return all, nil
}

// request is a batch over n repositories, acme/repo0 and on, each with a value of its own, with more of the body's members.
func (a *accounts) request(n int, more map[string]any) batch.Request {
	a.t.Helper()
	repositories := make([]map[string]any, n)
	for i := range repositories {
		repositories[i] = map[string]any{"workspace": "acme", "slug": fmt.Sprintf("repo%d", i), "values": map[string]any{"owner": fmt.Sprintf("team%d", i)}}
	}
	body := map[string]any{"push": map[string]any{
		"branch": "chore/x", "create": true, "message": "Add a file for {{ values.owner }}", "changes": []any{map[string]any{"put": map[string]any{"path": "a.txt", "content": "x"}}},
	}}
	if n > 0 {
		body["repositories"] = repositories
	}
	maps.Copy(body, more)
	text, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	request, err := batch.ParseRequest(text, job.DefaultLimits())
	if err != nil {
		a.t.Fatal(err)
	}
	return request
}

// asked is a batch as it is asked for.
func asked(id string, actor forge.Actor, request batch.Request) batch.Batch {
	return batch.Batch{
		ID: id, Installation: installation, Actor: actor, Requester: actor.Principal, CreatedAt: time.Now().UTC().Truncate(time.Millisecond), Digest: "digest of " + id, Request: request,
	}
}

func (a *accounts) create(id string, actor forge.Actor, request batch.Request) batch.Status {
	a.t.Helper()
	status, created, err := a.Create(a.t.Context(), asked(id, actor, request))
	if err != nil || !created {
		a.t.Fatalf("create: %v, created %t", err, created)
	}
	return status
}
