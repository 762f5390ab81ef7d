package ledger

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// JobReader reads the records of batches' jobs.
type JobReader interface {
	// GetAll are several jobs of the installation, the zero Status for one that is not there.
	GetAll(ctx context.Context, installation string, ids []string) ([]job.Status, error)
}

// BatchOptions are what [Batches] need. Redis, Keyring and Ledger are required.
type BatchOptions struct {
	Redis     redis.UniversalClient
	Keyring   *secret.Keyring
	Ledger    *Ledger          // of the batches' jobs
	Jobs      JobReader        // default Ledger
	Retention time.Duration    // of a batch after the age at which it has to end; default 7 days
	Now       func() time.Time // default: the time of Redis, which is one for all
	Logger    *slog.Logger
}

// Batches keeps batches. It may be used concurrently and by several processes on the same Redis.
//
// Every method that reads or changes a batch gives a NotFound fault where there is none, and an Unavailable one while Redis is away. A
// batch that is still being written is not there for callers; the drivers see it by [Batches.Take].
type Batches struct {
	BatchOptions

	mutex  sync.Mutex
	groups map[string]grouped  // by batch, as they were last worked out
	specs  map[string]keptSpec // by batch; what one with a digest is does not change
}

// maxKnown is how many batches' specs and groups a process keeps at hand.
const maxKnown = 64

// keptSpec is a batch's spec and the digest of the request that made it: the same Idempotency-Key makes the same id again, once the batch
// before is gone.
type keptSpec struct {
	digest string
	spec   *batch.Spec
}

// NewBatches makes Batches.
func NewBatches(options BatchOptions) *Batches {
	if options.Retention <= 0 {
		options.Retention = 7 * 24 * time.Hour
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	if options.Jobs == nil {
		options.Jobs = options.Ledger
	}
	return &Batches{BatchOptions: options, groups: map[string]grouped{}, specs: map[string]keptSpec{}}
}

func keysOf(installation, id string) keyspace.Batch {
	return keyspace.Installation(installation).Batch(id)
}

// runOn runs a script on the keys of an installation.
func (b *Batches) runOn(ctx context.Context, s *script, installation string, args []arg, rest ...any) *redis.Cmd {
	return s.run(ctx, b.Redis, []string{keyspace.Installation(installation).Prefix()}, args, rest...)
}

// member is a batch in the lists of all installations' batches.
func member(installation, id string) string { return installation + " " + id }

func split(member string) (installation, id string) {
	at := strings.LastIndexByte(member, ' ')
	return member[:max(at, 0)], member[at+1:]
}

func noBatch(id string) error {
	return fault.Newf(fault.NotFound, "there is no batch %.40q, or its time is over", id)
}

// Head is a batch's root; empty where there is none.
func (b *Batches) Head(ctx context.Context, installation, id string) (batch.Root, error) {
	fields, err := b.Redis.HGetAll(ctx, keysOf(installation, id).Root()).Result()
	return fields, unavailable(err, "look up the batch")
}

// State is the state that is written down of a batch; empty where there is none.
func (b *Batches) State(ctx context.Context, installation, id string) (batch.State, error) {
	state, err := b.Redis.HGet(ctx, keysOf(installation, id).Root(), "state").Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	return batch.State(state), unavailable(err, "look up the batch")
}

// digest is of a batch's request, with the batch's state; both empty where there is no such batch.
func (b *Batches) digest(ctx context.Context, installation, id string) (digest string, state batch.State, err error) {
	values, err := b.Redis.HMGet(ctx, keysOf(installation, id).Root(), "digest", "state").Result()
	if err != nil {
		return "", "", unavailable(err, "look up the batch")
	}
	digest, _ = values[0].(string)
	text, _ := values[1].(string)
	return digest, batch.State(text), nil
}

// Spec is what a batch does to each repository. It may be another caller's answer too and is not to be changed.
func (b *Batches) Spec(ctx context.Context, installation, id string) (*batch.Spec, error) {
	digest, _, err := b.digest(ctx, installation, id)
	if err != nil {
		return nil, err
	}
	return b.specOf(ctx, installation, id, digest)
}

// Content is what a batch does, as of [Batches.Spec], and what is known of one of its repositories.
func (b *Batches) Content(ctx context.Context, installation, id string, number int) (*batch.Spec, batch.Entry, error) {
	keys, pipeline := keysOf(installation, id), b.Redis.Pipeline()
	digest, entry := pipeline.HGet(ctx, keys.Root(), "digest"), pipeline.HGet(ctx, keys.Items(), strconv.Itoa(number))
	if _, err := pipeline.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, batch.Entry{}, unavailable(err, "read the batch")
	}
	spec, err := b.specOf(ctx, installation, id, digest.Val())
	if err != nil {
		return nil, batch.Entry{}, err
	}
	kept, err := batch.DecodeEntry(number, entry.Val())
	return spec, kept, err
}

// specOf is the spec of the batch whose request has the digest.
func (b *Batches) specOf(ctx context.Context, installation, id, digest string) (*batch.Spec, error) {
	key := keysOf(installation, id).Root()
	b.mutex.Lock()
	found := b.specs[key]
	b.mutex.Unlock()
	if found.spec != nil && found.digest == digest {
		return found.spec, nil
	}
	sealed, err := b.Redis.Get(ctx, keysOf(installation, id).Spec()).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, fault.Newf(fault.NotFound, "the batch is not kept any more; make it anew")
	case err != nil:
		return nil, unavailable(err, "read the batch")
	}
	read, err := batch.OpenSpec(b.Keyring, sealed, installation, id)
	if err != nil {
		return nil, err
	}
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if len(b.specs) >= maxKnown {
		clear(b.specs)
	}
	b.specs[key] = keptSpec{digest, read}
	return read, nil
}

// Forget takes the installation's batches from the lists of all. It goes before the erasure of the installation's keys, which say what
// there is.
func (b *Batches) Forget(ctx context.Context, installation string) error {
	ids, err := b.Redis.ZRange(ctx, keyspace.Installation(installation).Batches(), 0, -1).Result()
	if err != nil {
		return unavailable(err, "forget the batches")
	}
	for page := range slices.Chunk(ids, 1000) {
		members := make([]any, len(page))
		for i, id := range page {
			members[i] = member(installation, id)
		}
		pipeline := b.Redis.Pipeline()
		pipeline.ZRem(ctx, keyspace.ActiveBatches, members...)
		pipeline.ZRem(ctx, keyspace.RecentBatches, members...)
		if _, err := pipeline.Exec(ctx); err != nil {
			return unavailable(err, "forget the batches")
		}
	}
	return nil
}
