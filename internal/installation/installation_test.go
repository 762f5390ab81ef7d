package installation

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	web = "ari:cloud:ecosystem::installation/11111111-1111-1111-1111-111111111111"
	api = "ari:cloud:ecosystem::installation/22222222-2222-2222-2222-222222222222"
)

// world is a store whose clock the test moves.
type world struct {
	*Store
	client redis.UniversalClient
	now    time.Time
}

func newWorld(client redis.UniversalClient) *world {
	w := &world{client: client, now: time.UnixMilli(1_800_000_000_000).UTC()}
	w.Store = New(client, Options{Now: func() time.Time { return w.now }})
	return w
}

// pass moves the clock, and with it what Redis keeps for the minutes after a removal.
func (w *world) pass(t *testing.T, by time.Duration) {
	t.Helper()
	w.now = w.now.Add(by)
	for _, id := range []string{web, api} {
		left := w.client.PTTL(t.Context(), keyspace.Installation(id).Gone()).Val()
		if left > 0 {
			w.client.PExpire(t.Context(), keyspace.Installation(id).Gone(), left-by) // one in the past deletes it
		}
	}
}

// both runs the test on a plain Redis and on a cluster.
func both(t *testing.T, test func(t *testing.T, w *world)) {
	t.Parallel()
	t.Run("single", func(t *testing.T) {
		t.Parallel()
		test(t, newWorld(queuetest.Start(t).Client()))
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		test(t, newWorld(queuetest.StartCluster(t).Client()))
	})
}

func (w *world) touch(t *testing.T, call Call, want bool) {
	t.Helper()
	if here, err := w.Touch(t.Context(), call); err != nil || here != want {
		t.Fatalf("touch: %v, %v; want %v", here, err, want)
	}
}

func (w *world) remove(t *testing.T, id string) time.Time {
	t.Helper()
	eraseAt, err := w.Remove(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return eraseAt
}

func (w *world) record(t *testing.T, id string) Record {
	t.Helper()
	record, err := w.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// listed checks what a list holds.
func listed(t *testing.T, name string, want []string) func(ids []string, err error) {
	t.Helper()
	return func(ids []string, err error) {
		t.Helper()
		if err != nil || !slices.Equal(ids, want) {
			t.Errorf("%s: %q, %v; want %q", name, ids, err, want)
		}
	}
}

func TestARecordGrows(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		if _, err := w.Get(t.Context(), web); fault.KindOf(err) != fault.NotFound {
			t.Errorf("an unknown one: %v", err)
		}
		if _, err := w.Workspace(t.Context(), web); fault.KindOf(err) != fault.NotFound {
			t.Errorf("its workspace: %v", err)
		}
		first, expiry := w.now, w.now.Add(4*time.Hour)
		w.touch(t, Call{ID: web, AppID: "app", AppVersion: "1.0.0", Environment: "PRODUCTION", Workspace: "w", TokenExpiresAt: expiry, Installed: true}, true)
		w.now = w.now.Add(time.Second)
		w.touch(t, Call{ID: web, AppID: "app", AppVersion: "1.0.0", Environment: "PRODUCTION"}, true) // says nothing new
		want := Record{
			ID: web, AppID: "app", AppVersion: "1.0.0", Environment: "PRODUCTION", Workspace: "w", State: Active,
			FirstSeen: first, LastSeen: first, InstalledAt: first, TokenExpiresAt: expiry,
		}
		if diff := cmp.Diff(want, w.record(t, web)); diff != "" {
			t.Error(diff)
		}
		w.touch(t, Call{ID: web, AppVersion: "1.1.0", Environment: "PRODUCTION"}, true)
		want.AppVersion, want.LastSeen = "1.1.0", w.now
		w.now = w.now.Add(time.Second)
		w.touch(t, Call{ID: web, AppVersion: "1.1.0", Scheduled: true}, true)
		w.touch(t, Call{ID: web, AppVersion: "1.1.0", TooOld: true}, true)
		want.LastSeen, want.LastScheduled, want.LastTooOld, want.TooOld = w.now, w.now, w.now, 1
		if err := w.Refused(t.Context(), web); err != nil {
			t.Fatal(err)
		}
		want.TokenRefusedAt = w.now
		if diff := cmp.Diff(want, w.record(t, web)); diff != "" {
			t.Error(diff)
		}
		if workspace, err := w.Workspace(t.Context(), web); workspace != "w" || err != nil {
			t.Errorf("workspace %q, %v", workspace, err)
		}
	})
}

