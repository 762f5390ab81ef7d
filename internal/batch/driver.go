package batch

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// Queue takes the jobs of a batch's repositories.
type Queue interface {
	// Enqueue queues a job once; created is false where it was there.
	Enqueue(ctx context.Context, j job.Job) (status job.Status, created bool, err error)
	// RetryRun runs a job again whose given run ended without success; a Conflict where another run is there already.
	RetryRun(ctx context.Context, installation, id string, generation int) (job.Status, error)
	// CancelWaiting ends a job that does not run, and leaves one that does alone.
	CancelWaiting(ctx context.Context, installation, id string) (job.Status, error)
	// HaveTasks reports of each job that was queued once whether its task is there. One without, whose record is there, was queued by
	// somebody who died in between.
	HaveTasks(ctx context.Context, class job.Class, ids []string) ([]bool, error)
}

// Tokens returns an actor's current OAuth token, or the one to use instead of a given token; an Expired fault if there is none.
type Tokens interface {
	Take(ctx context.Context, installation string, actor forge.Actor) (forge.OAuthToken, error)
	TakeOther(ctx context.Context, installation string, actor forge.Actor, than forge.OAuthToken) (forge.OAuthToken, error)
}

// DriverConfig is what a [Driver] is made of. Everything is required.
type DriverConfig struct {
	Store       *Store
	Queue       Queue
	Tokens      Tokens
	Lister      Lister
	Workspaces  Workspaces
	TokenMargin time.Duration // a token with less life left is as good as gone
	Logger      *slog.Logger
}

// Driver lets the repositories of batches begin, when it is their turn. Every worker has one; they need not know of each other: what
// begins is decided in Redis, and what one has begun to queue when it dies another queues.
type Driver struct {
	DriverConfig

	mutex  sync.Mutex
	due    map[string]bool // batches that had a repository end
	signal chan struct{}
}

const (
	tickPause  = 500 * time.Millisecond // between looks at all batches
	tickLease  = 450 * time.Millisecond // for which one worker has looked after a batch for all
	emptyGrace = time.Minute            // for a batch that is being written
	flights    = 8                      // jobs that are queued at the same time
)

// NewDriver makes a Driver.
func NewDriver(config DriverConfig) *Driver {
	return &Driver{DriverConfig: config, due: map[string]bool{}, signal: make(chan struct{}, 1)}
}

// Nudge says that a repository of the batch has ended, so that another may begin at once. It does not wait.
func (d *Driver) Nudge(installation, id string) {
	d.mutex.Lock()
	d.due[member(installation, id)] = true
	d.mutex.Unlock()
	select {
	case d.signal <- struct{}{}:
	default:
	}
}

func (d *Driver) nudged() []string {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	names := make([]string, 0, len(d.due))
	for name := range d.due {
		names = append(names, name)
	}
	clear(d.due)
	return names
}

// Run looks after batches until ctx ends.
func (d *Driver) Run(ctx context.Context) error {
	tick := time.NewTicker(tickPause)
	defer tick.Stop()
	resolving, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	group.Go(func() { d.resolveAll(resolving) }) // beside the rest: a slow query holds nobody up
	group.Go(func() { d.follow(resolving) })     // a long round does not either
	group.Go(func() { d.listen(resolving) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			d.warn(ctx, d.round(ctx))
		}
	}
}

// follow lets the next repositories of batches begin that had one end, until ctx ends.
func (d *Driver) follow(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.signal:
			d.warn(ctx, d.each(d.nudged(), func(name string) error {
				_, err := d.advance(ctx, name)
				return err
			}))
		}
	}
}

// listen hears of batches that were asked for, resumed or retried, until ctx ends, so that they go on at once. What it misses, while
// Redis is away, the next round finds.
func (d *Driver) listen(ctx context.Context) {
	subscription := d.Store.Redis.Subscribe(ctx, keyspace.BatchChannel)
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
			d.Nudge(split(message.Payload))
		}
	}
}

func (d *Driver) warn(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		d.Logger.WarnContext(ctx, "batches could not be looked after; it is tried again", slog.Any("error", err))
	}
}

// each does something for several batches at the same time, so that none waits for all others.
func (d *Driver) each(names []string, do func(name string) error) error {
	errs := make([]error, len(names))
	var group errgroup.Group
	group.SetLimit(flights)
	for i, name := range names {
		group.Go(func() error {
			errs[i] = do(name)
			return nil
		})
	}
	_ = group.Wait() // they are all in errs
	return errors.Join(errs...)
}

