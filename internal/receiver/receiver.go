// Package receiver is the public side: it proves who calls, keeps the tokens that came along, and turns requests into queued
// jobs. It answers before any outbound call is made.
package receiver

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/intake"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/rule"
)

// Verifier proves a call by its headers.
type Verifier interface {
	Verify(ctx context.Context, header http.Header) (forge.Invocation, error)
}

// Intake takes what a call brings and asks for: once Take has returned, nothing of it is lost.
type Intake interface {
	Take(ctx context.Context, delivery intake.Delivery) (intake.Taken, error)
	// Keep keeps the tokens of a call that asks for nothing else to be kept.
	Keep(ctx context.Context, invocation forge.Invocation) error
	Away() bool // whether Redis does not answer, as far as is known
}

// Tokens says who has a token.
type Tokens interface {
	Take(ctx context.Context, installation string, actor forge.Actor) (forge.OAuthToken, error)
}

// Installations is what is known of them.
type Installations interface {
	Get(ctx context.Context, id string) (installation.Record, error)
}

// Jobs is the queue. Every call names the installation whose jobs it may see.
type Jobs interface {
	Get(ctx context.Context, installation, id string) (job.Status, error)
	List(ctx context.Context, installation string, options job.ListOptions) (job.List, error)
	Cancel(ctx context.Context, installation, id string) (job.Status, error)
	Retry(ctx context.Context, installation, id string) (job.Status, error)
	// CancelAll cancels every job of the installation that has not ended, and returns how many there were.
	CancelAll(ctx context.Context, installation string) (int, error)
}

// Artifacts gives archives back.
type Artifacts interface {
	Get(ctx context.Context, key string) (content io.ReadCloser, size int64, err error)
}

// Metrics counts what operators watch.
type Metrics interface {
	Request(route, method string, status int, duration time.Duration)
	Enqueued(operation, class string, created bool)
	FITRefused(reason string)
	Event(kind, outcome string)
	RuleFailed(rule string)
}

// Config is what a receiver is made of. Everything but Now is required.
type Config struct {
	Verifier      Verifier
	Intake        Intake
	Tokens        Tokens
	Installations Installations
	Jobs          Jobs
	Batches       Batches
	Artifacts     Artifacts
	Metrics       Metrics
	Logger        *slog.Logger
	Limits        job.Limits
	MaxBody       int64            // bytes
	Rules         func() *rule.Set // as they are now; a nil set wants no event
	EventAge      time.Duration    // an older event is recorded and not acted on

	// Module keys that may call Forge's own routes; empty for any key.
	EventKeys, ScheduleKeys, LifecycleKeys, UninstallKeys []string

	Now func() time.Time
}

//go:embed openapi.yaml
var openAPI []byte

// receiver holds the handlers.
type receiver struct {
	Config
	sightings sightings
}

