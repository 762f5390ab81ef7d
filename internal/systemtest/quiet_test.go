package systemtest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// neighbours are an installation with many waiting jobs and one with few.
type neighbours struct {
	noisy       int // jobs that wait
	quiet       int // jobs, one after each pause
	pause       time.Duration
	most        int // GITSMITH_INSTALLATION_JOBS; 0: the default
	concurrency int
}

// waits are how long the quiet one's jobs waited from being queued to being started.
type waits struct {
	p50, p99, longest time.Duration
	left              int // of the noisy one's jobs, when the last of the quiet one's had begun
}

const quietInstallation = "ari:cloud:ecosystem::installation/quiet"

func (n neighbours) run(t testing.TB) waits {
	t.Helper()
	s := newSystem(t)
	defer s.end()
	s.startRecorded()
	s.useRules(readRules)
	settings := []string{fmt.Sprintf("GITSMITH_CONCURRENCY=%d", n.concurrency)}
	if n.most > 0 {
		bound := fmt.Sprintf("GITSMITH_INSTALLATION_JOBS=%d", n.most)
		s.settings, settings = append(s.settings, bound), append(settings, bound)
	}
	s.startReceiver()
	f := s.newFlood(0, s.oauthToken(4*time.Hour))
	f.run(t.Context(), eventsOf(1, n.noisy, 1, 1), 0)
	quiet := eventsOf(n.noisy+1, n.quiet, 1, 1)
	for _, event := range quiet {
		event.installation = quietInstallation
	}
	s.startSoakWorker(settings...)
	var group sync.WaitGroup
	group.Go(func() { n.trickle(t, f, quiet) })
	group.Wait()
	var all []time.Duration
	within(t, 5*time.Minute, "the quiet installation's jobs have begun", func() error {
		all = all[:0]
		for _, job := range s.records("gitsmith:{" + quietInstallation + "}:job:*") {
			if job.started > 0 {
				all = append(all, time.Duration(job.started-job.created)*time.Millisecond)
			}
		}
		if len(all) < n.quiet {
			return fmt.Errorf("%d of %d", len(all), n.quiet)
		}
		return nil
	})
	slices.Sort(all)
	left, err := s.unfinished()
	if err != nil {
		t.Fatal(err)
	}
	return waits{p50: all[len(all)/2], p99: all[len(all)*99/100], longest: all[len(all)-1], left: int(left)}
}

// trickle sends one event after each pause.
func (n neighbours) trickle(t testing.TB, f *flood, events []*happened) {
	tick := time.NewTicker(n.pause)
	defer tick.Stop()
	for _, event := range events {
		select {
		case <-tick.C:
			f.try(t.Context(), event, 0)
		case <-t.Context().Done():
			return
		}
	}
}

// sleepers are system jobs that wait for a token, until a scheduled trigger brings one.
type sleepers struct {
	jobs        int
	concurrency int
	git         bool // a git server's own http-backend, instead of its recorded answers
}

// woken is how long it took from the trigger.
type woken struct {
	answered, awake, begun, done time.Duration // the trigger's answer, the last one's waking, beginning and end
	early                        int           // jobs that began before one that was 100 and more before them
}

func (p sleepers) run(t testing.TB) woken {
	t.Helper()
	s := newSystem(t)
	defer s.end()
	if p.git {
		s.startRepositories(1)
		s.useRules(mainRules)
	} else {
		s.startRecorded()
		s.useRules(readRules)
	}
	s.startReceiver()
	s.startSoakWorker(fmt.Sprintf("GITSMITH_CONCURRENCY=%d", p.concurrency))
	// Less life than the worker's margin: as good as gone.
	f := s.newFlood(0, s.oauthToken(30*time.Second))
	f.run(t.Context(), eventsOf(0, p.jobs, 1, 1), 0)
	within(t, 2*time.Minute, "all jobs wait", func() error {
		if states := s.tally(); states["waiting"] != p.jobs {
			return fmt.Errorf("%v", states)
		}
		return nil
	})
	start := time.Now()
	trigger := caller{installation: eventsOf(0, 1, 1, 1)[0].installation, systemToken: s.oauthToken(4 * time.Hour)}
	if status, answer := s.call(trigger, "POST", "/forge/schedule", ""); status != 200 {
		t.Fatalf("status %d: %s", status, answer)
	}
	result := woken{answered: time.Since(start)}
	within(t, time.Minute, "nobody waits", func() error {
		if waiting := s.tally()["waiting"]; waiting > 0 {
			return fmt.Errorf("%d wait", waiting)
		}
		return nil
	})
	result.awake = time.Since(start)
	within(t, 3*time.Minute, "all jobs are done", func() error {
		if states := s.tally(); states["succeeded"] != p.jobs {
			return fmt.Errorf("%v", states)
		}
		return nil
	})
	result.done = time.Since(start)
	jobs := s.records("gitsmith:{*}:job:*")
	slices.SortFunc(jobs, func(a, b kept) int { return int(a.created - b.created) })
	for i, job := range jobs {
		result.begun = max(result.begun, time.UnixMilli(job.started).Sub(start))
		if i >= 100 && job.started < jobs[i-100].started {
			result.early++
		}
	}
	return result
}

// mainRules make each event a clone that only proves that the main branch can be read.
const mainRules = `rules:
  - name: soak
    on: avi:bitbucket:push:repository
    coalesce: none
    job:
      repository: {workspace: acme, slug: "{{ event.repository.slug }}"}
      clone: {ref: main, archive: none}
`
