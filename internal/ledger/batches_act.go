package ledger

import (
	"context"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

var batchActScript = load("batch_act")

// act is what a caller may ask of a batch.
type act string

const (
	actCancel act = "cancel"
	actEnd    act = "end" // cancel, of a removed app
	actPause  act = "pause"
	actResume act = "resume"
	actRetry  act = "retry"
)

// acted is the verdict of batch_act.
type acted string

const (
	actedNone    acted = "none" // there is no such batch
	actedDone    acted = "done"
	actedRefused acted = "refused" // the batch's state does not allow it
)

// act changes a batch and sees to it that a driver looks at it.
func (b *Batches) act(ctx context.Context, what act, installation, id string) error {
	operation := string(what) + " the batch"
	// A batch that is not there is not made active, or callers could fill that list.
	state, err := b.State(ctx, installation, id)
	switch {
	case err != nil:
		return err
	case state == "", state == batch.StateWriting && what != actEnd:
		return noBatch(id)
	}
	// Active before, should this die in between; and after, should it be found idle meanwhile. Not woken before: what it does then could
	// be what is asked for, and the caller be refused.
	name := member(installation, id)
	if err := b.Redis.ZAdd(ctx, keyspace.ActiveBatches, dueNow(installation, id)).Err(); err != nil {
		return unavailable(err, operation)
	}
	answer, err := b.runOn(ctx, batchActScript, installation, []arg{{"id", id}, {"act", string(what)}}).StringSlice()
	if err != nil {
		return unavailable(err, operation)
	}
	switch verdict := acted(answer[0]); verdict {
	case actedDone:
	case actedNone:
		return noBatch(id)
	case actedRefused:
		return fault.Newf(fault.Conflict, "%s", refusal(what, batch.State(answer[1])))
	default:
		return fault.Newf(fault.Internal, "%s: a script answered %q", operation, verdict)
	}
	after := b.Redis.Pipeline()
	after.ZAdd(ctx, keyspace.ActiveBatches, dueNow(installation, id))
	after.Publish(ctx, keyspace.BatchChannel, name)
	_, err = after.Exec(ctx)
	return unavailable(err, operation)
}

func refusal(what act, state batch.State) string {
	switch {
	case what == actRetry && state == batch.StateCanceled:
		return "the batch was canceled; make a new one of what is left"
	case what == actRetry:
		return "no repository of the batch has failed; there is nothing to retry"
	case what == actResume && (state == batch.StateRunning || state == batch.StateResolving):
		return "the batch is " + string(state) + " already"
	case what == actPause && (state == batch.StatePaused || state == batch.StateStopped):
		return "the batch is " + string(state) + " already"
	}
	return "the batch is " + string(state) + "; there is nothing to " + string(what)
}

// Pause lets nothing more begin. A Conflict where the batch neither runs nor resolves.
func (b *Batches) Pause(ctx context.Context, installation, id string) error {
	return b.act(ctx, actPause, installation, id)
}

// Resume lets a batch proceed that is paused or has stopped; what has failed so far stops it no more. A Conflict where it is neither.
func (b *Batches) Resume(ctx context.Context, installation, id string) error {
	return b.act(ctx, actResume, installation, id)
}

// Retry lets the repositories that failed begin again. What has succeeded is not touched. A Conflict where none has failed, or the batch
// was canceled.
func (b *Batches) Retry(ctx context.Context, installation, id string) error {
	return b.act(ctx, actRetry, installation, id)
}

// Cancel lets nothing more begin, for good. What runs finishes; the drivers end what waits. A Conflict where the batch has ended.
func (b *Batches) Cancel(ctx context.Context, installation, id string) error {
	return b.act(ctx, actCancel, installation, id)
}

// CancelAll cancels every batch of an installation that has not ended. It is for an app that was removed, before its jobs are canceled.
func (b *Batches) CancelAll(ctx context.Context, installation string) error {
	ids, err := b.Redis.ZRange(ctx, keyspace.Installation(installation).Batches(), 0, -1).Result()
	if err != nil {
		return unavailable(err, "cancel the batches")
	}
	for _, id := range ids {
		err := b.act(ctx, actEnd, installation, id)
		if kind := fault.KindOf(err); err != nil && kind != fault.Conflict && kind != fault.NotFound {
			return err
		}
	}
	return nil
}
