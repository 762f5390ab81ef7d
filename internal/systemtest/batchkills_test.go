package systemtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
)

// slaughter is a batch in whose course everything is killed again and again, at times that the seed decides.
type slaughter struct {
	repositories int
	most         int           // kills
	pause        time.Duration // between two of them, at most
	seed         uint64
}

// victims are what can be killed. Where both workers are, their leases run out at once; what one worker alone held comes back by itself.
var victims = [5]string{"worker 1", "worker 2", "receiver", "Redis", "both workers"}

// outlasted is what came of it.
type outlasted struct {
	found
	succeeded     int
	kills         [5]int
	polls, silent int
	took          time.Duration
	groups        []batch.Group // of failures; there is to be none
}

func (k slaughter) run(t testing.TB) (r outlasted) {
	t.Helper()
	t.Logf("seed %d", k.seed)
	f := startFleet(t, k.repositories, func(next http.Handler) http.Handler { return next })
	defer f.s.end()
	herd := &herd{f: f, random: rand.New(rand.NewPCG(k.seed, 0))}
	for i := range herd.workers {
		herd.settings[i] = []string{"GITSMITH_CONCURRENCY=4", "GITSMITH_CACHE_DIR=" + t.TempDir(), "GITSMITH_TEMP_DIR=" + t.TempDir()}
		herd.start(i)
	}
	f.s.receiver.kill() // before it knows of anything
	f.s.startReceiver()
	since := time.Now()
	f.submit("chore/licence", 16)

	ended, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { defer stop(); f.watch(20 * time.Minute) })
	r.kills = herd.thin(ended, k)
	group.Wait()
	r.took = time.Since(since)
	done := f.await(time.Minute, "it has ended", isFinished)
	r.succeeded, r.groups = done.Totals[batch.Succeeded], done.Failures
	r.found = f.judge(func(int) bool { return false })
	r.polls, r.silent = f.polls, f.silent
	return r
}

// watch looks at the batch until it has ended.
func (f *fleet) watch(limit time.Duration) {
	ctx, cancel := context.WithTimeout(f.s.t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	last := batch.Status{}
	for {
		status, err := f.look()
		if err == nil {
			if last = status; isFinished(status) {
				return
			}
		}
		select {
		case <-ctx.Done():
			f.s.t.Errorf("it does not end: %s %q %v (%v)", last.State, last.Reason, last.Totals, errors.Join(err, ctx.Err()))
			return
		case <-tick.C:
		}
	}
}

// herd are the processes that can be killed.
type herd struct {
	f        *fleet
	random   *rand.Rand
	settings [2][]string
	workers  [2]*process
}

func (h *herd) start(i int) { h.workers[i] = h.f.s.startSoakWorker(h.settings[i]...) }

// thin kills one after another, each at once followed by the next of its kind, until ctx ends or there were enough; the last are both
// workers, so that nobody waits for what they held. It returns how often each was killed.
func (h *herd) thin(ctx context.Context, k slaughter) (kills [5]int) {
	var deck []int
	for n := range k.most {
		wait := time.NewTimer(k.pause/5 + time.Duration(h.random.Int64N(int64(k.pause*4/5))))
		select {
		case <-ctx.Done():
			wait.Stop()
			return kills
		case <-wait.C:
		}
		if len(deck) == 0 {
			deck = h.random.Perm(len(victims))
		}
		victim := deck[0]
		if deck = deck[1:]; n == k.most-1 {
			victim = 4
		}
		kills[victim]++
		h.kill(victim)
	}
	return kills
}

func (h *herd) kill(victim int) {
	s := h.f.s
	switch victim {
	case 0, 1:
		h.workers[victim].kill()
		h.start(victim)
	case 2:
		s.receiver.kill()
		s.startReceiver()
	case 3:
		s.redis.Crash(-1)
		s.redis.Restart()
	case 4:
		for _, worker := range h.workers {
			worker.kill()
		}
		s.forgiveDeadWorkers()
		for i := range h.workers {
			h.start(i)
		}
	}
}

func (r outlasted) check(t testing.TB, k slaughter) {
	t.Helper()
	t.Logf("%+v", r)
	if r.succeeded != k.repositories || r.commits != k.repositories || r.pullRequests != k.repositories || r.duplicates+r.lost+r.unsound+r.apart > 0 {
		t.Errorf("want %d done once (seed %d)", k.repositories, k.seed)
	}
}

func (r outlasted) row(name string, k slaughter) []string {
	row := []string{name, fmt.Sprint(k.seed)}
	for _, count := range r.kills {
		row = append(row, fmt.Sprint(count))
	}
	for _, number := range []int{r.polls, r.silent, r.succeeded, r.commits, r.pullRequests, r.duplicates, r.lost, r.apart, r.unsound} {
		row = append(row, fmt.Sprint(number))
	}
	return append(row, seconds(r.took))
}

// TestBatchKills kills workers, receiver and Redis while a batch goes on: each repository has one commit and one pull request, and the
// ledger says so.
func TestBatchKills(t *testing.T) {
	t.Parallel()
	k := slaughter{repositories: 40, most: 6, pause: 1500 * time.Millisecond, seed: rand.Uint64()}
	k.run(t).check(t, k)
}
