package dispatch_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

const most = 10_000

// TestLargest: a batch of as many repositories as there may be is made, looked at and repeated; the log says how long each took.
func TestLargest(t *testing.T) {
	b := onReal(t)
	ctx := t.Context()
	took := func(what string, do func() error) {
		t.Helper()
		began := time.Now()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%s: %v", what, time.Since(began).Round(time.Millisecond))
	}
	body, err := json.Marshal(largeBody())
	if err != nil {
		t.Fatal(err)
	}
	var request batch.Request
	took(fmt.Sprintf("validate %d KiB", len(body)>>10), func() (err error) {
		request, err = batch.ParseRequest(body, job.DefaultLimits())
		return err
	})
	took("create", func() error { b.create("dry", request); return nil })
	look := func(id string) func() error {
		return func() error {
			status, err := b.store.Get(ctx, installation, id)
			b.addUp(status)
			if status.Total != most {
				t.Errorf("%d repositories", status.Total)
			}
			return err
		}
	}
	took("look at it", look("dry"))
	pages := func(state batch.ItemState) func() error {
		return func() error {
			count := 0
			for cursor := ""; ; {
				items, next, err := b.store.Items(ctx, installation, "dry", batch.ItemOptions{State: state, Limit: 100, Cursor: cursor})
				if err != nil {
					return err
				}
				if count += len(items); next == "" {
					break
				}
				cursor = next
			}
			if count != most {
				t.Errorf("%d of %d in pages", count, most)
			}
			return nil
		}
	}
	took("all pages", pages(""))
	b.endAll("dry", "failed", func(i int) map[string]any {
		failure, _ := json.Marshal(job.Failure{Kind: fault.Denied, Detail: fmt.Sprintf("push to acme/repo%d: reason %d", i, i%30)}) // it encodes
		return map[string]any{"failure": string(failure)}
	})
	took("group the failures", look("dry"))
	took("look again", look("dry"))
	took("all pages of failures", pages(batch.Failed))
	took("retry", func() error { return b.store.Retry(ctx, installation, "dry") })
	took("cancel", func() error { return b.store.Cancel(ctx, installation, "dry") })
	took("look at the canceled", look("dry"))
	b.repeatLargest(took)
}

func largeBody() map[string]any {
	repositories := make([]map[string]any, most)
	for i := range repositories {
		repositories[i] = map[string]any{"workspace": "acme", "slug": fmt.Sprintf("repo%d", i), "values": map[string]any{"team": "core", "owner": "somebody"}}
	}
	push := aPush()
	push["message"] = "Add a file for {{ values.team }} in {{ repository.slug }}"
	return map[string]any{"repositories": repositories, "push": push, "dry_run": true}
}

// repeatLargest gives the dry run's repositories a result each, and makes the batch that repeats them.
func (b *bundle) repeatLargest(took func(string, func() error)) {
	b.t.Helper()
	b.endAll("dry", "succeeded", func(int) map[string]any {
		return map[string]any{"result": `{"push":{"branch":"b","dry_run":true,"parent":"p","tree":"t","changed":1,"added":1}}`, "failure": ""}
	})
	if err := b.redis.HSet(b.t.Context(), key("dry"), "state", "finished").Err(); err != nil {
		b.t.Fatal(err)
	}
	took("repeat", func() error { b.create("real", b.parse(map[string]any{"from": "dry"})); return nil })
	took("fill one", func() error {
		push, err := b.fill("real", most-1)
		if err == nil && (push.Expect == nil || push.Expect.Tree != "t" || push.Message != "Add a file for core in repo9999") {
			b.t.Errorf("%+v", push)
		}
		return err
	})
}

// endAll writes down that every repository's job has ended.
func (b *bundle) endAll(id, state string, fields func(i int) map[string]any) {
	b.t.Helper()
	_, err := b.redis.Pipelined(context.Background(), func(pipeline redis.Pipeliner) error {
		ctx := b.t.Context()
		for _, from := range []string{"pending", "failed", "canceled"} {
			pipeline.Del(ctx, key(id)+":"+from)
		}
		for i := range most {
			made := fields(i)
			made["id"], made["state"], made["repository"] = batch.JobID(id, i), state, fmt.Sprintf("acme/repo%d", i)
			pipeline.HSet(ctx, "gitsmith:{"+installation+"}:job:"+batch.JobID(id, i), made)
			pipeline.ZAdd(ctx, key(id)+":"+state, z(i))
		}
		pipeline.HIncrBy(ctx, key(id), "changes", 1)
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
}
