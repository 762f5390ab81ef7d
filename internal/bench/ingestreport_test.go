package bench

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What the receiver may cost, of its peers in the same run.
const (
	leastOfPeer  = 0.75 // requests a second, of what a user would write himself
	leastOfAlone = 1.15 // of the receiver without grouping
	mostP99      = 40 * time.Millisecond
	mostLone     = 1.00 // a lone request's median time, of that without grouping
	mostMemory   = 64e6 // bytes that the receiver has at 64 requests at once
	leastOfFlat  = 0.90 // requests a second with a million jobs waiting, of that with hardly any
	mostParked   = 2.0  // Redis's processor time of an event that waits for its turn, of a bare asynq task's
	mostAtOnce   = 2.7  // of an event that may run at once
	// mostAbove is what an event may take of the receiver's processor beyond the signature's check, on the machine on which that takes
	// signatureThere: in another run it is scaled by what the check takes in it.
	mostAbove      = 220 * time.Microsecond
	signatureThere = 211 * time.Microsecond
)

// volume is how much of everything is measured.
type volume struct{ rounds, events, tasks, lone, tenants, waiting int }

func usualVolume() volume {
	return volume{rounds: minRounds, events: eventsARound, tasks: tasksARound, lone: loneEvents, tenants: tenants, waiting: manyWaiting}
}

// ingestRounds are what was measured.
type ingestRounds struct {
	full, alone, signature, peer, asynq, atOnce, coalesced, lone, loneAlone, few, many []IngestRound
	volume                                                                             volume
	memory                                                                             int64
	payload                                                                            int
}

// BenchmarkIngest is the receiver's intake of events beside its peers.
func BenchmarkIngest(b *testing.B) {
	var measured *ingestRounds
	b.Run("events", func(b *testing.B) { measured = measureIngest(b, usualVolume()) })
	if measured != nil {
		report(b, "intake", Machine(b.Context())+", "+time.Now().Format(time.DateOnly), measured.tables())
	}
}

// TestIngest does all of it in small. How long it takes is not judged.
func TestIngest(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long; make test-all runs it")
	}
	measured := measureIngest(t, volume{rounds: 1, events: 40, tasks: 40, lone: 3, tenants: 10, waiting: 200})
	for _, table := range measured.tables() {
		for _, row := range table.Rows {
			if len(row) != len(table.Header) {
				t.Errorf("%q does not fit %q", row, table.Header)
			}
		}
	}
	for _, way := range [][]IngestRound{measured.full, measured.peer, measured.atOnce, measured.coalesced, measured.many} {
		if len(way) != 1 || way[0].rate <= 0 || way[0].p99 <= 0 {
			t.Errorf("%+v", way)
		}
	}
}

func measureIngest(tb testing.TB, volume volume) *ingestRounds {
	tb.Helper()
	in, measured := startIngest(tb), &ingestRounds{volume: volume}
	for _, way := range []*intake{in.full, in.alone, in.varied, in.signature, in.peer, in.crowded} {
		in.deliver(way, connections, in.deliveries(connections)) // connections, scripts, keys
	}
	in.payload = in.full.payloadOf()
	measured.payload = in.payload
	for range volume.rounds {
		in.round(measured)
	}
	measured.memory = peakMemory(strconv.Itoa(in.full.pid))
	if want := connections + volume.rounds*(volume.events+volume.lone); in.full.queued() != want {
		tb.Fatalf("%d jobs are queued, of %d events", in.full.queued(), want)
	}
	began := time.Now()
	in.fill(in.crowded, volume.waiting)
	fmt.Fprintf(os.Stderr, "%d jobs wait after %v\n", volume.waiting, time.Since(began).Round(time.Second))
	for round := range volume.rounds {
		all := in.deliveries(volume.events)
		for i := range 2 {
			if (i+round)%2 == 0 {
				measured.few = append(measured.few, in.deliver(in.full, connections, all))
			} else {
				measured.many = append(measured.many, in.deliver(in.crowded, connections, all))
			}
		}
	}
	return measured
}

