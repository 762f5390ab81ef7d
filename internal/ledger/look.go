package ledger

import (
	"context"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

var lookScript = load("look")

// judgePause is how soon a lease that has run out is looked at again while none is judged.
const judgePause = time.Second

// mostPause is the longest time between two tickets of a job that nobody begins.
const mostPause = 5 * time.Minute

// Backlog is how old the oldest ticket of each class is that no worker has taken yet; zero where there is none. A class that is not in it is
// paused, or unknown: none of its tickets is taken for lost.
type Backlog map[job.Class]time.Duration

// Found is what Look found.
type Found struct {
	Tickets []Ticket
	More    bool          // there is more to find at once
	Idle    bool          // the installation has no job that has not ended
	Next    time.Duration // until something is due; negative for nothing
	Lapsed  int           // attempts whose worker fell silent
}

// Again is after how long an installation that has jobs is to be looked at again.
func (f Found) Again() time.Duration {
	switch {
	case f.More:
		return 0
	case f.Next >= 0:
		return min(LookPause, f.Next)
	}
	return LookPause
}

// Look finds what of an installation may run and does not: attempts whose lease has run out, retries whose time has come, jobs that were
// woken or have waited long enough, jobs in line for which there is a slot, and jobs whose ticket was lost. It issues their tickets.
// Leases are judged only if judge is set: after Redis was away, workers must be heard first.
func (l *Ledger) Look(ctx context.Context, installation string, backlog Backlog, judge bool) (Found, error) {
	args := []arg{
		{"now", l.clock()},
		{"cap", l.Cap},
		{"judge", flag(judge)},
		{"pause", judgePause.Milliseconds()},
		{"most", mostPause.Milliseconds()},
		{"retention", l.Retention.Milliseconds()},
		{"once", max(l.Retention, onceLife).Milliseconds()},
		{"canceled", failureText(fault.Canceled, "the job was canceled while it ran; what it had pushed by then stays")},
	}
	for _, class := range []job.Class{job.ClassInteractive, job.ClassEvent, job.ClassBatch} {
		oldest := any("")
		if age, known := backlog[class]; known {
			oldest = age.Milliseconds()
		}
		args = append(args, arg{"oldest_" + string(class), oldest})
	}
	read, err := answerOf(installation, lookScript.run(ctx, l.Scripts, []string{keyspace.Installation(installation).Prefix()}, args), 4)
	if err != nil {
		return Found{}, unavailable(err, "look for jobs")
	}
	return Found{
		Tickets: read.tickets, More: read.texts[0] != "", Idle: read.texts[1] != "", Next: time.Duration(read.number(2)) * time.Millisecond,
		Lapsed: int(read.number(3)),
	}, nil
}
