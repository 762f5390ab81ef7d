package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// Processor does one attempt of a job. The error's kind decides what becomes of it: see package fault's table.
type Processor interface {
	Process(ctx context.Context, j job.Job) (job.Result, error)
}

// ServerConfig is what a [Server] needs beside the options. Processor is required.
type ServerConfig struct {
	Processor   Processor
	Concurrency int           // jobs at once; default 1
	JobTimeout  time.Duration // of one attempt; default 10 min
	Grace       time.Duration // for what runs when the server stops; default 20 s
	Attempts    int           // that count; default 8
	MaxAge      time.Duration // of a job that is put off without counting; default 24 h
	TokenWait   time.Duration // of a job that waits for a token; default 2 h

	// Started and Ended are called around each attempt, concurrently; ended jobs and kinds are those after the attempt. They
	// may be nil. ctx is the attempt's.
	Started func(ctx context.Context, j job.Job, waited time.Duration)
	Ended   func(ctx context.Context, j job.Job, end End)
}

// End is how an attempt ended.
type End struct {
	State    job.State
	Kind     fault.Kind // meaningless where State is succeeded
	Err      error      // nil where State is succeeded
	Attempt  int
	Duration time.Duration
	Next     time.Duration // until the next attempt, where there is one
}

// Server takes jobs from the queue and does them.
type Server struct {
	Options
	config ServerConfig
	asynq  *asynq.Server
	client *Client
	slots  chan struct{} // asynq frees its own before a canceled handler has returned

	base    context.Context //nolint:containedctx // of every attempt; ends when the grace time is over
	halt    context.CancelCauseFunc
	stopped context.CancelFunc
	helpers sync.WaitGroup // sweeper and listener

	mu      sync.Mutex
	cancels map[string]context.CancelCauseFunc // by installation and id
}

// maxBegun is how often a job may take its worker down with it before it is given up.
const maxBegun = 5

// NewServer makes a server; [Server.Start] starts it.
func NewServer(options Options, config ServerConfig) *Server {
	options.setDefaults()
	defaultInt(&config.Concurrency, 1)
	defaultInt(&config.Attempts, 8)
	defaultInt(&config.JobTimeout, 10*time.Minute)
	defaultInt(&config.Grace, 20*time.Second)
	defaultInt(&config.MaxAge, 24*time.Hour)
	defaultInt(&config.TokenWait, 2*time.Hour)
	s := &Server{
		Options: options, config: config, client: NewClient(options), slots: make(chan struct{}, config.Concurrency),
		cancels: map[string]context.CancelCauseFunc{},
	}
	s.base, s.halt = context.WithCancelCause(context.Background())
	s.asynq = asynq.NewServerFromRedisClient(options.Redis, asynq.Config{
		Concurrency: config.Concurrency, Queues: classes(),
		TaskCheckInterval:        20 * time.Millisecond, // with the default an idle queue answers after 0.8 s
		DelayedTaskCheckInterval: time.Second,
		ShutdownTimeout:          config.Grace + 5*time.Second,
		RetryDelayFunc:           retryDelay,
		IsFailure:                isFailure,
		Logger:                   asynqLogger{options.Logger}, LogLevel: asynq.WarnLevel,
	})
	return s
}

func defaultInt[T ~int | ~int64](value *T, other T) {
	if *value <= 0 {
		*value = other
	}
}

// again is the error that puts a task off.
type again struct {
	outcome
}

func (a *again) Error() string { return a.detail }

func retryDelay(_ int, err error, _ *asynq.Task) time.Duration {
	var put *again
	if errors.As(err, &put) {
		return put.after
	}
	return time.Second // a worker died; its lease has run out already
}

func isFailure(err error) bool {
	var put *again
	return !errors.As(err, &put) || put.counted
}

// Start begins to take jobs. It returns at once.
func (s *Server) Start() error {
	if err := s.asynq.Start(asynq.HandlerFunc(s.handle)); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stopped = stop
	s.helpers.Go(func() { s.listen(ctx) })
	s.helpers.Go(func() { s.sweep(ctx) })
	return nil
}

