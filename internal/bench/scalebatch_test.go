package bench

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
)

// batchOf is a batch over n repositories, so many at once, of a push that changes a file's first word.
func (s *scale) batchOf(installation, id string, n, atOnce int, file string) batch.Batch {
	s.tb.Helper()
	targets := make([]string, n)
	for i := range targets {
		targets[i] = fmt.Sprintf(`{"workspace": "bench", "slug": "r%d"}`, i)
	}
	body := fmt.Sprintf(`{"repositories": [%s], "concurrency": %d, "push": `+jobPush+`}`, strings.Join(targets, ", "), atOnce, file, 1)
	request, err := batch.ParseRequest([]byte(body), job.DefaultLimits())
	s.must(err)
	return batch.Batch{
		ID: id, Installation: installation, Actor: system, CreatedAt: time.Now().UTC().Truncate(time.Millisecond), Digest: "digest of " + id, Request: request,
	}
}

func batchID(i int) string { return fmt.Sprintf("%08x-3333-4333-8333-333333333333", i) }

// rounds measures workers' drivers on batches of which nothing can begin.
func (e extent) rounds(start func(most int) *scale) (g growth) {
	s := start(scaleCap)
	const installations = 100
	for i := range min(installations, e.batches) {
		s.token(installationOf(i))
	}
	workers := func() (stop func()) {
		var runs []func(context.Context) error
		for range e.drivers {
			runs = append(runs, s.worker(nil)...)
		}
		return s.beside(runs...)
	}
	steady := func() cost {
		s.pass(min(2*takeOver, e.window))
		return s.measure(func() { s.pass(e.window) })
	}
	stop := workers()
	none := steady()
	stop()
	drive(s.tb, e.batches, func(i int) error {
		mine := installationOf(i % installations)
		if _, _, err := s.batches.Create(s.tb.Context(), s.batchOf(mine, batchID(i), 2, 1, "a.txt")); err != nil {
			return err
		}
		return s.batches.Pause(s.tb.Context(), mine, batchID(i))
	})
	stop = workers()
	paused := steady()
	drive(s.tb, e.batches, func(i int) error {
		return s.batches.Resume(s.tb.Context(), installationOf(i%installations), batchID(i))
	})
	going := steady()
	stop()
	runs := s.dispatchers(e.drivers)
	alone := steady()
	runs()
	pausedCost, goingCost := max(0, paused.cores()-none.cores()), max(0, going.cores()-alone.cores())
	g.table = Table{
		Title: fmt.Sprintf("%d batches and %d workers", e.batches, e.drivers),
		Note: "Redis CPU of one core, measured for " + e.window.String() + ". Paused: what it takes more than without batches. Going: one repository of each is queued and no worker takes it, so nothing begins;\n" +
			"what it takes more than dispatchers without drivers, who look at the jobs.",
		Header: []string{"", "all", "of that, batches", "longest script"},
		Rows: [][]string{
			{"no batch", cores(none.cores()), "", none.script()},
			{"all are paused", cores(paused.cores()), cores(pausedCost), paused.script()},
			{"dispatchers without drivers", cores(alone.cores()), "", alone.script()},
			{"all are going", cores(going.cores()), cores(goingCost), going.script()},
		},
	}
	g.goal(fmt.Sprintf("%d paused batches, %d workers", e.batches, e.drivers), cores(pausedCost), "0 (within 0.002)", pausedCost <= 0.002)
	g.goal(fmt.Sprintf("%d batches, %d workers", e.batches, e.drivers), cores(goingCost), "≤ 0.050 core", goingCost <= 0.05)
	return g
}

