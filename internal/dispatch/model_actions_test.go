package dispatch

import (
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
)

// action is what a step does to a job.
type action struct {
	name    string
	attempt *attempt // that is ended
	outcome ledger.Outcome
}

var (
	actCreate = action{name: "create"}
	actBegin  = action{name: "begin"}
	actCancel = action{name: "cancel"}
	actRetry  = action{name: "retry"}
	actAdopt  = action{name: "adopt"}
	actDrive  = action{name: "drive"}
)

// by does something in a process, which may die of it after so many commands. It reports whether the process lives.
func (w *world) by(rt *rapid.T, which int, do func(p *process)) bool {
	p := w.processes[which]
	if rt != nil && rapid.IntRange(0, 11).Draw(rt, "dies") == 0 {
		p.fuse.late = rapid.Bool().Draw(rt, "answer is lost")
		p.fuse.left.Store(int64(rapid.IntRange(0, 4).Draw(rt, "after commands")))
	}
	do(p)
	if !p.fuse.isBlown() {
		p.fuse.left.Store(noFuse)
		return true
	}
	w.note("process %d dies", which)
	switch which {
	case receiver:
		p.start(w)
	case firstWorker, secondWorker:
		w.silence(which - firstWorker)
		p.start(w)
	default:
		w.lookers[which-firstLooker] = w.newLooker(which - firstLooker)
		w.death = w.now
	}
	return false
}

// silence is the death of a worker: its attempts neither renew nor end.
func (w *world) silence(worker int) {
	w.attempts = slices.DeleteFunc(w.attempts, func(a *attempt) bool { return a.worker == worker })
}

func choose[T any](rt *rapid.T, what string, from []T) T {
	if len(from) == 0 {
		rt.Skip("there is none")
	}
	return from[rapid.IntRange(0, len(from)-1).Draw(rt, what)]
}

func (w *world) create(rt *rapid.T) {
	w.createJob(rt, rapid.IntRange(0, mostJobs-1).Draw(rt, "job"))
}

func (w *world) createJob(rt *rapid.T, n int) {
	j := w.newJob(n)
	t := w.track(j)
	for _, other := range w.order {
		if other == t || j.Coalesce != "" && other.job.Coalesce == j.Coalesce && other.job.Installation == j.Installation {
			w.may[other.job.ID] = actCreate
		}
	}
	w.by(rt, receiver, func(p *process) {
		made, err := p.ledger.Create(w.ctx, t.job)
		w.note("create %s: %+v, %v", j.ID, made, err)
		if err != nil {
			w.mustBeDead(p, err)
			return
		}
		if made.New != (t.seen.state == "") {
			w.fatalf("%s was %q, and is created: %+v", j.ID, t.seen.state, made)
		}
		_ = w.carrier.Issue(w.ctx, made.Tickets)
	})
}

// mustBeDead is for an error that only a dead process gets.
func (w *world) mustBeDead(p *process, err error) {
	if !p.fuse.isBlown() {
		w.fatalf("%v", err)
	}
}

func (w *world) deliver(rt *rapid.T) {
	t := choose(rt, "ticket", w.carrier.ready())
	if rapid.IntRange(0, 9).Draw(rt, "delivered twice") > 0 {
		w.carrier.drop(t)
	}
	w.begin(rt, t.Ticket, rapid.IntRange(0, 1).Draw(rt, "worker"))
}

// begin is what a worker does with a ticket. It returns the attempt, nil where there is none.
func (w *world) begin(rt *rapid.T, ticket ledger.Ticket, worker int) *attempt {
	t := w.jobs[ticket.Job]
	w.names++
	name, want := fmt.Sprint("a", w.names), w.verdictOf(t, ticket)
	w.may[ticket.Job] = actBegin
	var made *attempt
	alive := w.by(rt, firstWorker+worker, func(p *process) {
		begun, err := p.ledger.Begin(w.ctx, ticket, name)
		w.note("worker %d begins %s: %s %s, %v", worker, ticket.ID(), begun.Verdict, begun.Attempt.Fence, err)
		if err != nil {
			w.mustBeDead(p, err)
			return
		}
		if begun.Verdict != want {
			w.fatalf("a ticket %s of the job %+v: %s, not %s", ticket.ID(), t.seen, begun.Verdict, want)
		}
		if begun.Verdict == ledger.Run {
			if again, err := p.ledger.Begin(w.ctx, ticket, name); err == nil && (again.Verdict != ledger.Run || again.Attempt.Fence != begun.Attempt.Fence) {
				w.fatalf("the same call got %+v and then %+v", begun.Attempt, again)
			}
			made = &attempt{job: t, ticket: ticket, at: begun.Attempt, worker: worker, valid: true, until: w.now.Add(ledger.LeaseLife), renewed: w.now, wakes: w.wakes[ticket.Installation]}
		}
		if begun.Verdict == ledger.Early {
			w.carrier.tickets = append(w.carrier.tickets, &carried{ticket, w.now, w.now.Add(begun.Wait)})
		}
		_ = w.carrier.Issue(w.ctx, begun.Tickets)
	})
	if made == nil {
		return nil
	}
	for _, other := range w.attempts {
		if other.job == t {
			if other.at.Fence == made.at.Fence {
				w.fatalf("two attempts of %s have the fence %s", ticket.Job, made.at.Fence)
			}
			other.valid = false
		}
	}
	if alive {
		w.attempts = append(w.attempts, made)
	}
	return made
}

