package dispatch

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/ledger"
)

// seen is a job as Redis has it. The zero value is none.
type seen struct {
	state                                      job.State
	generation, attempts, begun, looks, serial int
	active, cancel                             string
	lease, next                                int64
	in                                         map[string]float64 // held, line, due, asleep
	item                                       batch.ItemState    // of a batch's
}

func (s seen) toStop() bool { return s.cancel != "" && s.cancel == strconv.Itoa(s.generation) }

var seenFields = []string{"state", "generation", "attempts", "begun", "looks", "serial", "active", "cancel", "lease", "next"}

func wakesOf(installation string) string { return keyspace.Installation(installation).Wakes() }

// reading is what a pipeline will have read.
type reading struct {
	sets    map[string]*redis.ZSliceCmd // by installation, set and class
	records map[string]*redis.SliceCmd  // by job
	live    map[string]*redis.FloatCmd  // by installation
	roots   map[string]*redis.SliceCmd  // by batch
	items   map[string]map[batch.ItemState]*redis.StringSliceCmd
}

func (w *world) read() reading {
	r := reading{map[string]*redis.ZSliceCmd{}, map[string]*redis.SliceCmd{}, map[string]*redis.FloatCmd{}, map[string]*redis.SliceCmd{}, map[string]map[batch.ItemState]*redis.StringSliceCmd{}}
	pipeline := w.auditor.Pipeline()
	for _, installation := range modelInstallations {
		own := keyspace.Installation(installation)
		all := func(name, key string) { r.sets[installation+" "+name] = pipeline.ZRangeWithScores(w.ctx, key, 0, -1) }
		all("due", own.Due())
		all("asleep", own.Asleep())
		for _, class := range job.Classes() {
			all("held "+string(class), own.Held(string(class)))
			all("line "+string(class), own.Line(string(class)))
		}
		r.live[installation] = pipeline.ZScore(w.ctx, keyspace.Live(keyspace.ShardOf(installation)), installation)
	}
	for _, t := range w.order {
		r.records[t.job.ID] = pipeline.HMGet(w.ctx, keyspace.Installation(t.job.Installation).Job(t.job.ID), seenFields...)
	}
	for _, b := range w.batches {
		keys := keyspace.Installation(b.installation).Batch(b.id)
		r.roots[b.id] = pipeline.HMGet(w.ctx, keys.Root(), "state", "total")
		r.items[b.id] = map[batch.ItemState]*redis.StringSliceCmd{}
		for _, state := range batch.Sets() {
			r.items[b.id][state] = pipeline.ZRange(w.ctx, keys.State(string(state)), 0, -1)
		}
	}
	if _, err := pipeline.Exec(w.ctx); err != nil && err != redis.Nil { //nolint:errorlint // it comes from the client
		w.fatalf("%v", err)
	}
	return r
}

// seenNow is what Redis has of every job.
func (w *world) seenNow(r reading) map[string]seen {
	now := map[string]seen{}
	for _, t := range w.order {
		values := r.records[t.job.ID].Val()
		text := func(i int) string { text, _ := values[i].(string); return text }
		number := func(i int) int { number, _ := strconv.Atoi(text(i)); return number }
		now[t.job.ID] = seen{
			state: job.State(text(0)), generation: number(1), attempts: number(2), begun: number(3), looks: number(4), serial: number(5), active: text(6), cancel: text(7),
			lease: int64(number(8)), next: int64(number(9)), in: map[string]float64{},
		}
	}
	for _, installation := range modelInstallations {
		note := func(name, set string, class job.Class) {
			for _, z := range r.sets[installation+" "+name].Val() {
				id := z.Member.(string)
				t := w.jobs[id]
				if t == nil || now[id].state == "" || t.job.Installation != installation || class != "" && t.job.Class != class {
					w.fatalf("%s of %s holds %q, which is no such job", name, installation, id)
				}
				now[id].in[set] = z.Score
			}
		}
		note("due", "due", "")
		note("asleep", "asleep", "")
		for _, class := range job.Classes() {
			note("held "+string(class), "held", class)
			note("line "+string(class), "line", class)
			if held := len(r.sets[installation+" held "+string(class)].Val()); held > slots {
				w.fatalf("%s has %d slots of class %s", installation, held, class)
			}
		}
	}
	return now
}

