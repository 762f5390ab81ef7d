package systemtest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/testkit"
)

// What the canary's batches hold beside what jobs do.
const canaryTitle, canaryValue = "canary-title-41d07e", "canary-value-9c3a55"

// plantBatches lets a dry run and a batch succeed, fail for want of a repository, and fail in an expression, and has requests refused
// whose expressions are wrong. It returns the dashboard's pages of them.
func (s *system) plantBatches(who caller, content, message string) (pages []string) {
	s.t.Helper()
	targets := []string{fmt.Sprintf(`{"workspace":%q,"slug":%q,"values":{"a":%q,"n":"1"}}`, workspace, slug, canaryValue)}
	for i := range 20 {
		targets = append(targets, fmt.Sprintf(`{"workspace":%q,"slug":"none%d","values":{"a":%q,"n":"1"}}`, workspace, i, canaryValue))
	}
	// One more than are tried at once: these two fail where the job begins.
	targets = append(targets, fmt.Sprintf(`{"workspace":%q,"slug":"absent","values":{"a":%q}}`, workspace, canaryValue),
		fmt.Sprintf(`{"workspace":%q,"slug":"word","values":{"a":%q,"n":%q}}`, workspace, canaryValue, canaryValue))
	push := fmt.Sprintf(`{"branch":"batch","create":true,"message":"%[1]s {{ int(values.n) }}","changes":[
		{"put":{"path":"batch.txt","content":"%[2]s {{ values.a }}\n"}},
		{"replace":{"paths":["README.md"],"pattern":"Web","with":"%[2]s"}}],"pull_request":{"title":"%[1]s","description":"%[2]s"}}`, message, content)
	body := fmt.Sprintf(`{"title":%q,"dry_run":true,"repositories":[%s],"push":%s}`, canaryTitle, strings.Join(targets, ","), push)
	dry := s.canaryBatch(who, body)
	real := s.canaryBatch(who, fmt.Sprintf(`{"title":%q,"from":%q}`, canaryTitle, dry))
	for _, wrong := range []string{
		strings.Replace(body, "int(values.n)", "values.n", 1)[:len(body)/2], strings.Replace(body, "{{ values.a }}", "{{ values.a", 1),
		strings.Replace(body, "{{ values.a }}", "{{ int(values.a) }}", 1), strings.Replace(body, "{{ values.a }}", "{{ nobody.knows }}", 1),
		strings.Replace(body, `"pattern":"Web"`, `"regexp":true,"pattern":"`+content+`["`, 1), strings.Replace(body, `"title"`, `"unknown":1,"title"`, 1),
	} {
		if status, answer := s.call(who, http.MethodPost, "/v1/batches", wrong); status != http.StatusBadRequest {
			s.t.Errorf("status %d: %s", status, answer)
		}
	}
	for _, id := range []string{dry, real} {
		s.call(who, http.MethodPost, "/v1/batches/"+id+"/retry", "")
		s.canaryEnd(who, id)
		s.call(who, http.MethodPost, "/v1/batches/"+id+"/pause", "")
		s.call(who, http.MethodGet, "/v1/batches/"+id+"/repositories", "")
		pages = append(pages, "/dashboard/batches/"+url.PathEscape(installation)+"/"+id)
	}
	s.call(who, http.MethodGet, "/v1/batches", "")
	for _, state := range []string{"archived", "completed"} {
		pages = append(pages, "/dashboard/api/queues/jobs-batch/"+state+"_tasks")
	}
	return pages
}

func (s *system) canaryBatch(who caller, body string) (id string) {
	s.t.Helper()
	status, answer := s.call(who, http.MethodPost, "/v1/batches", body)
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(answer), &made); err != nil || status != http.StatusAccepted {
		s.t.Fatalf("status %d: %s", status, answer)
	}
	s.canaryEnd(who, made.ID)
	return made.ID
}

func (s *system) canaryEnd(who caller, id string) {
	s.t.Helper()
	testkit.Eventually(s.t, "batch "+id+" has finished", func() error {
		_, answer := s.call(who, http.MethodGet, "/v1/batches/"+id, "")
		var got struct {
			State   string
			EndedAt time.Time `json:"ended_at"`
			Totals  map[string]int
		}
		if err := json.Unmarshal([]byte(answer), &got); err != nil {
			return err
		}
		if got.State != "finished" || got.EndedAt.IsZero() || got.Totals["succeeded"] != 1 {
			return fmt.Errorf("%s", answer)
		}
		return nil
	})
}

// mayHold reports whether what was planted may stand in a place: content in the tip cache, and in the diff of a dry run; a title in
// answers to its owner and on the page of batches.
func (s *system) mayHold(place, planted, content string) bool {
	switch {
	case strings.HasPrefix(place, "file "+s.cache):
		return true
	case strings.HasPrefix(place, "file "+s.artifacts):
		return planted == content || planted == canaryValue
	case planted == canaryTitle:
		return strings.HasPrefix(place, "answer to ") && strings.Contains(place, " /v1/batches") || strings.HasPrefix(place, "dashboard /dashboard/batches")
	}
	return false
}
