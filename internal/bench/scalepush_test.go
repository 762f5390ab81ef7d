package bench

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gitsmith/gitsmith/internal/artifact"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/budget"
	"github.com/gitsmith/gitsmith/internal/dispatch"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/repolock"
	"github.com/gitsmith/gitsmith/internal/telemetry"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// What a batch repository's push took before jobs were kept in their records.
const (
	tripsBefore = 14
	innerBefore = 31 + 24
	mostTrips   = 8
)

// push runs a batch over real repositories by one worker that does one at a time, and counts what it asks of Redis for each.
func (e extent) push(start func(most int) *scale) (g growth) {
	s := start(scaleCap)
	git := e.serve(s)
	mine, id := installationOf(1), batchID(1)
	s.token(mine)
	var driver *dispatch.Driver
	var succeeded, failed atomic.Int64
	runs := s.worker(func(d *dispatch.Driver) { driver = d })
	server := queue.NewServer(s.options, queue.ServerConfig{
		Processor: s.processor(git), Concurrency: 1,
		Ended: func(_ context.Context, j job.Job, end queue.End) {
			driver.Nudge(j.Installation, j.Batch.ID)
			if end.State == job.Succeeded {
				succeeded.Add(1)
			} else {
				failed.Add(1)
			}
		},
	})
	s.must(server.Start())
	stop := s.beside(runs...)
	s.pass(min(takeOver, e.window))
	s.trips.since()
	began := time.Now()
	s.pass(e.window)
	background, idle := s.trips.since(), time.Since(began)

	_, _, err := s.batches.Create(s.tb.Context(), s.batchOf(mine, id, e.pushes, 1, e.shape.Edited()))
	s.must(err)
	s.until("the first repository has ended", func() bool { return succeeded.Load()+failed.Load() > 0 })
	s.trips.since() // scripts are loaded, connections are there
	first, began := int(succeeded.Load()), time.Now()
	spent := s.measure(func() {
		s.until("all repositories have ended", func() bool { return succeeded.Load()+failed.Load() == int64(e.pushes) })
	})
	took, seen := time.Since(began), s.trips.since()
	stop()
	server.Stop()
	if failed.Load() > 0 {
		s.tb.Fatalf("%d repositories have failed", failed.Load())
	}
	items := float64(e.pushes - first)
	each, all := tripsOf(seen, background, took.Seconds()/idle.Seconds(), items)
	begin, end := e.inner(s)
	g.table = Table{
		Title: "A batch repository's push",
		Note: fmt.Sprintf("Round trips to Redis for each of %.0f repositories, one after the other, from the driver's choosing to the end, less what the worker asks when idle; a pipeline is one.\n"+
			"Before jobs were kept in their records it was %d, beside the driver's. In all, Redis executed %.0f commands for each and took %s; begin has %.1f of them and end %.1f (%d before).",
			items, tripsBefore, float64(spent.inner)/items, micros(time.Duration(float64(spent.cpu)/items)), begin, end, innerBefore),
		Header: []string{"round trip", "each"}, Rows: each,
	}
	g.goal("a batch repository's push: round trips", fmt.Sprintf("%.1f", all), fmt.Sprintf("≤ %d", mostTrips), all <= mostTrips)
	g.goal("a batch repository's begin and end: inner commands", fmt.Sprintf("%.1f", begin+end), fmt.Sprintf("≤ %.1f", innerBefore/2.0), begin+end <= innerBefore/2.0)
	return g
}

// tripsOf are the round trips for each item by kind, and their sum, less those of an idle worker in that time.
func tripsOf(seen, background map[string]int, share, items float64) (rows [][]string, all float64) {
	each := map[string]float64{}
	for kind, n := range seen {
		if left := (float64(n) - float64(background[kind])*share) / items; left >= 0.05 && kind != dequeue+" of nothing" {
			each[kind] = left
			all += left
		}
	}
	for _, kind := range slices.SortedFunc(maps.Keys(each), func(a, b string) int { return cmp.Or(cmp.Compare(each[b], each[a]), strings.Compare(a, b)) }) {
		rows = append(rows, []string{kind, fmt.Sprintf("%.1f", each[kind])})
	}
	return append(rows, []string{"all", fmt.Sprintf("%.1f", all)}), all
}

// serve starts a git server with a repository for each push.
func (e extent) serve(s *scale) *gitServer {
	s.tb.Helper()
	root := s.tb.TempDir()
	cache := cacheFolder
	if e.shape.Name == "tiny" {
		cache = root
	}
	built, err := Build(s.tb.Context(), cache, e.shape)
	s.must(err)
	server := startGitServer(s.tb, filepath.Join(root, "server"))
	for i := range e.pushes {
		install(s.tb, built, server.git.Path(fmt.Sprintf("%s/r%d", Workspace, i)))
	}
	return server
}

// processor is a worker's, wired as internal/app does.
func (s *scale) processor(server *gitServer) *worker.Worker {
	s.tb.Helper()
	base, err := url.Parse(server.base)
	s.must(err)
	root := s.tb.TempDir()
	git, err := gitrepo.New(gitrepo.Config{Base: base, TempDir: filepath.Join(root, "temp"), CacheDir: filepath.Join(root, "tips")})
	s.must(err)
	s.tb.Cleanup(func() { _ = git.Close() })
	rest, err := bitbucket.NewClient(bitbucket.Config{Base: base, Logger: s.options.Logger})
	s.must(err)
	artifacts, err := artifact.Open(s.tb.Context(), "mem://")
	s.must(err)
	s.tb.Cleanup(func() { _ = artifacts.Close() })
	known := installation.New(s.redis, installation.Options{})
	return worker.New(worker.Config{
		Content: &dispatch.Filler{Batches: s.batches, Limits: job.DefaultLimits()},
		Tokens:  s.vault, Installs: s.vault, Installations: known, Names: known,
		Budget: budget.New(s.redis, budget.Options{GitPerHour: 1_000_000_000, ExchangesPerMinute: 950}),
		Locker: worker.NewLocker(repolock.New(s.redis, repolock.Options{})), Git: worker.NewGit(git), Keyring: s.options.Keyring,
		Artifacts: artifacts, REST: rest, Recorder: telemetry.NewMetrics(), Logger: s.options.Logger,
		Limits: edit.DefaultLimits(), TokenMargin: time.Minute, ArtifactTTL: time.Hour, MaxRepository: 1 << 30, TempDir: git.TempFolder(),
		Author: job.Author{Name: "Bench", Email: "bench@example.com"},
	})
}