// audit compares Redis with what is known, and learns what has become of the jobs.
func (w *world) audit() {
	r := w.read()
	now := w.seenNow(r)
	w.auditBatches(r, now)
	busy := map[string]bool{}
	for _, t := range w.order {
		before, after := t.seen, now[t.job.ID]
		if t.job.Batch.ID != "" {
			w.auditItem(t, after)
		}
		w.auditPlace(t, after)
		if before.state != after.state || before.generation != after.generation || before.active != after.active {
			w.auditMove(t, before, after)
		}
		t.seen = after
		if after.toStop() {
			t.stopped = after.generation
		}
		busy[t.job.Installation] = busy[t.job.Installation] || after.state != "" && !after.state.Ended()
	}
	for _, a := range w.attempts {
		if s := a.job.seen; a.valid && (s.state != job.Running || s.active != a.at.Fence) {
			a.valid = false
		}
	}
	for _, t := range w.order {
		w.auditProgress(t)
	}
	for installation := range busy {
		if _, err := r.live[installation].Result(); err != nil && busy[installation] && w.calm() > bound {
			w.fatalf("%s has jobs and is not among the live installations", installation)
		}
	}
	clear(w.may)
}

// auditPlace: a job is in the sets that its state says.
func (w *world) auditPlace(t *tracked, s seen) {
	in := slices.Sorted(maps.Keys(s.in))
	ok := len(in) == 0 || t.adopted && slices.Equal(in, []string{"due"}) // which the next look forgets
	switch s.state {
	case job.Queued:
		ok = slices.Equal(in, []string{"held"}) || slices.Equal(in, []string{"line"})
		if t.adopted {
			ok = len(in) > 0 && !slices.Contains(in, "asleep") && (s.in["held"] == 0 || s.in["line"] == 0)
		}
	case job.Running:
		ok = slices.Equal(in, []string{"due", "held"})
	case job.Retrying:
		ok = slices.Equal(in, []string{"due"})
	case job.Waiting:
		ok = slices.Equal(in, []string{"asleep", "due"})
	}
	if !ok {
		w.fatalf("%s is %s, and in %q: %+v", t.job.ID, s.state, in, s)
	}
	if s.attempts < 0 || s.begun < 0 {
		w.fatalf("%s has begun %d times: %+v", t.job.ID, s.attempts, s)
	}
}

// auditMove: what has changed was to.
func (w *world) auditMove(t *tracked, before, after seen) {
	act, acted := w.may[t.job.ID]
	wrong := func(why string) {
		w.fatalf("%s: %s\nbefore %+v\nafter  %+v\nby %q", t.job.ID, why, before, after, act.name)
	}
	w.note("%s: %s %d %s -> %s %d %s", t.job.ID, before.state, before.generation, before.active, after.state, after.generation, after.active)
	if before.state == "" {
		if act.name != actCreate.name && act.name != actAdopt.name && act.name != actDrive.name {
			wrong("no step has created it")
		}
		return
	}
	if after.generation != before.generation {
		if after.generation != before.generation+1 || after.generation > t.opened || act.name != actRetry.name && act.name != actDrive.name || !before.state.Ended() || before.state == job.Succeeded {
			wrong("another run was opened")
		}
		return
	}
	if before.state.Ended() {
		if before.state != after.state {
			wrong("it had ended")
		}
		return
	}
	switch {
	case act.name == "end" && after.state.Ended() && act.outcome.State == after.state && (act.outcome.State == job.Succeeded || act.attempt.at.Fence == before.active):
	case act.name == "end" && act.attempt.at.Fence == before.active && before.state == job.Running && after.state != job.Running:
	case act.name == actBegin.name && after.state == job.Running && (before.state == job.Queued || before.state == job.Retrying):
		if t.stopped == after.generation {
			wrong("it was told to stop")
		}
	case act.name == actBegin.name && before.state == job.Retrying && after.state == job.Queued: // in line
	case act.name == actBegin.name && after.state == job.Canceled && w.canceled(t):
	case acted && before.state != job.Running && after.state == job.Canceled && (act.name == actCancel.name || act.name == actCreate.name || w.canceled(t)):
	case before.state == job.Waiting && after.state == job.Queued: // its time has come, or it was woken
	case before.state == job.Running && (after.state == job.Queued || after.state == job.Canceled && before.toStop()):
		w.auditLapse(t, before, wrong)
	default:
		wrong("no step was to do that")
	}
}

