package worker_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/repolock"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// sealedBy gives the worker a ring of the keys of these names, in this order; no names make a worker of an older version.
func (b *bench) sealedBy(names string) {
	b.t.Helper()
	if names == "" {
		b.config.Keyring = nil
		return
	}
	var parts []string
	for _, name := range strings.Split(names, "") {
		parts = append(parts, name+":"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte(name), secret.KeySize)))
	}
	ring, err := secret.ParseKeyring(strings.Join(parts, ","))
	if err != nil {
		b.t.Fatal(err)
	}
	b.config.Keyring = ring
}

// copied makes someone else's commit on a branch, with git, under a message that is copied.
func (b *bench) copied(branch, message string) string {
	b.t.Helper()
	b.commit(branch, "theirs") // its tree
	tree := b.git("rev-parse", branch+"^{tree}")
	commit := b.git("-c", "user.name=M", "-c", "user.email=m@example.com", "commit-tree", tree, "-p", branch+"~1", "-m", message)
	b.git("update-ref", "refs/heads/"+branch, commit)
	return commit
}

// remembering keeps intents.
type remembering struct {
	quiet
	intents map[string]repolock.Intent
}

type rememberingLock struct {
	forgetful
	intents map[string]repolock.Intent
}

func (r remembering) Acquire(ctx context.Context, _, _ string, _ repolock.Holder) (worker.Lock, error) {
	return rememberingLock{forgetful{ctx}, r.intents}, nil
}

func (l rememberingLock) Intent(_ context.Context, id string) (repolock.Intent, bool, error) {
	intent, found := l.intents[id]
	return intent, found, nil
}

func (l rememberingLock) SetIntent(_ context.Context, id string, intent repolock.Intent) error {
	l.intents[id] = intent
	return nil
}

// TestACopiedTrailerIsNoSuccess: someone else's commit that carries a job's trailer does not make the job succeed without its change: at
// the tip, in the history, on a branch that is in the way, and after an attempt that wrote its intent and did not push.
func TestACopiedTrailerIsNoSuccess(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"a": "a\n"})
	update := job.Push{Branch: "main", Changes: put("a", "b\n")}
	done := func(what, id string, push job.Push) *job.PushResult {
		t.Helper()
		result := b.do(id, push)
		if result.Skipped != "" || b.git("show", push.Branch+":a") != strings.TrimSpace(push.Changes[0].Put.Content) || b.git("rev-parse", push.Branch) != result.Commit {
			t.Errorf("%s: %+v, and a holds %q", what, result, b.git("show", push.Branch+":a"))
		}
		return result
	}
	b.copied("main", "Mine\n\nForge-Job: 1")
	first := done("the tip names the job", "1", update)
	message := b.git("log", "-1", "--format=%B", first.Commit)

	b.git("update-ref", "refs/heads/main", first.Parent)
	b.copied("main", message)
	done("the tip has the whole message of its commit", "1", update)

	b.git("branch", "topic", first.Parent)
	b.copied("topic", message)
	b.commit("topic", "later")
	inTheWay := job.Push{Branch: "topic", Create: true, OnConflict: job.OnConflictSkip, Changes: put("a", "b\n")}
	if result := b.do("1", inTheWay); result.Skipped != "branch topic exists" {
		t.Errorf("a branch in the way names the job: %+v", result)
	}
	inTheWay.OnConflict = job.OnConflictFail
	if result, err := b.try("1", inTheWay); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a branch in the way names the job: %+v, %v", result, err)
	}

	// The job was about to push, and somebody else pushed first.
	locks := remembering{intents: map[string]repolock.Intent{"2": {Branch: "main", Commit: strings.Repeat("1", 40), Parent: b.git("rev-parse", "main")}}}
	b.config.Locker = locks
	b.copied("main", "Mine\n\nForge-Job: 2")
	b.commit("main", "later")
	update.Changes = put("a", "c\n")
	done("the history names the job that was about to push", "2", update)
}

// TestRotationBetweenAttempts: a new first key makes another commit, and the earlier one is still recognized, by any key of the ring or by
// the intent.
func TestRotationBetweenAttempts(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		first, then string // the ring
		intent      bool   // Redis still has it
	}{
		"nothing changes":                       {"k", "k", false},
		"the key is still in the ring":          {"k", "nk", false},
		"a worker that has the new one behind":  {"nk", "kn", false},
		"the key is gone, the intent is there":  {"k", "n", true},
		"an older version, the intent is there": {"", "k", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, map[string]string{"a": "a\n"})
			if tc.intent {
				b.config.Locker = remembering{intents: map[string]repolock.Intent{}}
			}
			push := job.Push{Branch: "topic", Create: true, OnConflict: job.OnConflictFail, Changes: put("a", "b\n")}
			b.sealedBy(tc.first)
			pushed := b.do("1", push)
			b.sealedBy(tc.then)
			if again := b.do("1", push); again.Commit != pushed.Commit || again.Unchanged {
				t.Errorf("as the tip: %+v", again)
			}
			b.commit("topic", "a") // undone, so that a second run would show
			if again := b.do("1", push); again.Commit != pushed.Commit || again.Unchanged {
				t.Errorf("below others' commits: %+v", again)
			}
			if count := b.git("rev-list", "--count", "main..topic"); count != "2" {
				t.Errorf("%s commits", count)
			}
		})
	}
}

