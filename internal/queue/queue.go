// Package queue hands jobs to workers by way of asynq. Package ledger decides which job may run; this one carries its tickets: it issues
// them, serves them, and repairs asynq's own keys. asynq may lose, double, delay or reorder a ticket, and no job is lost or done twice.
//
// Only this package says task: that is a ticket in asynq. Text that goes into one is public and bounded.
package queue

import (
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Options are what a [Client] and a [Server] share. Redis and Keyring are required.
type Options struct {
	Redis     redis.UniversalClient
	Keyring   *secret.Keyring
	Retention time.Duration // of a record after the job's end; default 7 days. Of an event's job at least 24 hours: so long it is done once
	// Cap is how many jobs of one installation and class may be in asynq's queue or run; the others stand in line and follow one by one, so
	// that no installation's flood stands before another's job. Zero is no bound.
	Cap int
	// Group is how many commands may go to Redis in one pipeline when jobs are queued at the same time; one for none, default 256.
	Group  int
	Now    func() time.Time // default: the time of Redis for what is written there, this machine's for what is measured here
	Logger *slog.Logger
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// now is this machine's time.
func (o *Options) now() time.Time {
	if o.Now == nil {
		return time.Now()
	}
	return o.Now()
}

const (
	taskRetention  = time.Hour      // of a ticket that was served, for the dashboard
	maxTaskRetries = 10_000         // asynq's own bound; the record's attempts are ours
	taskTimeout    = 24 * time.Hour // asynq's own bound; an attempt's is the server's
)

// queues are asynq's queues with their share of the work, most urgent first.
func queues() map[string]int {
	return map[string]int{queueOf(job.ClassInteractive): 6, queueOf(job.ClassEvent): 3, queueOf(job.ClassBatch): 1}
}

func queueOf(class job.Class) string { return keyspace.Queue(string(class)) }

func unavailable(err error, operation string) error {
	if err == nil {
		return nil
	}
	return fault.Wrapf(fault.Unavailable, err, "%s: redis cannot be reached now; try again", operation)
}
