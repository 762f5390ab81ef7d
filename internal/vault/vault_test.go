package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/keyspace"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	installation = "ari:cloud:ecosystem::installation/11111111-1111-1111-1111-111111111111"
	oldKey       = "old:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	newKey       = "new:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="
)

var (
	system = forge.Actor{Kind: forge.ActorSystem}
	ada    = forge.Actor{Kind: forge.ActorUser, Principal: "557058:ada"}
	bob    = forge.Actor{Kind: forge.ActorUser, Principal: "557058:bob"}
)

func keyring(t *testing.T, text string) *secret.Keyring {
	t.Helper()
	ring, err := secret.ParseKeyring(text)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// epoch is the start of the tests, in what Redis can store.
var epoch = time.Now().Truncate(time.Millisecond)

// token is one that expires so long after epoch.
func token(text string, life time.Duration) forge.OAuthToken {
	return forge.OAuthToken{Text: secret.New(text), ExpiresAt: epoch.Add(life)}
}

// mustKeep checks what keep reports.
func mustKeep(t *testing.T, v *Vault, actor forge.Actor, token forge.OAuthToken, want bool) {
	t.Helper()
	got, err := v.Put(t.Context(), installation, actor, token, time.Time{})
	if err != nil || got != want {
		t.Fatalf("keep = %v, %v; want %v", got, err, want)
	}
}

// mustTake checks the text of the token that Take gives; "" stands for an Expired fault.
func mustTake(t *testing.T, v *Vault, actor forge.Actor, want string) forge.OAuthToken {
	t.Helper()
	got, err := v.Take(t.Context(), installation, actor)
	switch {
	case want == "" && (err == nil || fault.KindOf(err) != fault.Expired):
		t.Fatalf("Take gave a token or the wrong error: %v; want an Expired fault", err)
	case want != "" && (err != nil || got.Text.Reveal() != want):
		t.Fatalf("Take = %q, %v; want %q", got.Text.Reveal(), err, want)
	}
	return got
}

// both runs the test on a plain Redis and on a cluster.
func both(t *testing.T, test func(t *testing.T, client redis.UniversalClient)) {
	t.Parallel()
	t.Run("single", func(t *testing.T) {
		t.Parallel()
		test(t, queuetest.Start(t).Client())
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		test(t, queuetest.StartCluster(t).Client())
	})
}

func TestNewestTokenWins(t *testing.T) {
	both(t, func(t *testing.T, client redis.UniversalClient) {
		v := New(client, keyring(t, oldKey), Options{Remember: -1})
		mustTake(t, v, system, "")
		mustKeep(t, v, system, token("two hours", 2*time.Hour), true)
		mustKeep(t, v, system, token("one hour", time.Hour), false)
		mustTake(t, v, system, "two hours")
		mustKeep(t, v, system, token("two hours", 2*time.Hour), false)
		mustTake(t, v, system, "two hours")
		mustKeep(t, v, system, token("three hours", 3*time.Hour), true)
		got := mustTake(t, v, system, "three hours")
		if !got.ExpiresAt.Equal(epoch.Add(3 * time.Hour)) {
			t.Errorf("expires at %v, want %v", got.ExpiresAt, epoch.Add(3*time.Hour))
		}
		life := client.PTTL(t.Context(), tokenKey(installation, system)).Val()
		if want := time.Until(got.ExpiresAt); life < want-time.Second || life > want+time.Second {
			t.Errorf("Redis keeps it for %v, want %v", life, want)
		}
		if life := client.PTTL(t.Context(), indexKey(installation)).Val(); life < 3*time.Hour-time.Minute {
			t.Errorf("the index lives %v, shorter than the token", life)
		}
	})
}

func TestActorsAndInstallationsAreApart(t *testing.T) {
	both(t, func(t *testing.T, client redis.UniversalClient) {
		v := New(client, keyring(t, oldKey), Options{})
		mustKeep(t, v, system, token("of the system", time.Hour), true)
		mustKeep(t, v, ada, token("of ada", 2*time.Hour), true)
		mustTake(t, v, bob, "")
		mustTake(t, v, ada, "of ada")
		mustTake(t, v, system, "of the system")
		if _, err := v.Take(t.Context(), "another", system); fault.KindOf(err) != fault.Expired {
			t.Errorf("another installation: %v, want an Expired fault", err)
		}
		// Moved to another actor by whoever can write to Redis, it does not open.
		fields := client.HGetAll(t.Context(), tokenKey(installation, ada)).Val()
		client.HSet(t.Context(), tokenKey(installation, bob), fields)
		mustTake(t, v, bob, "")
		// Nor does it with a longer life.
		client.HSet(t.Context(), tokenKey(installation, ada), "exp", epoch.Add(9*time.Hour).UnixMilli())
		mustTake(t, v, ada, "")
	})
}

func TestNothingWithoutAnOwnerIsKept(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	v := New(client, keyring(t, oldKey), Options{})
	mustKeep(t, v, forge.Actor{Kind: forge.ActorUser}, token("of nobody", time.Hour), false)
	if _, err := v.Put(t.Context(), "", system, token("of no installation", time.Hour), time.Time{}); fault.KindOf(err) != fault.Internal {
		t.Errorf("no installation: %v, want an Internal fault", err)
	}
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys were written", n)
	}
}

