package queue_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

func TestEnqueueAndServe(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) { enqueueAndServe(t, b) })
}

func TestEnqueueAndServeOnACluster(t *testing.T) {
	t.Parallel()
	enqueueAndServe(t, newBundle(t, queuetest.StartCluster(t).Client()))
}

func enqueueAndServe(t *testing.T, b *bundle) {
	j := aJob("j1")
	status, created, err := b.client.Enqueue(t.Context(), j)
	want := job.Status{
		ID: "j1", State: job.Queued, Operation: job.OperationPush, Repository: "acme/web", Actor: forge.ActorSystem, Branch: "main",
		CreatedAt: j.CreatedAt,
	}
	if diff := cmp.Diff(want, status); diff != "" || !created || err != nil {
		t.Fatalf("created %t, %v\n%s", created, err, diff)
	}
	looked, err := b.client.Get(t.Context(), installation, "j1")
	want.Ticket = "j1.0.0"
	if diff := cmp.Diff(want, looked); diff != "" || err != nil {
		t.Fatalf("%v\n%s", err, diff)
	}
	started, ended := make(chan time.Duration, 1), make(chan queue.End, 1)
	taken := make(chan job.Job, 1)
	b.serve(queue.ServerConfig{
		Started: func(_ context.Context, _ job.Job, waited time.Duration) { started <- waited },
		Ended:   func(_ context.Context, _ job.Job, end queue.End) { ended <- end },
	}, func(ctx context.Context, j job.Job) (job.Result, error) {
		taken <- j
		return succeed(ctx, j)
	})
	j.Attempt = 1
	if diff := cmp.Diff(j, receive(t, taken)); diff != "" {
		t.Errorf("the worker's job is another:\n%s", diff)
	}
	if waited := receive(t, started); waited < 0 || waited > time.Minute {
		t.Errorf("waited %s", waited)
	}
	if end := receive(t, ended); end.State != job.Succeeded || end.Attempt != 1 || end.Err != nil {
		t.Errorf("%+v", end)
	}
	want.State, want.Attempts, want.Result = job.Succeeded, 1, &job.Result{Push: &job.PushResult{Branch: "main", Commit: "c0ffee"}}
	done := b.await("j1", job.Succeeded)
	if diff := cmp.Diff(want, done, cmpopts.IgnoreFields(job.Status{}, "StartedAt", "EndedAt")); diff != "" || done.StartedAt.IsZero() || done.EndedAt.IsZero() {
		t.Errorf("%s", diff)
	}
	list, err := b.client.List(t.Context(), installation, job.ListOptions{})
	if err != nil || len(list.Jobs) != 1 || list.Next != "" {
		t.Errorf("%+v %v", list, err)
	}
	if life := b.redis.PTTL(t.Context(), recordKey("j1")).Val(); life < 6*24*time.Hour || life > 7*24*time.Hour {
		t.Errorf("the record lives %s after the end", life)
	}
}

// A repository that is named by UUIDs, as in events, is read as it was, and its waiting job costs Redis no hash table.
func TestRecordOfLongNamesIsPacked(t *testing.T) {
	b := onReal(t)
	for id, repository := range map[string]bitbucket.Repository{
		"uuids": {WorkspaceUUID: "{11111111-2222-4333-8444-555555555555}", RepositoryUUID: "{15a31549-1cff-45dc-9d0d-310114c5038b}"},
		"names": {Workspace: strings.Repeat("w", 40), Slug: strings.Repeat("s", 62)},
	} {
		j := aJob(id)
		j.Digest, j.Repository = strings.Repeat("d", 64), repository
		b.enqueue(j)
		status, err := b.client.Get(t.Context(), installation, id)
		if err != nil || status.Repository != repository.String() {
			t.Errorf("%s: %q, %v", id, status.Repository, err)
		}
		if encoding := b.redis.ObjectEncoding(t.Context(), recordKey(id)).Val(); encoding != "listpack" {
			t.Errorf("%s: the record is kept as %s", id, encoding)
		}
	}
}

// A push's result is longer than what Redis keeps packed, and its record costs Redis no hash table all the same.
func TestRecordOfADoneJobIsPacked(t *testing.T) {
	b := onReal(t)
	want := job.Result{Push: &job.PushResult{
		Branch: "chore/" + strings.Repeat("b", 50), Commit: strings.Repeat("c", 40), Parent: strings.Repeat("p", 40), Changed: 1, Read: "partial",
	}}
	j := aJob("done")
	j.Digest = strings.Repeat("d", 64)
	b.enqueue(j)
	b.serve(queue.ServerConfig{}, func(context.Context, job.Job) (job.Result, error) { return want, nil })
	if status := b.await("done", job.Succeeded); status.Result == nil || *status.Result.Push != *want.Push {
		t.Errorf("%+v", status.Result)
	}
	if encoding := b.redis.ObjectEncoding(t.Context(), recordKey("done")).Val(); encoding != "listpack" {
		t.Errorf("the record is kept as %s", encoding)
	}
}

func TestEnqueueTwiceIsOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		var created, ran atomic.Int32
		var group sync.WaitGroup
		for range 16 {
			group.Go(func() {
				status, first, err := b.client.Enqueue(t.Context(), aJob("j1"))
				if err != nil || status.State != job.Queued {
					t.Errorf("%+v %v", status, err)
				}
				if first {
					created.Add(1)
				}
			})
		}
		group.Wait()
		other := aJob("j1")
		other.Digest = "another"
		if _, _, err := b.client.Enqueue(t.Context(), other); fault.KindOf(err) != fault.Conflict || !strings.Contains(fault.Public(err), "Idempotency-Key") {
			t.Errorf("another request under the same key: %v", err)
		}
		b.serve(queue.ServerConfig{Concurrency: 4}, func(ctx context.Context, j job.Job) (job.Result, error) {
			ran.Add(1)
			return succeed(ctx, j)
		})
		b.await("j1", job.Succeeded)
		status, first, err := b.client.Enqueue(t.Context(), aJob("j1"))
		if err != nil || first || status.State != job.Succeeded || status.Result == nil {
			t.Errorf("the same request after the end: %+v %t %v", status, first, err)
		}
		b.enqueue(aJob("j2"))
		b.await("j2", job.Succeeded)
		if created.Load() != 1 || ran.Load() != 2 {
			t.Errorf("created %d times, ran %d jobs, want 1 and 2", created.Load(), ran.Load())
		}
	})
}

// TestTicketIsLost: a receiver died between the record and the ticket. The same call again issues it, and so does the next look.
func TestTicketIsLost(t *testing.T) {
	for name, again := range map[string]func(t *testing.T, b *bundle){
		"the same call again": func(t *testing.T, b *bundle) {
			t.Helper()
			if _, created, err := b.client.Enqueue(t.Context(), aJob("j1")); created || err != nil {
				t.Errorf("created %t, %v", created, err)
			}
		},
		"a look": func(t *testing.T, b *bundle) { t.Helper(); b.look(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, b *bundle) {
				b.enqueue(aJob("j1"))
				if err := b.inspector.DeleteTask(tickets, "j1.0.0"); err != nil {
					t.Fatal(err)
				}
				if status, err := b.client.Get(t.Context(), installation, "j1"); err != nil || status.State != job.Queued {
					t.Errorf("%+v %v", status, err)
				}
				again(t, b)
				b.taskState("j1", asynq.TaskStatePending)
				b.serve(queue.ServerConfig{}, succeed)
				b.await("j1", job.Succeeded)
			})
		})
	}
}

// TestEnqueueWithoutRedis: while Redis is away nobody knows whether the job is queued; the same call again finds out.
func TestEnqueueWithoutRedis(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	b := newBundle(t, server.Client())
	b.enqueue(aJob("j1"))
	server.Kill()
	for name, call := range map[string]func() error{
		"enqueue": func() error { _, _, err := b.client.Enqueue(t.Context(), aJob("j2")); return err },
		"get":     func() error { _, err := b.client.Get(t.Context(), installation, "j1"); return err },
		"list":    func() error { _, err := b.client.List(t.Context(), installation, job.ListOptions{}); return err },
		"cancel":  func() error { _, err := b.client.Cancel(t.Context(), installation, "j1"); return err },
		"retry": func() error {
			_, err := b.client.Retry(t.Context(), installation, "j1")
			return err
		},
		"wake":   func() error { _, err := b.client.Wake(t.Context(), installation); return err },
		"depths": func() error { _, err := b.client.Depths(t.Context()); return err },
		"ping":   func() error { return b.client.Writable(t.Context()) },
	} {
		if err := call(); fault.KindOf(err) != fault.Unavailable || !strings.Contains(fault.Public(err), "redis") {
			t.Errorf("%s: %v", name, err)
		}
	}
	server.Restart()
	b.serve(queue.ServerConfig{}, succeed)
	eventually(t, func() error { _, _, err := b.client.Enqueue(t.Context(), aJob("j2")); return err })
	b.await("j1", job.Succeeded)
	b.await("j2", job.Succeeded)
}