func TestALateDeliveryDoesNotBringItBackAndALaterCallDoes(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		w.touch(t, Call{ID: web}, true)
		removed := w.now
		eraseAt := w.remove(t, web)
		if !eraseAt.Equal(removed.Add(30 * 24 * time.Hour)) {
			t.Errorf("erased at %v", eraseAt)
		}
		w.pass(t, late-time.Second)
		w.touch(t, Call{ID: web, Installed: true}, false)
		if again := w.remove(t, web); !again.Equal(eraseAt) {
			t.Errorf("a second removal moves the date to %v", again)
		}
		if got := w.record(t, web); got.State != Gone || !got.GoneAt.Equal(removed) || !got.EraseAt.Equal(eraseAt) {
			t.Errorf("%+v", got)
		}
		listed(t, "leaving", []string{web})(w.Leaving(t.Context()))
		w.pass(t, late)
		w.touch(t, Call{ID: web}, true)
		if got := w.record(t, web); got.State != Active || !got.GoneAt.IsZero() || !got.EraseAt.IsZero() {
			t.Errorf("%+v", got)
		}
		listed(t, "leaving", nil)(w.Leaving(t.Context()))
		w.now = eraseAt.Add(time.Hour)
		listed(t, "due", nil)(w.Due(t.Context()))
	})
}

// Whoever noted that it is back may have died before the lists knew.
func TestListsDoNotNameWhatCameBack(t *testing.T) {
	t.Parallel()
	w := newWorld(queuetest.Start(t).Client())
	w.touch(t, Call{ID: web}, true)
	eraseAt := w.remove(t, web)
	w.client.HSet(t.Context(), keyspace.Installation(web).Record(), "state", "active")
	listed(t, "leaving", nil)(w.Leaving(t.Context()))
	w.now = eraseAt
	listed(t, "due", nil)(w.Due(t.Context()))
	if n := w.client.ZCard(t.Context(), keyspace.Erasures).Val(); n != 0 {
		t.Errorf("%d dates are left", n)
	}
}

func TestDueAtItsDate(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		eraseAt := w.remove(t, web)
		w.now = eraseAt.Add(-time.Millisecond)
		listed(t, "due", nil)(w.Due(t.Context()))
		w.now = eraseAt
		listed(t, "due", []string{web})(w.Due(t.Context()))
	})
}

// A record that cannot be read now may be that of an app which is back.
func TestDueWhileRedisFails(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	w := newWorld(client)
	w.now = w.remove(t, web)
	client.Del(t.Context(), keyspace.Installation(web).Record())
	client.Set(t.Context(), keyspace.Installation(web).Record(), "no hash", 0) // reading it fails as a Redis that hiccups does
	if due, err := w.Due(t.Context()); len(due) > 0 || fault.KindOf(err) != fault.Unavailable {
		t.Errorf("due %q, %v", due, err)
	}
}

// noPipelines lets single commands through and no pipeline, as if the process had died ahead of it.
type noPipelines struct{}

var errDied = errors.New("the process died here")

func (noPipelines) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (noPipelines) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (noPipelines) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(context.Context, []redis.Cmder) error { return errDied }
}

// TestARemovalThatBreaksOff lets the record be written and nothing after it: the date is there.
func TestARemovalThatBreaksOff(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	w, dying := newWorld(server.Client()), server.Client()
	w.touch(t, Call{ID: web}, true)
	if err := dying.Ping(t.Context()).Err(); err != nil { // a new connection says hello in a pipeline
		t.Fatal(err)
	}
	dying.AddHook(noPipelines{})
	if _, err := New(dying, w.Options).Remove(t.Context(), web); !errors.Is(err, errDied) {
		t.Fatal(err)
	}
	if state := w.record(t, web).State; state != Gone {
		t.Fatalf("it is %s", state)
	}
	w.now = w.now.Add(31 * 24 * time.Hour)
	listed(t, "due", []string{web})(w.Due(t.Context()))
}

