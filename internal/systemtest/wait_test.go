package systemtest

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestWaitForToken submits a system job that nobody has a token for yet. It waits without touching git, and the scheduled
// trigger that brings one wakes it.
func TestWaitForToken(t *testing.T) {
	t.Parallel()
	s := startSystem(t, map[string]string{"README.md": "# Web\n"})
	s.startWorker()
	nobody := caller{installation: installation}
	body := strings.Replace(pushBody("main", "new.txt", "x\n"), `{"repository"`, `{"actor":"system","on_expiry":"wait","repository"`, 1)
	job := s.submit(nobody, body)
	waiting := s.await(nobody, job.ID, "waiting")
	if waiting.Failure.Kind != "expired" || s.bitbucket.Count("git") != 0 {
		t.Errorf("it waits because of %q, after %d requests of git", waiting.Failure.Kind, s.bitbucket.Count("git"))
	}
	trigger := caller{installation: installation, systemToken: s.oauthToken(4 * time.Hour)}
	if status, answer := s.call(trigger, http.MethodPost, "/forge/schedule", ""); status != http.StatusOK {
		t.Fatalf("status %d: %s", status, answer)
	}
	if done := s.await(nobody, job.ID, "succeeded"); done.Attempts != 1 {
		t.Errorf("%d attempts are counted, want 1: a wait is none", done.Attempts)
	}
	s.judge("main", job.ID)

	// Without on_expiry the same is refused at once, with what is missing and how it comes.
	status, answer := s.call(caller{installation: installation + "-other"}, http.MethodPost, "/v1/jobs",
		strings.Replace(body, `"on_expiry":"wait",`, "", 1))
	if status != http.StatusBadRequest || !strings.Contains(answer, "none is kept") || !strings.Contains(answer, "appSystemToken") {
		t.Errorf("status %d: %s", status, answer)
	}
}
