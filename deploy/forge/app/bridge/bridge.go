// Package bridge stands in for Bitbucket around the page of deploy/forge/app: it serves the built page with a script that plays
// the host of @forge/bridge. For tests and the sandbox; nothing of it is deployed.
package bridge

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"io/fs"
	"net/http"
)

//go:embed bridge.js
var script []byte

// policy is as strict as Forge's own for a Custom UI page whose manifest asks for no exception.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; form-action 'none'; frame-ancestors 'none'"

// maxBody is what Forge takes from a frontend, and room for the envelope.
const maxBody = 500_000 + 10_000

// Call is what the page asked invokeRemote for.
type Call struct {
	Path    string            `json:"path"`
	Method  string            `json:"method"`
	Headers map[string]string `json:"headers"`
	Body    json.RawMessage   `json:"body"`
}

// Answer is what the receiver said to it.
type Answer struct {
	Status  int         `json:"status"`
	Headers http.Header `json:"headers"`
	Body    string      `json:"body"`
}

// Handler serves the page that was built into dist, at the root. invoke sends a call to a receiver as Forge would, and may be
// called concurrently; its error is what the page sees as a network's. Where nothing was built the page says so.
func Handler(dist fs.FS, invoke func(ctx context.Context, call Call) (Answer, error)) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		page, err := fs.ReadFile(dist, "index.html")
		if err != nil {
			http.Error(w, "the page is not built; run `make app`, then load this again", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Cache-Control", "no-store")
		own := []byte(`<script src="./app.js">`) // @forge/bridge looks for its host as soon as it is loaded
		_, _ = w.Write(bytes.Replace(page, own, append([]byte(`<script src="./bridge.js"></script>`), own...), 1))
	})
	mux.HandleFunc("GET /bridge.js", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/javascript")
		_, _ = w.Write(script)
	})
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST /bridge", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Content-Type") != "application/json" { // so that no other site's page can send one
			http.Error(w, "a call is JSON", http.StatusUnsupportedMediaType)
			return
		}
		var call Call
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody)).Decode(&call); err != nil {
			http.Error(w, "the call is no JSON that the bridge sends: "+err.Error(), http.StatusBadRequest)
			return
		}
		answer, err := invoke(r.Context(), call)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer) // who went away needs none
	})
	mux.Handle("GET /", http.FileServerFS(dist))
	return mux
}
