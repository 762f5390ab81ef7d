package telemetry

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// intakeMetrics are about what comes in, and waits on the receiver's disk.
type intakeMetrics struct {
	events       *prometheus.CounterVec
	ruleFailures *prometheus.CounterVec
	rules        prometheus.Gauge
	rulesBad     prometheus.Gauge
	spooled      prometheus.Counter
	expired      prometheus.Counter
}

func newIntakeMetrics() intakeMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: "gitsmith", Name: name, Help: help})
	}
	count := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "gitsmith", Name: name, Help: help})
	}
	return intakeMetrics{
		events:       counter("events_total", "Events that Forge delivered, by what became of them.", "type", "outcome"),
		ruleFailures: counter("rule_failures_total", "Rules that could not be worked out for an event and made no job of it.", "rule"),
		rules:        gauge("rules", "Rules in force."),
		rulesBad:     gauge("rules_bad", "1 while the rules file is wrong and the rules before it stay in force."),
		spooled:      count("spooled_total", "Deliveries that went to the receiver's disk because redis did not take them."),
		expired:      count("spool_expired_total", "Deliveries on the receiver's disk that were dropped for their age."),
	}
}

func (i *intakeMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{i.events, i.ruleFailures, i.rules, i.rulesBad, i.spooled, i.expired}
}

// Event counts an event by its type and what became of it.
func (m *Metrics) Event(kind, outcome string) {
	m.intake.events.WithLabelValues(m.names.bound("type", kind), m.names.bound("outcome", outcome)).Inc()
}

// RuleFailed counts a rule that could not be worked out for an event.
func (m *Metrics) RuleFailed(rule string) {
	m.intake.ruleFailures.WithLabelValues(m.names.bound("rule", rule)).Inc()
}

// Rules says how many rules are in force, and whether the file they came from has become one that cannot be read.
func (m *Metrics) Rules(count int, bad bool) {
	m.intake.rules.Set(float64(count))
	m.intake.rulesBad.Set(0)
	if bad {
		m.intake.rulesBad.Set(1)
	}
}

// Spooled counts a delivery that went to disk.
func (m *Metrics) Spooled() { m.intake.spooled.Inc() }

// SpoolExpired counts deliveries that were dropped for their age.
func (m *Metrics) SpoolExpired(count int) { m.intake.expired.Add(float64(count)) }

// SpoolStats is how full the receiver's disk is.
type SpoolStats struct {
	Records int
	Bytes   int64
	Oldest  time.Time // zero where it is empty
	Damaged int       // places that could not be read
	Away    bool      // deliveries go to disk now
}

// WatchSpool makes every scrape ask stats. A second call takes the place of the first.
func (m *Metrics) WatchSpool(stats func() SpoolStats) { m.spool.stats.Store(&stats) }

// spoolCollector reads the spool when it is asked.
type spoolCollector struct {
	stats                                 atomic.Pointer[func() SpoolStats]
	records, bytes, oldest, damaged, away *prometheus.Desc
}

func newSpoolCollector() *spoolCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("gitsmith_spool_"+name, help, nil, nil)
	}
	return &spoolCollector{
		records: desc("records", "Deliveries on the receiver's disk that wait for redis."),
		bytes:   desc("bytes", "Bytes of the spool on disk."),
		oldest:  desc("oldest_seconds", "Age of the oldest delivery in the spool; 0 where it is empty."),
		damaged: desc("damaged", "Places in the spool that could not be read since the start; their files are put aside."),
		away:    desc("active", "1 while deliveries go to the spool because redis does not answer."),
	}
}

// Describe is part of prometheus.Collector.
func (c *spoolCollector) Describe(descriptions chan<- *prometheus.Desc) {
	for _, each := range []*prometheus.Desc{c.records, c.bytes, c.oldest, c.damaged, c.away} {
		descriptions <- each
	}
}

// Collect is part of prometheus.Collector.
func (c *spoolCollector) Collect(metrics chan<- prometheus.Metric) {
	ask := c.stats.Load()
	if ask == nil {
		return
	}
	stats := (*ask)()
	age, away := 0.0, 0.0
	if !stats.Oldest.IsZero() {
		age = max(0, time.Since(stats.Oldest).Seconds())
	}
	if stats.Away {
		away = 1
	}
	for desc, value := range map[*prometheus.Desc]float64{
		c.records: float64(stats.Records), c.bytes: float64(stats.Bytes), c.oldest: age, c.damaged: float64(stats.Damaged), c.away: away,
	} {
		metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value)
	}
}
