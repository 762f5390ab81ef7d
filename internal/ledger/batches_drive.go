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
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

var (
	batchNextScript      = load("batch_next")
	batchTakeScript      = load("batch_take")
	batchAppendScript    = load("batch_append")
	batchPutOffScript    = load("batch_put_off")
	batchKeepEntryScript = load("batch_keep_entry")
	batchAbandonScript   = load("batch_abandon")
)

const (
	batchPause = 5 * time.Second  // until a batch that was claimed and not settled is looked at again
	pageLease  = 25 * time.Second // of a worker that asks for a page; a call takes at most 20 s
	mostActive = 1000             // batches that are claimed at once
	soonDue    = time.Minute      // within which a batch is looked at again whose query is asked, whatever the clocks say
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

// Resolving are the active batches whose query is still being asked. They are looked at again within seconds, so that those which are due
// later, as all paused ones, are none.
func (b *Batches) Resolving(ctx context.Context) ([]Active, error) {
	members, err := b.Redis.ZRangeByScore(ctx, keyspace.ActiveBatches, &redis.ZRangeBy{
		Min: "-inf", Max: strconv.FormatInt(local(b.Now).Add(soonDue).UnixMilli(), 10),
	}).Result()
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

// Next reads a batch and its first repositories that have no job yet, at most so many. A batch that is not there has an empty root.
func (b *Batches) Next(ctx context.Context, installation, id string, most int) (batch.Root, []int, []batch.Entry, error) {
	answer, err := b.runOn(ctx, batchNextScript, installation, []arg{{"id", id}, {"most", most}}).Slice()
	if err != nil {
		return nil, nil, nil, unavailable(err, "look at a batch")
	}
	if len(answer) < 3 {
		return nil, nil, nil, nil
	}
	root, numbers, entries := batch.Root{}, []int(nil), []batch.Entry(nil)
	for pair := range slices.Chunk(textsOf(answer[1]), 2) {
		root[pair[0]] = pair[1]
	}
	for pair := range slices.Chunk(textsOf(answer[2]), 2) {
		number := numbersOf(pair[:1])[0]
		entry, err := batch.DecodeEntry(number, pair[1])
		if err != nil {
			return root, nil, nil, err
		}
		numbers, entries = append(numbers, number), append(entries, entry)
	}
	return root, numbers, entries, nil
}

// textsOf are the texts of an answer within an answer.
func textsOf(value any) []string {
	values, _ := value.([]any)
	texts := make([]string, len(values)+len(values)%2)
	for i, value := range values {
		texts[i], _ = value.(string)
	}
	return texts
}

// Taken is what has become of a batch, and of repositories that could begin.
type Taken struct {
	Progress Progress
	State    batch.State // where the batch goes, or has just stopped
	Used     int         // of the jobs that were offered: they have begun, or were not to begin any more
	More     bool        // further ones can begin at once
	Tickets  []Ticket
}

// Take lets as many of a batch's jobs begin as may now, of those that are offered, in their order. hold is why nothing can begin, empty where it
// can. What a job is, that it has its slot or its place in line, and that the repository has had its turn, is one step.
func (b *Batches) Take(ctx context.Context, installation, id, hold string, offered []job.Job) (Taken, error) {
	rest := make([]any, 0, 30*len(offered))
	for _, j := range offered {
		payload, err := job.Marshal(j, b.Keyring)
		if err != nil {
			return Taken{}, err
		}
		fields := fieldsOf(j.MetaOf())
		rest = append(append(rest, j.Batch.Item, j.ID, payload, len(fields)), fields...)
	}
	began := b.Ledger.local()
	if err := b.Ledger.enter(ctx, installation); err != nil {
		return Taken{}, err
	}
	read, err := answerOf(installation, b.runOn(ctx, batchTakeScript, installation, []arg{
		{"id", id},
		{"now", clock(b.Now)},
		{"hold", hold},
		{"most", batch.MaxConcurrency},
		{"age", batch.MaxAge.Milliseconds()},
		{"cap", b.Ledger.Cap},
		{"life", liveLife.Milliseconds()},
		{"trim", b.Ledger.trim()},
		{"keep", maxIndexed},
	}, rest...), 1)
	if err != nil {
		return Taken{}, unavailable(err, "advance the batch")
	}
	taken := Taken{Progress: Progress(read.texts[0]), Tickets: read.tickets}
	if len(read.texts) > 1 {
		taken.State = batch.State(read.texts[1])
	}
	if len(read.texts) > 3 {
		taken.Used, taken.More = int(read.number(2)), read.texts[3] != ""
	}
	return taken, b.Ledger.reenter(ctx, installation, began)
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
