package gitrepo_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// TestServersThatLie can do less than they say, or do something else. What they say costs requests at worst: no push succeeds that is
// not there, and none that is there holds anything else.
func TestServersThatLie(t *testing.T) {
	t.Parallel()
	eachVersion(t, testServersThatLie)
}

func testServersThatLie(t *testing.T, v0 bool) {
	without := func(begin string) func(string) string {
		return func(line string) string {
			if strings.HasPrefix(line, begin) {
				return ""
			}
			return line
		}
	}
	for name, tc := range map[string]struct {
		filter bool
		warm   bool
		lie    func(s *sparse) func(w http.ResponseWriter, r *http.Request) bool
		kinds  []fault.Kind // that the attempt may end with; none: it succeeds
	}{
		"a filter that leaves nothing out": {filter: true, lie: onPhase("upload_pack", gittest.Rewrite(without("filter ")))},
		"a filter that is refused": {filter: true, lie: func(s *sparse) func(http.ResponseWriter, *http.Request) bool {
			return onPhase("upload_pack", func(w http.ResponseWriter, r *http.Request, server http.Handler) {
				if asks(r, "filter ") {
					gittest.Refuse("upload-pack: filtering is off")(w, r, server)
					return
				}
				server.ServeHTTP(w, r)
			})(s)
		}},
		"objects by their hash that are refused": {filter: true, lie: onPhase("upload_pack", func(w http.ResponseWriter, r *http.Request, server http.Handler) {
			if !asks(r, "deepen ") {
				gittest.Refuse("upload-pack: not our ref")(w, r, server)
				return
			}
			server.ServeHTTP(w, r)
		})},
		"other objects than were asked for": {filter: true, lie: func(s *sparse) func(http.ResponseWriter, *http.Request) bool {
			other := s.cli("rev-parse", "main:dir3")
			return onPhase("upload_pack", func(w http.ResponseWriter, r *http.Request, server http.Handler) {
				if asks(r, "deepen ") {
					server.ServeHTTP(w, r)
					return
				}
				gittest.Rewrite(func(line string) string {
					if strings.HasPrefix(line, "want ") {
						return "want " + other + line[len("want ")+len(other):] // by version 0 with capabilities
					}
					return line
				})(w, r, server)
			})(s)
		}},
		"history that is not cut off": {lie: onPhase("upload_pack", gittest.Rewrite(without("deepen ")))},
		"version 2 in name alone": {
			lie: func(s *sparse) func(http.ResponseWriter, *http.Request) bool {
				return func(w http.ResponseWriter, r *http.Request) bool {
					if r.Method == http.MethodPost {
						r.Header.Del("Git-Protocol")
					}
					return false
				}
			},
			kinds: []fault.Kind{fault.Unavailable, fault.NotFound},
		},
		"all is there already": {warm: true, lie: func(s *sparse) func(http.ResponseWriter, *http.Request) bool {
			return onPhase("upload_pack", func(w http.ResponseWriter, r *http.Request, server http.Handler) {
				tip := s.cli("rev-parse", "main")
				gittest.Rewrite(func(line string) string {
					if strings.HasPrefix(line, "have ") {
						return "have " + tip + "\n"
					}
					return line
				})(w, r, server)
			})(s)
		}},
		"an empty repository": {
			lie: func(s *sparse) func(http.ResponseWriter, *http.Request) bool {
				return func(w http.ResponseWriter, r *http.Request) bool {
					switch gittest.PhaseOf(r) {
					case "advertise_upload":
						w.Header().Set("Content-Type", "application/x-git-upload-pack-advertisement")
						_, _ = w.Write([]byte("001e# service=git-upload-pack\n00000000"))
						return true
					case "advertise_receive":
						w.Header().Set("Content-Type", "application/x-git-receive-pack-advertisement")
						_, _ = w.Write([]byte("001f# service=git-receive-pack\n0000" + "004c" + strings.Repeat("0", 40) + " capabilities^{}\x00report-status \n0000"))
						return true
					}
					return false
				}
			},
			kinds: []fault.Kind{fault.Invalid, fault.Conflict, fault.Unavailable},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSparse(t, gitrepo.Config{})
			s.v0.Store(v0)
			s.files(3000)
			if tc.filter {
				s.cli("config", "uploadpack.allowFilter", "true")
			}
			text := "two"
			if tc.warm {
				text = s.succeed("before", text, "zwei")
				if err := s.git.Commit(t.Context(), "acme/web", "main", "Other", map[string]string{"other": "x"}); err != nil {
					t.Fatal(err)
				}
			}
			before := s.cli("rev-parse", "main")
			s.intercept(tc.lie(s))
			commit, err := s.attempt(t.Context(), s.client, text, "lied")
			if err == nil {
				s.holds("lied to", commit, "lied")
			} else {
				found := false
				for _, kind := range tc.kinds {
					found = found || fault.KindOf(err) == kind
				}
				if !found {
					t.Errorf("%s: %s", fault.KindOf(err), fault.Private(err))
				}
				if after := s.cli("rev-parse", "main"); after != before {
					t.Errorf("the branch moved to %s", after)
				}
			}
			s.intercept(func(http.ResponseWriter, *http.Request) bool { return false })
			if err == nil {
				text = "lied"
			}
			s.succeed("after", text, "honest")
			s.cli("fsck", "--strict", "--no-dangling")
		})
	}
}

// onPhase answers one kind of request in another way.
func onPhase(phase string, answer gittest.Fault) func(s *sparse) func(w http.ResponseWriter, r *http.Request) bool {
	return func(s *sparse) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if gittest.PhaseOf(r) != phase {
				return false
			}
			answer(w, r, s.git)
			return true
		}
	}
}

// asks reports whether a request has a line that begins so.
func asks(r *http.Request, begin string) bool { return strings.Contains(gittest.BodyOf(r), begin) }
