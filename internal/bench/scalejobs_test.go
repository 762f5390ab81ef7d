package bench

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/queue"
)

// growth is what one part has measured: lines of the table of goals, and a table of its own.
type growth struct {
	goals [][]string
	table Table
}

// goal adds a line.
func (g *growth) goal(what, is, goal string, reached bool) {
	g.goals = append(g.goals, []string{what, is, goal, met(reached)})
}

// wake has so many jobs of one installation wait for a token, and wakes them.
func (e extent) wake(start func(most int) *scale) (g growth) {
	g.table = Table{
		Title:  "Wake of an installation's waiting jobs",
		Note:   fmt.Sprintf("One dispatcher moves them, %d may be in the queue at once. Beside it %d clients queue jobs of 200 other installations, one each 2 ms.", scaleCap, neighbours),
		Header: []string{"jobs", "answered", "all woken", "longest script", "Redis CPU", "Redis CPU, each", "others' p99 before", "meanwhile", "forks"},
	}
	for _, n := range e.waiting {
		s := start(scaleCap)
		mine := installationOf(1)
		s.sleeping(mine, n)
		s.settled()
		stopDispatcher := s.dispatchers(1)
		s.pass(time.Second)
		var before, during []time.Duration
		quiet := s.measure(func() {
			stop := s.neighbours()
			s.pass(e.quiet)
			before = stop()
		})
		var answered time.Duration
		own := keyspace.Installation(mine)
		woken := s.measure(func() {
			stop, began := s.neighbours(), time.Now()
			_, err := s.client.Wake(s.tb.Context(), mine)
			s.must(err)
			answered = time.Since(began)
			s.until("all jobs are woken", func() bool { return s.card(own.Asleep()) == 0 })
			during = stop()
		})
		stopDispatcher()
		class := string(job.ClassInteractive)
		if got := s.card(own.Line(class)) + s.card(own.Held(class)); got != n {
			s.tb.Fatalf("%d jobs are queued, of %d that were woken", got, n)
		}
		cpu := max(0, woken.cpu-time.Duration(quiet.cores()*float64(woken.wall)))
		g.table.Rows = append(g.table.Rows, []string{
			fmt.Sprint(n), tenths(answered), milliseconds(woken.wall), woken.script(), milliseconds(cpu), micros(cpu / time.Duration(n)), tenths(p99(before)), tenths(p99(during)), fmt.Sprint(woken.forks),
		})
		g.goal(fmt.Sprintf("wake of %d jobs: longest script", n), woken.script(), "≤ "+milliseconds(longestScript), woken.longest <= longestScript)
		if n == e.waiting[len(e.waiting)-1] {
			part := p99(during).Seconds() / p99(before).Seconds()
			g.goal(fmt.Sprintf("wake of %d jobs: others' p99, of that before", n), fmt.Sprintf("%.2f", part), "≤ 1.20", part <= 1.2)
		}
	}
	return g
}

// sleeping makes jobs that wait for a token: each was begun and put off, as a worker does.
func (s *scale) sleeping(installation string, n int) {
	s.tb.Helper()
	writer := s.writer(0)
	drive(s.tb, n, func(i int) error {
		created, err := writer.Create(s.tb.Context(), jobOf(installation, i, job.ClassInteractive))
		if err != nil {
			return err
		}
		ticket := created.Tickets[0]
		begun, err := writer.Begin(s.tb.Context(), ticket, "first")
		if err != nil {
			return err
		}
		_, _, err = writer.End(s.tb.Context(), ticket, begun.Attempt, ledger.Outcome{
			State: job.Waiting, After: time.Hour, Kind: fault.Expired, Detail: "there is no token",
		})
		return err
	})
}

// neighbours is how many clients queue jobs of other installations.
const neighbours = 4

// neighbours queues jobs of other installations until the function that it returns is called, which gives how long each took.
func (s *scale) neighbours() (stop func() []time.Duration) {
	ended := make(chan struct{})
	took, errs := make([][]time.Duration, neighbours), make([]error, neighbours)
	var group sync.WaitGroup
	for at := range neighbours {
		client := queue.NewClient(s.options)
		group.Go(func() {
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for i := int(time.Now().UnixNano()); errs[at] == nil; i++ {
				select {
				case <-ended:
					return
				case <-tick.C:
				}
				began := time.Now()
				_, _, errs[at] = client.Enqueue(s.tb.Context(), jobOf(installationOf(1000+i%200), i, job.ClassEvent))
				took[at] = append(took[at], time.Since(began))
			}
		})
	}
	return func() []time.Duration {
		close(ended)
		group.Wait()
		for _, err := range errs {
			s.must(err)
		}
		return slices.Concat(took...)
	}
}

