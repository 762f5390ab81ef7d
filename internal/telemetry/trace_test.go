package telemetry_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	wire "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

func TestFromB3(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ trace, span, wantTrace, wantSpan string }{
		"128 bits":  {traceID, spanID, traceID, spanID},
		"64 bits":   {"48485a3953bb6124", spanID, "000000000000000048485a3953bb6124", spanID},
		"none":      {},
		"no span":   {trace: traceID},
		"no trace":  {span: spanID},
		"zero":      {trace: strings.Repeat("0", 32), span: spanID},
		"not hex":   {trace: strings.Repeat("g", 32), span: spanID},
		"too long":  {trace: traceID + "00", span: spanID},
		"line ends": {trace: traceID[:30] + "\r\n", span: spanID},
	} {
		header := http.Header{}
		if tc.trace != "" {
			header.Set("x-b3-traceid", tc.trace)
		}
		if tc.span != "" {
			header.Set("x-b3-spanid", tc.span)
		}
		if trace, span := telemetry.FromB3(header); trace != tc.wantTrace || span != tc.wantSpan {
			t.Errorf("%s: %q, %q", name, trace, span)
		}
	}
}

func TestTraceTravelsWithoutACollector(t *testing.T) {
	t.Parallel()
	tracing, err := telemetry.NewTracing(t.Context(), "api", "1", "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for name, tracing := range map[string]*telemetry.Tracing{"off": tracing, "nil": nil, "zero": {}} {
		ctx, end := tracing.Start(telemetry.WithTrace(t.Context(), traceID, spanID), "clone", telemetry.SpanConsumer)
		end(errors.New("x"))
		if trace, span := telemetry.TraceOf(ctx); trace != traceID || span != spanID {
			t.Errorf("%s: %q, %q", name, trace, span)
		}
		if err := tracing.Shutdown(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if trace, _ := telemetry.TraceOf(telemetry.WithTrace(t.Context(), "x", "y")); trace != "" {
		t.Errorf("malformed ids were carried: %q", trace)
	}
	first, span := telemetry.NewTrace()
	second, _ := telemetry.NewTrace()
	if got, gotSpan := telemetry.TraceOf(telemetry.WithTrace(t.Context(), first, span)); got != first || gotSpan != span || first == second {
		t.Errorf("made %q, %q, carried %q, %q", first, span, got, gotSpan)
	}
}

func TestSpansContinueTheCallersTrace(t *testing.T) {
	t.Parallel()
	bodies := make(chan []byte, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var reader io.Reader = r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			reader, _ = gzip.NewReader(r.Body)
		}
		body, _ := io.ReadAll(reader)
		if r.URL.Path == "/base/v1/traces" {
			bodies <- body
		}
	}))
	t.Cleanup(server.Close)
	tracing, err := telemetry.NewTracing(t.Context(), "worker", "1.2.3", server.URL+"/base", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := tracing.Start(telemetry.WithTrace(t.Context(), traceID, spanID), "push", telemetry.SpanConsumer)
	if got, inner := telemetry.TraceOf(ctx); got != traceID || inner == spanID {
		t.Errorf("inside the span: %q, %q", got, inner)
	}
	end(fault.Wrapf(fault.Denied, errors.New(leaking), "push: %s", canary))
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	var request collector.ExportTraceServiceRequest
	body := <-bodies
	if err := proto.Unmarshal(body, &request); err != nil {
		t.Fatal(err)
	}
	span := request.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()[0]
	if hex.EncodeToString(span.GetTraceId()) != traceID || hex.EncodeToString(span.GetParentSpanId()) != spanID || span.GetName() != "push" ||
		span.GetKind() != wire.Span_SPAN_KIND_CONSUMER || span.GetStatus().GetMessage() != "denied" {
		t.Errorf("span: %v", span)
	}
	if bytes.Contains(body, []byte(canary)) || !bytes.Contains(body, []byte("1.2.3")) {
		t.Errorf("sent: %q", body)
	}
}

func TestLostSpansShowInTheLog(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadRequest) }))
	t.Cleanup(server.Close)
	var out bytes.Buffer
	tracing, err := telemetry.NewTracing(t.Context(), "worker", "1", server.URL, telemetry.NewLogger(&out, "info", "json"))
	if err != nil {
		t.Fatal(err)
	}
	_, end := tracing.Start(context.Background(), "push", telemetry.SpanInternal)
	end(nil)
	if err := tracing.Shutdown(t.Context()); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if !strings.Contains(out.String(), "spans were lost") {
		t.Errorf("log: %q", out.String())
	}
	for _, endpoint := range []string{"collector", "http://", "://" + canary} {
		if _, err := telemetry.NewTracing(t.Context(), "worker", "1", endpoint, nil); err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("endpoint %q: %v", endpoint, err)
		}
	}
}