func TestExpiredTokenIsNeitherKeptNorGiven(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	now := time.Now()
	v := New(client, keyring(t, oldKey), Options{Now: func() time.Time { return now }})
	mustKeep(t, v, system, token("late", -time.Second), false)
	mustKeep(t, v, system, forge.OAuthToken{Text: secret.New("exactly now"), ExpiresAt: now}, false)
	mustTake(t, v, system, "")
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Errorf("%d keys were written", n)
	}
	mustKeep(t, v, system, token("in time", time.Hour), true)
	now = epoch.Add(time.Hour)
	mustTake(t, v, system, "")
}

func TestRedisDropsTheTokenAtItsExpiry(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	v := New(client, keyring(t, oldKey), Options{})
	short := forge.OAuthToken{Text: secret.New("short"), ExpiresAt: time.Now().Add(300 * time.Millisecond)}
	mustKeep(t, v, system, short, true)
	testkit.Eventually(t, "Redis is empty", func() error {
		keys, err := client.DBSize(t.Context()).Result()
		if err == nil && keys > 0 {
			err = fmt.Errorf("%d keys are left", keys)
		}
		return err
	})
	mustTake(t, v, system, "")
}

func TestForgetRemovesEverythingOfTheInstallation(t *testing.T) {
	both(t, func(t *testing.T, client redis.UniversalClient) {
		ctx := t.Context()
		v := New(client, keyring(t, oldKey), Options{})
		if err := v.Forget(ctx, installation); err != nil {
			t.Fatalf("nothing to forget: %v", err)
		}
		mustKeep(t, v, system, token("of the system", time.Hour), true)
		for i := range forgetBatch + 10 {
			mustKeep(t, v, forge.Actor{Kind: forge.ActorUser, Principal: fmt.Sprint(i)}, token("of a user", time.Hour), true)
		}
		if err := v.MarkInstalled(ctx, installation); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Put(ctx, "another", system, token("stays", time.Hour), time.Time{}); err != nil {
			t.Fatal(err)
		}
		if err := v.Forget(ctx, installation); err != nil {
			t.Fatal(err)
		}
		if n := client.DBSize(ctx).Val(); n != 2 {
			t.Errorf("%d keys are left, want the other installation's two: %v", n, client.Keys(ctx, "*").Val())
		}
		// Also forgotten in this process.
		mustKeep(t, v, system, token("of the system", time.Hour), true)
	})
}

