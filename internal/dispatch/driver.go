package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
)

// Queue carries the tickets of batches' jobs.
type Queue interface {
	// Issue hands tickets out.
	Issue(ctx context.Context, tickets []ledger.Ticket) error
	// CancelWaiting ends a job that does not run, and leaves one that does alone.
	CancelWaiting(ctx context.Context, installation, id string) (job.Status, error)
}

// Tokens returns an actor's current OAuth token, or the one to use instead of a given token; an Expired fault if there is none.
type Tokens interface {
	Take(ctx context.Context, installation string, actor forge.Actor) (forge.OAuthToken, error)
	TakeOther(ctx context.Context, installation string, actor forge.Actor, than forge.OAuthToken) (forge.OAuthToken, error)
}

// DriverConfig is what a [Driver] is made of. Everything but Leads and Now is required.
type DriverConfig struct {
	Batches     *ledger.Batches
	Queue       Queue
	Tokens      Tokens
	Lister      Lister
	Workspaces  Workspaces
	TokenMargin time.Duration // a token with less life left is as good as gone
	Leads       func() bool   // reports whether this driver is the one that looks at all batches; default: each does
	Now         func() time.Time
	Logger      *slog.Logger
}

// Driver lets the repositories of batches begin, when it is their turn. Every worker has one: it lets the next repository begin where one has
// ended in that worker, and one of them looks at all batches besides. They need not know of each other: what begins is decided in Redis, and
// what one has begun to queue when it dies another queues.
type Driver struct {
	DriverConfig

	flights int // batches that are looked at at the same time

	mutex  sync.Mutex
	due    map[ref]bool      // batches that can advance at once
	absent map[ref]time.Time // batches that are not there, since when
	ready  map[ref]ready
	signal chan struct{}
}

// ref names a batch.
type ref struct{ installation, id string }

const (
	batchPause   = 500 * time.Millisecond // between looks at the batches that are due
	soon         = 500 * time.Millisecond // until a look at one whose pace is bounded
	holdPause    = 2 * time.Second        // until a look at one that lacks a token
	goingPause   = 5 * time.Second        // until a look at one that goes: where a repository ends, the next begins without it
	emptyGrace   = time.Minute            // for a batch that is about to be written
	writingGrace = 10 * time.Minute       // for one that is being written: so long a caller may complete it
	flights      = 8                      // of a driver
	leastOffered = 2                      // jobs that a batch is offered at first
	readyLife    = 2 * time.Second        // of what is known of a batch's next jobs
	maxReady     = 64                     // batches of which that is kept
)

// NewDriver makes a Driver.
func NewDriver(config DriverConfig) *Driver {
	if config.Leads == nil {
		config.Leads = func() bool { return true }
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Driver{DriverConfig: config, flights: flights, due: map[ref]bool{}, absent: map[ref]time.Time{}, ready: map[ref]ready{}, signal: make(chan struct{}, 1)}
}

// Nudge says that a repository of the batch has ended, so that another may begin at once. It does not wait.
func (d *Driver) Nudge(installation, id string) {
	d.mutex.Lock()
	d.due[ref{installation, id}] = true
	d.mutex.Unlock()
	select {
	case d.signal <- struct{}{}:
	default:
	}
}

func (d *Driver) nudged() []ref {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	due := slices.Collect(maps.Keys(d.due))
	clear(d.due)
	return due
}

// Run advances batches until ctx ends.
func (d *Driver) Run(ctx context.Context) error {
	tick := time.NewTicker(batchPause)
	defer tick.Stop()
	resolving, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer stop()
	group.Go(func() { d.resolveAll(resolving) }) // beside the rest: a slow query holds nobody up
	group.Go(func() { d.follow(resolving) })     // a long round does not either
	group.Go(func() { d.Batches.Listen(resolving, d.Nudge) })
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
			d.warn(ctx, each(d.flights, d.nudged(), func(due ref) error {
				taken, _, err := d.advance(ctx, due.installation, due.id)
				if err == nil && taken.Progress != ledger.ProgressGoing {
					return d.Batches.Hurry(ctx, due.installation, due.id)
				}
				return err
			}))
		}
	}
}

func (d *Driver) warn(ctx context.Context, err error) {
	if err != nil && ctx.Err() == nil {
		d.Logger.WarnContext(ctx, "cannot advance batches; will retry", slog.Any("error", err))
	}
}

