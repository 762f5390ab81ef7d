// Package telemetry is what the system tells its operators: logs without secrets, metrics with bounded labels, and the
// caller's trace carried along.
package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// The keys of log attributes.
const (
	KeyService      = "service"
	KeyVersion      = "version"
	KeyTraceID      = "trace_id"
	KeyInstallation = "installation"
	KeyJob          = "job"
	KeyBatch        = "batch"
	KeyRule         = "rule"
	KeyEvent        = "event"
	KeyModule       = "module"
	KeyOutcome      = "outcome"
	KeyActor        = "actor"
	KeyOperation    = "operation"
	KeyClass        = "class"
	KeyState        = "state"
	KeyAttempt      = "attempt"
	KeyRepository   = "repository"
	KeyBranch       = "branch"
	KeyCommit       = "commit"
	KeyQueue        = "queue"
	KeyMethod       = "method"
	KeyRoute        = "route"
	KeyStatus       = "status"
	KeyDuration     = "duration"
	KeyBytes        = "bytes"
	KeyCount        = "count"
	KeyRetryAfter   = "retry_after"
	KeyExpiry       = "expiry"
	KeyAddress      = "address"
	KeyCheck        = "check"
	KeyReason       = "reason"
	KeyKind         = "kind"
	KeyError        = "error"
	KeySetting      = "setting" // that would change a refusal
	KeyRefused      = "refused"

	// Of the first call of a kind.
	KeyModuleType  = "module_type"
	KeyModuleKey   = "module_key"
	KeyPrincipal   = "principal"
	KeyEventTypeAt = "event_type_at"
	KeySystemToken = "x_forge_oauth_system"
	KeyUserToken   = "x_forge_oauth_user"
	KeyFITLife     = "fit_life"
	KeyFITBytes    = "fit_bytes"
	KeyForgeKeys   = "forge_keys"
	KeyBody        = "body_bytes"
)

// NewLogger writes to w what is at least of level (debug, info, warn, error; anything else is info), as json or text; auto
// is text where w is a terminal, else json. Every text passes secret.Scrub. Attributes are strings, numbers, booleans,
// durations, times, errors and kinds, alone or in groups; of any other value only the type is written, since structs and
// maps hide what no scrubber finds. A trace id in the context is added as [KeyTraceID].
func NewLogger(w io.Writer, level, format string) *slog.Logger {
	options := &slog.HandlerOptions{}
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err == nil {
		options.Level = least
	}
	var inner slog.Handler = slog.NewJSONHandler(w, options)
	if format == "text" || format == "auto" && terminal(w) {
		inner = slog.NewTextHandler(w, options)
	}
	return slog.New(&scrubber{inner: inner})
}

func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// scrubber cleans records before inner writes them. Open groups are held here and not by inner, so that the trace id stands
// outside of them.
type scrubber struct {
	inner  slog.Handler
	groups []openGroup // outermost first
}

type openGroup struct {
	name  string
	attrs []slog.Attr
}

// Enabled is part of slog.Handler.
func (s *scrubber) Enabled(ctx context.Context, level slog.Level) bool {
	return s.inner.Enabled(ctx, level)
}

// Handle is part of slog.Handler.
func (s *scrubber) Handle(ctx context.Context, record slog.Record) error {
	clean := slog.NewRecord(record.Time, record.Level, secret.Scrub(record.Message), record.PC)
	if traceID, _ := TraceOf(ctx); traceID != "" {
		clean.AddAttrs(slog.String(KeyTraceID, traceID))
	}
	attrs := make([]slog.Attr, 0, record.NumAttrs())
	record.Attrs(func(attr slog.Attr) bool {
		attrs = append(attrs, scrubAttr(attr))
		return true
	})
	for i := len(s.groups) - 1; i >= 0; i-- {
		group := s.groups[i]
		inside := append(append([]slog.Attr{}, group.attrs...), attrs...)
		attrs = []slog.Attr{slog.GroupAttrs(group.name, inside...)}
	}
	clean.AddAttrs(attrs...)
	return s.inner.Handle(ctx, clean)
}

// WithAttrs is part of slog.Handler.
func (s *scrubber) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return s
	}
	clean := scrubAttrs(attrs)
	if len(s.groups) == 0 {
		return &scrubber{inner: s.inner.WithAttrs(clean)}
	}
	groups := append([]openGroup{}, s.groups...)
	last := &groups[len(groups)-1]
	last.attrs = append(append([]slog.Attr{}, last.attrs...), clean...)
	return &scrubber{inner: s.inner, groups: groups}
}

// WithGroup is part of slog.Handler.
func (s *scrubber) WithGroup(name string) slog.Handler {
	if name == "" {
		return s
	}
	return &scrubber{inner: s.inner, groups: append(append([]openGroup{}, s.groups...), openGroup{name: name})}
}

func scrubAttrs(attrs []slog.Attr) []slog.Attr {
	clean := make([]slog.Attr, len(attrs))
	for i, attr := range attrs {
		clean[i] = scrubAttr(attr)
	}
	return clean
}

func scrubAttr(attr slog.Attr) slog.Attr {
	if attr.Equal(slog.Attr{}) {
		return attr // handlers leave it out
	}
	value := attr.Value.Resolve()
	switch value.Kind() {
	case slog.KindString:
		value = slog.StringValue(secret.Scrub(value.String()))
	case slog.KindGroup:
		value = slog.GroupValue(scrubAttrs(value.Group())...)
	case slog.KindAny, slog.KindLogValuer:
		value = slog.StringValue(secret.Scrub(plain(value.Any())))
	}
	return slog.Attr{Key: attr.Key, Value: value}
}

// plain is the text of an error, of a kind or of a named string, and the type's name of anything else.
func plain(value any) (text string) {
	defer func() {
		if recover() != nil { // a nil pointer that calls itself an error
			text = fmt.Sprintf("%T that cannot be printed", value)
		}
	}()
	switch value := value.(type) {
	case nil:
		return "<nil>"
	case error:
		return fault.Private(value)
	case fault.Kind:
		return value.String()
	}
	if reflect.TypeOf(value).Kind() == reflect.String {
		return reflect.ValueOf(value).String()
	}
	return fmt.Sprintf("%T", value)
}
