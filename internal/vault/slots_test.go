package vault

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

// arrive delivers a token that arrived so long after epoch.
func arrive(t *testing.T, v *Vault, token forge.OAuthToken, after time.Duration) {
	t.Helper()
	if _, err := v.Put(t.Context(), installation, system, token, epoch.Add(after)); err != nil {
		t.Fatal(err)
	}
}

// mustHold checks the two tokens of the system, the current one first; "" is none.
func mustHold(t *testing.T, v *Vault, current, before string) {
	t.Helper()
	first := mustTake(t, v, system, current)
	second, err := v.TakeOther(t.Context(), installation, system, first)
	if err != nil && fault.KindOf(err) != fault.Expired || second.Text.Reveal() != before {
		t.Fatalf("beside %q stands %q (%v), want %q", current, second.Text.Reveal(), err, before)
	}
}

func mustRefuse(t *testing.T, v *Vault, token forge.OAuthToken) {
	t.Helper()
	if err := v.MarkRefused(t.Context(), installation, system, token); err != nil {
		t.Fatal(err)
	}
}

// late is a vault whose clock stands where every arrival of a test lies in the past.
func late(t *testing.T, client redis.UniversalClient) *Vault {
	t.Helper()
	return New(client, keyring(t, oldKey), Options{Remember: -1, Now: func() time.Time { return epoch.Add(time.Minute) }})
}

// TestEqualExpiry: the one that arrived last wins, in whatever order the two are written.
func TestEqualExpiry(t *testing.T) {
	both(t, func(t *testing.T, client redis.UniversalClient) {
		v := late(t, client)
		first, second := token("first", time.Hour), token("second", time.Hour)
		arrive(t, v, first, 1*time.Second)
		arrive(t, v, second, 2*time.Second)
		mustHold(t, v, "second", "first")
		arrive(t, v, first, 1*time.Second) // it waited in a spool
		mustHold(t, v, "second", "first")
		arrive(t, v, token("oldest", time.Hour), 0) // so did this one
		mustHold(t, v, "second", "first")
		arrive(t, v, first, 3*time.Second)
		mustHold(t, v, "first", "second")
		arrive(t, v, first, 5*time.Second)
		arrive(t, v, second, 4*time.Second)
		mustHold(t, v, "first", "second")
		arrive(t, v, second, time.Hour) // by a clock that is wrong: it arrives now, and so does the next one
		arrive(t, v, first, time.Minute)
		mustHold(t, v, "first", "second")
	})
}

// TestTwoAreKept, each until its own expiry: the current one, and the one before it or the one that came since.
func TestTwoAreKept(t *testing.T) {
	both(t, func(t *testing.T, client redis.UniversalClient) {
		v := late(t, client)
		arrive(t, v, token("one hour", time.Hour), 1*time.Second)
		arrive(t, v, token("one hour", time.Hour), 2*time.Second) // the same again is no second one
		mustHold(t, v, "one hour", "")
		arrive(t, v, token("one hour", 90*time.Minute), 3*time.Second) // nor is it with another expiry, as where exp cannot be read
		mustHold(t, v, "one hour", "")
		arrive(t, v, token("three hours", 3*time.Hour), 4*time.Second)
		mustHold(t, v, "three hours", "one hour")
		lives := func(key string, want time.Duration) {
			t.Helper()
			life := client.PTTL(t.Context(), key).Val()
			if want -= time.Since(epoch); life < want-time.Second || life > want+time.Second {
				t.Errorf("Redis keeps %s for %v, want %v", key, life, want)
			}
		}
		lives(tokenKey(installation, system), 3*time.Hour)
		lives(beforeKey(installation, system), 90*time.Minute)
		arrive(t, v, token("two hours", 2*time.Hour), 5*time.Second)
		mustHold(t, v, "three hours", "two hours")
		arrive(t, v, token("one hour", 90*time.Minute), 3*time.Second) // out of a spool
		mustHold(t, v, "three hours", "two hours")
		arrive(t, v, token("two hours", 150*time.Minute), 6*time.Second)
		mustHold(t, v, "three hours", "two hours")
		lives(beforeKey(installation, system), 150*time.Minute)
		arrive(t, v, token("two hours", 4*time.Hour), 7*time.Second)
		mustHold(t, v, "two hours", "three hours")
		lives(tokenKey(installation, system), 4*time.Hour)
		lives(beforeKey(installation, system), 3*time.Hour)
		lives(indexKey(installation), 4*time.Hour)
		want := []string{"before:system", "system"}
		if diff := cmp.Diff(want, client.ZRange(t.Context(), indexKey(installation), 0, -1).Val()); diff != "" {
			t.Error(diff)
		}
		if n := client.DBSize(t.Context()).Val(); n != 3 {
			t.Errorf("%d keys, want two tokens and the index", n)
		}
	})
}

