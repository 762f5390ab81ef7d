package ops_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/ops"
)

var opsWithoutDashboard = ops.Config{}

// viewer is a browser that looks at events, in a bubble of synctest.
type viewer struct {
	lock     sync.Mutex
	header   http.Header
	status   int
	text     strings.Builder
	deadline time.Time
	flushed  int
	broken   bool // the connection is gone
	leave    context.CancelFunc
	ended    chan struct{}
}

func view(t *testing.T, handler http.Handler, path string) *viewer {
	t.Helper()
	ctx, leave := context.WithCancel(t.Context())
	v := &viewer{header: http.Header{}, leave: leave, ended: make(chan struct{})}
	request := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
	request.SetBasicAuth(user, password)
	go func() {
		defer close(v.ended)
		handler.ServeHTTP(v, request)
	}()
	synctest.Wait()
	return v
}

func (v *viewer) Header() http.Header { return v.header }

func (v *viewer) WriteHeader(status int) { v.status = status }

func (v *viewer) Write(part []byte) (int, error) {
	v.lock.Lock()
	defer v.lock.Unlock()
	if v.broken {
		return 0, http.ErrHandlerTimeout
	}
	return v.text.Write(part)
}

func (v *viewer) FlushError() error {
	v.lock.Lock()
	defer v.lock.Unlock()
	v.flushed = v.text.Len()
	return nil
}

func (v *viewer) SetWriteDeadline(deadline time.Time) error {
	v.lock.Lock()
	defer v.lock.Unlock()
	v.deadline = deadline
	return nil
}

type event struct{ name, data string }

// heard are the events since the last call.
func (v *viewer) heard() []event {
	v.lock.Lock()
	defer v.lock.Unlock()
	var events []event
	for block := range strings.SplitSeq(v.text.String()[:v.flushed], "\n\n") {
		var e event
		var data []string
		for line := range strings.SplitSeq(block, "\n") {
			if name, ok := strings.CutPrefix(line, "event: "); ok {
				e.name = name
			} else if text, ok := strings.CutPrefix(line, "data: "); ok {
				data = append(data, text)
			}
		}
		if e.name != "" {
			e.data = strings.Join(data, "\n")
			events = append(events, e)
		}
	}
	v.text.Reset()
	v.flushed = 0
	return events
}

func names(events []event) string {
	var names []string
	for _, e := range events {
		names = append(names, e.name)
	}
	return strings.Join(names, " ")
}

// tick lets time go by in a bubble.
func tick(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestBatchesLive(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := example()
		v := view(t, pages(t, s, nil), "/dashboard/batches/events")
		first := v.heard()
		if names(first) != "page beat" || !strings.Contains(first[0].data, "Move the pipelines") || first[1].data != time.Now().UTC().Format("15:04:05 MST") {
			t.Fatalf("the first events are %q", first)
		}
		if v.header.Get("Content-Type") != "text/event-stream" || time.Until(v.deadline) != 10*time.Second {
			t.Errorf("%v, deadline in %v", v.header, time.Until(v.deadline))
		}
		tick(5 * time.Second)
		if events := v.heard(); len(events) > 0 {
			t.Errorf("nothing has changed, and yet %q", events)
		}
		s.change(func(s *stand) { s.statuses[1].Totals["succeeded"]++; s.statuses[1].Totals["queued"]-- })
		tick(time.Second)
		events := v.heard()
		if names(events) != "part beat" || !strings.Contains(events[0].data, "<b>101</b> of 410") || strings.Contains(events[0].data, "Move the pipelines") {
			t.Errorf("of one batch's change: %q", events)
		}
		s.change(func(s *stand) { s.statuses = append([]batch.Status{{ID: "new", State: "resolving"}}, s.statuses...) })
		tick(time.Second)
		if events := v.heard(); names(events) != "page beat" || !strings.Contains(events[0].data, "without a title") {
			t.Errorf("of a new batch: %q", events)
		}
		tick(12 * time.Second)
		if events := v.heard(); names(events) != "beat" {
			t.Errorf("of a quiet while: %q", events)
		}
		v.leave()
		<-v.ended
		if !v.deadline.IsZero() {
			t.Error("the connection keeps a deadline")
		}
	})
}