// verdictOf is what Begin has to answer.
func (w *world) verdictOf(t *tracked, ticket ledger.Ticket) ledger.Verdict {
	s := t.seen
	_, held := s.in["held"]
	switch {
	case s.state == "":
		return ledger.Unknown
	case s.generation != ticket.Generation, s.state.Ended(), s.state == job.Waiting, s.state == job.Running:
		return ledger.Over
	case s.state == job.Retrying && s.next > w.now.UnixMilli():
		return ledger.Early
	case w.canceled(t):
		return ledger.Canceled
	case !held && w.held(t) >= slots:
		return ledger.InLine
	}
	return ledger.Run
}

// held is how many slots the job's class has taken.
func (w *world) held(t *tracked) (count int) {
	for _, other := range w.order {
		if _, has := other.seen.in["held"]; has && other.job.Installation == t.job.Installation && other.job.Class == t.job.Class {
			count++
		}
	}
	return count
}

func (w *world) renewOne(rt *rapid.T) {
	a := choose(rt, "attempt", w.attempts)
	w.by(rt, firstWorker+a.worker, func(p *process) { w.renew(p, a) })
}

func (w *world) renew(p *process, a *attempt) {
	verdict, err := p.ledger.Renew(w.ctx, a.job.job.Installation, a.job.job.ID, a.at.Fence)
	w.note("renew %s %s: %s, %v", a.job.job.ID, a.at.Fence, verdict, err)
	if err != nil {
		w.mustBeDead(p, err)
		return
	}
	want := ledger.Lost
	if a.valid {
		want = ledger.Held
		if a.job.seen.toStop() {
			want = ledger.Stop
		}
		a.until, a.renewed = w.now.Add(ledger.LeaseLife), w.now
	}
	if verdict != want {
		w.fatalf("renew %s of %+v: %s, not %s", a.at.Fence, a.job.seen, verdict, want)
	}
}

func (w *world) end(rt *rapid.T) {
	a := choose(rt, "attempt", w.attempts)
	out := choose(rt, "outcome", outcomes)
	w.by(rt, firstWorker+a.worker, func(p *process) { w.endAs(p, a, out) })
}

func (w *world) endAs(p *process, a *attempt, out ledger.Outcome) {
	s, want := a.job.seen, ledger.Written
	switch {
	case s.state == "", s.generation != a.ticket.Generation, s.state.Ended(), !a.valid && out.State != job.Succeeded:
		want = ledger.Over
	case !out.State.Ended() && s.toStop():
		want = ledger.Canceled
	case out.State == job.Queued, out.State == job.Waiting && w.wakes[a.job.job.Installation] != a.wakes:
		want = ledger.Again
	}
	w.may[a.job.job.ID] = action{"end", a, out}
	verdict, tickets, err := p.ledger.End(w.ctx, a.ticket, a.at, out)
	w.note("end %s %s as %s: %s, %v", a.ticket.ID(), a.at.Fence, out.State, verdict, err)
	switch {
	case err != nil:
		w.mustBeDead(p, err)
		return
	case verdict != want:
		w.fatalf("end %s, which is valid: %t, as %+v of %+v: %s, not %s", a.at.Fence, a.valid, out, s, verdict, want)
	case verdict == ledger.Canceled:
		w.endAs(p, a, ledger.Outcome{State: job.Canceled, Counted: true, Kind: fault.Canceled, Detail: "it was to stop"})
		return
	}
	w.attempts = slices.DeleteFunc(w.attempts, func(other *attempt) bool { return other == a })
	switch {
	case verdict == ledger.Again:
		w.carrier.tickets = append(w.carrier.tickets, &carried{a.ticket, w.now, w.now})
	case verdict == ledger.Written && out.State == job.Retrying:
		w.carrier.tickets = append(w.carrier.tickets, &carried{a.ticket, w.now, w.now.Add(out.After)})
	}
	_ = w.carrier.Issue(w.ctx, tickets)
}