// round looks after every batch that has not ended.
func (d *Driver) round(ctx context.Context) error {
	active, err := d.Store.Redis.ZRangeWithScores(ctx, keyspace.ActiveBatches, 0, -1).Result()
	if err != nil {
		return unavailable(err, "look for batches")
	}
	names, since := make([]string, len(active)), make(map[string]float64, len(active))
	for i, each := range active {
		name, _ := each.Member.(string) // all members are
		names[i], since[name] = name, each.Score
	}
	return d.each(names, func(name string) error { return d.lookAfter(ctx, name, since[name]) })
}

// lookAfter goes on with a batch, mends it, and lets go of it where it is over, unless another worker does it just now.
func (d *Driver) lookAfter(ctx context.Context, name string, since float64) error {
	installation, id := split(name)
	mine, err := d.Store.Redis.SetNX(ctx, keyspace.Installation(installation).Batch(id).Tick(), 1, tickLease).Result()
	if err != nil || !mine {
		return unavailable(err, "look after a batch")
	}
	state, err := d.advance(ctx, name)
	switch {
	case err != nil || state == "none" && d.Store.Now().Sub(time.UnixMilli(int64(since))) < emptyGrace:
		return err
	case state == "over":
		d.Logger.LogAttrs(ctx, slog.LevelInfo, "a batch has ended", d.standing(ctx, installation, id)...)
		return d.forget(ctx, name, since)
	case state == "none":
		return d.forget(ctx, name, since)
	}
	return d.mend(ctx, installation, id)
}

// standing is how a batch stands, for the log. Its title is content, and no part of it.
func (d *Driver) standing(ctx context.Context, installation, id string) []slog.Attr {
	attributes := []slog.Attr{slog.String("batch", id), slog.String("installation", installation)}
	read, err := d.Store.ledger(ctx, installation, id)
	if err != nil {
		return append(attributes, slog.Any("error", err))
	}
	attributes = append(attributes, slog.String("state", read.fields["state"]), slog.String("reason", read.fields["reason"]),
		slog.Int("count", read.number("total")))
	for _, state := range sets() {
		if count := read.counts[state]; count > 0 {
			attributes = append(attributes, slog.Int(string(state), count))
		}
	}
	return attributes
}

// forgetScript takes a batch from the active ones unless somebody has put it there again meanwhile.
//
// KEYS: active. ARGV: member, its score.
var forgetScript = redis.NewScript(`
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1])) == tonumber(ARGV[2]) then redis.call('ZREM', KEYS[1], ARGV[1]) end
return 1`)

func (d *Driver) forget(ctx context.Context, name string, score float64) error {
	err := forgetScript.Run(ctx, d.Store.Redis, []string{keyspace.ActiveBatches}, name, strconv.FormatFloat(score, 'f', -1, 64)).Err()
	return unavailable(err, "let go of a batch")
}

// advance lets begin what may begin.
func (d *Driver) advance(ctx context.Context, name string) (state string, err error) {
	installation, id := split(name)
	fields, err := d.Store.head(ctx, installation, id)
	if err != nil || len(fields) == 0 {
		return "none", err
	}
	hold, err := d.hold(ctx, installation, actorOf(fields))
	if err != nil {
		return "", err
	}
	state, next, err := d.Store.take(ctx, installation, id, hold)
	if state == "stopped" {
		d.Logger.LogAttrs(ctx, slog.LevelWarn, "a batch has stopped by itself", d.standing(ctx, installation, id)...)
	}
	if err != nil || len(next.numbers) == 0 {
		return state, err
	}
	return state, d.begin(ctx, installation, id, fields, next)
}

// hold is why nothing of the actor can begin now, empty where it can.
func (d *Driver) hold(ctx context.Context, installation string, actor forge.Actor) (string, error) {
	token, err := d.Tokens.Take(ctx, installation, actor)
	if err != nil && fault.KindOf(err) != fault.Expired {
		return "", err
	}
	if err == nil && token.ExpiresAt.Sub(d.Store.Now()) > d.TokenMargin {
		return "", nil
	}
	if actor.Kind == forge.ActorSystem {
		return "the system token has run out; the batch resumes when the next scheduled trigger brings one", nil
	}
	return "the user token has run out; the batch resumes with that user's next call from the app's UI", nil
}

// begin queues repositories that were taken. To begin one twice does no harm.
func (d *Driver) begin(ctx context.Context, installation, id string, fields map[string]string, next taken) error {
	errs := make([]error, len(next.numbers)) // one repository's trouble is not the others'
	var group errgroup.Group
	group.SetLimit(flights)
	for i, number := range next.numbers {
		group.Go(func() error {
			errs[i] = d.beginOne(ctx, jobOf(fields, next.actor, installation, id, number, next.entries[i]))
			return nil
		})
	}
	_ = group.Wait() // they are all in errs
	return errors.Join(errs...)
}

