package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// run is one delivery of a job's task.
type run struct {
	job     job.Job
	payload []byte
	cancel  context.CancelCauseFunc
	opening // written under Server.mu
}

// opening is what a job's record says at the beginning of an attempt.
type opening struct {
	attempt
	begun int       // attempts that began without an end, this one included
	due   time.Time // when it was to begin
	fence string    // which attempt it is, of all; empty for whichever, "none" for a job without one
	wakes string    // how often the installation's waiting jobs had been woken
}

// handle is one delivery of a task.
func (s *Server) handle(ctx context.Context, task *asynq.Task) error {
	if !s.takeSlot(ctx) {
		return &again{outcome{after: time.Second, detail: "the worker has no free slot; another one may take the job up"}}
	}
	defer func() { <-s.slots }()
	j, err := job.Unmarshal(task.Payload(), s.Keyring)
	if err != nil {
		return s.undecodable(ctx, task, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &run{job: j, payload: task.Payload(), cancel: cancel}
	defer s.cancelable(r)() // before it begins: from then on a caller who cancels counts on it

	verdict, opened, err := s.begin(ctx, j)
	s.mu.Lock()
	r.opening = opened
	s.mu.Unlock()
	switch {
	case err != nil:
		return &again{outcome{after: time.Second, detail: fault.Public(err)}}
	case verdict == "over":
		return nil // done by a run whose acknowledgement was lost
	case verdict == "parked":
		return &again{outcome{after: parkedLook, detail: "the installation has as many jobs in work as it may have; this one follows"}}
	case verdict == "canceled":
		return s.endWithout(ctx, r, job.Canceled, errCanceled())
	case opened.begun > maxBegun:
		return s.endWithout(ctx, r, job.Failed, fault.Newf(fault.Internal,
			"the job took its worker down %d times and is given up; report it with its id before you retry it", maxBegun))
	}
	return s.try(ctx, r)
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

// begin opens an attempt in the job's record.
func (s *Server) begin(ctx context.Context, j job.Job) (verdict string, opened opening, err error) {
	now := s.Now()
	keys := []string{
		keyspace.Installation(j.Installation).Job(j.ID), keyspace.Installation(j.Installation).Jobs(), keyspace.Installation(j.Installation).Waiting(), keyspace.Installation(j.Installation).Wakes(),
		keyspace.Installation(j.Installation).Slots(string(j.Class)), keyspace.Installation(j.Installation).Parked(string(j.Class)), keyspace.Installation(j.Installation).Gone(),
	}
	arguments := append([]any{
		j.Generation, now.UnixMilli(), liveLife.Milliseconds(), j.ID, j.CreatedAt.UnixMilli(), string(j.Actor.Kind), s.Cap, j.Digest,
	}, fieldsOf(j, now)...)
	answer, err := texts(beginScript.Run(ctx, s.Redis, keys, arguments...).Result())
	if err != nil {
		return "", opening{}, unavailable(err, "begin a job")
	}
	switch answer[0] {
	case "run":
	case "over":
		return answer[0], opening{}, s.client.run(ctx, j.Installation, j.Class, answer[1:])
	case "parked":
		return answer[0], opening{}, s.Redis.SAdd(ctx, keyspace.Parked, j.Installation).Err()
	default:
		return answer[0], opening{}, nil
	}
	var numbers [5]int64
	for i := range numbers {
		numbers[i], _ = strconv.ParseInt(answer[i+1], 10, 64) // the script wrote them
	}
	return "run", opening{
		attempt: attempt{number: int(numbers[0]), snoozes: int(numbers[2]), opened: time.UnixMilli(numbers[3])},
		begun:   int(numbers[1]), due: time.UnixMilli(numbers[4]), fence: answer[6], wakes: answer[7],
	}, nil
}

// try runs the processor under the attempt's time, the server's end and the caller's cancel, and records what came of it.
func (s *Server) try(ctx context.Context, r *run) error {
	began := s.Now()
	defer context.AfterFunc(s.base, func() { r.cancel(context.Cause(s.base)) })()
	defer time.AfterFunc(s.config.JobTimeout, func() { r.cancel(errTimeout(s.config.JobTimeout)) }).Stop()

	if s.config.Started != nil {
		s.config.Started(ctx, r.job, max(began.Sub(r.due), 0))
	}
	result, err := s.process(ctx, r.job)
	out := outcome{state: job.Succeeded, counted: true}
	if err != nil {
		out = decide(err, r.job, r.attempt, s.Now(), s.policy())
	}
	out, answer := s.finish(ctx, r, out, result)
	s.ended(ctx, r, out, err, s.Now().Sub(began))
	return answer
}

// endWithout ends a job that is not to be attempted.
func (s *Server) endWithout(ctx context.Context, r *run, state job.State, err error) error {
	out, answer := s.finish(ctx, r, outcome{state: state, counted: true, kind: fault.KindOf(err), detail: fault.Public(err)}, job.Result{})
	s.ended(ctx, r, out, err, 0)
	return answer
}

// ended tells the hook. A success that could not be written down is none yet.
func (s *Server) ended(ctx context.Context, r *run, out outcome, err error, duration time.Duration) {
	if s.config.Ended == nil {
		return
	}
	if out.state == job.Succeeded {
		err = nil
	} else if err == nil {
		err = fault.Newf(out.kind, "%s", out.detail)
	}
	s.config.Ended(ctx, r.job, End{State: out.state, Kind: out.kind, Err: err, Attempt: r.number, Duration: duration, Next: out.after})
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

// finish writes an outcome to the record and says to asynq what that means for the task. The record comes first: a task that
// is delivered again finds its job ended. It returns the outcome as it was written.
func (s *Server) finish(ctx context.Context, r *run, out outcome, result job.Result) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	verdict, err := s.write(ctx, r, out, result)
	if err == nil && verdict == "canceled" {
		out = outcome{state: job.Canceled, counted: true, kind: fault.Canceled, detail: fault.Public(errCanceled())}
		verdict, err = s.write(ctx, r, out, job.Result{})
	}
	switch {
	case err != nil:
		// The task comes again and finds out what was done: the worker's work is safe to repeat.
		out = outcome{state: job.Retrying, after: time.Second, kind: fault.KindOf(err), detail: fault.Public(err)}
		return out, &again{out}
	case verdict == "over" && out.state == job.Succeeded:
		return out, nil // the job has ended already; what this attempt did was done before
	case verdict == "over":
		// Another attempt has taken over or has ended the job; this one's task is not asynq's any more, or its end is known.
		return outcome{state: job.Queued, kind: fault.Interrupted, detail: "another attempt of the job has taken over"}, nil
	case verdict == "woken":
		out.state, out.after = job.Queued, 0
		return out, &again{out}
	case out.state == job.Succeeded:
		return out, nil
	case out.state.Ended():
		return out, fmt.Errorf("%s: %w", out.detail, asynq.SkipRetry)
	}
	return out, &again{out}
}

// write runs the end script.
func (s *Server) write(ctx context.Context, r *run, out outcome, result job.Result) (verdict string, err error) {
	j, now := r.job, s.Now()
	life, uncounted, waiting := liveLife, "", ""
	fields := []any{"state", string(out.state)}
	switch {
	case out.state.Ended():
		life = s.retention(j.Class)
		fields = append(fields, "ended", now.UnixMilli())
	default:
		fields = append(fields, "next", now.Add(out.after).UnixMilli())
		if !out.counted {
			uncounted = "1"
		}
	}
	if out.state == job.Waiting {
		waiting = strconv.FormatInt(j.CreatedAt.UnixMilli(), 10)
	}
	if out.state == job.Succeeded {
		text, err := json.Marshal(result)
		if err != nil {
			return "", fault.Wrapf(fault.Internal, err, "the result cannot be encoded")
		}
		fields = append(append(fields, inParts("result", string(text))...), "failure", "")
	} else {
		fields = append(fields, "failure", failureText(out.kind, out.detail))
	}
	keys := []string{
		keyspace.Installation(j.Installation).Job(j.ID), keyspace.Installation(j.Installation).Waiting(), keyspace.Installation(j.Installation).Wakes(), keyspace.Installation(j.Installation).Payload(j.ID),
		keyspace.Installation(j.Installation).Slots(string(j.Class)), keyspace.Installation(j.Installation).Parked(string(j.Class)),
	}
	arguments := append([]any{
		j.Generation, r.fence, life.Milliseconds(), uncounted, j.ID, waiting, r.wakes, r.payload, s.Cap, now.UnixMilli(),
		string(batch.StateOf(out.state, result)),
	}, fields...)
	answer, err := texts(endScript.Run(ctx, s.Redis, keys, arguments...).Result())
	if err != nil {
		return "", unavailable(err, "record the end of a job")
	}
	if err := s.client.run(ctx, j.Installation, j.Class, answer[1:]); err != nil {
		s.Logger.WarnContext(ctx, "jobs that waited for a slot could not be run; the sweep does it", slog.String("error", err.Error()))
	}
	return answer[0], nil
}

// undecodable archives a task that this worker cannot read. It disturbs no other; its job, where the meta can be read, ends
// as failed, and can be retried when what it lacks is there again: a sealing key, a newer worker.
func (s *Server) undecodable(ctx context.Context, task *asynq.Task, err error) error {
	s.Logger.ErrorContext(ctx, "a task cannot be read and is archived", slog.String("error", fault.Private(err)))
	if meta, metaErr := job.ReadMeta(task.Payload()); metaErr == nil && meta.ID != "" && meta.Installation != "" {
		unread := &run{payload: task.Payload(), job: job.Job{
			ID: meta.ID, Installation: meta.Installation, Class: meta.Class, Generation: meta.Generation, CreatedAt: meta.CreatedAt,
		}}
		out := outcome{state: job.Failed, counted: true, kind: fault.KindOf(err), detail: fault.Public(err)}
		if _, answer := s.finish(ctx, unread, out, job.Result{}); !errors.Is(answer, asynq.SkipRetry) && answer != nil {
			return answer // Redis was away
		}
	}
	return fmt.Errorf("%s: %w", fault.Public(err), asynq.SkipRetry)
}
