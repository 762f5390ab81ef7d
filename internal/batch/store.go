package batch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Jobs are the batch's repositories in the queue.
type Jobs interface {
	// GetAll are several jobs of the installation, the zero Status for one that is not there.
	GetAll(ctx context.Context, installation string, ids []string) ([]job.Status, error)
}

// Options are what a [Store] needs. Redis, Keyring and Jobs are required.
type Options struct {
	Redis     redis.UniversalClient
	Keyring   *secret.Keyring
	Jobs      Jobs
	Retention time.Duration // of a batch after the age at which it has to end; default 7 days
	Now       func() time.Time
	Logger    *slog.Logger
}

// Store keeps batches. It may be used concurrently and by several processes on the same Redis.
type Store struct {
	Options

	mutex  sync.Mutex
	groups map[string]grouped // by batch, as they were last worked out
	specs  map[string]*spec   // by batch; what one with a digest is does not change
}

// NewStore makes a Store.
func NewStore(options Options) *Store {
	if options.Retention <= 0 {
		options.Retention = 7 * 24 * time.Hour
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	return &Store{Options: options, groups: map[string]grouped{}, specs: map[string]*spec{}}
}

// createScript makes a batch unless it is there.
//
// KEYS: root, gone, index. ARGV: life in ms, id, created, digest, spec, number of fields, fields and values of the root, then the entries.
// Returns 1, 0 where it is there with the same digest, 2 where the installation is gone, 3 where it is there with another digest.
var createScript = redis.NewScript(`
local have = redis.call('HGET', KEYS[1], 'digest')
if have then return have == ARGV[4] and 0 or 3 end
if redis.call('EXISTS', KEYS[2]) == 1 then return 2 end
local fields = tonumber(ARGV[6])
redis.call('HSET', KEYS[1], unpack(ARGV, 7, 6 + fields))
redis.call('SET', KEYS[1] .. ':spec', ARGV[5])
for i = 7 + fields, #ARGV do
  local item = i - 7 - fields
  redis.call('HSET', KEYS[1] .. ':items', item, ARGV[i])
  redis.call('ZADD', KEYS[1] .. ':pending', item, item)
end
for _, part in ipairs({'', ':spec', ':items', ':pending'}) do redis.call('PEXPIRE', KEYS[1] .. part, ARGV[1]) end
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', ARGV[3] - ARGV[1])
return 1`)

// Create keeps a batch once: the same id with the same digest gives the batch that is there, and created is false. The same id with
// another digest is a Conflict. After an Unavailable fault the same call again finds out.
func (s *Store) Create(ctx context.Context, b Batch) (status Status, created bool, err error) {
	// Whether it is there comes first: the same call again is answered whatever has become of the dry run that it repeats.
	digest, err := s.digest(ctx, b.Installation, b.ID)
	switch {
	case err != nil:
		return Status{}, false, err
	case digest == "":
	case digest != b.Digest:
		return Status{}, false, anotherRequest()
	default:
		status, err := s.Get(ctx, b.Installation, b.ID)
		return status, false, errors.Join(err, s.remember(ctx, b))
	}
	plan, err := s.plan(ctx, b)
	if err != nil {
		return Status{}, false, err
	}
	// Ahead of the batch itself, so that it is looked after wherever this breaks off. What is not there is forgotten after a while.
	now, name := s.Now(), member(b.Installation, b.ID)
	if err := s.Redis.ZAdd(ctx, keyspace.ActiveBatches, redis.Z{Score: float64(now.UnixMilli()), Member: name}).Err(); err != nil {
		return Status{}, false, unavailable(err, "keep the batch")
	}
	arguments := []any{(MaxAge + s.Retention).Milliseconds(), b.ID, b.CreatedAt.UnixMilli(), b.Digest, plan.spec, len(plan.fields)}
	arguments = append(append(arguments, plan.fields...), plan.entries...)
	keys := []string{keyspace.Installation(b.Installation).Batch(b.ID).Root(), keyspace.Installation(b.Installation).Gone(), keyspace.Installation(b.Installation).Batches()}
	answer, err := createScript.Run(ctx, s.Redis, keys, arguments...).Int()
	switch {
	case err != nil:
		return Status{}, false, unavailable(err, "keep the batch")
	case answer == 2:
		return Status{}, false, fault.Newf(fault.Denied, "the app was removed from the workspace; install it again")
	case answer == 3:
		return Status{}, false, anotherRequest()
	}
	if err := s.remember(ctx, b); err != nil {
		return Status{}, false, err
	}
	status, err = s.Get(ctx, b.Installation, b.ID)
	return status, answer == 1, err
}

func anotherRequest() error {
	return fault.Newf(fault.Conflict, "this Idempotency-Key was used for another request; use a new key, or send the same body")
}

// remember lets the dashboard know of a batch, and a driver.
func (s *Store) remember(ctx context.Context, b Batch) error {
	pipeline := s.Redis.Pipeline()
	pipeline.ZAddNX(ctx, keyspace.RecentBatches, redis.Z{Score: float64(b.CreatedAt.UnixMilli()), Member: member(b.Installation, b.ID)})
	pipeline.ZRemRangeByRank(ctx, keyspace.RecentBatches, 0, -1-maxRecent)
	pipeline.Publish(ctx, keyspace.BatchChannel, member(b.Installation, b.ID))
	_, err := pipeline.Exec(ctx)
	return unavailable(err, "keep the batch")
}

// digest is of a batch's request; empty where there is no such batch.
func (s *Store) digest(ctx context.Context, installation, id string) (string, error) {
	digest, err := s.Redis.HGet(ctx, keyspace.Installation(installation).Batch(id).Root(), "digest").Result()
	if errors.Is(err, redis.Nil) {
		return "", nil
	}
	return digest, unavailable(err, "look up the batch")
}

// Forget takes the installation's batches from the lists of all. It goes before the erasure of the installation's keys, which say what
// there is.
func (s *Store) Forget(ctx context.Context, installation string) error {
	ids, err := s.Redis.ZRange(ctx, keyspace.Installation(installation).Batches(), 0, -1).Result()
	if err != nil {
		return unavailable(err, "forget the batches")
	}
	for page := range slices.Chunk(ids, 1000) {
		members := make([]any, len(page))
		for i, id := range page {
			members[i] = member(installation, id)
		}
		pipeline := s.Redis.Pipeline()
		pipeline.ZRem(ctx, keyspace.ActiveBatches, members...)
		pipeline.ZRem(ctx, keyspace.RecentBatches, members...)
		if _, err := pipeline.Exec(ctx); err != nil {
			return unavailable(err, "forget the batches")
		}
	}
	return nil
}

// maxRecent is how many batches the dashboard knows of.
const maxRecent = 1000

// plan is a batch as it is written down.
type plan struct {
	spec    []byte
	fields  []any
	entries []any
}

func (s *Store) plan(ctx context.Context, b Batch) (plan, error) {
	work := spec{Push: b.Push, Query: b.Query}
	entries := make([]entry, len(b.Repositories))
	for i, target := range b.Repositories {
		entries[i] = entry{
			Workspace: target.Workspace, Slug: target.Slug, WorkspaceUUID: target.WorkspaceUUID, RepositoryUUID: target.RepositoryUUID,
		}
		if len(target.Values) > 0 {
			plain, err := json.Marshal(target.Values)
			if err != nil {
				return plan{}, fault.Wrapf(fault.Internal, err, "the batch cannot be encoded")
			}
			entries[i].Values = s.Keyring.Seal(plain, valuesContext(b.Installation, b.ID, i)...)
		}
	}
	if b.From != "" {
		dry, err := s.dryRun(ctx, b)
		if err != nil {
			return plan{}, err
		}
		if err := b.inherit(dry); err != nil {
			return plan{}, err
		}
		if work, entries, err = s.repeat(ctx, b); err != nil {
			return plan{}, err
		}
	}
	title := b.Title
	if title == "" {
		title, _, _ = strings.Cut(strings.TrimSpace(work.Push.Message), "\n")
		title = strings.ToValidUTF8(title[:min(len(title), maxTitle)], "")
	}
	text, err := json.Marshal(work)
	if err != nil {
		return plan{}, fault.Wrapf(fault.Internal, err, "the batch cannot be encoded")
	}
	made := plan{spec: s.Keyring.Seal(text, specContext(b.Installation, b.ID)...), fields: s.fieldsOf(b, title, len(entries))}
	for i := range entries {
		text, err := json.Marshal(entries[i])
		if err != nil {
			return plan{}, fault.Wrapf(fault.Internal, err, "the batch cannot be encoded")
		}
		made.entries = append(made.entries, text)
	}
	return made, nil
}

// fieldsOf are the root's. title is the caller's own text and is sealed.
func (s *Store) fieldsOf(b Batch, title string, total int) []any {
	state, resolved := StateRunning, 1
	if b.Query != nil {
		state, resolved = StateResolving, 0
	}
	fields := []any{
		"id", b.ID, "digest", b.Digest, "state", string(state), "resolved", resolved, "actor", string(b.Actor.Kind), "created", b.CreatedAt.UnixMilli(),
		"total", total, "concurrency", b.Concurrency, "changes", 0, "stage", 0, "accepted", 0,
		"title", s.Keyring.Seal([]byte(title), titleContext(b.Installation, b.ID)...),
	}
	if b.PerHour > 0 {
		fields = append(fields, "per_hour", b.PerHour)
	}
	if b.DryRun {
		fields = append(fields, "dry", 1)
	}
	if rollout := b.Rollout; rollout != nil {
		for name, share := range map[string]Share{"canary": rollout.Canary, "then": rollout.Then, "stop": rollout.StopAtFailures} {
			if !share.IsZero() {
				fields = append(fields, name, share.String())
			}
		}
	}
	for _, field := range [][2]string{
		{"principal", b.Actor.Principal}, {"requester", b.Requester}, {"from", b.From}, {"trace", b.Trace.TraceID}, {"span", b.Trace.SpanID},
	} {
		if field[1] != "" {
			fields = append(fields, field[0], field[1])
		}
	}
	return fields
}

func specContext(installation, id string) []string  { return []string{"batch", installation, id} }
func titleContext(installation, id string) []string { return []string{"batch title", installation, id} }
func valuesContext(installation, id string, item int) []string {
	return []string{"batch values", installation, id, strconv.Itoa(item)}
}

// dryRun returns the dry run that b repeats. An Invalid fault says why it cannot be repeated, or that its requester is another.
func (s *Store) dryRun(ctx context.Context, b Batch) (Status, error) {
	wrong := func(format string, arguments ...any) (Status, error) {
		return Status{}, fault.Newf(fault.Invalid, "from: "+format, arguments...)
	}
	dry, err := s.Get(ctx, b.Installation, b.From)
	switch {
	case fault.KindOf(err) == fault.NotFound && err != nil, err == nil && dry.Requester != b.Requester && b.Requester != "":
		return wrong("there is no batch %.40q, or its time is over", b.From)
	case err == nil && dry.Requester != b.Requester:
		return wrong("the dry run is a user's; only that user can start it")
	case err != nil:
		return Status{}, err
	case !dry.DryRun:
		return wrong("batch %s is no dry run", b.From)
	case dry.State != StateFinished:
		return wrong("the dry run is %s; wait until it has finished", dry.State)
	case dry.Totals[Succeeded] == 0:
		return wrong("the dry run found nothing to change")
	}
	return dry, nil
}

// inherit completes b with what its dry run was asked for: always the actor, and the roll-out and the pace where b gives none. The
// requester is the same, so that a user's dry run is continued by that user.
func (b *Batch) inherit(dry Status) error {
	if kind := forge.ActorKind(dry.Actor); b.Request.Actor != "" && b.Request.Actor != kind {
		return fault.Newf(fault.Invalid, "actor: the dry run acts as %q, and so does the batch that is started from it; leave actor out, or make another dry run", kind)
	}
	b.Actor = forge.Actor{Kind: forge.ActorKind(dry.Actor)}
	if b.Actor.Kind == forge.ActorUser {
		b.Actor.Principal = b.Requester
	}
	if b.Title == "" {
		b.Title = dry.Title
	}
	if b.Rollout == nil {
		b.Rollout = dry.Rollout
	}
	b.Concurrency = cmp.Or(b.Concurrency, dry.Concurrency)
	b.PerHour = cmp.Or(b.PerHour, dry.PerHour)
	return nil
}

// repeat takes over what a dry run found: its push, and those of its repositories that it would have changed.
func (s *Store) repeat(ctx context.Context, b Batch) (work spec, entries []entry, err error) {
	original, err := s.spec(ctx, b.Installation, b.From)
	if err != nil {
		return spec{}, nil, err
	}
	push := *original.Push
	push.DryRun = false
	work = spec{Push: &push}
	numbers, err := s.numbers(ctx, b.Installation, b.From, Succeeded)
	if err != nil {
		return spec{}, nil, err
	}
	kept, err := s.entries(ctx, b.Installation, b.From, numbers)
	if err != nil {
		return spec{}, nil, err
	}
	statuses, err := s.Jobs.GetAll(ctx, b.Installation, jobIDs(b.From, numbers))
	if err != nil {
		return spec{}, nil, err
	}
	for i, each := range kept {
		if len(each.Values) > 0 { // they are sealed for their place
			plain, err := s.Keyring.Open(each.Values, valuesContext(b.Installation, b.From, numbers[i])...)
			if err != nil {
				return spec{}, nil, fault.Wrapf(fault.Internal, err, "a repository's values cannot be opened: their sealing key is not in GITSMITH_SEAL_KEYS any more")
			}
			each.Values = s.Keyring.Seal(plain, valuesContext(b.Installation, b.ID, i)...)
		}
		if b.Changed != ChangedApply {
			each.Expect = expectOf(statuses[i])
		}
		each.Index = &numbers[i]
		entries = append(entries, each)
	}
	return work, entries, nil
}

// expectOf is what a dry run's job found. Of one whose result is gone nothing can match, so that the repository is left alone.
func expectOf(status job.Status) *job.Expect {
	if status.Result == nil || status.Result.Push == nil {
		return &job.Expect{}
	}
	return &job.Expect{Parent: status.Result.Push.Parent, Tree: status.Result.Push.Tree}
}

// spec is what a batch does.
type spec struct {
	Push  *job.Push `json:"push"`
	Query *Query    `json:"query,omitempty"`

	work   *work  // parsed, where it was needed
	digest string // of the batch: the same Idempotency-Key makes the same id again, once the batch before is gone
}

// maxKnown is how many batches' specs and groups a process keeps at hand.
const maxKnown = 64

// spec is what a batch does; it may be another's answer and is not to be changed.
func (s *Store) spec(ctx context.Context, installation, id string) (*spec, error) {
	key := keyspace.Installation(installation).Batch(id).Root()
	digest, err := s.digest(ctx, installation, id)
	if err != nil {
		return nil, err
	}
	s.mutex.Lock()
	found := s.specs[key]
	s.mutex.Unlock()
	if found != nil && found.digest == digest {
		return found, nil
	}
	sealed, err := s.Redis.Get(ctx, keyspace.Installation(installation).Batch(id).Spec()).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, fault.Newf(fault.NotFound, "the batch is not kept any more; make it anew")
	case err != nil:
		return nil, unavailable(err, "read the batch")
	}
	plain, err := s.Keyring.Open(sealed, specContext(installation, id)...)
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "the batch cannot be opened: it is damaged, or its sealing key is not in GITSMITH_SEAL_KEYS any more")
	}
	read := &spec{digest: digest}
	if err := json.Unmarshal(plain, read); err != nil || read.Push == nil {
		return nil, fault.Wrapf(fault.Internal, err, "the batch's content cannot be read")
	}
	if read.work, err = parseWork(read.Push); err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.specs) >= maxKnown {
		clear(s.specs)
	}
	s.specs[key] = read
	return read, nil
}

