package bench

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// What the receiver may cost, of its peers in the same run.
const (
	leastOfSignature = 0.65 // requests a second, of a handler that only checks the signature
	leastOfAlone     = 1.15 // of the receiver without grouping
	mostP99          = 40 * time.Millisecond
	mostLone         = 1.00 // a lone request's median time, of that without grouping
	mostMemory       = 60e6 // bytes that the receiver has at 64 requests at once
	leastOfFlat      = 0.90 // requests a second with a million tasks waiting, of that with hardly any
)

// ingestRounds are what was measured.
type ingestRounds struct {
	full, alone, signature, asynq, lone, loneAlone, few, many []IngestRound
	memory                                                    int64
}

// BenchmarkIngest is the receiver's intake of events beside its peers.
func BenchmarkIngest(b *testing.B) {
	var measured ingestRounds
	var payload int
	b.Run("events", func(b *testing.B) {
		in := startIngest(b)
		in.deliver(in.full, connections, in.deliveries(connections)) // connections, scripts, keys
		in.deliver(in.alone, connections, in.deliveries(connections))
		in.deliver(in.signature, connections, in.deliveries(connections))
		in.deliver(in.crowded, connections, in.deliveries(connections))
		in.payload = in.full.payloadOf()
		payload = in.payload
		for b.Loop() {
			in.round(&measured)
		}
		for len(measured.full) < minRounds {
			in.round(&measured)
		}
		measured.memory = peakMemory(strconv.Itoa(in.full.pid))
		if want := connections + len(measured.full)*(eventsARound+loneEvents); in.full.queued() < want {
			b.Fatalf("%d jobs are queued, of %d events", in.full.queued(), want)
		}
		in.fill(in.crowded)
		for round := range minRounds {
			all := in.deliveries(eventsARound)
			for i := range 2 {
				if (i+round)%2 == 0 {
					measured.few = append(measured.few, in.deliver(in.full, connections, all))
				} else {
					measured.many = append(measured.many, in.deliver(in.crowded, connections, all))
				}
			}
		}
	})
	report(b, "intake", Machine(b.Context())+", "+time.Now().Format(time.DateOnly), measured.tables(payload))
}

// round is one turn of each way, none always first.
func (in *ingest) round(measured *ingestRounds) {
	round := len(measured.full)
	all, few := in.deliveries(eventsARound), in.deliveries(loneEvents)
	ways := []struct {
		name  string
		into  *[]IngestRound
		round func() IngestRound
	}{
		{"receiver", &measured.full, func() IngestRound { return in.deliver(in.full, connections, all) }},
		{"without grouping", &measured.alone, func() IngestRound { return in.deliver(in.alone, connections, all) }},
		{"signature only", &measured.signature, func() IngestRound { return in.deliver(in.signature, connections, all) }},
		{"asynq's client", &measured.asynq, in.enqueue},
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
func tenths(d time.Duration) string        { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
func times(a, b float64) string            { return fmt.Sprintf("%.2f", a/b) }
func ratesOf(all []IngestRound) float64    { return median(all, rateOf) }
func (m *ingestRounds) p99() time.Duration { return median(m.full, p99Of) }

func (m *ingestRounds) tables(payload int) []Table {
	row := func(name string, all []IngestRound, memory string) []string {
		return []string{
			name, fmt.Sprintf("%.0f", ratesOf(all)), times(ratesOf(all), ratesOf(m.signature)), times(ratesOf(all), ratesOf(m.alone)),
			tenths(median(all, p50Of)), tenths(median(all, p99Of)),
			milliseconds(median(all, func(r IngestRound) time.Duration { return r.serverCPU })),
			milliseconds(median(all, func(r IngestRound) time.Duration { return r.redisCPU })), memory,
		}
	}
	return []Table{m.bounds(), {
		Title: fmt.Sprintf("Intake of events: %d at once", connections),
		Note: fmt.Sprintf("POST /forge/events over loopback, each with its own FIT (RS256, 2048 bits), an OAuth token and a push of another repository.\n"+
			"Receiver: the binary, with everything on: FIT verified, token kept, event read, rule worked out, job made once, sealed (%d bytes), queued,\n"+
			"counted and logged. Without grouping: the same with GITSMITH_REDIS_GROUP=1. Signature check only: net/http, the FIT verified, the body\n"+
			"read, nothing else. asynq's client: in the load's own process, in a loop, tasks of %d random bytes. Processor time is the server's\n"+
			"and Redis's for 1,000 requests. Redis: append-only file, fsync every second. The load takes its share of the same processors.", payload, payload),
		Header: []string{"way", "a second", "of signature only", "of without grouping", "p50", "p99", "server CPU", "Redis CPU", "peak memory"},
		Rows: [][]string{
			row("asynq's client alone", m.asynq, ""),
			row("signature check only", m.signature, ""),
			row("receiver, without grouping", m.alone, ""),
			row("receiver", m.full, megabytes(m.memory)),
			row("receiver, without grouping, one client", m.loneAlone, ""),
			row("receiver, one client", m.lone, ""),
			row("receiver, hardly any task waiting", m.few, ""),
			row("receiver, 1,000,000 tasks waiting", m.many, ""),
		},
	}}
}

// bounds says which of them are kept.
func (m *ingestRounds) bounds() Table {
	row := func(name, is, bound string, kept bool) []string {
		verdict := "met"
		if !kept {
			verdict = "NOT MET"
		}
		return []string{name, is, bound, verdict}
	}
	signature, alone := ratesOf(m.full)/ratesOf(m.signature), ratesOf(m.full)/ratesOf(m.alone)
	lone := float64(median(m.lone, p50Of)) / float64(median(m.loneAlone, p50Of))
	flat := ratesOf(m.many) / ratesOf(m.few)
	return Table{
		Title:  "Bounds of the intake",
		Header: []string{"what", "measured", "bound", ""},
		Rows: [][]string{
			row("requests a second, of the signature check only", fmt.Sprintf("%.2f", signature), fmt.Sprintf("≥ %.2f", leastOfSignature), signature >= leastOfSignature),
			row("requests a second, of the same without grouping", fmt.Sprintf("%.2f", alone), fmt.Sprintf("≥ %.2f", leastOfAlone), alone >= leastOfAlone),
			row("p99", tenths(m.p99()), "≤ "+milliseconds(mostP99), m.p99() <= mostP99),
			row("a lone request's median, of the same without grouping", fmt.Sprintf("%.2f", lone), fmt.Sprintf("≤ %.2f", mostLone), lone <= mostLone),
			row("peak memory of the receiver", megabytes(m.memory), "≤ "+megabytes(mostMemory), m.memory <= mostMemory),
			row("requests a second with 1,000,000 tasks waiting, of that without", fmt.Sprintf("%.2f", flat), fmt.Sprintf("≥ %.2f", leastOfFlat), flat >= leastOfFlat),
		},
	}
}