// auditLapse: an attempt was given up, which is right only if its lease has run out, and Redis was there for long enough to know that.
func (w *world) auditLapse(t *tracked, before seen, wrong func(string)) {
	for _, a := range w.attempts {
		if a.job == t && a.at.Fence == before.active && a.until.After(w.now) {
			wrong("its lease lasts until " + a.until.String())
		}
	}
	if w.now.UnixMilli() < before.lease {
		wrong("its lease had not run out")
	}
	if away := w.now.Sub(w.trouble); away < ledger.LeaseLife {
		wrong(fmt.Sprintf("redis was away %s ago", away))
	}
}

// auditItem: a repository of a batch is where its job is.
func (w *world) auditItem(t *tracked, s seen) {
	want := map[job.State]batch.ItemState{
		job.Queued: batch.Queued, job.Running: batch.Running, job.Retrying: batch.Waiting, job.Waiting: batch.Waiting,
	}[s.state]
	if want != "" && s.item != want {
		w.fatalf("%s is %s, and its repository %s", t.job.ID, s.state, s.item)
	}
}

// auditBatches: each repository is in one state, and none is lost.
func (w *world) auditBatches(r reading, now map[string]seen) {
	for _, b := range w.batches {
		root := r.roots[b.id].Val()
		state, _ := root[0].(string)
		b.state = batch.State(state)
		if state == "" || b.state == batch.StateWriting {
			continue
		}
		count := 0
		for state, items := range r.items[b.id] {
			for _, item := range items.Val() {
				number, _ := strconv.Atoi(item)
				id := batch.JobID(b.id, number)
				if s := now[id]; s.item != "" {
					w.fatalf("repository %d of %s is %s and %s", number, b.id, s.item, state)
				} else {
					s.item = state
					now[id] = s
				}
				count++
			}
		}
		if total, _ := root[1].(string); total != strconv.Itoa(b.total) || count != b.total {
			w.fatalf("%s has %d repositories in all states, %s in its record, and %d were asked for", b.id, count, total, b.total)
		}
	}
}

func (w *world) canceled(t *tracked) bool {
	for _, b := range w.batches {
		if b.id == t.job.Batch.ID {
			return b.state == batch.StateCanceled
		}
	}
	return false
}

// bound is how long a job that ought to go on may stand still: two looks, one of which a dead dispatcher may have claimed, and the time in which no lease
// is judged.
const bound = 60 * time.Second

// calm is for how long nothing of what makes jobs go on has been in trouble.
func (w *world) calm() time.Duration {
	return min(w.now.Sub(w.trouble), w.now.Sub(w.death))
}

// auditProgress: what ought to go on does.
func (w *world) auditProgress(t *tracked) {
	s, why, within := t.seen, "", bound
	millis := w.now.UnixMilli()
	_, held := s.in["held"]
	_, line := s.in["line"]
	switch {
	case w.carrier.broken, w.calm() < bound:
	case s.state == job.Queued && held && !w.carrier.paused[t.job.Class] && !w.carrier.has(t.job.ID, s.generation):
		if w.carrier.oldest(t.job.Class) < 5*time.Second {
			why = "it has a slot and no ticket"
			within += min(5*time.Minute, 10*time.Second<<min(s.looks, 8))
		}
	case s.state == job.Queued && line && w.held(t) < slots:
		why = "there is a slot for it"
	case s.state == job.Queued && !held && !line && s.in["due"] < float64(millis):
		why = "it was adopted"
	case s.state == job.Running && s.lease < millis:
		why = "its lease has run out"
	case s.state == job.Retrying && s.next+5000 < millis && !w.carrier.has(t.job.ID, s.generation) && !w.carrier.paused[t.job.Class]:
		why = "its next attempt is due"
		within += min(5*time.Minute, 10*time.Second<<min(s.looks, 8))
	case s.state == job.Waiting && s.next < millis:
		why = "it has waited long enough"
	}
	switch {
	case why == "" || why != t.why:
		t.why, t.since = why, w.now
	case w.now.Sub(t.since) > within:
		w.fatalf("%s does not go on for %s, although %s: %+v", t.job.ID, w.now.Sub(t.since), why, s)
	}
}

