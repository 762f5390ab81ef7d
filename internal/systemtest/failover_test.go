package systemtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/bench"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

// failover is pushes, while the servers that are one Redis die, hand over and share their slots anew.
type failover struct {
	events, rate, repositories int
	start                      func(tb testing.TB) *queuetest.Topology
	faults                     []fault
}

// fault is what happens to the servers. It returns when a new master takes writes.
type fault struct {
	name string
	do   func(ctx context.Context, s *system, t *queuetest.Topology) error
}

// recovered is what came of it.
type recovered struct {
	endured
	ends []time.Duration // for each fault, from the new master until the last job that was there has ended
}

// failoverEnds is how soon after a new master took over all jobs that were there have ended.
const failoverEnds = 45 * time.Second

func (f failover) run(t testing.TB) recovered {
	t.Helper()
	s := newSystem(t)
	defer s.end()
	topology := f.start(t)
	s.redis = topology.Redis
	s.settings = append(s.settings, "GITSMITH_REDIS_URL="+s.redis.URL)
	roots := s.startRepositories(f.repositories)
	s.useRules(outageRules)
	s.startReceiver()
	for range 2 {
		s.startSoakWorker("GITSMITH_CONCURRENCY=4", "GITSMITH_CACHE_DIR="+t.TempDir(), "GITSMITH_TEMP_DIR="+t.TempDir())
	}
	load := s.newFlood(2*time.Second, s.oauthToken(4*time.Hour))
	events := eventsOf(0, f.events, 4, f.repositories)
	var group sync.WaitGroup
	group.Go(func() { load.run(t.Context(), events, f.rate) })
	var result recovered
	for i, fault := range f.faults {
		within(t, 5*time.Minute, "some are sent", func() error {
			load.mu.Lock()
			defer load.mu.Unlock()
			if load.sent < (i+1)*f.events/(len(f.faults)+1) {
				return fmt.Errorf("%d were", load.sent)
			}
			return nil
		})
		if err := fault.do(t.Context(), s, topology); err != nil {
			t.Fatalf("%s: %v", fault.name, err)
		}
		after := s.endAfter(time.Now())
		t.Logf("%s: all jobs of before have ended after %s", fault.name, after)
		result.ends = append(result.ends, after)
		for _, node := range topology.Nodes {
			if !node.Runs() {
				node.Restart()
			}
		}
		topology.Sync()
	}
	group.Wait()
	s.settle(4 * time.Minute)
	result.endured = outage{}.judge(events, roots, s)
	result.sent, result.refused, result.longest = load.sent, load.refused, load.longest
	if len(load.unread) > 0 {
		t.Logf("refused: %q", load.unread)
	}
	return result
}

// endAfter is how long after a time all jobs have ended that were there then.
func (s *system) endAfter(at time.Time) time.Duration {
	s.t.Helper()
	within(s.t, 4*time.Minute, "the jobs of before end", func() error {
		left := 0
		for _, job := range s.records("gitsmith:{*}:job:*") {
			if job.created < at.UnixMilli() && job.state != "succeeded" && job.state != "failed" {
				left++
			}
		}
		if left > 0 {
			return fmt.Errorf("%d are left", left)
		}
		return nil
	})
	return time.Since(at)
}

func (r recovered) check(t testing.TB, f failover) {
	t.Helper()
	t.Logf("%+v", r)
	if r.lost > 0 || r.duplicates > 0 || r.executed != f.events || r.states["succeeded"] != r.jobs {
		t.Errorf("%d of %d events are done, %d that were answered are lost, %d were done twice", r.executed, f.events, r.lost, r.duplicates)
	}
	for i, took := range r.ends {
		if took > failoverEnds {
			t.Errorf("%s: the last job ended after %s", f.faults[i].name, took)
		}
	}
}

func (r recovered) table(f failover, title, note string) bench.Table {
	table := bench.Table{
		Title: title, Note: note,
		Header: []string{"events", "sent", "without 2xx", "jobs", "executed", "duplicates", "answered and lost", "longest answer"},
		Rows: [][]string{{
			fmt.Sprint(r.events), fmt.Sprint(r.sent), fmt.Sprint(r.refused), fmt.Sprint(r.jobs), fmt.Sprint(r.executed), fmt.Sprint(r.duplicates), fmt.Sprint(r.lost), milliseconds(r.longest),
		}},
	}
	for i, took := range r.ends {
		table.Header = append(table.Header, f.faults[i].name+": last job ended after")
		table.Rows[0] = append(table.Rows[0], seconds(took))
	}
	return table
}

// killMaster kills the server that takes writes, and waits until another one does.
func killMaster(ctx context.Context, s *system, t *queuetest.Topology) error {
	return changeMaster(ctx, s, t, func(master *queuetest.Redis) error {
		master.Crash(-1)
		return nil
	})
}

