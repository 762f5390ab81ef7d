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
func (h *house) finishedDryRun(t *testing.T, header http.Header) planView {
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
	return decode[planView](t, h.do(t, http.MethodGet, made.Links.Self, header, ""))
}

// planView is what an answer says of how a batch is carried out.
type planView struct {
	ID          string         `json:"id"`
	DryRun      bool           `json:"dry_run"`
	Stage       *batch.Stage   `json:"stage"`
	Rollout     map[string]any `json:"rollout"`
	Concurrency int            `json:"concurrency"`
	PerHour     int            `json:"per_hour"`
	Actor       string         `json:"actor"`
}

// TestStartFromADryRun: what a caller asks for with a dry run holds for the batch that is started from it, and both answers show it.
func TestStartFromADryRun(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for actor, header := range map[forge.ActorKind]http.Header{forge.ActorUser: h.user(), forge.ActorSystem: h.system()} {
		rollout, canary := map[string]any{"canary": 1.0, "then": "50%", "stop_at_failures": "10%"}, &batch.Stage{Name: "canary", Until: 1}
		dry := h.finishedDryRun(t, header)
		if diff := cmp.Diff(planView{dry.ID, true, nil, rollout, 4, 100, string(actor)}, dry); diff != "" {
			t.Errorf("dry run: wanted (-), has (+):\n%s", diff)
		}
		for name, tc := range map[string]struct {
			more string
			want planView
		}{
			"as it was asked for": {``, planView{"", false, canary, rollout, 4, 100, string(actor)}},
			"with the same actor": {`, "actor": "` + string(actor) + `"`, planView{"", false, canary, rollout, 4, 100, string(actor)}},
			"slower":              {`, "concurrency": 1, "per_hour": 7`, planView{"", false, canary, rollout, 1, 7, string(actor)}},
			"without stages":      {`, "rollout": {}`, planView{"", false, nil, nil, 4, 100, string(actor)}},
		} {
			body := `{"from": "` + dry.ID + `"` + tc.more + `}`
			keyed := with(header, "Idempotency-Key", strings.ReplaceAll(name, " ", "-"))
			tc.want.ID = h.submitBatch(t, keyed, body).ID
			again := h.do(t, http.MethodPost, "/v1/batches", keyed, body)
			if diff := cmp.Diff(tc.want, decode[planView](t, again)); diff != "" || again.Status != http.StatusOK {
				t.Errorf("%s, %s: status %d; wanted (-), has (+):\n%s", actor, name, again.Status, diff)
			}
		}
	}
	hers := `{"from": "` + h.finishedDryRun(t, h.user()).ID + `"`
	bob := h.Header(forgetest.FITOptions{Principal: "557058:bob"}, forgetest.Tokens{User: h.token()})
	refused(t, h.do(t, http.MethodPost, "/v1/batches", bob, hers+`}`), http.StatusBadRequest, fault.Invalid, "there is no batch")
	refused(t, h.do(t, http.MethodPost, "/v1/batches", h.system(), hers+`}`), http.StatusBadRequest, fault.Invalid, "only that user")
	refused(t, h.do(t, http.MethodPost, "/v1/batches", h.user(), hers+`, "actor": "system"}`), http.StatusForbidden, fault.Denied, "leave actor out")
}
