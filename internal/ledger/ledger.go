// Package ledger is the state of jobs and batches: the record is the job. Only its scripts change it: they are the files of lua, one for
// each verb, and each is one step that happens whole or not at all. Everything that a script touches belongs to one installation, so that
// a Redis Cluster runs them too.
//
// A job that may run holds a slot of its installation, and a [Ticket] names it to the workers. A ticket decides nothing: Begin asks the record.
// So one that is stale, doubled or forged does nothing, and one that is lost is issued again by Look, which finds every job that ought to go
// on and does not: jobs whose worker fell silent, whose ticket was lost, or whose time has come.
//
// Every job that has not ended is in exactly one of an installation's sets: held, if it has a slot; line, if its turn comes later; due and
// maybe asleep, if it was put off. One that runs is in due too, by when its lease runs out. An installation of which any of these holds a
// job is in its shard of the live ones: it enters before the job is written, and Look lets it go only where all of them are empty.
package ledger

import (
	"errors"
	"log/slog"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Options are what a [Ledger] needs. Redis and Keyring are required.
type Options struct {
	Redis redis.UniversalClient
	// Scripts runs Create, which receivers call at the same time, and Look, which dispatchers do; default Redis.
	Scripts   redis.Scripter
	Keyring   *secret.Keyring
	Retention time.Duration // of a record after the job's end; default 7 days. Of an event's job at least 24 hours: so long it is done once
	// Cap is how many jobs of one installation and class may have a slot; the others follow one by one, so that no installation's flood
	// stands before another's job. Zero is no bound.
	Cap    int
	Now    func() time.Time // default: the time of Redis, which is one for all
	Logger *slog.Logger
}

// Ledger keeps jobs. It may be used concurrently and by any number of processes on the same Redis.
type Ledger struct {
	Options
	entered entered
}

// New makes a Ledger.
func New(options Options) *Ledger {
	if options.Scripts == nil {
		options.Scripts = options.Redis
	}
	if options.Retention <= 0 {
		options.Retention = 7 * 24 * time.Hour
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	return &Ledger{Options: options}
}

const (
	liveLife   = 30 * 24 * time.Hour // of the record of a job that has not ended
	maxIndexed = 100_000             // jobs of an installation that can be listed
	onceLife   = 24 * time.Hour      // how long the same event makes no second job
)

// retention is how long a job's record is kept after its end.
func (l *Ledger) retention(class job.Class) time.Duration {
	if class == job.ClassInteractive {
		return l.Retention
	}
	return max(l.Retention, onceLife)
}

// clock is a script's now: empty for the time of Redis.
func (l *Ledger) clock() string {
	return clock(l.Now)
}

// local is about now, for what is compared with times that this process has taken itself.
func (l *Ledger) local() time.Time { return local(l.Now) }

func clock(now func() time.Time) string {
	if now == nil {
		return ""
	}
	return strconv.FormatInt(now().UnixMilli(), 10)
}

func local(now func() time.Time) time.Time {
	if now == nil {
		return time.Now()
	}
	return now()
}

// flag is how a script reads yes and no.
func flag(set bool) string {
	if set {
		return "1"
	}
	return ""
}

var errForm = errors.New("a script answered in a form that it does not have")

// answer is what a script returned: texts and numbers, and behind them tickets.
type answer struct {
	texts   []string
	tickets []Ticket
}

// answerOf reads an answer that has at least so many texts, the first of which is the verdict.
func answerOf(installation string, command *redis.Cmd, least int) (answer, error) {
	value, err := command.Result()
	if err != nil {
		return answer{}, err
	}
	values, ok := value.([]any)
	if !ok {
		return answer{}, errForm
	}
	var read answer
	for _, value := range values {
		switch value := value.(type) {
		case string:
			read.texts = append(read.texts, value)
		case int64:
			read.texts = append(read.texts, strconv.FormatInt(value, 10))
		case []any:
			ticket, err := ticketOf(installation, value)
			if err != nil {
				return answer{}, err
			}
			read.tickets = append(read.tickets, ticket)
		default:
			read.texts = append(read.texts, "")
		}
	}
	if len(read.texts) < max(least, 1) {
		return answer{}, errForm
	}
	return read, nil
}

// number is a text that a script wrote as a number.
func (a answer) number(at int) int64 {
	number, _ := strconv.ParseFloat(a.texts[at], 64) // a Lua number may come with an exponent
	return int64(number)
}

func unavailable(err error, operation string) error {
	if err == nil {
		return nil
	}
	return fault.Wrapf(fault.Unavailable, err, "%s: redis cannot be reached now; try again", operation)
}
