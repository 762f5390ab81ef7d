package queuetest_test

import (
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestServerKeepsItsDataOverKillAndRestart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := queuetest.Start(t)
	client := server.Client()
	for name, want := range map[string]string{"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""} {
		if got := client.ConfigGet(ctx, name).Val()[name]; got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if err := client.Set(ctx, "kept", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if client.Ping(ctx).Err() == nil {
		t.Error("a killed server answers")
	}
	server.Restart()
	if got := client.Get(ctx, "kept").Val(); got != "1" {
		t.Errorf("after Kill and Restart the key is %q", got)
	}
	server.Restart()
	if got := client.Get(ctx, "kept").Val(); got != "1" {
		t.Errorf("after an orderly Restart the key is %q", got)
	}
}

func TestServersAreApart(t *testing.T) {
	t.Parallel()
	first, second := queuetest.Start(t), queuetest.Start(t)
	if first.Addr == second.Addr || first.URL == second.URL {
		t.Fatalf("two servers share %s", first.Addr)
	}
}

func TestServerIsGoneAfterItsTest(t *testing.T) {
	t.Parallel()
	var pid int
	t.Run("run", func(t *testing.T) {
		info := queuetest.Start(t).Client().Info(t.Context(), "server").Val()
		_, rest, _ := strings.Cut(info, "process_id:")
		number, _, _ := strings.Cut(rest, "\r\n")
		var err error
		if pid, err = strconv.Atoi(number); err != nil {
			t.Fatal(err)
		}
	})
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("process %d is still there", pid)
	}
}

func TestClusterRefusesKeysOfTwoSlots(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	client := queuetest.StartCluster(t).Client()
	if err := client.Eval(ctx, "return 1", []string{"{a}:1", "{a}:2"}).Err(); err != nil {
		t.Errorf("one slot: %v", err)
	}
	if err := client.Eval(ctx, "return 1", []string{"{a}:1", "{b}:2"}).Err(); err == nil {
		t.Error("a script over two slots ran")
	}
}
