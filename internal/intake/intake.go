// Package intake takes what Forge delivers and loses none of it: tokens go into the vault, jobs into the queue, and while Redis is
// away all of it goes, sealed, to a spool on the receiver's own disk, from which it is taken in order when Redis is back.
//
// A delivery that is taken twice has the effect of one: a token never replaces one that expires later, or one of equal expiry that
// arrived later, and a job's id is the same whichever way the job comes.
package intake

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Jobs is the queue.
type Jobs interface {
	Enqueue(ctx context.Context, j job.Job) (status job.Status, created bool, err error)
	Wake(ctx context.Context, installation string) (int, error)
}

// Tokens is the vault. Put takes the time of arrival, because tokens from the spool, or replayed after a failover, come late.
type Tokens interface {
	Put(ctx context.Context, installation string, actor forge.Actor, token forge.OAuthToken, arrived time.Time) (bool, error)
	MarkInstalled(ctx context.Context, installation string) error
	Forget(ctx context.Context, installation string) error
}

// Installations is what is known of them.
type Installations interface {
	Touch(ctx context.Context, call installation.Call) (bool, error)
	Remove(ctx context.Context, id string) (time.Time, error)
	DropName(ctx context.Context, id, repositoryUUID string) error
	IsOurs(ctx context.Context, id, commit string) (bool, error)
}

// Spool is a durable place beside Redis.
type Spool interface {
	Append(ctx context.Context, record []byte) error
	Drain(ctx context.Context, apply func(ctx context.Context, record []byte) error) (int, error)
}

// Config is what an Intake is made of. Spool may be nil: then what comes while Redis is away is refused, so that Forge delivers it
// again.
type Config struct {
	Jobs          Jobs
	Tokens        Tokens
	Installations Installations
	Ping          func(ctx context.Context) error // whether Redis is there
	// Instance names the Redis that answers: another name after a restart or a failover. May be nil, and empty where nobody knows.
	Instance func(ctx context.Context) (string, error)
	// Renewed is called when another Redis answers than before: it may lack what this process believes to be there. May be nil.
	Renewed func(ctx context.Context) error
	Spool   Spool
	Keyring *secret.Keyring
	Logger  *slog.Logger

	Patience time.Duration // for Redis to take a delivery before it goes to the spool; default 1.5 s. Forge waits 5 s
	Look     time.Duration // between looks whether Redis is back; default 200 ms
	Now      func() time.Time
	Spooled  func() // called for each delivery that went to the spool; may be nil
}

// Intake takes deliveries. It may be used concurrently.
type Intake struct {
	Config
	away  atomic.Bool // Redis did not answer, and nobody has seen it since
	dirty atomic.Bool // something may be in the spool
	wake  chan struct{}
	full  atomic.Bool // the spool took no delivery, and none since

	recent   recent
	instance string    // that answered last; [Intake.Run]'s alone, as is met
	met      time.Time // when that was looked at
}

