package ledger

import (
	"context"
	"strconv"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

var (
	cancelScript    = load("cancel")
	cancelAllScript = load("cancel_all")
	retryScript     = load("retry")
	wakeScript      = load("wake")
)

// Stopping is a job that runs and is to stop.
type Stopping struct {
	Job        string
	Generation int
}

// Cancel ends a job that does not run, whose slot others get, and asks a running one to stop, unless it is to be left alone. A job that has
// ended is a Conflict.
func (l *Ledger) Cancel(ctx context.Context, installation, id string, leaveRunning bool) (stopping *Stopping, tickets []Ticket, err error) {
	command := cancelScript.run(ctx, l.Redis, []string{keyspace.Installation(installation).Prefix()}, []arg{
		{"now", l.clock()},
		{"id", id},
		{"leave_running", flag(leaveRunning)},
		{"failure", failureText(fault.Canceled, "the job was canceled before it ran")},
		{"cap", l.Cap},
		{"retention", l.Retention.Milliseconds()},
		{"once", max(l.Retention, onceLife).Milliseconds()},
	})
	read, err := answerOf(installation, command, 1)
	if err != nil {
		return nil, nil, unavailable(err, "cancel a job")
	}
	switch verdict := read.texts[0]; {
	case verdict == "unknown":
		return nil, nil, notThere(id)
	case verdict == "left":
		return nil, nil, nil
	case verdict == "asked" && len(read.texts) > 1:
		return &Stopping{id, int(read.number(1))}, nil, nil
	case verdict == "ended":
		return nil, read.tickets, nil
	default:
		return nil, nil, fault.Newf(fault.Conflict, "the job has ended already, as %s", verdict)
	}
}

// eachPage is how many jobs one script of CancelAll or a pipeline looks at: it holds up everybody else.
const eachPage = 100

// CancelAll cancels every job of an installation that has not ended, returns how many there were, and calls stopping for those that run. It
// is for an app that was removed, so that no new job comes meanwhile.
func (l *Ledger) CancelAll(ctx context.Context, installation string, stopping func(Stopping) error) (int, error) {
	total := 0
	err := l.EachJob(ctx, installation, func(ids []string) error {
		arguments := make([]any, len(ids))
		for i, id := range ids {
			arguments[i] = id
		}
		command := cancelAllScript.run(ctx, l.Redis, []string{keyspace.Installation(installation).Prefix()}, []arg{
			{"now", l.clock()},
			{"failure", failureText(fault.Canceled, "the app was removed from the workspace before the job ran")},
			{"retention", l.Retention.Milliseconds()},
		}, arguments...)
		read, err := answerOf(installation, command, 1)
		if err != nil {
			return unavailable(err, "cancel the jobs")
		}
		total += int(read.number(0))
		for pair := read.texts[1:]; len(pair) > 1; pair = pair[2:] {
			generation, _ := strconv.Atoi(pair[1]) // the script read it
			if err := stopping(Stopping{pair[0], generation}); err != nil {
				return err
			}
		}
		return nil
	})
	return total, err
}

// Retry opens another run of a job that has ended without success, for the same requester, as the same actor and with that actor's current
// token.
func (l *Ledger) Retry(ctx context.Context, installation, id string) ([]Ticket, error) {
	began := l.local()
	if err := l.enter(ctx, installation); err != nil {
		return nil, err
	}
	command := retryScript.run(ctx, l.Redis, []string{keyspace.Installation(installation).Prefix()}, []arg{
		{"now", l.clock()}, {"id", id}, {"cap", l.Cap}, {"life", liveLife.Milliseconds()},
	})
	read, err := answerOf(installation, command, 1)
	if err != nil {
		return nil, unavailable(err, "retry a job")
	}
	switch verdict := read.texts[0]; verdict {
	case "opened":
		return read.tickets, l.reenter(ctx, installation, began)
	case "unknown":
		return nil, notThere(id)
	case "forgotten":
		return nil, fault.Newf(fault.NotFound, "what the job was to do is not kept any more; submit it anew")
	case string(job.Succeeded):
		return nil, fault.Newf(fault.Conflict, "the job has succeeded; there is nothing to retry")
	default:
		return nil, fault.Newf(fault.Conflict, "the job is %s; only one that has ended can be retried", verdict)
	}
}

// Wake has the installation's jobs that wait for a token queued, oldest first, and returns how many there are. A job that is about to wait
// just now runs again at once instead. The caller looks at the installation afterwards, or whoever does so next.
func (l *Ledger) Wake(ctx context.Context, installation string) (int, error) {
	waiting, err := wakeScript.run(ctx, l.Redis, []string{keyspace.Installation(installation).Prefix()}, nil).Int()
	if err != nil || waiting == 0 {
		return 0, unavailable(err, "wake waiting jobs")
	}
	return waiting, l.Hurry(ctx, installation, 0)
}

// EachJob gives the ids of all jobs that are known of an installation, some twice: those that have not ended, which need not be in the index,
// and those in the index.
func (l *Ledger) EachJob(ctx context.Context, installation string, do func(ids []string) error) error {
	own := keyspace.Installation(installation)
	keys := []string{own.Asleep(), own.Due()}
	for _, class := range job.Classes() {
		keys = append(keys, own.Held(string(class)), own.Line(string(class)))
	}
	for _, key := range append(keys, own.Jobs()) {
		ids, err := l.Redis.ZRange(ctx, key, 0, -1).Result()
		if err != nil {
			return unavailable(err, "look for the jobs")
		}
		for len(ids) > 0 {
			page := ids[:min(len(ids), eachPage)]
			if err := do(page); err != nil {
				return err
			}
			ids = ids[len(page):]
		}
	}
	return nil
}

func notThere(id string) error {
	return fault.Newf(fault.NotFound, "there is no job %.40q, or its time is over", id)
}
