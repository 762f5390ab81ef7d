package ledger

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// Glance reads of several installations whether Look would find anything, which of most it does not: it costs Redis a quarter of that. An
// installation of which there is something to do is not in the answer. It changes nothing, so that what happens meanwhile is found by the
// next one.
func (l *Ledger) Glance(ctx context.Context, installations []string, backlog Backlog) (map[string]Found, error) {
	quiet := map[string]Found{}
	for page := range slices.Chunk(installations, eachPage) {
		if err := l.glance(ctx, page, backlog, quiet); err != nil {
			return nil, unavailable(err, "look for jobs")
		}
	}
	return quiet, nil
}

// glanced is what was read of an installation, by class where there are several.
type glanced struct {
	due, held []*redis.ZSliceCmd
	line      []*redis.IntCmd
	wakes     *redis.SliceCmd
	slots     []*redis.IntCmd // of classes of which jobs stand in line; else nil
}

func (l *Ledger) glance(ctx context.Context, installations []string, backlog Backlog, quiet map[string]Found) error {
	classes := job.Classes()
	pipeline := l.Redis.Pipeline()
	clock, read := pipeline.Time(ctx), make([]glanced, len(installations))
	for i, installation := range installations {
		own, each := keyspace.Installation(installation), &read[i]
		each.due = append(each.due, pipeline.ZRangeWithScores(ctx, own.Due(), 0, 0))
		each.wakes = pipeline.MGet(ctx, own.Wakes(), own.Woken())
		each.slots = make([]*redis.IntCmd, len(classes))
		for _, class := range classes {
			each.held = append(each.held, pipeline.ZRangeWithScores(ctx, own.Held(string(class)), 0, 0))
			each.line = append(each.line, pipeline.ZCard(ctx, own.Line(string(class))))
		}
	}
	if _, err := pipeline.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	second := l.Redis.Pipeline()
	for i, installation := range installations {
		for at, class := range classes {
			if read[i].line[at].Val() > 0 && l.Cap > 0 {
				read[i].slots[at] = second.ZCard(ctx, keyspace.Installation(installation).Held(string(class)))
			}
		}
	}
	if second.Len() > 0 {
		if _, err := second.Exec(ctx); err != nil {
			return err
		}
	}
	now := clock.Val().UnixMilli()
	if l.Now != nil {
		now = l.Now().UnixMilli()
	}
	for i, installation := range installations {
		if found, nothing := l.nothing(read[i], classes, backlog, now); nothing {
			quiet[installation] = found
		}
	}
	return nil
}

// nothing reports whether lua/look.lua would find nothing to do, and what it would answer then.
func (l *Ledger) nothing(read glanced, classes []job.Class, backlog Backlog, now int64) (Found, bool) {
	found := Found{Idle: true, Next: -1}
	if first := read.due[0].Val(); len(first) > 0 {
		if left := int64(first[0].Score) - now; left > 0 {
			found.Idle, found.Next = false, time.Duration(left)*time.Millisecond
		} else {
			return Found{}, false
		}
	}
	if wakes := read.wakes.Val(); wakes[0] != nil && wakes[0] != wakes[1] {
		return Found{}, false
	}
	for at, class := range classes {
		if read.line[at].Val() > 0 {
			if found.Idle = false; read.slots[at] == nil || int(read.slots[at].Val()) < l.Cap {
				return Found{}, false
			}
		}
		oldest, known := backlog[class]
		if first := read.held[at].Val(); len(first) > 0 {
			if found.Idle = false; known && first[0].Score <= float64(now-lostAfter(oldest).Milliseconds()) {
				return Found{}, false
			}
		}
	}
	return found, true
}

// lostAfter is how old a ticket is that counts as lost, where the oldest that waits in its queue is so old.
func lostAfter(oldest time.Duration) time.Duration {
	return max(10*time.Second, oldest+2*time.Second)
}