// New makes an Intake. What an earlier process left in the spool is taken once [Intake.Run] runs.
func New(config Config) *Intake {
	if config.Patience <= 0 {
		config.Patience = 1500 * time.Millisecond
	}
	if config.Look <= 0 {
		config.Look = 200 * time.Millisecond
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	taken := &Intake{Config: config, wake: make(chan struct{}, 1)}
	taken.dirty.Store(config.Spool != nil)
	return taken
}

// Delivery is what one verified call asks for.
type Delivery struct {
	Invocation forge.Invocation
	Jobs       []job.Job
	// What the call was beside that.
	Installed, Scheduled, Removed, TooOld bool
	// Commit is what the call tells of, where a job of ours may have pushed it: if one did, Jobs are not made; empty for none.
	Commit string
	// Changed is the UUID of a repository whose name may be another by now; empty for none.
	Changed string
	Size    int // bytes of the request, about
}

// Taken is what became of a delivery.
type Taken struct {
	Jobs    []Job     // one for each of the delivery's, in order
	Spooled bool      // it waits on the receiver's disk for Redis
	Ours    bool      // a job of ours pushed the delivery's commit: no job was made
	Late    bool      // the app was removed minutes ago: nothing is done
	EraseAt time.Time // of a removal: when the rest of the data goes
}

// Job is a job that was taken.
type Job struct {
	Status  job.Status
	Created bool // false where it had been taken before
}

// Take takes a delivery: once it returns without an error, everything in it is done or safe. A delivery that Redis does not take in
// time goes to the spool. The error is an Unavailable fault where neither takes it; the same delivery may come again. A job that
// cannot be taken because another one has its key is a Conflict.
func (i *Intake) Take(ctx context.Context, delivery Delivery) (Taken, error) {
	entry := i.entryOf(delivery)
	if i.Spool == nil {
		return i.direct(ctx, entry, delivery)
	}
	if !i.away.Load() {
		limited, cancel := context.WithTimeout(ctx, i.Patience)
		taken, err := i.direct(limited, entry, delivery)
		cancel()
		if err == nil || !isAway(err) {
			return taken, err
		}
		if ctx.Err() != nil {
			return Taken{}, err // whoever called is gone
		}
		if !i.away.Swap(true) {
			i.Logger.WarnContext(ctx, "redis does not answer; deliveries go to the spool", slog.String("error", secret.Scrub(fault.Private(err))))
		}
	}
	return i.spool(ctx, entry, delivery.Jobs)
}

// direct does a delivery in Redis, and remembers it for a while.
func (i *Intake) direct(ctx context.Context, e entry, delivery Delivery) (Taken, error) {
	taken, err := i.apply(ctx, e, delivery.Jobs)
	if err == nil {
		i.remember(e, delivery.Jobs, delivery.Size)
	}
	return taken, err
}

// isAway reports that it was Redis that failed. The end of a call's own time is that too.
func isAway(err error) bool {
	return fault.KindOf(err) == fault.Unavailable || errors.Is(err, context.DeadlineExceeded)
}

// Keep keeps the tokens that came with a call that asks for nothing else to be kept. Where Redis is away they are not: whoever calls
// is answered that, and the same token comes with the next call.
func (i *Intake) Keep(ctx context.Context, invocation forge.Invocation) error {
	_, err := i.apply(ctx, i.entryOf(Delivery{Invocation: invocation}), nil)
	return err
}

// Refusing reports whether deliveries are refused: Redis is away, and the spool took the last one not.
func (i *Intake) Refusing() bool { return i.full.Load() && i.away.Load() }

// Away reports whether deliveries go to the spool now.
func (i *Intake) Away() bool { return i.away.Load() }

// apply does in Redis what an entry says. It may be done again, whole or from where it broke off.
func (i *Intake) apply(ctx context.Context, e entry, jobs []job.Job) (taken Taken, err error) {
	if e.Removed {
		// First of all, so that nothing that comes at the same time is kept.
		if taken.EraseAt, err = i.Installations.Remove(ctx, e.Call.ID); err != nil {
			return Taken{}, err
		}
		return taken, i.Tokens.Forget(ctx, e.Call.ID)
	}
	here, err := i.note(ctx, e)
	if err != nil || !here {
		return Taken{Late: err == nil}, err
	}
	wake := e.Call.Scheduled
	for _, token := range e.Tokens {
		newer, err := i.Tokens.Put(ctx, e.Call.ID, token.Actor, token.oauth(), e.Call.At)
		if err != nil {
			return Taken{}, err
		}
		wake = wake || newer && token.Actor.Kind == forge.ActorSystem
	}
	taken, err = i.enqueue(ctx, e, jobs)
	if err == nil && wake {
		err = i.rouse(ctx, e)
	}
	return taken, err
}

// note writes down what the call says of its installation; false where the app was removed minutes ago.
func (i *Intake) note(ctx context.Context, e entry) (bool, error) {
	here, err := i.Installations.Touch(ctx, e.Call)
	if err != nil || !here {
		return here, err
	}
	if e.Call.Installed {
		if err := i.Tokens.MarkInstalled(ctx, e.Call.ID); err != nil {
			return true, err
		}
	}
	if e.Changed != "" {
		return true, i.Installations.DropName(ctx, e.Call.ID, e.Changed)
	}
	return true, nil
}

func (i *Intake) enqueue(ctx context.Context, e entry, jobs []job.Job) (taken Taken, err error) {
	if e.Commit != "" && len(jobs) > 0 {
		if taken.Ours, err = i.Installations.IsOurs(ctx, e.Call.ID, e.Commit); err != nil || taken.Ours {
			return taken, err
		}
	}
	for _, j := range jobs {
		status, created, err := i.Jobs.Enqueue(ctx, j)
		if fault.KindOf(err) == fault.Denied { // the app was removed a moment ago
			return Taken{Late: true}, nil
		}
		if err != nil {
			return Taken{}, err
		}
		taken.Jobs = append(taken.Jobs, Job{status, created})
	}
	return taken, nil
}

// rouse lets the jobs run that wait for a token. That it fails is no reason to refuse a call that came for something else: the next
// scheduled trigger wakes them, and their wait has an end of its own.
func (i *Intake) rouse(ctx context.Context, e entry) error {
	_, err := i.Jobs.Wake(ctx, e.Call.ID)
	if err != nil && !e.Call.Scheduled {
		i.Logger.WarnContext(ctx, "waiting jobs could not be woken", slog.String("installation", e.Call.ID), slog.String("error", secret.Scrub(fault.Private(err))))
		return nil
	}
	return err
}
