package systemtest

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"sync"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// recorded answers as git's http-backend did when it was asked the same for the first time: a hundred thousand clones of its own
// would take the machine an hour. Requests that differ in the event's ref alone are the same; the ref is put into the answer, which
// has the same length then. It counts for which events it was read.
type recorded struct {
	git http.Handler

	mu      sync.Mutex
	answers map[string]*httptest.ResponseRecorder
	reads   map[string]int // refs that were asked for
}

const anyRef = "refs/heads/e0000000"

var eventRef = regexp.MustCompile(`refs/heads/e\d{7}`)

func (r *recorded) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return // a worker was killed
	}
	ref := eventRef.Find(body)
	if ref != nil {
		body = bytes.ReplaceAll(body, ref, []byte(anyRef))
	}
	r.mu.Lock()
	if ref != nil {
		r.reads[string(ref)]++
	}
	key := request.Method + request.URL.String() + request.Header.Get("Git-Protocol") + string(body)
	answer := r.answers[key]
	if answer == nil {
		again := request.Clone(request.Context())
		again.Body, again.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		answer = httptest.NewRecorder()
		r.git.ServeHTTP(answer, again)
		if request.Context().Err() == nil {
			r.answers[key] = answer
		}
	}
	r.mu.Unlock()
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	content := answer.Body.Bytes()
	if ref != nil {
		content = bytes.ReplaceAll(content, []byte(anyRef), ref)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(content) // whoever went away needs no answer
}

func (r *recorded) read() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	reads := make(map[string]int, len(r.reads))
	for ref, count := range r.reads {
		reads[ref] = count
	}
	return reads
}

// startRecorded serves one tiny repository, acme/r0, for every event's ref.
func (s *system) startRecorded() *recorded {
	s.t.Helper()
	root := s.t.TempDir()
	git, err := gittest.New(root)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := git.CreateRepository(s.t.Context(), workspace+"/r0", map[string]string{"README.md": "# Web\n"}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := gittest.Git(s.t.Context(), git.Path(workspace+"/r0"), nil, "branch", anyRef[len("refs/heads/"):], "main"); err != nil {
		s.t.Fatal(err)
	}
	r := &recorded{git: git, answers: map[string]*httptest.ResponseRecorder{}, reads: map[string]int{}}
	s.bitbucket = bitbuckettest.New(bitbuckettest.Config{Root: root, Git: r})
	if _, err := s.bitbucket.AddRepository(bitbuckettest.Repository{Workspace: workspace, Slug: "r0"}); err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewServer(s.bitbucket)
	s.t.Cleanup(server.Close)
	s.gitURL = server.URL
	return r
}

// readRules makes each event a clone that only proves that the event's ref can be read.
const readRules = `rules:
  - name: soak
    on: avi:bitbucket:push:repository
    coalesce: none
    job:
      repository: {workspace: acme, slug: "{{ event.repository.slug }}"}
      clone: {ref: "{{ event.push.ref }}", archive: none}
`