// pages lists the jobs of a batch page by page. They were all asked for in the same millisecond.
func (e extent) pages(start func(most int) *scale) (g growth) {
	g.table = Table{
		Title:  "A batch's jobs, page by page",
		Note:   "GET /v1/jobs in pages of 100 until the end; all jobs are of the same millisecond.",
		Header: []string{"jobs", "commands, each job", "Redis CPU", "Redis CPU, each job", "time"},
	}
	var each []float64
	for _, n := range e.listed {
		s := start(scaleCap)
		now, mine, writer := time.Now().UTC().Truncate(time.Millisecond), installationOf(1), s.writer(scaleCap)
		drive(s.tb, n, func(i int) error {
			j := jobOf(mine, i, job.ClassBatch)
			j.CreatedAt = now
			_, err := writer.Create(s.tb.Context(), j)
			return err
		})
		seen := 0
		spent := s.measure(func() {
			for cursor := ""; seen == 0 || cursor != ""; {
				list, err := s.client.List(s.tb.Context(), mine, job.ListOptions{Limit: 100, Cursor: cursor})
				s.must(err)
				seen, cursor = seen+len(list.Jobs), list.Next
			}
		})
		if seen != n {
			s.tb.Fatalf("%d jobs are listed, of %d", seen, n)
		}
		each = append(each, spent.cpu.Seconds()/float64(n))
		g.table.Rows = append(g.table.Rows, []string{
			fmt.Sprint(n), fmt.Sprintf("%.2f", float64(spent.inner)/float64(n)), milliseconds(spent.cpu), micros(spent.cpu / time.Duration(n)), milliseconds(spent.wall),
		})
	}
	part, last := each[len(each)-1]/max(each[0], 1e-9), e.listed[len(e.listed)-1]
	g.goal(fmt.Sprintf("list of %d jobs: Redis CPU for each, of that of %d", last, e.listed[0]), fmt.Sprintf("%.2f", part), "≤ 1.20, O(n) in all", part <= 1.2)
	return g
}

// creation writes large batches down.
func (e extent) creation(start func(most int) *scale) (g growth) {
	g.table = Table{Title: "Creation of a batch", Header: []string{"repositories", "longest script", "Redis CPU", "time"}}
	for _, n := range e.repositories {
		s := start(scaleCap)
		asked := s.batchOf(installationOf(1), batchID(n), n, 16, "a.txt")
		spent := s.measure(func() {
			_, created, err := s.batches.Create(s.tb.Context(), asked)
			s.must(err)
			if !created {
				s.tb.Fatal("the batch was there before")
			}
		})
		g.table.Rows = append(g.table.Rows, []string{fmt.Sprint(n), spent.script(), milliseconds(spent.cpu), milliseconds(spent.wall)})
		g.goal(fmt.Sprintf("a batch of %d repositories: longest script", n), spent.script(), "≤ "+milliseconds(longestScript), spent.longest <= longestScript)
	}
	return g
}

// inner counts the commands in the scripts that begin and end a batch's jobs.
func (e extent) inner(s *scale) (begin, end float64) {
	s.tb.Helper()
	ctx, mine, id, n := s.tb.Context(), installationOf(7), batchID(7), min(e.pushes+1, scaleCap)
	_, _, err := s.batches.Create(ctx, s.batchOf(mine, id, n, 100, "a.txt"))
	s.must(err)
	var tickets []ledger.Ticket
	for i := range n {
		j := jobOf(mine, i, job.ClassBatch)
		j.ID, j.Batch = batch.JobID(id, i), job.BatchRef{ID: id, Item: i}
		j.Push = nil
		created, err := s.client.Create(ctx, j)
		s.must(err)
		tickets = append(tickets, created.Tickets...)
	}
	attempts := make([]ledger.Attempt, n)
	beginOne := func(i int) {
		begun, err := s.client.Begin(ctx, tickets[i], "first")
		s.must(err)
		attempts[i] = begun.Attempt
	}
	endOne := func(i int) {
		result := job.Result{Push: &job.PushResult{Branch: "main", Commit: strings.Repeat("c", 40), Changed: 1}}
		_, _, err := s.client.End(ctx, tickets[i], attempts[i], ledger.Outcome{State: job.Succeeded, Counted: true, Result: result})
		s.must(err)
	}
	all := func(one func(i int)) float64 {
		one(0) // which loads the script
		return float64(s.measure(func() {
			for i := 1; i < n; i++ {
				one(i)
			}
		}).inner) / float64(n-1)
	}
	return all(beginOne), all(endOne)
}
