package receiver

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// event is what a handler adds to the one log event of its request.
type event struct {
	installation string
	module       forge.Module
	job          string
	batch        string
	event        string // its type
	place        string // where its body had the type
	outcome      string // of an event
	refused      bool   // a proven call that the route does not admit
	setting      string // that would admit it; empty for none
}

const eventKey = "gitsmith.event"

// eventOf is the request's event, which observe has put there.
func eventOf(c echo.Context) *event {
	log, _ := c.Get(eventKey).(*event)
	return log
}

// observe puts the caller's trace into the context, turns a panic into an answer, and writes one log event and one count for
// each request. Headers and bodies are never logged.
func (r *receiver) observe(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		begun := time.Now()
		request := c.Request()
		traceID, spanID := telemetry.FromB3(request.Header)
		if traceID == "" {
			traceID, spanID = telemetry.NewTrace()
		}
		ctx := telemetry.WithTrace(request.Context(), traceID, spanID)
		c.SetRequest(request.WithContext(ctx))
		log := new(event)
		c.Set(eventKey, log)

		err := recovered(next, c)
		if err != nil {
			c.Error(err)
		}
		duration, status := time.Since(begun), c.Response().Status
		r.Metrics.Request(c.Path(), request.Method, status, duration)
		level := slog.LevelInfo
		switch {
		case status == http.StatusInternalServerError:
			level = slog.LevelError
		case log.refused:
			level = slog.LevelWarn
		}
		r.Logger.LogAttrs(ctx, level, "request", append([]slog.Attr{
			slog.String(telemetry.KeyRoute, c.Path()), slog.String(telemetry.KeyMethod, methodOf(request)), slog.Int(telemetry.KeyStatus, status),
			slog.Int64(telemetry.KeyBytes, c.Response().Size), slog.Duration(telemetry.KeyDuration, duration),
		}, log.attributes(err)...)...)
		return nil
	}
}

func (e *event) attributes(err error) []slog.Attr {
	var attributes []slog.Attr
	module := e.module.Type
	if e.module.Key != "" {
		module += "/" + e.module.Key
	}
	for _, pair := range [][2]string{
		{telemetry.KeyInstallation, e.installation},
		{telemetry.KeyModule, module},
		{telemetry.KeyJob, e.job},
		{telemetry.KeyBatch, e.batch},
		{telemetry.KeyEvent, e.event},
		{telemetry.KeyOutcome, e.outcome},
		{telemetry.KeySetting, e.setting},
	} {
		if pair[1] != "" {
			attributes = append(attributes, slog.String(pair[0], pair[1]))
		}
	}
	if err != nil {
		attributes = append(attributes, slog.String(telemetry.KeyKind, viewOfError(err).Kind), errorOf(err))
	}
	return attributes
}

func errorOf(err error) slog.Attr {
	return slog.String(telemetry.KeyError, secret.Scrub(fault.Private(err)))
}

// methodOf is the method in a log; callers may make up any.
func methodOf(request *http.Request) string {
	const longest = len(http.MethodOptions)
	if len(request.Method) > longest {
		return "other"
	}
	return request.Method
}

const maxStack = 4 << 10 // bytes

// recovered runs a handler and turns a panic into an Internal fault; the one that net/http itself uses goes on. Of what was
// thrown only Go's own errors are told: a library's text may quote what it worked on.
func recovered(next echo.HandlerFunc, c echo.Context) (err error) {
	defer func() {
		thrown := recover()
		if thrown == nil {
			return
		}
		cause, isError := thrown.(error)
		if isError && errors.Is(cause, http.ErrAbortHandler) {
			panic(thrown)
		}
		text := fmt.Sprintf("%T", thrown)
		var ours runtime.Error
		if isError && errors.As(cause, &ours) {
			text = ours.Error()
		}
		stack := debug.Stack()
		err = fault.Wrapf(fault.Internal, fmt.Errorf("panic: %s\n%s", text, stack[:min(len(stack), maxStack)]),
			"something went wrong on our side; the log has it under this trace id")
	}()
	return next(c)
}
