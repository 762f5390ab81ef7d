package telemetry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitsmith/gitsmith/internal/telemetry"
)

func scrape(t *testing.T, metrics *telemetry.Metrics) string {
	t.Helper()
	answer := httptest.NewRecorder()
	metrics.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if answer.Code != http.StatusOK {
		t.Fatalf("scrape: %d %s", answer.Code, answer.Body)
	}
	return answer.Body.String()
}

func expect(t *testing.T, scraped string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(scraped, line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics()
	m.Request("/v1/jobs", "POST", 202, 30*time.Millisecond)
	m.Request("", "GET", 4040, time.Second)
	m.Enqueued("push", "batch", true)
	m.Enqueued("push", "batch", false)
	m.FITRefused("audience")
	m.JobStarted("push", -time.Second)
	m.JobEnded("push", "retrying", "unavailable", 3*time.Second)
	m.JobEnded("clone", "succeeded", "", time.Second)
	m.GitTransfer("receive-pack", 200, 700, 40)
	m.GitTransfer("receive-pack", 0, -1, 0)
	m.TokenLife("system", time.Hour)
	m.ExpiredRejection("user")
	scraped := scrape(t, m)
	expect(t, scraped,
		`gitsmith_http_requests_total{method="POST",route="/v1/jobs",status="202"} 1`,
		`gitsmith_http_requests_total{method="GET",route="unmatched",status="other"} 1`,
		`gitsmith_http_request_duration_seconds_bucket{route="/v1/jobs",le="0.05"} 1`,
		`gitsmith_jobs_enqueued_total{class="batch",operation="push",outcome="created"} 1`,
		`gitsmith_jobs_enqueued_total{class="batch",operation="push",outcome="duplicate"} 1`,
		`gitsmith_fit_refused_total{reason="audience"} 1`,
		`gitsmith_job_wait_seconds_sum{operation="push"} 0`,
		`gitsmith_job_attempts_total{kind="unavailable",operation="push",outcome="retrying"} 1`,
		`gitsmith_job_attempts_total{kind="none",operation="clone",outcome="succeeded"} 1`,
		`gitsmith_job_duration_seconds_sum{operation="push",outcome="retrying"} 3`,
		`gitsmith_git_requests_total{phase="receive-pack",status="0"} 1`,
		`gitsmith_git_bytes_total{direction="sent",phase="receive-pack"} 700`,
		`gitsmith_token_life_seconds_sum{actor="system"} 3600`,
		`gitsmith_expired_rejections_total{actor="user"} 1`,
	)
	for _, name := range []string{"go_goroutines", "process_start_time_seconds"} {
		if !strings.Contains(scraped, "\n"+name+" ") {
			t.Errorf("missing: %s", name)
		}
	}
	if strings.Contains(scraped, "gitsmith_queues_readable") {
		t.Error("queues that nobody watches are shown")
	}
}

func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics()
	m.Request("/known", "GET", 200, 0)
	var callers sync.WaitGroup
	for caller := range 4 {
		callers.Go(func() {
			for i := range 200 {
				m.Request(fmt.Sprintf("/%d/%d", caller, i), "GET", 200, 0)
			}
		})
	}
	callers.Wait()
	m.FITRefused("bad\xff")
	m.FITRefused(strings.Repeat("x", 65))
	m.Request("/known", "GET", 200, 0)
	scraped := scrape(t, m)
	expect(t, scraped, `gitsmith_fit_refused_total{reason="other"} 2`, `gitsmith_http_requests_total{method="GET",route="/known",status="200"} 2`)
	if series := strings.Count(scraped, "\ngitsmith_http_requests_total{"); series != 65 {
		t.Errorf("%d routes, want 64 and other", series)
	}
}

func TestWatchQueues(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics()
	m.WatchQueues(func(context.Context) ([]telemetry.QueueDepth, error) { return nil, errors.New("redis is away") })
	expect(t, scrape(t, m), "gitsmith_queues_readable 0")
	m.WatchQueues(func(context.Context) ([]telemetry.QueueDepth, error) {
		return []telemetry.QueueDepth{{Queue: "event", Pending: 1, Active: 2, Scheduled: 3, Retry: 4, Archived: 5, Latency: 90 * time.Second}}, nil
	})
	expect(t, scrape(t, m), "gitsmith_queues_readable 1",
		`gitsmith_queue_tasks{queue="event",state="pending"} 1`, `gitsmith_queue_tasks{queue="event",state="active"} 2`,
		`gitsmith_queue_tasks{queue="event",state="scheduled"} 3`, `gitsmith_queue_tasks{queue="event",state="retry"} 4`,
		`gitsmith_queue_tasks{queue="event",state="archived"} 5`, `gitsmith_queue_latency_seconds{queue="event"} 90`)
}

func TestWatchBatches(t *testing.T) {
	t.Parallel()
	m := telemetry.NewMetrics()
	m.WatchBatches(func(context.Context) (map[string]int, error) { return nil, errors.New("redis is away") })
	if scraped := scrape(t, m); strings.Contains(scraped, "gitsmith_batches{") {
		t.Error(scraped)
	}
	m.WatchBatches(func(context.Context) (map[string]int, error) { return map[string]int{"running": 3, "finished": 4}, nil })
	expect(t, scrape(t, m), `gitsmith_batches{state="running"} 3`, `gitsmith_batches{state="stopped"} 0`)
}

func TestScrapeDoesNotWaitForRedis(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := telemetry.NewMetrics()
		m.WatchQueues(func(ctx context.Context) ([]telemetry.QueueDepth, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		begun := time.Now()
		expect(t, scrape(t, m), "gitsmith_queues_readable 0")
		if waited := time.Since(begun); waited != 2*time.Second {
			t.Errorf("waited %v", waited)
		}
	})
}
