package gitrepo_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// gated holds back the second half of packs until it is opened.
func (s *sparse) gated() (open func()) {
	gate := make(chan struct{})
	s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if gittest.PhaseOf(r) != "upload_pack" {
			return false
		}
		s.git.ServeHTTP(&halting{ResponseWriter: w, gate: gate, gone: r.Context().Done()}, r)
		return true
	})
	return func() { close(gate) }
}

// halting stops after the first 300 kB of an answer.
type halting struct {
	http.ResponseWriter
	gate, gone <-chan struct{}
	wrote      int
}

func (h *halting) Write(p []byte) (int, error) {
	if h.wrote += len(p); h.wrote > 300_000 {
		select {
		case <-h.gate:
		case <-h.gone:
		}
	}
	n, err := h.ResponseWriter.Write(p)
	_ = http.NewResponseController(h.ResponseWriter).Flush() // the client may be gone
	return n, err
}

// first is the edit of a file that comes early in a pack. It does not wait for what the tip cache still gets.
func (s *sparse) first(to string) (*gitrepo.Snapshot, error) {
	s.t.Helper()
	snapshot, err := s.client.Fetch(s.t.Context(), cachedRemote, gitrepo.Want{Ref: "refs/heads/main", Depth: 1, Sparse: true, Push: true})
	if err != nil {
		return nil, err
	}
	commit, err := snapshot.Build(s.t.Context(), []edit.FileChange{put("dir0/sub/f0", to)}, spec("j-"+to))
	if err != nil {
		return nil, err
	}
	if err := snapshot.Close(); err != nil {
		return nil, err
	}
	return snapshot, s.client.Push(s.t.Context(), cachedRemote, gitrepo.PushSpec{Branch: "main", Old: snapshot.Commit(), Commit: commit})
}

// TestPushDoesNotWaitForTheCache: the commit is at the server while the pack still arrives; the next reading waits for it, and finds the
// pushed commit cached.
func TestPushDoesNotWaitForTheCache(t *testing.T) {
	t.Parallel()
	eachVersion(t, testPushDoesNotWaitForTheCache)
}

func testPushDoesNotWaitForTheCache(t *testing.T, v0 bool) {
	s := startSparse(t, gitrepo.Config{})
	s.v0.Store(v0)
	s.files(3000)
	open := s.gated()
	if _, err := s.first("one"); err != nil {
		t.Fatal(err)
	}
	if content := s.cli("show", "main:dir0/sub/f0"); content != "one" {
		t.Fatalf("the file is %q", content)
	}
	if cached, _ := filepath.Glob(filepath.Join(s.cache, "*.tip")); len(cached) > 0 {
		t.Error("the pack has not arrived, and is cached")
	}
	second := make(chan *gitrepo.Snapshot, 1)
	go func() {
		snapshot, err := s.first("two")
		if err != nil {
			t.Error(err)
		}
		second <- snapshot
	}()
	open()
	if snapshot := <-second; snapshot != nil && snapshot.Way() != gitrepo.WayCached {
		t.Errorf("the next job read it %s", snapshot.Way())
	}
	s.client.WaitForCache()
	s.cli("fsck", "--strict", "--no-dangling")
}

// TestCloseEndsWhatArrives: a client that is closed leaves no request and no file behind (start looks), whatever was arriving.
func TestCloseEndsWhatArrives(t *testing.T) {
	t.Parallel()
	s := startSparse(t, gitrepo.Config{})
	s.files(3000)
	s.gated()
	if _, err := s.first("one"); err != nil {
		t.Fatal(err)
	}
	s.renew()
	if cached, _ := filepath.Glob(filepath.Join(s.cache, "*")); len(cached) > 0 {
		t.Errorf("half of a pack is cached: %v", cached)
	}
	s.intercept(func(http.ResponseWriter, *http.Request) bool { return false })
	if snapshot, err := s.first("two"); err != nil || snapshot.Way() != gitrepo.WayShallow {
		t.Errorf("%v", err)
	}
	s.client.WaitForCache()
}

// TestLargePush sends a pack while it is made and, where the server wants to know its length before, with that.
func TestLargePush(t *testing.T) {
	t.Parallel()
	eachVersion(t, testLargePush)
}

func testLargePush(t *testing.T, v0 bool) {
	for name, wantsLength := range map[string]bool{"chunked": false, "with a length": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSparse(t, gitrepo.Config{})
			s.v0.Store(v0)
			s.files(20)
			var chunked, counted atomic.Int64
			s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				switch {
				case !strings.HasSuffix(r.URL.Path, "/git-receive-pack"):
				case r.ContentLength >= 0:
					counted.Add(1)
				case wantsLength:
					chunked.Add(1)
					w.WriteHeader(http.StatusLengthRequired)
					return true
				default:
					chunked.Add(1)
				}
				return false
			})
			var content strings.Builder
			for i := range 6000 {
				content.WriteString(incompressible(i))
			}
			change := put("large.txt", content.String())
			snapshot, err := s.client.Fetch(t.Context(), cachedRemote, gitrepo.Want{Ref: "refs/heads/main", Depth: 1, Sparse: true, Push: true})
			if err != nil {
				t.Fatal(err)
			}
			commit, err := snapshot.Build(t.Context(), []edit.FileChange{change}, spec("j1"))
			if err == nil {
				err = snapshot.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			push := gitrepo.PushSpec{Branch: "main", Old: snapshot.Commit(), Commit: commit}
			if err := s.client.Push(t.Context(), cachedRemote, push); err != nil {
				t.Fatal(err)
			}
			if s.cli("rev-parse", "main") != commit.Hash || len(s.cli("show", "main:large.txt"))+1 != content.Len() {
				t.Error("the branch does not hold the file")
			}
			s.cli("fsck", "--strict", "--no-dangling")
			if wantCounted := map[bool]int64{true: 1}[wantsLength]; chunked.Load() != 1 || counted.Load() != wantCounted {
				t.Errorf("%d requests without a length, %d with one", chunked.Load(), counted.Load())
			}
			// The branch has moved: nothing large is sent.
			push.Old = strings.Repeat("1", 40)
			other, err := s.client.Fetch(t.Context(), cachedRemote, gitrepo.Want{Ref: "refs/heads/main", Depth: 1, Sparse: true, Push: true})
			if err != nil {
				t.Fatal(err)
			}
			push.Commit, err = other.Build(t.Context(), []edit.FileChange{put("larger.txt", content.String()+"x")}, spec("j2"))
			if err == nil {
				err = other.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := s.client.Push(t.Context(), cachedRemote, push); fault.KindOf(err) != fault.Conflict || chunked.Load() != 1 {
				t.Errorf("%v after %d requests", err, chunked.Load())
			}
		})
	}
}
