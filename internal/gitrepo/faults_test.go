package gitrepo_test

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// inject breaks the requests of one phase; nil breaks nothing. v0 keeps the server to protocol version 0.
func (s *sparse) inject(v0 bool, phase string, broken gittest.Fault) {
	s.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if v0 {
			r.Header.Del("Git-Protocol")
		}
		if broken == nil || gittest.PhaseOf(r) != phase {
			return false
		}
		broken(w, r, s.git)
		return true
	})
}

// attempt is what a job does: read, edit, push. It gives the commit that it made, if it came so far.
func (s *sparse) attempt(ctx context.Context, client *gitrepo.Client, from, to string) (*gitrepo.Commit, error) {
	snapshot, err := client.Fetch(ctx, cachedRemote, gitrepo.Want{Ref: "refs/heads/main", Depth: 1, Sparse: true, Push: true, TreeDepth: 4})
	if err != nil {
		return nil, err
	}
	changes, err := edit.Apply(ctx, snapshot, []edit.Change{
		{Replace: &edit.Replace{Paths: []string{"edited/deep/down/file.txt"}, Pattern: from, With: to}},
	}, edit.Limits{})
	if err != nil {
		return nil, errors.Join(err, snapshot.Close())
	}
	commit, err := snapshot.Build(ctx, changes, spec("j-"+to))
	if err = errors.Join(err, snapshot.Close()); err != nil {
		return nil, err
	}
	err = client.Push(ctx, cachedRemote, gitrepo.PushSpec{Branch: "main", Old: snapshot.Commit(), Commit: commit})
	client.WaitForCache()
	return commit, err
}

var brokenAnswers = map[string]struct {
	broken gittest.Fault
	kind   fault.Kind
}{
	"reset at once":         {gittest.Reset(0), fault.Unavailable},
	"reset in the middle":   {gittest.Reset(60), fault.Unavailable},
	"truncated":             {gittest.Truncate(60), fault.Unavailable},
	"empty":                 {gittest.Truncate(0), fault.Unavailable},
	"silent":                {gittest.Stall(0), fault.Unavailable},
	"silent in the middle":  {gittest.Stall(60), fault.Unavailable},
	"another content type":  {gittest.Type, fault.Unavailable},
	"429":                   {gittest.Status(429, "Retry-After", "7"), fault.Throttled},
	"503":                   {gittest.Status(503), fault.Unavailable},
	"redirected":            {gittest.Status(302, "Location", "https://elsewhere.example/"), fault.NotFound},
	"forbidden for a scope": {gittest.Status(403), fault.Denied},
	"an error line":         {gittest.Refuse("something is wrong"), fault.NotFound},
}

// TestFaultsOfEveryPhase breaks each kind of request in each way while a tip is read in each way and pushed: the error says the right thing,
// the branch is where it was or where it should be, nothing is left on disk, and the next attempt makes it good.
func TestFaultsOfEveryPhase(t *testing.T) {
	t.Parallel()
	for name, way := range map[string]struct {
		v0, filter, warm, moved bool
		long                    bool // nothing in it that the others have not: make test-all runs it
	}{
		"version 2": {}, "version 0, moved": {v0: true, warm: true, moved: true}, "a filter, moved": {filter: true, warm: true, moved: true},
		"version 0": {v0: true, long: true}, "a filter": {filter: true, long: true}, "warm": {warm: true, long: true}, "moved": {warm: true, moved: true, long: true},
	} {
		if way.long && testing.Short() {
			continue
		}
		for _, phase := range []string{"advertise_upload", "list_refs", "upload_pack", "advertise_receive", "receive_pack"} {
			t.Run(name+"/"+phase, func(t *testing.T) {
				t.Parallel()
				s := startSparse(t, gitrepo.Config{})
				s.files(40)
				if way.filter {
					s.cli("config", "uploadpack.allowFilter", "true")
				}
				text := "two"
				for what, broken := range brokenAnswers {
					s.inject(way.v0, "", nil)
					if way.warm {
						text = s.succeed(what, text, text+"w")
					} else {
						s.renew()
					}
					if way.moved {
						if err := s.git.Commit(t.Context(), "acme/web", "main", "Other", map[string]string{"other": what}); err != nil {
							t.Fatal(err)
						}
					}
					s.inject(way.v0, phase, broken.broken)
					text = s.fail(what, phase, broken.kind, text)
					s.inject(way.v0, "", nil)
					text = s.succeed(what, text, text+"s")
				}
				s.cli("fsck", "--strict", "--no-dangling")
			})
		}
	}
}

