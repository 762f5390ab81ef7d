package ledger

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// breaking is a hook that lets so many scripts pass and fails every later one, and notes how many arguments the largest had.
type breaking struct {
	left, largest atomic.Int64
}

var errBroken = errors.New("the connection broke")

func (*breaking) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*breaking) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (k *breaking) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		switch command.Name() {
		case "eval": // of a script that the server did not know when it came by evalsha
		case "evalsha":
			if k.left.Add(-1) < 0 {
				command.SetErr(errBroken)
				return errBroken
			}
		default:
			return next(ctx, command)
		}
		k.largest.Store(max(k.largest.Load(), int64(len(command.Args()))))
		return next(ctx, command)
	}
}

// TestPieces: a large batch is written piece by piece. One that broke off is not there for anybody, and the same call again completes it.
func TestPieces(t *testing.T) {
	const most = 2200
	onEach(t, func(a *accounts) {
		ctx := a.t.Context()
		hook := &breaking{}
		a.redis.AddHook(hook)
		request := asked("b1", system, a.request(most, nil))
		for made := range int64(4) {
			hook.left.Store(made)
			if _, _, err := a.Create(ctx, request); fault.KindOf(err) != fault.Unavailable {
				a.t.Fatalf("broken after %d scripts: %v", made, err)
			}
			a.hidden("b1")
		}
		hook.left.Store(1000)
		another := request
		another.Digest = "of another request"
		if _, _, err := a.Create(ctx, another); fault.KindOf(err) != fault.Conflict {
			a.t.Errorf("another request: %v", err)
		}
		status, created, err := a.Create(ctx, request)
		if err != nil || !created || status.State != batch.StateRunning || status.Total != most || status.Totals[batch.Queued] != most {
			a.t.Fatalf("%+v, created %t, %v", status, created, err)
		}
		if status, created, err = a.Create(ctx, request); err != nil || created || status.Total != most {
			a.t.Errorf("once more: %+v, created %t, %v", status, created, err)
		}
		if hook.largest.Load() > piece+100 {
			a.t.Errorf("a script had %d arguments", hook.largest.Load())
		}
		a.whole("b1", most)
	})
}

// hidden sees to it that no caller learns of a batch that is being written.
func (a *accounts) hidden(id string) {
	a.t.Helper()
	ctx := a.t.Context()
	_, getErr := a.Get(ctx, installation, id)
	_, _, itemsErr := a.Items(ctx, installation, id, batch.ItemOptions{})
	for what, err := range map[string]error{
		"get": getErr, "items": itemsErr, "pause": a.Pause(ctx, installation, id), "cancel": a.Cancel(ctx, installation, id), "resume": a.Resume(ctx, installation, id), "retry": a.Retry(ctx, installation, id),
	} {
		if err == nil || fault.KindOf(err) != fault.NotFound && !errors.Is(err, errBroken) {
			a.t.Errorf("%s: %v", what, err)
		}
	}
	if list, _, err := a.List(ctx, installation, batch.ListOptions{}); err != nil || len(list) != 0 {
		a.t.Errorf("the list has %v, %v", list, err)
	}
	if recent, err := a.Recent(ctx, 10); err != nil || len(recent) != 0 {
		a.t.Errorf("the dashboard has %v, %v", recent, err)
	}
	if going, err := a.Going(ctx); err != nil || going[string(batch.StateWriting)] != 0 || going[string(batch.StateRunning)] != 0 {
		a.t.Errorf("%v go on, %v", going, err)
	}
	if active := a.redis.ZCard(ctx, keyspace.ActiveBatches).Val(); active != 1 {
		a.t.Errorf("the drivers look at %d batches", active)
	}
}

// whole compares each repository of a batch with what was asked for: its entry and the value that is sealed for its place.
func (a *accounts) whole(id string, total int) {
	a.t.Helper()
	ctx := a.t.Context()
	numbers, err := a.Numbers(ctx, installation, id, batch.Pending)
	if err != nil || len(numbers) != total {
		a.t.Fatalf("%d repositories, %v", len(numbers), err)
	}
	entries, err := a.Entries(ctx, installation, id, numbers)
	if err != nil {
		a.t.Fatal(err)
	}
	for i, entry := range entries {
		if numbers[i] != i || entry.Name() != fmt.Sprintf("acme/repo%d", i) {
			a.t.Fatalf("repository %d is number %d and called %s", i, numbers[i], entry.Name())
		}
		if _, err := a.Keyring.Open(entry.Values, "batch values", installation, id, fmt.Sprint(i)); err != nil {
			a.t.Fatalf("values of repository %d: %v", i, err)
		}
	}
	if fields := a.redis.HGetAll(ctx, keysOf(installation, id).Root()).Val(); fields["plan"] != "" || fields["written"] != "" || fields["resolved"] != "1" {
		a.t.Errorf("%v", fields)
	}
	for _, key := range []string{keysOf(installation, id).Root(), keysOf(installation, id).Spec(), keysOf(installation, id).Items(), keysOf(installation, id).State("pending")} {
		if a.redis.PTTL(ctx, key).Val() <= 0 {
			a.t.Errorf("%s stays for ever", key)
		}
	}
}

