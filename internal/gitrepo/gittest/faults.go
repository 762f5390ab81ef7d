package gittest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
)

// PhaseOf says which kind of request one is, in gitrepo's words. What is read of its body is put back.
func PhaseOf(r *http.Request) string {
	switch service := r.URL.Query().Get("service"); {
	case r.Method == http.MethodGet && service == "git-receive-pack":
		return "advertise_receive"
	case r.Method == http.MethodGet:
		return "advertise_upload"
	case strings.HasSuffix(r.URL.Path, "/git-receive-pack"):
		return "receive_pack"
	}
	if bytes.Contains(body(r), []byte("command=ls-refs")) {
		return "list_refs"
	}
	return "upload_pack"
}

// BodyOf is a request's body, which is put back.
func BodyOf(r *http.Request) string { return string(body(r)) }

func body(r *http.Request) []byte {
	text, _ := io.ReadAll(r.Body) // what is missing is missed by the server
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(text)), int64(len(text))
	return text
}

// Fault answers a request in another way than the server does, which may or may not be asked.
type Fault func(w http.ResponseWriter, r *http.Request, server http.Handler)

// Reset breaks the connection after a part of the answer, in percent.
func Reset(percent int) Fault {
	return func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		partial(w, answer(r, server), percent)
		_ = http.NewResponseController(w).Flush() // the reset says it all
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if tcp, is := connection.(*net.TCPConn); is {
			_ = tcp.SetLinger(0)
		}
		_ = connection.Close()
	}
}

// Truncate ends the answer in good order after a part of it, in percent.
func Truncate(percent int) Fault {
	return func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		partial(w, answer(r, server), percent)
	}
}

// Stall sends a part of the answer, in percent, and then nothing until the client goes away.
func Stall(percent int) Fault {
	return func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		partial(w, answer(r, server), percent)
		_ = http.NewResponseController(w).Flush() // whoever waits is gone
		<-r.Context().Done()
	}
}

// Type gives the whole answer the content type of a page.
func Type(w http.ResponseWriter, r *http.Request, server http.Handler) {
	recorded := answer(r, server)
	w.Header().Set("Content-Type", "text/html")
	_, _ = w.Write(recorded.Body.Bytes()) // the client may be gone
}

// Status answers with a status, and a header's name and value, without asking the server.
func Status(status int, header ...string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
	}
}

// Refuse answers in git's words that something is wrong, without asking the server.
func Refuse(words string) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", contentType(r))
		_, _ = fmt.Fprintf(w, "%04xERR %s", len(words)+8, words) // the client may be gone
	}
}

// Rewrite changes the pkt-lines of a request before the server sees it: line gives what takes a line's place, nothing for none.
func Rewrite(line func(string) string) Fault {
	return func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		changed := rewritten(body(r), line)
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(changed)), int64(len(changed))
		server.ServeHTTP(w, r)
	}
}

// RewriteAnswer changes the pkt-lines of the server's answer, as [Rewrite] does those of a request.
func RewriteAnswer(line func(string) string) Fault {
	return func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		recorded := answer(r, server)
		w.Header().Set("Content-Type", recorded.Header().Get("Content-Type"))
		w.WriteHeader(recorded.Code)
		_, _ = w.Write(rewritten(recorded.Body.Bytes(), line)) // the client may be gone
	}
}

func rewritten(text []byte, line func(string) string) []byte {
	changed := new(bytes.Buffer)
	for len(text) >= 4 {
		length, err := strconv.ParseUint(string(text[:4]), 16, 16)
		if err != nil || int(length) > len(text) {
			break
		}
		if length < 4 {
			changed.Write(text[:4])
			text = text[4:]
			continue
		}
		if to := line(string(text[4:length])); to != "" {
			fmt.Fprintf(changed, "%04x%s", len(to)+4, to)
		}
		text = text[length:]
	}
	changed.Write(text)
	return changed.Bytes()
}

func answer(r *http.Request, server http.Handler) *httptest.ResponseRecorder {
	recorded := httptest.NewRecorder()
	server.ServeHTTP(recorded, r)
	return recorded
}

func partial(w http.ResponseWriter, recorded *httptest.ResponseRecorder, percent int) {
	w.Header().Set("Content-Type", recorded.Header().Get("Content-Type"))
	w.WriteHeader(recorded.Code)
	_, _ = w.Write(recorded.Body.Bytes()[:recorded.Body.Len()*percent/100]) // the client may be gone
}

func contentType(r *http.Request) string {
	service := r.URL.Query().Get("service")
	if r.Method == http.MethodGet {
		return "application/x-" + service + "-advertisement"
	}
	return "application/x-" + r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:] + "-result"
}
