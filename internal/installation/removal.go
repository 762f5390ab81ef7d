package installation

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// KEYS: record, gone. ARGV: now, when its data is erased, life of gone in ms. Returns the time of the erasure: a second removal
// does not move the first one's.
var removeScript = redis.NewScript(`
local have = redis.call('HMGET', KEYS[1], 'state', 'erase_at')
redis.call('SET', KEYS[2], 1, 'PX', ARGV[3])
if have[1] == 'gone' and have[2] then return have[2] end
redis.call('HSETNX', KEYS[1], 'first_seen', ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'gone', 'gone_at', ARGV[1], 'erase_at', ARGV[2])
return ARGV[2]`)

// Remove notes that the app was removed and dates the end of its data, which it returns. Doing it twice keeps the first date.
// Tokens and jobs are the caller's to take away.
func (s *Store) Remove(ctx context.Context, id string) (eraseAt time.Time, err error) {
	now := s.Now()
	// Ahead of the record, so that data whose removal is noted is never without its date, wherever this breaks off. Due passes over an
	// installation that is not gone.
	date := redis.Z{Score: float64(now.Add(s.EraseAfter).UnixMilli()), Member: id}
	if err := s.redis.ZAddNX(ctx, keyspace.Erasures, date).Err(); err != nil {
		return time.Time{}, unavailable(err, "note the removal")
	}
	text, err := removeScript.Run(ctx, s.redis, []string{keyspace.Installation(id).Record(), keyspace.Installation(id).Gone()},
		milliseconds(now), milliseconds(now.Add(s.EraseAfter)), late.Milliseconds()).Text()
	if err != nil {
		return time.Time{}, unavailable(err, "note the removal")
	}
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, unavailable(err, "note the removal")
	}
	pipeline := s.redis.Pipeline()
	pipeline.ZAdd(ctx, keyspace.Erasures, redis.Z{Score: float64(number), Member: id})
	pipeline.ZRem(ctx, keyspace.Scheduled, id)
	pipeline.ZAdd(ctx, keyspace.Removed, redis.Z{Score: float64(now.UnixMilli()), Member: id})
	pipeline.ZRemRangeByScore(ctx, keyspace.Removed, "-inf", milliseconds(now.Add(-2*late)))
	if _, err := pipeline.Exec(ctx); err != nil {
		return time.Time{}, unavailable(err, "note the removal")
	}
	s.mutex.Lock()
	delete(s.known, id)
	s.mutex.Unlock()
	return time.UnixMilli(number), nil
}

// Silent are the installations that missed three scheduled triggers, that nobody called for in all that time, and whose tokens were
// refused since the last one: Forge tells nobody that an app was removed whose preUninstall could not be delivered. A verified call
// proves that the app is there, also that of an app which has no scheduled trigger.
func (s *Store) Silent(ctx context.Context) ([]string, error) {
	until := s.Now().Add(-missed * s.Interval)
	ids, err := s.redis.ZRangeByScore(ctx, keyspace.Scheduled, &redis.ZRangeBy{Min: "-inf", Max: milliseconds(until)}).Result()
	if err != nil {
		return nil, unavailable(err, "look for silent installations")
	}
	var silent []string
	for _, id := range ids {
		record, err := s.Get(ctx, id)
		if err != nil {
			continue // it was erased, or Redis is away: the next look finds it
		}
		refused := record.TokenRefusedAt.After(record.LastScheduled) && record.TokenRefusedAt.After(record.InstalledAt)
		if record.State == Active && refused && !record.LastSeen.After(until) {
			silent = append(silent, id)
		}
	}
	return silent, nil
}