// TestCreateAtTheSameTime: of several identical calls one makes the batch, and all of them are answered with it.
func TestCreateAtTheSameTime(t *testing.T) {
	const most = 1700
	onEach(t, func(a *accounts) {
		request := asked("b1", system, a.request(most, nil))
		var made atomic.Int32
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				status, created, err := a.Create(context.Background(), request)
				if err != nil || status.Total != most || status.State != batch.StateRunning {
					a.t.Errorf("%+v, %v", status, err)
				}
				if created {
					made.Add(1)
				}
			})
		}
		group.Wait()
		if made.Load() != 1 {
			a.t.Errorf("%d calls made it", made.Load())
		}
		a.whole("b1", most)
	})
}

// TestAnotherPlan: a batch that repeats a dry run, and broke off, is written anew where the dry run has changed meanwhile.
func TestAnotherPlan(t *testing.T) {
	const most = 1200
	onEach(t, func(a *accounts) {
		ctx := a.t.Context()
		a.create("dry", system, a.request(most, map[string]any{"dry_run": true}))
		keys := keysOf(installation, "dry")
		if err := a.redis.Rename(ctx, keys.State("pending"), keys.State("succeeded")).Err(); err != nil {
			a.t.Fatal(err)
		}
		if err := a.redis.HSet(ctx, keys.Root(), "state", "finished").Err(); err != nil {
			a.t.Fatal(err)
		}
		hook := &breaking{}
		hook.left.Store(2)
		a.redis.AddHook(hook)
		request := asked("real", system, batch.Request{From: "dry", Changed: batch.ChangedRefuse})
		if _, _, err := a.Create(ctx, request); fault.KindOf(err) != fault.Unavailable {
			a.t.Fatal(err)
		}
		hook.left.Store(1000)
		if err := a.redis.Do(ctx, "ZREM", keys.State("succeeded"), 0, 1, 2).Err(); err != nil {
			a.t.Fatal(err)
		}
		status, created, err := a.Create(ctx, request)
		if err != nil || !created || status.Total != most-3 || !maps.Equal(nonZero(status.Totals), map[batch.ItemState]int{batch.Queued: most - 3}) {
			a.t.Fatalf("%+v, created %t, %v", status, created, err)
		}
		entries, err := a.Entries(ctx, installation, "real", []int{0, most - 4})
		if err != nil || entries[0].Name() != "acme/repo3" || *entries[0].Index != 3 || entries[1].Name() != fmt.Sprintf("acme/repo%d", most-1) {
			a.t.Errorf("%+v, %v", entries, err)
		}
		if left := a.redis.HLen(ctx, keysOf(installation, "real").Items()).Val(); left != most-3 {
			a.t.Errorf("%d entries", left)
		}
	})
}

func nonZero(totals map[batch.ItemState]int) map[batch.ItemState]int {
	some := maps.Clone(totals)
	maps.DeleteFunc(some, func(_ batch.ItemState, count int) bool { return count == 0 })
	return some
}

// TestUnfinishedOfARemovedApp: with the app's removal, what was being written is gone, and cannot be completed.
func TestUnfinishedOfARemovedApp(t *testing.T) {
	onEach(t, func(a *accounts) {
		ctx := a.t.Context()
		hook := &breaking{}
		hook.left.Store(2)
		a.redis.AddHook(hook)
		request := asked("b1", system, a.request(1200, nil))
		if _, _, err := a.Create(ctx, request); fault.KindOf(err) != fault.Unavailable {
			a.t.Fatal(err)
		}
		hook.left.Store(1000)
		if err := a.redis.Set(ctx, keyspace.Installation(installation).Gone(), 1, 0).Err(); err != nil {
			a.t.Fatal(err)
		}
		if _, _, err := a.Create(ctx, request); fault.KindOf(err) != fault.Denied {
			a.t.Errorf("completed: %v", err)
		}
		if err := a.CancelAll(ctx, installation); err != nil {
			a.t.Fatal(err)
		}
		for _, key := range []string{keysOf(installation, "b1").Root(), keysOf(installation, "b1").Items(), keyspace.Installation(installation).Batches()} {
			if a.redis.Exists(ctx, key).Val() != 0 {
				a.t.Errorf("%s is there", key)
			}
		}
	})
}
