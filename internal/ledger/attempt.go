package ledger

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

var (
	beginScript = load("begin")
	renewScript = load("renew")
	endScript   = load("end")
)

const (
	// LeaseLife is how long an attempt is believed to be under way without a word of its worker.
	LeaseLife = 15 * time.Second
	// spare is how long after its time a retry whose ticket asynq holds is issued again.
	spare = 5 * time.Second
)

// Verdict is what a script made of what it was asked.
type Verdict string

// The verdicts on an attempt.
const (
	Run      Verdict = "run"
	Early    Verdict = "early"    // the time of the next attempt has not come
	Unknown  Verdict = "unknown"  // there is no such job, or not yet
	Over     Verdict = "over"     // nothing is to be done for this ticket
	InLine   Verdict = "line"     // the job's turn comes later, with another ticket
	Canceled Verdict = "canceled" // its batch was; or it is to stop
	Written  Verdict = "written"
	Again    Verdict = "again" // the job goes on at once, with the same ticket
	Held     Verdict = "held"
	Stop     Verdict = "cancel" // the attempt is to stop, for somebody canceled the job
	Lost     Verdict = "lost"   // the attempt was given up
)

// Attempt is an attempt of a job as its record has it.
type Attempt struct {
	Number   int       // attempts that count, this one included; from 1
	Begun    int       // attempts that began and were not heard of again, this one included
	Snoozes  int       // uncounted ones before
	OpenedAt time.Time // when the run was asked for
	DueAt    time.Time // when it was to begin
	Fence    string    // names the attempt among all of the job
	Run      int       // counts them; a greater one has taken over
	wakes    string
}

// Begun is the answer to a ticket.
type Begun struct {
	Verdict Verdict
	Wait    time.Duration // of Early
	Attempt Attempt
	Payload []byte // what the job is, for [job.Unmarshal]; empty where Redis lost it
	Tickets []Ticket
}

// Begin opens an attempt of the ticket's job. attempt is a random name for it: the same call again, whose answer was lost, gets the same
// answer.
func (l *Ledger) Begin(ctx context.Context, t Ticket, attempt string) (Begun, error) {
	command := beginScript.run(ctx, l.Redis, []string{keyspace.Installation(t.Installation).Prefix()}, []arg{
		{"now", l.clock()},
		{"id", t.Job},
		{"generation", t.Generation},
		{"attempt", attempt},
		{"cap", l.Cap},
		{"lease", LeaseLife.Milliseconds()},
		{"retention", l.retention(t.Class).Milliseconds()},
		{"canceled", failureText(fault.Canceled, "the batch was canceled before the job ran")},
	})
	read, err := answerOf(t.Installation, command, 1)
	if err != nil {
		return Begun{}, unavailable(err, "begin a job")
	}
	begun := Begun{Verdict: Verdict(read.texts[0]), Tickets: read.tickets}
	switch {
	case begun.Verdict == Early && len(read.texts) > 1:
		begun.Wait = time.Duration(read.number(1)) * time.Millisecond
	case begun.Verdict == Run && len(read.texts) > 8:
		begun.Attempt = Attempt{
			Number: int(read.number(1)), Begun: int(read.number(2)), Snoozes: int(read.number(3)), OpenedAt: time.UnixMilli(read.number(4)),
			DueAt: time.UnixMilli(read.number(5)), Fence: read.texts[6], wakes: read.texts[7],
		}
		begun.Attempt.Run, _ = strconv.Atoi(strings.SplitN(read.texts[6], "-", 2)[0]) // the script wrote it
		begun.Payload = []byte(read.texts[8])
	case begun.Verdict == Early, begun.Verdict == Run:
		return Begun{}, unavailable(errForm, "begin a job")
	}
	return begun, nil
}

// Renew keeps an attempt alive for another [LeaseLife]: Held, Stop or Lost.
func (l *Ledger) Renew(ctx context.Context, installation, id, fence string) (Verdict, error) {
	text, err := renewScript.run(ctx, l.Redis, []string{keyspace.Installation(installation).Prefix()}, []arg{
		{"now", l.clock()}, {"id", id}, {"fence", fence}, {"lease", LeaseLife.Milliseconds()},
	}).Text()
	return Verdict(text), unavailable(err, "keep a job")
}

// Outcome is what becomes of a job after an attempt.
type Outcome struct {
	State   job.State     // Queued is for an attempt that was interrupted: the job keeps its slot
	After   time.Duration // until the next attempt; meaningless where State has ended or is Queued
	Counted bool
	Kind    fault.Kind // and Detail, which is public: why it has not succeeded
	Detail  string
	Result  job.Result
}

// End closes an attempt: Written, Again, Over where the job has ended or the attempt was given up, or Canceled where nothing was written
// because the job, which would go on, is to stop. An attempt that was given up counts nevertheless if it has succeeded.
func (l *Ledger) End(ctx context.Context, t Ticket, at Attempt, out Outcome) (Verdict, []Ticket, error) {
	life, after, uncounted := liveLife, out.After, !out.Counted
	if out.State.Ended() {
		life, after, uncounted = l.retention(t.Class), 0, false
	}
	var fields []any
	if out.State == job.Succeeded {
		text, err := json.Marshal(out.Result)
		if err != nil {
			return "", nil, fault.Wrapf(fault.Internal, err, "the result cannot be encoded")
		}
		fields = append(inParts("result", string(text)), "failure", "")
	} else {
		fields = []any{"failure", failureText(out.Kind, out.Detail)}
	}
	command := endScript.run(ctx, l.Redis, []string{keyspace.Installation(t.Installation).Prefix()}, []arg{
		{"now", l.clock()},
		{"id", t.Job},
		{"generation", t.Generation},
		{"fence", at.Fence},
		{"state", string(out.State)},
		{"item_state", string(batch.StateOf(out.State, out.Result))},
		{"after", after.Milliseconds()},
		{"uncounted", flag(uncounted)},
		{"wakes", at.wakes},
		{"cap", l.Cap},
		{"life", life.Milliseconds()},
		{"spare", spare.Milliseconds()},
	}, fields...)
	read, err := answerOf(t.Installation, command, 1)
	if err != nil {
		return "", nil, unavailable(err, "record the end of a job")
	}
	return Verdict(read.texts[0]), read.tickets, nil
}