func TestListPages(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		// A batch: more jobs of one millisecond than a page or a read holds, and others before and after.
		const total = 260
		at := time.Now().UTC().Truncate(time.Millisecond)
		var want []string
		for i := range total {
			j := aJob(fmt.Sprintf("j%03d", i))
			if j.CreatedAt = at; i < 5 || i >= total-5 {
				j.CreatedAt = at.Add(time.Duration(i-total/2) * time.Second)
			}
			b.enqueue(j)
			want = append(want, j.ID)
		}
		slices.Reverse(want)
		for _, limit := range []int{0, 7, 100, 1000} {
			var got []string
			for cursor, pages := "", 0; ; pages++ {
				page, err := b.client.List(t.Context(), installation, job.ListOptions{Limit: limit, Cursor: cursor})
				if err != nil || pages > total {
					t.Fatalf("page %d: %v", pages, err)
				}
				for _, status := range page.Jobs {
					got = append(got, status.ID)
				}
				if cursor = page.Next; cursor == "" {
					break
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("limit %d: the pages together are not the list:\n%s", limit, diff)
			}
		}
		page, err := b.client.List(t.Context(), installation, job.ListOptions{Limit: total / 2})
		if err != nil || len(page.Jobs) != 100 {
			t.Errorf("%d jobs on the largest page, %v", len(page.Jobs), err)
		}
	})
}

func TestListChooses(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		hers := aJob("j3")
		hers.Requester = alice.Principal
		b.enqueue(aJob("j1"), aJob("j2"), hers)
		if _, err := b.client.Cancel(t.Context(), installation, "j2"); err != nil {
			t.Fatal(err)
		}
		other := aJob("j4")
		other.Installation = "another"
		b.enqueue(other)
		ids := func(options job.ListOptions) (ids []string) {
			page, err := b.client.List(t.Context(), installation, options)
			if err != nil || page.Next != "" {
				t.Errorf("%+v %v", page, err)
			}
			for _, status := range page.Jobs {
				ids = append(ids, status.ID)
			}
			slices.Sort(ids)
			return ids
		}
		if got := ids(job.ListOptions{State: job.Canceled}); !slices.Equal(got, []string{"j2"}) {
			t.Errorf("canceled: %q", got)
		}
		for requester, want := range map[string][]string{"": {"j1", "j2", "j3"}, alice.Principal: {"j3"}, "712020:bob": nil, "712020": nil} {
			if got := ids(job.ListOptions{Requester: requester}); !slices.Equal(got, want) {
				t.Errorf("asked for by %q: %q", requester, got)
			}
		}
		if got := ids(job.ListOptions{Requester: alice.Principal, State: job.Canceled}); len(got) != 0 {
			t.Errorf("hers, canceled: %q", got)
		}
		if got := ids(job.ListOptions{State: job.Waiting}); len(got) != 0 {
			t.Errorf("waiting: %q", got)
		}
		// A record whose time is over is not listed, and its place in the index is given back.
		b.redis.Del(t.Context(), recordKey("j1"))
		if got := ids(job.ListOptions{}); !slices.Equal(got, []string{"j2", "j3"}) {
			t.Errorf("all: %q", got)
		}
		if n := b.redis.ZCard(t.Context(), "gitsmith:{"+installation+"}:jobs").Val(); n != 2 {
			t.Errorf("%d jobs in the index", n)
		}
		for _, cursor := range []string{"x", "1", "_", "1_", "x_j1"} {
			if _, err := b.client.List(t.Context(), installation, job.ListOptions{Cursor: cursor}); fault.KindOf(err) != fault.Invalid {
				t.Errorf("cursor %q: %v", cursor, err)
			}
		}
	})
}

// TestOthersSeeNothing: another installation's jobs are not there.
func TestOthersSeeNothing(t *testing.T) {
	b := onReal(t)
	b.enqueue(aJob("j1"))
	for name, call := range map[string]func() (job.Status, error){
		"get":    func() (job.Status, error) { return b.client.Get(t.Context(), "another", "j1") },
		"cancel": func() (job.Status, error) { return b.client.Cancel(t.Context(), "another", "j1") },
		"retry": func() (job.Status, error) {
			return b.client.Retry(t.Context(), "another", "j1")
		},
	} {
		if status, err := call(); fault.KindOf(err) != fault.NotFound || status.ID != "" {
			t.Errorf("%s: %+v %v", name, status, err)
		}
	}
	if status, err := b.client.Get(t.Context(), installation, "j1"); err != nil || status.State != job.Queued {
		t.Errorf("%+v %v", status, err)
	}
}

func TestDepths(t *testing.T) {
	onBoth(t, func(t *testing.T, b *bundle) {
		want := []queue.Depth{{Queue: "batch"}, {Queue: "event"}, {Queue: "interactive"}}
		got, err := b.client.Depths(t.Context())
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("unused: %v\n%s", err, diff)
		}
		event := aJob("e1")
		event.Class = job.ClassEvent
		b.enqueue(aJob("j1"), aJob("j2"), event)
		want[1].Pending, want[2].Pending = 1, 2
		got, err = b.client.Depths(t.Context())
		if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(queue.Depth{}, "Latency")); diff != "" || err != nil {
			t.Errorf("used: %v\n%s", err, diff)
		}
		if err := b.client.Writable(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
