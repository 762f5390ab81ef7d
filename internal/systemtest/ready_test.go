package systemtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/testkit"
)

// readiness is what /readyz says of Redis.
type readiness struct {
	status   int
	ok       bool
	degraded bool
	detail   string
}

func (p *process) readiness() (readiness, error) {
	response, err := http.Get(p.ops + "/readyz")
	if err != nil {
		return readiness{}, err
	}
	defer response.Body.Close()
	var answer struct {
		Checks map[string]struct {
			OK       bool   `json:"ok"`
			Degraded bool   `json:"degraded"`
			Detail   string `json:"detail"`
		} `json:"checks"`
	}
	err = json.NewDecoder(response.Body).Decode(&answer)
	redis := answer.Checks["redis"]
	return readiness{response.StatusCode, redis.OK, redis.Degraded, redis.Detail}, err
}

// checkReady runs the binary's own health check beside the process, and returns what it wrote and its exit status.
func (p *process) checkReady(t *testing.T) (string, int) {
	t.Helper()
	command := exec.Command(p.command.Path, "--check-ready")
	command.Env = p.command.Env
	output, err := command.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return string(output), command.ProcessState.ExitCode()
}

// TestReadyzTellsOfARedisThatTakesNothing: a Redis that answers pings and takes no writes or scripts is degraded for a receiver, which
// spools, and not ready for a worker. Both say what is wrong, and are well again when Redis is.
func TestReadyzTellsOfARedisThatTakesNothing(t *testing.T) {
	t.Parallel()
	s := startSystem(t, map[string]string{"README.md": "hello\n"})
	worker := s.startWorker()
	client, alice := s.redis.Client(), s.userCaller("557058:alice", time.Hour)
	for _, tc := range []struct {
		name        string
		spoil, mend []any
		want        string
	}{
		{"full", []any{"config", "set", "maxmemory", "1mb"}, []any{"config", "set", "maxmemory", "0"}, "(OOM)"},
		{"a replica", []any{"replicaof", "127.0.0.1", "1"}, []any{"replicaof", "no", "one"}, "(READONLY)"},
		{
			"without scripts",
			[]any{"acl", "setuser", "default", "-evalsha", "-eval", "-script"},
			[]any{"acl", "setuser", "default", "+evalsha", "+eval", "+script"},
			"(NOPERM)",
		},
	} {
		if err := client.Do(t.Context(), tc.spoil...).Err(); err != nil {
			t.Fatal(err)
		}
		testkit.Eventually(t, "the receiver says that redis is "+tc.name, func() error {
			got, err := s.receiver.readiness()
			if err != nil || got.status != http.StatusOK || got.ok || !got.degraded || !strings.Contains(got.detail, tc.want) {
				return fmt.Errorf("%+v %w", got, err)
			}
			return nil
		})
		testkit.Eventually(t, "the worker says that redis is "+tc.name, func() error {
			got, err := worker.readiness()
			if err != nil || got.status != http.StatusServiceUnavailable || got.ok || got.degraded || !strings.Contains(got.detail, tc.want) {
				return fmt.Errorf("%+v %w", got, err)
			}
			return nil
		})
		if output, status := s.receiver.checkReady(t); status != 0 || !strings.Contains(output, tc.want) {
			t.Errorf("%s: api --check-ready: status %d, %s", tc.name, status, output)
		}
		if output, status := worker.checkReady(t); status != 1 || !strings.Contains(output, tc.want) {
			t.Errorf("%s: worker --check-ready: status %d, %s", tc.name, status, output)
		}
		spooled := s.submit(alice, `{"repository": {"workspace": "acme", "slug": "web"}, "clone": {}}`)
		testkit.Eventually(t, "the delivery is counted", func() error {
			got, err := s.receiver.readiness()
			if err == nil && !strings.Contains(got.detail, "disk: 1 (") {
				err = errors.New(got.detail)
			}
			return err
		})
		if err := client.Do(t.Context(), tc.mend...).Err(); err != nil {
			t.Fatal(err)
		}
		for _, p := range []*process{s.receiver, worker} {
			testkit.Eventually(t, p.name+" is well again", func() error {
				got, err := p.readiness()
				if err != nil || got.status != http.StatusOK || !got.ok {
					return fmt.Errorf("%+v %w", got, err)
				}
				return nil
			})
		}
		s.await(alice, spooled.ID, "succeeded") // what the disk took goes on
	}
}
