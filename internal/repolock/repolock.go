// Package repolock lets one job at a time work on a repository, over all workers. A lock is kept alive while its holder
// works. Each holder gets a number greater than that of every holder before it (its fence), and what a job is about to push
// (its intent) can be written down only by the holder of the newest one, so that a holder that was away for too long cannot
// overwrite what came after it.
package repolock

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// Options are what a Locker can be told. The zero value is right for production.
type Options struct {
	// TTL is how long a lock outlives a holder that was killed; 30 s by default. It is extended every third of that.
	TTL time.Duration
	// Wait is how long Acquire waits for another holder; 5 s by default.
	Wait time.Duration
	// Retention is for how long fences and intents are kept after their last use; 7 days by default. It must be longer than
	// any job is retried.
	Retention time.Duration
}

// Locker gives out locks. It may be used concurrently and by several processes on the same Redis.
type Locker struct {
	redis     redis.UniversalClient
	redsync   *redsync.Redsync
	ttl       time.Duration
	wait      time.Duration
	retention time.Duration
}

// New makes a Locker on one Redis: an instance, a Sentinel group or a cluster.
func New(client redis.UniversalClient, options Options) *Locker {
	locker := &Locker{
		redis: client, redsync: redsync.New(goredis.NewPool(client)),
		ttl: options.TTL, wait: options.Wait, retention: options.Retention,
	}
	if locker.ttl <= 0 {
		locker.ttl = 30 * time.Second
	}
	if locker.wait <= 0 {
		locker.wait = 5 * time.Second
	}
	if locker.retention <= 0 {
		locker.retention = 7 * 24 * time.Hour
	}
	return locker
}

// How Acquire asks again while another holds the lock, with jitter on top.
const (
	firstPause = 10 * time.Millisecond
	longPause  = 160 * time.Millisecond
)

// retryAfter is what a caller who waited in vain is told, with jitter on top.
const retryAfter = 2 * time.Second

// Holder is an attempt of a job. A later one of the same job takes the lock over at once: the queue lets it begin only where it has given the
// earlier one up, as when its worker was killed.
type Holder struct {
	Job     string
	Attempt int // greater than that of every attempt before
}

// Acquire takes the lock of a repository. Two names of the same repository are two locks: resolve it first. It waits for
// another holder at most Options.Wait; then the error is a Throttled fault with a short RetryAfter. The caller must Release
// the lock. The end of ctx ends the waiting and, later, the lock's Context, but does not release it.
func (l *Locker) Acquire(ctx context.Context, installation, repository string, holder Holder) (*Lock, error) {
	if installation == "" || repository == "" {
		return nil, fault.Newf(fault.Internal, "lock a repository: no installation or no repository was named")
	}
	deadline := time.Now().Add(l.wait)
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		lock, err := l.try(ctx, installation, repository, holder)
		if lock != nil || err != nil {
			return lock, err
		}
		if time.Now().Add(pause).After(deadline) {
			busy := fault.Newf(fault.Throttled, "lock repository %.200s: another job works on it; this one is tried again", repository)
			busy.RetryAfter = retryAfter + rand.N(retryAfter)
			return nil, busy
		}
		timer := time.NewTimer(pause + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// A fence is given only to who still holds the lock: otherwise a holder that stood still between the two steps would get a
// newer one than the holder that took over.
//
// KEYS: lock, fence. ARGV: the lock's value, retention in milliseconds.
var fenceScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
local fence = redis.call('INCR', KEYS[2])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return fence`)

// takeoverScript takes the lock away from an earlier attempt of the same job. It reports whether it has.
//
// KEYS: lock. ARGV: job, attempt.
var takeoverScript = redis.NewScript(`
local job, attempt = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%d+) ')
if job ~= ARGV[1] or tonumber(attempt) >= tonumber(ARGV[2]) then return 0 end
return redis.call('DEL', KEYS[1])`)

// value is what the lock holds: the holder, and something random so that no two locks are equal.
func (h Holder) value() (string, error) {
	return fmt.Sprintf("%s %d %s", h.Job, h.Attempt, strconv.FormatUint(rand.Uint64(), 36)), nil
}

// lock returns false while another holds the lock.
func (l *Locker) lock(ctx context.Context, mutex *redsync.Mutex, key string, holder Holder) (bool, error) {
	for {
		err := mutex.TryLockContext(ctx)
		var taken *redsync.ErrTaken
		switch {
		case err == nil:
			return true, nil
		case !errors.As(err, &taken) && !errors.Is(err, redsync.ErrFailed):
			return false, err
		}
		ours, err := takeoverScript.Run(ctx, l.redis, []string{key}, holder.Job, holder.Attempt).Bool()
		if err != nil || !ours {
			return false, err
		}
	}
}

// try returns neither a lock nor an error while another holds it.
func (l *Locker) try(ctx context.Context, installation, repository string, holder Holder) (*Lock, error) {
	keys := keyspace.Installation(installation).Repository(repository)
	mutex := l.redsync.NewMutex(keys.Lock(),
		redsync.WithExpiry(l.ttl), redsync.WithTries(1), redsync.WithTimeoutFactor(0.5), redsync.WithGenValueFunc(holder.value))
	begun := time.Now()
	if locked, err := l.lock(ctx, mutex, keys.Lock(), holder); err != nil || !locked {
		return nil, l.classify(ctx, err, "lock the repository")
	}
	fence, err := fenceScript.Run(ctx, l.redis, []string{keys.Lock(), keys.Fence()},
		mutex.Value(), l.retention.Milliseconds()).Int64()
	if err != nil {
		_, _ = mutex.UnlockContext(context.WithoutCancel(ctx))
		return nil, l.classify(ctx, err, "lock the repository")
	}
	if fence == 0 {
		return nil, nil
	}
	return l.hold(ctx, mutex, begun, keys, repository, fence), nil
}

// classify is the one place that gives errors of Redis and redsync their kind. An ended context keeps its own.
func (l *Locker) classify(ctx context.Context, err error, operation string) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fault.Wrapf(fault.Unavailable, err, "%s: the lock store does not answer; the job is tried again", operation)
}
