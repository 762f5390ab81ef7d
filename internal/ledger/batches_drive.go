package ledger

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

var (
	batchTakeScript        = load("batch_take")
	batchCancelTakenScript = load("batch_cancel_taken")
	batchAppendScript      = load("batch_append")
	batchPutOffScript      = load("batch_put_off")
	batchKeepEntryScript   = load("batch_keep_entry")
	batchAbandonScript     = load("batch_abandon")
)

const (
	batchPause = 5 * time.Second  // until a batch that was claimed and not settled is looked at again
	pageLease  = 25 * time.Second // of a worker that asks for a page; a call takes at most 20 s
	mostActive = 1000             // batches that are claimed at once
)

// Active is a batch that has not ended, as far as is known.
type Active struct{ Installation, ID string }

// Claim gives the batches to the caller that are to be looked at now, at most a thousand. Those that he does not settle come again after a
// few seconds. A batch that was asked for, or steered, since it was looked at last is among them.
func (b *Batches) Claim(ctx context.Context) ([]Active, error) {
	members, err := claimScript.run(ctx, b.Redis, []string{keyspace.ActiveBatches}, []arg{
		{"now", clock(b.Now)}, {"pause", batchPause.Milliseconds()}, {"most", mostActive},
	}).StringSlice()
	return activeOf(members), unavailable(err, "look for batches")
}

// Settle has a batch that was claimed a while ago looked at again after a time, or lets it go where after is negative, unless somebody
// steered it meanwhile.
func (b *Batches) Settle(ctx context.Context, a Active, ago, after time.Duration) error {
	least := batchPause - ago - time.Second
	err := settleScript.run(ctx, b.Redis, []string{keyspace.ActiveBatches}, []arg{
		{"now", clock(b.Now)}, {"installation", member(a.Installation, a.ID)}, {"after", milliseconds(after)}, {"least", least.Milliseconds()},
	}).Err()
	return unavailable(err, "look for batches")
}

// Hurry has a batch looked at soon, if it has not been let go.
func (b *Batches) Hurry(ctx context.Context, installation, id string) error {
	err := b.Redis.ZAddXX(ctx, keyspace.ActiveBatches, dueNow(installation, id)).Err()
	return unavailable(err, "look for batches")
}

// dueNow is a batch that is to be looked at at once, whatever anybody's clock says.
func dueNow(installation, id string) redis.Z {
	return redis.Z{Score: 0, Member: member(installation, id)}
}

func activeOf(members []string) []Active {
	active := make([]Active, len(members))
	for i, name := range members {
		active[i].Installation, active[i].ID = split(name)
	}
	return active
}

// Resolving are the active batches whose query is still being asked.
func (b *Batches) Resolving(ctx context.Context) ([]Active, error) {
	members, err := b.Redis.ZRange(ctx, keyspace.ActiveBatches, 0, -1).Result()
	if err != nil || len(members) == 0 {
		return nil, unavailable(err, "look for batches")
	}
	active := activeOf(members)
	pipeline := b.Redis.Pipeline()
	states := make([]*redis.StringCmd, len(active))
	for i, each := range active {
		states[i] = pipeline.HGet(ctx, keysOf(each.Installation, each.ID).Root(), "state")
	}
	if _, err := pipeline.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, unavailable(err, "look for batches")
	}
	var resolving []Active
	for i, each := range active {
		if batch.State(states[i].Val()) == batch.StateResolving {
			resolving = append(resolving, each)
		}
	}
	return resolving, nil
}

// Abandon removes a batch that was not written to its end, and does nothing to another one.
func (b *Batches) Abandon(ctx context.Context, installation, id string) error {
	return unavailable(b.runOn(ctx, batchAbandonScript, installation, []arg{{"id", id}}).Err(), "let go of a batch")
}

// Listen calls advance for each batch that was asked for, resumed or retried, until ctx ends. What it misses, while Redis is away, is
// among the active batches.
func (b *Batches) Listen(ctx context.Context, advance func(installation, id string)) {
	subscription := b.Redis.Subscribe(ctx, keyspace.BatchChannel)
	defer subscription.Close() //nolint:errcheck // nothing is buffered
	messages := subscription.Channel()
	for {
		select {
		case <-ctx.Done():
			return
		case message, open := <-messages:
			if !open {
				return
			}
			advance(split(message.Payload))
		}
	}
}

// ClaimPage reports whether the caller is the one to ask for the next page of the batch's query. It is for 25 seconds, or until release.
func (b *Batches) ClaimPage(ctx context.Context, installation, id string) (mine bool, release func(), err error) {
	key := keysOf(installation, id).Page()
	mine, err = b.Redis.SetNX(ctx, key, 1, pageLease).Result()
	return mine, func() { b.Redis.Del(context.WithoutCancel(ctx), key) }, unavailable(err, "look at a batch")
}

