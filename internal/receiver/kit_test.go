package receiver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/intake"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/rule"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/telemetry"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ada   = "557058:ada"
	other = "ari:cloud:ecosystem::installation/99999999-5555-4666-8777-888888888888"

	pushBody  = `{"repository": {"workspace": "acme", "slug": "web"}, "push": {"branch": "main", "message": "m", "changes": [{"put": {"path": "a", "content": "b"}}]}}`
	cloneBody = `{"repository": {"workspace": "acme", "slug": "web"}, "clone": {"ref": "refs/heads/main"}}`
)

// house is a receiver with a real verifier and small stand-ins for what lies behind it. Whatever goes in and out through do is
// held against the OpenAPI document.
type house struct {
	*forgetest.Running
	http.Handler
	config    Config
	tokens    *memoryTokens
	known     *memoryInstallations
	jobs      *memoryJobs
	batches   *memoryBatches
	artifacts *memoryArtifacts
	counts    *counts
	log       *logBuffer
	document  *document
}

func newHouse(tb testing.TB) *house {
	tb.Helper()
	h := &house{
		Running: forgetest.Start(tb), tokens: &memoryTokens{kept: map[string]forge.OAuthToken{}}, jobs: &memoryJobs{},
		known: &memoryInstallations{records: map[string]installation.Record{}}, artifacts: &memoryArtifacts{kept: map[string]string{}}, counts: &counts{}, log: &logBuffer{}, document: loadDocument(tb),
	}
	h.batches = newBatches(tb)
	now := time.Now()
	h.Now = func() time.Time { return now } // a FIT lives 25 s, and a machine can be busy for longer
	h.config = Config{
		Verifier: h.Verifier, Tokens: h.tokens, Installations: h.known, Jobs: h.jobs, Batches: h.batches, Artifacts: h.artifacts, Metrics: h.counts,
		Logger: loggerTo(h.log), Limits: job.DefaultLimits(), MaxBody: 5_000_000,
		Rules: func() *rule.Set { return nil }, EventAge: 24 * time.Hour,
	}
	h.Handler = h.build(tb, func(*Config) {})
	return h
}

// build is a handler like the house's with another configuration.
func (h *house) build(tb testing.TB, change func(*Config)) http.Handler {
	tb.Helper()
	config := h.config
	change(&config)
	if config.Intake == nil { // the real one, over the stand-ins
		jobs, _ := config.Jobs.(intake.Jobs)
		tokens, _ := config.Tokens.(intake.Tokens)
		known, _ := config.Installations.(intake.Installations)
		config.Intake = intake.New(intake.Config{Jobs: jobs, Tokens: tokens, Installations: known, Logger: config.Logger})
	}
	handler, err := New(config)
	if err != nil {
		tb.Fatal(err)
	}
	return handler
}

// user is a page's invocation by Ada with her token, and system one by a function of the app while the system's token is kept.
func (h *house) user() http.Header {
	return h.Header(forgetest.FITOptions{Principal: ada}, forgetest.Tokens{User: h.token()})
}

func (h *house) system() http.Header {
	token := forge.OAuthToken{Text: secret.New(h.token()), ExpiresAt: time.Now().Add(time.Hour)}
	_, _ = h.tokens.Put(context.Background(), forgetest.Installation, forge.Actor{Kind: forge.ActorSystem}, token, time.Time{})
	return h.Header(forgetest.FITOptions{}, forgetest.Tokens{})
}

func (h *house) foreign() http.Header {
	return h.Header(forgetest.FITOptions{Installation: other, Principal: ada}, forgetest.Tokens{User: h.token(), System: h.token()})
}

func (h *house) token() string {
	return h.OAuthToken(forgetest.OAuthOptions{ExpiresAt: time.Now().Add(time.Hour)})
}

// with is header with further fields: name, value, name, value.
func with(header http.Header, fields ...string) http.Header {
	header = header.Clone()
	for i := 0; i < len(fields); i += 2 {
		header.Set(fields[i], fields[i+1])
	}
	return header
}

type reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// do sends a request and checks it and its answer against the document.
func (h *house) do(tb testing.TB, method, target string, header http.Header, body string) reply {
	tb.Helper()
	return h.to(tb, h.Handler, method, target, header, body)
}