func p99(took []time.Duration) time.Duration {
	slices.Sort(took)
	if len(took) == 0 {
		return 0
	}
	return took[len(took)*99/100]
}

// coalesced has events replace one another while so many jobs of all installations have a ticket that waits.
func (e extent) coalesced(start func(most int) *scale) (g growth) {
	g.table = Table{
		Title:  "A coalesced event beside pending jobs",
		Note:   fmt.Sprintf("Events of one installation, one after the other, each of which replaces the one before; medians of %d. Redis CPU is less what Redis takes of itself. The jobs that wait are those of other installations, %d of each.", e.events, scaleCap),
		Header: []string{"pending", "an event", "Redis CPU, each", "longest script"},
	}
	s, made := start(scaleCap), 0
	var each []time.Duration
	for round, n := range e.pending {
		drive(s.tb, n-made, func(i int) error {
			_, _, err := s.client.Enqueue(s.tb.Context(), jobOf(installationOf(2000+(made+i)/scaleCap), made+i, job.ClassEvent))
			return err
		})
		made = n
		s.settled()
		still := s.measure(func() { s.pass(e.quiet) }) // many keys cost Redis something even when nobody asks
		s.replaceEach(2*round*e.events, e.events)      // after the file was rewritten, each page of memory is copied when it is first written to
		var took []time.Duration
		spent := s.measure(func() { took = s.replaceEach((2*round+1)*e.events, e.events) })
		slices.Sort(took)
		each = append(each, max(0, spent.cpu-time.Duration(still.cores()*float64(spent.wall)))/time.Duration(e.events))
		g.table.Rows = append(g.table.Rows, []string{fmt.Sprint(n), tenths(took[len(took)/2]), micros(each[round]), spent.script()})
	}
	part, last := each[len(each)-1].Seconds()/max(each[0].Seconds(), 1e-9), e.pending[len(e.pending)-1]
	g.goal(fmt.Sprintf("a coalesced event beside %d pending jobs: Redis CPU, of that beside %d", last, e.pending[0]), fmt.Sprintf("%.2f", part), "≤ 1.20, independent", part <= 1.2)
	return g
}

// replaceEach queues events of one installation one after the other, each of which replaces the one before, and gives how long each took.
func (s *scale) replaceEach(from, n int) (took []time.Duration) {
	s.tb.Helper()
	for i := range n {
		j := jobOf(installationOf(1), from+i, job.ClassEvent)
		j.Rule, j.Event, j.Coalesce, j.HappenedAt = "rule", "event", "what", time.Now()
		began := time.Now()
		_, created, err := s.client.Enqueue(s.tb.Context(), j)
		s.must(err)
		if !created {
			s.tb.Fatal("an event was there before")
		}
		took = append(took, time.Since(began))
	}
	return took
}

// settled waits until Redis writes no file anew.
func (s *scale) settled() {
	s.tb.Helper()
	s.until("the append-only file is rewritten", func() bool {
		info := s.info("persistence")
		return info["aof_rewrite_in_progress"] == "0" && info["aof_rewrite_scheduled"] == "0"
	})
}

// promotion gives so many slots at once to jobs that stand in line.
func (e extent) promotion(start func(most int) *scale) (g growth) {
	g.table = Table{
		Title:  "Slots for jobs in line",
		Note:   "As many jobs of one installation stand in line as the cap allows at once, and all slots are free: looks until all jobs have one.",
		Header: []string{"cap", "looks", "longest script", "Redis CPU, each job"},
	}
	for _, n := range e.caps {
		s := start(n)
		mine, writer := installationOf(1), s.writer(1)
		drive(s.tb, n+1, func(i int) error {
			_, err := writer.Create(s.tb.Context(), jobOf(mine, i, job.ClassInteractive))
			return err
		})
		looks, tickets := 0, 1
		spent := s.measure(func() {
			for ; tickets < n; looks++ {
				found, err := s.client.Look(s.tb.Context(), mine, nil, false)
				s.must(err)
				if tickets += len(found.Tickets); len(found.Tickets) == 0 {
					s.tb.Fatalf("%d of %d jobs have a slot, and no other gets one", tickets, n)
				}
			}
		})
		g.table.Rows = append(g.table.Rows, []string{fmt.Sprint(n), fmt.Sprint(looks), spent.script(), micros(spent.cpu / time.Duration(n))})
		g.goal(fmt.Sprintf("slots with a cap of %d: longest script", n), spent.script(), "none fails, ≤ "+milliseconds(longestScript), spent.longest <= longestScript)
	}
	return g
}