func TestSilent(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		refuse := func(id string) {
			t.Helper()
			if err := w.Refused(t.Context(), id); err != nil {
				t.Fatal(err)
			}
		}
		w.touch(t, Call{ID: web, Installed: true}, true)
		w.touch(t, Call{ID: api, Scheduled: true}, true)
		refuse(web) // at the time of the install: not since
		w.now = w.now.Add(time.Minute)
		refuse(api)
		w.now = w.now.Add(3*time.Hour - time.Minute - time.Millisecond)
		listed(t, "before three triggers were missed", nil)(w.Silent(t.Context()))
		w.now = w.now.Add(time.Millisecond)
		listed(t, "then", []string{api})(w.Silent(t.Context()))
		refuse(web)
		listed(t, "refused later", []string{web, api})(w.Silent(t.Context()))
		w.touch(t, Call{ID: web}, true) // an app without a scheduled trigger is called all the same
		listed(t, "one was called", []string{api})(w.Silent(t.Context()))
		w.remove(t, api)
		listed(t, "the other was removed", nil)(w.Silent(t.Context()))
	})
}

func TestEraseTakesAllOfItAndNothingElse(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		for _, id := range []string{web, "a*b", "a?[x-z]", `a\b^c`} {
			others := []string{
				"gitsmith:{" + api + "}:token:system", "gitsmith:{axb}:tokens", "gitsmith:{ax}:name:y", "gitsmith:{" + id + "2}:tokens",
				"gitsmith:{" + api + "}:token:user:{" + id + "}:", "asynq:{event}:pending",
			}
			mine := []string{
				"gitsmith:{" + id + "}:token:system", "gitsmith:{" + id + "}:token:user:{x}:y", "gitsmith:{" + id + "}:job:1", "gitsmith:{" + id + "}:lock:r",
				"rate:gitsmith:{" + id + "}:git", keyspace.Installation(id).Pushed("c"), keyspace.Installation(id).Name("u"),
			}
			for _, key := range slices.Concat(others, mine) {
				w.client.Set(t.Context(), key, 1, 0)
			}
			w.touch(t, Call{ID: id, Scheduled: true}, true)
			w.remove(t, id)
			n, err := w.Erase(t.Context(), id)
			if want := len(mine) + 2; err != nil || n != want { // with the record and the mark of the removal
				t.Errorf("%q: erased %d, %v; want %d", id, n, err, want)
			}
			for _, key := range others {
				if w.client.Exists(t.Context(), key).Val() == 0 {
					t.Errorf("erasing %q took %q", id, key)
				}
			}
			for _, key := range append(mine, keyspace.Installation(id).Record(), keyspace.Installation(id).Gone()) {
				if w.client.Exists(t.Context(), key).Val() == 1 {
					t.Errorf("erasing %q left %q", id, key)
				}
			}
			if erased, err := w.Erased(t.Context()); err != nil || !slices.Contains(erased, id) {
				t.Errorf("erased: %q, %v", erased, err)
			}
			if due := w.client.ZScore(t.Context(), keyspace.Erasures, id); !errors.Is(due.Err(), redis.Nil) {
				t.Errorf("%q is still dated", id)
			}
		}
	})
}

