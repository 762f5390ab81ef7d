package batch_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

const installation = "ari:cloud:ecosystem::installation/1"

func ring(tb testing.TB) *secret.Keyring {
	tb.Helper()
	made, err := secret.ParseKeyring("a:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, secret.KeySize)))
	if err != nil {
		tb.Fatal(err)
	}
	return made
}

// TestStatus: how a batch stands, from what is written down.
func TestStatus(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_800_000_600_000).UTC()
	type counts = map[batch.ItemState]int
	for name, tc := range map[string]struct {
		root   batch.Root
		counts counts
		ends   []string
		state  batch.State
		reason string
		stage  *batch.Stage
		pace   float64
		left   int // seconds; -1 where nobody can tell
	}{
		"it runs":             {batch.Root{"state": "running", "resolved": "1", "total": "4"}, counts{batch.Pending: 4}, nil, batch.StateRunning, "", nil, 0, -1},
		"it waits":            {batch.Root{"state": "running", "hold": "no token"}, counts{batch.Pending: 1}, nil, batch.StatePaused, "no token", nil, 0, -1},
		"it resolves, held":   {batch.Root{"state": "resolving", "hold": "no token"}, nil, nil, batch.StatePaused, "no token", nil, 0, -1},
		"it was stopped":      {batch.Root{"state": "stopped", "reason": "too many", "hold": "no token"}, counts{batch.Pending: 1}, nil, batch.StateStopped, "too many", nil, 0, -1},
		"one runs after all":  {batch.Root{"state": "finished", "ended": "1800000000000"}, counts{batch.Running: 1}, nil, batch.StateRunning, "", nil, 0, -1},
		"the canaries":        {batch.Root{"state": "running", "resolved": "1", "total": "30", "canary": "10%", "then": "50%"}, counts{batch.Pending: 30}, nil, batch.StateRunning, "", &batch.Stage{Name: "canary", Until: 3}, 0, -1},
		"the second stage":    {batch.Root{"state": "running", "resolved": "1", "total": "30", "canary": "10%", "then": "50%", "stage": "1"}, nil, nil, batch.StateRunning, "", &batch.Stage{Name: "then", Until: 15}, 0, -1},
		"the rest":            {batch.Root{"state": "running", "resolved": "1", "total": "30", "canary": "100", "stage": "7"}, nil, nil, batch.StateRunning, "", &batch.Stage{Name: "rest", Until: 30}, 0, -1},
		"no stage of a query": {batch.Root{"state": "resolving", "total": "30", "canary": "1"}, nil, nil, batch.StateResolving, "", nil, 0, -1},
		"no stage of a dry run": {
			batch.Root{"state": "running", "resolved": "1", "dry": "1", "canary": "1"}, nil, nil, batch.StateRunning, "", nil, 0, -1,
		},
		"five in ten minutes": {
			batch.Root{"state": "running", "resolved": "1"}, counts{batch.Queued: 1, batch.Waiting: 1}, []string{"1800000300000", "1", "1", "1", "1800000000000"}, batch.StateRunning, "", nil, 0.5, 240,
		},
		"two until the end": {
			batch.Root{"state": "finished", "ended": "1800000060000"}, nil, []string{"1800000060000", "1800000000000"}, batch.StateFinished, "", nil, 2, -1,
		},
	} {
		if tc.counts == nil {
			tc.counts = counts{}
		}
		got := batch.Account{Root: tc.root, Counts: tc.counts, Ends: tc.ends}.Status(ring(t), installation, "b1", now)
		left := -1
		if got.SecondsLeft != nil {
			left = *got.SecondsLeft
		}
		if got.State != tc.state || got.Reason != tc.reason || !cmp.Equal(got.Stage, tc.stage) || got.PerMinute != tc.pace || left != tc.left {
			t.Errorf("%s: %+v, stage %+v, %d seconds", name, got, got.Stage, left)
		}
		if got.Totals[batch.Queued] != tc.counts[batch.Queued]+tc.counts[batch.Pending] {
			t.Errorf("%s: %v", name, got.Totals)
		}
	}
}

// TestCauses: repositories are grouped by their reason without what is their own, the most frequent first.
func TestCauses(t *testing.T) {
	t.Parallel()
	failed := func(repository, detail string) job.Status {
		return job.Status{Repository: repository, Failure: &job.Failure{Kind: fault.Denied, Detail: detail}}
	}
	commit := strings.Repeat("0a", 20)
	jobs := []job.Status{
		failed("acme/web", "push to acme/web: no"),
		failed("acme/web", "web moved to "+commit),
		failed("acme/api", "push to acme/api: no"),
		{Result: &job.Result{Push: &job.PushResult{Skipped: "there is no go.mod"}}},
		{},
	}
	for i := range 7 {
		jobs = append(jobs, failed(fmt.Sprintf("acme/r%d", i), fmt.Sprintf("push to acme/r%d: no", i)))
	}
	numbers := make([]int, len(jobs))
	for i := range numbers {
		numbers[i] = 10 * i
	}
	want := []batch.Cause{
		{Group: batch.Group{Kind: "denied", Reason: "push to …: no", Count: 9}, Numbers: []int{0, 20, 50, 60, 70}},
		{Group: batch.Group{Kind: "denied", Reason: "… moved to …", Count: 1}, Numbers: []int{10}},
		{Group: batch.Group{Reason: "there is no go.mod", Count: 1}, Numbers: []int{30}},
		{Group: batch.Group{Reason: "what became of it is not kept any more", Count: 1}, Numbers: []int{40}},
	}
	if diff := cmp.Diff(want, batch.CausesOf(numbers, jobs)); diff != "" {
		t.Errorf("wanted (-), has (+):\n%s", diff)
	}
	for i := range jobs {
		jobs[i] = failed("acme/web", fmt.Sprint("reason ", i))
	}
	if many := batch.CausesOf(make([]int, 60), append(append(jobs, jobs...), manyReasons()...)); len(many) != 20 || many[0].Count != 2 {
		t.Errorf("%d groups, the first of %d", len(many), many[0].Count)
	}
}

