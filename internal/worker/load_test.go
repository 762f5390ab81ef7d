package worker_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/telemetry"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// content fills a job by a function.
type content func(ctx context.Context, j job.Job) (job.Job, error)

func (c content) Fill(ctx context.Context, j job.Job) (job.Job, error) { return c(ctx, j) }

// ofBatch is a job as its batch hands it out: without its push.
func ofBatch(j *job.Job) {
	j.Push, j.Batch = nil, job.BatchRef{ID: "b1", Item: 3}
}

// TestLoad: a batch's job gets its push before its token is taken, and other jobs keep the one they have.
func TestLoad(t *testing.T) {
	t.Parallel()
	away := fault.Newf(fault.Unavailable, "redis is away")
	fill := content(func(_ context.Context, j job.Job) (job.Job, error) {
		if j.Batch.Item != 3 || j.Push != nil {
			return job.Job{}, fault.Newf(fault.Internal, "another job: %+v", j)
		}
		j.Push = pushJob(nil).Push
		j.Push.Branch, j.Push.Create = "of-batch", true
		return j, nil
	})
	for name, tc := range map[string]struct {
		content worker.Content
		job     func(*job.Job)
		want    fault.Kind // where it fails
		branch  string     // where it does not
	}{
		"a batch's job":       {content: fill, job: ofBatch, branch: "of-batch"},
		"another job":         {content: fill, branch: "main"},
		"without batches":     {branch: "main"},
		"a batch's, without":  {job: ofBatch, want: fault.Internal},
		"it cannot be loaded": {content: content(func(context.Context, job.Job) (job.Job, error) { return job.Job{}, away }), job: ofBatch, want: fault.Unavailable},
		"what it loads is wrong": {content: content(func(context.Context, job.Job) (job.Job, error) {
			return job.Job{}, fault.Newf(fault.Invalid, "push.branch")
		}), job: ofBatch, want: fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			if tc.branch == "" {
				w.tokens = nil // taking one would panic
			}
			under := w.worker()
			under.Content = tc.content
			result, err := under.Process(t.Context(), pushJob(tc.job))
			switch {
			case tc.branch == "":
				if fault.KindOf(err) != tc.want || len(w.calls) != 0 {
					t.Errorf("%v, want %s; it touched %q", err, tc.want, w.calls)
				}
			case err != nil || result.Push.Branch != tc.branch:
				t.Errorf("%+v, %v", result.Push, err)
			}
		})
	}
}

// TestLoadDescribes: while a job's content is loaded, its repository is looked up with the actor's token, and with the other one where
// Bitbucket rejects the first.
func TestLoadDescribes(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.tokens, w.other = []forge.OAuthToken{named("planted", 2*time.Hour)}, named("good", time.Hour)
	var asked []string
	w.describe = func(token secret.Text) (bitbucket.Details, error) {
		asked = append(asked, token.Reveal())
		if token.Reveal() == "planted" {
			return bitbucket.Details{}, fault.Wrapf(fault.Denied, fault.ErrTokenRefused, "refused")
		}
		return bitbucket.Details{Name: "Web"}, nil
	}
	under := w.worker()
	under.Content = content(func(ctx context.Context, j job.Job) (job.Job, error) {
		details, err := under.Describe(ctx, j)
		j.Push = pushJob(nil).Push
		j.Push.Message = details.Name
		return j, err
	})
	if _, err := under.Process(t.Context(), pushJob(ofBatch)); err != nil {
		t.Fatal(err)
	}
	if w.message != "Web" || !slices.Equal(asked, []string{"planted", "good"}) || !slices.Equal(w.marked, []string{"planted"}) {
		t.Errorf("asked with %q, marked %q, pushed %q", asked, w.marked, w.message)
	}
}

// TestTrace: an attempt, the loading included, is one span of the caller's trace.
func TestTrace(t *testing.T) {
	t.Parallel()
	const traceID, spanID = "463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312"
	var sent atomic.Int32
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sent.Add(1) }))
	t.Cleanup(collector.Close)
	tracing, err := telemetry.NewTracing(t.Context(), "worker", "1", collector.URL, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	under := newWorld().worker()
	under.Tracing = tracing
	var trace, span string
	under.Content = content(func(ctx context.Context, j job.Job) (job.Job, error) {
		trace, span = telemetry.TraceOf(ctx)
		j.Push = pushJob(nil).Push
		return j, nil
	})
	_, err = under.Process(t.Context(), pushJob(func(j *job.Job) {
		ofBatch(j)
		j.Trace = job.Trace{TraceID: traceID, SpanID: spanID}
	}))
	if err != nil || trace != traceID || span == spanID {
		t.Errorf("loaded in span %q of the trace %q, %v", span, trace, err)
	}
	if err := tracing.Shutdown(t.Context()); err != nil || sent.Load() != 1 { // only spans that have ended are sent
		t.Errorf("%d sent, %v", sent.Load(), err)
	}
}