func TestNames(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		ids := bitbucket.Repository{WorkspaceUUID: "{11111111-2222-4333-8444-555555555555}", RepositoryUUID: "{21111111-2222-4333-8444-555555555555}"}
		info := bitbucket.Info{Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}, Size: 7}
		if _, found, err := w.Name(t.Context(), web, ids); found || err != nil {
			t.Errorf("before: %v, %v", found, err)
		}
		if err := w.KeepName(t.Context(), web, ids, info); err != nil {
			t.Fatal(err)
		}
		got, found, err := w.Name(t.Context(), web, ids)
		if diff := cmp.Diff(info, got); diff != "" || !found || err != nil {
			t.Errorf("%v, %v %s", found, err, diff)
		}
		if _, found, _ := w.Name(t.Context(), api, ids); found {
			t.Error("another installation is told")
		}
		info.NearLimit = true
		if err := errors.Join(w.KeepName(t.Context(), web, ids, info), w.DropName(t.Context(), web, ids.RepositoryUUID)); err != nil {
			t.Fatal(err)
		}
		_, found, err = w.Name(t.Context(), web, ids)
		if found || fault.KindOf(err) != fault.Throttled || fault.RetryAfter(err) <= 0 {
			t.Errorf("near the limit: %v, %v", found, err)
		}
		for _, damaged := range []string{"{", `{}`, `{"Repository":{"workspace":"acme"}}`} {
			w.client.Set(t.Context(), keyspace.Installation(api).Name(ids.RepositoryUUID), damaged, 0)
			if _, found, err := w.Name(t.Context(), api, ids); found || err != nil {
				t.Errorf("%s: %v, %v", damaged, found, err)
			}
		}
	})
}

func TestCommitsOfOurs(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		if err := w.Pushed(t.Context(), web, "c1"); err != nil {
			t.Fatal(err)
		}
		for _, one := range []struct {
			id, commit string
			want       bool
		}{{web, "c1", true}, {web, "c2", false}, {api, "c1", false}} {
			if ours, err := w.IsOurs(t.Context(), one.id, one.commit); ours != one.want || err != nil {
				t.Errorf("%v: %v, %v", one, ours, err)
			}
		}
		if life := w.client.PTTL(t.Context(), keyspace.Installation(web).Pushed("c1")).Val(); life <= 0 || life > pushedLife {
			t.Errorf("it is known for %v", life)
		}
	})
}

func TestWithoutRedisEverythingIsUnavailable(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{Addr: testkit.FreeAddress(t), MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { _ = client.Close() })
	w, ctx := newWorld(client), t.Context()
	for name, call := range map[string]func() error{
		"Touch":     func() error { _, err := w.Touch(ctx, Call{ID: web}); return err },
		"Get":       func() error { _, err := w.Get(ctx, web); return err },
		"Workspace": func() error { _, err := w.Workspace(ctx, web); return err },
		"Remove":    func() error { _, err := w.Remove(ctx, web); return err },
		"Silent":    func() error { _, err := w.Silent(ctx); return err },
		"Leaving":   func() error { _, err := w.Leaving(ctx); return err },
		"Due":       func() error { _, err := w.Due(ctx); return err },
		"Erase":     func() error { _, err := w.Erase(ctx, web); return err },
		"Erased":    func() error { _, err := w.Erased(ctx); return err },
		"Refused":   func() error { return w.Refused(ctx, web) },
		"Pushed":    func() error { return w.Pushed(ctx, web, "c") },
		"IsOurs":    func() error { _, err := w.IsOurs(ctx, web, "c"); return err },
		"DropName":  func() error { return w.DropName(ctx, web, "u") },
	} {
		if err := call(); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestACallThatWaited says what it knew when it came: it replaces nothing newer, and does not bring back what was removed after it.
func TestACallThatWaited(t *testing.T) {
	both(t, func(t *testing.T, w *world) {
		came := w.now
		w.now = w.now.Add(time.Minute)
		w.touch(t, Call{ID: web, AppVersion: "2.0.0", Scheduled: true}, true)
		now := w.now
		w.touch(t, Call{ID: web, At: came, AppVersion: "1.0.0", Workspace: "w", Scheduled: true}, true)
		if record := w.record(t, web); record.AppVersion != "2.0.0" || record.Workspace != "w" || !record.LastSeen.Equal(now) || !record.LastScheduled.Equal(now) {
			t.Errorf("%+v", record)
		}
		w.remove(t, web)
		w.pass(t, time.Hour)
		w.touch(t, Call{ID: web, At: came}, false)
		if record := w.record(t, web); record.State != Gone {
			t.Errorf("%+v", record)
		}
		w.touch(t, Call{ID: web}, true)
	})
}
