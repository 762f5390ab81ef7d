package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

const (
	// eventsARound, tasksARound take about a second each.
	eventsARound = 8_000
	tasksARound  = 20_000
	loneEvents   = 400
	// manyWaiting is how many tasks wait while the rate is measured again.
	manyWaiting = 1_000_000
)

// ingestRules make one job of each event.
const ingestRules = `
rules:
  - name: archive
    on: avi:bitbucket:push:repository
    when: not (event.push.closed ?? false)
    job:
      clone: {ref: "{{ event.push.after }}", archive: tar.gz}
`

// ingest is the ways that are compared, each with a process of its own and, where it needs one, a Redis of its own.
type ingest struct {
	tb        testing.TB
	issuer    *forgetest.Issuer
	full      *intake // as it is deployed
	alone     *intake // without grouping
	signature *intake // the signature check only
	crowded   *intake // as it is deployed, with tasks that wait; before that, for asynq's client
	payload   int
	system    string // the OAuth token of all deliveries
	events    int    // made so far
}

// IngestRound is what one way did in one round.
type IngestRound struct {
	load
	serverCPU, redisCPU time.Duration // for 1,000 requests
}

func startIngest(tb testing.TB) *ingest {
	tb.Helper()
	issuer, err := forgetest.NewIssuer()
	if err != nil {
		tb.Fatal(err)
	}
	keys := httptest.NewServer(issuer.Handler())
	tb.Cleanup(keys.Close)
	rules := filepath.Join(tb.TempDir(), "rules.yml")
	if err := os.WriteFile(rules, []byte(ingestRules), 0o600); err != nil {
		tb.Fatal(err)
	}
	in := &ingest{tb: tb, issuer: issuer}
	in.full = startReceiver(tb, issuer, keys.URL, "GITSMITH_RULES="+rules)
	in.alone = startReceiver(tb, issuer, keys.URL, "GITSMITH_RULES="+rules, "GITSMITH_REDIS_GROUP=1")
	in.crowded = startReceiver(tb, issuer, keys.URL, "GITSMITH_RULES="+rules)
	in.signature = startSignature(tb, issuer, keys.URL, in.full.client)
	in.system = issuer.OAuthToken(forgetest.OAuthOptions{ExpiresAt: time.Now().Add(2 * time.Hour), Scopes: []string{"write:repository:bitbucket"}})
	return in
}

// startSignature starts this program once more, as the least that a receiver can be.
func startSignature(tb testing.TB, issuer *forgetest.Issuer, keys string, client *http.Client) *intake {
	tb.Helper()
	program, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	process := exec.Command(program, "-test.run=^$")
	process.Env, process.Stderr = append(os.Environ(), signatureVariable+"="+issuer.AppID+" "+keys), os.Stderr
	out, err := process.StdoutPipe()
	if err == nil {
		err = process.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = process.Process.Signal(syscall.SIGTERM); _ = process.Wait() })
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		tb.Fatal(err)
	}
	return &intake{tb: tb, client: client, base: "http://" + strings.TrimSpace(address), pid: process.Process.Pid}
}

// delivery is one event as Forge sends it.
type delivery struct{ fit, body string }

// deliveries signs and writes n events, of as many repositories.
func (in *ingest) deliveries(n int) []delivery {
	in.tb.Helper()
	made := make([]delivery, n)
	first := in.events
	in.events += n
	drive(in.tb, n, func(i int) error {
		made[i] = delivery{
			fit:  in.issuer.FIT(forgetest.FITOptions{Life: fitLife, ModuleKey: "events"}),
			body: eventBody(first + i),
		}
		return nil
	})
	return made
}

// eventBody is the push of one commit, as Atlassian documents it.
func eventBody(i int) string {
	hash := fmt.Sprintf("%040x", i+1)
	return fmt.Sprintf(`{"payload": {"eventType": "avi:bitbucket:push:repository", "timestamp": %q, "selfGenerated": false,
		"actor": {"type": "user", "accountId": "557058:0b9a2d1c-5f0e-4d2e-9f51-2a7d4c1e8b11", "uuid": "{0b9a2d1c-5f0e-4d2e-9f51-2a7d4c1e8b11}"},
		"repository": {"uuid": "{00000000-0000-4000-8000-%012x}"}, "project": {"uuid": "{5c1f1d0e-6f0a-4f38-9a2a-0f3c6a8f3a10}"},
		"workspace": {"uuid": "{11111111-2222-4333-8444-555555555555}"},
		"push": {"ref": "main", "mainbranch": true, "before": "%040x", "after": "%s", "created": false, "closed": false, "forced": false,
			"truncated": false, "commits": [{"hash": "%s", "message": {"value": "Prune the quinces", "truncated": false},
			"date": "2026-11-20T08:00:00.000000Z", "author": {"user": {"accountId": "557058:0b9a2d1c-5f0e-4d2e-9f51-2a7d4c1e8b11"}}}]}}}`,
		time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), i, i, hash, hash)
}

