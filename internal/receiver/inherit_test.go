package receiver

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
)

// finishedDryRun is a dry run of batchBody that would change both repositories.
func (h *house) finishedDryRun(t *testing.T, header http.Header) batchView {
	t.Helper()
	made := h.submitBatch(t, header, strings.Replace(batchBody, `"rollout"`, `"dry_run": true, "rollout"`, 1))
	for item, name := range []string{"acme/web", "acme/api"} {
		h.batches.end(t, forgetest.Installation, made.ID, item, batch.Succeeded, job.Status{
			State: job.Succeeded, Repository: name, Result: &job.Result{Push: &job.PushResult{Branch: "chore/owners", DryRun: true, Parent: "p", Tree: "t"}},
		})
	}
	if err := h.batches.redis.HSet(t.Context(), "gitsmith:{"+forgetest.Installation+"}:batch:"+made.ID, "state", string(batch.StateFinished)).Err(); err != nil {
		t.Fatal(err)
	}
	return decode[batchView](t, h.do(t, http.MethodGet, made.Links.Self, header, ""))
}

// TestStartFromADryRun: what a caller asks for with a dry run holds for the batch that is started from it, and both answers show it.
func TestStartFromADryRun(t *testing.T) {
	t.Parallel()
	type plan struct {
		Rollout              *batch.Rollout
		Concurrency, PerHour int
		Actor                string
	}
	of := func(view batchView) plan { return plan{view.Rollout, view.Concurrency, view.PerHour, view.Actor} }
	h := newHouse(t)
	for actor, header := range map[forge.ActorKind]http.Header{forge.ActorUser: h.user(), forge.ActorSystem: h.system()} {
		asked := plan{&batch.Rollout{Canary: batch.Share{Number: 1}, Then: batch.Share{Percent: 50}, StopAtFailures: batch.Share{Percent: 10}}, 4, 100, string(actor)}
		dry := h.finishedDryRun(t, header)
		if diff := cmp.Diff(asked, of(dry)); diff != "" || dry.Stage != nil {
			t.Errorf("dry run: stage %+v; wanted (-), has (+):\n%s", dry.Stage, diff)
		}
		for name, tc := range map[string]struct {
			more  string
			stage *batch.Stage
			want  plan
		}{
			"as it was asked for": {``, &batch.Stage{Name: "canary", Until: 1}, asked},
			"with the same actor": {`, "actor": "` + string(actor) + `"`, &batch.Stage{Name: "canary", Until: 1}, asked},
			"slower":              {`, "concurrency": 1, "per_hour": 7`, &batch.Stage{Name: "canary", Until: 1}, plan{asked.Rollout, 1, 7, string(actor)}},
			"without stages":      {`, "rollout": {}`, nil, plan{nil, 4, 100, string(actor)}},
		} {
			body := `{"from": "` + dry.ID + `"` + tc.more + `}`
			keyed := with(header, "Idempotency-Key", strings.ReplaceAll(name, " ", "-"))
			made := h.submitBatch(t, keyed, body)
			if diff := cmp.Diff(tc.want, of(made)); diff != "" || made.DryRun || !cmp.Equal(made.Stage, tc.stage) {
				t.Errorf("%s, %s: stage %+v; wanted (-), has (+):\n%s", actor, name, made.Stage, diff)
			}
			again := h.do(t, http.MethodPost, "/v1/batches", keyed, body)
			if again.Status != http.StatusOK || decode[batchView](t, again).ID != made.ID {
				t.Errorf("%s, %s, again: status %d, %s", actor, name, again.Status, again.Body)
			}
		}
	}
	hers := `{"from": "` + h.finishedDryRun(t, h.user()).ID + `"`
	bob := h.Header(forgetest.FITOptions{Principal: "557058:bob"}, forgetest.Tokens{User: h.token()})
	refused(t, h.do(t, http.MethodPost, "/v1/batches", bob, hers+`}`), http.StatusBadRequest, fault.Invalid, "there is no batch")
	refused(t, h.do(t, http.MethodPost, "/v1/batches", h.system(), hers+`}`), http.StatusBadRequest, fault.Invalid, "only that user")
	refused(t, h.do(t, http.MethodPost, "/v1/batches", h.user(), hers+`, "actor": "system"}`), http.StatusForbidden, fault.Denied, "leave actor out")
}
