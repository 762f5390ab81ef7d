package bench

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// partsVariable chooses parts of `make bench-scale` by parts of their names, comma between several; all by default.
const partsVariable = "GITSMITH_BENCH_PARTS"

// extent is how far each part goes.
type extent struct {
	waiting       []int // jobs that wait for a token
	pending       []int // jobs with a ticket that waits
	events        int   // that coalesce
	installations []int // with jobs in line
	dispatchers   []int
	workers       []int
	slots         int // of each worker
	batches       int
	drivers       int
	listed        []int // jobs of a batch
	repositories  []int // of a batch that is created
	caps          []int
	pushes        int
	shape         Shape // of the repositories that are pushed to
	lone          int
	quiet, window time.Duration // for which what happens by itself is measured
}

// usualExtent is what the goals are of.
func usualExtent() extent {
	return extent{
		waiting: []int{1_000, 10_000, 100_000}, pending: []int{1_000, 100_000, 1_000_000}, events: 500,
		installations: []int{100, 1_000, 10_000}, dispatchers: []int{1, 5, 20}, workers: []int{10, 100}, slots: 16, batches: 1_000, drivers: 20,
		listed: []int{1_000, 10_000}, repositories: []int{1_000, 10_000}, caps: []int{100, 8_000, 20_000}, pushes: 60, shape: Small(), lone: 50,
		quiet: 5 * time.Second, window: 15 * time.Second,
	}
}

// smallExtent takes seconds and tries the code of all parts.
func smallExtent() extent {
	return extent{
		waiting: []int{20, 250}, pending: []int{10, 100}, events: 5, installations: []int{3, 10}, dispatchers: []int{1, 2}, workers: []int{2}, slots: 2,
		batches: 4, drivers: 2, listed: []int{10, 250}, repositories: []int{5, 600}, caps: []int{10, 250}, pushes: 3, shape: tiny(), lone: 3,
		quiet: 50 * time.Millisecond, window: 300 * time.Millisecond,
	}
}

type part struct {
	name    string
	measure func(start func(most int) *scale) growth
}

func (e extent) parts() []part {
	return []part{
		{"wake", e.wake},
		{"coalesced", e.coalesced},
		{"sweep", e.sweep},
		{"active", e.active},
		{"rounds", e.rounds},
		{"pages", e.pages},
		{"creation", e.creation},
		{"promotion", e.promotion},
		{"push", e.push},
		{"idle", e.idle},
	}
}

const scaleNote = "Each part has Redis to itself: append-only file, fsync every second. Redis CPU is user and system time of the whole process, by INFO; scripts are timed by Redis\n" +
	"itself (SLOWLOG), by the clock, so that whatever else runs on the machine can only make them longer; preempted is how often something else took Redis's processor away. What the benchmark asks is not counted.\n" +
	"Jobs, batches and tickets are made by the product's own code."

// BenchmarkScale is what grows with the number of jobs, installations, workers and batches.
func BenchmarkScale(b *testing.B) {
	goals := Table{Title: "Goals", Header: []string{"what", "measured", "goal", ""}}
	var tables []Table
	wanted := os.Getenv(partsVariable)
	for _, each := range usualExtent().parts() {
		if wanted != "" && !slices.Contains(strings.Split(wanted, ","), each.name) {
			continue
		}
		b.Run(each.name, func(b *testing.B) {
			began := time.Now()
			measured := each.measure(func(most int) *scale { return startScale(b, most) })
			fmt.Fprintf(os.Stderr, "%s: %v\n", each.name, time.Since(began).Round(time.Second))
			for _, goal := range measured.goals {
				fmt.Fprintln(os.Stderr, "   "+strings.Join(goal, " | "))
			}
			goals.Rows, tables = append(goals.Rows, measured.goals...), append(tables, measured.table)
		})
	}
	Report(b, "scale", fmt.Sprintf("Measured on %s, %s.\n%s", Machine(b.Context()), time.Now().Format(time.DateOnly), scaleNote), append([]Table{goals}, tables...))
}

// TestScale has every part done in small. How long it takes is not judged.
func TestScale(t *testing.T) {
	t.Parallel()
	for _, each := range smallExtent().parts() {
		t.Run(each.name, func(t *testing.T) {
			t.Parallel()
			measured := each.measure(func(most int) *scale { return startScale(t, most) })
			if len(measured.goals) == 0 || len(measured.table.Rows) == 0 {
				t.Errorf("nothing was measured: %+v", measured)
			}
			for _, goal := range measured.goals {
				if strings.HasSuffix(goal[0], "inner commands") && goal[3] != met(true) {
					t.Errorf("%q", goal) // no machine changes how many they are
				}
			}
			for _, row := range append(measured.table.Rows, measured.table.Header) {
				if len(row) != len(measured.table.Header) {
					t.Errorf("%q does not fit %q", row, measured.table.Header)
				}
			}
		})
	}
}