// TestRotationBeforeThePush: an attempt died with its intent written down, and the next one has another key. Whichever of the two commits
// reaches the branch, the job has made one.
func TestRotationBeforeThePush(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"the first never arrives": false, "the first arrives late": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, map[string]string{"a": "a\n"})
			locks := remembering{intents: map[string]repolock.Intent{}}
			b.config.Locker = locks
			push := job.Push{Branch: "main", Changes: put("a", "b\n")}
			first := b.do("1", push)
			b.git("update-ref", "refs/heads/main", first.Parent)
			b.sealedBy("nk")
			if late {
				b.config.Locker = arriving{locks, b, first.Commit}
			}
			second := b.do("1", push)
			if (second.Commit == first.Commit) != late || b.git("rev-list", "--count", first.Parent+"..main") != "1" || b.git("rev-parse", "main") != second.Commit {
				t.Errorf("%+v, then %+v", first, second)
			}
			b.commit("main", "later")
			if third := b.do("1", push); third.Commit != second.Commit {
				t.Errorf("%+v, then %+v", second, third)
			}
		})
	}
}

// arriving are locks under which an earlier attempt's push arrives once the later one has written down its own.
type arriving struct {
	remembering
	b      *bench
	commit string
}

type arrivingLock struct {
	worker.Lock
	arriving
}

func (a arriving) Acquire(ctx context.Context, installation, repository string, holder repolock.Holder) (worker.Lock, error) {
	lock, err := a.remembering.Acquire(ctx, installation, repository, holder)
	return arrivingLock{lock, a}, err
}

func (a arrivingLock) SetIntent(ctx context.Context, id string, intent repolock.Intent) error {
	_, err := gittest.Git(ctx, a.b.server.Path("acme/web"), nil, "update-ref", "refs/heads/main", a.commit)
	return errors.Join(a.Lock.SetIntent(ctx, id, intent), err)
}

// TestOwnCommitsAreLookedUp: the receiver looks up the commit of an event whose message a job wrote.
func TestOwnCommitsAreLookedUp(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"a": "a\n"})
	pushed := b.do("1", job.Push{Branch: "main", Changes: put("a", "b\n")})
	body, err := json.Marshal(map[string]any{"eventType": forge.EventPush, "push": map[string]any{
		"ref": "main", "mainbranch": true, "after": pushed.Commit,
		"commits": []any{map[string]any{"hash": pushed.Commit, "message": map[string]any{"value": b.git("log", "-1", "--format=%B", pushed.Commit), "truncated": false}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if event, err := forge.ParseEvent(body); err != nil || !event.MayBeOurs() {
		t.Errorf("%t, %v", event.MayBeOurs(), err)
	}
}

// TestRealLocks: the intent is kept by a real lock, one job at a time.
func TestRealLocks(t *testing.T) {
	t.Parallel()
	b := newBench(t, map[string]string{"a": "a\n"})
	locks := worker.NewLocker(repolock.New(queuetest.Start(t).Client(), repolock.Options{Wait: time.Millisecond}))
	b.config.Locker = locks
	push := job.Push{Branch: "main", Changes: put("a", "b\n")}
	pushed := b.do("1", push)
	b.sealedBy("n") // so that the intent alone tells
	if again := b.do("1", push); again.Commit != pushed.Commit || again.Unchanged {
		t.Errorf("%+v, then %+v", pushed, again)
	}
	held, err := locks.Acquire(t.Context(), "i", "acme/web", repolock.Holder{Job: "other"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Release(context.WithoutCancel(t.Context())) }()
	if lock, err := locks.Acquire(t.Context(), "i", "acme/web", repolock.Holder{Job: "other"}); lock != nil || fault.KindOf(err) != fault.Throttled {
		t.Errorf("a lock that is held: %v, %v", lock, err)
	}
	if _, err := b.try("2", push); fault.KindOf(err) != fault.Throttled {
		t.Errorf("a job on a locked repository: %v", err)
	}
}
