package systemtest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

const (
	forgeWaits   = 5 * time.Second // for an answer
	redeliveries = 4               // of what was not answered with 2xx
	senders      = 64              // deliveries under way at once, beside those that wait for their next try
)

// happened is one event and what became of its deliveries.
type happened struct {
	number        int
	installation  string
	slug          string
	selfGenerated bool
	again         bool // delivered once more although it was answered

	mu       sync.Mutex
	sent     int
	answered int // with 2xx
	jobs     []string
}

// ref is the event's own; all are equally long.
func (h *happened) ref() string { return fmt.Sprintf("refs/heads/e%07d", h.number) }

// body is the event as Forge delivers it for the retry-th time, in one of three shapes.
func (h *happened) body(began time.Time, retry int) []byte {
	event := map[string]any{
		"eventType": "avi:bitbucket:push:repository", "timestamp": began.Add(time.Duration(h.number) * time.Millisecond).UTC().Format(time.RFC3339Nano),
		"selfGenerated": h.selfGenerated, "actor": map[string]any{"type": "user", "accountId": "712020:alice"},
		"workspace":  map[string]any{"uuid": "{11111111-2222-4333-8444-555555555555}"},
		"repository": map[string]any{"uuid": "{7467145b-05d6-40a7-b915-1d5edad6ef10}", "slug": h.slug},
		"push":       map[string]any{"ref": h.ref(), "mainbranch": "main", "created": true, "closed": false, "forced": false, "truncated": false},
	}
	if retry > 0 {
		event["retryContext"] = map[string]any{"retryCount": retry, "retryReason": "REMOTE_UNAVAILABLE", "retryData": nil}
	}
	var whole any = event
	switch (h.number + retry) % 3 { // a redelivery has another shape than what it repeats
	case 1:
		whole = map[string]any{"payload": event}
	case 2:
		whole = map[string]any{"payload": map[string]any{"event": event}}
	}
	text, _ := json.Marshal(whole) // maps of texts always encode
	return text
}

// flood delivers events as Forge does.
type flood struct {
	s      *system
	client *http.Client
	began  time.Time
	minute time.Duration // between redeliveries; 0: none are made
	token  string        // the system's
	slots  chan struct{}

	mu      sync.Mutex
	fits    map[string]signed
	longest time.Duration // of an answer
	sent    int
	refused int // without a 2xx
	unread  []string
}

// signed is a FIT that serves for a second: to sign one for each delivery would cost more than what is measured.
type signed struct {
	fit  string
	made time.Time
}

func (s *system) newFlood(minute time.Duration, token string) *flood {
	transport := &http.Transport{MaxIdleConnsPerHost: senders}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &flood{
		s: s, client: &http.Client{Transport: transport, Timeout: forgeWaits}, began: time.Now(), minute: minute, token: token,
		slots: make(chan struct{}, senders), fits: map[string]signed{},
	}
}

// fit is one of the installation's.
func (f *flood) fit(installation string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := f.fits[installation]
	if time.Since(kept.made) > time.Second {
		kept = signed{f.s.issuer.FIT(forgetest.FITOptions{Installation: installation, ModuleKey: "events"}), time.Now()}
		f.fits[installation] = kept
	}
	return kept.fit
}

// run delivers the events at a steady rate (each second; 0: as fast as answers come) and returns when the last one is answered or
// given up.
func (f *flood) run(ctx context.Context, events []*happened, rate int) {
	var group sync.WaitGroup
	defer group.Wait()
	var tick <-chan time.Time
	if rate > 0 {
		ticker := time.NewTicker(time.Second / time.Duration(rate))
		defer ticker.Stop()
		tick = ticker.C
	}
	for _, event := range events {
		if tick != nil {
			select {
			case <-tick:
			case <-ctx.Done():
				return
			}
		}
		f.slots <- struct{}{}
		group.Go(func() { f.deliver(ctx, event) })
	}
}

// deliver sends one event until it is answered, or as often as Forge does.
func (f *flood) deliver(ctx context.Context, event *happened) {
	taken := f.try(ctx, event, 0)
	<-f.slots
	retry := 1
	if taken && event.again {
		f.slots <- struct{}{}
		f.try(ctx, event, retry)
		<-f.slots
		return
	}
	for ; !taken && f.minute > 0 && retry <= redeliveries; retry++ {
		wait := time.NewTimer(f.minute)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return
		}
		f.slots <- struct{}{}
		taken = f.try(ctx, event, retry)
		<-f.slots
	}
}

// try sends an event once and reports whether it was answered with 2xx.
func (f *flood) try(ctx context.Context, event *happened, retry int) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, f.s.api+"/forge/events", bytes.NewReader(event.body(f.began, retry)))
	if err != nil {
		return false
	}
	request.Header.Set("Authorization", "Bearer "+f.fit(event.installation))
	request.Header.Set("Content-Type", "application/json")
	if f.token != "" {
		request.Header.Set("X-Forge-Oauth-System", f.token)
	}
	start := time.Now()
	status, answer := f.exchange(request)
	took := time.Since(start)
	f.mu.Lock()
	f.sent++
	f.longest = max(f.longest, took)
	taken := status/100 == 2
	if !taken {
		f.refused++
		if status != 0 && len(f.unread) < 5 {
			f.unread = append(f.unread, fmt.Sprintf("%d: %s", status, answer))
		}
	}
	f.mu.Unlock()
	var view struct {
		Jobs []struct {
			ID string `json:"id"`
		} `json:"jobs"`
	}
	_ = json.Unmarshal(answer, &view) // what holds no job names none
	event.mu.Lock()
	defer event.mu.Unlock()
	event.sent++
	if taken {
		event.answered++
	}
	for _, made := range view.Jobs {
		if !slices.Contains(event.jobs, made.ID) {
			event.jobs = append(event.jobs, made.ID)
		}
	}
	return taken
}

