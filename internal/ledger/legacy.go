package ledger

// Version 0.9 deletes this file with lua/adopt.lua and lua/batch_reclaim.lua: until then a Redis may hold jobs of a version whose asynq tasks were the jobs.

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

var (
	adoptScript        = load("adopt")
	batchReclaimScript = load("batch_reclaim")
)

// adoptWait is how long a job is left alone whose old task is about to be deleted.
const adoptWait = 30 * time.Second

// Adopt keeps what a job is that has stood in a task alone. It reports whether the job is to go on once that task is deleted: then call Adopted,
// with false where the task could not be deleted because a worker of that version has it.
func (l *Ledger) Adopt(ctx context.Context, meta job.Meta, payload []byte) (goesOn bool, err error) {
	if err := l.enter(ctx, meta.Installation); err != nil {
		return false, err
	}
	verdict, err := adoptScript.run(ctx, l.Redis, []string{keyspace.Installation(meta.Installation).Prefix()}, []arg{
		{"now", l.clock()},
		{"id", meta.ID},
		{"generation", meta.Generation},
		{"class", string(meta.Class)},
		{"created", meta.CreatedAt.UnixMilli()},
		{"payload", payload},
		{"life", liveLife.Milliseconds()},
		{"wait", adoptWait.Milliseconds()},
	}, fieldsOf(meta)...).Text()
	return verdict == "adopted", unavailable(err, "take over a job")
}

// Adopted lets a job go on that was adopted, or leaves it to the worker that has its task.
func (l *Ledger) Adopted(ctx context.Context, meta job.Meta, deleted bool) error {
	due := keyspace.Installation(meta.Installation).Due()
	if !deleted {
		return unavailable(l.Redis.ZRem(ctx, due, meta.ID).Err(), "take over a job")
	}
	if err := l.Redis.ZAddXX(ctx, due, redis.Z{Score: 0, Member: meta.ID}).Err(); err != nil {
		return unavailable(err, "take over a job")
	}
	return l.Hurry(ctx, meta.Installation, 0)
}

// Reclaim lets repositories of a batch have their turn again that a driver of that version took, and whose jobs it did not make.
func (b *Batches) Reclaim(ctx context.Context, installation, id string) error {
	numbers, err := b.Numbers(ctx, installation, id, batch.Queued)
	if err != nil {
		return err
	}
	for page := range slices.Chunk(numbers, piece) {
		rest := make([]any, 0, 2*len(page))
		for _, number := range page {
			rest = append(rest, number, batch.JobID(id, number))
		}
		if err := b.runOn(ctx, batchReclaimScript, installation, []arg{{"id", id}}, rest...).Err(); err != nil {
			return unavailable(err, "look at a batch")
		}
	}
	return nil
}
