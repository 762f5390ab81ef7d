package telemetry

import (
	"net/http"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics counts what happens. It has a registry of its own and may be used concurrently. A label takes a bounded number of
// values; what comes later, or is no decent name, is counted as "other".
type Metrics struct {
	registry *prometheus.Registry
	queues   *queueCollector
	batches  *batchCollector
	spool    *spoolCollector
	intake   intakeMetrics
	names    names

	requests        *prometheus.CounterVec
	requestDuration *prometheus.HistogramVec
	enqueued        *prometheus.CounterVec
	refused         *prometheus.CounterVec
	waited          *prometheus.HistogramVec
	attempts        *prometheus.CounterVec
	attemptDuration *prometheus.HistogramVec
	transfers       *prometheus.CounterVec
	transferred     *prometheus.CounterVec
	reads           *prometheus.CounterVec
	tokenLife       *prometheus.HistogramVec
	rejections      *prometheus.CounterVec
}

// NewMetrics makes the metrics of one process, with those of the Go runtime and of the process itself.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		queues:   newQueueCollector(),
		batches:  newBatchCollector(),
		spool:    newSpoolCollector(),
		intake:   newIntakeMetrics(),
		requests: counter("http_requests_total", "Requests answered.", "route", "method", "status"),
		requestDuration: histogram("http_request_duration_seconds", "Time to answer a request.",
			[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 25}, "route"),
		enqueued: counter("jobs_enqueued_total", "Jobs asked for; a duplicate was there already.",
			"operation", "class", "outcome"),
		refused: counter("fit_refused_total", "Invocation tokens that did not verify.", "reason"),
		waited: histogram("job_wait_seconds", "Time from when an attempt was due to its start.",
			[]float64{.01, .05, .1, .5, 1, 5, 15, 60, 300, 1800, 7200}, "operation"),
		attempts: counter("job_attempts_total", "Attempts that ended, by the state they left the job in and the kind of error.",
			"operation", "outcome", "kind"),
		attemptDuration: histogram("job_duration_seconds", "Time that an attempt took.",
			[]float64{.05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 180, 600}, "operation", "outcome"),
		transfers:   counter("git_requests_total", "Requests to git servers; status is 0 where no answer came.", "phase", "status"),
		transferred: counter("git_bytes_total", "Bytes of bodies to and from git servers.", "phase", "direction"),
		reads:       counter("git_reads_total", "Tips of repositories that were read, by the way that was cheapest.", "way"),
		tokenLife: histogram("token_life_seconds", "How long OAuth tokens still live when they are taken for a job.",
			[]float64{0, 60, 300, 900, 1800, 3600, 7200, 14400}, "actor"),
		rejections: counter("expired_rejections_total",
			"Attempts that left git untouched because the OAuth token was gone or about to go.", "actor"),
	}
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m.queues,
		m.requests, m.requestDuration, m.enqueued, m.refused, m.waited, m.attempts, m.attemptDuration,
		m.transfers, m.transferred, m.reads, m.tokenLife, m.rejections, m.spool, m.batches,
	)
	m.registry.MustRegister(m.intake.collectors()...)
	return m
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "gitsmith", Name: name, Help: help}, labels)
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(
		prometheus.HistogramOpts{Namespace: "gitsmith", Name: name, Help: help, Buckets: buckets}, labels)
}

// Handler answers a scrape.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Request counts an answered request. route is the pattern, not the path; empty means that no route matched.
func (m *Metrics) Request(route, method string, status int, d time.Duration) {
	if route == "" {
		route = "unmatched"
	}
	route = m.names.bound("route", route)
	m.requests.WithLabelValues(route, m.names.bound("method", method), statusLabel(status)).Inc()
	m.requestDuration.WithLabelValues(route).Observe(d.Seconds())
}

// Enqueued counts a job that was asked for; created is false where it was there already.
func (m *Metrics) Enqueued(operation, class string, created bool) {
	outcome := "duplicate"
	if created {
		outcome = "created"
	}
	m.enqueued.WithLabelValues(m.names.bound("operation", operation), m.names.bound("class", class), outcome).Inc()
}

// FITRefused counts an invocation token that did not verify; reason is the failed check's short name.
func (m *Metrics) FITRefused(reason string) {
	m.refused.WithLabelValues(m.names.bound("reason", reason)).Inc()
}

// JobStarted counts the start of an attempt that was due for waited.
func (m *Metrics) JobStarted(operation string, waited time.Duration) {
	m.waited.WithLabelValues(m.names.bound("operation", operation)).Observe(max(0, waited).Seconds())
}

// JobEnded counts the end of an attempt: state is what it left the job in, kind the error's kind, empty for none.
func (m *Metrics) JobEnded(operation, state, kind string, d time.Duration) {
	operation, state = m.names.bound("operation", operation), m.names.bound("outcome", state)
	if kind == "" {
		kind = "none"
	}
	m.attempts.WithLabelValues(operation, state, m.names.bound("kind", kind)).Inc()
	m.attemptDuration.WithLabelValues(operation, state).Observe(d.Seconds())
}

// GitTransfer counts a request to a git server with the bytes of both bodies; status is 0 where no answer came.
func (m *Metrics) GitTransfer(phase string, status int, sent, received int64) {
	phase = m.names.bound("phase", phase)
	m.transfers.WithLabelValues(phase, statusLabel(status)).Inc()
	m.transferred.WithLabelValues(phase, "sent").Add(float64(max(0, sent)))
	m.transferred.WithLabelValues(phase, "received").Add(float64(max(0, received)))
}

// GitRead counts a tip that was read.
func (m *Metrics) GitRead(way string) { m.reads.WithLabelValues(m.names.bound("way", way)).Inc() }

// TokenLife records how long the OAuth token taken for a job still lives; negative counts as zero.
func (m *Metrics) TokenLife(actor string, left time.Duration) {
	m.tokenLife.WithLabelValues(m.names.bound("actor", actor)).Observe(max(0, left).Seconds())
}

// ExpiredRejection counts an attempt that left git untouched because the OAuth token was gone or about to go.
func (m *Metrics) ExpiredRejection(actor string) {
	m.rejections.WithLabelValues(m.names.bound("actor", actor)).Inc()
}

// statusLabel keeps statuses to those that HTTP has.
func statusLabel(status int) string {
	if status != 0 && (status < 100 || status > 599) {
		return other
	}
	return strconv.Itoa(status)
}

const (
	other = "other"
	// maxValues is how many values a label takes in the life of a process. The longest of our lists are the routes and queues.
	maxValues = 64
	maxLength = 64
)

// names remembers the values that each label has taken. The zero value is ready.
type names struct {
	seen   sync.Map // label + "\x00" + value
	lock   sync.Mutex
	counts map[string]int
}

func (n *names) bound(label, value string) string {
	if len(value) > maxLength || !utf8.ValidString(value) {
		return other
	}
	key := label + "\x00" + value
	if _, found := n.seen.Load(key); found {
		return value
	}
	n.lock.Lock()
	defer n.lock.Unlock()
	if _, found := n.seen.Load(key); found {
		return value
	}
	if n.counts == nil {
		n.counts = map[string]int{}
	}
	if n.counts[label] >= maxValues {
		return other
	}
	n.counts[label]++
	n.seen.Store(key, struct{}{})
	return value
}
