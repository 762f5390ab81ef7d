package telemetry

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// scrapeTimeout bounds what a scrape waits for the queues; Prometheus gives a scrape 10 s.
const scrapeTimeout = 2 * time.Second

// QueueDepth is how much one queue holds.
type QueueDepth struct {
	Queue                                       string
	Pending, Active, Scheduled, Retry, Archived int
	Latency                                     time.Duration // age of the oldest pending task
}

// WatchQueues makes every scrape ask depths, for at most 2 s. A failure shows as gitsmith_queues_readable 0 and leaves the other
// metrics as they are. A second call takes the place of the first.
func (m *Metrics) WatchQueues(depths func(context.Context) ([]QueueDepth, error)) {
	m.queues.depths.Store(&depths)
}

// queueCollector reads the queues when it is asked, so that an idle process keeps no clock running.
type queueCollector struct {
	depths                   atomic.Pointer[func(context.Context) ([]QueueDepth, error)]
	readable, tasks, latency *prometheus.Desc
}

func newQueueCollector() *queueCollector {
	return &queueCollector{
		readable: prometheus.NewDesc("gitsmith_queues_readable", "Whether the queues could be read for this scrape.", nil, nil),
		tasks:    prometheus.NewDesc("gitsmith_queue_tasks", "Tasks in a queue.", []string{"queue", "state"}, nil),
		latency:  prometheus.NewDesc("gitsmith_queue_latency_seconds", "Age of the oldest pending task.", []string{"queue"}, nil),
	}
}

// Describe is part of prometheus.Collector.
func (c *queueCollector) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- c.readable
	descriptions <- c.tasks
	descriptions <- c.latency
}

// Collect is part of prometheus.Collector.
func (c *queueCollector) Collect(metrics chan<- prometheus.Metric) {
	depths := c.depths.Load()
	if depths == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	queues, err := (*depths)(ctx)
	if err != nil {
		metrics <- prometheus.MustNewConstMetric(c.readable, prometheus.GaugeValue, 0)
		return
	}
	metrics <- prometheus.MustNewConstMetric(c.readable, prometheus.GaugeValue, 1)
	seen := names{}
	for _, queue := range queues {
		if seen.bound("queue", queue.Queue) != queue.Queue {
			continue // more queues than we have are not ours
		}
		for state, count := range map[string]int{
			"pending": queue.Pending, "active": queue.Active, "scheduled": queue.Scheduled, "retry": queue.Retry, "archived": queue.Archived,
		} {
			metrics <- prometheus.MustNewConstMetric(c.tasks, prometheus.GaugeValue, float64(count), queue.Queue, state)
		}
		metrics <- prometheus.MustNewConstMetric(c.latency, prometheus.GaugeValue, queue.Latency.Seconds(), queue.Queue)
	}
}
