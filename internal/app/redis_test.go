package app

import (
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

// TestServers: whatever this Redis has not heard itself is as old as its start; one that takes over later may lack more.
func TestServers(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	var seen servers
	if !seen.Since().IsZero() {
		t.Errorf("before any was met: %s", seen.Since())
	}
	for _, step := range []struct {
		id     string
		uptime time.Duration
		at     time.Duration // after the first
		want   time.Duration
	}{
		{"first", time.Hour, 0, -time.Hour},
		{"another node of the cluster", 2 * time.Hour, time.Second, -time.Hour},
		{"first", 2 * time.Hour, time.Minute, -time.Hour},
		{"restarted", 0, time.Minute, time.Minute + clocks},
		{"a replica", 48 * time.Hour, time.Hour, time.Hour + clocks},
		{"restarted", 0, 2 * time.Hour, time.Hour + clocks},
	} {
		seen.met(step.id, step.uptime, now.Add(step.at))
		if got := seen.Since().Sub(now); got != step.want {
			t.Errorf("%s: %s, want %s", step.id, got, step.want)
		}
	}
}

// TestServersAreMet before they get a command, and a restarted one is another.
func TestServersAreMet(t *testing.T) {
	t.Parallel()
	server, seen := queuetest.Start(t), new(servers)
	client, err := dialRedis(secret.New(server.URL), seen)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ping := func() error { return client.Ping(t.Context()).Err() }
	met := func() int {
		seen.mutex.Lock()
		defer seen.mutex.Unlock()
		return len(seen.known)
	}
	if err := ping(); err != nil || met() != 1 {
		t.Fatalf("%d, %v", met(), err)
	}
	if age := time.Since(seen.Since()); age < 0 || age > time.Minute {
		t.Errorf("a server that has just begun is %s old", age)
	}
	server.Kill()
	server.Restart()
	testkit.Eventually(t, "redis is back", ping)
	if met() != 2 {
		t.Errorf("after the restart: %d", met())
	}
}
