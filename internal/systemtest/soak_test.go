package systemtest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/bench"
)

// BenchmarkSoak shows what becomes of events at Forge's volume, and of batches, when things die. It takes some twelve minutes for the
// events and half an hour for the batches:
//
//	make soak
//	make soak SOAK=outage
//	make soak SOAK='batch.*'
//
// Each part checks that nothing is lost and nothing done twice, and writes its tables.
func BenchmarkSoak(b *testing.B) {
	for _, part := range []struct {
		name string
		run  func(*testing.B) []bench.Table
	}{
		{"outage", soakOutage},
		{"kills", soakKills},
		{"asynq", soakAsynq},
		{"sentinel", soakSentinel},
		{"cluster", soakCluster},
		{"fairness", soakFairness},
		{"tokens", soakTokens},
		{"batch-trouble", soakBatchTrouble},
		{"batch-kills", soakBatchKills},
		{"batch-token", soakBatchToken},
	} {
		b.Run(part.name, func(b *testing.B) {
			tables := part.run(b)
			bench.Report(b, "soak-"+part.name, fmt.Sprintf("Measured on %s, %s. Load, receiver, workers, Redis and git server share the machine.",
				bench.Machine(b.Context()), time.Now().Format(time.DateOnly)), tables)
		})
	}
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// soakOutage is ten minutes of two events a second, in 20 s.
func soakOutage(b *testing.B) []bench.Table {
	full := outage{before: 200, during: 1200, after: 100, rate: 60, repositories: 32}
	redelivered, cut := full, full
	redelivered.minute, cut.minute = 2*time.Second, 2*time.Second
	cut.cut, cut.during = true, 300
	table := bench.Table{
		Title:  "Redis away for ten minutes' worth of events, the receiver killed in the middle",
		Header: []string{"", "events", "sent", "without 2xx", "redelivered", "answered 2xx", "jobs made", "executed", "duplicates", "answered and lost", "longest answer"},
		Note: "Ten minutes of 2 events a second, compressed 30 times: 1,200 events at 60 a second while redis-server is dead (SIGKILL; fsync every second), 200 before, 100\n" +
			"after. Half way the receiver gets SIGKILL and is started again on its spool. Forge's minute is 2 s. Each event is a push of one line, by one worker\n" +
			"with 4 slots to 32 repositories behind git http-backend; executed and duplicates are commits on the server's branches by the event that they name. When the load\n" +
			"is over the worker is killed and another one started, with the leases of the first run out, so as not to wait two minutes for them.\n" +
			"The third row cuts Redis's append-only file off where it was a second before (300 events while it is away, the receiver stays alive): what a machine\n" +
			"without power loses. Its duplicates, if any, are pushes of that second whose intent Redis lost and that others had pushed on top of.",
	}
	for _, row := range []struct {
		name string
		outage
	}{{"no redelivery", full}, {"redelivery as Forge's", redelivered}, {"Redis loses its last second", cut}} {
		b.Logf("%s", row.name)
		e := row.run(b)
		e.check(b, row.outage)
		table.Rows = append(table.Rows, []string{
			row.name, fmt.Sprint(e.events), fmt.Sprint(e.sent), fmt.Sprint(e.refused), fmt.Sprint(e.sent - e.events), fmt.Sprint(e.answered), fmt.Sprint(e.jobs),
			fmt.Sprint(e.executed), fmt.Sprint(e.duplicates), fmt.Sprint(e.lost), milliseconds(e.longest),
		})
	}
	return []bench.Table{table}
}

func soakKills(b *testing.B) []bench.Table {
	m := mayhem{events: 100_000, installations: 20, pause: 10 * time.Second, concurrency: 8, natural: true}
	r := m.run(b)
	r.check(b, m)
	return []bench.Table{{
		Title: "100,000 events, two workers, one of them killed every 10 s",
		Header: []string{
			"events", "self-generated", "redelivered", "sent", "without 2xx", "jobs made", "jobs done", "executed", "duplicates", "lost", "kills", "read again", "longest answer", "all done after",
		},
		Rows: [][]string{{
			fmt.Sprint(r.events), fmt.Sprint(r.selfGenerated), fmt.Sprint(r.redelivered), fmt.Sprint(r.sent), fmt.Sprint(r.refused), fmt.Sprint(r.jobs), fmt.Sprint(r.done),
			fmt.Sprint(r.executed), fmt.Sprint(r.duplicates), fmt.Sprint(r.lost), fmt.Sprint(r.kills), fmt.Sprint(r.again), milliseconds(r.longest), seconds(r.took),
		}},
		Note: "Events of 20 installations, 64 at once, as fast as they are answered; a redelivery has another of the three shapes than what it repeats. Each event is a clone with\n" +
			"archive none of a ref of its own. The git server is a stand-in that repeats what http-backend answered first, for it would take an hour to run it so often; executed\n" +
			"are the refs that were read from it, read again what it was asked once more, after a kill. A killed worker's jobs come back by themselves, after some 20 seconds.",
	}}
}

// soakAsynq has asynq lose whatever it holds while events come.
func soakAsynq(b *testing.B) []bench.Table {
	d := &disturber{seed: soakSeed(b)}
	m := mayhem{events: 60_000, installations: 20, pause: time.Second, concurrency: 8, natural: true, disturb: d}
	r := m.run(b)
	r.check(b, m)
	return []bench.Table{{
		Title:  "60,000 events, two workers, and asynq loses or finds something every second",
		Header: []string{"events", "self-generated", "redelivered", "jobs made", "jobs done", "executed", "duplicates", "lost", "faults", "read again", "all done after"},
		Rows: [][]string{{
			fmt.Sprint(r.events), fmt.Sprint(r.selfGenerated), fmt.Sprint(r.redelivered), fmt.Sprint(r.jobs), fmt.Sprint(r.done), fmt.Sprint(r.executed),
			fmt.Sprint(r.duplicates), fmt.Sprint(r.lost), fmt.Sprint(r.kills), fmt.Sprint(r.again), seconds(r.took),
		}},
		Note: fmt.Sprintf("In turn: all keys of asynq are deleted, a third of its tasks, its list of queues, its leases; garbage, unknown types and tickets that were served stand among the\n"+
			"pending ones; 9,500 tasks older than 90 days are archived; SCRIPT FLUSH. Seed %d.", d.seed),
	}}
}

// soakFairness takes the median of three runs with fairness and one without, which takes as long as the noisy jobs.
func soakFairness(b *testing.B) []bench.Table {
	n := neighbours{noisy: 50_000, quiet: 60, pause: 250 * time.Millisecond, concurrency: 4}
	small := n
	small.noisy = 5_000
	off := n
	off.most = 10_000_000
	table := bench.Table{
		Title:  "A quiet installation beside a noisy one",
		Header: []string{"", "jobs of the noisy one that wait", "p50", "p99", "longest", "of the noisy one's left then"},
		Note: "From queued to started, of 60 jobs of the quiet one, one each 250 ms, by one worker with 4 slots and the stand-in git server. Fair: as delivered\n" +
			"(GITSMITH_INSTALLATION_JOBS is 32). Off: it is 10,000,000.",
	}
	var fair []waits
	for range 3 {
		fair = append(fair, n.run(b))
	}
	slices.SortFunc(fair, func(x, y waits) int { return int(x.p99 - y.p99) })
	for _, row := range []struct {
		name string
		n    neighbours
		w    waits
	}{{"fair, median of 3 by p99", n, fair[1]}, {"off", off, off.run(b)}, {"fair", small, small.run(b)}} {
		table.Rows = append(table.Rows, []string{
			row.name, fmt.Sprint(row.n.noisy), milliseconds(row.w.p50), milliseconds(row.w.p99), milliseconds(row.w.longest), fmt.Sprint(row.w.left),
		})
	}
	if table.Rows[0][3] == table.Rows[1][3] {
		b.Error("fairness makes no difference")
	}
	return []bench.Table{table}
}

func soakTokens(b *testing.B) []bench.Table {
	table := bench.Table{
		Title:  "1,000 jobs that wait for a token, one scheduled trigger",
		Header: []string{"", "slots", "trigger answered", "all awake", "last begun", "all done", "begun out of turn"},
		Note: "From the trigger on. Awake: none is in the state waiting (looked at every 250 ms). The jobs are one installation's, of which 32 are in the queue at once;\n" +
			"how soon the last one begins is how soon the others are done. Out of turn: begun before a job that was asked for 100 jobs earlier.",
	}
	for _, p := range []sleepers{{1000, 4, false}, {1000, 64, false}, {1000, 4, true}} {
		name := "stand-in git server"
		if p.git {
			name = "git http-backend"
		}
		w := p.run(b)
		table.Rows = append(table.Rows, []string{
			name, fmt.Sprint(p.concurrency), milliseconds(w.answered), milliseconds(w.awake), milliseconds(w.begun), milliseconds(w.done), fmt.Sprint(w.early),
		})
		if w.awake > 2*time.Second {
			b.Errorf("the last one woke after %s", w.awake)
		}
	}
	return []bench.Table{table}
}