// handOver has the replica take over while the old master lives and refuses writes on the connections that are open to it.
func handOver(ctx context.Context, s *system, t *queuetest.Topology) error {
	return changeMaster(ctx, s, t, func(*queuetest.Redis) error { return t.HandOver(ctx) })
}

func changeMaster(ctx context.Context, s *system, t *queuetest.Topology, change func(master *queuetest.Redis) error) error {
	before, err := t.Master(ctx)
	if err != nil {
		return err
	}
	if err := change(before); err != nil {
		return err
	}
	within(s.t, time.Minute, "another master", func() error {
		master, err := t.Master(ctx)
		if err != nil || master == before {
			return fmt.Errorf("%v is the master, %w", master, err)
		}
		return takesWrites(ctx, master)
	})
	return nil
}

func takesWrites(ctx context.Context, node *queuetest.Redis) error {
	client := redis.NewClient(&redis.Options{Addr: node.Addr, MaxRetries: -1})
	defer client.Close()
	return client.Set(ctx, keyspace.Writable, 1, time.Second).Err()
}

// killOne kills the master of an installation's keys, and waits until its replica has taken over.
func killOne(ctx context.Context, s *system, t *queuetest.Topology) error {
	key := keyspace.Installation("ari:cloud:ecosystem::installation/soak-1").Jobs()
	before, err := t.OwnerOf(ctx, key)
	if err != nil {
		return err
	}
	before.Crash(-1)
	within(s.t, time.Minute, "the replica takes over", func() error {
		client := t.Client().(*redis.ClusterClient)
		client.ReloadState(ctx)
		owner, err := t.OwnerOf(ctx, key)
		if err != nil || owner == before {
			return fmt.Errorf("not yet, %w", err)
		}
		return client.ZAdd(ctx, key, redis.Z{Member: "probe"}).Err()
	})
	return t.Client().ZRem(ctx, key, "probe").Err()
}

// moveSlots moves a thousand slots of a master to another one, an installation's among them.
func moveSlots(ctx context.Context, s *system, t *queuetest.Topology) error {
	client := t.Client().(*redis.ClusterClient)
	key := keyspace.Installation("ari:cloud:ecosystem::installation/soak-2").Jobs()
	client.ReloadState(ctx)
	from, err := t.OwnerOf(ctx, key)
	if err != nil {
		return err
	}
	first, err := client.ClusterKeySlot(ctx, key).Result()
	if err != nil {
		return err
	}
	shards, err := client.ClusterShards(ctx).Result()
	if err != nil {
		return err
	}
	var slots []int
	var to *queuetest.Redis
	for _, shard := range shards {
		for _, node := range t.Nodes {
			switch {
			case !slices.ContainsFunc(shard.Nodes, func(known redis.Node) bool {
				return known.Role == "master" && fmt.Sprint(known.IP, ":", known.Port) == node.Addr
			}):
			case node == from:
				for slot := shard.Slots[0].Start; slot <= shard.Slots[0].End && len(slots) < 1000; slot++ {
					slots = append(slots, int(slot))
				}
			default:
				to = node
			}
		}
	}
	if to == nil || len(slots) == 0 {
		return errors.New("there is no other master")
	}
	if !slices.Contains(slots, int(first)) {
		slots = append(slots, int(first))
	}
	return t.Move(ctx, slots, from, to)
}

func soakSentinel(b *testing.B) []bench.Table {
	f := failover{
		events: 300, rate: 2, repositories: 16, start: queuetest.StartSentinel,
		faults: []fault{{"killed", killMaster}, {"handed over", handOver}, {"killed again", killMaster}},
	}
	r := f.run(b)
	r.check(b, f)
	return []bench.Table{r.table(f, "Three sentinels, a master and a replica: the master is killed, hands over, and is killed",
		"Each event is a push of one line to one of 16 repositories behind git http-backend, by two workers with 4 slots each. Redelivered after 2 s what was not answered. Times are\n"+
			"from when the new master took writes. Handed over (SENTINEL FAILOVER), the old master lives on as a replica that answers READONLY on the connections that it has.")}
}

func soakCluster(b *testing.B) []bench.Table {
	f := failover{
		events: 240, rate: 2, repositories: 16, start: queuetest.StartMasters,
		faults: []fault{{"a master killed", killOne}, {"a thousand slots moved", moveSlots}},
	}
	r := f.run(b)
	r.check(b, f)
	return []bench.Table{r.table(f, "A cluster of three masters and three replicas: a master is killed, and a thousand slots move, with an installation's keys",
		"Load and times as with Sentinel.")}
}
