package systemtest

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestKilledWorker kills a worker with SIGKILL at each instant at which something could be done twice or be lost. After the
// recovery there is exactly one commit, and the job has succeeded.
func TestKilledWorker(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]func(s *system) <-chan struct{}{
		"after the fetch": func(s *system) <-chan struct{} {
			return s.gate.hold(func(_ *http.Request, served []string) bool { return slices.Contains(served, "POST git-upload-pack") })
		},
		"before the push": func(s *system) <-chan struct{} {
			return s.gate.hold(func(r *http.Request, _ []string) bool { return strings.HasSuffix(r.URL.Path, "/git-receive-pack") })
		},
		"after the push, before the verification": func(s *system) <-chan struct{} {
			return s.gate.hold(func(_ *http.Request, served []string) bool { return slices.Contains(served, "POST git-receive-pack") })
		},
		"after the result, before the acknowledgement": func(s *system) <-chan struct{} {
			recorded := false
			return s.proxy.holdBack(func(command []string) bool {
				text := strings.Join(command, " ")
				if strings.Contains(text, "gitsmith:{") && slices.Contains(command, "succeeded") {
					recorded = true
					return false
				}
				return recorded && strings.HasPrefix(strings.ToLower(command[0]), "eval") && strings.Contains(text, ":active")
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSystem(t, map[string]string{"README.md": "# Web\n"})
			who := s.userCaller("712020:alice", 4*time.Hour)
			reached := hold(s)
			worker := s.startWorker()
			job := s.submit(who, pushBody("main", "new.txt", "x\n"))
			select {
			case <-reached:
			case <-time.After(30 * time.Second):
				_, answer := s.call(who, http.MethodGet, "/v1/jobs/"+job.ID, "")
				t.Fatalf("the instant did not come: %s", answer)
			}
			worker.kill()
			s.gate.open()
			s.proxy.letGo()
			s.forgiveDeadWorkers()
			recovered := s.startWorker()

			done := s.await(who, job.ID, "succeeded")
			s.emptyQueues()
			s.judge("main", job.ID)
			if tip := s.git("rev-parse", "main"); tip != done.Result.Push.Commit {
				t.Errorf("the result says %s, the branch is at %s", done.Result.Push.Commit, tip)
			}
			if count := s.git("rev-list", "--count", "main"); count != "2" {
				t.Errorf("%s commits on main, want 2", count)
			}
			if status := recovered.stop(t); status != 0 {
				t.Errorf("the worker ended with status %d", status)
			}
			assertEmpty(t, s.temp)
		})
	}
}
