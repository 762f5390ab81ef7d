package dispatch

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// The model drives the real ledger, dispatchers and drivers on a real Redis, in a time of its own. Tickets travel through a carrier that loses,
// doubles, delays and reorders them. Processes die between any two commands, workers stall under their leases, Redis loses its last second,
// and the dispatchers' clocks are a minute apart. After every step the whole of Redis is read and compared with what the model knows:
//
//   - a job that has not ended is in exactly the sets that its state says, and one that has ended in none
//   - only the newest attempt of a job may change it; none is given up while its lease lasts, nor soon after Redis was away
//   - an ended job stays ended, unless somebody asked for another run; one that was told to stop does not begin again
//   - no class of an installation has more slots than the cap
//   - each repository of a batch is in one state, which is its job's
//   - an installation with jobs that have not ended is among the live ones
//   - what ought to go on does so within a bound, and in the end everything has ended
//
// TestModel prints its seed. `go test -run TestModel ./internal/dispatch -rapid.seed N` takes the same steps again.
const (
	modelSteps = 20_000    // of TestModel
	soakSteps  = 2_000_000 // of make soak SOAK=model
	checkSteps = 200       // on average, from an empty Redis to the end of all jobs
	slots      = 2         // the cap
	mostJobs   = 12        // that callers ask for
)

func TestModel(t *testing.T) {
	seed(t, modelSteps)
	t.Parallel()
	h := newHouse(t, nil)
	rapid.Check(t, func(rt *rapid.T) { h.play(rt, nil) })
	t.Logf("%d steps", h.steps)
}

// BenchmarkSoak is the part of `make soak` that is about the model: SOAK=model.
func BenchmarkSoak(b *testing.B) {
	b.Run("model", func(b *testing.B) {
		seed(b, soakSteps)
		h := newHouse(b, nil)
		rapid.Check(b, func(rt *rapid.T) { h.play(rt, nil) })
		b.ReportMetric(float64(h.steps), "steps")
	})
}

// TestModelFindsPlantedBugs: each of the bugs below, planted alone, is found.
func TestModelFindsPlantedBugs(t *testing.T) {
	if testing.Short() {
		t.Skip("long; make test-all runs it")
	}
	seed(t, modelSteps)
	t.Parallel()
	for name, bug := range planted {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, found := newHouse(t, &bug), &found{TB: t}
			found.run(func() { rapid.Check(found, func(rt *rapid.T) { h.play(rt, found) }) })
			switch {
			case found.what == "":
				t.Fatalf("not found in %d steps", h.steps)
			case !h.changed.Load():
				t.Fatalf("the bug was never met; what was found is another: %s", found.what)
			}
			t.Logf("after %d steps: %s", h.steps, found.what)
		})
	}
}

var once sync.Once

// seed sets rapid up for so many steps, as far as the command line does not say otherwise, and prints the seed.
func seed(tb testing.TB, steps int) {
	tb.Helper()
	once.Do(func() {
		checks, each := steps/checkSteps, checkSteps
		if testing.Short() { // rapid makes less of both then
			checks, each = 5*checks, 2*each
		}
		given := map[string]bool{}
		flag.Visit(func(f *flag.Flag) { given[f.Name] = true })
		for name, value := range map[string]string{
			"rapid.seed": strconv.FormatUint(rand.Uint64()>>1+1, 10), "rapid.checks": strconv.Itoa(checks), "rapid.steps": strconv.Itoa(each),
			"rapid.nofailfile": "true", "rapid.shrinktime": "20s",
		} {
			if given[name] {
				continue
			}
			if err := flag.Set(name, value); err != nil {
				tb.Fatal(err)
			}
		}
	})
	tb.Logf("rapid.seed %s", flag.Lookup("rapid.seed").Value)
}

// found is the TB of a check that is to fail.
type found struct {
	testing.TB
	what string
}

// run runs a check in a goroutine that the check may end.
func (f *found) run(check func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		check()
	}()
	<-done
}