// TestRefusedToken gives way to the one before it, and does not come back however often it is delivered.
func TestRefusedToken(t *testing.T) {
	both(t, func(t *testing.T, client redis.UniversalClient) {
		v := late(t, client)
		good, planted := token("good", time.Hour), token("planted", 4*time.Hour)
		arrive(t, v, good, 1*time.Second)
		arrive(t, v, planted, 2*time.Second)
		mustHold(t, v, "planted", "good")
		mustRefuse(t, v, planted)
		mustRefuse(t, v, planted) // another worker has found the same
		mustHold(t, v, "good", "")
		if life := client.PTTL(t.Context(), tokenKey(installation, system)).Val(); life > time.Hour {
			t.Errorf("the token that moved up is kept for %v", life)
		}
		mustKeep(t, v, system, planted, false)
		mustKeep(t, v, system, token("planted", 4*time.Hour+time.Second), false) // its expiry is bounded, so it moves
		mustHold(t, v, "good", "")
		mustKeep(t, v, system, token("fresh", 2*time.Hour), true)
		mustHold(t, v, "fresh", "good")
		mustRefuse(t, v, good) // the one before, by a worker that had it when it was current
		mustHold(t, v, "fresh", "")
		mustKeep(t, v, system, good, false)
		mustRefuse(t, v, token("fresh", 2*time.Hour)) // the one that did the work has run out since
		mustTake(t, v, system, "")
		if life := client.PTTL(t.Context(), refusedKey(installation, system)).Val(); life > 4*time.Hour || life < 3*time.Hour {
			t.Errorf("the marks live %v", life)
		}
		if err := v.Forget(t.Context(), installation); err != nil || client.DBSize(t.Context()).Val() != 0 {
			t.Errorf("Forget leaves %v, %v", client.Keys(t.Context(), "*").Val(), err)
		}
		mustKeep(t, v, system, planted, true)
	})
}

// TestMarkEnds with the token's life, and marks are bounded.
func TestMarkEnds(t *testing.T) {
	t.Parallel()
	client, now := queuetest.Start(t).Client(), epoch
	v := New(client, keyring(t, oldKey), Options{Remember: -1, Now: func() time.Time { return now }})
	mustRefuse(t, v, token("refused", time.Hour))
	mustKeep(t, v, system, token("refused", 2*time.Hour), false)
	now = epoch.Add(time.Hour)
	mustKeep(t, v, system, token("refused", 2*time.Hour), true)
	mustRefuse(t, v, token("past its expiry", time.Hour))
	for i := range 40 {
		mustRefuse(t, v, token(fmt.Sprint(i), 2*time.Hour+time.Duration(i)*time.Minute))
	}
	if n := client.ZCard(t.Context(), refusedKey(installation, system)).Val(); n != maxRefused {
		t.Errorf("%d marks", n)
	}
	mustRefuse(t, v, token("first to expire", 90*time.Minute)) // the newest one is not the one that goes
	mustKeep(t, v, system, token("first to expire", 2*time.Hour), false)
	mustKeep(t, v, system, token("39", 2*time.Hour), false)
	index, marks := client.PTTL(t.Context(), indexKey(installation)).Val(), client.PTTL(t.Context(), refusedKey(installation, system)).Val()
	if index < marks-time.Second {
		t.Errorf("the index lives %v, shorter than the marks that it names, %v", index, marks)
	}
}

// TestPlantedTwice: two planted tokens keep a good one out for no longer than until it is delivered again.
func TestPlantedTwice(t *testing.T) {
	t.Parallel()
	v := New(queuetest.Start(t).Client(), keyring(t, oldKey), Options{}) // as in production: it remembers
	mustKeep(t, v, system, token("good", time.Hour), true)
	mustKeep(t, v, system, token("planted", 3*time.Hour), true)
	mustKeep(t, v, system, token("planted too", 4*time.Hour), true)
	mustHold(t, v, "planted too", "planted")
	mustKeep(t, v, system, token("good", time.Hour), false)
	mustHold(t, v, "planted too", "good")
	mustKeep(t, v, system, token("planted", 3*time.Hour), false)
	mustKeep(t, v, system, token("good", time.Hour), false)
	mustHold(t, v, "planted too", "good")
}

// TestRemovedInstallationIsMarkedNothing: a worker may still find out things of an app that was removed.
func TestRemovedInstallationIsMarkedNothing(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	v := New(client, keyring(t, oldKey), Options{})
	client.Set(t.Context(), goneKey(installation), 1, time.Minute)
	mustKeep(t, v, system, token("late", time.Hour), false)
	mustRefuse(t, v, token("late", time.Hour))
	if n := client.DBSize(t.Context()).Val(); n != 1 {
		t.Errorf("%v", client.Keys(t.Context(), "*").Val())
	}
}

