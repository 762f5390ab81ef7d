package app

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"
)

const (
	// heapGrowth is by how many percent a receiver's heap may grow before garbage is collected: its heap is small, and the requests make much
	// garbage. With Go's default of 100 a tenth of the processor time of an event is spent on collecting.
	heapGrowth = 400
	// heapLimit is up to where the heap grows so. Below it, a receiver has 64 MB of memory at most while it is asked as much as it can answer.
	heapLimit = 40 << 20
	// heapPause is how often it is looked whether what is alive needs another limit.
	heapPause = time.Second
)

// collectRarely has garbage collected rarely, until ctx ends. What the operator has set in GOGC or GOMEMLIMIT stands.
func collectRarely(ctx context.Context, environ []string) {
	if !isSet(environ, "GOGC") {
		previous := debug.SetGCPercent(heapGrowth)
		context.AfterFunc(ctx, func() { debug.SetGCPercent(previous) })
	}
	if isSet(environ, "GOMEMLIMIT") {
		return
	}
	previous := debug.SetMemoryLimit(heapLimit)
	go func() {
		defer debug.SetMemoryLimit(previous)
		tick := time.NewTicker(heapPause)
		defer tick.Stop()
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				metrics.Read(live)
				debug.SetMemoryLimit(limitOf(live[0].Value.Uint64()))
			}
		}
	}()
}

// limitOf is the limit for a heap of which so much is alive. A limit near that would have garbage collected all the time: from where the
// usual limit leaves less room than Go's default does, it is as by default.
func limitOf(live uint64) int64 {
	return max(heapLimit, int64(2*live)+heapLimit/4) //nolint:gosec // no heap is so large
}

func isSet(environ []string, name string) bool {
	for _, each := range environ {
		if value, found := strings.CutPrefix(each, name+"="); found && value != "" {
			return true
		}
	}
	return false
}