func TestBatchesLiveWithoutRedis(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := example()
		v := view(t, pages(t, s, nil), firstBatch+"/events?state=failed")
		last := time.Now().UTC().Format("15:04:05 MST")
		if events := v.heard(); names(events) != "page beat" || strings.Contains(events[0].data, "acme/service-00") || !strings.Contains(events[0].data, "acme/service-01") {
			t.Errorf("the first events are %q", events)
		}
		s.change(func(s *stand) { s.err = errAway })
		tick(time.Second)
		if events := v.heard(); names(events) != "part old" || !strings.Contains(events[0].data, "redis does not answer") || events[1].data != last {
			t.Errorf("when redis goes: %q", events)
		}
		tick(10 * time.Second)
		if events := v.heard(); names(events) != "old" {
			t.Errorf("while redis is away: %q", events)
		}
		s.change(func(s *stand) { s.err = nil })
		tick(time.Second)
		if events := v.heard(); names(events) != "part beat" {
			t.Errorf("when redis is back: %q", events)
		}
		v.leave()
		<-v.ended
	})
}

// TestBatchesAreLookedAtOnce: once a second for all viewers together, never without one, and never for more than are allowed.
func TestBatchesAreLookedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := example()
		shown := pages(t, s, nil)
		var viewers []*viewer
		for range 64 {
			viewers = append(viewers, view(t, shown, "/dashboard/batches/events"))
		}
		tick(10 * time.Second)
		if s.looks != 11 {
			t.Errorf("%d looks in ten seconds", s.looks)
		}
		refused := view(t, shown, firstBatch+"/events")
		if <-refused.ended; refused.status != http.StatusServiceUnavailable || refused.header.Get("Retry-After") == "" {
			t.Errorf("one too many: %d %v", refused.status, refused.header)
		}
		viewers[0].leave()
		<-viewers[0].ended
		viewers[0] = view(t, shown, firstBatch+"/events")
		if events := viewers[0].heard(); names(events) != "page beat" {
			t.Errorf("once there is room again: %q", events)
		}
		for _, v := range viewers {
			v.leave()
			<-v.ended
		}
		s.looks = 0
		tick(time.Minute)
		if s.looks != 0 {
			t.Errorf("%d looks that nobody sees", s.looks)
		}
	})
}

func TestBatchesLiveEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, stopping := example(), make(chan struct{})
		shown := pages(t, s, stopping)
		gone, stays := view(t, shown, "/dashboard/batches/events"), view(t, shown, firstBatch+"/events")
		gone.lock.Lock()
		gone.broken = true
		gone.lock.Unlock()
		<-gone.ended // by the next beat
		close(stopping)
		<-stays.ended
	})
}

// TestBatchesLiveOverHTTP: a server that lets its answers finish is not held up, and a write timeout of its own ends nothing.
func TestBatchesLiveOverHTTP(t *testing.T) {
	t.Parallel()
	s, stopping := example(), make(chan struct{})
	server := httptest.NewUnstartedServer(pages(t, s, stopping))
	server.Config.WriteTimeout = 500 * time.Millisecond
	server.Config.RegisterOnShutdown(func() { close(stopping) })
	server.Start()
	defer server.Close()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/dashboard/batches/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(user, password)
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	read := make([]byte, 64<<10)
	var heard strings.Builder
	until := func(want string) {
		for !strings.Contains(heard.String(), want) {
			n, err := response.Body.Read(read)
			heard.Write(read[:n])
			if err != nil {
				t.Fatalf("wait for %q: %v after %s", want, err, &heard)
			}
		}
	}
	until("event: beat")
	s.change(func(s *stand) { s.statuses[0].Title = "after the write timeout" })
	until("after the write timeout")
	if err := server.Config.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}
