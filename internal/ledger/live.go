package ledger

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/keyspace"
)

const (
	enterLife  = 10 * time.Second // for which an installation that was entered is known to be there: far less than Probation
	maxEntered = 10_000
	claimPause = 15 * time.Second // until an installation that was claimed and not settled is looked at again
	scanPiece  = 1000
)

const (
	// LookPause is the longest time between two looks at a live installation.
	LookPause = 15 * time.Second
	// Probation is how long an installation without jobs stays among the live ones: another process may know that it is there, and write a job.
	Probation = time.Minute
)

var (
	enterScript  = load("enter")
	claimScript  = load("claim")
	settleScript = load("settle")

	settleAllScript = load("settle_all")
)

// entered are the installations that this process has put among the live ones a moment ago.
type entered struct {
	mutex sync.Mutex
	until map[string]time.Time
}

func (e *entered) has(installation string, now time.Time) bool {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	return now.Before(e.until[installation])
}

func (e *entered) add(installation string, until time.Time) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if e.until == nil || len(e.until) >= maxEntered {
		e.until = map[string]time.Time{}
	}
	e.until[installation] = until
}

// enter puts an installation among the live ones, before anything of it is written that somebody must look at. The set lies in another slot
// of a Cluster than the installation, so that this is a step of its own.
func (l *Ledger) enter(ctx context.Context, installation string) error {
	now := l.local()
	if l.entered.has(installation, now) {
		return nil
	}
	if err := l.Hurry(ctx, installation, enterLife); err != nil {
		return err
	}
	l.entered.add(installation, now.Add(enterLife))
	return nil
}

// reenter enters an installation once more where what was written after enter took so long that it may have been let go meanwhile.
func (l *Ledger) reenter(ctx context.Context, installation string, since time.Time) error {
	if l.local().Sub(since) < Probation/4 {
		return nil
	}
	return l.Hurry(ctx, installation, 0)
}

// Hurry has somebody look at an installation within a time.
func (l *Ledger) Hurry(ctx context.Context, installation string, within time.Duration) error {
	command := enterScript.run(ctx, l.Redis, liveKey(installation), []arg{{"now", l.clock()}, {"within", within.Milliseconds()}, {"installation", installation}})
	return unavailable(command.Err(), "queue a job")
}

func liveKey(installation string) []string {
	return []string{keyspace.Live(keyspace.ShardOf(installation))}
}

// Claim gives the installations of a shard to the caller that are to be looked at now, at most so many. Those that he does not settle come
// again a while later.
func (l *Ledger) Claim(ctx context.Context, shard, most int) ([]string, error) {
	args := []arg{{"now", l.clock()}, {"pause", claimPause.Milliseconds()}, {"most", most}}
	installations, err := claimScript.run(ctx, l.Redis, []string{keyspace.Live(shard)}, args).StringSlice()
	return installations, unavailable(err, "look for jobs")
}

// Settle has an installation that was claimed a while ago looked at again after a time, or lets it go where after is negative.
func (l *Ledger) Settle(ctx context.Context, installation string, ago, after time.Duration) error {
	least := claimPause - ago - time.Second
	args := []arg{{"now", l.clock()}, {"installation", installation}, {"after", milliseconds(after)}, {"least", least.Milliseconds()}}
	return unavailable(settleScript.run(ctx, l.Redis, liveKey(installation), args).Err(), "look for jobs")
}

// SettleAll is [Ledger.Settle] for installations that were claimed at the same time and are looked at again, each after a time that is not
// negative. It takes one step for each shard.
func (l *Ledger) SettleAll(ctx context.Context, ago time.Duration, after map[string]time.Duration) error {
	pairs := map[int][]any{}
	for _, installation := range slices.Sorted(maps.Keys(after)) {
		shard := keyspace.ShardOf(installation)
		pairs[shard] = append(pairs[shard], installation, after[installation].Milliseconds())
	}
	least := claimPause - ago - time.Second
	args := []arg{{"now", l.clock()}, {"least", least.Milliseconds()}}
	for shard := range keyspace.Shards {
		for page := range slices.Chunk(pairs[shard], 2*eachPage) {
			if err := settleAllScript.run(ctx, l.Redis, []string{keyspace.Live(shard)}, args, page...).Err(); err != nil {
				return unavailable(err, "look for jobs")
			}
		}
	}
	return nil
}

// Recount enters every installation that has jobs, for a Redis that may have lost some of its keys. It looks through all of them, in pieces.
func (l *Ledger) Recount(ctx context.Context) error {
	for _, pattern := range keyspace.LivePatterns() {
		err := l.eachKey(ctx, pattern, func(key string) error {
			return l.Hurry(ctx, keyspace.InstallationOf(key), 0)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// eachKey calls do for every key that matches, on every master of a Cluster, one after the other. A key may come twice.
func (l *Ledger) eachKey(ctx context.Context, pattern string, do func(key string) error) error {
	one := func(ctx context.Context, node redis.Cmdable) error {
		for cursor := uint64(0); ; {
			keys, next, err := node.Scan(ctx, cursor, pattern, scanPiece).Result()
			if err != nil {
				return unavailable(err, "look for jobs")
			}
			for _, key := range keys {
				if err := do(key); err != nil {
					return err
				}
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	if cluster, ok := l.Redis.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return one(ctx, node) })
	}
	return one(ctx, l.Redis)
}

// Lease makes the caller, who has a name of its own, the one that looks at a shard, or leaves him so, for a time. It reports whether he is.
func (l *Ledger) Lease(ctx context.Context, shard int, name string, life time.Duration) (bool, error) {
	mine, err := leaseScript.run(ctx, l.Redis, []string{keyspace.Lease(shard)}, []arg{{"now", l.clock()}, {"name", name}, {"life", life.Milliseconds()}}).Int()
	return mine == 1, unavailable(err, "look for jobs")
}

// Release gives a shard up, so that another process takes it at once.
func (l *Ledger) Release(ctx context.Context, shard int, name string) error {
	_, err := leaseScript.run(ctx, l.Redis, []string{keyspace.Lease(shard)}, []arg{{"now", l.clock()}, {"name", name}, {"life", 0}}).Int()
	return unavailable(err, "look for jobs")
}

var leaseScript = load("lease")

// milliseconds is a duration for a script, in which what is negative stays so.
func milliseconds(d time.Duration) int64 {
	if d < 0 {
		return -1
	}
	return d.Milliseconds()
}