// Stop takes no more jobs, lets what runs finish within the grace time, and gives the rest back to the queue, uncounted.
func (s *Server) Stop() {
	overdue := time.AfterFunc(s.config.Grace, func() { s.halt(errStopping()) })
	s.asynq.Shutdown() // waits a little longer than the grace time, for what is given back then
	overdue.Stop()
	s.stopped()
	s.helpers.Wait()
	s.halt(nil)
}

// handle is one delivery of a task.
func (s *Server) handle(ctx context.Context, task *asynq.Task) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	j, err := job.Unmarshal(task.Payload(), s.Keyring)
	if err != nil {
		return s.undecodable(ctx, task, err)
	}
	verdict, at, err := s.begin(ctx, j)
	switch {
	case err != nil:
		return &again{outcome{after: time.Second, detail: fault.Public(err)}}
	case verdict == "over":
		return nil // done by a run whose acknowledgement was lost
	case verdict == "canceled":
		return s.finish(ctx, j, outcome{state: job.Canceled, kind: fault.Canceled, detail: fault.Public(errCanceled())}, job.Result{})
	case at.begun > maxBegun:
		detail := fmt.Sprintf("the job took its worker down %d times and is given up", maxBegun)
		return s.finish(ctx, j, outcome{state: job.Failed, kind: fault.Internal, detail: detail}, job.Result{})
	}
	return s.attempt(ctx, j, at)
}

type begun struct {
	attempt
	begun int // attempts that began without an end, this one included
}

func (s *Server) begin(ctx context.Context, j job.Job) (string, begun, error) {
	now := s.Now()
	arguments := append([]any{j.Generation, now.UnixMilli(), liveLife.Milliseconds(), j.ID, j.CreatedAt.UnixMilli()}, fieldsOf(j, now)...)
	answer, err := texts(beginScript.Run(ctx, s.Redis, keysOf(j.Installation, j.ID), arguments...).Result())
	if err != nil {
		return "", begun{}, unavailable(err, "begin a job")
	}
	number, _ := strconv.Atoi(answer[1]) // the script wrote them
	begins, _ := strconv.Atoi(answer[2])
	snoozes, _ := strconv.Atoi(answer[3])
	opened, _ := strconv.ParseInt(answer[4], 10, 64)
	return answer[0], begun{attempt{number, snoozes, time.UnixMilli(opened)}, begins}, nil
}

// attempt runs the processor under the attempt's time, the server's end and the caller's cancel, and records what came of it.
func (s *Server) attempt(ctx context.Context, j job.Job, at begun) error {
	began := s.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.base, func() { cancel(context.Cause(s.base)) })()
	defer time.AfterFunc(s.config.JobTimeout, func() { cancel(errTimeout(s.config.JobTimeout)) }).Stop()
	defer s.cancelable(j, cancel)()

	if s.config.Started != nil {
		s.config.Started(ctx, j, began.Sub(at.opened))
	}
	result, err := s.process(ctx, j)
	out := outcome{state: job.Succeeded, counted: true}
	if err != nil {
		out = decide(err, j, at.attempt, s.Now(), policy{s.config.Attempts, s.config.MaxAge, s.config.TokenWait})
	}
	answer := s.finish(ctx, j, out, result)
	if s.config.Ended != nil {
		s.config.Ended(ctx, j, End{State: out.state, Kind: out.kind, Err: err, Attempt: at.number, Duration: s.Now().Sub(began), Next: out.after})
	}
	return answer
}

// process turns a panic into an error: one job's defect must not end its neighbours.
func (s *Server) process(ctx context.Context, j job.Job) (result job.Result, err error) {
	defer func() {
		if recovered := recover(); recovered != nil {
			err = fault.Wrapf(fault.Internal, fmt.Errorf("panic: %v", recovered), "the job met a defect of ours; the log has it")
		}
	}()
	result, err = s.config.Processor.Process(ctx, j)
	var classified *fault.Error
	if cause := context.Cause(ctx); err != nil && errors.As(cause, &classified) {
		switch classified.Kind {
		case fault.Canceled, fault.Interrupted:
			err = cause // whatever the end of the context looked like from inside
		}
	}
	return result, err
}