// exchange is a request's status, 0 where there was no answer, and the answer.
func (f *flood) exchange(request *http.Request) (int, []byte) {
	response, err := f.client.Do(request)
	if err != nil {
		return 0, nil
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil
	}
	return response.StatusCode, answer
}

// useRules gives the receiver a file of rules before it is started.
func (s *system) useRules(rules string) {
	s.t.Helper()
	name := filepath.Join(s.t.TempDir(), "rules.yml")
	if err := os.WriteFile(name, []byte(rules), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.settings = append(s.settings, "GITSMITH_RULES="+name, "GITSMITH_LOG_LEVEL=warn")
}

// startSoakWorker starts a worker that talks to Redis itself, says little and has no budget of git requests: the load is of one hour in
// seconds.
func (s *system) startSoakWorker(more ...string) *process {
	s.t.Helper()
	return s.startWorker(append([]string{"GITSMITH_REDIS_URL=" + s.redis.URL, "GITSMITH_LOG_LEVEL=warn", "GITSMITH_GIT_BUDGET=0"}, more...)...)
}

// end kills every process of the system, so that what it has left to do is not done beside the next one's load.
func (s *system) end() {
	for _, each := range s.logs {
		each.kill()
	}
}

// tally is the states of all jobs' records in Redis, by how many there are.
func (s *system) tally() map[string]int {
	s.t.Helper()
	states := map[string]int{}
	for _, job := range s.records("gitsmith:{*}:job:*") {
		states[job.state]++
	}
	return states
}

// kept is what a job's record says of its times, in Unix milliseconds, and how it stands.
type kept struct {
	state            string
	created, started int64
}

func (s *system) records(pattern string) []kept {
	s.t.Helper()
	var all []kept
	var mutex sync.Mutex
	read := func(ctx context.Context, node redis.Cmdable) error {
		for cursor := uint64(0); ; {
			keys, next, err := node.Scan(ctx, cursor, pattern, 5000).Result()
			if err != nil {
				return err
			}
			pipe := node.Pipeline()
			for _, key := range keys {
				pipe.HMGet(ctx, key, "state", "created", "started")
			}
			answers, err := pipe.Exec(ctx)
			if err != nil && len(keys) > 0 {
				return err
			}
			mutex.Lock()
			for _, answer := range answers {
				all = append(all, keptOf(answer.(interface{ Val() []any }).Val()))
			}
			mutex.Unlock()
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	client, err := s.redis.Client(), error(nil)
	if cluster, is := client.(*redis.ClusterClient); is {
		err = cluster.ForEachMaster(s.t.Context(), func(ctx context.Context, node *redis.Client) error { return read(ctx, node) })
	} else {
		err = read(s.t.Context(), client)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

func keptOf(fields []any) (k kept) {
	text := func(i int) string { text, _ := fields[i].(string); return text }
	k.state = text(0)
	_, _ = fmt.Sscan(text(1), &k.created) // absent is zero
	_, _ = fmt.Sscan(text(2), &k.started)
	return k
}

// within polls rarely, for at most limit.
func within(t testing.TB, limit time.Duration, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// unfinished is how many jobs there are that have not ended.
func (s *system) unfinished() (int64, error) {
	client, ctx := s.redis.Client(), s.t.Context()
	pipeline := client.Pipeline()
	var counts []*redis.IntCmd
	for shard := range keyspace.Shards {
		live, err := client.ZRange(ctx, keyspace.Live(shard), 0, -1).Result()
		if err != nil {
			return 0, err
		}
		for _, name := range live {
			own := keyspace.Installation(name)
			counts = append(counts, pipeline.ZCard(ctx, own.Due()))
			for _, class := range job.Classes() {
				counts = append(counts, pipeline.ZCard(ctx, own.Held(string(class))), pipeline.ZCard(ctx, own.Line(string(class))))
			}
		}
	}
	if len(counts) == 0 {
		return 0, nil
	}
	_, err := pipeline.Exec(ctx)
	left := int64(0)
	for _, count := range counts {
		left += count.Val()
	}
	return left, err
}

// settle waits until nothing is left to do.
func (s *system) settle(limit time.Duration) {
	s.t.Helper()
	within(s.t, limit, "the jobs are done", func() error {
		left, err := s.unfinished()
		if err == nil && left > 0 {
			err = fmt.Errorf("%d tasks are left", left)
		}
		return err
	})
}

func eventsOf(from, count, installations, repositories int) []*happened {
	events := make([]*happened, count)
	for i := range events {
		n := from + i
		events[i] = &happened{
			number: n, slug: fmt.Sprintf("r%d", n%repositories), installation: fmt.Sprintf("ari:cloud:ecosystem::installation/soak-%d", n%installations),
		}
	}
	return events
}
