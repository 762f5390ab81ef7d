package intake

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// entryVersion is raised when an older receiver could misread a newer one's spool.
const entryVersion = 1

// entry is a delivery as it is spooled: JSON, sealed.
type entry struct {
	Version int               `json:"v"`
	Call    installation.Call `json:"call"`
	Tokens  []keptToken       `json:"tokens,omitempty"`
	Jobs    [][]byte          `json:"jobs,omitempty"` // as [job.Marshal] writes them
	Removed bool              `json:"removed,omitempty"`
	Changed string            `json:"changed,omitempty"`
	Commit  string            `json:"commit,omitempty"`
}

// keptToken is an OAuth token in an entry. It exists in clear within this process alone.
type keptToken struct {
	Actor     forge.Actor `json:"actor"`
	Text      []byte      `json:"text"`
	ExpiresAt time.Time   `json:"expires"`
}

func (t keptToken) oauth() forge.OAuthToken {
	return forge.OAuthToken{Text: secret.New(string(t.Text)), ExpiresAt: t.ExpiresAt}
}

// LogValue keeps a token out of a log that somebody writes by mistake.
func (t keptToken) LogValue() slog.Value { return slog.StringValue("[redacted]") }

func (i *Intake) entryOf(delivery Delivery) entry {
	call := installation.CallOf(delivery.Invocation)
	call.At = i.Now()
	call.Installed, call.Scheduled, call.TooOld = delivery.Installed, delivery.Scheduled, delivery.TooOld
	e := entry{Version: entryVersion, Call: call, Removed: delivery.Removed, Changed: delivery.Changed, Commit: delivery.Commit}
	for _, kind := range []forge.ActorKind{forge.ActorSystem, forge.ActorUser} {
		if token := delivery.Invocation.Token(kind); !token.IsZero() {
			e.Tokens = append(e.Tokens, keptToken{delivery.Invocation.Actor(kind), []byte(token.Text.Reveal()), token.ExpiresAt})
		}
	}
	return e
}

// sealContext binds what is sealed to the spool.
const sealContext = "spool"

// spool writes a delivery down and returns when it is on disk.
func (i *Intake) spool(ctx context.Context, e entry, jobs []job.Job) (Taken, error) {
	taken := Taken{Spooled: true}
	for _, j := range jobs {
		payload, err := job.Marshal(j, i.Keyring)
		if err != nil {
			return Taken{}, err
		}
		e.Jobs = append(e.Jobs, payload)
		taken.Jobs = append(taken.Jobs, Job{Created: true, Status: j.QueuedStatus()})
	}
	plain, err := json.Marshal(e)
	if err != nil {
		return Taken{}, fault.Wrapf(fault.Internal, err, "the delivery cannot be encoded")
	}
	err = i.Spool.Append(ctx, i.Keyring.Seal(plain, sealContext))
	i.full.Store(err != nil && ctx.Err() == nil)
	if err != nil {
		return Taken{}, err
	}
	i.dirty.Store(true)
	if i.Spooled != nil {
		i.Spooled()
	}
	select {
	case i.wake <- struct{}{}:
	default:
	}
	return taken, nil
}

// Run empties the spool whenever Redis is there, and looks after what a Redis that died may have lost, until ctx ends.
func (i *Intake) Run(ctx context.Context) error {
	tick := time.NewTicker(i.Look)
	defer tick.Stop()
	for {
		switch {
		case i.Spool != nil && (i.dirty.Load() || i.away.Load()):
			i.drain(ctx)
		case i.Now().Sub(i.met) >= meetPause:
			i.met = i.Now()
			_ = i.meet(ctx) // the next look is soon, and deliveries find out by themselves
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-i.wake:
			if i.away.Load() { // it was the delivery that noticed: the next look is early enough
				select {
				case <-ctx.Done():
					return nil
				case <-tick.C:
				}
			}
		}
	}
}

// drain takes what is in the spool, as far as Redis goes along.
func (i *Intake) drain(ctx context.Context) {
	look, cancel := context.WithTimeout(ctx, i.Patience)
	err := i.Ping(look)
	cancel()
	if err == nil {
		err = i.meet(ctx)
	}
	if err != nil {
		i.away.Store(true)
		return
	}
	// From here on new deliveries go to Redis again; the spool holds what came before, and they do not disturb each other.
	if i.away.Swap(false) {
		i.Logger.InfoContext(ctx, "redis answers again")
	}
	i.dirty.Store(false)
	n, err := i.Spool.Drain(ctx, i.applyRecord)
	if n > 0 {
		i.Logger.InfoContext(ctx, "deliveries were taken from the spool", slog.Int("count", n))
	}
	if err != nil {
		i.dirty.Store(true)
		if ctx.Err() == nil && !isAway(err) {
			i.Logger.ErrorContext(ctx, "the spool cannot be emptied", slog.String("error", secret.Scrub(fault.Private(err))))
		}
	}
}

// unreadable is what a record is that this receiver cannot read. The spool puts its file aside and goes on; an operator can bring the key
// back, and the file under its old name: what it holds is taken once.
func (i *Intake) unreadable(ctx context.Context, err error) error {
	i.Logger.ErrorContext(ctx, "a record of the spool cannot be read: it was written by a newer receiver, or its sealing key is not in GITSMITH_SEAL_KEYS any more; its file is put aside",
		slog.String("error", secret.Scrub(fault.Private(err))))
	return fault.Wrapf(fault.Invalid, err, "a record of the spool cannot be read")
}

// applyTime is what one delivery may take that nobody waits for.
const applyTime = 10 * time.Second

// applyRecord does what a record says. What may work later is an error, and so is what cannot be read.
func (i *Intake) applyRecord(ctx context.Context, record []byte) error {
	plain, err := i.Keyring.Open(record, sealContext)
	if err != nil {
		return i.unreadable(ctx, err)
	}
	var e entry
	if err := json.Unmarshal(plain, &e); err != nil || e.Version > entryVersion {
		return i.unreadable(ctx, errors.Join(errors.New("it is of another version"), err))
	}
	jobs := make([]job.Job, 0, len(e.Jobs))
	for _, payload := range e.Jobs {
		j, err := job.Unmarshal(payload, i.Keyring)
		if err != nil {
			return i.unreadable(ctx, err)
		}
		jobs = append(jobs, j)
	}
	limited, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	_, err = i.apply(limited, e, jobs)
	if err == nil {
		i.remember(e, jobs, len(record)) // from here on Redis alone holds it
	}
	if err != nil && !isAway(err) && ctx.Err() == nil {
		// Another job has its key, or the app was removed: the caller would have been told, and will see it in the job.
		i.Logger.WarnContext(ctx, "a delivery from the spool was refused", slog.String("installation", e.Call.ID), slog.String("error", secret.Scrub(fault.Private(err))))
		return nil
	}
	return err
}
