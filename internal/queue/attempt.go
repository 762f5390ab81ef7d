package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// run is one delivery of a ticket.
type run struct {
	ticket ledger.Ticket
	job    job.Job // and at: zero until the attempt has begun; written under Server.mu
	at     ledger.Attempt
	cancel context.CancelCauseFunc
}

// unknownLooks is how often a ticket's record is looked for that is not there yet, which comes with the next command of whoever issued it.
const (
	unknownLooks = 2
	unknownPause = 50 * time.Millisecond
)

// handle is one delivery of a ticket.
func (s *Server) handle(ctx context.Context, task *asynq.Task) error {
	t, err := readTicket(task.Payload())
	if err != nil {
		s.Logger.ErrorContext(ctx, "a task that is no ticket is archived", slog.String("error", fault.Private(err)))
		return fmt.Errorf("%s: %w", fault.Public(err), asynq.SkipRetry)
	}
	if !s.takeSlot(ctx) {
		return &again{after: time.Second, detail: "the worker has no free slot; another one may take the job up"}
	}
	defer func() { <-s.slots }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{ticket: t, job: outline(t), cancel: cancel}
	defer s.cancelable(r)() // before it begins: from then on a caller who cancels counts on it

	begun, err := s.begin(ctx, t)
	if err != nil {
		return &again{after: time.Second, detail: fault.Public(err)}
	}
	s.client.issueLater(ctx, begun.Tickets)
	switch begun.Verdict {
	case ledger.Run:
		return s.open(ctx, r, begun)
	case ledger.Early:
		return &again{after: begun.Wait, detail: "the time of the next attempt has not come"}
	case ledger.Canceled:
		s.ended(ctx, r, ledger.Outcome{State: job.Canceled, Kind: fault.Canceled}, errCanceled(), 0)
	}
	return nil // the ticket is of no use any more
}

// begin asks the record.
func (s *Server) begin(ctx context.Context, t ledger.Ticket) (ledger.Begun, error) {
	attempt := strconv.FormatUint(rand.Uint64(), 36)
	for looks := 0; ; looks++ {
		begun, err := s.client.Begin(ctx, t, attempt)
		if err != nil || begun.Verdict != ledger.Unknown || looks == unknownLooks {
			return begun, err
		}
		pause := time.NewTimer(unknownPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return begun, nil
		case <-pause.C:
		}
	}
}

// open reads the job of an attempt that has begun, and tries it.
func (s *Server) open(ctx context.Context, r *run, begun ledger.Begun) error {
	j, err := unmarshal(begun.Payload, s.Keyring)
	if err != nil {
		j = r.job
	}
	j.Generation, j.Attempt = r.ticket.Generation, begun.Attempt.Run
	s.mu.Lock()
	r.job, r.at = j, begun.Attempt
	s.mu.Unlock()
	switch {
	case err != nil:
		s.Logger.ErrorContext(ctx, "a job cannot be read", slog.String("job", j.ID), slog.String("error", fault.Private(err)))
		return s.endWithout(ctx, r, job.Failed, err)
	case begun.Attempt.Begun > maxBegun:
		return s.endWithout(ctx, r, job.Failed, fault.Newf(fault.Internal,
			"the job took its worker down %d times and is given up; report it with its id before you retry it", maxBegun))
	}
	return s.try(ctx, r)
}

// outline is what a ticket says of its job: enough to end it.
func outline(t ledger.Ticket) job.Job {
	return job.Job{ID: t.Job, Installation: t.Installation, Class: t.Class, Generation: t.Generation, CreatedAt: t.CreatedAt, Batch: job.BatchRef{ID: t.Batch}}
}

func unmarshal(payload []byte, ring *secret.Keyring) (job.Job, error) {
	if len(payload) == 0 {
		return job.Job{}, fault.Newf(fault.Unavailable, "redis lost what this job was to do, so it cannot run; ask for it again")
	}
	return job.Unmarshal(payload, ring)
}

// slotWait is how long a task waits for a slot that a canceled attempt still holds, before it is given back for another worker.
const slotWait = time.Second

func (s *Server) takeSlot(ctx context.Context) bool {
	wait := time.NewTimer(slotWait)
	defer wait.Stop()
	select {
	case s.slots <- struct{}{}:
		return true
	case <-wait.C:
	case <-ctx.Done():
	}
	return false
}

// try runs the processor under the attempt's time, the server's end and the caller's cancel, and records what came of it.
func (s *Server) try(ctx context.Context, r *run) error {
	began := s.now()
	defer context.AfterFunc(s.base, func() { r.cancel(context.Cause(s.base)) })()
	defer time.AfterFunc(s.config.JobTimeout, func() { r.cancel(errTimeout(s.config.JobTimeout)) }).Stop()

	if s.config.Started != nil {
		s.config.Started(ctx, r.job, max(began.Sub(r.at.DueAt), 0))
	}
	result, err := s.process(ctx, r.job)
	out := ledger.Outcome{State: job.Succeeded, Counted: true}
	if err != nil {
		out = decide(err, r.job, r.at, s.now(), s.policy())
	}
	out, answer := s.finish(ctx, r, out, result)
	s.ended(ctx, r, out, err, s.now().Sub(began))
	return answer
}

