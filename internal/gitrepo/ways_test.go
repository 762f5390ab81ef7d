package gitrepo_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// sparse reads a tip as a worker does for a push, edits a file in it and pushes. It returns the way and the phases of the requests.
type sparse struct {
	*bench
	cache    string
	received atomic.Int64
	mu       sync.Mutex
	phases   []string
}

func startSparse(t *testing.T, config gitrepo.Config) *sparse {
	t.Helper()
	s := &sparse{cache: t.TempDir()}
	config.CacheDir = s.cache
	config.Observe = func(transfer gitrepo.Transfer) {
		s.received.Add(transfer.Received)
		s.mu.Lock()
		s.phases = append(s.phases, string(transfer.Phase))
		s.mu.Unlock()
	}
	s.bench = start(t, config)
	return s
}

// files are some directories of files, a line in one of which is edited.
func (s *sparse) files(count int) {
	files := map[string]string{"edited/deep/down/file.txt": "one\ntwo\nthree\n"}
	for i := range count {
		files["dir"+strconv.Itoa(i%17)+"/sub/f"+strconv.Itoa(i)] = incompressible(i)
	}
	s.create(files)
}

func incompressible(seed int) string {
	var lines strings.Builder
	for i := range 8 {
		sum := sha256.Sum256([]byte(strconv.Itoa(seed*8 + i)))
		lines.WriteString(hex.EncodeToString(sum[:]) + "\n")
	}
	return lines.String()
}

var cachedRemote = gitrepo.Remote{Repository: remote.Repository, Token: remote.Token, Installation: "ari:cloud:ecosystem::installation/1"}

