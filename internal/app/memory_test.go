package app

import (
	"context"
	"errors"
	"runtime/debug"
	"testing"

	"github.com/gitsmith/gitsmith/internal/testkit"
)

var errNotRestored = errors.New("it is not")

// TestCollectRarely is about the whole process, so that nothing runs beside it.
func TestCollectRarely(t *testing.T) { //nolint:paralleltest // see above
	percent := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	before, unlimited := percent(), debug.SetMemoryLimit(-1)
	for _, tc := range []struct {
		name    string
		environ []string
		percent int
		limited bool
	}{
		{"by default", []string{"PATH=/bin", "GOGC="}, heapGrowth, true},
		{"GOGC is set", []string{"GOGC=50"}, before, true},
		{"GOMEMLIMIT is set", []string{"GOMEMLIMIT=1GiB"}, heapGrowth, false},
		{"both are set", []string{"GOGC=off", "GOMEMLIMIT=1GiB"}, before, false},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		collectRarely(ctx, tc.environ)
		if got := percent(); got != tc.percent {
			t.Errorf("%s: the heap may grow by %d %%, want %d", tc.name, got, tc.percent)
		}
		if limit := debug.SetMemoryLimit(-1); (limit != unlimited) != tc.limited {
			t.Errorf("%s: the limit is %d", tc.name, limit)
		}
		cancel()
		testkit.Eventually(t, tc.name+": what was before is restored", func() error {
			if percent() != before || debug.SetMemoryLimit(-1) != unlimited {
				return errNotRestored
			}
			return nil
		})
	}
}

func TestLimitGrowsWithWhatIsAlive(t *testing.T) {
	t.Parallel()
	for live, want := range map[uint64]int64{0: heapLimit, 10 << 20: heapLimit, 15 << 20: heapLimit, 100 << 20: 210 << 20} {
		if got := limitOf(live); got != want {
			t.Errorf("%d alive: the limit is %d, want %d", live, got, want)
		}
	}
}