func (*found) Errorf(string, ...any) {}
func (*found) Error(...any)          {}
func (*found) Logf(string, ...any)   {}
func (*found) Log(...any)            {}
func (*found) Fatalf(string, ...any) { runtime.Goexit() }
func (*found) Fatal(...any)          { runtime.Goexit() }
func (*found) FailNow()              { runtime.Goexit() }
func (*found) Fail()                 {}
func (*found) Failed() bool          { return false }

// world is one play: a Redis that was empty, and what is known of it.
type world struct {
	*house
	rt    *rapid.T
	found *found

	ctx       context.Context
	now       time.Time // of Redis
	trouble   time.Time // when Redis was last away, or another one
	death     time.Time // when a dispatcher last died
	lookers   [2]*looker
	carrier   *carrier
	jobs      map[string]*tracked
	order     []*tracked // as they were added
	batches   []*tracedBatch
	attempts  []*attempt // whose worker believes that it runs
	wakes     map[string]int
	names     int               // of attempts
	may       map[string]action // what the step that is being taken may change
	snapshot  *snapshot
	tokenGone bool
	trail     []string
}

// looker is what looks in a worker: a dispatcher and a driver.
type looker struct {
	process    *process
	dispatcher *Dispatcher
	driver     *Driver
}

// tracked is a job.
type tracked struct {
	job     job.Job
	seen    seen
	opened  int  // runs that somebody may have opened
	stopped int  // the run that was told to stop; -1 for none
	adopted bool // from a version whose task it was
	why     string
	since   time.Time // since when it ought to have gone on
}

// attempt is one whose worker believes that it runs.
type attempt struct {
	job     *tracked
	ticket  ledger.Ticket
	at      ledger.Attempt
	worker  int
	valid   bool      // no later one began, and it was not given up
	until   time.Time // its lease's end, at the earliest
	renewed time.Time
	stalled bool // it does not renew its lease
	wakes   int
}

type tracedBatch struct {
	id, installation string
	total            int
	state            batch.State
}

// installations are of two different shards.
var modelInstallations = []string{"ari:cloud:ecosystem::installation/a", "ari:cloud:ecosystem::installation/b"}

func (h *house) play(rt *rapid.T, found *found) {
	if found != nil && found.what != "" {
		return
	}
	w := &world{
		house: h, rt: rt, found: found, ctx: context.Background(), now: time.UnixMilli(1_800_000_000_000), jobs: map[string]*tracked{},
		wakes: map[string]int{}, may: map[string]action{},
	}
	h.empty(w)
	w.carrier = &carrier{world: w, paused: map[job.Class]bool{}, instance: "redis-0"}
	for i := range w.lookers {
		w.lookers[i] = w.newLooker(i)
	}
	rt.Repeat(map[string]func(*rapid.T){
		"":       func(*rapid.T) { w.step() },
		"create": w.create, "create more": w.create,
		"deliver": w.deliver, "deliver more": w.deliver, "deliver most": w.deliver,
		"renew": w.renewOne,
		"end":   w.end, "end more": w.end,
		"cancel": w.cancel, "retry": w.retry, "wake": w.wake, "adopt": w.adopt,
		"time": w.time, "more time": w.time, "quiet": w.quiet,
		"lose tickets": w.loseTickets, "double a ticket": w.doubleTicket, "hinder": w.hinder,
		"stall": w.stall, "kill": w.kill, "lose the last second": w.loseLastSecond, "redis is away": w.away,
		"batch": w.batch, "another batch": w.batch, "steer a batch": w.steer, "drive": w.drive, "drive more": w.drive,
	})
	w.drain()
}

// step is after every action.
func (w *world) step() {
	w.steps++
	w.audit()
}

func (w *world) fatalf(format string, args ...any) {
	w.rt.Helper()
	text := fmt.Sprintf(format, args...)
	if w.found != nil {
		w.found.what = text
	}
	from := max(0, len(w.trail)-60)
	for _, line := range w.trail[from:] {
		w.rt.Log(line)
	}
	w.rt.Fatalf("%s", text)
}