// finish writes an outcome to the record and says to asynq what that means for the task. The record comes first: a task that
// is delivered again finds its job ended.
func (s *Server) finish(ctx context.Context, j job.Job, out outcome, result job.Result) error {
	now := s.Now()
	ended, life, uncounted, waiting := out.state.Ended(), liveLife, "", ""
	fields := []any{"state", string(out.state)}
	if ended {
		life = s.Retention
		fields = append(fields, "ended", now.UnixMilli())
	} else {
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
			return &again{outcome{after: time.Second, counted: true, detail: "the result cannot be encoded"}}
		}
		fields = append(fields, "result", string(text), "failure", "")
	} else {
		fields = append(fields, "failure", failureText(out.kind, out.detail))
	}
	arguments := append([]any{j.Generation, life.Milliseconds(), uncounted, j.ID, waiting}, fields...)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := endScript.Run(ctx, s.Redis, keysOf(j.Installation, j.ID), arguments...).Err(); err != nil {
		// The task comes again and finds out what was done: the worker's work is safe to repeat.
		return &again{outcome{after: time.Second, detail: fault.Public(unavailable(err, "record the end of a job"))}}
	}
	switch {
	case out.state == job.Succeeded:
		return nil
	case ended:
		return fmt.Errorf("%s: %w", out.detail, asynq.SkipRetry)
	}
	return &again{out}
}

// undecodable archives a task that this worker cannot read. It disturbs no other; its job, where the meta can be read, ends
// as failed.
func (s *Server) undecodable(ctx context.Context, task *asynq.Task, err error) error {
	s.Logger.ErrorContext(ctx, "a task cannot be read and is archived", slog.String("error", fault.Private(err)))
	if meta, metaErr := job.ReadMeta(task.Payload()); metaErr == nil && meta.ID != "" && meta.Installation != "" {
		unread := job.Job{ID: meta.ID, Installation: meta.Installation, Generation: meta.Generation, CreatedAt: meta.CreatedAt}
		_ = s.finish(ctx, unread, outcome{state: job.Failed, kind: fault.KindOf(err), detail: fault.Public(err)}, job.Result{}) // archived either way
	}
	return fmt.Errorf("%s: %w", fault.Public(err), asynq.SkipRetry)
}

// cancelable lets the listener end an attempt; the function it returns ends that.
func (s *Server) cancelable(j job.Job, cancel context.CancelCauseFunc) func() {
	key := j.Installation + " " + j.ID
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancels[key] = cancel
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.cancels, key)
	}
}

// listen ends attempts whose cancel was asked for, until ctx ends. go-redis subscribes again after a lost connection.
func (s *Server) listen(ctx context.Context) {
	subscription := s.Redis.Subscribe(ctx, cancelChannel)
	defer subscription.Close()
	messages := subscription.Channel()
	for {
		select {
		case <-ctx.Done():
			return
		case message, open := <-messages:
			if !open {
				return
			}
			s.mu.Lock()
			cancel := s.cancels[message.Payload]
			s.mu.Unlock()
			if cancel != nil {
				cancel(errCanceled())
			}
		}
	}
}

// asynqLogger says asynq's words with slog.
type asynqLogger struct{ *slog.Logger }

func (l asynqLogger) Debug(args ...any) { l.Logger.Debug(words(args)) }
func (l asynqLogger) Info(args ...any)  { l.Logger.Info(words(args)) }
func (l asynqLogger) Warn(args ...any)  { l.Logger.Warn(words(args)) }
func (l asynqLogger) Error(args ...any) { l.Logger.Error(words(args)) }

// Fatal logs: asynq calls it for what its own retries outlive, and a library must not end the process.
func (l asynqLogger) Fatal(args ...any) { l.Logger.Error(words(args)) }

func words(args []any) string { return "asynq: " + strings.TrimSpace(fmt.Sprint(args...)) }
