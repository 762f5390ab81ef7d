package ops

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
)

const (
	batchesRoot = dashboardRoot + "/batches"
	// batchesPolicy lets the page's own files in and nothing that is written into the page.
	batchesPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

	recentBatches = 50
	itemsPerPage  = 50
	lookTimeout   = 2 * time.Second
	remembered    = 16 // last good states that are kept for when Redis is away
)

// Batches is what the page of batches reads. Its methods may be called concurrently and end with their context.
type Batches interface {
	// Recent are the newest batches of all installations, newest first.
	Recent(ctx context.Context, limit int) ([]batch.Status, error)
	// Get is one batch; a NotFound fault where there is none.
	Get(ctx context.Context, installation, id string) (batch.Status, error)
	// Items are a page of its repositories, and the next page's cursor; empty on the last.
	Items(ctx context.Context, installation, id string, options batch.ItemOptions) ([]batch.Item, string, error)
}

//go:embed page
var pageFiles embed.FS

// batchesPages shows batches and changes nothing.
type batchesPages struct {
	batches  Batches
	pages    *template.Template
	logger   *slog.Logger
	stopping <-chan struct{}
	memory   memory
	hub      hub
	failing  atomic.Bool // the newest look failed, as the log has it
}

// newBatches makes the handler of everything under batchesRoot.
func newBatches(config Config) (http.Handler, error) {
	pages, err := template.ParseFS(pageFiles, "page/*.html")
	if err != nil {
		return nil, fmt.Errorf("the page of batches: %w", err)
	}
	static, err := fs.Sub(pageFiles, "page/static")
	if err != nil {
		return nil, fmt.Errorf("the page of batches: %w", err)
	}
	p := &batchesPages{batches: config.Batches, pages: pages, logger: config.Logger, stopping: config.Stopping}
	p.hub.look = p.look
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+batchesRoot, p.show)
	mux.HandleFunc("GET "+batchesRoot+"/events", p.events)
	mux.HandleFunc("GET "+batchesRoot+"/{installation}/{id}", p.show)
	mux.HandleFunc("GET "+batchesRoot+"/{installation}/{id}/events", p.events)
	mux.Handle("GET "+batchesRoot+"/static/{file}", http.StripPrefix(batchesRoot+"/static/", http.FileServerFS(static)))
	mux.Handle("GET "+batchesRoot+"/{$}", http.RedirectHandler(batchesRoot, http.StatusSeeOther))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", batchesPolicy)
		mux.ServeHTTP(w, r)
	}), nil
}

// place is what somebody looks at: the list, or a page of one batch's repositories.
type place struct{ installation, id, state, cursor string }

func (at place) list() bool { return at.id == "" }

// href is where at is shown.
func (at place) href() string { return at.address("") }

func (at place) address(below string) string {
	address := batchesRoot
	if !at.list() {
		address += "/" + url.PathEscape(at.installation) + "/" + url.PathEscape(at.id)
	}
	query := url.Values{}
	if at.state != "" {
		query.Set("state", at.state)
	}
	if at.cursor != "" {
		query.Set("cursor", at.cursor)
	}
	if len(query) > 0 {
		return address + below + "?" + query.Encode()
	}
	return address + below
}

func placeOf(r *http.Request) (place, error) {
	at := place{installation: r.PathValue("installation"), id: r.PathValue("id")}
	if at.list() {
		return at, nil
	}
	at.state, at.cursor = r.URL.Query().Get("state"), r.URL.Query().Get("cursor")
	if at.state != "" && !slices.Contains(itemStates, at.state) {
		return place{}, fault.Newf(fault.Invalid, "a repository is never in that state; the states are %s", strings.Join(itemStates, ", "))
	}
	if len(at.cursor) > 1024 {
		return place{}, fault.Newf(fault.Invalid, "the cursor is none of ours; begin with the first page")
	}
	return at, nil
}

type layout struct {
	Title  string
	Events string // address of the live events; empty where there are none
	At     time.Time
	Parts  []part
	Back   bool
}

