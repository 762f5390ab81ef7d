package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/dispatch"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/pipeline"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/testkit"
	"github.com/gitsmith/gitsmith/internal/vault"
)

const (
	// longestScript is for how long one script may hold up everybody else.
	longestScript = 20 * time.Millisecond
	// scaleCap is how many jobs of an installation are in the queue at once, as delivered.
	scaleCap = 32
	// noticed is from how long on Redis writes a command down as slow.
	noticed = 100 * time.Microsecond
	// scalePatience is for what a part waits for.
	scalePatience = 10 * time.Minute
)

var system = forge.Actor{Kind: forge.ActorSystem}

// scale is a Redis on which growth is measured. What the product asks goes through redis, what the benchmark asks through own.
type scale struct {
	tb      testing.TB
	redis   redis.UniversalClient
	own     redis.UniversalClient
	trips   *trips
	options queue.Options
	client  *queue.Client
	batches *ledger.Batches
	vault   *vault.Vault
}

// startScale starts a Redis and makes what a worker and a receiver have of it. Of each installation so many jobs are queued at once.
func startScale(tb testing.TB, most int) *scale {
	tb.Helper()
	server, ring := queuetest.Start(tb), testkit.Keyring(tb, "bench", 1)
	s := &scale{tb: tb, redis: server.Client(), own: server.Client(), trips: newTrips(tb)}
	s.redis.AddHook(s.trips)
	s.options = queue.Options{Redis: s.redis, Keyring: ring, Cap: most, Logger: slog.New(slog.DiscardHandler)}
	s.client = queue.NewClient(s.options)
	s.batches = ledger.NewBatches(ledger.BatchOptions{Redis: s.redis, Keyring: ring, Ledger: s.client.Ledger})
	s.vault = vault.New(s.redis, ring, vault.Options{})
	return s
}

func (s *scale) must(err error) {
	s.tb.Helper()
	if err != nil {
		s.tb.Fatal(err)
	}
}

// writer is a ledger that writes many jobs at once, in pipelines, with another cap.
func (s *scale) writer(most int) *ledger.Ledger {
	grouped := pipeline.New(s.redis, pipeline.Options{})
	return ledger.New(ledger.Options{Redis: grouped, Scripts: grouped, Keyring: s.options.Keyring, Cap: most})
}

// token gives an installation's system a token.
func (s *scale) token(installation string) {
	s.tb.Helper()
	token := forge.OAuthToken{Text: secret.New("not-checked"), ExpiresAt: time.Now().Add(4 * time.Hour)}
	_, err := s.vault.Put(s.tb.Context(), installation, system, token, time.Time{})
	s.must(err)
}

func installationOf(i int) string {
	return fmt.Sprintf("ari:cloud:ecosystem::installation/%08x-1111-4111-8111-111111111111", i)
}

// jobOf is a push by the system of so few bytes as usual.
func jobOf(installation string, i int, class job.Class) job.Job {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return job.Job{
		ID: fmt.Sprintf("%08x-2222-4222-8222-222222222222", i), Installation: installation, Actor: system, Class: class, Digest: "digest", CreatedAt: now,
		Repository: bitbucket.Repository{Workspace: "bench", Slug: fmt.Sprintf("r%d", i)}, OnExpiry: job.OnExpiryWait,
		Push: &job.Push{Branch: "main", Message: "Change a file", Changes: []edit.Change{{Put: &edit.Put{Path: "a.txt", Content: "content"}}}},
	}
}

// dispatchers run so many dispatchers until the function that it returns is called.
func (s *scale) dispatchers(n int) (stop func()) {
	runs := make([]func(context.Context) error, n)
	for i := range runs {
		runs[i] = s.dispatcher().Run
	}
	return s.beside(runs...)
}

func (s *scale) dispatcher() *dispatch.Dispatcher {
	client := queue.NewClient(s.options)
	return dispatch.New(dispatch.Config{Ledger: client.Ledger, Tickets: client, Logger: s.options.Logger})
}

// beside runs parts of workers until the function that it returns is called, or the benchmark ends.
func (s *scale) beside(runs ...func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ended := make(chan error)
		for _, run := range runs {
			go func() { ended <- run(ctx) }()
		}
		for range runs {
			<-ended // they log what goes wrong
		}
	}()
	stop = func() { cancel(); <-done }
	s.tb.Cleanup(stop)
	return stop
}

// pass lets time pass in which the product does what it does by itself.
func (s *scale) pass(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	<-timer.C
}

// until waits for what others do.
func (s *scale) until(what string, done func() bool) {
	s.tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); !done(); <-tick.C {
		if time.Since(began) > scalePatience {
			s.tb.Fatalf("%s: not within %v", what, scalePatience)
		}
	}
}