// edit replaces a line in the file, pushes, and lets git compare.
func (s *sparse) edit(branch, from, to string) (gitrepo.Way, []string) {
	s.t.Helper()
	s.takePhases()
	changes := []edit.Change{{Replace: &edit.Replace{Paths: []string{"edited/deep/down/file.txt"}, Pattern: from, With: to}}}
	snapshot, err := s.client.Fetch(s.t.Context(), cachedRemote, gitrepo.Want{
		Ref: "refs/heads/" + branch, Depth: 1, Sparse: true, Push: true, TreeDepth: edit.TreeDepth(changes, edit.Limits{}),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	applied, err := edit.Apply(s.t.Context(), snapshot, changes, edit.Limits{})
	if err != nil {
		s.t.Fatal(err)
	}
	commit, err := snapshot.Build(s.t.Context(), applied, spec("j-"+to))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := snapshot.Close(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.client.Push(s.t.Context(), cachedRemote, gitrepo.PushSpec{Branch: branch, Old: snapshot.Commit(), Commit: commit}); err != nil {
		s.t.Fatal(err)
	}
	if changed := s.cli("diff-tree", "-r", "--name-only", "--no-commit-id", branch+"~1", branch); changed != "edited/deep/down/file.txt" {
		s.t.Errorf("changed: %q", changed)
	}
	if content := s.cli("show", branch+":edited/deep/down/file.txt"); !strings.Contains(content, to) || strings.Contains(content, from) {
		s.t.Errorf("the file is %q", content)
	}
	s.cli("fsck", "--strict", "--no-dangling")
	s.client.WaitForCache()
	phases := s.takePhases()
	slices.Sort(phases) // the first two run at once
	return snapshot.Way(), phases
}

// takePhases gives the requests that were made since it was last called.
func (s *sparse) takePhases() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	phases := s.phases
	s.phases = nil
	return phases
}

func TestWaysOfReading(t *testing.T) {
	t.Parallel()
	const up, rec, ls, fetch, send = "advertise_upload", "advertise_receive", "list_refs", "upload_pack", "receive_pack"
	for name, tc := range map[string]struct {
		v0, filter bool
		count      int
		cold       gitrepo.Way
		phases     []string
		warm       []string
		moved      []string
	}{
		"version 2, small":            {false, false, 30, gitrepo.WayShallow, []string{rec, up, ls, send, fetch}, []string{ls, ls, send}, []string{ls, ls, send, fetch}},
		"version 2, larger":           {false, false, 3000, gitrepo.WayShallow, []string{rec, up, ls, send, fetch}, []string{ls, ls, send}, []string{ls, ls, send, fetch}},
		"version 2, a filter":         {false, true, 30, gitrepo.WayPartial, []string{rec, up, ls, send, fetch, fetch}, []string{ls, ls, send}, []string{ls, ls, send, fetch, fetch}},
		"version 2, a filter, larger": {false, true, 3000, gitrepo.WayPartial, []string{rec, up, ls, send, fetch, fetch}, []string{ls, ls, send}, []string{ls, ls, send, fetch, fetch}},
		"version 0":                   {true, false, 30, gitrepo.WayShallow, []string{rec, up, up, send, fetch}, []string{up, up, send}, []string{up, up, send, fetch}},
		"version 0, a filter, larger": {true, true, 3000, gitrepo.WayPartial, []string{rec, up, up, send, fetch, fetch}, []string{up, up, send}, []string{up, up, send, fetch, fetch}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSparse(t, gitrepo.Config{})
			s.files(tc.count)
			s.cli("config", "uploadpack.allowFilter", strconv.FormatBool(tc.filter))
			if tc.v0 {
				s.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
					r.Header.Del("Git-Protocol")
					return false
				})
			}
			check := func(what string, way gitrepo.Way, phases []string, wantWay gitrepo.Way, want []string) {
				t.Helper()
				slices.Sort(want)
				if way != wantWay || !slices.Equal(phases, want) {
					t.Errorf("%s: %s by %v, want %s by %v", what, way, phases, wantWay, want)
				}
			}
			way, phases := s.edit("main", "two", "zwei")
			check("cold", way, phases, tc.cold, tc.phases)
			way, phases = s.edit("main", "three", "drei")
			check("warm", way, phases, gitrepo.WayCached, tc.warm)
			if err := s.git.Commit(t.Context(), "acme/web", "main", "Other", map[string]string{"dir3/sub/other": "x\n", "edited/deep/down/file.txt": "1\nzwei\ndrei\n"}); err != nil {
				t.Fatal(err)
			}
			s.received.Store(0)
			way, phases = s.edit("main", "1", "eins")
			check("moved", way, phases, gitrepo.WayUpdated, tc.moved)
			if got := s.received.Load(); got > 10_000 {
				t.Errorf("moved: %d bytes were received for one small commit", got)
			}
			// Somebody else's commit on the same parent as the last push, which was lost.
			s.cli("update-ref", "refs/heads/main", "main~1")
			if err := s.git.Commit(t.Context(), "acme/web", "main", "Other", map[string]string{"dir4/sub/other": "x\n"}); err != nil {
				t.Fatal(err)
			}
			s.received.Store(0)
			way, phases = s.edit("main", "1", "uno")
			check("beside", way, phases, gitrepo.WayUpdated, tc.moved[:4]) // the file is cached
			if got := s.received.Load(); got > 10_000 {
				t.Errorf("beside: %d bytes were received for one small commit", got)
			}
			// A branch that was pushed back, and one that never was: what is cached leads to neither.
			s.cli("update-ref", "refs/heads/main", "main~5")
			way, _ = s.edit("main", "two", "deux")
			if way != tc.cold && way != gitrepo.WayCached {
				t.Errorf("forced: %s", way)
			}
			s.cli("update-ref", "refs/heads/other", s.cli("-c", "user.name=T", "-c", "user.email=t@example.com", "commit-tree", "-m", "other", "main~1^{tree}"))
			if way, _ = s.edit("other", "two", "dos"); way != tc.cold {
				t.Errorf("another root: %s", way)
			}
			if left, _ := filepath.Glob(filepath.Join(s.temp, "*", "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestServersAreTakenToBeAlike: what one repository's server can do is expected of the next one's, and noticed where it is not so.
func TestServersAreTakenToBeAlike(t *testing.T) {
	t.Parallel()
	s := startSparse(t, gitrepo.Config{})
	s.files(20)
	s.edit("main", "two", "zwei")
	for _, tc := range []struct {
		name       string
		v0, filter bool
		way        gitrepo.Way
		phases     string
	}{
		{"alike", false, false, gitrepo.WayShallow, "list_refs upload_pack receive_pack list_refs"},
		{"has-a-filter", false, true, gitrepo.WayShallow, "list_refs upload_pack receive_pack list_refs"},
		{"version-0", true, false, gitrepo.WayShallow, "list_refs advertise_upload upload_pack advertise_receive receive_pack advertise_upload"},
		{"after-it", false, false, gitrepo.WayShallow, "advertise_upload list_refs upload_pack advertise_receive receive_pack list_refs"},
	} {
		other := cachedRemote
		other.Repository.Slug = tc.name
		if err := s.git.CreateRepository(t.Context(), other.Repository.String(), map[string]string{"edited/deep/down/file.txt": "two\n", "x/y": "z"}); err != nil {
			t.Fatal(err)
		}
		path := s.git.Path(other.Repository.String())
		if _, err := gittest.Git(t.Context(), path, nil, "config", "uploadpack.allowFilter", strconv.FormatBool(tc.filter)); err != nil {
			t.Fatal(err)
		}
		s.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
			if tc.v0 {
				r.Header.Del("Git-Protocol")
			}
			return false
		})
		s.takePhases()
		snapshot, err := s.client.Fetch(t.Context(), other, gitrepo.Want{Ref: "refs/heads/main", Depth: 1, Sparse: true, Push: true, TreeDepth: 4})
		if err != nil {
			t.Fatal(err)
		}
		commit, err := snapshot.Build(t.Context(), []edit.FileChange{put("edited/deep/down/file.txt", "changed\n")}, spec("j1"))
		if err = errors.Join(err, snapshot.Close()); err == nil {
			err = s.client.Push(t.Context(), other, gitrepo.PushSpec{Branch: "main", Old: snapshot.Commit(), Commit: commit})
		}
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		s.client.WaitForCache()
		if phases := strings.Join(s.takePhases(), " "); snapshot.Way() != tc.way || phases != tc.phases {
			t.Errorf("%s: %s by %s, want %s by %s", tc.name, snapshot.Way(), phases, tc.way, tc.phases)
		}
		if tip, err := gittest.Git(t.Context(), path, nil, "rev-parse", "main"); err != nil || tip != commit.Hash {
			t.Errorf("%s: main is %s, %v", tc.name, tip, err)
		}
	}
}

// TestFilesOfAPackAreNotAskedForTwice: a file that the pack of an update brings is waited for, however far the pack has arrived. The
// interleaving: all but the end of the pack is there when the edit prefetches its files. The end comes when a second request for a pack
// shows that the client did not wait, or after half a second without one.
func TestFilesOfAPackAreNotAskedForTwice(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, v0 bool) {
		s := startSparse(t, gitrepo.Config{})
		s.v0.Store(v0)
		s.files(30)
		if _, phases := s.edit("main", "two", "zwei"); len(phases) == 0 {
			t.Fatal("nothing was read")
		}
		if err := s.git.Commit(t.Context(), "acme/web", "main", "Other", map[string]string{"edited/deep/down/file.txt": "1\nzwei\ndrei\n"}); err != nil {
			t.Fatal(err)
		}
		gate, asked := make(chan struct{}), atomic.Int64{}
		open := sync.OnceFunc(func() { close(gate) })
		s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			if gittest.PhaseOf(r) != "upload_pack" {
				return false
			}
			if asked.Add(1) > 1 {
				open()
			}
			whole := httptest.NewRecorder()
			s.git.ServeHTTP(whole, r)
			w.Header().Set("Content-Type", whole.Header().Get("Content-Type"))
			content := whole.Body.Bytes()
			end := len(content) - 10 // of the pack's checksum
			_, _ = w.Write(content[:end])
			_ = http.NewResponseController(w).Flush()
			select {
			case <-gate:
			case <-time.After(500 * time.Millisecond):
			}
			_, _ = w.Write(content[end:])
			return true
		})
		snapshot, err := s.client.Fetch(t.Context(), cachedRemote, gitrepo.Want{Ref: "refs/heads/main", Depth: 1, Sparse: true, Push: true, TreeDepth: 4})
		if err != nil {
			t.Fatal(err)
		}
		changes := []edit.Change{{Replace: &edit.Replace{Paths: []string{"edited/deep/down/file.txt"}, Pattern: "1", With: "eins"}}}
		if _, err := edit.Apply(t.Context(), snapshot, changes, edit.Limits{}); err != nil {
			t.Error(err)
		}
		if err := snapshot.Close(); err != nil {
			t.Error(err)
		}
		s.client.WaitForCache()
		if snapshot.Way() != gitrepo.WayUpdated || asked.Load() != 1 {
			t.Errorf("%s by %d requests for packs", snapshot.Way(), asked.Load())
		}
	})
}