// beginAgain is begin for repositories that were taken before, and are still to be queued.
func (d *Driver) beginAgain(ctx context.Context, installation, id string, numbers []int) error {
	if len(numbers) == 0 {
		return nil
	}
	fields, err := d.Store.head(ctx, installation, id)
	if err != nil || len(fields) == 0 {
		return err
	}
	entries, err := d.Store.entries(ctx, installation, id, numbers)
	if err != nil {
		return err
	}
	return d.begin(ctx, installation, id, fields, taken{actorOf(fields), numbers, entries})
}

func (d *Driver) beginOne(ctx context.Context, j job.Job) error {
	status, created, err := d.Queue.Enqueue(ctx, j)
	if err != nil || created || !status.State.Ended() || status.State == job.Succeeded {
		return err
	}
	// It has failed before and is to be retried, if it is still queued by the ledger now that its end is known: a run that has begun
	// and failed meanwhile has left that.
	err = d.Store.Redis.ZScore(ctx, keyspace.Installation(j.Installation).Batch(j.Batch.ID).State(string(Queued)), strconv.Itoa(j.Batch.Item)).Err()
	switch {
	case errors.Is(err, redis.Nil):
		return nil
	case err != nil:
		return unavailable(err, "retry a repository")
	}
	_, err = d.Queue.RetryRun(ctx, j.Installation, j.ID, status.Generation)
	if err != nil && fault.KindOf(err) == fault.Conflict { // another worker was quicker
		return nil
	}
	return err
}

// jobOf is the job of one repository: the same whoever makes it.
func jobOf(fields map[string]string, actor forge.Actor, installation, id string, number int, kept entry) job.Job {
	created, _ := strconv.ParseInt(fields["created"], 10, 64) // we have written it
	j := job.Job{
		ID: JobID(id, number), Installation: installation, Actor: actor, Requester: requesterOf(fields), Repository: kept.repository(), Class: job.ClassBatch,
		CreatedAt: time.UnixMilli(created).UTC(), Trace: job.Trace{TraceID: fields["trace"], SpanID: fields["span"]},
		Digest: JobID(id, number), Batch: job.BatchRef{ID: id, Item: number},
	}
	if actor.Kind == forge.ActorSystem {
		j.OnExpiry = job.OnExpiryWait
	}
	return j
}

// mend queues what somebody has taken and not queued, or not to the end, and ends what waits of a batch that was canceled.
func (d *Driver) mend(ctx context.Context, installation, id string) error {
	lost, err := d.lost(ctx, installation, id)
	if err != nil {
		return err
	}
	state, err := d.Store.Redis.HGet(ctx, keyspace.Installation(installation).Batch(id).Root(), "state").Result()
	switch {
	case err != nil && !errors.Is(err, redis.Nil):
		return unavailable(err, "look after a batch")
	case State(state) != StateCanceled:
		return d.beginAgain(ctx, installation, id, lost)
	}
	if err := d.cancelWaiting(ctx, installation, id); err != nil {
		return err
	}
	return d.Store.cancelTaken(ctx, installation, id, lost) // those that have no job to be canceled
}

// lost are the repositories that are queued by the ledger and that no worker will come upon.
func (d *Driver) lost(ctx context.Context, installation, id string) ([]int, error) {
	numbers, err := d.Store.numbers(ctx, installation, id, Queued)
	if err != nil || len(numbers) == 0 {
		return nil, err
	}
	ids := jobIDs(id, numbers)
	statuses, err := d.Store.Jobs.GetAll(ctx, installation, ids)
	if err != nil {
		return nil, err
	}
	there, err := d.Queue.HaveTasks(ctx, job.ClassBatch, ids)
	if err != nil {
		return nil, err
	}
	var lost []int
	for i, status := range statuses {
		// A later run's task is there before its record says so.
		if status.ID == "" || status.State.Ended() || status.Generation == 0 && !there[i] {
			lost = append(lost, numbers[i])
		}
	}
	return lost, nil
}

// cancelWaiting ends the jobs of a canceled batch that do not run.
func (d *Driver) cancelWaiting(ctx context.Context, installation, id string) error {
	for _, state := range []ItemState{Queued, Waiting} {
		numbers, err := d.Store.numbers(ctx, installation, id, state)
		if err != nil {
			return err
		}
		for _, job := range jobIDs(id, numbers) {
			_, err := d.Queue.CancelWaiting(ctx, installation, job)
			if kind := fault.KindOf(err); err != nil && kind != fault.Conflict && kind != fault.NotFound {
				return err
			}
		}
	}
	return nil
}
