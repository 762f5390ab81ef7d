package systemtest

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
)

// TestBatchActs pauses, resumes and retries a batch, and cancels another, with real processes: what runs finishes, what waits does not
// begin, and what has succeeded is not touched again.
func TestBatchActs(t *testing.T) {
	t.Parallel()
	d := &dam{}
	f := startFleet(t, 12, d.around)
	defer d.open()
	if err := f.s.bitbucket.SetReadOnly(workspace, "r2", "4 GB"); err != nil {
		t.Fatal(err)
	}
	f.s.startWorker("GITSMITH_LOG_LEVEL=warn")
	d.close(4)
	f.submit("chore/one", 2)
	f.await(2*time.Minute, "two are held", func(s batch.Status) bool {
		return s.Totals[batch.Succeeded] == 3 && s.Totals[batch.Failed] == 1 && s.Totals[batch.Running] == 2
	})
	if paused := f.act("pause"); paused.State != batch.StatePaused || paused.Reason != "paused by a caller" {
		t.Errorf("%s %q", paused.State, paused.Reason)
	}
	d.open()
	f.await(2*time.Minute, "what ran has finished", func(s batch.Status) bool { return s.Totals[batch.Succeeded] == 5 })
	looks := 0 // over two seconds, in which a worker looks after the batch several times
	f.await(time.Minute, "nothing begins", func(s batch.Status) bool {
		looks++
		if s.State != batch.StatePaused || s.Totals[batch.Queued] != 6 {
			t.Errorf("%s %v", s.State, s.Totals)
		}
		return looks == 8
	})
	f.refused("pause", http.StatusConflict)

	f.act("resume")
	done := f.await(2*time.Minute, "it finishes", isFinished)
	if done.Totals[batch.Succeeded] != 11 || len(done.Failures) != 1 || done.Failures[0].Count != 1 || done.Failures[0].Examples[0] != "acme/r2" {
		t.Errorf("%v %+v", done.Totals, done.Failures)
	}
	f.refused("resume", http.StatusConflict)

	if err := f.s.bitbucket.SetReadOnly(workspace, "r2", ""); err != nil {
		t.Fatal(err)
	}
	before := f.s.bitbucket.Count("git")
	f.act("retry")
	done = f.await(2*time.Minute, "it finishes again", func(s batch.Status) bool { return isFinished(s) && s.Totals[batch.Succeeded] == 12 })
	if len(done.Failures) != 0 {
		t.Errorf("%+v", done.Failures)
	}
	if asked := f.s.bitbucket.Count("git") - before; asked == 0 || asked > 8 {
		t.Errorf("%d git requests for one repository", asked)
	}
	f.judge(func(int) bool { return false })
	f.refused("retry", http.StatusConflict)
	f.cancelHalfWay(d)
}

// cancelHalfWay cancels a batch of which two repositories run.
func (f *fleet) cancelHalfWay(d *dam) {
	f.s.t.Helper()
	d.close(4)
	f.submit("chore/two", 2)
	f.await(2*time.Minute, "two are held", func(s batch.Status) bool { return s.Totals[batch.Succeeded] == 4 && s.Totals[batch.Running] == 2 })
	if canceled := f.act("cancel"); canceled.State != batch.StateCanceled || canceled.Totals[batch.Canceled] != 6 {
		f.s.t.Errorf("%s %v", canceled.State, canceled.Totals)
	}
	d.open()
	ended := f.await(2*time.Minute, "it ends", func(s batch.Status) bool { return !s.EndedAt.IsZero() })
	if ended.State != batch.StateCanceled || ended.Totals[batch.Succeeded] != 6 || ended.Totals[batch.Canceled] != 6 {
		f.s.t.Errorf("%s %v", ended.State, ended.Totals)
	}
	f.judge(func(i int) bool { return i >= 6 })
	for _, what := range []string{"cancel", "pause", "resume", "retry"} {
		f.refused(what, http.StatusConflict)
	}
}

