// Package ops is the private listener: whether the process lives and is ready, its metrics, and the dashboards of queues
// and batches behind a login. Nothing here is for the network that Forge comes from.
package ops

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// checkTimeout bounds /readyz, whatever a check does.
const checkTimeout = 2 * time.Second

// Config is what the listener shows.
type Config struct {
	// Checks are what readiness takes, by name. Each is asked at every call of /readyz, all at once, and may be called
	// concurrently. An error's public text is shown; a [Degraded] one is told and leaves the process ready.
	Checks map[string]func(context.Context) error
	// Metrics answers /metrics.
	Metrics http.Handler
	// Redis holds the queues. It stays the caller's: nothing here closes it. Needed with a dashboard only.
	Redis redis.UniversalClient
	// Dashboard is off without a password.
	Dashboard Dashboard
	// Describe is what the dashboard shows of a task's payload: never its content. Without it, its size.
	Describe func(payload []byte) string
	// Batches are shown below /dashboard/batches; without them, that page says that this process has none.
	Batches Batches
	// Stopping ends the live pages when it is closed. They would hold up a listener that lets its answers finish. Nil: only their
	// viewers end them.
	Stopping <-chan struct{}
	// Logger hears of failed checks and refused logins; none by default.
	Logger *slog.Logger
}

// Dashboard is who may look at the queues.
type Dashboard struct {
	User     string
	Password secret.Text
	// Write lets the dashboard run, archive and delete tasks; else it answers 405 to that.
	Write bool
}

// New makes the handler of /livez, /readyz, /metrics and /dashboard. It starts nothing and holds nothing that would have to be
// closed; while somebody looks at a live page, what that page shows is looked at once a second.
func New(config Config) (http.Handler, error) {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { writeText(w, http.StatusOK, "ok") })
	mux.Handle("GET /readyz", &readiness{checks: config.Checks, logger: config.Logger})
	if config.Metrics != nil {
		mux.Handle("GET /metrics", config.Metrics)
	}
	dashboard, err := newDashboard(config)
	if err != nil {
		return nil, err
	}
	mux.Handle(dashboardRoot, dashboard)
	mux.Handle(dashboardRoot+"/", dashboard)
	return protected(mux), nil
}

// protected sets the headers that every answer has. The dashboard replaces the content policy by one that lets its page run.
func protected(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("X-Frame-Options", "DENY")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n"))
}

// readiness answers /readyz: 200 when every check passes or is only degraded, else 503, with a line for each.
type readiness struct {
	checks map[string]func(context.Context) error
	logger *slog.Logger

	lock   sync.Mutex
	failed map[string]bool // as the log has it last
}

type readinessAnswer struct {
	Ready  bool                   `json:"ready"`
	Checks map[string]checkAnswer `json:"checks"`
}

type checkAnswer struct {
	OK       bool   `json:"ok"`
	Degraded bool   `json:"degraded,omitempty"`
	Detail   string `json:"detail,omitempty"`
}

// Degraded is a failed check with which the process does its work all the same, for a while.
type Degraded struct{ Err error }

func (d Degraded) Error() string { return d.Err.Error() }

// Unwrap is the failure.
func (d Degraded) Unwrap() error { return d.Err }

// ServeHTTP runs the checks.
func (r *readiness) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	ctx, cancel := context.WithTimeout(request.Context(), checkTimeout)
	defer cancel()
	type outcome struct {
		name string
		err  error
	}
	outcomes := make(chan outcome, len(r.checks)) // a check that ignores its context must not wait for a reader
	for name, check := range r.checks {
		go func() { outcomes <- outcome{name, check(ctx)} }()
	}
	errs := map[string]error{}
	for name := range r.checks {
		errs[name] = fault.Newf(fault.Unavailable, "no answer within %v", checkTimeout)
	}
wait:
	for range r.checks {
		select {
		case done := <-outcomes:
			errs[done.name] = done.err
		case <-ctx.Done():
			break wait
		}
	}
	if request.Context().Err() != nil {
		return // nobody reads the answer, and the checks were cut short
	}
	r.answer(request.Context(), w, errs)
}

func (r *readiness) answer(ctx context.Context, w http.ResponseWriter, errs map[string]error) {
	answer := readinessAnswer{Ready: true, Checks: map[string]checkAnswer{}}
	for name, err := range errs {
		r.note(ctx, name, err)
		if err == nil {
			answer.Checks[name] = checkAnswer{OK: true}
			continue
		}
		var degraded Degraded
		works := errors.As(err, &degraded)
		answer.Ready = answer.Ready && works
		answer.Checks[name] = checkAnswer{Degraded: works, Detail: secret.Scrub(detail(err))}
	}
	w.Header().Set("Content-Type", "application/json")
	if !answer.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// detail is the error's public text; one that is not classified speaks in the log only.
func detail(err error) string {
	var classified *fault.Error
	if errors.As(err, &classified) {
		return fault.Public(err)
	}
	return "failed; the log says why"
}

// note logs a check when its outcome changes: probes come every few seconds.
func (r *readiness) note(ctx context.Context, name string, err error) {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.failed[name] == (err != nil) {
		return
	}
	if r.failed == nil {
		r.failed = map[string]bool{}
	}
	r.failed[name] = err != nil
	if err != nil {
		r.logger.WarnContext(ctx, "a readiness check fails", slog.String(telemetry.KeyCheck, name), slog.Any(telemetry.KeyError, err))
		return
	}
	r.logger.InfoContext(ctx, "a readiness check passes again", slog.String(telemetry.KeyCheck, name))
}