// show answers with the page as it is now.
func (p *batchesPages) show(w http.ResponseWriter, r *http.Request) {
	at, err := placeOf(r)
	page := layout{Title: "Batches", Back: r.PathValue("id") != ""}
	shown := frame{status: http.StatusOK}
	switch {
	case err != nil:
		shown = p.refused(err)
	case p.batches == nil:
		shown.parts = []part{p.render("absent", "absent", nil)}
	default:
		shown = p.look(r.Context(), at)
		page.Events = at.address("/events")
	}
	if shown.title != "" {
		page.Title = shown.title
	}
	page.At, page.Parts = shown.at, shown.parts
	var body bytes.Buffer
	if err := p.pages.ExecuteTemplate(&body, "layout", page); err != nil {
		p.logger.ErrorContext(r.Context(), "the page of batches cannot be written", errorAttribute(err))
		writeText(w, http.StatusInternalServerError, "the page cannot be written; the log says why")
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(shown.status)
	_, _ = w.Write(body.Bytes())
}

// look reads at and renders it. Where that fails for now, the last state that was read is shown and marked as old.
func (p *batchesPages) look(ctx context.Context, at place) frame {
	limited, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	shown, err := p.read(limited, at)
	if err == nil {
		if p.failing.CompareAndSwap(true, false) {
			p.logger.InfoContext(ctx, "batches can be read again")
		}
		shown.at, shown.status = time.Now(), http.StatusOK
		shown.parts = append([]part{p.render("notice", "notice", nil)}, shown.parts...)
		p.memory.keep(at, shown)
		return shown
	}
	switch fault.KindOf(err) {
	case fault.NotFound, fault.Invalid:
		return p.refused(err)
	}
	if ctx.Err() == nil && p.failing.CompareAndSwap(false, true) { // once, not every second
		p.logger.WarnContext(ctx, "batches cannot be read", errorAttribute(err))
	}
	if limited.Err() != nil {
		err = fault.Wrapf(fault.Unavailable, err, "no answer within %v", lookTimeout)
	}
	shown, known := p.memory.recall(at)
	shown.status, shown.old = http.StatusOK, true
	if !known {
		shown.status = http.StatusServiceUnavailable
		shown.parts = []part{{}} // of the notice
	}
	notice := noticeView{Detail: secret.Scrub(detail(err)), At: shown.at}
	shown.parts = append([]part{p.render("notice", "notice", notice)}, shown.parts[1:]...)
	return shown
}

func (p *batchesPages) read(ctx context.Context, at place) (frame, error) {
	if at.list() {
		recent, err := p.batches.Recent(ctx, recentBatches)
		if err != nil {
			return frame{}, err
		}
		return frame{parts: p.renderList(recent)}, nil
	}
	status, err := p.batches.Get(ctx, at.installation, at.id)
	if err != nil {
		return frame{}, err
	}
	items, next, err := p.batches.Items(ctx, at.installation, at.id, batch.ItemOptions{State: batch.ItemState(at.state), Limit: itemsPerPage, Cursor: at.cursor})
	if err != nil {
		return frame{}, err
	}
	status.Installation = at.installation
	view := newBatchView(status)
	return frame{title: view.Title, parts: []part{
		p.render("batch", view.Key, batchPart{view, true}), p.render("items", "repositories", newItemsView(at, status, items, next)),
	}}, nil
}

// refused is the page of what is not there or was not asked for rightly.
func (p *batchesPages) refused(err error) frame {
	status := http.StatusBadRequest
	if fault.KindOf(err) == fault.NotFound {
		status = http.StatusNotFound
	}
	return frame{status: status, at: time.Now(), parts: []part{p.render("refused", "refused", secret.Scrub(detail(err)))}}
}

func (p *batchesPages) renderList(recent []batch.Status) []part {
	if len(recent) == 0 {
		return []part{p.render("none", "none", nil)}
	}
	parts := []part{p.render("summary", "summary", newSummary(recent))}
	for _, status := range recent {
		view := newBatchView(status)
		parts = append(parts, p.render("batch", view.Key, batchPart{view, false}))
	}
	return parts
}

// render makes a part of a page: one element whose id is the key.
func (p *batchesPages) render(name, key string, data any) part {
	var text bytes.Buffer
	if err := p.pages.ExecuteTemplate(&text, name, data); err != nil {
		p.logger.Error("a part of the page of batches cannot be written", slog.String("part", name), errorAttribute(err))
		return part{key, template.HTML("<p>this part cannot be written; the log says why</p>")}
	}
	return part{key, template.HTML(text.String())}
}
