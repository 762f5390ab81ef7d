package systemtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// disturber has asynq lose or find things, as a Redis that somebody touched by hand.
type disturber struct {
	seed   uint64
	faults map[string]int // how often each was had
}

// run disturbs once in a pause, until ctx ends, and returns how often it did.
func (d *disturber) run(ctx context.Context, s *system, pause time.Duration) (disturbed int) {
	s.t.Helper()
	d.faults = map[string]int{}
	chance := rand.New(rand.NewPCG(d.seed, 0))
	tick := time.NewTicker(pause)
	defer tick.Stop()
	client := s.redis.Client()
	for {
		select {
		case <-ctx.Done():
			return disturbed
		case <-tick.C:
		}
		faults := disturbances()
		// In turn, so that each is had; the choice within one is by chance.
		fault := faults[disturbed%len(faults)]
		if err := fault.do(s.t.Context(), client, chance); err != nil {
			s.t.Errorf("%s: %v", fault.name, err)
		}
		d.faults[fault.name]++
		disturbed++
	}
}

type disturbance struct {
	name string
	do   func(ctx context.Context, client redis.UniversalClient, chance *rand.Rand) error
}

func disturbances() []disturbance {
	queue := keyspace.Queue(string(job.ClassEvent))
	key := func(name string) string { return "asynq:{" + queue + "}:" + name }
	return []disturbance{
		{"everything is gone", func(ctx context.Context, client redis.UniversalClient, _ *rand.Rand) error {
			return each(ctx, client, "asynq:*", func(string) bool { return true })
		}},
		{"a third of the tasks are gone", func(ctx context.Context, client redis.UniversalClient, chance *rand.Rand) error {
			return each(ctx, client, key("t:*"), func(string) bool { return chance.IntN(3) == 0 })
		}},
		{"the queues have no names", func(ctx context.Context, client redis.UniversalClient, _ *rand.Rand) error {
			return client.Del(ctx, "asynq:queues").Err()
		}},
		{"the leases are gone", func(ctx context.Context, client redis.UniversalClient, _ *rand.Rand) error {
			return client.Del(ctx, key("lease")).Err()
		}},
		{"garbage and unknown types are pending", func(ctx context.Context, client redis.UniversalClient, chance *rand.Rand) error {
			pipeline := client.Pipeline()
			for i, message := range []string{"\xff\xff", "", "\x0a\x07unknown\x12\x02{}\x1a\x01x"} {
				id := fmt.Sprintf("garbage-%d-%d", chance.Uint64(), i)
				pipeline.HSet(ctx, key("t:"+id), "msg", message, "state", "pending")
				pipeline.LPush(ctx, key("pending"), id)
			}
			_, err := pipeline.Exec(ctx)
			return err
		}},
		{"tickets that were served are pending again", func(ctx context.Context, client redis.UniversalClient, _ *rand.Rand) error {
			served, err := client.ZRange(ctx, key("completed"), 0, 99).Result()
			if err != nil || len(served) == 0 {
				return err
			}
			pipeline := client.Pipeline()
			for _, id := range served {
				pipeline.ZRem(ctx, key("completed"), id)
				pipeline.HSet(ctx, key("t:"+id), "state", "pending")
				pipeline.LPush(ctx, key("pending"), id)
			}
			_, err = pipeline.Exec(ctx)
			return err
		}},
		{"9,500 old tasks are archived", func(ctx context.Context, client redis.UniversalClient, chance *rand.Rand) error {
			pipeline, old := client.Pipeline(), float64(time.Now().Add(-91*24*time.Hour).Unix())
			for i := range 9_500 {
				id := fmt.Sprintf("old-%d-%d", chance.Uint64(), i)
				pipeline.HSet(ctx, key("t:"+id), "msg", "\x0a\x03job\x12\x02{}", "state", "archived")
				pipeline.ZAdd(ctx, key("archived"), redis.Z{Score: old, Member: id})
			}
			_, err := pipeline.Exec(ctx)
			return err
		}},
		{"the scripts are gone", func(ctx context.Context, client redis.UniversalClient, _ *rand.Rand) error {
			return client.ScriptFlush(ctx).Err()
		}},
	}
}

// each deletes the keys that match and that are chosen.
func each(ctx context.Context, client redis.UniversalClient, pattern string, chosen func(key string) bool) error {
	keys, err := client.Keys(ctx, pattern).Result()
	if err != nil {
		return err
	}
	pipeline := client.Pipeline()
	for _, key := range keys {
		if chosen(key) {
			pipeline.Del(ctx, key)
		}
	}
	if pipeline.Len() == 0 {
		return nil
	}
	_, err = pipeline.Exec(ctx)
	return err
}

// TestAsynqLosesEverything while events come: each makes one job, which is done once.
func TestAsynqLosesEverything(t *testing.T) {
	t.Parallel()
	d := &disturber{seed: rand.Uint64()}
	t.Logf("seed %d", d.seed)
	m := mayhem{events: 500, rate: 100, installations: 4, pause: 500 * time.Millisecond, concurrency: 4, natural: true, disturb: d}
	m.run(t).check(t, m)
	if len(d.faults) < len(disturbances()) {
		t.Errorf("only %v was had", d.faults)
	}
}