// round is one turn of each way, none always first.
func (in *ingest) round(measured *ingestRounds) {
	round, volume := len(measured.full), measured.volume
	all, few, same := in.deliveries(volume.events), in.deliveries(volume.lone), in.ofOne(volume.events)
	first, spread := in.ofTenants(volume.events, volume.tenants)
	ways := []struct {
		name  string
		into  *[]IngestRound
		round func() IngestRound
	}{
		{"receiver", &measured.full, func() IngestRound { return in.deliver(in.full, connections, all) }},
		{"receiver, at once", &measured.atOnce, func() IngestRound {
			in.deliver(in.varied, connections, first) // tokens are kept, installations are known
			return in.deliver(in.varied, connections, spread)
		}},
		{"receiver, coalesced", &measured.coalesced, func() IngestRound { return in.deliver(in.varied, connections, same) }},
		{"without grouping", &measured.alone, func() IngestRound { return in.deliver(in.alone, connections, all) }},
		{"signature only", &measured.signature, func() IngestRound { return in.deliver(in.signature, connections, all) }},
		{"peer", &measured.peer, func() IngestRound { return in.deliver(in.peer, connections, all) }},
		{"asynq's client", &measured.asynq, func() IngestRound { return in.enqueue(volume.tasks) }},
		{"receiver, lone", &measured.lone, func() IngestRound { return in.deliver(in.full, 1, few) }},
		{"without grouping, lone", &measured.loneAlone, func() IngestRound { return in.deliver(in.alone, 1, few) }},
	}
	for i := range ways {
		way := ways[(i+round)%len(ways)]
		done := way.round()
		*way.into = append(*way.into, done)
		fmt.Fprintf(os.Stderr, "%d %-24s %6.0f/s p50 %6s p99 %6s cpu of 1,000: server %s, redis %s\n", round+1, way.name,
			done.rate, milliseconds(done.p50), milliseconds(done.p99), milliseconds(done.serverCPU), milliseconds(done.redisCPU))
	}
}

