package ledger

import (
	"context"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// maxBatchesLooked is how many batches one call reads to find a requester's.
const maxBatchesLooked = 2_000

// Recent are the newest batches of all installations, newest first. It is for operators.
func (b *Batches) Recent(ctx context.Context, limit int) ([]batch.Status, error) {
	members, err := b.Redis.ZRevRange(ctx, keyspace.RecentBatches, 0, int64(limit)-1).Result()
	if err != nil {
		return nil, unavailable(err, "list the batches")
	}
	var recent []batch.Status
	for _, name := range members {
		installation, id := split(name)
		status, err := b.Get(ctx, installation, id)
		if err != nil && fault.KindOf(err) == fault.NotFound {
			b.Redis.ZRem(ctx, keyspace.RecentBatches, name) // its time is over; the list is right without it
			continue
		}
		if err != nil {
			return nil, err
		}
		recent = append(recent, status)
	}
	return recent, nil
}

// Going counts the batches that have not ended, of all installations, by their state. It is for operators.
func (b *Batches) Going(ctx context.Context) (map[string]int, error) {
	members, err := b.Redis.ZRange(ctx, keyspace.ActiveBatches, 0, -1).Result()
	if err != nil {
		return nil, unavailable(err, "count the batches")
	}
	pipeline := b.Redis.Pipeline()
	heads := make([]*redis.SliceCmd, len(members))
	for i, name := range members {
		heads[i] = pipeline.HMGet(ctx, keysOf(split(name)).Root(), "state", "hold")
	}
	if _, err := pipeline.Exec(ctx); err != nil {
		return nil, unavailable(err, "count the batches")
	}
	counts := map[string]int{}
	for _, head := range heads {
		fields := head.Val()
		text, _ := fields[0].(string)
		state := batch.State(text)
		if hold, _ := fields[1].(string); hold != "" && (state == batch.StateRunning || state == batch.StateResolving) {
			state = batch.StatePaused
		}
		switch state {
		case batch.StateFinished, batch.StateCanceled: // no driver has tidied those up yet
		case batch.StateWriting: // not there yet
		default:
			counts[string(state)]++
		}
	}
	return counts, nil
}

// List is a page of an installation's batches, newest first, and the cursor of the next page, empty on the last. With a requester, a page
// can be short though more follow: the cursor says so.
func (b *Batches) List(ctx context.Context, installation string, options batch.ListOptions) ([]batch.Status, string, error) {
	limit, offset, err := batchPageOf(options.Limit, options.Cursor)
	if err != nil {
		return nil, "", err
	}
	statuses := []batch.Status{}
	for looked := 0; looked < maxBatchesLooked; looked += maxBatchPage {
		ids, err := b.Redis.ZRevRange(ctx, keyspace.Installation(installation).Batches(), int64(offset), int64(offset+maxBatchPage-1)).Result()
		if err != nil {
			return nil, "", unavailable(err, "list the batches")
		}
		for _, id := range ids {
			if len(statuses) == limit {
				return statuses, strconv.Itoa(offset), nil
			}
			offset++
			switch status, err := b.getOf(ctx, installation, id, options.Requester); {
			case err == nil:
				statuses = append(statuses, status)
			case fault.KindOf(err) != fault.NotFound:
				return nil, "", err
			}
		}
		if len(ids) < maxBatchPage {
			return statuses, "", nil
		}
	}
	return statuses, strconv.Itoa(offset), nil
}

// getOf is Get of a batch that the requester asked for; any batch where requester is empty. Another's is a NotFound fault.
func (b *Batches) getOf(ctx context.Context, installation, id, requester string) (batch.Status, error) {
	if requester != "" {
		values, err := b.Redis.HMGet(ctx, keysOf(installation, id).Root(), "requester", "principal").Result()
		if err != nil {
			return batch.Status{}, unavailable(err, "list the batches")
		}
		root := batch.Root{}
		for i, name := range []string{"requester", "principal"} {
			root[name], _ = values[i].(string)
		}
		if root.Requester() != requester {
			return batch.Status{}, noBatch(id)
		}
	}
	return b.Get(ctx, installation, id)
}
