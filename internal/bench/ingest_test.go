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
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

const (
	// eventsARound, tasksARound take about a second each.
	eventsARound = 8_000
	tasksARound  = 20_000
	loneEvents   = 400
	// manyWaiting is how many jobs wait while the rate is measured again, of so many installations.
	manyWaiting    = 1_000_000
	waitingTenants = 1_000
	// tenants are the installations whose events run at once: few enough of each that none stands in line.
	tenants = 1_000
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
	varied    *intake // as it is deployed, for events of many installations, and for those that coalesce
	signature *intake // the signature check only
	peer      *intake // what a user would write himself
	crowded   *intake // as it is deployed, with jobs that wait; before that, for asynq's client
	payload   int
	system    string // the OAuth token of all deliveries
	events    int    // made so far
	tenants   int    // installations made so far
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
	in.varied = startReceiver(tb, issuer, keys.URL, "GITSMITH_RULES="+rules)
	in.signature = startSelf(tb, signatureVariable+"="+issuer.AppID+" "+keys.URL, in.full.client)
	store := queuetest.Start(tb)
	in.peer = startSelf(tb, peerVariable+"="+issuer.AppID+" "+keys.URL+" "+store.URL, in.full.client)
	in.peer.redis = store.Client()
	in.system = issuer.OAuthToken(forgetest.OAuthOptions{ExpiresAt: time.Now().Add(2 * time.Hour), Scopes: []string{"write:repository:bitbucket"}})
	return in
}

// startSelf starts this program once more, as another receiver.
func startSelf(tb testing.TB, variable string, client *http.Client) *intake {
	tb.Helper()
	program, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	process := exec.Command(program, "-test.run=^$")
	process.Env, process.Stderr = append(os.Environ(), variable), os.Stderr
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
	first := in.events
	return in.made(n, func(i int) (installation, repository int) { return 0, first + i })
}

// ofTenants are n events of so many installations that had none before, but for one each that comes first.
func (in *ingest) ofTenants(n, tenants int) (first, then []delivery) {
	in.tb.Helper()
	before, events := in.tenants, in.events
	in.tenants += tenants
	all := in.made(tenants+n, func(i int) (installation, repository int) { return 1 + before + i%tenants, events + i })
	return all[:tenants], all[tenants:]
}

// ofOne are n events of one repository: each replaces the one before, unless that has begun.
func (in *ingest) ofOne(n int) []delivery {
	in.tb.Helper()
	return in.made(n, func(int) (installation, repository int) { return 0, 0 })
}

// made signs and writes n events of installations, zero for the usual one, and repositories.
func (in *ingest) made(n int, of func(i int) (installation, repository int)) []delivery {
	in.tb.Helper()
	made := make([]delivery, n)
	first := in.events
	in.events += n
	drive(in.tb, n, func(i int) error {
		tenant, repository := of(i)
		options := forgetest.FITOptions{Life: fitLife, ModuleKey: "events"}
		if tenant > 0 {
			options.Installation = installationOf(tenant)
		}
		made[i] = delivery{fit: in.issuer.FIT(options), body: eventBody(first+i, repository)}
		return nil
	})
	return made
}

// eventBody is the push of one commit to a repository, as Atlassian documents it.
func eventBody(i, repository int) string {
	hash := fmt.Sprintf("%040x", i+1)
	return fmt.Sprintf(`{"payload": {"eventType": "avi:bitbucket:push:repository", "timestamp": %q, "selfGenerated": false,
		"actor": {"type": "user", "accountId": "557058:0b9a2d1c-5f0e-4d2e-9f51-2a7d4c1e8b11", "uuid": "{0b9a2d1c-5f0e-4d2e-9f51-2a7d4c1e8b11}"},
		"repository": {"uuid": "{00000000-0000-4000-8000-%012x}"}, "project": {"uuid": "{5c1f1d0e-6f0a-4f38-9a2a-0f3c6a8f3a10}"},
		"workspace": {"uuid": "{11111111-2222-4333-8444-555555555555}"},
		"push": {"ref": "main", "mainbranch": true, "before": "%040x", "after": "%s", "created": false, "closed": false, "forced": false,
			"truncated": false, "commits": [{"hash": "%s", "message": {"value": "Prune the quinces", "truncated": false},
			"date": "2026-11-20T08:00:00.000000Z", "author": {"user": {"accountId": "557058:0b9a2d1c-5f0e-4d2e-9f51-2a7d4c1e8b11"}}}]}}}`,
		time.Now().UTC().Format("2006-01-02T15:04:05.000000Z"), repository, i, hash, hash)
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
func (in *ingest) enqueue(n int) IngestRound {
	in.tb.Helper()
	client := asynq.NewClientFromRedisClient(in.crowded.redis)
	content := make([]byte, in.payload)
	_, _ = rand.Read(content) // never fails (crypto/rand)
	const name = "bare"
	before, redisBefore := ownCPU(), in.crowded.redisCPU()
	round := drive(in.tb, n, func(int) error {
		_, err := client.EnqueueContext(in.tb.Context(), asynq.NewTask("push", content),
			asynq.TaskID(uuid.NewString()), asynq.Queue(name), asynq.Timeout(time.Hour), asynq.Retention(time.Hour))
		return err
	})
	each := func(used time.Duration) time.Duration { return time.Duration(float64(used) * 1000 / float64(n)) }
	measured := IngestRound{load: round, serverCPU: each(ownCPU() - before), redisCPU: each(in.crowded.redisCPU() - redisBefore)}
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

// fill has a million jobs wait in a way's Redis, of as many installations as tenants: some have a ticket, the others stand in line.
func (in *ingest) fill(to *intake, jobs int) {
	in.tb.Helper()
	client := queue.NewClient(queue.Options{Redis: to.redis, Keyring: to.ring, Cap: scaleCap})
	drive(in.tb, jobs, func(i int) error {
		_, created, err := client.Enqueue(in.tb.Context(), jobOf(installationOf(1_000_000+i%waitingTenants), i, job.ClassEvent))
		if err == nil && !created {
			err = fmt.Errorf("job %d was there before", i)
		}
		return err
	})
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

// payloadOf is the size of what a receiver has sealed for a job.
func (in *intake) payloadOf() int {
	in.tb.Helper()
	own := keyspace.Installation(forgetest.Installation)
	ids, err := in.redis.ZRange(in.tb.Context(), own.Jobs(), 0, 0).Result()
	if err != nil || len(ids) == 0 {
		in.tb.Fatalf("no job is kept: %v", err)
	}
	size, err := in.redis.StrLen(in.tb.Context(), own.Payload(ids[0])).Result()
	if err != nil || size == 0 {
		in.tb.Fatalf("a job has no content: %v", err)
	}
	return int(size)
}

// queued is how many jobs of the usual installation a receiver has queued, waiting for their turn or for a slot.
func (in *intake) queued() int {
	in.tb.Helper()
	return in.waiting(forgetest.Installation)
}

// waiting is how many jobs of an installation have a slot or stand in line.
func (in *intake) waiting(installation string) (n int) {
	in.tb.Helper()
	own, class := keyspace.Installation(installation), string(job.ClassEvent)
	for _, key := range []string{own.Held(class), own.Line(class)} {
		members, err := in.redis.ZCard(in.tb.Context(), key).Result()
		if err != nil {
			in.tb.Fatal(err)
		}
		n += int(members)
	}
	return n
}
