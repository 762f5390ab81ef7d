package dispatch_test

import (
	"context"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/dispatch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

func (b *bundle) filler() *dispatch.Filler {
	return &dispatch.Filler{Batches: b.store, Limits: job.DefaultLimits(), Describe: func(context.Context, job.Job) (bitbucket.Details, error) {
		return bitbucket.Details{}, nil
	}}
}

// fill is the push of one repository of a batch.
func (b *bundle) fill(id string, item int) (*job.Push, error) {
	b.t.Helper()
	filled, err := b.filler().Fill(b.t.Context(), job.Job{
		ID: batch.JobID(id, item), Installation: installation, Repository: bitbucket.Repository{Workspace: "acme", Slug: "repo"},
		Batch: job.BatchRef{ID: id, Item: item},
	})
	return filled.Push, err
}

// TestIndexOfTheDryRun: repositories that a dry run leaves out do not move the others' numbers in expressions.
func TestIndexOfTheDryRun(t *testing.T) {
	b := onReal(t)
	b.serve(func(ctx context.Context, j job.Job) (job.Result, error) {
		if j.Batch.Item == 1 {
			return job.Result{Push: &job.PushResult{Branch: "b", Unchanged: true, DryRun: true}}, nil
		}
		return job.Result{Push: &job.PushResult{Branch: "b", DryRun: true, Parent: "p", Tree: "t"}}, nil
	})
	push := aPush()
	push["branch"] = "chore/{{ index }}"
	b.create("dry", b.request(4, map[string]any{"push": push, "dry_run": true}))
	b.finished("dry")
	b.create("real", b.parse(map[string]any{"from": "dry"}))
	for item, branch := range []string{"chore/0", "chore/2", "chore/3"} {
		if made, err := b.fill("real", item); err != nil || made.Branch != branch || made.Expect.Tree != "t" {
			t.Errorf("%d: %+v, %v; wanted branch %s", item, made, err, branch)
		}
	}
}

// TestErrorsHoldNoContent: what cannot be worked out for a repository is told by its place. The text is kept in the job's record.
func TestErrorsHoldNoContent(t *testing.T) {
	b := onReal(t)
	for name, tc := range map[string]struct{ content, value, want string }{
		"absent":     {"canary {{ values.a }}", "", "push.changes[0].put.content: {{ values.a }}: an expression gives nil for this repository"},
		"no number":  {"canary {{ int(values.b) }}", "canary", "push.changes[0].put.content: {{ int(values.b) }}: the expression fails for this repository"},
		"own text":   {"canary {{ int(values.b ?? 'canary') }}", "canary", "push.changes[0].put.content: the expression fails for this repository"},
		"not closed": {"canary {{ values.a", "", "push.changes[0].put.content: {{ is not closed by }}"},
	} {
		push := aPush()
		push["changes"] = []any{map[string]any{"put": map[string]any{"path": "a.txt", "content": tc.content}}}
		request := batch.Request{}
		if name != "not closed" { // what is tried at once is right
			request = b.request(1, map[string]any{"push": push, "repositories": []any{
				map[string]any{"workspace": "acme", "slug": "repo", "values": map[string]any{"a": "x", "b": "1"}},
			}})
			request.Repositories[0].Values = map[string]string{"b": tc.value}
			b.create(name, request)
			_, err := b.fill(name, 0)
			tellsPlace(t, name, err, tc.want)
			continue
		}
		_, err := batch.ParseRequest([]byte(`{"repositories":[{"workspace":"acme","slug":"repo"}],"push":{"branch":"b","message":"m","changes":[{"put":{"path":"a","content":"`+
			tc.content+`"}}]}}`), job.DefaultLimits())
		tellsPlace(t, name, err, tc.want)
	}
}

func tellsPlace(t *testing.T, name string, err error, want string) {
	t.Helper()
	if fault.KindOf(err) != fault.Invalid || !strings.HasPrefix(fault.Public(err), want) || strings.Contains(fault.Private(err), "canary") {
		t.Errorf("%s: %v, wanted %s", name, fault.Private(err), want)
	}
}