// numbers are the repositories in a state, in their order.
func (s *Store) numbers(ctx context.Context, installation, id string, state ItemState) ([]int, error) {
	texts, err := s.Redis.ZRange(ctx, keyspace.Installation(installation).Batch(id).State(string(state)), 0, -1).Result()
	if err != nil {
		return nil, unavailable(err, "read the batch")
	}
	return numbersOf(texts), nil
}

func numbersOf(texts []string) []int {
	numbers := make([]int, len(texts))
	for i, text := range texts {
		numbers[i], _ = strconv.Atoi(text) // our own scripts write them
	}
	return numbers
}

func jobIDs(id string, numbers []int) []string {
	ids := make([]string, len(numbers))
	for i, number := range numbers {
		ids[i] = JobID(id, number)
	}
	return ids
}

// entries are the repositories with these numbers.
func (s *Store) entries(ctx context.Context, installation, id string, numbers []int) ([]entry, error) {
	if len(numbers) == 0 {
		return nil, nil
	}
	fields := make([]string, len(numbers))
	for i, number := range numbers {
		fields[i] = strconv.Itoa(number)
	}
	values, err := s.Redis.HMGet(ctx, keyspace.Installation(installation).Batch(id).Items(), fields...).Result()
	if err != nil {
		return nil, unavailable(err, "read the batch")
	}
	return decodeEntries(numbers, values)
}

func decodeEntries(numbers []int, values []any) ([]entry, error) {
	entries := make([]entry, len(values))
	for i, value := range values {
		text, _ := value.(string)
		if err := json.Unmarshal([]byte(text), &entries[i]); err != nil {
			return nil, fault.Wrapf(fault.Internal, err, "repository %d of the batch cannot be read", numbers[i])
		}
	}
	return entries, nil
}

// actorOf is as whom a batch acts.
func actorOf(fields map[string]string) forge.Actor {
	return forge.Actor{Kind: forge.ActorKind(fields["actor"]), Principal: fields["principal"]}
}

// requesterOf is who asked for a batch. One of an earlier version has no such field: then it is the user who acts, if one does.
func requesterOf(fields map[string]string) string {
	return cmp.Or(fields["requester"], fields["principal"])
}

// head is a batch's root; empty where there is none.
func (s *Store) head(ctx context.Context, installation, id string) (map[string]string, error) {
	fields, err := s.Redis.HGetAll(ctx, keyspace.Installation(installation).Batch(id).Root()).Result()
	return fields, unavailable(err, "look up the batch")
}
