package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"golang.org/x/sync/errgroup"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/ledger"
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

	// Started is called when an attempt begins, waited after it was due; Ended when it is over and written down. A job that is
	// ended without an attempt (canceled, or given up because it took its workers down) calls Ended alone. Both are called
	// concurrently, with the attempt's context, and may be nil.
	Started func(ctx context.Context, j job.Job, waited time.Duration)
	Ended   func(ctx context.Context, j job.Job, end End)
}

// End is how an attempt ended.
type End struct {
	State    job.State  // after the attempt
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
	life    context.Context //nolint:containedctx // of the listener and of whoever renews leases
	end     context.CancelFunc
	helpers sync.WaitGroup // those two

	mu   sync.Mutex
	runs map[*run]struct{} // under way
}

// maxBegun is how often a job may take its worker down with it before it is given up.
const maxBegun = 5

const (
	// pollInterval is how often an idle worker looks for tickets, give or take a half: three queues, so 70 commands a second. A lone job waits
	// half of it on average; with asynq's default it would be half a second.
	pollInterval  = 42 * time.Millisecond
	renewInterval = ledger.LeaseLife / 5
	renewers      = 8               // leases that are renewed at the same time
	stopMargin    = 5 * time.Second // for attempts to notice that the grace time is over
	startTimeout  = 5 * time.Second // of the repair at the start
)

// NewServer makes a server; [Server.Start] starts it.
func NewServer(options Options, config ServerConfig) *Server {
	options.setDefaults()
	setDefault(&config.Concurrency, 1)
	setDefault(&config.Attempts, 8)
	setDefault(&config.JobTimeout, 10*time.Minute)
	setDefault(&config.Grace, 20*time.Second)
	setDefault(&config.MaxAge, 24*time.Hour)
	setDefault(&config.TokenWait, 2*time.Hour)
	s := &Server{
		Options: options, config: config, client: NewClient(options), slots: make(chan struct{}, config.Concurrency),
		runs: map[*run]struct{}{},
	}
	s.base, s.halt = context.WithCancelCause(context.Background())
	s.life, s.end = context.WithCancel(context.Background())
	s.asynq = asynq.NewServerFromRedisClient(options.Redis, asynq.Config{
		Concurrency: config.Concurrency, Queues: queues(),
		TaskCheckInterval:        pollInterval,
		DelayedTaskCheckInterval: time.Second,
		ShutdownTimeout:          config.Grace + stopMargin,
		RetryDelayFunc:           retryDelay,
		IsFailure:                isFailure,
		Logger:                   asynqLogger{options.Logger}, LogLevel: asynq.WarnLevel,
	})
	return s
}

func setDefault[T ~int | ~int64](value *T, other T) {
	if *value <= 0 {
		*value = other
	}
}

// again is the error that has a ticket delivered once more.
type again struct {
	after   time.Duration
	detail  string // public
	counted bool
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

// Start begins to take jobs. It returns at once, or after the first repair where Redis is slow. A server starts once.
func (s *Server) Start() error {
	// Before asynq's own recovery, which runs at its start and then once a minute: what is damaged would keep it from working.
	first, done := context.WithTimeout(s.life, startTimeout)
	if err := s.client.Repair(first); err != nil {
		s.Logger.WarnContext(first, "the queues could not be repaired; it is tried again within seconds", slog.String("error", err.Error()))
	}
	done()
	if err := s.asynq.Start(asynq.HandlerFunc(s.handle)); err != nil {
		return fmt.Errorf("queue: %w", err)
	}
	s.helpers.Go(func() { s.listen(s.life) })
	s.helpers.Go(func() { s.renew(s.life) })
	return nil
}

// Stop takes no more jobs, lets what runs finish within the grace time, and gives the rest back to the queue, uncounted. An
// attempt that does not heed the end of its context is given back all the same, and what it does afterwards changes its
// record only if it succeeds.
func (s *Server) Stop() {
	overdue := time.AfterFunc(s.config.Grace, func() { s.halt(errStopping()) })
	s.asynq.Shutdown() // waits a little longer than the grace time, for what is given back then
	overdue.Stop()
	s.halt(errStopping())
	for _, left := range s.underWay() {
		if left.at.Fence != "" {
			_, _ = s.finish(s.life, &left, decide(errStopping(), left.job, left.at, s.now(), s.policy()), job.Result{}) // asynq has the ticket
		}
	}
	s.end()
	s.helpers.Wait()
}

// underWay are the attempts that run now.
func (s *Server) underWay() []run {
	s.mu.Lock()
	defer s.mu.Unlock()
	var runs []run
	for r := range s.runs {
		runs = append(runs, *r)
	}
	return runs
}

// cancelable lets the listener end an attempt; the function it returns ends that.
func (s *Server) cancelable(r *run) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runs[r] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.runs, r)
	}
}

// listen ends attempts whose cancel was asked for, until ctx ends. go-redis subscribes again after a lost connection; what was
// said meanwhile is found in the records.
func (s *Server) listen(ctx context.Context) {
	subscription := s.Redis.Subscribe(ctx, keyspace.CancelChannel)
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
			for _, r := range s.underWay() {
				if message.Payload == cancelMessage(r.ticket.Installation, r.ticket.Job, r.ticket.Generation) {
					r.cancel(errCanceled())
				}
			}
		}
	}
}

// renew keeps the leases of what runs, until ctx ends, and ends attempts that were canceled or given up.
func (s *Server) renew(ctx context.Context) {
	tick := time.NewTicker(renewInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.renewAll(ctx)
		}
	}
}

func (s *Server) renewAll(ctx context.Context) {
	var group errgroup.Group
	group.SetLimit(renewers)
	for _, r := range s.underWay() {
		if r.at.Fence != "" {
			group.Go(func() error { return s.renewOne(ctx, r) })
		}
	}
	if err := group.Wait(); err != nil && ctx.Err() == nil { // a lease that runs out while Redis is away is not judged at once
		s.Logger.WarnContext(ctx, "the leases of jobs could not be renewed; it is tried again", slog.String("error", err.Error()))
	}
}

func (s *Server) renewOne(ctx context.Context, r run) error {
	verdict, err := s.client.Ledger.Renew(ctx, r.ticket.Installation, r.ticket.Job, r.at.Fence)
	switch {
	case err != nil:
		return err
	case verdict == ledger.Stop:
		r.cancel(errCanceled())
	case verdict == ledger.Lost:
		r.cancel(errLost())
	}
	return nil
}

// asynqLogger says asynq's words with slog.
type asynqLogger struct{ *slog.Logger }

func (l asynqLogger) Debug(args ...any) { l.say(slog.LevelDebug, args) }
func (l asynqLogger) Info(args ...any)  { l.say(slog.LevelInfo, args) }
func (l asynqLogger) Warn(args ...any)  { l.say(slog.LevelWarn, args) }
func (l asynqLogger) Error(args ...any) { l.say(slog.LevelError, args) }

// Fatal logs: asynq calls it for what its own retries outlive, and a library must not end the process.
func (l asynqLogger) Fatal(args ...any) { l.say(slog.LevelError, args) }

func (l asynqLogger) say(level slog.Level, args []any) {
	l.LogAttrs(context.Background(), level, "asynq", slog.String("message", strings.TrimSpace(fmt.Sprint(args...))))
}
