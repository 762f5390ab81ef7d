package systemtest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"
)

// mayhem is many events with two workers, of which one is killed again and again.
type mayhem struct {
	events        int
	rate          int // a second; 0: as fast as answers come
	installations int
	pause         time.Duration // between kills
	concurrency   int
	natural       bool       // a killed worker's jobs come back as they do in production: after some 20 seconds
	disturb       *disturber // instead of kills, asynq loses what it has
}

// survived is what came of it. Reads are counted by the git server.
type survived struct {
	events, selfGenerated, sent, refused, redelivered int
	jobs, done, executed                              int
	duplicates, lost                                  int
	kills, again                                      int // workers killed; reads beyond the first of an event
	longest, took                                     time.Duration
	states                                            map[string]int
}

func (m mayhem) run(t testing.TB) survived {
	t.Helper()
	s := newSystem(t)
	git := s.startRecorded()
	s.useRules(readRules)
	s.startReceiver()
	events := eventsOf(1, m.events, m.installations, 1)
	for i, event := range events {
		event.again, event.selfGenerated = i%10 < 3, i%20 == 7
	}
	f := s.newFlood(time.Second, s.oauthToken(4*time.Hour))
	steady := s.startSoakWorker(m.settings(t)...)
	ctx, end := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { f.run(t.Context(), events, m.rate); end() })
	kills := 0
	if m.disturb != nil {
		s.startSoakWorker(m.settings(t)...)
		kills = m.disturb.run(ctx, s, m.pause)
	} else {
		kills = m.kill(ctx, s)
	}
	group.Wait()
	if !m.natural {
		steady.kill()
		s.forgiveDeadWorkers()
		s.startSoakWorker(m.settings(t)...)
	}
	s.settle(6 * time.Minute)
	result := survived{took: time.Since(f.began), kills: kills, events: m.events, sent: f.sent, refused: f.refused, longest: f.longest, states: s.tally()}
	result.judge(events, git.read())
	if len(f.unread) > 0 {
		t.Logf("refused: %q", f.unread)
	}
	return result
}

func (m mayhem) settings(t testing.TB) []string {
	return []string{fmt.Sprintf("GITSMITH_CONCURRENCY=%d", m.concurrency), "GITSMITH_CACHE_DIR=" + t.TempDir(), "GITSMITH_TEMP_DIR=" + t.TempDir()}
}

// kill starts a worker, kills it after a while and starts the next one, until ctx ends. The last one stays. It returns how many it killed.
func (m mayhem) kill(ctx context.Context, s *system) (kills int) {
	s.t.Helper()
	tick := time.NewTicker(m.pause)
	defer tick.Stop()
	settings := m.settings(s.t)
	for {
		victim := s.startSoakWorker(settings...)
		select {
		case <-ctx.Done():
			return kills
		case <-tick.C:
			victim.kill()
			kills++
		}
	}
}

func (r *survived) judge(events []*happened, reads map[string]int) {
	for _, count := range r.states {
		r.jobs += count
	}
	r.done = r.states["succeeded"]
	for _, event := range events {
		count := reads[event.ref()]
		r.redelivered += event.sent - 1
		r.duplicates += max(len(event.jobs)-1, 0)
		if event.selfGenerated {
			r.selfGenerated++
			r.duplicates += count // it was not to be done at all
			continue
		}
		r.executed += min(count, 1)
		r.again += max(count-1, 0)
		if count == 0 || len(event.jobs) != 1 {
			r.lost++
		}
	}
}

func (r survived) check(t testing.TB, m mayhem) {
	t.Helper()
	t.Logf("%+v", r)
	want := r.events - r.selfGenerated
	if r.lost > 0 || r.duplicates > 0 || r.jobs != want || r.done != want || r.executed != want {
		t.Errorf("want %d jobs, done and executed; %d are lost, %d are duplicates", want, r.lost, r.duplicates)
	}
	most := (r.kills + 1) * m.concurrency
	if m.disturb != nil {
		most = 0 // nothing that runs is touched
	}
	if r.again > most {
		t.Errorf("%d reads were repeated, more than the %d that the killed workers can have had", r.again, most)
	}
}

// TestKillsUnderLoad kills a worker again and again while events come, some of them twice, in other shapes: each makes one job, which is
// done.
func TestKillsUnderLoad(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long; make test-all runs it")
	}
	m := mayhem{events: 600, rate: 200, installations: 4, pause: time.Second, concurrency: 4}
	m.run(t).check(t, m)
}
