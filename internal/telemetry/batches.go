package telemetry

import (
	"context"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// WatchBatches makes every scrape ask how many batches are in which state, for at most 2 s; those that have ended are not among them. A
// failure leaves gitsmith_batches out. A second call takes the place of the first.
func (m *Metrics) WatchBatches(states func(context.Context) (map[string]int, error)) {
	m.batches.states.Store(&states)
}

// batchCollector counts batches when it is asked, as queueCollector does.
type batchCollector struct {
	states  atomic.Pointer[func(context.Context) (map[string]int, error)]
	batches *prometheus.Desc
}

func newBatchCollector() *batchCollector {
	return &batchCollector{batches: prometheus.NewDesc("gitsmith_batches", "Batches that have not ended.", []string{"state"}, nil)}
}

// Describe is part of prometheus.Collector.
func (c *batchCollector) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- c.batches }

// Collect is part of prometheus.Collector.
func (c *batchCollector) Collect(metrics chan<- prometheus.Metric) {
	states := c.states.Load()
	if states == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	counted, err := (*states)(ctx)
	if err != nil {
		return
	}
	for _, state := range []string{"resolving", "running", "paused", "stopped"} {
		metrics <- prometheus.MustNewConstMetric(c.batches, prometheus.GaugeValue, float64(counted[state]), state)
	}
}