// Progress says what is to be done for a batch.
type Progress string

// The verdicts of [Batches.Take].
const (
	ProgressNone    Progress = "none"    // there is no such batch
	ProgressWriting Progress = "writing" // it is not whole yet
	ProgressGoing   Progress = "going"   // it has not ended
	ProgressStopped Progress = "stopped" // it has just stopped by itself: too many failed
	ProgressOver    Progress = "over"    // nothing is left to be done
)

// Taken are repositories that are to begin, in their order, and as whom.
type Taken struct {
	Actor   forge.Actor
	Numbers []int
	Entries []batch.Entry
}

// Take gives the repositories that are to begin now to the caller, who must queue them: the driver that looks at the batch next does it
// where the caller dies. hold is why nothing can begin, empty where it can.
func (b *Batches) Take(ctx context.Context, installation, id, hold string) (Progress, Taken, error) {
	answer, err := b.runOn(ctx, batchTakeScript, installation, []arg{
		{"id", id}, {"now", clock(b.Now)}, {"hold", hold}, {"most", batch.MaxConcurrency}, {"age", batch.MaxAge.Milliseconds()},
	}).StringSlice()
	if err != nil || len(answer) == 0 {
		return "", Taken{}, unavailable(err, "advance the batch")
	}
	progress := Progress(answer[0])
	if len(answer) < 3 {
		return progress, Taken{}, nil
	}
	taken := Taken{Actor: forge.Actor{Kind: forge.ActorKind(answer[1]), Principal: answer[2]}}
	for pair := range slices.Chunk(answer[3:], 2) {
		number := numbersOf(pair[:1])[0]
		entry, err := batch.DecodeEntry(number, pair[1])
		if err != nil {
			return progress, Taken{}, err
		}
		taken.Numbers, taken.Entries = append(taken.Numbers, number), append(taken.Entries, entry)
	}
	return progress, taken, nil
}

// CancelTaken ends repositories of a canceled batch that were taken and have no job that would run. It does nothing to a batch that is not
// canceled.
func (b *Batches) CancelTaken(ctx context.Context, installation, id string, numbers []int) error {
	for page := range slices.Chunk(numbers, piece) {
		rest := make([]any, len(page))
		for i, number := range page {
			rest[i] = number
		}
		if err := b.runOn(ctx, batchCancelTakenScript, installation, []arg{{"id", id}}, rest...).Err(); err != nil {
			return unavailable(err, "cancel what was taken")
		}
	}
	return nil
}

// IsQueued reports whether a repository waits for its job to begin.
func (b *Batches) IsQueued(ctx context.Context, installation, id string, number int) (bool, error) {
	err := b.Redis.ZScore(ctx, keysOf(installation, id).State(string(batch.Queued)), strconv.Itoa(number)).Err()
	if errors.Is(err, redis.Nil) {
		return false, nil
	}
	return err == nil, unavailable(err, "look up a repository")
}

// Page is what a batch's query found on one page.
type Page struct {
	Cursor, Next string    // of the page, and of the one after it; Next is empty on the last
	At           time.Time // from when on the next page may be asked for
	Entries      []batch.Entry
}

// AppendPage adds a page to a batch that resolves, once. With the last one the batch runs. More than 10,000 repositories stop it.
func (b *Batches) AppendPage(ctx context.Context, installation, id string, page Page) error {
	rest := make([]any, len(page.Entries))
	for i, entry := range page.Entries {
		text, err := entry.Encode()
		if err != nil {
			return err
		}
		rest[i] = text
	}
	err := b.runOn(ctx, batchAppendScript, installation, []arg{
		{"id", id}, {"cursor", page.Cursor}, {"next", page.Next}, {"at", page.At.UnixMilli()}, {"most", batch.MaxRepositories},
	}, rest...).Err()
	return unavailable(err, "keep what the query found")
}

// PutOff notes why a batch's query cannot proceed until a time. With the zero time the batch stops.
func (b *Batches) PutOff(ctx context.Context, installation, id string, until time.Time, why string) error {
	at := ""
	if !until.IsZero() {
		at = strconv.FormatInt(until.UnixMilli(), 10)
	}
	err := b.runOn(ctx, batchPutOffScript, installation, []arg{{"id", id}, {"at", at}, {"why", strings.TrimSpace(why)}}).Err()
	return unavailable(err, "put a query off")
}

// KeepEntry replaces what is known of a repository. A batch whose time is over stays gone.
func (b *Batches) KeepEntry(ctx context.Context, installation, id string, number int, entry batch.Entry) error {
	text, err := entry.Encode()
	if err != nil {
		return err
	}
	err = b.runOn(ctx, batchKeepEntryScript, installation, []arg{{"id", id}, {"number", number}, {"entry", text}}).Err()
	return unavailable(err, "keep what is known of a repository")
}