// card is how many members a sorted set has.
func (s *scale) card(key string) int {
	s.tb.Helper()
	n, err := s.own.ZCard(s.tb.Context(), key).Result()
	s.must(err)
	return int(n)
}

// cost is what something took of Redis.
type cost struct {
	wall    time.Duration
	cpu     time.Duration // user and system, of all of Redis's threads
	longest time.Duration // of a script, as Redis measured it; zero for less than noticed
	slowest string        // which script that was
	over    int           // scripts that took more than longestScript
	lost    int           // how often another process took Redis's processor away, which its own clock does not know of
	forks   int           // of Redis, which writes its append-only file anew: a copy of the page tables holds it up
	inner   int64         // commands, scripts themselves not counted
}

// cores is how much of one processor it takes all the time.
func (c cost) cores() float64 { return c.cpu.Seconds() / c.wall.Seconds() }

// measure does something and says what that took of Redis, without what the benchmark itself asks here.
func (s *scale) measure(do func()) cost {
	s.tb.Helper()
	ctx := s.tb.Context()
	for name, value := range map[string]string{"slowlog-log-slower-than": strconv.FormatInt(noticed.Microseconds(), 10), "slowlog-max-len": "100000"} {
		s.must(s.own.ConfigSet(ctx, name, value).Err())
	}
	s.must(s.own.ConfigResetStat(ctx).Err())
	s.must(s.own.Do(ctx, "slowlog", "reset").Err())
	lost, forks, before, began := s.lost(), s.forks(), s.cpu(), time.Now()
	do()
	measured := cost{wall: time.Since(began), cpu: s.cpu() - before, forks: s.forks() - forks, lost: s.lost() - lost}
	measured.inner = s.commands()
	slow, err := s.own.SlowLogGet(ctx, 100_000).Result()
	s.must(err)
	for _, each := range slow {
		if !strings.HasPrefix(strings.ToLower(each.Args[0]), "eval") {
			continue
		}
		if each.Duration > longestScript {
			measured.over++
		}
		if each.Duration > measured.longest {
			measured.longest, measured.slowest = each.Duration, s.trips.known(each.Args[1])
		}
	}
	return measured
}

// script says how long the longest script took, and which it was.
func (c cost) script() string {
	switch {
	case c.longest == 0:
		return "< 0.1 ms"
	case c.over > 0:
		return fmt.Sprintf("%s (%s), %d over %s; preempted %d times", tenths(c.longest), c.slowest, c.over, milliseconds(longestScript), c.lost)
	}
	return fmt.Sprintf("%s (%s)", tenths(c.longest), c.slowest)
}

// lost is how often Redis has lost its processor to another process (proc(5)).
func (s *scale) lost() int {
	s.tb.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", s.info("server")["process_id"], "status"))
	s.must(err)
	_, rest, _ := strings.Cut(string(status), "nonvoluntary_ctxt_switches:")
	n, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]))
	s.must(err)
	return n
}

// forks is how often Redis has forked.
func (s *scale) forks() int {
	s.tb.Helper()
	n, err := strconv.Atoi(s.info("stats")["total_forks"])
	s.must(err)
	return n
}

// cpu is the processor time that Redis has used.
func (s *scale) cpu() (used time.Duration) {
	s.tb.Helper()
	for name, value := range s.info("cpu") {
		if name == "used_cpu_sys" || name == "used_cpu_user" {
			seconds, err := strconv.ParseFloat(value, 64)
			s.must(err)
			used += time.Duration(seconds * float64(time.Second))
		}
	}
	return used
}

// commands is how many were executed since the figures were reset: those of scripts are among them, the scripts' own calls are not.
func (s *scale) commands() (n int64) {
	s.tb.Helper()
	for name, value := range s.info("commandstats") {
		name = strings.TrimPrefix(name, "cmdstat_")
		kind, _, _ := strings.Cut(name, "|")
		if slices.Contains([]string{"eval", "evalsha", "script", "info", "config", "slowlog"}, kind) {
			continue
		}
		_, rest, _ := strings.Cut(value, "calls=")
		calls, _, _ := strings.Cut(rest, ",")
		number, err := strconv.ParseInt(calls, 10, 64)
		s.must(err)
		n += number
	}
	return n
}

// info is a section of what Redis says of itself.
func (s *scale) info(section string) map[string]string {
	s.tb.Helper()
	text, err := s.own.Info(s.tb.Context(), section).Result()
	s.must(err)
	values := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, found := strings.Cut(strings.TrimSpace(line), ":"); found {
			values[name] = value
		}
	}
	return values
}

func micros(d time.Duration) string { return fmt.Sprintf("%.0f µs", d.Seconds()*1e6) }

func cores(c float64) string { return fmt.Sprintf("%.3f core", c) }