// TestConcurrentWorkers exchange the two tokens under each other's eyes; whoever had the refused one always finds the good one.
func TestConcurrentWorkers(t *testing.T) {
	both(t, func(t *testing.T, client redis.UniversalClient) {
		v := New(client, keyring(t, oldKey), Options{Remember: -1})
		mustKeep(t, v, system, token("good", time.Hour), true)
		for round := range 30 {
			planted := token(fmt.Sprint("planted ", round), 2*time.Hour)
			mustKeep(t, v, system, planted, true)
			var group sync.WaitGroup
			for range 4 {
				group.Go(func() {
					for range 5 {
						other, err := v.TakeOther(t.Context(), installation, system, planted)
						if err != nil || other.Text.Reveal() != "good" {
							t.Errorf("%q, %v", other.Text.Reveal(), err)
						}
					}
					if err := v.MarkRefused(t.Context(), installation, system, planted); err != nil {
						t.Error(err)
					}
					if _, err := v.Put(t.Context(), installation, system, planted, time.Time{}); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			mustHold(t, v, "good", "")
		}
	})
}

// oldKeepScript is the one that the first release wrote tokens with. KEYS: token, index, gone.
var oldKeepScript = redis.NewScript(`
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
local have = redis.call('HMGET', KEYS[1], 'exp', 'token')
if have[1] and have[2] then
  local old, new = tonumber(have[1]), tonumber(ARGV[1])
  if old > new or (old == new and string.sub(have[2], 1, #ARGV[3]) == ARGV[3]) then
    return 0
  end
end
redis.call('HSET', KEYS[1], 'exp', ARGV[1], 'token', ARGV[2])
redis.call('PEXPIREAT', KEYS[1], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[5])
redis.call('ZADD', KEYS[2], ARGV[1], ARGV[4])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[1]) - tonumber(ARGV[5]) then
  redis.call('PEXPIREAT', KEYS[2], ARGV[1])
end
return 1`)

// oldPut is Put as the first release did it.
func oldPut(t *testing.T, v *Vault, token forge.OAuthToken) {
	t.Helper()
	expiry := strconv.FormatInt(token.ExpiresAt.UnixMilli(), 10)
	sealed := v.keyring.Seal([]byte(token.Text.Reveal()), sealContext(installation, system, expiry)...)
	err := oldKeepScript.Run(t.Context(), v.redis, []string{tokenKey(installation, system), indexKey(installation), goneKey(installation)},
		expiry, sealed, keyID(sealed)+":", member(system), v.now().UnixMilli()).Err()
	if err != nil {
		t.Fatal(err)
	}
}

// TestOlderVersion reads and writes beside this one. Its Take reads exp and token of the current key, as this one's does.
func TestOlderVersion(t *testing.T) {
	both(t, func(t *testing.T, client redis.UniversalClient) {
		v := late(t, client)
		first, planted := token("first", time.Hour), token("planted", 2*time.Hour)
		oldPut(t, v, first)
		mustHold(t, v, "first", "")
		arrive(t, v, first, time.Second) // the same text, although no id was written
		mustHold(t, v, "first", "")
		oldPut(t, v, planted) // into a hash that holds the id of the one before
		mustHold(t, v, "planted", "")
		arrive(t, v, first, 2*time.Second)
		mustHold(t, v, "planted", "first")
		mustRefuse(t, v, planted) // by its text, although no id was written
		mustHold(t, v, "first", "")
		oldPut(t, v, planted) // an older process does not know the mark
		mustHold(t, v, "planted", "")
		arrive(t, v, first, 3*time.Second)
		mustHold(t, v, "first", "")
		oldPut(t, v, token("upgraded", 90*time.Minute))
		arrive(t, v, token("second", 90*time.Minute), 4*time.Second)
		mustHold(t, v, "second", "upgraded")

		// Forget of the first release deletes what the index names.
		mustRefuse(t, v, token("another", time.Hour))
		var keys []string
		for _, name := range client.ZRange(t.Context(), indexKey(installation), 0, -1).Val() {
			keys = append(keys, "gitsmith:{"+installation+"}:token:"+name)
		}
		client.Del(t.Context(), append(keys, indexKey(installation))...)
		if left := client.Keys(t.Context(), "gitsmith:*").Val(); len(keys) != 3 || len(left) != 0 {
			t.Errorf("the index names %q; left are %q", keys, left)
		}
	})
}

// TestOldTokenThatCannotBeOpened is like no other, and gives way as before.
func TestOldTokenThatCannotBeOpened(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	oldPut(t, New(client, keyring(t, oldKey), Options{}), token("sealed by old", time.Hour))
	v := New(client, keyring(t, newKey), Options{Remember: -1})
	mustKeep(t, v, system, token("sealed by old", time.Hour), true)
	mustTake(t, v, system, "sealed by old")
	if _, err := v.TakeOther(t.Context(), installation, system, token("sealed by old", time.Hour)); fault.KindOf(err) != fault.Expired {
		t.Errorf("%v, want an Expired fault", err)
	}
}

// TestKeyRotation: both tokens open under a ring that still has the old key. Each is sealed by the new key when it is delivered again, so
// both survive the end of the old key. If the current one cannot be opened, the one before it is taken.
func TestKeyRotation(t *testing.T) {
	both(t, func(t *testing.T, client redis.UniversalClient) {
		with := func(keys string) *Vault { return New(client, keyring(t, keys), Options{Remember: -1}) }
		before, current := token("before", time.Hour), token("current", 2*time.Hour)
		mustKeep(t, with(oldKey), system, before, true)
		mustKeep(t, with(oldKey), system, current, true)
		rotating, rotated := with(newKey+","+oldKey), with(newKey)
		mustHold(t, rotating, "current", "before")
		mustTake(t, rotated, system, "")

		mustKeep(t, rotating, system, before, false)
		mustHold(t, rotating, "current", "before")
		mustHold(t, rotated, "before", "") // the current one is still sealed by the old key
		mustKeep(t, rotating, system, current, true)
		mustHold(t, rotated, "current", "before")
		mustTake(t, with(oldKey), system, "")

		mustRefuse(t, rotated, current)
		mustHold(t, rotated, "before", "")
		mustKeep(t, with(oldKey), system, current, false) // an id does not depend on the key that seals
	})
}

// TestForgetRemovesBothTokensAndTheMarks of every actor, and leaves another installation's.
func TestForgetRemovesBothTokensAndTheMarks(t *testing.T) {
	both(t, func(t *testing.T, client redis.UniversalClient) {
		v := New(client, keyring(t, oldKey), Options{Remember: -1})
		for _, id := range []string{installation, "another"} {
			for _, actor := range []forge.Actor{system, ada} {
				for hours := range 3 {
					each := token(fmt.Sprint(hours), time.Duration(hours+1)*time.Hour)
					_, err := v.Put(t.Context(), id, actor, each, time.Time{})
					if hours == 2 {
						err = errors.Join(err, v.MarkRefused(t.Context(), id, actor, each))
						_, putErr := v.Put(t.Context(), id, actor, token("more", 2*time.Hour), time.Time{})
						err = errors.Join(err, putErr)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		count := func(id string) int { return len(keysOf(t, client, "gitsmith:{"+id+"}:")) }
		if count(installation) != 7 || count("another") != 7 {
			t.Fatalf("%q", keysOf(t, client, ""))
		}
		if err := v.Forget(t.Context(), installation); err != nil || count(installation) != 0 || count("another") != 7 {
			t.Errorf("left are %q, %v", keysOf(t, client, ""), err)
		}
	})
}

// keysOf are the keys with a prefix, on all nodes.
func keysOf(t *testing.T, client redis.UniversalClient, start string) []string {
	t.Helper()
	var mutex sync.Mutex
	var found []string
	gather := func(ctx context.Context, node *redis.Client) error {
		keys, err := node.Keys(ctx, "*").Result()
		mutex.Lock()
		defer mutex.Unlock()
		for _, key := range keys {
			if strings.HasPrefix(key, start) {
				found = append(found, key)
			}
		}
		return err
	}
	var err error
	switch c := client.(type) {
	case *redis.ClusterClient:
		err = c.ForEachMaster(t.Context(), gather)
	case *redis.Client:
		err = gather(t.Context(), c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestNothingInClearBesideTheCurrentToken looks at the other two keys.
func TestNothingInClearBesideTheCurrentToken(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	v := New(client, keyring(t, oldKey), Options{Remember: -1})
	for i, text := range []string{"canary-one", "canary-two", "canary-three"} {
		mustKeep(t, v, system, token(text, time.Duration(i+1)*time.Hour), true)
	}
	mustRefuse(t, v, token("canary-three", 3*time.Hour))
	keys := client.Keys(t.Context(), "*").Val()
	if len(keys) != 3 {
		t.Errorf("%q", keys)
	}
	for _, key := range keys {
		if strings.Contains(key+client.Dump(t.Context(), key).Val(), "canary") {
			t.Errorf("%s holds a token in clear", key)
		}
	}
}