func TestInstalledMark(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	v := New(client, keyring(t, oldKey), Options{})
	if recently, err := v.RecentlyInstalled(t.Context(), installation); recently || err != nil {
		t.Errorf("before: %v, %v", recently, err)
	}
	if err := v.MarkInstalled(t.Context(), installation); err != nil {
		t.Fatal(err)
	}
	if recently, err := v.RecentlyInstalled(t.Context(), installation); !recently || err != nil {
		t.Errorf("after: %v, %v", recently, err)
	}
	if life := client.PTTL(t.Context(), installedKey(installation)).Val(); life <= 0 || life > InstallGrace {
		t.Errorf("the mark lives %v", life)
	}
}

func TestLostKeyCountsAsExpiredAndHeals(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	mustKeep(t, New(client, keyring(t, oldKey), Options{}), system, token("sealed by old", time.Hour), true)

	rotating := New(client, keyring(t, newKey+","+oldKey), Options{})
	mustTake(t, rotating, system, "sealed by old")

	var log bytes.Buffer
	rotated := New(client, keyring(t, newKey), Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	mustTake(t, rotated, system, "")
	if !strings.Contains(log.String(), "key_id=old") || strings.Contains(log.String(), "sealed by old") {
		t.Errorf("the log does not name the key, or says too much: %s", log.String())
	}
	// The same token delivered again is stored under the key that there is.
	mustKeep(t, rotated, system, token("sealed by old", time.Hour), true)
	mustTake(t, rotated, system, "sealed by old")

	for name, value := range map[string]any{"token": "new:damaged", "exp": "soon"} {
		client.HSet(t.Context(), tokenKey(installation, system), name, value)
		mustTake(t, rotated, system, "")
	}
	client.HDel(t.Context(), tokenKey(installation, system), "exp")
	mustTake(t, rotated, system, "")
	mustKeep(t, rotated, ada, token("another actor", time.Hour), true)
	mustTake(t, rotated, ada, "another actor")
}

func TestRepeatedTokenCostsNoRoundTrip(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	client := server.Client()
	now := epoch
	v := New(client, keyring(t, oldKey), Options{Remember: 10 * time.Second, Now: func() time.Time { return now }})
	mustKeep(t, v, system, token("same", time.Hour), true)
	client.FlushAll(t.Context())
	mustKeep(t, v, system, token("same", time.Hour), false)
	if n := client.DBSize(t.Context()).Val(); n != 0 {
		t.Error("Redis was asked again at once")
	}
	mustKeep(t, v, ada, token("same", time.Hour), true)
	mustKeep(t, v, system, token("other", 2*time.Hour), true)
	client.FlushAll(t.Context())
	now = now.Add(10 * time.Second)
	mustKeep(t, v, system, token("same", time.Hour), true)
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	m := &memory{life: time.Hour}
	for i := range 5 * memorySize {
		m.add(fingerprint{byte(i), byte(i >> 8), byte(i >> 16)}, fingerprint{1}, epoch, false)
		if held := len(m.younger) + len(m.older); held > 2*memorySize {
			t.Fatalf("%d entries are held", held)
		}
	}
	last := 5*memorySize - 1
	if !m.holds(fingerprint{byte(last), byte(last >> 8), byte(last >> 16)}, fingerprint{1}, epoch) {
		t.Error("the last one is not held")
	}
}

// The last writer must not win: many deliveries at once, by several processes, leave the one that lives longest.
func TestConcurrentDeliveriesLeaveTheNewest(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	const deliveries = 60
	vaults := []*Vault{
		New(server.Client(), keyring(t, oldKey), Options{}),
		New(server.Client(), keyring(t, newKey+","+oldKey), Options{}),
	}
	var group sync.WaitGroup
	for i := range deliveries {
		group.Go(func() {
			minutes := (i*37)%deliveries + 1
			if _, err := vaults[i%2].Put(t.Context(), installation, system, token(fmt.Sprint(minutes), time.Duration(minutes)*time.Minute), time.Time{}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	mustTake(t, vaults[1], system, fmt.Sprint(deliveries))
}

func TestRedisAwayIsUnavailable(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	v := New(server.Client(), keyring(t, oldKey), Options{})
	mustKeep(t, v, system, token("before", time.Hour), true)
	server.Kill()
	calls := map[string]func() error{
		"keep": func() error {
			_, err := v.Put(t.Context(), installation, ada, token("x", time.Hour), time.Time{})
			return err
		},
		"Take":              func() error { _, err := v.Take(t.Context(), installation, system); return err },
		"Forget":            func() error { return v.Forget(t.Context(), installation) },
		"MarkInstalled":     func() error { return v.MarkInstalled(t.Context(), installation) },
		"RecentlyInstalled": func() error { _, err := v.RecentlyInstalled(t.Context(), installation); return err },
	}
	for name, call := range calls {
		if err := call(); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("%s: %v, want an Unavailable fault", name, err)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := v.Take(canceled, installation, system); !errors.Is(err, context.Canceled) || fault.KindOf(err) != fault.Interrupted {
		t.Errorf("a canceled call: %v, want it Interrupted", err)
	}
	server.Restart()
	// go-redis looks for a server that was away once a second.
	testkit.Eventually(t, "Redis is back", func() error { _, err := v.Take(t.Context(), installation, system); return err })
	mustTake(t, v, system, "before")
}

func TestNoTokenInClearInRedis(t *testing.T) {
	t.Parallel()
	client := queuetest.Start(t).Client()
	v := New(client, keyring(t, oldKey), Options{})
	mustKeep(t, v, ada, token("canary-token-text", time.Hour), true)
	found := false
	for _, key := range client.Keys(t.Context(), "*").Val() {
		dump := client.Dump(t.Context(), key).Val()
		found = found || strings.Contains(dump, "old:")
		if strings.Contains(dump+key, "canary") {
			t.Errorf("%s holds the token in clear", key)
		}
	}
	if !found {
		t.Error("the search did not find the sealed value either")
	}
}

func TestExpiredSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for actor, want := range map[forge.Actor][]string{
		system: {"the app's system token", "x-forge-oauth-system", "auth.appSystemToken.enabled: true", "hourly scheduled trigger", "next invocation"},
		ada:    {"the user's token", "x-forge-oauth-user", "auth.appUserToken.enabled: true", "next invocation by that user"},
	} {
		text := fault.Public(expired(actor))
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("%v: %q lacks %q", actor.Kind, text, part)
			}
		}
		if strings.Contains(text, "ada") || len(text) >= fault.MaxPublic {
			t.Errorf("%v: %q names the user or is too long", actor.Kind, text)
		}
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	got := []string{tokenKey("i", system), tokenKey("i", ada), beforeKey("i", ada), refusedKey("i", ada), indexKey("i"), installedKey("i")}
	want := []string{
		"gitsmith:{i}:token:system", "gitsmith:{i}:token:user:557058:ada", "gitsmith:{i}:token:before:user:557058:ada",
		"gitsmith:{i}:token:refused:user:557058:ada", "gitsmith:{i}:tokens", "gitsmith:{i}:installed",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func tokenKey(installation string, actor forge.Actor) string {
	return keyspace.Installation(installation).Token(member(actor))
}

func beforeKey(installation string, actor forge.Actor) string {
	return keyspace.Installation(installation).TokenBefore(member(actor))
}

func refusedKey(installation string, actor forge.Actor) string {
	return keyspace.Installation(installation).TokenRefused(member(actor))
}

func indexKey(installation string) string     { return keyspace.Installation(installation).Tokens() }
func installedKey(installation string) string { return keyspace.Installation(installation).Installed() }
func goneKey(installation string) string      { return keyspace.Installation(installation).Gone() }
