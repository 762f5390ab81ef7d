package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gitsmith/gitsmith/internal/dispatch"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/queue"
)

// takeOver is for how long dispatchers that have just begun are not measured: those before them have given their leases back.
const takeOver = 3 * time.Second

// sweep looks at installations that have jobs in line, by more and more workers' dispatchers.
func (e extent) sweep(start func(most int) *scale) (g growth) {
	g.table = Table{
		Title: "Sweep over installations with parked jobs",
		Note: fmt.Sprintf("Redis CPU for a look at each, once in %v, with all that dispatchers ask besides, less what an idle Redis takes. Each installation has one job in the queue and two in line; no worker takes jobs. Measured for %v.",
			ledger.LookPause, e.window),
		Header: []string{"installations"},
	}
	for _, n := range e.dispatchers {
		g.table.Header = append(g.table.Header, fmt.Sprintf("%d workers", n))
	}
	g.table.Header = append(g.table.Header, "longest script")
	for _, n := range e.installations {
		s := start(1)
		still := s.measure(func() { s.pass(e.window / 3) })
		drive(s.tb, 3*n, func(i int) error {
			_, _, err := s.client.Enqueue(s.tb.Context(), jobOf(installationOf(i/3), i, job.ClassEvent))
			return err
		})
		s.settled()
		stop := s.dispatchers(1)
		s.pass(e.window)
		stop()
		row, longest := []string{fmt.Sprint(n)}, cost{}
		for _, workers := range e.dispatchers {
			stop := s.dispatchers(workers)
			s.pass(min(takeOver, e.window))
			spent := s.measure(func() { s.pass(e.window) })
			stop()
			sweep := time.Duration(max(0, spent.cores()-still.cores()) * float64(ledger.LookPause))
			row = append(row, milliseconds(sweep))
			if spent.longest >= longest.longest {
				longest = spent
			}
			if n == e.installations[len(e.installations)-1] {
				g.goal(fmt.Sprintf("sweep over %d installations, %d workers: Redis CPU", n, workers), milliseconds(sweep), "≤ 200 ms", sweep <= 200*time.Millisecond)
			}
		}
		g.table.Rows = append(g.table.Rows, append(row, longest.script()))
	}
	return g
}

// blocked is a processor whose jobs run until the worker stops.
type blocked struct{ begun atomic.Int64 }

func (b *blocked) Process(ctx context.Context, _ job.Job) (job.Result, error) {
	b.begun.Add(1)
	<-ctx.Done()
	return job.Result{}, ctx.Err()
}

// active has workers with all their slots taken, and measures what it takes to see which of the jobs have lost their worker.
func (e extent) active(start func(most int) *scale) (g growth) {
	g.table = Table{
		Title: fmt.Sprintf("Workers with %d jobs each that run", e.slots),
		Note: "Redis CPU of one core. Judging: what the workers' dispatchers add, who look for leases that have run out and for lost tickets. Without them: each job's\n" +
			"worker renews its lease every 3 s, and asynq's own heartbeats.",
		Header: []string{"workers", "jobs that run", "judging", "workers without it", "longest script"},
	}
	for _, workers := range e.workers {
		s := start(0)
		running, total := new(blocked), workers*e.slots
		drive(s.tb, total, func(i int) error {
			_, _, err := s.client.Enqueue(s.tb.Context(), jobOf(installationOf(i%100), i, job.ClassInteractive))
			return err
		})
		servers := make([]*queue.Server, workers)
		for i := range servers {
			servers[i] = queue.NewServer(s.options, queue.ServerConfig{Processor: running, Concurrency: e.slots, JobTimeout: time.Hour, Grace: time.Millisecond})
			s.must(servers[i].Start())
		}
		s.until("all jobs run", func() bool { return running.begun.Load() == int64(total) })
		s.pass(min(takeOver, e.window))
		alone := s.measure(func() { s.pass(e.window) })
		stop := s.dispatchers(workers)
		s.pass(min(takeOver, e.window))
		both := s.measure(func() { s.pass(e.window) })
		stop()
		stopAll(servers)
		judging := max(0, both.cores()-alone.cores())
		g.table.Rows = append(g.table.Rows, []string{fmt.Sprint(workers), fmt.Sprint(total), cores(judging), cores(alone.cores()), both.script()})
		g.goal(fmt.Sprintf("judging the jobs of %d workers × %d", workers, e.slots), cores(judging), "≤ 0.020 core", judging <= 0.02)
		if again := running.begun.Load(); again != int64(total) {
			s.tb.Fatalf("%d jobs were begun, of %d", again, total)
		}
	}
	return g
}

// stopAll stops servers at the same time.
func stopAll(servers []*queue.Server) {
	done := make(chan struct{})
	for _, server := range servers {
		go func() { server.Stop(); done <- struct{}{} }()
	}
	for range servers {
		<-done
	}
}

// idle is a worker that has nothing to do, and then a job now and then.
func (e extent) idle(start func(most int) *scale) (g growth) {
	s := start(scaleCap)
	begun := make(chan time.Time, 1)
	server := queue.NewServer(s.options, queue.ServerConfig{
		Processor: done{}, Concurrency: e.slots,
		Started: func(context.Context, job.Job, time.Duration) { begun <- time.Now() },
	})
	s.must(server.Start())
	stop := s.beside(s.worker(nil)...)
	s.pass(min(takeOver, e.window))
	s.trips.since()
	spent := s.measure(func() { s.pass(e.window) })
	dequeues := float64(s.trips.since()[dequeue+" of nothing"]) / spent.wall.Seconds()
	client := queue.NewClient(s.options)
	took := make([]time.Duration, e.lone)
	for i := range took {
		s.pass(50*time.Millisecond + rand.N(100*time.Millisecond)) // at any place between two polls
		asked := time.Now()
		_, _, err := client.Enqueue(s.tb.Context(), jobOf(installationOf(1), i, job.ClassInteractive))
		s.must(err)
		took[i] = (<-begun).Sub(asked)
	}
	stop()
	server.Stop()
	slices.Sort(took)
	median := took[len(took)/2]
	g.table = Table{
		Title:  "An idle worker, and a lone job",
		Note:   fmt.Sprintf("A worker with its dispatcher and its driver, for %v; then %d jobs at any time, from the call that queues one until its attempt has begun.", e.window, e.lone),
		Header: []string{"dequeues a second", "Redis CPU", "a lone job's median", "p90", "longest"},
		Rows:   [][]string{{fmt.Sprintf("%.1f", dequeues), cores(spent.cores()), tenths(median), tenths(took[len(took)*9/10]), tenths(took[len(took)-1])}},
	}
	g.goal("an idle worker: dequeues a second", fmt.Sprintf("%.1f", dequeues), "≤ 71", dequeues <= 71)
	g.goal("a lone job: median delay until it begins", tenths(median), "≤ 30.0 ms", median <= 30*time.Millisecond)
	return g
}

// done is a processor that has nothing to do.
type done struct{}

func (done) Process(context.Context, job.Job) (job.Result, error) { return job.Result{}, nil }

// worker is what a worker runs beside its server. driven, which may be nil, gets the driver.
func (s *scale) worker(driven func(*dispatch.Driver)) []func(context.Context) error {
	dispatcher := s.dispatcher()
	driver := dispatch.NewDriver(dispatch.DriverConfig{
		Batches: s.batches, Queue: queue.NewClient(s.options), Tokens: s.vault, TokenMargin: time.Minute, Leads: dispatcher.Leads, Logger: s.options.Logger,
	})
	if driven != nil {
		driven(driver)
	}
	return []func(context.Context) error{dispatcher.Run, driver.Run}
}
