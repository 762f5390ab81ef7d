package systemtest

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// canned is a git server for more jobs than a real one could serve here: every repository is the same one, and its answers, which
// `git http-backend` gave to the first of each kind of request, are given again. It counts what is asked for.
type canned struct {
	real   http.Handler
	prefix string // of the one repository

	mu      sync.Mutex
	answers map[string]*httptest.ResponseRecorder
	fetched map[string]int // by repository's slug
}

func (s *system) startCanned() *canned {
	s.t.Helper()
	s.startBitbucket(map[string]string{"README.md": "# Web\n"})
	c := &canned{
		real: s.bitbucket, prefix: "/" + workspace + "/" + slug + ".git",
		answers: map[string]*httptest.ResponseRecorder{}, fetched: map[string]int{},
	}
	server := httptest.NewServer(c)
	s.t.Cleanup(server.Close)
	s.gitURL = server.URL
	return c
}

// ServeHTTP answers from memory where the same was asked for before.
func (c *canned) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	repository, rest, _ := strings.Cut(strings.TrimPrefix(request.URL.Path, "/"+workspace+"/"), ".git/")
	body, _ := io.ReadAll(request.Body) // a request that broke off is asked again
	kind := request.Method + rest + request.URL.RawQuery + request.Header.Get("Git-Protocol") + string(body)
	c.mu.Lock()
	if bytes.Contains(body, []byte("command=fetch")) {
		c.fetched[repository]++
	}
	answer := c.answers[kind]
	c.mu.Unlock()
	if answer == nil {
		answer = httptest.NewRecorder()
		asked := request.Clone(request.Context())
		asked.URL.Path, asked.Body = c.prefix+"/"+rest, io.NopCloser(bytes.NewReader(body))
		c.real.ServeHTTP(answer, asked)
		c.mu.Lock()
		if answer.Code == http.StatusOK {
			c.answers[kind] = answer
		}
		c.mu.Unlock()
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // whoever asked may be dead
}

// counts are how many repositories were read, and how many more than once.
func (c *canned) counts() (read, again int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.fetched {
		if n > 1 {
			again++
		}
	}
	return len(c.fetched), again
}

// TestCanned reads two repositories that are one.
func TestCanned(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	c := s.startCanned()
	s.useRules(soakRules)
	s.startReceiver()
	s.startWorker()
	f := s.newFlood(0, s.oauthToken(oneHour))
	f.run(t.Context(), eventsOf(0, 20, 2, 20), 0)
	s.settle(oneHour)
	if read, again := c.counts(); read != 20 || again != 0 || s.tally()["succeeded"] != 20 {
		t.Errorf("%d read, %d again, %v", read, again, s.tally())
	}
}