// remember keeps Redis and what is known of it.
func (w *world) remember() {
	s := &snapshot{jobs: map[string]tracked{}, attempts: map[*attempt]attempt{}, wakes: maps.Clone(w.wakes)}
	keys, err := w.auditor.Keys(w.ctx, "*").Result()
	if err != nil {
		w.fatalf("%v", err)
	}
	pipeline := w.auditor.Pipeline()
	for _, key := range keys {
		s.keys = append(s.keys, key)
		s.values = append(s.values, pipeline.Dump(w.ctx, key))
		s.lives = append(s.lives, pipeline.PTTL(w.ctx, key))
	}
	if _, err := pipeline.Exec(w.ctx); err != nil {
		w.fatalf("%v", err)
	}
	for id, t := range w.jobs {
		s.jobs[id] = *t
	}
	for _, a := range w.attempts {
		s.attempts[a] = *a
	}
	for _, b := range w.batches {
		s.batches = append(s.batches, *b)
	}
	w.snapshot = s
}

// restore brings it back. Workers that have gone on know nothing of it.
func (w *world) restore() {
	s := w.snapshot
	pipeline := w.auditor.TxPipeline()
	pipeline.FlushDB(w.ctx)
	for i, key := range s.keys {
		pipeline.Restore(w.ctx, key, max(s.lives[i].Val(), 0), s.values[i].Val())
	}
	if _, err := pipeline.Exec(w.ctx); err != nil {
		w.fatalf("%v", err)
	}
	for _, t := range w.order {
		known, had := s.jobs[t.job.ID]
		if had {
			*t = known
		} else {
			t.seen, t.stopped, t.why = seen{}, -1, ""
		}
	}
	for _, a := range w.attempts {
		before, had := s.attempts[a]
		a.valid = had && before.valid
		if had {
			a.until = before.until
		}
	}
	for i := range s.batches {
		*w.batches[i] = s.batches[i]
	}
	w.wakes = maps.Clone(s.wakes)
	w.snapshot = nil
}

// snapshot is Redis and what is known of it at an instant.
type snapshot struct {
	keys     []string
	values   []*redis.StringCmd
	lives    []*redis.DurationCmd
	jobs     map[string]tracked
	attempts map[*attempt]attempt
	batches  []tracedBatch
	wakes    map[string]int
}

// drain heals everything, and sees that all jobs and batches end, and that nothing is left to be looked at.
func (w *world) drain() {
	w.note("drain")
	for worker := range 2 {
		w.silence(worker)
	}
	clear(w.carrier.paused)
	w.carrier.broken, w.tokenGone = false, false
	for round := 0; !w.over(); round++ {
		if round == 400 {
			w.fatalf("not everything ends: %s", w.left())
		}
		if round%10 == 0 {
			w.hasten()
		}
		w.pass(nil, 3*time.Second, lookPause)
		for _, t := range w.carrier.ready() {
			w.carrier.drop(t)
			a := w.begin(nil, t.Ticket, round%2)
			w.audit()
			if a == nil {
				continue
			}
			w.by(nil, firstWorker+a.worker, func(p *process) { w.endAs(p, a, outcomes[w.names%3]) })
			w.audit()
		}
	}
	if w.plays++; w.plays%5 != 1 { // it takes as long as the rest
		return
	}
	for range 30 {
		w.now = w.now.Add(5 * time.Second)
		for i := range w.lookers {
			w.look(nil, i)
		}
	}
	for _, installation := range modelInstallations {
		if score, err := w.auditor.ZScore(w.ctx, keyspace.Live(keyspace.ShardOf(installation)), installation).Result(); err == nil {
			w.fatalf("%s has no jobs, and is among the live ones until %f", installation, score)
		}
	}
}

// hasten wakes what waits and resumes what has stopped.
func (w *world) hasten() {
	p := w.processes[receiver]
	for _, installation := range modelInstallations {
		_, _ = p.ledger.Wake(context.Background(), installation)
		w.wakes[installation]++
	}
	for _, b := range w.batches {
		_ = p.batches.Resume(w.ctx, b.installation, b.id) // a Conflict where it goes on
	}
}

func (w *world) over() bool { return w.left() == "" }

// left names what has not ended.
func (w *world) left() (left string) {
	for _, t := range w.order {
		if t.seen.state != "" && !t.seen.state.Ended() {
			left += fmt.Sprintf("\n%s is %+v", t.job.ID, t.seen)
		}
	}
	for _, b := range w.batches {
		if b.state != "" && b.state != batch.StateFinished && b.state != batch.StateCanceled {
			left += fmt.Sprintf("\n%s is %s", b.id, b.state)
		}
	}
	return left
}