// New makes the public handler. It may be used concurrently.
func New(config Config) (http.Handler, error) {
	if config.Verifier == nil || config.Intake == nil || config.Tokens == nil || config.Installations == nil || config.Jobs == nil || config.Batches == nil ||
		config.Artifacts == nil || config.Metrics == nil || config.Logger == nil || config.Rules == nil || config.MaxBody <= 0 || config.EventAge <= 0 {
		return nil, errors.New("receiver: the configuration is not whole")
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return (&receiver{Config: config}).router(), nil
}

func (r *receiver) router() *echo.Echo {
	router := echo.New()
	router.HTTPErrorHandler = r.answerProblem
	router.Use(r.observe)

	// Public: it holds nothing that this repository does not.
	router.GET("/openapi.yaml", func(c echo.Context) error { return c.Blob(http.StatusOK, "application/yaml", openAPI) })

	for _, route := range []struct {
		method, path string
		handler      handler
	}{
		{http.MethodGet, "/v1/installation", r.installation},
		{http.MethodGet, "/v1/jobs", r.list},
		{http.MethodGet, "/v1/jobs/:id", r.get},
		{http.MethodPost, "/v1/jobs/:id/cancel", r.cancel},
		{http.MethodPost, "/v1/jobs/:id/retry", r.retry},
		{http.MethodGet, "/v1/jobs/:id/artifact", r.artifact},
		{http.MethodHead, "/v1/jobs/:id/artifact", r.artifact},
		{http.MethodPost, "/v1/batches", r.submitBatch},
		{http.MethodGet, "/v1/batches", r.listBatches},
		{http.MethodGet, "/v1/batches/:id", r.getBatch},
		{http.MethodGet, "/v1/batches/:id/repositories", r.listItems},
		{http.MethodPost, "/v1/batches/:id/cancel", r.cancelBatch},
		{http.MethodPost, "/v1/batches/:id/pause", r.pauseBatch},
		{http.MethodPost, "/v1/batches/:id/resume", r.resumeBatch},
		{http.MethodPost, "/v1/batches/:id/retry", r.retryBatch},
	} {
		router.Add(route.method, route.path, r.proven(admitCaller, r.keeping(route.handler)))
	}
	// These hand what the call brings to the intake, together with what it asks for.
	router.POST("/v1/jobs", r.proven(admitCaller, r.submit))
	router.POST("/forge/events", inTime(forgeTime, r.proven(admitPlatform(r.EventKeys, "GITSMITH_EVENT_KEYS"), r.events)))
	router.POST("/forge/schedule", inTime(forgeTime, r.proven(admitPlatform(r.ScheduleKeys, "GITSMITH_SCHEDULE_KEYS"), r.schedule)))
	router.POST("/forge/lifecycle", inTime(forgeTime, r.proven(admitPlatform(r.LifecycleKeys, "GITSMITH_LIFECYCLE_KEYS"), r.lifecycle)))
	router.POST("/forge/uninstall", detached(uninstallTime, r.proven(admitPlatform(r.UninstallKeys, "GITSMITH_UNINSTALL_KEYS"), r.uninstall)))
	return router
}

// handler is one route's work: what was asked by whom, answered by a body or a fault.
type handler func(ctx context.Context, c *call) error

// call is one proven request.
type call struct {
	echo.Context
	forge.Invocation
	log *event
}

// proven lets a handler run for callers that Forge has signed for and that the route admits. The body is not read before.
func (r *receiver) proven(admit admission, next handler) echo.HandlerFunc {
	return func(c echo.Context) error {
		request := c.Request()
		ctx, header := request.Context(), c.Response().Header()
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		request.Body = http.MaxBytesReader(c.Response().Writer, request.Body, r.MaxBody)

		invocation, err := r.Verifier.Verify(ctx, request.Header)
		if err != nil {
			if reason := refusal(request.Header, err); reason != "" {
				r.Metrics.FITRefused(reason)
			}
			return err
		}
		log := eventOf(c)
		log.installation, log.module = invocation.Installation(), invocation.Module()
		admitted := &call{Context: c, Invocation: invocation, log: log}
		defer r.sight(ctx, admitted) // once the handler has found the event
		if err := admit(admitted); err != nil {
			return err
		}
		return next(ctx, admitted)
	}
}

// keeping keeps the user token that came along before the handler runs.
func (r *receiver) keeping(next handler) handler {
	return func(ctx context.Context, c *call) error {
		if err := r.Intake.Keep(ctx, c.Invocation); err != nil {
			return fmt.Errorf("keep the tokens of the call: %w", err)
		}
		return next(ctx, c)
	}
}

// refusal is why a FIT did not verify, in few words for the metrics; empty where it is not the FIT that is wrong.
func refusal(header http.Header, err error) string {
	switch values := header.Values("Authorization"); {
	case fault.KindOf(err) == fault.Unavailable:
		return "keys"
	case fault.KindOf(err) != fault.Unauthenticated:
		return ""
	case len(values) == 0:
		return "missing"
	case len(values) > 1 || strings.Count(values[0], ".") != 2:
		return "malformed"
	}
	return "refused"
}

// body reads the request's body up to the bound.
func (c *call) body() ([]byte, error) {
	var read bytes.Buffer
	if length := c.Request().ContentLength; length > 0 && length <= firstRead { // a caller may promise any length
		read.Grow(int(length) + bytes.MinRead)
	}
	_, err := read.ReadFrom(c.Request().Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, fault.Newf(fault.TooLarge, "the body has more than %d bytes (GITSMITH_MAX_BODY)", large.Limit)
	case err != nil:
		return nil, fault.Wrapf(fault.Invalid, err, "the body did not arrive whole in time; send it again")
	}
	return read.Bytes(), nil
}

// firstRead is the longest body that memory is taken for before it has arrived.
const firstRead = 64 << 10

// NewServer is a server whose times are bounded: a caller that is slow, or goes silent, holds nothing for long. The download
// of an archive sets deadlines of its own. Headers beyond the bound are answered with 431 by net/http, not by a problem.
func NewServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
}
