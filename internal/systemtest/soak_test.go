package systemtest

import (
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

const oneHour = time.Hour // far longer than anything here takes

// soakRules make a job of each event that reads its repository.
const soakRules = `rules:
  - name: soak
    on: avi:bitbucket:push:repository
    coalesce: none
    job:
      repository: {workspace: acme, slug: "{{ event.repository.slug }}"}
      clone: {ref: main, archive: none}
`

// BenchmarkSoak is what `make soak` runs: long, with the deployed binaries. SOAK chooses one part, SOAK_EVENTS its size.
func BenchmarkSoak(b *testing.B) {
	for _, part := range []struct {
		name string
		run  func(b *testing.B)
	}{{"outage", soakOutage}, {"kills", soakKills}, {"fairness", soakFairness}, {"tokens", soakTokens}} {
		if wanted := os.Getenv("SOAK"); wanted == "" || wanted == part.name {
			b.Run(part.name, part.run)
		}
	}
}

// say prints a line of the report.
func say(format string, args ...any) { fmt.Printf("soak: "+format+"\n", args...) }

func soakEvents(b *testing.B, fallback int) int {
	b.Helper()
	text := os.Getenv("SOAK_EVENTS")
	if text == "" {
		return fallback
	}
	events, err := strconv.Atoi(text)
	if err != nil || events < 1 {
		b.Fatalf("SOAK_EVENTS: %q is no number of events", text)
	}
	return events
}

// soakOutage is ten minutes' worth of two events a second, in half a minute.
func soakOutage(b *testing.B) {
	for _, minute := range []time.Duration{0, 5 * time.Second} {
		o := outage{before: 200, during: soakEvents(b, 1200), after: 200, rate: 40, repositories: 64, minute: minute}
		e := o.run(b)
		e.check(b, o)
		say("outage, redelivered after %s: events %d, deliveries %d, of them refused %d; events answered 2xx %d, executed %d, twice %d, answered and lost %d, never answered %d, longest answer %s, jobs %v",
			minute, e.events, e.sent, e.refused, e.answered, e.executed, e.duplicates, e.lost, e.unanswered, e.longest.Round(time.Millisecond), e.states)
	}
}

// soakKills delivers many events, some twice and some of the app's own, to two workers of which one is killed every ten seconds.
func soakKills(b *testing.B) {
	s := newSystem(b)
	git := s.startCanned()
	s.useRules(soakRules)
	s.startReceiver()
	settings := []string{"GITSMITH_LOG_LEVEL=warn", "GITSMITH_CONCURRENCY=8", "GITSMITH_GIT_BUDGET=0", "GITSMITH_CACHE_SIZE=1MiB"}
	s.startWorker(settings...)
	victim := s.startWorker(settings...)
	count := soakEvents(b, 100_000)
	events := eventsOf(0, count, 20, count)
	want := 0
	for _, event := range events {
		event.again, event.selfGenerated = event.number%10 < 3, event.number%20 == 0
		if !event.selfGenerated {
			want++
		}
	}
	f := s.newFlood(5*time.Second, s.oauthToken(4*time.Hour))
	begun := time.Now()
	var group sync.WaitGroup
	group.Go(func() { f.run(b.Context(), events, 0) })
	delivered := make(chan struct{})
	go func() { group.Wait(); close(delivered) }()
	kills := 0
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for !s.nearlyDone(delivered) {
		<-tick.C
		victim.kill()
		kills++
		victim = s.startWorker(settings...)
	}
	s.settle(4 * time.Minute) // what a killed worker held comes back after two minutes
	states, twice := s.tally(), 0
	made := 0
	for _, n := range states {
		made += n
	}
	for _, event := range events {
		if len(event.jobs) > 1 {
			twice++
		}
	}
	read, again := git.counts()
	say("kills: events %d, deliveries %d, refused %d, self-generated %d; jobs made %d, done %d, duplicates %d, lost %d; repositories read %d, %d of them again after a kill; %d kills in %s",
		count, f.sent, f.refused, count-want, made, states["succeeded"], max(made-want, 0)+twice, want-states["succeeded"], read, again, kills, time.Since(begun).Round(time.Second))
	if made != want || states["succeeded"] != want || twice > 0 || read != want {
		b.Errorf("%d jobs wanted: made %d, %v, %d events with two jobs, %d repositories read", want, made, states, twice, read)
	}
}

// nearlyDone reports that all is delivered and little is left to do.
func (s *system) nearlyDone(delivered <-chan struct{}) bool {
	select {
	case <-delivered:
		left, err := s.unfinished()
		return err == nil && left <= 16
	default:
		return false
	}
}

// soakFairness is how long a quiet installation's jobs wait beside a noisy one's backlog, with a cap on each and without.
func soakFairness(b *testing.B) {
	const quiet = 200
	for _, bound := range []string{"32", "1000000"} {
		s := newSystem(b)
		s.startCanned()
		s.useRules(soakRules)
		s.settings = append(s.settings, "GITSMITH_INSTALLATION_JOBS="+bound)
		s.startReceiver()
		token := s.oauthToken(4 * time.Hour)
		f := s.newFlood(time.Second, token)
		noisy := soakEvents(b, 50_000)
		f.run(b.Context(), eventsOf(0, noisy, 1, noisy), 0)
		s.startWorker("GITSMITH_LOG_LEVEL=warn", "GITSMITH_CONCURRENCY=8", "GITSMITH_GIT_BUDGET=0", "GITSMITH_CACHE_SIZE=1MiB", "GITSMITH_INSTALLATION_JOBS="+bound)
		few := eventsOf(noisy, quiet, 1, noisy+quiet)
		for _, event := range few {
			event.installation = "ari:cloud:ecosystem::installation/quiet"
		}
		f.run(b.Context(), few, 10)
		var waits []time.Duration
		within(b, 10*time.Minute, "the quiet installation's jobs have begun", func() error {
			waits = waits[:0]
			for _, k := range s.records("gitsmith:{ari:cloud:ecosystem::installation/quiet}:job:*") {
				if k.started > 0 {
					waits = append(waits, time.Duration(k.started-k.created)*time.Millisecond)
				}
			}
			if len(waits) < quiet {
				return fmt.Errorf("%d of %d have begun", len(waits), quiet)
			}
			return nil
		})
		slices.Sort(waits)
		left, _ := s.unfinished()
		say("fairness, GITSMITH_INSTALLATION_JOBS=%s: %d jobs of the noisy one wait, %d of the quiet one, ten a second: wait p50 %s, p99 %s, most %s; %d jobs left then",
			bound, noisy, quiet, waits[quiet/2], waits[quiet*99/100], waits[quiet-1], left)
	}
}

// soakTokens is how long it takes until jobs that wait for a token have begun after one has come.
func soakTokens(b *testing.B) {
	const jobs = 1000
	for _, slots := range []string{"4", "64"} {
		s := newSystem(b)
		s.startCanned()
		s.startReceiver()
		s.startWorker("GITSMITH_LOG_LEVEL=warn", "GITSMITH_CONCURRENCY="+slots, "GITSMITH_CACHE_SIZE=1MiB")
		nobody := caller{principal: "712020:alice", installation: installation}
		for i := range jobs {
			s.submit(nobody, fmt.Sprintf(`{"repository":{"workspace":"acme","slug":"r%d"},"actor":"system","on_expiry":"wait","clone":{"ref":"main","archive":"none"}}`, i))
		}
		within(b, time.Minute, "all wait", func() error {
			if waiting := s.tally()["waiting"]; waiting < jobs {
				return fmt.Errorf("%d wait", waiting)
			}
			return nil
		})
		trigger := caller{installation: installation, systemToken: s.oauthToken(4 * time.Hour)}
		begun := time.Now()
		if status, answer := s.call(trigger, http.MethodPost, "/forge/schedule", ""); status != http.StatusOK {
			b.Fatalf("status %d: %s", status, answer)
		}
		answered := time.Since(begun)
		asleep := s.tally()["waiting"]
		var last int64
		within(b, 2*time.Minute, "all have begun", func() error {
			begunJobs := 0
			last = 0
			for _, k := range s.records("gitsmith:{" + installation + "}:job:*") {
				if k.started >= begun.UnixMilli() {
					begunJobs++
				}
				last = max(last, k.started)
			}
			if begunJobs < jobs {
				return fmt.Errorf("%d have begun", begunJobs)
			}
			return nil
		})
		say("tokens, GITSMITH_CONCURRENCY=%s: %d jobs wait; the trigger that brings a token is answered after %s, %d wait then; the last has begun after %s",
			slots, jobs, answered.Round(time.Millisecond), asleep, time.Duration(last-begun.UnixMilli())*time.Millisecond)
	}
}