func manyReasons() (jobs []job.Status) {
	for i := range 30 {
		jobs = append(jobs, job.Status{Failure: &job.Failure{Detail: fmt.Sprint("another ", i)}})
	}
	return jobs
}

// TestPlan: what is written down of a batch opens again, in its place only, and gives each repository its own push.
func TestPlan(t *testing.T) {
	t.Parallel()
	keys := ring(t)
	request, err := batch.ParseRequest([]byte(`{"repositories":[{"workspace":"acme","slug":"web","values":{"team":"core"}},{"repository_uuid":"{11111111-1111-1111-1111-111111111111}","workspace_uuid":"{22222222-2222-2222-2222-222222222222}","values":{"team":"edge"}}],
		"push":{"branch":"b","create":true,"message":"For {{ values.team }} in {{ repository.slug }}\n\nMore","changes":[{"put":{"path":"a","content":"x"}}]}}`), job.DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	asked := batch.Batch{ID: "b1", Installation: installation, Actor: forge.Actor{Kind: forge.ActorSystem}, Digest: "d", Request: request}
	plan, err := asked.Plan(keys, nil)
	if err != nil || len(plan.Entries) != 2 {
		t.Fatalf("%+v, %v", plan, err)
	}
	if again, err := asked.Plan(keys, nil); err != nil || again.Digest != plan.Digest {
		t.Errorf("the same plan has another digest: %v", err)
	}
	fewer := asked
	fewer.Repositories = asked.Repositories[:1]
	if other, err := fewer.Plan(keys, nil); err != nil || other.Digest == plan.Digest {
		t.Errorf("another plan has the same digest: %v", err)
	}
	spec, err := batch.OpenSpec(keys, plan.Spec, installation, "b1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := batch.OpenSpec(keys, plan.Spec, installation, "b2"); fault.KindOf(err) != fault.Internal {
		t.Errorf("opened as another batch's: %v", err)
	}
	for number, want := range []string{"For core in web\n\nMore", "For edge in api\n\nMore"} {
		entry, err := batch.DecodeEntry(number, string(plan.Entries[number]))
		if err != nil {
			t.Fatal(err)
		}
		if lacks := spec.Lacks(entry); lacks != (number == 1) {
			t.Errorf("%s lacks its name: %t", entry.Name(), lacks)
		}
		if number == 1 {
			entry.Describe(bitbucket.Details{Repository: bitbucket.Repository{Workspace: "acme", Slug: "api"}})
		}
		j := job.Job{Installation: installation, Repository: entry.Repository(), Batch: job.BatchRef{ID: "b1", Item: number}}
		filled, err := spec.Fill(keys, j, entry, job.DefaultLimits())
		if err != nil || filled.Push.Message != want {
			t.Errorf("%+v, %v; wanted %q", filled.Push, err, want)
		}
		j.Batch.Item = 1 - number
		if _, err := spec.Fill(keys, j, entry, job.DefaultLimits()); fault.KindOf(err) != fault.Internal {
			t.Errorf("values in another's place: %v", err)
		}
	}
	if _, err := batch.DecodeEntry(7, ""); fault.KindOf(err) != fault.Internal || !strings.Contains(fault.Public(err), "repository 7") {
		t.Errorf("an entry that is not there: %v", err)
	}
}

// TestStateOf: every state of a job has its place in the ledger.
func TestStateOf(t *testing.T) {
	t.Parallel()
	pushed := func(result job.PushResult) job.Result { return job.Result{Push: &result} }
	for name, tc := range map[string]struct {
		state  job.State
		result job.Result
		want   batch.ItemState
	}{
		"queued":    {job.Queued, job.Result{}, batch.Queued},
		"running":   {job.Running, job.Result{}, batch.Running},
		"retrying":  {job.Retrying, job.Result{}, batch.Waiting},
		"waiting":   {job.Waiting, job.Result{}, batch.Waiting},
		"failed":    {job.Failed, job.Result{}, batch.Failed},
		"expired":   {job.Expired, job.Result{}, batch.Failed},
		"canceled":  {job.Canceled, job.Result{}, batch.Canceled},
		"succeeded": {job.Succeeded, pushed(job.PushResult{Commit: "c"}), batch.Succeeded},
		"no push":   {job.Succeeded, job.Result{}, batch.Succeeded},
		"unchanged": {job.Succeeded, pushed(job.PushResult{Unchanged: true}), batch.Unchanged},
		"skipped":   {job.Succeeded, pushed(job.PushResult{Skipped: "no", Unchanged: true}), batch.Skipped},
	} {
		if got := batch.StateOf(tc.state, tc.result); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}
