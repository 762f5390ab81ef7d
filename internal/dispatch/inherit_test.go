package dispatch_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// plan is how a batch is carried out, beside its push.
type plan struct {
	Actor, Principal     string
	Rollout              *batch.Rollout
	Concurrency, PerHour int
}

func (b *bundle) plan(id string) plan {
	b.t.Helper()
	status, err := b.store.Get(b.t.Context(), installation, id)
	if err != nil {
		b.t.Fatal(err)
	}
	principal := b.redis.HGet(b.t.Context(), "gitsmith:{"+installation+"}:batch:"+id, "principal").Val()
	return plan{status.Actor, principal, status.Rollout, status.Concurrency, status.PerHour}
}

// ask creates a batch as a call by requester does.
func (b *bundle) ask(id, requester string, actor forge.Actor, request batch.Request) error {
	b.t.Helper()
	_, _, err := b.store.Create(b.t.Context(), batch.Batch{
		ID: id, Installation: installation, Actor: actor, Requester: requester, CreatedAt: time.Now(), Digest: "digest of " + id, Request: request,
	})
	return err
}

// TestFromInherits: a batch that is started from a dry run has the dry run's actor, and its roll-out, concurrency and rate where the request
// does not give another. Only the dry run's requester can start it.
func TestFromInherits(t *testing.T) {
	type body = map[string]any
	rollout := &batch.Rollout{Canary: batch.Share{Number: 1}, Then: batch.Share{Percent: 50}, StopAtFailures: batch.Share{Percent: 25}}
	whole := body{"dry_run": true, "rollout": rollout, "concurrency": 3, "per_hour": 600}
	const ada = "712020:alice"
	cases := map[string]struct {
		requester string
		actor     forge.Actor // as the call has it
		body      body
		want      plan
		refused   string
	}{
		"everything":              {ada, alice, body{"from": "user"}, plan{"user", ada, rollout, 3, 600}, ""},
		"the app's":               {"", system, body{"from": "app"}, plan{"system", "", rollout, 3, 600}, ""},
		"the app's, for a user":   {ada, alice, body{"from": "bot"}, plan{"system", "", rollout, 3, 600}, ""},
		"the defaults":            {"", system, body{"from": "bare"}, plan{"system", "", nil, 16, 0}, ""},
		"another roll-out":        {ada, alice, body{"from": "user", "rollout": body{"canary": 2}}, plan{"user", ada, &batch.Rollout{Canary: batch.Share{Number: 2}}, 3, 600}, ""},
		"no roll-out":             {ada, alice, body{"from": "user", "rollout": body{}}, plan{"user", ada, nil, 3, 600}, ""},
		"another pace":            {ada, alice, body{"from": "user", "concurrency": 7, "per_hour": 5}, plan{"user", ada, rollout, 7, 5}, ""},
		"the actor confirmed":     {ada, alice, body{"from": "user", "actor": "user"}, plan{"user", ada, rollout, 3, 600}, ""},
		"not as the app":          {ada, alice, body{"from": "user", "actor": "system"}, plan{}, `actor: the dry run acts as "user"`},
		"not as a user":           {ada, alice, body{"from": "bot", "actor": "user"}, plan{}, `actor: the dry run acts as "system"`},
		"not by another user":     {"712020:bob", forge.Actor{Kind: forge.ActorUser, Principal: "712020:bob"}, body{"from": "user"}, plan{}, "there is no batch"},
		"not by the app":          {"", system, body{"from": "user"}, plan{}, "only that user can start it"},
		"not the app's by a user": {ada, alice, body{"from": "app"}, plan{}, "there is no batch"},
	}
	onBoth(t, func(b *bundle) {
		b.serve(func(context.Context, job.Job) (job.Result, error) {
			return job.Result{Push: &job.PushResult{Branch: "b", DryRun: true, Parent: "p", Tree: "t"}}, nil
		})
		b.createAs("user", alice, b.request(4, whole))
		b.createAs("app", system, b.request(4, whole))
		if err := b.ask("bot", ada, system, b.request(4, whole)); err != nil {
			b.t.Fatal(err)
		}
		b.create("bare", b.request(2, body{"dry_run": true}))
		for _, id := range []string{"user", "app", "bot", "bare"} {
			b.finished(id)
		}
		for name, tc := range cases {
			err := b.ask(name, tc.requester, tc.actor, b.parse(tc.body))
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

// TestDryRunHasNoStages: a dry run tries every repository, however many fail. The batch that is started from it has the stages, and stops.
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
		if err := b.ask("real", "", system, b.parse(map[string]any{"from": "dry"})); err != nil {
			b.t.Fatal(err)
		}
		stopped := b.await("real", "it stops", func(s batch.Status) bool { return s.State == batch.StateStopped && s.Totals[batch.Running] == 0 })
		if stopped.Stage == nil || *stopped.Stage != (batch.Stage{Name: "canary", Until: 5}) || stopped.Totals[batch.Queued] < 15 {
			b.t.Errorf("%+v, stage %+v", stopped, stopped.Stage)
		}
	})
}