// Leaving are the installations whose removal was noted within the last minutes: a job may still be on its way into the queue. One that
// came back meanwhile is none, also where whoever noted that died before it was taken from the list.
func (s *Store) Leaving(ctx context.Context) ([]string, error) {
	ids, err := s.redis.ZRangeByScore(ctx, keyspace.Removed, &redis.ZRangeBy{Min: milliseconds(s.Now().Add(-2 * late)), Max: "+inf"}).Result()
	if err != nil {
		return nil, unavailable(err, "look for removed installations")
	}
	var leaving []string
	for _, id := range ids {
		record, err := s.Get(ctx, id)
		if err != nil && fault.KindOf(err) != fault.NotFound {
			return nil, err
		}
		if record.State == Gone {
			leaving = append(leaving, id)
		}
	}
	return leaving, nil
}

// Due are the installations whose data is to be erased now.
func (s *Store) Due(ctx context.Context) ([]string, error) {
	ids, err := s.redis.ZRangeByScore(ctx, keyspace.Erasures, &redis.ZRangeBy{Min: "-inf", Max: milliseconds(s.Now())}).Result()
	if err != nil {
		return nil, unavailable(err, "look for data to erase")
	}
	var due []string
	for _, id := range ids {
		record, err := s.Get(ctx, id)
		switch {
		case err != nil && fault.KindOf(err) != fault.NotFound:
			return nil, err // nobody knows whether it came back: its data is not to go for a Redis that hiccups
		case err == nil && record.State != Gone: // it came back, and whoever noted it died
			if err := s.redis.ZRem(ctx, keyspace.Erasures, id).Err(); err != nil {
				return nil, unavailable(err, "look for data to erase")
			}
		default:
			due = append(due, id)
		}
	}
	return due, nil
}

// scanCount is how many keys Redis looks at in one step.
const scanCount = 1000

// Erase deletes every key of the installation, its record last, and returns how many there were. What asynq holds is the
// caller's to delete before, while the records say what there is.
func (s *Store) Erase(ctx context.Context, id string) (int, error) {
	erased := 0
	wipe := func(ctx context.Context, node redis.Cmdable) error {
		var cursor uint64
		for {
			keys, next, err := node.Scan(ctx, cursor, keyspace.Installation(id).Pattern(), scanCount).Result()
			if err != nil {
				return err
			}
			for _, key := range keys {
				if key == keyspace.Installation(id).Record() || !keyspace.Installation(id).Owns(key) {
					continue
				}
				n, err := s.redis.Unlink(ctx, key).Result()
				if err != nil {
					return err
				}
				erased += int(n)
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	err := error(nil)
	if cluster, ok := s.redis.(*redis.ClusterClient); ok {
		turn := make(chan struct{}, 1) // masters are asked at the same time
		err = cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
			turn <- struct{}{}
			defer func() { <-turn }()
			return wipe(ctx, node)
		})
	} else {
		err = wipe(ctx, s.redis)
	}
	if err != nil {
		return erased, unavailable(err, "erase an installation's data")
	}
	pipeline := s.redis.Pipeline()
	record := pipeline.Unlink(ctx, keyspace.Installation(id).Record())
	pipeline.ZRem(ctx, keyspace.Erasures, id)
	pipeline.ZRem(ctx, keyspace.Scheduled, id)
	pipeline.ZAdd(ctx, keyspace.Erased, redis.Z{Score: float64(s.Now().UnixMilli()), Member: id})
	pipeline.ZRemRangeByScore(ctx, keyspace.Erased, "-inf", milliseconds(s.Now().Add(-s.EraseAfter)))
	if _, err := pipeline.Exec(ctx); err != nil {
		return erased, unavailable(err, "erase an installation's data")
	}
	erased += int(record.Val())
	s.Logger.InfoContext(ctx, "an installation's data was erased", slog.String("installation", id), slog.Int("count", erased))
	return erased, nil
}

// Erased are the installations that were erased within the last weeks: for what lies outside of Redis, on each worker.
func (s *Store) Erased(ctx context.Context) ([]string, error) {
	ids, err := s.redis.ZRange(ctx, keyspace.Erased, 0, -1).Result()
	return ids, unavailable(err, "look for erased installations")
}