// endWithout ends a job that is not to be attempted.
func (s *Server) endWithout(ctx context.Context, r *run, state job.State, err error) error {
	out, answer := s.finish(ctx, r, ledger.Outcome{State: state, Counted: true, Kind: fault.KindOf(err), Detail: fault.Public(err)}, job.Result{})
	s.ended(ctx, r, out, err, 0)
	return answer
}

// ended tells the hook. A success that could not be written down is none yet.
func (s *Server) ended(ctx context.Context, r *run, out ledger.Outcome, err error, duration time.Duration) {
	if s.config.Ended == nil {
		return
	}
	if out.State == job.Succeeded {
		err = nil
	} else if err == nil {
		err = fault.Newf(out.Kind, "%s", out.Detail)
	}
	s.config.Ended(ctx, r.job, End{State: out.State, Kind: out.Kind, Err: err, Attempt: r.at.Number, Duration: duration, Next: out.After})
}

func (s *Server) policy() policy {
	return policy{attempts: s.config.Attempts, maxAge: s.config.MaxAge, tokenWait: s.config.TokenWait}
}

// process turns a panic into an error: one job's defect must not end its neighbours. Where the context was ended on purpose,
// that purpose is the error, whatever its end looked like from inside.
func (s *Server) process(ctx context.Context, j job.Job) (result job.Result, err error) {
	defer func() {
		if recovered := recover(); recovered != nil {
			cause := fmt.Errorf("panic: %v\n%s", recovered, debug.Stack())
			err = fault.Wrapf(fault.Internal, cause, "the job met a defect of ours; the log has it under this job's id")
		}
	}()
	result, err = s.config.Processor.Process(ctx, j)
	if err == nil {
		return result, nil
	}
	var purpose *fault.Error
	if !errors.As(context.Cause(ctx), &purpose) {
		return result, err
	}
	switch {
	case purpose.Kind == fault.Canceled, purpose.Kind == fault.Interrupted:
		return result, purpose
	case fault.KindOf(err) == fault.Interrupted, errors.Is(err, context.Canceled):
		// The attempt's time ran out. The bound on the next one stays.
		var bounded *job.AttemptError
		if errors.As(err, &bounded) {
			return result, &job.AttemptError{Err: purpose, RetryUntil: bounded.RetryUntil}
		}
		return result, purpose
	}
	return result, err
}

// finish writes an outcome to the record and says to asynq what that means for the ticket. The record comes first: a ticket that
// is delivered again finds its job ended. It returns the outcome as it was written.
func (s *Server) finish(ctx context.Context, r *run, out ledger.Outcome, result job.Result) (ledger.Outcome, error) {
	out.Result = result
	verdict, err := s.write(ctx, r, out)
	if err == nil && verdict == ledger.Canceled {
		out = ledger.Outcome{State: job.Canceled, Counted: true, Kind: fault.Canceled, Detail: fault.Public(errCanceled())}
		verdict, err = s.write(ctx, r, out)
	}
	switch {
	case err != nil:
		// The server stops. The lease runs out, and the next attempt finds out what was done: the worker's work is safe to repeat.
		return ledger.Outcome{State: job.Retrying, After: ledger.LeaseLife, Kind: fault.KindOf(err), Detail: fault.Public(err)}, nil
	case verdict == ledger.Over && out.State == job.Succeeded:
		return out, nil // the job has ended already; what this attempt did was done before
	case verdict == ledger.Over:
		// Another attempt has taken over or has ended the job.
		return ledger.Outcome{State: job.Queued, Kind: fault.Interrupted, Detail: fault.Public(errLost())}, nil
	case verdict == ledger.Again:
		out.State, out.After = job.Queued, 0
		return out, &again{detail: out.Detail}
	case out.State == job.Succeeded, out.State == job.Waiting: // one that waits gets another ticket when its time has come
		return out, nil
	case out.State.Ended():
		return out, fmt.Errorf("%s: %w", out.Detail, asynq.SkipRetry)
	}
	return out, &again{after: out.After, detail: out.Detail, counted: out.Counted}
}

// write ends an attempt in its record. While Redis is away it tries again, as long as the server lives: the lease is kept meanwhile, so that
// nobody does the work anew whose end is known here.
func (s *Server) write(ctx context.Context, r *run, out ledger.Outcome) (ledger.Verdict, error) {
	ctx = context.WithoutCancel(ctx)
	for {
		limited, cancel := context.WithTimeout(ctx, writeTimeout)
		verdict, tickets, err := s.client.End(limited, r.ticket, r.at, out)
		cancel()
		if err == nil {
			s.client.issueLater(ctx, tickets)
			return verdict, nil
		}
		if fault.KindOf(err) != fault.Unavailable {
			return "", err
		}
		pause := time.NewTimer(writePause)
		select {
		case <-s.base.Done():
			pause.Stop()
			return "", err
		case <-pause.C:
		}
	}
}

const (
	writeTimeout = 10 * time.Second
	writePause   = 500 * time.Millisecond
)
