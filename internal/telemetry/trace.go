package telemetry

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"

	"go.opentelemetry.io/contrib/propagators/b3"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// FromB3 reads the trace that Forge sends along (x-b3-traceid, x-b3-spanid): 32 and 16 lower-case hex digits; a trace id of
// 64 bits is padded. Both are empty where either is missing, zero or malformed.
func FromB3(header http.Header) (traceID, spanID string) {
	ctx := b3.New().Extract(context.Background(), propagation.HeaderCarrier(header))
	return TraceOf(ctx)
}

// NewTrace makes the ids for a caller that sent none, so that its log lines still belong together.
func NewTrace() (traceID, spanID string) {
	var trace [16]byte
	var span [8]byte
	// crypto/rand never fails: it ends the process instead.
	_, _ = rand.Read(trace[:])
	_, _ = rand.Read(span[:])
	return fmt.Sprintf("%x", trace), fmt.Sprintf("%x", span)
}

// WithTrace carries the ids that [FromB3] gave, here or in another process. Malformed ids change nothing.
func WithTrace(ctx context.Context, traceID, spanID string) context.Context {
	var config trace.SpanContextConfig
	var err error
	if config.TraceID, err = trace.TraceIDFromHex(traceID); err != nil {
		return ctx
	}
	if config.SpanID, err = trace.SpanIDFromHex(spanID); err != nil {
		return ctx
	}
	config.TraceFlags = trace.FlagsSampled // Forge sends no decision; ours is all or nothing
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(config))
}

// TraceOf is the trace in ctx and its innermost span, both empty where there is none.
func TraceOf(ctx context.Context) (traceID, spanID string) {
	current := trace.SpanContextFromContext(ctx)
	if !current.IsValid() {
		return "", ""
	}
	return current.TraceID().String(), current.SpanID().String()
}

// What [Tracing.Start] takes as a span's kind.
const (
	SpanInternal = trace.SpanKindInternal
	SpanServer   = trace.SpanKindServer
	SpanClient   = trace.SpanKindClient
	SpanProducer = trace.SpanKindProducer
	SpanConsumer = trace.SpanKindConsumer
)

// Tracing records spans. The zero value, and nil, record nothing.
type Tracing struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// NewTracing sends spans to the OTLP/HTTP collector at endpoint, to its /v1/traces as OTEL_EXPORTER_OTLP_ENDPOINT means it. An
// empty endpoint records nothing and costs nothing; ids still travel by [WithTrace]. A collector that is away loses spans and
// shows in the log, nothing else. It may be used concurrently.
func NewTracing(ctx context.Context, service, version, endpoint string, logger *slog.Logger) (*Tracing, error) {
	if endpoint == "" {
		return &Tracing{}, nil
	}
	target, err := url.Parse(endpoint)
	if err != nil || target.Host == "" {
		return nil, fmt.Errorf("the OTLP endpoint is not a URL such as http://collector:4318")
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(target.JoinPath("v1", "traces").String()))
	if err != nil {
		return nil, fmt.Errorf("open the OTLP exporter: %w", err)
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(reporting{exporter, logger}),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", service), attribute.String("service.version", version))),
	)
	return &Tracing{provider: provider, tracer: provider.Tracer("gitsmith")}, nil
}

// Start begins a span as a child of the one in ctx, or of the caller's that [WithTrace] put there. name is one of a few: a route,
// an operation, never a repository. end must be called once; of its error only the kind is recorded, since a text may quote
// what others wrote.
func (t *Tracing) Start(ctx context.Context, name string, kind trace.SpanKind) (started context.Context, end func(error)) {
	if t == nil || t.tracer == nil {
		return ctx, func(error) {}
	}
	started, span := t.tracer.Start(ctx, name, trace.WithSpanKind(kind))
	return started, func(err error) {
		if err != nil {
			span.SetStatus(codes.Error, fault.KindOf(err).String())
			span.SetAttributes(attribute.String("error.type", fault.KindOf(err).String()))
		}
		span.End()
	}
}

// Shutdown sends what is still held, until ctx ends.
func (t *Tracing) Shutdown(ctx context.Context) error {
	if t == nil || t.provider == nil {
		return nil
	}
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w", err)
	}
	return nil
}

// reporting says in our log what the SDK would print on its own.
type reporting struct {
	sdktrace.SpanExporter
	logger *slog.Logger
}

// ExportSpans is part of SpanExporter. Its error ends here: the SDK could only hand it to a handler shared by the process.
func (r reporting) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	if err := r.SpanExporter.ExportSpans(ctx, spans); err != nil {
		r.logger.WarnContext(ctx, "spans were lost", slog.Int(KeyCount, len(spans)), slog.Any(KeyError, err))
	}
	return nil
}
