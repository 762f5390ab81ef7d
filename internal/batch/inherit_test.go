package batch_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// plan is what a batch was asked for beside its push.
type plan struct {
	Actor                string
	Principal            string
	Rollout              *batch.Rollout
	Concurrency, PerHour int
}

func (b *bundle) plan(id string) plan {
	b.t.Helper()
	status, err := b.store.Get(b.t.Context(), installation, id)
	if err != nil {
		b.t.Fatal(err)
	}
	return plan{status.Actor, b.redis.HGet(b.t.Context(), "gitsmith:{"+installation+"}:batch:"+id, "principal").Val(), status.Rollout, status.Concurrency, status.PerHour}
}

// askFor creates a batch as it comes out of a caller's request.
func (b *bundle) askFor(id, requester string, actor forge.Actor, body map[string]any) error {
	b.t.Helper()
	_, _, err := b.store.Create(b.t.Context(), batch.Batch{
		ID: id, Installation: installation, Actor: actor, Requester: requester, CreatedAt: b.store.Now(), Digest: "digest of " + id, Request: b.parse(body),
	})
	return err
}

// TestFromInherits: what a dry run was asked for holds for the batch that is started from it, but for what that one gives itself. The actor
// always holds.
func TestFromInherits(t *testing.T) {
	onBoth(t, func(b *bundle) {
		b.serve(func(context.Context, job.Job) (job.Result, error) {
			return job.Result{Push: &job.PushResult{Branch: "b", DryRun: true, Parent: "p", Tree: "t"}}, nil
		})
		shares := map[string]any{"canary": 1, "then": "50%", "stop_at_failures": "25%"}
		rollout := &batch.Rollout{Canary: batch.Share{Number: 1}, Then: batch.Share{Percent: 50}, StopAtFailures: batch.Share{Percent: 25}}
		whole := map[string]any{"dry_run": true, "rollout": shares, "concurrency": 3, "per_hour": 600}
		for id, actor := range map[string]forge.Actor{"hers": alice, "system's": system} {
			b.createAs(id, actor, b.request(4, whole))
		}
		b.create("bare", b.request(2, map[string]any{"dry_run": true}))
		for _, id := range []string{"hers", "system's", "bare"} {
			b.finished(id)
		}
		for name, tc := range map[string]struct {
			requester string
			actor     forge.Actor // as the call would have it
			body      map[string]any
			want      plan
			refused   string
		}{
			"all of it":             {alice.Principal, alice, map[string]any{"from": "hers"}, plan{"user", alice.Principal, rollout, 3, 600}, ""},
			"by a call without":     {alice.Principal, system, map[string]any{"from": "hers"}, plan{"user", alice.Principal, rollout, 3, 600}, ""},
			"the app stays it":      {"", system, map[string]any{"from": "system's"}, plan{"system", "", rollout, 3, 600}, ""},
			"nothing was asked":     {"", system, map[string]any{"from": "bare"}, plan{"system", "", nil, 16, 0}, ""},
			"another roll-out":      {alice.Principal, alice, map[string]any{"from": "hers", "rollout": map[string]any{"canary": 2}}, plan{"user", alice.Principal, &batch.Rollout{Canary: batch.Share{Number: 2}}, 3, 600}, ""},
			"no roll-out":           {alice.Principal, alice, map[string]any{"from": "hers", "rollout": map[string]any{}}, plan{"user", alice.Principal, nil, 3, 600}, ""},
			"another pace":          {alice.Principal, alice, map[string]any{"from": "hers", "concurrency": 7, "per_hour": 5}, plan{"user", alice.Principal, rollout, 7, 5}, ""},
			"the actor is given":    {alice.Principal, alice, map[string]any{"from": "hers", "actor": "user"}, plan{"user", alice.Principal, rollout, 3, 600}, ""},
			"not the app":           {alice.Principal, system, map[string]any{"from": "hers", "actor": "system"}, plan{}, `actor: the dry run acts as "user"`},
			"not a user":            {"", system, map[string]any{"from": "system's", "actor": "user"}, plan{}, `actor: the dry run acts as "system"`},
			"not another user":      {"712020:bob", forge.Actor{Kind: forge.ActorUser, Principal: "712020:bob"}, map[string]any{"from": "hers"}, plan{}, "there is no batch"},
			"not the app itself":    {"", system, map[string]any{"from": "hers"}, plan{}, "only that user can start it"},
			"not the app's, by her": {alice.Principal, alice, map[string]any{"from": "system's"}, plan{}, "there is no batch"},
			"not for her, by Bob":   {"712020:bob", alice, map[string]any{"from": "hers"}, plan{}, "there is no batch"},
		} {
			err := b.askFor(name, tc.requester, tc.actor, tc.body)
			if tc.refused != "" {
				if fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), tc.refused) {
					b.t.Errorf("%s: %v, want %q", name, err, tc.refused)
				}
				continue
			}
			if err != nil {
				b.t.Errorf("%s: %v", name, err)
				continue
			}
			if diff := cmp.Diff(tc.want, b.plan(name)); diff != "" {
				b.t.Errorf("%s: wanted (-), has (+):\n%s", name, diff)
			}
		}
	})
}

// TestDryRunHasNoStages: a dry run looks at every repository, however many fail, and says how the batch is to be rolled out. The batch that is
// started from it has the stages, and stops.
func TestDryRunHasNoStages(t *testing.T) {
	onBoth(t, func(b *bundle) {
		b.serve(func(_ context.Context, j job.Job) (job.Result, error) {
			if j.Batch.ID == "dry" && j.Batch.Item < 5 || j.Batch.ID == "real" && j.Batch.Item == 0 {
				return job.Result{}, fault.Newf(fault.Invalid, "broken")
			}
			return job.Result{Push: &job.PushResult{Branch: "b", DryRun: j.Batch.ID == "dry", Parent: "p", Tree: "t"}}, nil
		})
		rollout := map[string]any{"canary": 5, "then": "50%", "stop_at_failures": 1}
		b.create("dry", b.request(25, map[string]any{"dry_run": true, "rollout": rollout, "concurrency": 2}))
		status := b.await("dry", "it ends or stops", func(s batch.Status) bool { return !s.EndedAt.IsZero() || s.State == batch.StateStopped })
		if status.State != batch.StateFinished || status.Totals[batch.Succeeded] != 20 || status.Totals[batch.Failed] != 5 || status.Stage != nil {
			b.t.Fatalf("%+v", status)
		}
		if err := b.askFor("real", "", system, map[string]any{"from": "dry"}); err != nil {
			b.t.Fatal(err)
		}
		stopped := b.await("real", "it stops", func(s batch.Status) bool { return s.State == batch.StateStopped && s.Totals[batch.Running] == 0 })
		if stopped.Stage == nil || *stopped.Stage != (batch.Stage{Name: "canary", Until: 5}) || stopped.Totals[batch.Queued] < 15 {
			b.t.Errorf("%+v, stage %+v", stopped, stopped.Stage)
		}
	})
}
