package ledger

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

const (
	pageSize  = 20
	maxPage   = 100
	maxLooked = 2_000 // records that one call reads to find a state
)

// List is a page of an installation's jobs, newest first. With a state or a requester, a page can be short though more follow: Next says so.
func (l *Ledger) List(ctx context.Context, installation string, options job.ListOptions) (job.List, error) {
	limit := options.Limit
	if limit <= 0 {
		limit = pageSize
	}
	limit = min(limit, maxPage)
	at, err := parseCursor(options.Cursor)
	if err != nil {
		return job.List{}, err
	}
	var page job.List
	for looked := 0; looked < maxLooked; {
		members, err := l.following(ctx, installation, at)
		if err != nil || len(members) == 0 {
			return page, err
		}
		records, err := l.readAll(ctx, installation, members)
		if err != nil {
			return job.List{}, err
		}
		for i, member := range members {
			looked++
			at = cursor{int64(member.Score), member.Member.(string)}
			if records[i].matches(options) {
				page.Jobs = append(page.Jobs, records[i].status())
			}
			if len(page.Jobs) == limit && i+1 < len(members) {
				page.Next = at.String()
				return page, nil
			}
		}
		if len(page.Jobs) >= limit {
			break
		}
	}
	more, err := l.following(ctx, installation, at)
	if err == nil && len(more) > 0 {
		page.Next = at.String()
	}
	return page, err
}

// matches reports whether a record is there and is one of those that a list is to have.
func (r record) matches(options job.ListOptions) bool {
	return len(r) > 0 && (options.State == "" || r["state"] == string(options.State)) && (options.Requester == "" || r["requester"] == options.Requester)
}

// cursor is the job that a page ended with: its creation in Unix milliseconds and its id. The zero cursor is before the first.
type cursor struct {
	created int64
	id      string
}

// String is the cursor as List.Next spells it.
func (c cursor) String() string { return strconv.FormatInt(c.created, 10) + "_" + c.id }

func parseCursor(text string) (cursor, error) {
	if text == "" {
		return cursor{}, nil
	}
	created, id, found := strings.Cut(text, "_")
	number, err := strconv.ParseInt(created, 10, 64)
	if err != nil || !found || id == "" {
		return cursor{}, fault.Newf(fault.Invalid, "cursor: %.80q is none; take it from the page before, or leave it out", text)
	}
	return cursor{number, id}, nil
}

// following are the next ids of the index. Jobs of one millisecond are ordered by id, descending, and there may be thousands of them: a
// batch makes so many. So the page begins behind the cursor's place, and where that job is gone, behind its time.
func (l *Ledger) following(ctx context.Context, installation string, at cursor) ([]redis.Z, error) {
	key := keyspace.Installation(installation).Jobs()
	if at.id == "" {
		members, err := l.Redis.ZRevRangeWithScores(ctx, key, 0, maxPage-1).Result()
		return members, unavailable(err, "list jobs")
	}
	pipeline := l.Redis.Pipeline()
	place, score := pipeline.ZRevRank(ctx, key, at.id), pipeline.ZScore(ctx, key, at.id)
	_, err := pipeline.Exec(ctx)
	switch {
	case err == nil && int64(score.Val()) == at.created:
		members, err := l.Redis.ZRevRangeWithScores(ctx, key, place.Val()+1, place.Val()+maxPage).Result()
		return members, unavailable(err, "list jobs")
	case err != nil && !errors.Is(err, redis.Nil):
		return nil, unavailable(err, "list jobs")
	}
	return l.behind(ctx, key, at)
}

// behind are the next ids behind a job that is not there.
func (l *Ledger) behind(ctx context.Context, key string, at cursor) ([]redis.Z, error) {
	for offset := int64(0); ; offset += maxPage {
		members, err := l.Redis.ZRangeArgsWithScores(ctx, redis.ZRangeArgs{
			Key: key, Start: strconv.FormatInt(at.created, 10), Stop: "-inf", ByScore: true, Rev: true, Offset: offset, Count: maxPage,
		}).Result()
		if err != nil {
			return nil, unavailable(err, "list jobs")
		}
		read := len(members)
		for len(members) > 0 && int64(members[0].Score) == at.created && members[0].Member.(string) >= at.id {
			members = members[1:]
		}
		if len(members) > 0 || read < maxPage {
			return members, nil
		}
	}
}

// readAll reads records in one round trip, and forgets the ids of those that are gone.
func (l *Ledger) readAll(ctx context.Context, installation string, members []redis.Z) ([]record, error) {
	pipeline := l.Redis.Pipeline()
	answers := make([]*redis.MapStringStringCmd, len(members))
	for i, member := range members {
		answers[i] = pipeline.HGetAll(ctx, keyspace.Installation(installation).Job(member.Member.(string)))
	}
	if _, err := pipeline.Exec(ctx); err != nil {
		return nil, unavailable(err, "list jobs")
	}
	records := make([]record, len(members))
	var gone []any
	for i, answer := range answers {
		records[i] = answer.Val()
		if len(records[i]) == 0 {
			gone = append(gone, members[i].Member)
		}
	}
	if len(gone) > 0 {
		l.Redis.ZRem(ctx, keyspace.Installation(installation).Jobs(), gone...) // the page is right without it
	}
	return records, nil
}