func (w *world) note(format string, args ...any) {
	w.trail = append(w.trail, w.now.UTC().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (w *world) clock() time.Time { return w.now }

// newLooker is what a worker starts anew with, whose clock is half a minute off.
func (w *world) newLooker(i int) *looker {
	p := w.processes[firstLooker+i]
	skewed := func() time.Time { return w.now.Add([]time.Duration{-30 * time.Second, 30 * time.Second}[i]) }
	p.start(w)
	l := &looker{process: p}
	l.dispatcher = New(Config{Ledger: p.ledger, Tickets: w.carrier, Now: skewed, Logger: slog.New(slog.DiscardHandler)})
	l.dispatcher.looks = 1
	l.driver = NewDriver(DriverConfig{
		Batches: p.batches, Queue: &canceler{p.ledger, w.carrier}, Tokens: w, TokenMargin: time.Minute, Leads: l.dispatcher.Leads, Now: skewed, Logger: slog.New(slog.DiscardHandler),
	})
	l.driver.flights = 1
	return l
}

// Take is an actor's token, which is there or not.
func (w *world) Take(context.Context, string, forge.Actor) (forge.OAuthToken, error) {
	if w.tokenGone {
		return forge.OAuthToken{}, fault.Newf(fault.Expired, "there is no token")
	}
	return forge.OAuthToken{Text: secret.New("token"), ExpiresAt: w.now.Add(365 * 24 * time.Hour)}, nil
}

func (w *world) TakeOther(ctx context.Context, installation string, actor forge.Actor, _ forge.OAuthToken) (forge.OAuthToken, error) {
	return w.Take(ctx, installation, actor)
}

// newJob is the n-th job that callers ask for.
func (w *world) newJob(n int) job.Job {
	j := job.Job{
		ID: fmt.Sprintf("job-%d", n), Installation: modelInstallations[n%2], Actor: forge.Actor{Kind: forge.ActorSystem}, Class: []job.Class{job.ClassEvent, job.ClassInteractive}[n/2%2],
		Repository: bitbucket.Repository{Workspace: "acme", Slug: "repo"}, CreatedAt: w.now.Add(-time.Duration(n) * time.Millisecond), Digest: fmt.Sprint("digest of ", n),
		Clone: &job.Clone{Ref: "main"},
	}
	if n%5 == 0 && j.Class == job.ClassEvent {
		j.Coalesce, j.HappenedAt = "a push to main", w.now.Add(-time.Duration(n*7%10)*time.Second)
	}
	return j
}

func (w *world) track(j job.Job) *tracked {
	if w.jobs[j.ID] == nil {
		w.jobs[j.ID] = &tracked{job: j, stopped: -1}
		w.order = append(w.order, w.jobs[j.ID])
	}
	return w.jobs[j.ID]
}

// canceler issues and cancels batches' jobs as internal/queue does.
type canceler struct {
	*ledger.Ledger
	*carrier
}

func (e *canceler) CancelWaiting(ctx context.Context, installation, id string) (job.Status, error) {
	_, tickets, err := e.Cancel(ctx, installation, id, true)
	if err != nil {
		return job.Status{}, err
	}
	_ = e.Issue(ctx, tickets)
	return e.Get(ctx, installation, id)
}

// outcomes are what an attempt may come to.
var outcomes = []ledger.Outcome{
	{State: job.Succeeded, Counted: true},
	{State: job.Succeeded, Counted: true},
	{State: job.Failed, Counted: true, Kind: fault.Invalid, Detail: "no"},
	{State: job.Retrying, Counted: true, After: 8 * time.Second, Kind: fault.Unavailable, Detail: "later"},
	{State: job.Retrying, After: 0, Kind: fault.Conflict, Detail: "at once"},
	{State: job.Waiting, After: 5 * time.Minute, Kind: fault.Expired, Detail: "no token"},
	{State: job.Queued, Kind: fault.Interrupted, Detail: "the worker stops"},
}