// each does something for several batches at the same time, so that none waits for all others.
func each[T any](flights int, all []T, do func(T) error) error {
	errs := make([]error, len(all))
	var group errgroup.Group
	group.SetLimit(flights)
	for i, one := range all {
		group.Go(func() error {
			errs[i] = do(one)
			return nil
		})
	}
	_ = group.Wait() // they are all in errs
	return errors.Join(errs...)
}

// round looks at the batches that are due.
func (d *Driver) round(ctx context.Context) error {
	if !d.Leads() {
		return nil
	}
	claimed := d.Now()
	active, err := d.Batches.Claim(ctx)
	if err != nil {
		return err
	}
	return each(d.flights, active, func(one ledger.Active) error {
		after, err := d.look(ctx, one)
		if err != nil {
			return err
		}
		return d.Batches.Settle(ctx, one, d.Now().Sub(claimed), after)
	})
}

// look advances a batch and mends it. It returns when to look at it again: never, which is negative, where it is over.
func (d *Driver) look(ctx context.Context, one ledger.Active) (after time.Duration, err error) {
	taken, after, err := d.advance(ctx, one.Installation, one.ID)
	if err != nil {
		return 0, err
	}
	progress := taken.Progress
	absent := d.absentFor(one, progress == ledger.ProgressNone)
	switch {
	case progress == ledger.ProgressNone && absent < emptyGrace:
		return goingPause, nil
	case progress == ledger.ProgressNone:
		return -1, nil
	case progress == ledger.ProgressWriting && after > 0:
		return after, nil
	case progress == ledger.ProgressWriting:
		d.Logger.LogAttrs(ctx, slog.LevelWarn, "a batch was not written to its end; it is removed", slog.String("batch", one.ID), slog.String("installation", one.Installation))
		return -1, d.Batches.Abandon(ctx, one.Installation, one.ID)
	case progress == ledger.ProgressOver:
		d.Logger.LogAttrs(ctx, slog.LevelInfo, "a batch has ended", d.standing(ctx, one.Installation, one.ID)...)
		return -1, nil
	}
	return after, d.mend(ctx, one, taken.State)
}

// absentFor is for how long this driver has known that a batch is not there.
func (d *Driver) absentFor(one ledger.Active, absent bool) time.Duration {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	name := ref{one.Installation, one.ID}
	if !absent {
		delete(d.absent, name)
		return 0
	}
	if _, known := d.absent[name]; !known {
		d.absent[name] = d.Now()
	}
	return d.Now().Sub(d.absent[name])
}

// pauseOf is when to look at a batch again that has not ended. One that is paused or has stopped is left alone until somebody steers it, or it
// is too old.
func (d *Driver) pauseOf(root batch.Root, taken ledger.Taken, hold string) time.Duration {
	switch {
	case taken.Progress == ledger.ProgressWriting:
		return min(goingPause, root.Created().Add(writingGrace).Sub(d.Now()))
	case taken.State == batch.StatePaused, taken.State == batch.StateStopped:
		return max(goingPause, root.Created().Add(batch.MaxAge).Sub(d.Now()))
	case hold != "":
		return holdPause
	case root["per_hour"] != "":
		return soon
	}
	return goingPause
}

// standing is how a batch stands, for the log. Its title is content, and no part of it.
func (d *Driver) standing(ctx context.Context, installation, id string) []slog.Attr {
	attributes := []slog.Attr{slog.String("batch", id), slog.String("installation", installation)}
	read, err := d.Batches.Account(ctx, installation, id)
	if err != nil {
		return append(attributes, slog.Any("error", err))
	}
	attributes = append(attributes, slog.String("state", read.Root["state"]), slog.String("reason", read.Root["reason"]),
		slog.Int("count", read.Total()))
	for _, state := range batch.Sets() {
		if count := read.Counts[state]; count > 0 {
			attributes = append(attributes, slog.Int(string(state), count))
		}
	}
	return attributes
}

// advance lets begin what may begin, and returns when to look again.
func (d *Driver) advance(ctx context.Context, installation, id string) (ledger.Taken, time.Duration, error) {
	name := ref{installation, id}
	known, err := d.known(ctx, name)
	if err != nil || len(known.root) == 0 {
		return ledger.Taken{Progress: ledger.ProgressNone}, 0, err
	}
	hold, err := d.hold(ctx, installation, known.root.Actor())
	if err != nil {
		return ledger.Taken{}, 0, err
	}
	taken, err := d.take(ctx, name, &known, hold)
	if taken.Progress == ledger.ProgressStopped {
		d.Logger.LogAttrs(ctx, slog.LevelWarn, "a batch has stopped by itself", d.standing(ctx, installation, id)...)
	}
	return taken, d.pauseOf(known.root, taken, hold), err
}

