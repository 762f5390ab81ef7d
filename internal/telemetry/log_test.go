package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	canary  = "canary-7d20c1"
	leaking = "https://x-token-auth:" + canary + "@bitbucket.org/a/b.git"
	traceID = "463ac35c9f6413ad48485a3953bb6124"
	spanID  = "a2fb4a1d1a96d312"
)

type state string

type valuer struct{}

func (valuer) LogValue() slog.Value {
	return slog.GroupValue(slog.String("url", leaking), slog.Any("map", map[string]string{"t": canary}))
}

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestLoggerWritesNoSecret(t *testing.T) {
	t.Parallel()
	classified := fault.Wrapf(fault.Denied, fmt.Errorf("answer to %s", leaking), "push to main is not allowed")
	for _, format := range []string{"json", "text", "auto", ""} {
		var out bytes.Buffer
		logger := telemetry.NewLogger(&out, "debug", format)
		attrs := []any{
			slog.String("string", leaking), slog.Any("error", errors.New(leaking)), slog.Any("classified", classified),
			slog.Any("wrapped", fmt.Errorf("job: %w", classified)), slog.Any("secret", secret.New(canary)),
			slog.Any("map", map[string]string{"token": canary}), slog.Any("struct", struct{ T string }{canary}),
			slog.Any("bytes", []byte(canary)), slog.Any("slice", []string{canary}), slog.Any("valuer", valuer{}),
			slog.Any("named", state("Bearer "+canary)), slog.Any("pointer", &struct{ T string }{canary}),
			slog.Group("group", slog.String("url", leaking), slog.Group("inner", slog.Any("error", errors.New(leaking)))),
		}
		logger.Info("fetch "+leaking, attrs...)
		logger.With(attrs...).WithGroup("g").With(attrs...).WithGroup("h").Error("again "+leaking, attrs...)
		if strings.Contains(out.String(), canary) {
			t.Errorf("format %q: the canary is in\n%s", format, out.String())
		}
		if strings.Count(out.String(), "[redacted]") < 10 || !strings.Contains(out.String(), "answer to") {
			t.Errorf("format %q: more than the secrets is gone:\n%s", format, out.String())
		}
	}
}

// logged runs write with a JSON logger and returns its only line without the time.
func logged(t *testing.T, write func(*slog.Logger)) map[string]any {
	t.Helper()
	var out bytes.Buffer
	write(telemetry.NewLogger(&out, "info", "json"))
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v in %q", err, out.String())
	}
	delete(line, "time")
	return line
}

func TestLoggerValues(t *testing.T) {
	t.Parallel()
	got := logged(t, func(logger *slog.Logger) {
		var missing *nilError
		logger.Warn("m", slog.Int("int", 3), slog.Bool("bool", true), slog.Float64("float", 1.5), slog.Duration("duration", time.Second),
			slog.Time("at", time.Unix(0, 0).UTC()), slog.Any("kind", fault.Throttled), slog.Any("state", state("failed")),
			slog.Any("nil", nil), slog.Any("no error", error(missing)), slog.Any("map", map[string]int{}), slog.Attr{},
			slog.Any(telemetry.KeyError, fault.Wrapf(fault.NotFound, errors.New("404"), "no such branch")))
	})
	want := map[string]any{
		"level": "WARN", "msg": "m", "int": 3.0, "bool": true, "float": 1.5, "duration": 1e9, "at": "1970-01-01T00:00:00Z",
		"kind": "throttled", "state": "failed", "nil": "<nil>", "no error": "*telemetry_test.nilError that cannot be printed",
		"map": "map[string]int", "error": "not_found: no such branch: 404",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoggerGroupsAndTrace(t *testing.T) {
	t.Parallel()
	ctx := telemetry.WithTrace(t.Context(), traceID, spanID)
	got := logged(t, func(logger *slog.Logger) {
		outer := logger.With(slog.String("a", "1")).WithGroup("g").With(slog.String("b", "2"))
		_ = outer.With(slog.String("stray", "x")) // must not reach its siblings
		outer.WithGroup("").WithGroup("h").With(slog.String("c", "3")).InfoContext(ctx, "m", slog.String("d", "4"))
	})
	want := map[string]any{
		"level": "INFO", "msg": "m", "trace_id": traceID, "a": "1",
		"g": map[string]any{"b": "2", "h": map[string]any{"c": "3", "d": "4"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLoggerLevels(t *testing.T) {
	t.Parallel()
	for level, want := range map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError, "loud": slog.LevelInfo,
	} {
		logger := telemetry.NewLogger(&bytes.Buffer{}, level, "json")
		if !logger.Enabled(context.Background(), want) || logger.Enabled(context.Background(), want-1) {
			t.Errorf("level %q does not begin at %v", level, want)
		}
	}
}