// renew is another worker's client, with an empty cache.
func (s *sparse) renew() {
	s.t.Helper()
	if err := s.client.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.config.CacheDir = s.t.TempDir()
	client, err := gitrepo.New(s.config)
	if err != nil {
		s.t.Fatal(err)
	}
	s.client = client
}

// impatient is a client beside the other, over the same tip cache, that waits for a silent server no longer than it must.
func (s *sparse) impatient() *gitrepo.Client {
	s.t.Helper()
	config := s.config
	config.IdleTimeout = 2 * time.Second // the server has done its work by then, so that the branch is where it stays
	client, err := gitrepo.New(config)
	if err != nil {
		s.t.Fatal(err)
	}
	return client
}

func (s *sparse) succeed(what, from, to string) string {
	s.t.Helper()
	commit, err := s.attempt(s.t.Context(), s.client, from, to)
	if err != nil {
		s.t.Fatalf("%s: without a fault: %v", what, err)
	}
	s.holds(what, commit, to)
	return to
}

// fail attempts the edit under a fault and gives the text that the branch holds then.
func (s *sparse) fail(what, phase string, kind fault.Kind, text string) string {
	s.t.Helper()
	before := s.cli("rev-parse", "main")
	s.takePhases()
	to := text + "f"
	client := s.client
	if strings.HasPrefix(what, "silent") {
		client = s.impatient()
		defer func() {
			if err := client.Close(); err != nil {
				s.t.Error(err)
			}
		}()
	}
	commit, err := s.attempt(s.t.Context(), client, text, to)
	after := s.cli("rev-parse", "main")
	phases := s.takePhases()
	switch {
	case err == nil:
		s.holds(what, commit, to)
		return to
	case !slices.Contains(phases, phase):
		s.t.Errorf("%s: the phase was not used, and yet: %v", what, err)
	case phase == "receive_pack" && kind == fault.NotFound && what == "an error line": // words that nobody knows
		kind = fault.Unavailable
	case phase == "list_refs" && slices.Contains(phases, "receive_pack") && kind != fault.Throttled: // the outcome could not be learnt
		kind = fault.Unavailable
	}
	if fault.KindOf(err) != kind {
		s.t.Errorf("%s: %s: %s", what, fault.KindOf(err), fault.Private(err))
	}
	if kind == fault.Throttled && fault.RetryAfter(err) != 7*time.Second {
		s.t.Errorf("%s: again after %s", what, fault.RetryAfter(err))
	}
	if left, _ := filepath.Glob(filepath.Join(s.temp, "*", "*")); len(left) > 0 {
		s.t.Errorf("%s: left behind: %v", what, left)
	}
	switch {
	case after == before:
		return text
	case commit != nil && after == commit.Hash:
		s.holds(what, commit, to)
		return to
	}
	s.t.Fatalf("%s: the branch is at %s, neither where it was nor where it should be", what, after)
	return ""
}

func (s *sparse) holds(what string, commit *gitrepo.Commit, text string) {
	s.t.Helper()
	if tip := s.cli("rev-parse", "main"); tip != commit.Hash {
		s.t.Fatalf("%s: the branch is at %s, not at %s", what, tip, commit.Hash)
	}
	if content := s.cli("show", "main:edited/deep/down/file.txt"); !strings.Contains(content, "\n"+text+"\n") {
		s.t.Errorf("%s: the file is %q", what, content)
	}
	if changed := s.cli("diff-tree", "-r", "--name-only", "--no-commit-id", "main~1", "main"); changed != "edited/deep/down/file.txt" {
		s.t.Errorf("%s: changed: %q", what, changed)
	}
}