// deliver sends events to a way from so many clients, and measures.
func (in *ingest) deliver(to *intake, clients int, all []delivery) IngestRound {
	in.tb.Helper()
	before, redisBefore := cpuOf(in.tb, to.pid), to.redisCPU()
	measured := driveFrom(in.tb, clients, len(all), func(i int) error {
		request, err := http.NewRequestWithContext(in.tb.Context(), http.MethodPost, to.base+"/forge/events", strings.NewReader(all[i].body))
		if err != nil {
			return err
		}
		request.Header.Set("Authorization", "Bearer "+all[i].fit)
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-Forge-Oauth-System", in.system)
		request.Header.Set("X-B3-Traceid", all[i].fit[len(all[i].fit)-16:])
		response, err := to.client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err == nil && response.StatusCode != http.StatusAccepted {
			err = fmt.Errorf("status %d: %s", response.StatusCode, answer)
		}
		return err
	})
	thousands := float64(len(all)) / 1000
	return IngestRound{
		load:      measured,
		serverCPU: time.Duration(float64(cpuOf(in.tb, to.pid)-before) / thousands),
		redisCPU:  time.Duration(float64(to.redisCPU()-redisBefore) / thousands),
	}
}

// enqueue is one round of asynq's client in a loop, with tasks as large as ours.
func (in *ingest) enqueue() IngestRound {
	in.tb.Helper()
	client := asynq.NewClientFromRedisClient(in.crowded.redis)
	content := make([]byte, in.payload)
	_, _ = rand.Read(content) // never fails (crypto/rand)
	const name = "bare"
	before, redisBefore := ownCPU(), in.crowded.redisCPU()
	round := drive(in.tb, tasksARound, func(int) error {
		_, err := client.EnqueueContext(in.tb.Context(), asynq.NewTask("push", content),
			asynq.TaskID(uuid.NewString()), asynq.Queue(name), asynq.Timeout(time.Hour), asynq.Retention(time.Hour))
		return err
	})
	const thousands = tasksARound / 1000
	measured := IngestRound{load: round, serverCPU: (ownCPU() - before) / thousands, redisCPU: (in.crowded.redisCPU() - redisBefore) / thousands}
	if err := asynq.NewInspectorFromRedisClient(in.crowded.redis).DeleteQueue(name, true); err != nil {
		in.tb.Fatal(err)
	}
	return measured
}

// cpuOf is the processor time that a process has used, to a hundredth of a second (proc(5)).
func cpuOf(tb testing.TB, pid int) time.Duration {
	tb.Helper()
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		tb.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11]) // the kernel wrote them
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// redisCPU is that of the way's Redis; zero where it has none.
func (in *intake) redisCPU() time.Duration {
	if in.redis == nil {
		return 0
	}
	info, err := in.redis.Info(context.Background(), "server").Result()
	if err != nil {
		in.tb.Fatal(err)
	}
	_, rest, _ := strings.Cut(info, "process_id:")
	pid, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]))
	if err != nil {
		in.tb.Fatal(err)
	}
	return cpuOf(in.tb, pid)
}

// fill lets a million tasks wait in a way's queue, half of them for their turn and half for a time, as asynq keeps them.
func (in *ingest) fill(to *intake) {
	in.tb.Helper()
	const batch = 5_000
	queue := "asynq:{" + keyspace.Queue(string(job.ClassEvent)) + "}:"
	content := bytes.Repeat([]byte{'x'}, in.payload)
	later := float64(time.Now().Add(24 * time.Hour).Unix())
	for done := 0; done < manyWaiting; done += batch {
		pipeline := to.redis.Pipeline()
		for i := range batch {
			id := fmt.Sprintf("waits-%d", done+i)
			if (done+i)%2 == 0 {
				pipeline.HSet(in.tb.Context(), queue+"t:"+id, "msg", content, "state", "pending")
				pipeline.LPush(in.tb.Context(), queue+"pending", id)
			} else {
				pipeline.HSet(in.tb.Context(), queue+"t:"+id, "msg", content, "state", "scheduled")
				pipeline.Do(in.tb.Context(), "zadd", queue+"scheduled", later, id)
			}
		}
		if _, err := pipeline.Exec(in.tb.Context()); err != nil {
			in.tb.Fatal(err)
		}
	}
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		info, err := to.redis.Info(in.tb.Context(), "persistence").Result()
		if err != nil {
			in.tb.Fatal(err)
		}
		if strings.Contains(info, "aof_rewrite_in_progress:0") && strings.Contains(info, "aof_rewrite_scheduled:0") {
			return
		}
		<-poll.C
	}
}

// payloadOf is the size of a task that a receiver has queued.
func (in *intake) payloadOf() int {
	in.tb.Helper()
	inspector := asynq.NewInspectorFromRedisClient(in.redis)
	tasks, err := inspector.ListPendingTasks(string(job.ClassEvent), asynq.PageSize(1))
	if err != nil || len(tasks) == 0 {
		in.tb.Fatalf("no task is queued: %v", err)
	}
	return len(tasks[0].Payload)
}

// queued is how many tasks a receiver has queued, waiting for their turn or for a slot.
func (in *intake) queued() int {
	in.tb.Helper()
	info, err := asynq.NewInspectorFromRedisClient(in.redis).GetQueueInfo(string(job.ClassEvent))
	if err != nil {
		in.tb.Fatal(err)
	}
	return info.Size
}
