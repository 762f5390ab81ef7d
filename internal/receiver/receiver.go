// Package receiver is the public side: it proves who calls, keeps the tokens that came along, and turns requests into queued
// jobs. It answers before any outbound call is made.
package receiver

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// Verifier proves a call by its headers.
type Verifier interface {
	Verify(ctx context.Context, header http.Header) (forge.Invocation, error)
}

// TokenKeeper keeps OAuth tokens and remembers installs.
type TokenKeeper interface {
	Keep(ctx context.Context, invocation forge.Invocation) (newer []forge.Actor, err error)
	Take(ctx context.Context, installation string, actor forge.Actor) (forge.OAuthToken, error)
	MarkInstalled(ctx context.Context, installation string) error
}

// Jobs is the queue. Every call but Enqueue names the installation whose jobs it may see.
type Jobs interface {
	Enqueue(ctx context.Context, j job.Job) (status job.Status, created bool, err error)
	Get(ctx context.Context, installation, id string) (job.Status, error)
	List(ctx context.Context, installation string, options job.ListOptions) (job.List, error)
	Cancel(ctx context.Context, installation, id string) (job.Status, error)
	Retry(ctx context.Context, installation, id string, actor forge.Actor) (job.Status, error)
	Wake(ctx context.Context, installation string) (int, error)
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
}

// Config is what a receiver is made of. Everything but Now is required.
type Config struct {
	Verifier  Verifier
	Tokens    TokenKeeper
	Jobs      Jobs
	Artifacts Artifacts
	Metrics   Metrics
	Logger    *slog.Logger
	Limits    job.Limits
	MaxBody   int64 // bytes

	// Module types, or type/key, whose invocations may call the two routes of Forge's own.
	ScheduleModules  []string
	LifecycleModules []string

	Now func() time.Time
}

//go:embed openapi.yaml
var openAPI []byte

// receiver holds the handlers.
type receiver struct{ Config }

// New makes the public handler. It may be used concurrently.
func New(config Config) (http.Handler, error) {
	if config.Verifier == nil || config.Tokens == nil || config.Jobs == nil || config.Artifacts == nil || config.Metrics == nil ||
		config.Logger == nil || config.MaxBody <= 0 {
		return nil, errors.New("receiver: the configuration is not whole")
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return (&receiver{config}).router(), nil
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
		{http.MethodPost, "/v1/jobs", r.submit},
		{http.MethodGet, "/v1/jobs", r.list},
		{http.MethodGet, "/v1/jobs/:id", r.get},
		{http.MethodPost, "/v1/jobs/:id/cancel", r.cancel},
		{http.MethodPost, "/v1/jobs/:id/retry", r.retry},
		{http.MethodGet, "/v1/jobs/:id/artifact", r.artifact},
		{http.MethodHead, "/v1/jobs/:id/artifact", r.artifact},
	} {
		router.Add(route.method, route.path, r.proven(route.handler))
	}
	router.POST("/forge/schedule", inTime(r.proven(r.schedule)))
	router.POST("/forge/lifecycle", inTime(r.proven(r.lifecycle)))
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

// proven lets a handler run for callers that Forge has signed for, after the tokens that came along are kept. A system token
// that is newer than the one known wakes the jobs that wait for it. The body is not read before.
func (r *receiver) proven(next handler) echo.HandlerFunc {
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
		newer, err := r.Tokens.Keep(ctx, invocation)
		if err != nil {
			return fmt.Errorf("keep the tokens of the call: %w", err)
		}
		if slices.ContainsFunc(newer, func(actor forge.Actor) bool { return actor.Kind == forge.ActorSystem }) {
			r.wake(ctx, invocation.Installation())
		}
		return next(ctx, &call{Context: c, Invocation: invocation, log: log})
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

// wake is no reason to refuse a call: waiting jobs look for themselves at the end of their wait.
func (r *receiver) wake(ctx context.Context, installation string) {
	ctx, cancel := context.WithTimeout(ctx, forgeTime)
	defer cancel()
	if _, err := r.Jobs.Wake(ctx, installation); err != nil {
		r.Logger.WarnContext(ctx, "waiting jobs could not be woken", slog.String(telemetry.KeyInstallation, installation), errorOf(err))
	}
}

// body reads the request's body up to the bound.
func (c *call) body() ([]byte, error) {
	body, err := io.ReadAll(c.Request().Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, fault.Newf(fault.TooLarge, "the body has more than %d bytes (GITSMITH_MAX_BODY)", large.Limit)
	case err != nil:
		return nil, fault.Wrapf(fault.Invalid, err, "the body did not arrive whole in time; send it again")
	}
	return body, nil
}

// NewServer is a server whose times are bounded: a caller that is slow, or goes silent, holds nothing for long. The download
// of an archive sets deadlines of its own. Headers beyond the bound are answered with 431 by net/http, not by a problem.
func NewServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler: handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
	}
}