func (w *world) cancel(rt *rapid.T) {
	t := choose(rt, "job", w.order)
	w.may[t.job.ID] = actCancel
	w.by(rt, receiver, func(p *process) {
		stopping, tickets, err := p.ledger.Cancel(w.ctx, t.job.Installation, t.job.ID, false)
		w.note("cancel %s: %+v, %v", t.job.ID, stopping, err)
		if p.fuse.isBlown() {
			return
		}
		s, kind := t.seen, fault.KindOf(err)
		ok := err == nil && (stopping != nil) == (s.state == job.Running)
		switch {
		case s.state == "":
			ok = kind == fault.NotFound
		case s.state.Ended():
			ok = kind == fault.Conflict
		}
		if !ok {
			w.fatalf("cancel of %+v: %+v, %v", s, stopping, err)
		}
		_ = w.carrier.Issue(w.ctx, tickets)
	})
}

func (w *world) retry(rt *rapid.T) {
	t := choose(rt, "job", w.order)
	w.may[t.job.ID] = actRetry
	t.opened++
	w.by(rt, receiver, func(p *process) {
		tickets, err := p.ledger.Retry(w.ctx, t.job.Installation, t.job.ID)
		w.note("retry %s: %v", t.job.ID, err)
		if p.fuse.isBlown() {
			return
		}
		if can := t.seen.state.Ended() && t.seen.state != job.Succeeded; can != (err == nil) {
			w.fatalf("retry of %+v: %v", t.seen, err)
		}
		_ = w.carrier.Issue(w.ctx, tickets)
	})
}

func (w *world) wake(rt *rapid.T) {
	installation := choose(rt, "installation", modelInstallations)
	w.by(rt, receiver, func(p *process) {
		waiting, err := p.ledger.Wake(w.ctx, installation)
		w.note("wake %s: %d, %v", installation, waiting, err)
	})
	wakes, err := w.auditor.Get(w.ctx, wakesOf(installation)).Int()
	if err != nil && err != redis.Nil { //nolint:errorlint // it comes from the client
		w.fatalf("%v", err)
	}
	w.wakes[installation] = wakes
}

// adopt finds a task of an older version.
func (w *world) adopt(rt *rapid.T) {
	t := w.track(w.newJob(20 + rapid.IntRange(0, 3).Draw(rt, "job")))
	t.job.Coalesce, t.adopted = "", true
	w.may[t.job.ID] = actAdopt
	w.by(rt, secondLooker, func(p *process) {
		payload, err := job.Marshal(t.job, w.ring)
		if err != nil {
			w.fatalf("%v", err)
		}
		goesOn, err := p.ledger.Adopt(w.ctx, t.job.MetaOf(), payload)
		w.note("adopt %s: %t, %v", t.job.ID, goesOn, err)
		if err == nil && goesOn {
			err = p.ledger.Adopted(w.ctx, t.job.MetaOf(), true)
		}
		if err != nil {
			w.mustBeDead(p, err)
		}
	})
}

func (w *world) loseTickets(rt *rapid.T) {
	lost := choose(rt, "ticket", w.carrier.tickets)
	if rapid.IntRange(0, 3).Draw(rt, "all") == 0 {
		w.carrier.tickets = nil
	}
	w.carrier.drop(lost)
	w.note("%s is lost; %d are left", lost.ID(), len(w.carrier.tickets))
}

// doubleTicket brings a ticket of any run again.
func (w *world) doubleTicket(rt *rapid.T) {
	t := choose(rt, "job", w.order)
	ticket := ledger.Ticket{
		Installation: t.job.Installation, Job: t.job.ID, Class: t.job.Class, Generation: rapid.IntRange(0, max(t.seen.generation, 0)).Draw(rt, "generation"), Batch: t.job.Batch.ID,
	}
	w.carrier.tickets = append(w.carrier.tickets, &carried{ticket, w.now, w.now})
	w.note("%s comes again", ticket.ID())
}

// hinder stops a queue, the issuing of tickets or an actor's token now and then, for a few steps.
func (w *world) hinder(rt *rapid.T) {
	clear(w.carrier.paused)
	w.carrier.broken, w.tokenGone = false, false
	switch rapid.IntRange(0, 7).Draw(rt, "what") {
	case 0:
		class := choose(rt, "class", job.Classes())
		w.carrier.paused[class] = true
		w.note("%s is paused", class)
	case 1:
		w.carrier.broken = true
		w.note("tickets cannot be issued")
	case 2:
		w.tokenGone = true
		w.note("there is no token")
	}
}

func (w *world) stall(rt *rapid.T) {
	a := choose(rt, "attempt", w.attempts)
	a.stalled = true
	w.note("%s %s stalls", a.job.job.ID, a.at.Fence)
}

func (w *world) kill(rt *rapid.T) {
	worker := rapid.IntRange(0, 1).Draw(rt, "worker")
	w.silence(worker)
	w.note("worker %d is killed", worker)
}
