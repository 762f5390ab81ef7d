package ledger

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/job"
)

// Ticket says that a job's turn has come. It carries facts for operators' eyes, and nothing that decides: what the job is, and whether
// it may run, is in its record.
type Ticket struct {
	Installation string
	Job          string
	Class        job.Class
	Generation   int // of the run: tickets of an earlier one are void
	Serial       int // of the tickets of a run, which are equally good

	Operation  job.Operation
	Repository string
	Actor      string
	Requester  string
	Branch     string
	Ref        string
	Rule       string
	Batch      string
	CreatedAt  time.Time
}

// ID names the ticket among all: <job>.<generation>.<serial>. asynq may remember an id for ever, so that none is issued twice.
func (t Ticket) ID() string {
	return t.Job + "." + strconv.Itoa(t.Generation) + "." + strconv.Itoa(t.Serial)
}

// ticketOf reads what the function issue of lua/prelude.lua made.
func ticketOf(installation string, values []any) (Ticket, error) {
	const size = 14
	if len(values) != size {
		return Ticket{}, errForm
	}
	var texts [size]string
	for i, value := range values {
		texts[i] = fmt.Sprint(value)
	}
	read := record{"workspace": texts[5], "repository": texts[6], "created": texts[13]}
	serial, err := strconv.Atoi(texts[2])
	if err != nil {
		return Ticket{}, errForm
	}
	generation, _ := strconv.Atoi(texts[3]) // a record that has none is of the first
	return Ticket{
		Installation: installation, Job: texts[0], Class: job.Class(texts[1]), Serial: serial, Generation: generation,
		Operation: job.Operation(texts[4]), Repository: read.repository(), Actor: texts[7], Requester: texts[8],
		Branch: texts[9], Ref: texts[10], Rule: texts[11], Batch: texts[12], CreatedAt: read.time("created"),
	}, nil
}

// firstTicket is that of a job which got a slot when it was created.
func firstTicket(j job.Job) Ticket {
	meta := j.MetaOf()
	return Ticket{
		Installation: j.Installation, Job: j.ID, Class: j.Class, Generation: j.Generation,
		Operation: meta.Operation, Repository: j.Repository.String(), Actor: string(j.Actor.Kind), Requester: j.Requester,
		Branch: meta.Branch, Ref: meta.Ref, Rule: j.Rule, Batch: j.Batch.ID, CreatedAt: j.CreatedAt,
	}
}

// ParseTicket reads what ID wrote; ok is false for a text that is no such id.
func ParseTicket(id string) (j string, generation, serial int, ok bool) {
	rest, serial, found := cutLast(id)
	if !found {
		return "", 0, 0, false
	}
	j, generation, found = cutLast(rest)
	return j, generation, serial, found
}

// cutLast cuts a number off behind the last dot.
func cutLast(text string) (rest string, number int, found bool) {
	at := strings.LastIndexByte(text, '.')
	if at < 0 {
		return "", 0, false
	}
	number, err := strconv.Atoi(text[at+1:])
	return text[:at], number, err == nil
}