// refused asks something of the batch that makes no sense now.
func (f *fleet) refused(what string, want int) {
	f.s.t.Helper()
	if code, answer := f.s.call(f.who, http.MethodPost, "/v1/batches/"+f.id+"/"+what, ""); code != want || !strings.Contains(answer, "batch") {
		f.s.t.Errorf("%s: status %d: %s", what, code, answer)
	}
}

// expiry is a batch whose system token runs out in the middle.
type expiry struct {
	repositories int
	before       int           // repositories that are done before it runs out
	life         time.Duration // of the token; less than the minute for which a worker waits for git's answer
	hard         bool          // it runs out under what git is asked, else within the margin that a worker keeps
}

// expired is what came of it.
type expired struct {
	done, waiting, queued int // while it was paused
	reason                string
	seconds               float64 // from the new token to the end
	succeeded             int
	found
}

func (e expiry) run(t testing.TB) expired {
	t.Helper()
	d := &dam{}
	f := startFleet(t, e.repositories, d.around)
	defer f.s.end()
	defer d.open()
	f.who.systemToken = f.s.oauthToken(e.life)
	runsOut := time.Now().Add(e.life)
	margin := 5 * time.Second
	if e.hard {
		margin = time.Second
	} else {
		runsOut = runsOut.Add(-margin)
	}
	f.s.startSoakWorker("GITSMITH_TOKEN_MARGIN="+margin.String(), "GITSMITH_CONCURRENCY=4")
	d.close(e.before)
	f.submit("chore/licence", 4)
	f.await(e.life, "the rest is held", func(s batch.Status) bool {
		return s.Totals[batch.Succeeded] == e.before && s.Totals[batch.Running] == 4
	})
	within(t, e.life+30*time.Second, "the token runs out", func() error {
		if left := time.Until(runsOut); left > -time.Second {
			return fmt.Errorf("%s are left", left)
		}
		return nil
	})
	d.open()
	f.who.systemToken = ""
	paused := f.await(2*time.Minute, "it is paused", func(s batch.Status) bool { return s.State == batch.StatePaused && s.Totals[batch.Running] == 0 })
	r := expired{done: paused.Totals[batch.Succeeded], waiting: paused.Totals[batch.Waiting], queued: paused.Totals[batch.Queued], reason: paused.Reason}
	if !strings.Contains(r.reason, "system token has run out") || r.done != e.before || r.waiting != 4 || r.done+r.waiting+r.queued != e.repositories {
		t.Errorf("%+v %v %+v", r, paused.Totals, paused.Failures)
	}
	trigger, since := caller{installation: installation, systemToken: f.s.oauthToken(4 * time.Hour)}, time.Now()
	if code, answer := f.s.call(trigger, http.MethodPost, "/forge/schedule", ""); code != http.StatusOK {
		t.Fatalf("status %d: %s", code, answer)
	}
	done := f.await(10*time.Minute, "it finishes", isFinished)
	r.seconds, r.succeeded = time.Since(since).Seconds(), done.Totals[batch.Succeeded]
	for _, item := range f.items() {
		if item.Attempts != 1 {
			t.Errorf("%s: %d attempts are counted, want 1: a wait is none", item.Repository, item.Attempts)
		}
	}
	r.found = f.judge(func(int) bool { return false })
	return r
}

func (r expired) check(t testing.TB, e expiry) {
	t.Helper()
	t.Logf("%+v", r)
	if r.succeeded != e.repositories || r.duplicates+r.lost+r.unsound+r.apart > 0 {
		t.Errorf("%d of %d succeeded", r.succeeded, e.repositories)
	}
}

// TestBatchToken: a batch whose system token runs out is paused, nothing fails or expires, and the next scheduled trigger lets it go on.
func TestBatchToken(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]expiry{
		"within the margin":        {repositories: 24, before: 4, life: 30 * time.Second},
		"under what git was asked": {repositories: 24, before: 4, life: 25 * time.Second, hard: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e.run(t).check(t, e)
		})
	}
}