func (h *house) to(tb testing.TB, handler http.Handler, method, target string, header http.Header, body string) reply {
	tb.Helper()
	request := httptest.NewRequestWithContext(tb.Context(), method, target, strings.NewReader(body))
	request.Header = header.Clone()
	if body != "" && header.Get("Content-Type") == "" {
		request.Header.Set("Content-Type", "application/json")
	}
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, request)
	answer := reply{recorder.Code, recorder.Header(), recorder.Body.Bytes()}
	h.document.check(tb, request, body, answer)
	return answer
}

// submit queues a job and returns it.
func (h *house) submit(tb testing.TB, header http.Header, body string) jobView {
	tb.Helper()
	answer := h.do(tb, http.MethodPost, "/v1/jobs", header, body)
	if answer.Status != http.StatusAccepted {
		tb.Fatalf("status %d: %s", answer.Status, answer.Body)
	}
	return decode[jobView](tb, answer)
}

func decode[T any](tb testing.TB, answer reply) T {
	tb.Helper()
	var into T
	if err := json.Unmarshal(answer.Body, &into); err != nil {
		tb.Fatalf("%v in %s", err, answer.Body)
	}
	return into
}

// refused checks that an answer is a problem of a kind which says all of the texts.
func refused(tb testing.TB, answer reply, status int, kind fault.Kind, says ...string) {
	tb.Helper()
	found := decode[problemView](tb, answer)
	if answer.Status != status || found.Status != status || found.Kind != kind.String() || found.Type != "urn:gitsmith:problem:"+kind.String() {
		tb.Errorf("status %d, problem %+v; want %d and kind %v", answer.Status, found, status, kind)
	}
	for _, text := range says {
		if !strings.Contains(found.Detail, text) {
			tb.Errorf("%q does not say %q", found.Detail, text)
		}
	}
}

// logBuffer is what the receiver logs.
type logBuffer struct{ testkit.Buffer }

// events are the log's lines without those that describe a new kind of call.
func (b *logBuffer) events(tb testing.TB) []map[string]any {
	tb.Helper()
	return slices.DeleteFunc(b.lines(tb), func(line map[string]any) bool { return line["msg"] == "first call of its kind" })
}

// lines are all of the log.
func (b *logBuffer) lines(tb testing.TB) []map[string]any {
	tb.Helper()
	var events []map[string]any
	for line := range strings.Lines(b.String()) {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			tb.Fatal(err)
		}
		events = append(events, event)
	}
	return events
}

// memoryArtifacts is a store. open, where it is set, is what Get calls.
type memoryArtifacts struct {
	kept map[string]string
	open func(ctx context.Context, key string) (io.ReadCloser, int64, error)
}

func (m *memoryArtifacts) Get(ctx context.Context, key string) (io.ReadCloser, int64, error) {
	if m.open != nil {
		return m.open(ctx, key)
	}
	content, found := m.kept[key]
	if !found {
		return nil, 0, fault.Newf(fault.NotFound, "there is no artifact %s", key)
	}
	return io.NopCloser(strings.NewReader(content)), int64(len(content)), nil
}

// counts are metrics as text, in order.
type counts struct {
	mutex sync.Mutex
	lines []string
}

func (c *counts) add(format string, args ...any) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.lines = append(c.lines, fmt.Sprintf(format, args...))
}

func (c *counts) Request(route, method string, status int, d time.Duration) {
	if d < 0 {
		status = -1
	}
	c.add("request %s %s %d", method, route, status)
}

func (c *counts) Enqueued(operation, class string, created bool) {
	c.add("enqueued %s %s %v", operation, class, created)
}

func (c *counts) Event(kind, outcome string) { c.add("event %s %s", kind, outcome) }

func (c *counts) RuleFailed(rule string) { c.add("rule failed %s", rule) }

func (c *counts) FITRefused(reason string) { c.add("refused %s", reason) }

func (c *counts) taken() []string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return slices.Clone(c.lines)
}

// loggerTo is the program's logger.
func loggerTo(log *logBuffer) *slog.Logger { return telemetry.NewLogger(log, "debug", "json") }
