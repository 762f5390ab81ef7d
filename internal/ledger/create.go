package ledger

import (
	"context"
	"strconv"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

var createScript = load("create")

// trimEvery is how rarely the index of an installation's jobs is cut back when a job is added.
const trimEvery = 16

// Created is what became of a job that was to be created.
type Created struct {
	New     bool     // else it was there
	Tickets []Ticket // its own, where it got a slot or may have one
	State   job.State
	Digest  string // of the one that was there
}

// Create writes a job down, once. It gets a slot if its installation has one, or a place in line. Of jobs with the same coalesce key that
// have not begun, only the one of the newest event is left; that may be another. A Denied fault says that the app was removed. After an
// Unavailable fault nobody knows; the same call again finds out.
func (l *Ledger) Create(ctx context.Context, j job.Job) (Created, error) {
	payload, err := job.Marshal(j, l.Keyring)
	if err != nil {
		return Created{}, err
	}
	began := l.local()
	if err := l.enter(ctx, j.Installation); err != nil {
		return Created{}, err
	}
	happened, replaced := "", ""
	if j.Coalesce != "" {
		happened = strconv.FormatInt(j.HappenedAt.UnixMilli(), 10)
		replaced = failureText(fault.Canceled, "a newer event asked for the same before the job began")
	}
	item := ""
	if j.Batch.ID != "" {
		item = strconv.Itoa(j.Batch.Item)
	}
	command := createScript.run(ctx, l.Scripts, []string{keyspace.Installation(j.Installation).Prefix()}, []arg{
		{"now", l.clock()},
		{"id", j.ID},
		{"digest", j.Digest},
		{"class", string(j.Class)},
		{"created", j.CreatedAt.UnixMilli()},
		{"payload", payload},
		{"batch", j.Batch.ID},
		{"item", item},
		{"cap", l.Cap},
		{"life", liveLife.Milliseconds()},
		{"retention", l.retention(j.Class).Milliseconds()},
		{"coalesce", j.Coalesce},
		{"happened", happened},
		{"replaced", replaced},
		{"trim", l.trim()},
		{"keep", maxIndexed},
	}, fieldsOf(j.MetaOf())...)
	read, err := answerOf(j.Installation, command, 1)
	if err != nil {
		return Created{}, unavailable(err, "queue a job")
	}
	if err := l.reenter(ctx, j.Installation, began); err != nil {
		return Created{}, err
	}
	return createdFrom(j, read)
}

// createdFrom what the script answered about a job.
func createdFrom(j job.Job, read answer) (Created, error) {
	switch read.texts[0] {
	case "gone":
		return Created{}, fault.Newf(fault.Denied, "the app was removed from the workspace; install it again")
	case "there":
		if len(read.texts) < 5 {
			return Created{}, unavailable(errForm, "queue a job")
		}
		there := Created{Digest: read.texts[1], State: job.State(read.texts[2])}
		if there.State == job.Queued { // which does nothing if the job stands in line
			again := firstTicket(j)
			again.Generation, again.Serial = int(read.number(3)), int(read.number(4))
			there.Tickets = []Ticket{again}
		}
		return there, nil
	case "slot":
		return Created{New: true, State: job.Queued, Tickets: []Ticket{firstTicket(j)}}, nil
	}
	return Created{New: true, State: job.Queued}, nil
}

// trim is the oldest creation of a job that stays in the index of an installation's jobs; mostly empty, which leaves it as it is.
func (l *Ledger) trim() string {
	now := l.local()
	if now.UnixMilli()%trimEvery != 0 {
		return ""
	}
	return strconv.FormatInt(now.Add(-liveLife-l.Retention).UnixMilli(), 10)
}
