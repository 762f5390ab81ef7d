package ledger

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

var (
	batchCreateScript = load("batch_create")
	batchWriteScript  = load("batch_write")
)

const (
	// piece is how many repositories one script writes: 10,000 at once would hold Redis up for 110 ms.
	piece = 500
	// maxRecent is how many batches the dashboard knows of.
	maxRecent = 1000
)

// written is the verdict of batch_create and batch_write.
type written string

const (
	writtenMade    written = "made"    // whole, by this call
	writtenPart    written = "writing" // more is to be written
	writtenThere   written = "there"   // whole, by an earlier call
	writtenAnother written = "another" // there is a batch of another request
	writtenGone    written = "gone"    // the app was removed
	writtenLost    written = "lost"    // given up, or begun anew by a call that found another dry run
)

// Create keeps a batch once: the same id with the same digest gives the batch that is there, and created is false. The same id with
// another digest is a Conflict. After an Unavailable fault the same call again finds out; where the first broke off in the middle of a
// large batch, it completes that.
func (b *Batches) Create(ctx context.Context, asked batch.Batch) (status batch.Status, created bool, err error) {
	// Whether it is there comes first: the same call again is answered whatever has become of the dry run that it repeats.
	digest, state, err := b.digest(ctx, asked.Installation, asked.ID)
	switch {
	case err != nil:
		return batch.Status{}, false, err
	case digest != "" && digest != asked.Digest:
		return batch.Status{}, false, anotherRequest()
	case digest != "" && state != batch.StateWriting:
		status, err := b.Get(ctx, asked.Installation, asked.ID)
		return status, false, errors.Join(err, b.remember(ctx, asked))
	}
	dry, err := b.dryRun(ctx, asked)
	if err != nil {
		return batch.Status{}, false, err
	}
	plan, err := asked.Plan(b.Keyring, dry)
	if err != nil {
		return batch.Status{}, false, err
	}
	// Ahead of the batch itself, so that the drivers find it wherever this breaks off. What is not there is forgotten after a while.
	if err := b.Redis.ZAdd(ctx, keyspace.ActiveBatches, dueNow(asked.Installation, asked.ID)).Err(); err != nil {
		return batch.Status{}, false, unavailable(err, "keep the batch")
	}
	if created, err = b.write(ctx, asked, plan); err != nil {
		return batch.Status{}, false, err
	}
	if err := b.remember(ctx, asked); err != nil {
		return batch.Status{}, false, err
	}
	status, err = b.Get(ctx, asked.Installation, asked.ID)
	return status, created, err
}

// write writes a batch down, piece by piece, and reports whether this call completed it.
func (b *Batches) write(ctx context.Context, asked batch.Batch, plan batch.Plan) (created bool, err error) {
	first, digest, call := plan.Entries, "", rand.Text()
	if len(first) > piece {
		first, digest = first[:piece], plan.Digest
	}
	life := (batch.MaxAge + b.Retention).Milliseconds()
	verdict, next, err := writeVerdict(b.runOn(ctx, batchCreateScript, asked.Installation, []arg{
		{"id", asked.ID}, {"call", call}, {"digest", asked.Digest}, {"created", asked.CreatedAt.UnixMilli()}, {"life", life}, {"spec", plan.Spec}, {"plan", digest}, {"fields", len(plan.Fields)},
	}, append(plan.Fields, texts(first)...)...))
	for err == nil && verdict == writtenPart && next < len(plan.Entries) {
		entries := plan.Entries[next:min(next+piece, len(plan.Entries))]
		verdict, next, err = writeVerdict(b.runOn(ctx, batchWriteScript, asked.Installation, []arg{
			{"id", asked.ID}, {"call", call}, {"digest", asked.Digest}, {"plan", digest}, {"number", next}, {"total", len(plan.Entries)},
		}, texts(entries)...))
	}
	switch {
	case err != nil:
		return false, unavailable(err, "keep the batch")
	case verdict == writtenMade, verdict == writtenThere:
		return verdict == writtenMade, nil
	case verdict == writtenGone:
		return false, fault.Newf(fault.Denied, "the app was removed from the workspace; install it again")
	case verdict == writtenAnother:
		return false, anotherRequest()
	case verdict == writtenLost:
		return false, fault.Newf(fault.Unavailable, "keep the batch: another call with the same Idempotency-Key writes it; try again")
	}
	return false, fault.Newf(fault.Internal, "a script answered %q and %d of %d", verdict, next, len(plan.Entries))
}

func writeVerdict(answer *redis.Cmd) (verdict written, next int, err error) {
	values, err := answer.StringSlice()
	if err != nil {
		return "", 0, err
	}
	return written(values[0]), numbersOf(values[1:])[0], nil
}

func texts(entries [][]byte) []any {
	made := make([]any, len(entries))
	for i, entry := range entries {
		made[i] = entry
	}
	return made
}

func anotherRequest() error {
	return fault.Newf(fault.Conflict, "this Idempotency-Key was used for another request; use a new key, or send the same body")
}

// remember lets the dashboard know of a batch, and a driver.
func (b *Batches) remember(ctx context.Context, made batch.Batch) error {
	pipeline := b.Redis.Pipeline()
	pipeline.ZAddNX(ctx, keyspace.RecentBatches, redis.Z{Score: float64(made.CreatedAt.UnixMilli()), Member: member(made.Installation, made.ID)})
	pipeline.ZRemRangeByRank(ctx, keyspace.RecentBatches, 0, -1-maxRecent)
	pipeline.Publish(ctx, keyspace.BatchChannel, member(made.Installation, made.ID))
	_, err := pipeline.Exec(ctx)
	return unavailable(err, "keep the batch")
}

// dryRun reads the dry run that a batch repeats; nil where it repeats none. An Invalid fault says why it cannot be repeated.
func (b *Batches) dryRun(ctx context.Context, asked batch.Batch) (*batch.DryRun, error) {
	if asked.From == "" {
		return nil, nil
	}
	status, err := b.Get(ctx, asked.Installation, asked.From)
	if err := asked.Repeatable(status, err); err != nil {
		return nil, err
	}
	dry := &batch.DryRun{Status: status}
	if dry.Spec, err = b.Spec(ctx, asked.Installation, asked.From); err != nil {
		return nil, err
	}
	if dry.Numbers, err = b.Numbers(ctx, asked.Installation, asked.From, batch.Succeeded); err != nil {
		return nil, err
	}
	if dry.Entries, err = b.Entries(ctx, asked.Installation, asked.From, dry.Numbers); err != nil {
		return nil, err
	}
	dry.Jobs, err = b.Jobs.GetAll(ctx, asked.Installation, batch.JobIDs(asked.From, dry.Numbers))
	return dry, err
}
