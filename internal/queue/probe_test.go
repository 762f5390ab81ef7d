package queue_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

// TestWritableSaysWhatIsWrong puts a real Redis into each state in which it answers and takes no job.
func TestWritableSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	type command = []any
	for name, tc := range map[string]struct {
		cluster bool
		spoil   []command
		want    string
	}{
		"full":                    {spoil: []command{{"config", "set", "maxmemory", "1"}}, want: "(OOM)"},
		"a replica":               {spoil: []command{{"replicaof", "127.0.0.1", "1"}}, want: "(READONLY)"},
		"a replica that is stale": {spoil: []command{{"config", "set", "replica-serve-stale-data", "no"}, {"replicaof", "127.0.0.1", "1"}}, want: "(MASTERDOWN)"},
		"no scripts":              {spoil: []command{{"acl", "setuser", "default", "-evalsha", "-eval", "-script"}}, want: "(NOPERM)"},
		"no writes":               {spoil: []command{{"acl", "setuser", "default", "-set"}}, want: "(NOPERM)"},
		"no keys":                 {spoil: []command{{"acl", "setuser", "default", "resetkeys", "~other:*"}}, want: "(NOPERM)"},
		"too few replicas":        {spoil: []command{{"config", "set", "min-replicas-to-write", "1"}}, want: "(NOREPLICAS)"},
		"half a cluster":          {cluster: true, spoil: []command{{"cluster", "delslotsrange", "0", "8000"}}, want: "(CLUSTERDOWN)"},
		"a slot of a cluster": {
			cluster: true, want: "(CLUSTERDOWN)",
			spoil: []command{{"config", "set", "cluster-require-full-coverage", "no"}, {"cluster", "delslotsrange", "0", "8000"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := queuetest.Start
			if tc.cluster {
				start = queuetest.StartCluster
			}
			server := start(t)
			b := newBundle(t, server.Client())
			if err := b.client.Ready(t.Context()); err != nil {
				t.Fatalf("before: %v", err)
			}
			direct := redis.NewClient(&redis.Options{Addr: server.Addr})
			defer direct.Close()
			for _, words := range tc.spoil {
				if err := direct.Do(t.Context(), words...).Err(); err != nil {
					t.Fatalf("%v: %v", words, err)
				}
			}
			eventually(t, func() error { return says(b.client.Ready(t.Context()), tc.want) })
		})
	}
}

// says returns an error unless err is an Unavailable fault whose public text holds want.
func says(err error, want string) error {
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.Public(err), want) {
		return fmt.Errorf("want %s, got %w: %s", want, err, fault.Public(err))
	}
	return nil
}

// TestWritableWhileLoading looks at a replica that is loading what its master has sent.
func TestWritableWhileLoading(t *testing.T) {
	b := onReal(t)
	pipeline := b.redis.Pipeline()
	for i := range 200 {
		pipeline.Set(t.Context(), fmt.Sprint("key-", i), incompressible(2_000), 0)
	}
	pipeline.ConfigSet(t.Context(), "repl-diskless-sync-delay", "0")
	if _, err := pipeline.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	loading := newBundle(t, queuetest.Start(t).Client())
	host, port, _ := net.SplitHostPort(b.redis.(*redis.Client).Options().Addr)
	for _, words := range [][]any{
		{"config", "set", "key-load-delay", "100000"}, // µs: 20 s for all of them, answering in between
		{"config", "set", "loading-process-events-interval-bytes", "1024"},
		{"replicaof", host, port},
	} {
		if err := loading.redis.Do(t.Context(), words...).Err(); err != nil {
			t.Fatalf("%v: %v", words, err)
		}
	}
	eventually(t, func() error { return says(loading.client.Ready(t.Context()), "(LOADING)") })
}

// incompressible is a value that an RDB file holds at its full length: the server looks for callers once every KiB that it loads.
func incompressible(length int) []byte {
	value := make([]byte, length)
	_, _ = rand.Read(value) // never fails (crypto/rand)
	return value
}

// counting counts the scripts that go to Redis.
type counting struct {
	cutter
	scripts atomic.Int32
}

func (c *counting) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		if command.Name() == "evalsha" {
			c.scripts.Add(1)
		}
		return next(ctx, command)
	}
}

// TestReadyIsCheap: however many ask how Redis is, it is asked about once a second; a failure is told at once, and so is its end.
func TestReadyIsCheap(t *testing.T) {
	b := onReal(t)
	count := &counting{}
	client := b.beside(count)
	var group sync.WaitGroup
	for range 200 {
		group.Go(func() {
			if err := client.Ready(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := count.scripts.Load(); n > 10 {
		t.Errorf("200 callers made %d scripts", n)
	}
	if err := b.redis.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return says(client.Ready(t.Context()), "(OOM)") })
	if err := b.redis.ConfigSet(t.Context(), "maxmemory", "0").Err(); err != nil {
		t.Fatal(err)
	}
	if err := client.Ready(t.Context()); err != nil {
		t.Errorf("a failure is remembered: %v", err)
	}
}

// TestReadyHasABound on a Redis that takes connections and never answers.
func TestReadyHasABound(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client := redis.NewClient(&redis.Options{Addr: listener.Addr().String(), ContextTimeoutEnabled: true, DialerRetries: 1})
	defer client.Close()
	b := newBundle(t, client)
	if err := says(queue.NewClient(b.options).Ready(t.Context()), "redis cannot be reached now"); err != nil {
		t.Error(err)
	}
}

// TestWritableLeavesNothing in Redis.
func TestWritableLeavesNothing(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(testing.TB) *queuetest.Redis{"redis-server": queuetest.Start, "cluster": queuetest.StartCluster} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBundle(t, start(t).Client())
			if err := errors.Join(b.client.Writable(t.Context()), b.client.Ready(t.Context())); err != nil {
				t.Fatal(err)
			}
			if keys, err := b.redis.Keys(t.Context(), "*").Result(); err != nil || len(keys) > 0 {
				t.Errorf("%s (%v)", strings.Join(keys, " "), err)
			}
		})
	}
}
