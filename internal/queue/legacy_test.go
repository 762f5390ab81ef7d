package queue_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
)

// restore fills Redis with what a version before tickets (commit fe66ced) had left there: jobs that were pending, active, scheduled because
// their installation had no slot left, waiting for their next attempt or for a token, archived, retried and completed.
func (b *bundle) restore() {
	b.t.Helper()
	text, err := os.ReadFile("testdata/before-tickets.json")
	if err != nil {
		b.t.Fatal(err)
	}
	var keys []struct {
		Key    string
		TTL    int64
		String []byte
		Hash   map[string][]byte
		List   []string
		Set    []string
		Zset   map[string]float64
	}
	if err := json.Unmarshal(text, &keys); err != nil {
		b.t.Fatal(err)
	}
	ctx, pipeline := b.t.Context(), b.redis.Pipeline()
	for _, each := range keys {
		if each.String != nil {
			pipeline.Set(ctx, each.Key, each.String, 0)
		}
		for field, value := range each.Hash {
			pipeline.HSet(ctx, each.Key, field, value)
		}
		for _, member := range each.List {
			pipeline.RPush(ctx, each.Key, member)
		}
		for _, member := range each.Set {
			pipeline.SAdd(ctx, each.Key, member)
		}
		for member, score := range each.Zset {
			pipeline.ZAdd(ctx, each.Key, redis.Z{Score: score, Member: member})
		}
		if each.TTL > 0 {
			pipeline.PExpire(ctx, each.Key, time.Duration(each.TTL)*time.Millisecond)
		}
	}
	if _, err := pipeline.Exec(ctx); err != nil {
		b.t.Fatal(err)
	}
}

// TestUpgrade: every job of an older version goes on where it stood, once, and what has ended can be looked up and retried.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, b *bundle) {
		b.restore()
		b.capped(4)
		var mutex sync.Mutex
		ran := map[string]int{}
		b.serve(queue.ServerConfig{Concurrency: 2}, func(ctx context.Context, j job.Job) (job.Result, error) {
			mutex.Lock()
			defer mutex.Unlock()
			ran[fmt.Sprint(j.ID, ".", j.Generation)]++
			return succeed(ctx, j)
		})
		going := []string{"running", "queued-0", "queued-1", "queued-2", "queued-3", "queued-4", "event", "retrying", "waiting"}
		for _, id := range going {
			eventually(t, func() error {
				b.look(0) // judges the lease of the attempt whose worker is gone
				status, err := b.client.Get(t.Context(), installation, id)
				if err == nil && status.State != job.Succeeded {
					err = fmt.Errorf("%s is %s", id, status.State)
				}
				return err
			})
		}
		for id, generation := range map[string]int{"failed": 1, "retried": 2} {
			if status, err := b.client.Retry(t.Context(), installation, id); err != nil || status.Generation != generation {
				t.Fatalf("%+v %v", status, err)
			}
			b.await(id, job.Succeeded)
			going = append(going, fmt.Sprint(id, ".", generation))
		}
		b.await("succeeded", job.Succeeded)
		mutex.Lock()
		defer mutex.Unlock()
		if len(ran) != len(going) {
			t.Errorf("%v ran, want %v", ran, going)
		}
		for id, times := range ran {
			if times != 1 {
				t.Errorf("%s ran %d times", id, times)
			}
		}
		for _, key := range []string{"asynq:{interactive}:pending", "asynq:{interactive}:scheduled", "asynq:{interactive}:retry", "asynq:{interactive}:active", "asynq:{event}:pending"} {
			if n := b.redis.Exists(t.Context(), key).Val(); n != 0 {
				t.Errorf("%s is still there", key)
			}
		}
	})
}