// take offers the batch its next jobs, twice as many each time, until no more can begin.
func (d *Driver) take(ctx context.Context, name ref, known *ready, hold string) (ledger.Taken, error) {
	for size := leastOffered; ; size = min(2*size, batch.MaxConcurrency) {
		taken, err := d.Batches.Take(ctx, name.installation, name.id, hold, known.jobs[:min(size, len(known.jobs))])
		if err != nil {
			return taken, err
		}
		known.jobs = known.jobs[taken.Used:]
		if err := d.Queue.Issue(ctx, taken.Tickets); err != nil {
			d.warn(ctx, err) // they are issued again
		}
		if !taken.More {
			d.keep(name, *known)
			return taken, nil
		}
		if len(known.jobs) > 0 {
			continue
		}
		if *known, err = d.read(ctx, name); err != nil || len(known.jobs) == 0 {
			return taken, err
		}
	}
}

// ready are the jobs of a batch that could begin next, as they were at a time.
type ready struct {
	root batch.Root
	jobs []job.Job
	at   time.Time
}

// known is what was read of a batch a moment ago, or is now. What has changed meanwhile the ledger knows.
func (d *Driver) known(ctx context.Context, name ref) (ready, error) {
	d.mutex.Lock()
	known, has := d.ready[name]
	delete(d.ready, name)
	d.mutex.Unlock()
	if has && d.Now().Sub(known.at) < readyLife {
		return known, nil
	}
	return d.read(ctx, name)
}

func (d *Driver) keep(name ref, known ready) {
	d.mutex.Lock()
	defer d.mutex.Unlock()
	if len(d.ready) >= maxReady {
		clear(d.ready)
	}
	d.ready[name] = known
}

func (d *Driver) read(ctx context.Context, name ref) (ready, error) {
	root, numbers, entries, err := d.Batches.Next(ctx, name.installation, name.id, batch.MaxConcurrency)
	if err != nil {
		return ready{}, err
	}
	jobs := make([]job.Job, len(numbers))
	for i, number := range numbers {
		jobs[i] = jobOf(root, name.installation, name.id, number, entries[i])
	}
	return ready{root, jobs, d.Now()}, nil
}

// hold is why nothing of the actor can begin now, empty where it can.
func (d *Driver) hold(ctx context.Context, installation string, actor forge.Actor) (string, error) {
	token, err := d.Tokens.Take(ctx, installation, actor)
	if err != nil && fault.KindOf(err) != fault.Expired {
		return "", err
	}
	if err == nil && token.ExpiresAt.Sub(d.Now()) > d.TokenMargin {
		return "", nil
	}
	if actor.Kind == forge.ActorSystem {
		return "the system token has run out; the batch resumes when the next scheduled trigger brings one", nil
	}
	return "the user token has run out; the batch resumes with that user's next call from the app's UI", nil
}

// jobOf is the job of one repository: the same whoever makes it.
func jobOf(root batch.Root, installation, id string, number int, kept batch.Entry) job.Job {
	actor := root.Actor()
	j := job.Job{
		ID: batch.JobID(id, number), Installation: installation, Actor: actor, Requester: root.Requester(), Repository: kept.Repository(), Class: job.ClassBatch,
		CreatedAt: root.Created(), Trace: root.Trace(), Digest: batch.JobID(id, number), Batch: job.BatchRef{ID: id, Item: number},
	}
	if actor.Kind == forge.ActorSystem {
		j.OnExpiry = job.OnExpiryWait
	}
	return j
}

// mend ends the jobs of a canceled batch that do not run, and gives back what a driver of an older version took.
func (d *Driver) mend(ctx context.Context, one ledger.Active, state batch.State) error {
	if state == batch.StateCanceled {
		if err := d.cancelWaiting(ctx, one.Installation, one.ID); err != nil {
			return err
		}
	}
	return d.Batches.Reclaim(ctx, one.Installation, one.ID)
}

// cancelWaiting ends the jobs of a canceled batch that do not run.
func (d *Driver) cancelWaiting(ctx context.Context, installation, id string) error {
	for _, state := range []batch.ItemState{batch.Queued, batch.Waiting} {
		numbers, err := d.Batches.Numbers(ctx, installation, id, state)
		if err != nil {
			return err
		}
		for _, job := range batch.JobIDs(id, numbers) {
			_, err := d.Queue.CancelWaiting(ctx, installation, job)
			if kind := fault.KindOf(err); err != nil && kind != fault.Conflict && kind != fault.NotFound {
				return err
			}
		}
	}
	return nil
}
