// Package queue keeps jobs in Redis until they are done. The work waits in asynq; beside each task stands a record of ours, which
// says what asynq cannot: whether a job failed, expired or was canceled, how many attempts really ran, and which jobs an
// installation has.
//
// Only this package says task. A task's payload is [job.Marshal]'s: readable meta, sealed content, no token. Text that goes into
// a task or a record is public and bounded.
package queue

import (
	"log/slog"
	"strconv"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Options are what a [Client] and a [Server] share. Redis and Keyring are required.
type Options struct {
	Redis     redis.UniversalClient
	Keyring   *secret.Keyring
	Retention time.Duration // of a record after the job's end; default 7 days. Of an event's job at least 24 hours: so long it is done once
	// Cap is how many jobs of one installation and class may be in asynq's queue or run; the others are parked in Redis and follow
	// one by one, so that no installation's flood stands before another's job. Zero is no bound.
	Cap int
	// Group is how many commands may go to Redis in one pipeline when jobs are queued at the same time; one for none, default 256.
	Group  int
	Now    func() time.Time
	Logger *slog.Logger
}

func (o *Options) setDefaults() {
	if o.Retention <= 0 {
		o.Retention = 7 * 24 * time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

const (
	liveLife       = 30 * 24 * time.Hour // of the record of a job that has not ended
	maxIndexed     = 100_000             // jobs of an installation that can be listed
	taskRetention  = time.Hour           // of a succeeded task in asynq, for the dashboard
	maxTaskRetries = 10_000              // asynq's own bound; the record's attempts are ours
	taskTimeout    = 24 * time.Hour      // asynq's own bound; an attempt's is the server's
	wakesLife      = 24 * time.Hour      // far longer than an attempt, which is all that looks at it
	onceLife       = 24 * time.Hour      // how long the same event makes no second job
	parkedLook     = 12 * time.Hour      // when a parked task comes up by itself, should everybody have forgotten it
)

// retention is how long a job's record is kept after its end.
func (o *Options) retention(class job.Class) time.Duration {
	if class == job.ClassInteractive {
		return o.Retention
	}
	return max(o.Retention, onceLife)
}

// classes are the queues with their share of the work, most urgent first.
func classes() map[string]int {
	return map[string]int{string(job.ClassInteractive): 6, string(job.ClassEvent): 3, string(job.ClassBatch): 1}
}

// taskID is the id of one generation's task: a retry that a caller asks for is a task of its own, so that it can be queued
// before the old one is removed and nothing is lost in between.
func taskID(id string, generation int) string {
	if generation == 0 {
		return id
	}
	return id + "." + strconv.Itoa(generation)
}

// newTask is a job as asynq takes it. A parked one comes up by itself long after.
func newTask(j job.Job, ring *secret.Keyring, options ...asynq.Option) (*asynq.Task, error) {
	payload, err := job.Marshal(j, ring)
	if err != nil {
		return nil, err
	}
	headers := map[string]string{}
	if j.Trace.TraceID != "" {
		headers["X-B3-Traceid"], headers["X-B3-Spanid"] = j.Trace.TraceID, j.Trace.SpanID
	}
	return asynq.NewTaskWithHeaders(string(j.Operation()), payload, headers, append(options,
		asynq.TaskID(taskID(j.ID, j.Generation)), asynq.Queue(string(j.Class)), asynq.MaxRetry(maxTaskRetries),
		asynq.Timeout(taskTimeout), asynq.Retention(taskRetention))...), nil
}

func unavailable(err error, operation string) error {
	return fault.Wrapf(fault.Unavailable, err, "%s: redis cannot be reached now; try again", operation)
}
