package systemtest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
)

// TestPullRequestFromTheMainBranch: a push whose pull request would lead from the pushed branch to itself changes nothing, as a job, in a dry
// run and in a batch. The batch's other repositories are not affected.
func TestPullRequestFromTheMainBranch(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 3, func(next http.Handler) http.Handler { return next })
	f.git(1, "branch", "-m", "main", "develop")
	f.git(1, "symbolic-ref", "HEAD", "refs/heads/develop")
	f.s.startWorker("GITSMITH_LOG_LEVEL=warn")
	before := f.git(0, "rev-parse", "HEAD") // the same in all three

	push := func(branch, pullRequest, more string) string {
		return fmt.Sprintf(`"push":{"branch":%q,"create":true,"message":"m","changes":[{"put":{"path":"OWN","content":"x\n"}}],"pull_request":{"title":"t"%s}%s}`, branch, pullRequest, more)
	}
	for name, body := range map[string]string{
		"main":              `{"repository":{"workspace":"acme","slug":"r0"},` + push("main", "", "") + `}`,
		"main in a dry run": `{"repository":{"workspace":"acme","slug":"r0"},` + push("main", "", `,"dry_run":true`) + `}`,
		"develop":           `{"repository":{"workspace":"acme","slug":"r1"},` + push("develop", "", "") + `}`,
	} {
		failed := f.s.await(f.who, f.s.submit(f.who, body).ID, "failed")
		if failed.Failure.Kind != "invalid" || !strings.Contains(failed.Failure.Detail, "push.pull_request.destination: "+strings.Fields(name)[0]+" is the main branch") || failed.Attempts != 1 {
			t.Errorf("%s: %+v after %d attempts", name, failed.Failure, failed.Attempts)
		}
	}
	for _, destination := range []string{"main", "refs/heads/main"} {
		body := `{"repository":{"workspace":"acme","slug":"r0"},` + push("main", `,"destination":"`+destination+`"`, "") + `}`
		if status, answer := f.s.call(f.who, http.MethodPost, "/v1/jobs", body); status != http.StatusBadRequest || !strings.Contains(answer, "push.pull_request.destination") {
			t.Errorf("%s: status %d: %s", destination, status, answer)
		}
	}

	for i, tc := range []struct{ push, detail string }{
		{push("develop", "", "") + `,"dry_run":true`, "develop is the main branch"},
		{push("develop", "", ""), "develop is the main branch"},
		{push("{{ repository.slug == 'r1' ? 'develop' : 'topic' }}", `,"destination":"{{ repository.main_branch }}"`, ""), "it is the pushed branch itself"},
	} {
		status, answer := f.s.call(f.who, http.MethodPost, "/v1/batches", `{"actor":"system","repositories":[{"workspace":"acme","slug":"r0"},{"workspace":"acme","slug":"r1"},{"workspace":"acme","slug":"r2"}],`+
			tc.push+`}`, "Idempotency-Key", strconv.Itoa(i))
		if status != http.StatusAccepted {
			t.Fatalf("status %d: %s", status, answer)
		}
		f.id = f.read(answer).ID
		f.await(time.Minute, "it finishes", isFinished)
		for number, item := range f.items() {
			refused := item.State == batch.Failed && item.Failure != nil && strings.Contains(item.Failure.Detail, tc.detail)
			if refused != (number == 1) || !refused && item.State != batch.Succeeded {
				t.Errorf("batch %d, %s: %+v, %+v", i, item.Repository, item, item.Failure)
			}
		}
	}
	for number, requests := range []int{2, 0, 2} {
		slug := f.slugs[number]
		if after := f.git(number, "rev-parse", "HEAD"); after != before {
			t.Errorf("the main branch of %s has moved from %s to %s", slug, before, after)
		}
		if open := f.s.bitbucket.PullRequests("acme", slug); len(open) != requests {
			t.Errorf("%s: %+v", slug, open)
		}
	}
}