func rateOf(r IngestRound) float64         { return r.rate }
func p50Of(r IngestRound) time.Duration    { return r.p50 }
func p99Of(r IngestRound) time.Duration    { return r.p99 }
func serverOf(r IngestRound) time.Duration { return r.serverCPU }
func redisOf(r IngestRound) time.Duration  { return r.redisCPU }
func tenths(d time.Duration) string        { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
func times(a, b float64) string            { return fmt.Sprintf("%.2f", a/b) }
func ratesOf(all []IngestRound) float64    { return median(all, rateOf) }
func (m *ingestRounds) p99() time.Duration { return median(m.full, p99Of) }
func eachOf(thousand time.Duration) string { return micros(thousand / 1000) }
func redisPart(a, b []IngestRound) float64 {
	return float64(median(a, redisOf)) / float64(max(median(b, redisOf), 1))
}

func shownCount(n int) string {
	return strings.TrimLeft(fmt.Sprintf("%d,%03d,%03d", n/1e6, n/1e3%1e3, n%1e3), "0,")
}

func (m *ingestRounds) above() time.Duration {
	return median(m.full, serverOf) - median(m.signature, serverOf)
}
func (m *ingestRounds) allowed() time.Duration { return scaledBy(median(m.signature, serverOf)) }

// scaledBy is what 1,000 events may take above the signature's check, where 1,000 of those take so much.
func scaledBy(signature time.Duration) time.Duration {
	return time.Duration(1000 * float64(mostAbove) * float64(signature) / float64(1000*signatureThere))
}

func (m *ingestRounds) tables() []Table {
	row := func(name string, all []IngestRound, memory string) []string {
		return []string{
			name, fmt.Sprintf("%.0f", ratesOf(all)), times(ratesOf(all), ratesOf(m.peer)), times(ratesOf(all), ratesOf(m.signature)),
			tenths(median(all, p50Of)), tenths(median(all, p99Of)), eachOf(median(all, serverOf)), eachOf(median(all, redisOf)), memory,
		}
	}
	return []Table{m.bounds(), {
		Title: fmt.Sprintf("Intake of events: %d at once", connections),
		Note: fmt.Sprintf("POST /forge/events over loopback, each with its own FIT (RS256, 2048 bits), an OAuth token and a push of another repository.\n"+
			"Receiver: the binary, with everything on: FIT verified, token kept, event read, rule worked out, job made once, sealed (%d bytes), queued,\n"+
			"counted and logged. The events are one installation's, so that all but the first %d jobs stand in line; at once: of %s installations, so that each\n"+
			"job gets a slot and a ticket; coalesced: of one repository, so that each replaces the job before. Without grouping: the same as the receiver with\n"+
			"GITSMITH_REDIS_GROUP=1. Peer: Echo, golang-jwt with a cached key set and asynq's client that queues the body, nothing else. Signature check only:\n"+
			"net/http, the FIT verified, the body read, nothing else. asynq's client: in the load's own process, in a loop, tasks of %d random bytes. Processor time\n"+
			"is the server's and Redis's for each request. Redis: append-only file, fsync every second. The load takes its share of the same processors.\n"+
			"The %s jobs that wait are those of %s other installations, made by the queue's own client: as many records, of which %d of each installation have a ticket.",
			m.payload, scaleCap, shownCount(m.volume.tenants), m.payload, shownCount(m.volume.waiting), shownCount(waitingTenants), scaleCap),
		Header: []string{"way", "a second", "of the peer", "of signature only", "p50", "p99", "server CPU", "Redis CPU", "peak memory"},
		Rows: [][]string{
			row("asynq's client alone", m.asynq, ""),
			row("signature check only", m.signature, ""),
			row("peer", m.peer, ""),
			row("receiver, without grouping", m.alone, ""),
			row("receiver", m.full, megabytes(m.memory)),
			row("receiver, at once", m.atOnce, ""),
			row("receiver, coalesced", m.coalesced, ""),
			row("receiver, without grouping, one client", m.loneAlone, ""),
			row("receiver, one client", m.lone, ""),
			row("receiver, no such jobs waiting", m.few, ""),
			row("receiver, "+shownCount(m.volume.waiting)+" jobs waiting", m.many, ""),
		},
	}}
}

// bounds says which of them are kept.
func (m *ingestRounds) bounds() Table {
	row := func(name, is, bound string, kept bool) []string { return []string{name, is, bound, met(kept)} }
	ofPeer, alone := ratesOf(m.full)/ratesOf(m.peer), ratesOf(m.full)/ratesOf(m.alone)
	lone := float64(median(m.lone, p50Of)) / float64(median(m.loneAlone, p50Of))
	flat, parked, atOnce := ratesOf(m.many)/ratesOf(m.few), redisPart(m.full, m.asynq), redisPart(m.atOnce, m.asynq)
	two := func(value float64) string { return fmt.Sprintf("%.2f", value) }
	return Table{
		Title:  "Bounds of the intake",
		Header: []string{"what", "measured", "bound", ""},
		Rows: [][]string{
			row("requests a second, of the peer's", two(ofPeer), "≥ "+two(leastOfPeer), ofPeer >= leastOfPeer),
			row("receiver's processor time for an event, above the signature check's", eachOf(m.above()), "≤ "+eachOf(m.allowed()), m.above() <= m.allowed()),
			row("Redis's processor time for an event that waits for its turn, of a bare asynq task's", two(parked), "≤ "+two(mostParked), parked <= mostParked),
			row("the same for an event that may run at once", two(atOnce), "≤ "+two(mostAtOnce), atOnce <= mostAtOnce),
			row("p99", tenths(m.p99()), "≤ "+milliseconds(mostP99), m.p99() <= mostP99),
			row("peak memory of the receiver", megabytes(m.memory), "≤ "+megabytes(mostMemory), m.memory <= mostMemory),
			row("a lone request's median, of the same without grouping", two(lone), "≤ "+two(mostLone), lone <= mostLone),
			row("requests a second, of the same without grouping", two(alone), "≥ "+two(leastOfAlone), alone >= leastOfAlone),
			row("requests a second with "+shownCount(m.volume.waiting)+" jobs waiting, of that without", two(flat), "≥ "+two(leastOfFlat), flat >= leastOfFlat),
		},
	}
}
