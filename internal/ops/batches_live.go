package ops

import (
	"context"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/telemetry"
)

const (
	lookEvery    = time.Second
	beatEvery    = 10 * time.Second
	maxViewers   = 64
	writeTimeout = 10 * time.Second // of one event to one viewer
	eventTime    = "15:04:05 MST"
)

// part is one element of a page, and what is sent when only it has changed.
type part struct {
	Key  string
	HTML template.HTML
}

// frame is a page at one moment.
type frame struct {
	title  string
	status int
	parts  []part
	at     time.Time // of the last look that was answered; zero before the first
	old    bool      // the newest look was not
}

// memory keeps the last good frames.
type memory struct {
	lock   sync.Mutex
	frames map[place]frame
}

func (m *memory) keep(at place, shown frame) {
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.frames == nil {
		m.frames = map[place]frame{}
	}
	m.frames[at] = shown
	if len(m.frames) <= remembered {
		return
	}
	oldest := at
	for other, frame := range m.frames {
		if frame.at.Before(m.frames[oldest].at) {
			oldest = other
		}
	}
	delete(m.frames, oldest)
}

func (m *memory) recall(at place) (frame, bool) {
	m.lock.Lock()
	defer m.lock.Unlock()
	shown, known := m.frames[at]
	return shown, known
}

// hub looks at each place that has viewers once a second, however many they are, and at no other.
type hub struct {
	look func(context.Context, place) frame

	lock    sync.Mutex
	viewers int
	watches map[place]*watch
}

// watch is one place that somebody looks at.
type watch struct {
	viewers int
	stop    context.CancelFunc

	lock    sync.Mutex
	shown   frame
	changed chan struct{} // closed when shown is another
}

// join adds a viewer; false where there are too many. Who joins leaves.
func (h *hub) join(at place) (*watch, bool) {
	h.lock.Lock()
	defer h.lock.Unlock()
	if h.viewers >= maxViewers {
		return nil, false
	}
	h.viewers++
	w := h.watches[at]
	if w == nil {
		ctx, stop := context.WithCancel(context.Background())
		w = &watch{stop: stop, changed: make(chan struct{})}
		if h.watches == nil {
			h.watches = map[place]*watch{}
		}
		h.watches[at] = w
		go h.follow(ctx, at, w)
	}
	w.viewers++
	return w, true
}

// leave takes a viewer away; with a place's last one its looks end.
func (h *hub) leave(at place, w *watch) {
	h.lock.Lock()
	defer h.lock.Unlock()
	h.viewers--
	if w.viewers--; w.viewers == 0 {
		w.stop()
		delete(h.watches, at)
	}
}

func (h *hub) follow(ctx context.Context, at place, w *watch) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		shown := h.look(ctx, at)
		if ctx.Err() != nil {
			return
		}
		w.publish(shown)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// publish wakes the viewers where the page has changed.
func (w *watch) publish(shown frame) {
	w.lock.Lock()
	defer w.lock.Unlock()
	same := w.shown.parts != nil && slices.Equal(w.shown.parts, shown.parts)
	w.shown = shown
	if !same {
		close(w.changed)
		w.changed = make(chan struct{})
	}
}

func (w *watch) current() (shown frame, changed <-chan struct{}) {
	w.lock.Lock()
	defer w.lock.Unlock()
	return w.shown, w.changed
}

// events tells a viewer of what changes, until the viewer or the listener ends.
func (p *batchesPages) events(w http.ResponseWriter, r *http.Request) {
	at, err := placeOf(r)
	switch {
	case err != nil:
		writeText(w, http.StatusBadRequest, detail(err))
		return
	case p.batches == nil:
		writeText(w, http.StatusNotFound, "this process has no batches")
		return
	}
	watched, ok := p.hub.join(at)
	if !ok {
		w.Header().Set("Retry-After", "10")
		writeText(w, http.StatusServiceUnavailable, "too many pages are looked at live; close some, or reload this one by hand")
		return
	}
	defer p.hub.leave(at, watched)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep the events
	to := &viewer{writer: w, controller: http.NewResponseController(w)}
	defer func() { _ = to.controller.SetWriteDeadline(time.Time{}) }() // the connection may be used again
	if err := p.tell(r.Context(), to, watched); err != nil {
		p.logger.DebugContext(r.Context(), "a viewer of batches is gone", errorAttribute(err))
	}
}

func (p *batchesPages) tell(ctx context.Context, to *viewer, watched *watch) error {
	if err := to.send("retry: 2000\n\n"); err != nil {
		return err
	}
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		shown, changed := watched.current()
		if shown.parts != nil {
			if err := to.show(shown); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.stopping:
			return nil
		case <-changed:
		case <-beat.C:
		}
	}
}

// viewer is one browser's connection.
type viewer struct {
	writer     http.ResponseWriter
	controller *http.ResponseController
	seen       []part
}

// show sends what the viewer has not seen yet, and a beat that says as of when that is.
func (v *viewer) show(shown frame) error {
	var text strings.Builder
	sameKeys := slices.EqualFunc(v.seen, shown.parts, func(a, b part) bool { return a.Key == b.Key })
	if !sameKeys {
		var whole strings.Builder
		for _, part := range shown.parts {
			whole.WriteString(string(part.HTML))
		}
		writeEvent(&text, "page", whole.String())
	}
	for i, part := range shown.parts {
		if sameKeys && v.seen[i].HTML != part.HTML {
			writeEvent(&text, "part", string(part.HTML))
		}
	}
	v.seen = shown.parts
	text.WriteString(": beat\n") // a comment, for whoever stands between
	name, moment := "beat", ""
	if !shown.at.IsZero() {
		moment = shown.at.UTC().Format(eventTime)
	}
	if shown.old {
		name = "old"
	}
	writeEvent(&text, name, moment)
	return v.send(text.String())
}

func (v *viewer) send(text string) error {
	// A listener without deadlines, as in a test, is as good as one with them.
	_ = v.controller.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := v.writer.Write([]byte(text)); err != nil {
		return fmt.Errorf("write an event: %w", err)
	}
	if err := v.controller.Flush(); err != nil {
		return fmt.Errorf("send an event: %w", err)
	}
	return nil
}

var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n")

// writeEvent writes a server-sent event. Each of the lines' ends that the format knows begins a data line, so that no text can
// end the event or begin another.
func writeEvent(text *strings.Builder, name, data string) {
	fmt.Fprintf(text, "event: %s\n", name)
	for line := range strings.SplitSeq(lineEnds.Replace(data), "\n") {
		fmt.Fprintf(text, "data: %s\n", line)
	}
	text.WriteString("\n")
}

func errorAttribute(err error) slog.Attr { return slog.Any(telemetry.KeyError, err) }
