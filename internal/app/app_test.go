package app

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/secret"
)

func TestDialRedis(t *testing.T) {
	t.Parallel()
	const password = "canary-5f1c9a"
	for address, want := range map[string]string{
		"redis://user:" + password + "@127.0.0.1:1/3":                             "*redis.Client",
		"rediss://127.0.0.1:1":                                                    "*redis.Client",
		"redis-sentinel://:" + password + "@127.0.0.1:1/0?master_name=m&addr=h:2": "*redis.Client",
		"redis-cluster://127.0.0.1:1?addr=h:2":                                    "*redis.ClusterClient",
		"redis-sentinel://127.0.0.1:1":                                            "",
		"redis-tree://127.0.0.1:1":                                                "",
		"redis://:" + password + "@bad host":                                      "",
		"http://" + password:                                                      "",
	} {
		client, err := dialRedis(secret.New(address), new(servers))
		got := ""
		switch client := client.(type) {
		case *redis.Client:
			got = "*redis.Client"
			_ = client.Close()
		case *redis.ClusterClient:
			got = "*redis.ClusterClient"
			_ = client.Close()
		}
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %s, %v; want %s", strings.ReplaceAll(address, password, "…"), got, err, want)
		}
		if err != nil && strings.Contains(err.Error(), password) {
			t.Errorf("the error quotes the password: %v", err)
		}
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]string{
		":9090": "127.0.0.1:9090", "0.0.0.0:9090": "127.0.0.1:9090", "[::]:9090": "127.0.0.1:9090",
		"10.0.0.1:9090": "10.0.0.1:9090", "localhost:9090": "localhost:9090", "garbage": "garbage",
	} {
		if got := loopback(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}

func TestMainArguments(t *testing.T) {
	t.Parallel()
	program := API()
	ran := false
	program.Run = func(context.Context, []string, io.Writer) error { ran = true; return nil }
	for args, want := range map[string]struct {
		status         int
		stdout, stderr string
	}{
		"":              {0, "", ""},
		"--version":     {0, "api dev", ""},
		"--help":        {0, "GITSMITH_APP_ID", ""},
		"--nonsense":    {2, "", "usage: api"},
		"--check-ready": {1, "", "GITSMITH_SEAL_KEYS is required"},
	} {
		var stdout, stderr bytes.Buffer
		got := Main(program, strings.Fields(args), nil, &stdout, &stderr)
		if got != want.status || !strings.Contains(stdout.String(), want.stdout) || !strings.Contains(stderr.String(), want.stderr) {
			t.Errorf("%q: status %d\n%s%s", args, got, stdout.String(), stderr.String())
		}
	}
	if !ran {
		t.Error("without arguments the program does not run")
	}
}
