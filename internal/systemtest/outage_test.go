package systemtest

import (
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// outage is Redis away for ten minutes' worth of events, with the receiver killed in the middle.
type outage struct {
	before, during, after int // events
	rate                  int // a second
	repositories          int
	minute                time.Duration // between Forge's redeliveries; 0: Forge makes none
	cut                   bool          // Redis's file loses its last second, as where a machine loses its power
}

// outageRules makes each event a push that would show if it was done twice: a line on top of a file.
const outageRules = `rules:
  - name: soak
    on: avi:bitbucket:push:repository
    job:
      repository: {workspace: acme, slug: "{{ event.repository.slug }}"}
      push:
        branch: main
        message: "Event {{ event.push.ref }}"
        changes:
          - replace: {paths: [log.txt], regexp: true, pattern: '\A', with: "{{ event.push.ref }}\n"}
`

// endured is what came of it. Executed is counted in the git server's repositories: commits by the event that they name.
type endured struct {
	events, answered, sent, refused int
	jobs, executed, duplicates      int
	lost, unanswered                int // of the events answered with 2xx, and of the others
	longest                         time.Duration
	states                          map[string]int
}

func (o outage) run(t testing.TB) endured {
	t.Helper()
	s := newSystem(t)
	defer s.end()
	roots := s.startRepositories(o.repositories)
	s.useRules(outageRules)
	s.startReceiver()
	worker := s.startSoakWorker("GITSMITH_CONCURRENCY=4")
	f := s.newFlood(o.minute, s.oauthToken(4*time.Hour))
	events := eventsOf(0, o.before+o.during+o.after, 4, o.repositories)
	var group sync.WaitGroup
	group.Go(func() { f.run(t.Context(), events, o.rate) })

	o.disturb(t, s, f)
	group.Wait()
	// What the worker held when Redis died comes back by itself after two minutes; another worker need not wait for that.
	worker.kill()
	s.forgiveDeadWorkers()
	worker = s.startSoakWorker("GITSMITH_CONCURRENCY=4")
	s.settle(4 * time.Minute)
	if status := worker.stop(t); status != 0 {
		t.Errorf("the worker ended with status %d", status)
	}
	result := o.judge(events, roots, s)
	result.sent, result.refused, result.longest = f.sent, f.refused, f.longest
	if len(f.unread) > 0 {
		t.Logf("refused: %q", f.unread)
	}
	return result
}

// disturb kills Redis after the first events, the receiver in the middle, and starts Redis again after the last.
func (o outage) disturb(t testing.TB, s *system, f *flood) {
	t.Helper()
	reach := func(events int) {
		within(t, 5*time.Minute, fmt.Sprintf("%d deliveries", events), func() error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.sent-f.refused < events && f.sent < events+o.during/4 {
				return fmt.Errorf("%d were sent", f.sent)
			}
			return nil
		})
	}
	mark := int64(-1)
	if o.cut {
		reach(max(o.before-o.rate, 1)) // a second before the end
		mark = s.redis.Written()
	}
	reach(o.before)
	s.redis.Crash(mark)
	reach(o.before + o.during/2)
	if !o.cut { // who remembers what Redis lost is not to be killed as well
		s.receiver.kill()
		s.startReceiver()
	}
	reach(o.before + o.during)
	s.redis.Restart()
}

// startRepositories serves repositories r0, r1, … by git http-backend behind the stand-in Bitbucket, and returns their folders.
func (s *system) startRepositories(count int) []string {
	s.t.Helper()
	root := s.t.TempDir()
	git, err := gittest.New(root)
	if err != nil {
		s.t.Fatal(err)
	}
	s.bitbucket = bitbuckettest.New(bitbuckettest.Config{Root: root, Git: git})
	var folders []string
	for i := range count {
		slug := "r" + strconv.Itoa(i)
		if err := git.CreateRepository(s.t.Context(), workspace+"/"+slug, map[string]string{"log.txt": "begin\n"}); err != nil {
			s.t.Fatal(err)
		}
		if _, err := s.bitbucket.AddRepository(bitbuckettest.Repository{Workspace: workspace, Slug: slug}); err != nil {
			s.t.Fatal(err)
		}
		folders = append(folders, git.Path(workspace+"/"+slug))
	}
	server := httptest.NewServer(s.bitbucket)
	s.t.Cleanup(server.Close)
	s.gitURL = server.URL
	return folders
}

// judge compares the deliveries with the commits on the server.
func (o outage) judge(events []*happened, folders []string, s *system) endured {
	s.t.Helper()
	commits := map[string]int{}
	for _, folder := range folders {
		s.bare = folder
		for line := range strings.Lines(s.git("log", "--format=%s", "main")) {
			if ref, found := strings.CutPrefix(strings.TrimSpace(line), "Event "); found {
				commits[ref]++
			}
		}
		s.git("fsck", "--strict", "--no-dangling")
	}
	result := endured{events: len(events), states: s.tally()}
	for _, count := range result.states {
		result.jobs += count
	}
	for _, event := range events {
		done := commits[event.ref()]
		result.executed += min(done, 1)
		result.duplicates += max(done-1, 0)
		switch {
		case event.answered > 0:
			result.answered++
			result.lost += 1 - min(done, 1)
		case done == 0:
			result.unanswered++
		}
		if len(event.jobs) > 1 {
			result.duplicates++
		}
	}
	return result
}

// check holds what must be true of every outage.
func (e endured) check(t testing.TB, o outage) {
	t.Helper()
	t.Logf("%+v", e)
	// Where Redis loses what it had answered, a push may be done again that others have pushed on top of.
	onTop := o.cut && o.before+o.during+o.after > o.repositories
	if e.lost > 0 || e.duplicates > 0 && !onTop {
		t.Errorf("%d events that were answered are lost, %d were done twice", e.lost, e.duplicates)
	}
	if e.answered != e.events && o.minute > 0 {
		t.Errorf("%d of %d events were answered in the end", e.answered, e.events)
	}
	if e.longest > forgeWaits {
		t.Errorf("an answer took %s", e.longest)
	}
}

// TestOutage kills Redis and then the receiver under load: what was answered with 2xx is done once, and with Forge's redeliveries
// all of it.
func TestOutage(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]outage{
		"without redelivery": {before: 40, during: 80, after: 20, rate: 40, repositories: 16},
		"with redelivery":    {before: 40, during: 80, after: 20, rate: 40, repositories: 16, minute: time.Second},
		// Each event has a repository of its own: what others have pushed on top of is found by its intent alone, which Redis loses here
		// (docs/performance.md, Soak).
		"with its last second": {before: 80, during: 40, after: 20, rate: 40, repositories: 140, minute: time.Second, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o.run(t).check(t, o)
		})
	}
}
