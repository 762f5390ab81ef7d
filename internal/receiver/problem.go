package receiver

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

const (
	keyInstallation = telemetry.KeyInstallation
	keyError        = telemetry.KeyError
)

// problem is a refusal that HTTP itself has a status for, beside the kinds of fault.
type problem struct {
	status int
	title  string
	detail string
}

func (p problem) Error() string { return p.detail }

// problemView is an RFC 9457 answer.
type problemView struct {
	Type    string `json:"type"`
	Title   string `json:"title"`
	Status  int    `json:"status"`
	Detail  string `json:"detail"`
	Kind    string `json:"kind"`
	TraceID string `json:"trace_id,omitempty"`
}

// unavailableWait is what callers are told to wait where nobody knows better. Forge does not document that it honours it.
const unavailableWait = 5 * time.Second

// problemOf answers with a problem, whatever went wrong: a fault, one of echo's own errors, or anything else.
func (r *receiver) problemOf(err error, c echo.Context) {
	if c.Response().Committed {
		return // an archive that broke off; the connection says so
	}
	view := viewOfError(err)
	view.TraceID, _ = telemetry.TraceOf(c.Request().Context())
	header := c.Response().Header()
	header.Set("Content-Type", "application/problem+json")
	header.Set("Cache-Control", "no-store")
	wait := fault.RetryAfter(err)
	if wait == 0 && view.Status == http.StatusServiceUnavailable {
		wait = unavailableWait
	}
	if wait > 0 {
		header.Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	if view.Status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", "Bearer")
	}
	c.Response().WriteHeader(view.Status)
	if c.Request().Method != http.MethodHead {
		_ = json.NewEncoder(c.Response()).Encode(view) // whoever went away needs no answer
	}
}

func viewOfError(err error) problemView {
	var refused problem
	var routing *echo.HTTPError
	switch {
	case errors.As(err, &refused):
	case errors.As(err, &routing) && routing.Code == http.StatusMethodNotAllowed:
		refused = problem{routing.Code, "Method not allowed", "this route takes other methods; the header Allow and /openapi.yaml name them"}
	case errors.As(err, &routing) && routing.Code == http.StatusNotFound:
		refused = problem{routing.Code, "Not found", "there is no such route; /openapi.yaml lists those that there are"}
	default:
		kind := fault.KindOf(err)
		return problemView{
			Type: "urn:gitsmith:problem:" + kind.String(), Title: kind.Problem().Title, Status: kind.Problem().Status,
			Detail: fault.Public(err), Kind: kind.String(),
		}
	}
	kind := fault.Invalid
	if refused.status == http.StatusNotFound {
		kind = fault.NotFound
	}
	return problemView{Type: "urn:gitsmith:problem:" + kind.String(), Title: refused.title, Status: refused.status, Detail: refused.detail, Kind: kind.String()}
}

// event is the one log event of a request.
type event struct {
	installation string
	module       forge.Module
	job          string
}

const eventKey = "gitsmith.event"

func eventOf(c echo.Context) *event {
	if log, ok := c.Get(eventKey).(*event); ok {
		return log
	}
	return new(event)
}

// observe puts the caller's trace into the context, turns a panic into an answer, and writes one log event and one count for
// each request. Headers and bodies are never logged.
func (r *receiver) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		begun := time.Now()
		traceID, spanID := telemetry.FromB3(c.Request().Header)
		if traceID == "" {
			traceID, spanID = telemetry.NewTrace()
		}
		ctx := telemetry.WithTrace(c.Request().Context(), traceID, spanID)
		c.SetRequest(c.Request().WithContext(ctx))
		log := new(event)
		c.Set(eventKey, log)

		err := recovered(next, c)
		if err != nil {
			c.Error(err)
		}
		duration, route := time.Since(begun), c.Path()
		if route == "" {
			route = "none"
		}
		r.Metrics.Request(route, c.Request().Method, c.Response().Status, duration)
		attributes := []slog.Attr{
			slog.String(telemetry.KeyRoute, route), slog.String(telemetry.KeyMethod, c.Request().Method),
			slog.Int(telemetry.KeyStatus, c.Response().Status), slog.Int64(telemetry.KeyBytes, c.Response().Size),
			slog.Duration(telemetry.KeyDuration, duration),
		}
		r.Logger.LogAttrs(ctx, level(c.Response().Status), "request", append(attributes, log.attributes(err)...)...)
		return nil
	}
}

func (e *event) attributes(err error) []slog.Attr {
	var attributes []slog.Attr
	for _, pair := range [][2]string{{keyInstallation, e.installation}, {telemetry.KeyModule, e.module.Type}, {telemetry.KeyJob, e.job}} {
		if pair[1] != "" {
			attributes = append(attributes, slog.String(pair[0], pair[1]))
		}
	}
	if err != nil {
		attributes = append(attributes, slog.String(telemetry.KeyKind, viewOfError(err).Kind), slog.String(keyError, fault.Private(err)))
	}
	return attributes
}

func level(status int) slog.Level {
	if status == http.StatusInternalServerError {
		return slog.LevelError
	}
	return slog.LevelInfo
}

// recovered runs a handler and turns a panic into an Internal fault; the one that net/http itself uses goes on.
func recovered(next echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		if what := recover(); what != nil {
			if cause, isError := what.(error); isError && errors.Is(cause, http.ErrAbortHandler) {
				panic(what)
			}
			err = fault.Wrapf(fault.Internal, fmt.Errorf("panic: %v", what), "something went wrong on our side; the log has it under this trace id")
		}
	}()
	return next(c)
}
