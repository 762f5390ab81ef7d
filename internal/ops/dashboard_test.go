package ops_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/ops"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

const (
	user     = "operator"
	password = "correct horse"
)

// dashboard is a listener over a Redis with tasks in two queues, one of them failed and kept, one completed with a result.
type dashboard struct {
	*httptest.Server
	redis redis.UniversalClient
	log   *bytes.Buffer // read it after the requests
}

func newDashboard(t *testing.T, write bool) *dashboard {
	t.Helper()
	d := &dashboard{redis: queuetest.Start(t).Client(), log: &bytes.Buffer{}}
	handler := handler(t, ops.Config{
		Redis:     d.redis,
		Dashboard: ops.Dashboard{User: user, Password: secret.New(password), Write: write},
		Describe:  func(payload []byte) string { return fmt.Sprintf("push to acme/web (%d)", len(payload)) },
		Logger:    telemetry.NewLogger(d.log, "info", "json"),
	})
	d.Server = httptest.NewServer(handler)
	t.Cleanup(d.Close)
	client := asynq.NewClientFromRedisClient(d.redis)
	for i, queue := range []string{"interactive", "event", "event"} {
		task := asynq.NewTask("push", []byte(`{"t":"`+canary+`"}`))
		if _, err := client.Enqueue(task, asynq.Queue(queue), asynq.TaskID(fmt.Sprint("task-", i)), asynq.Retention(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	d.complete(t, "interactive")
	return d
}

// complete runs the queue's only task, whose result holds the canary.
func (d *dashboard) complete(t *testing.T, queue string) {
	t.Helper()
	done := make(chan struct{})
	server := asynq.NewServerFromRedisClient(d.redis, asynq.Config{
		Queues: map[string]int{queue: 1}, LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond,
	})
	err := server.Start(asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error {
		defer close(done)
		_, err := task.ResultWriter().Write([]byte(canary))
		return err
	}))
	if err != nil {
		t.Fatal(err)
	}
	<-done
	server.Shutdown()
}

type call struct {
	method, path, user, password string
	header                       map[string]string
}

type answer struct {
	StatusCode int
	Header     http.Header
}

func (d *dashboard) do(t *testing.T, c call) (answer, string) {
	t.Helper()
	if c.method == "" {
		c.method = http.MethodGet
	}
	request, err := http.NewRequestWithContext(t.Context(), c.method, d.URL+c.path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.user != "" || c.password != "" {
		request.SetBasicAuth(c.user, c.password)
	}
	for name, value := range c.header {
		request.Header.Set(name, value)
	}
	response, err := d.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{response.StatusCode, response.Header}, string(body)
}

func TestDashboardLogin(t *testing.T) {
	t.Parallel()
	d := newDashboard(t, false)
	for name, tc := range map[string]struct {
		call
		status int
	}{
		"right":          {call{user: user, password: password}, http.StatusOK},
		"none":           {call{}, http.StatusUnauthorized},
		"wrong password": {call{user: user, password: canary}, http.StatusUnauthorized},
		"wrong user":     {call{user: "root", password: password}, http.StatusUnauthorized},
		"no password":    {call{user: user}, http.StatusUnauthorized},
		"a longer one":   {call{user: user, password: password + "x"}, http.StatusUnauthorized},
		"swapped":        {call{user: password, password: user}, http.StatusUnauthorized},
		"bearer":         {call{header: map[string]string{"Authorization": "Bearer " + password}}, http.StatusUnauthorized},
	} {
		for _, path := range []string{"/dashboard", "/dashboard/", "/dashboard/api/queues", "/dashboard/static/media/logo-color.c2b0c1f3.svg"} {
			tc.path = path
			answer, body := d.do(t, tc.call)
			challenged := strings.HasPrefix(answer.Header.Get("WWW-Authenticate"), "Basic ")
			if answer.StatusCode != tc.status || challenged != (tc.status == http.StatusUnauthorized) {
				t.Errorf("%s, %s: %d %s", name, path, answer.StatusCode, body)
			}
		}
	}
	d.Close()
	if strings.Contains(d.log.String(), canary) || strings.Contains(d.log.String(), password) || strings.Contains(d.log.String(), "root") {
		t.Errorf("a wrong login is in the log:\n%s", d.log)
	}
	if refused := strings.Count(d.log.String(), "login was refused"); refused != 5*4 {
		t.Errorf("%d refused logins in the log:\n%s", refused, d.log)
	}
}

func TestDashboardHeaders(t *testing.T) {
	t.Parallel()
	d := newDashboard(t, false)
	for _, path := range []string{"/dashboard", "/dashboard/api/queues", "/dashboard/queues/event"} {
		answer, _ := d.do(t, call{path: path, user: user, password: password})
		policy := answer.Header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self' 'sha256-", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: no %q in %q", path, part, policy)
			}
		}
		scripts, _, _ := strings.Cut(policy, "; style-src")
		if strings.Contains(scripts, "unsafe") || strings.Contains(policy, "https:") {
			t.Errorf("%s: %q allows too much", path, policy)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
		} {
			if got := answer.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
	}
}

func (d *dashboard) pending(t *testing.T, queue string) int {
	t.Helper()
	info, err := asynq.NewInspectorFromRedisClient(d.redis).GetQueueInfo(queue)
	if err != nil {
		t.Fatal(err)
	}
	return info.Pending
}

func TestDashboardWrites(t *testing.T) {
	t.Parallel()
	const deleteAll = "/dashboard/api/queues/event/pending_tasks:delete_all"
	const archive = "/dashboard/api/queues/event/pending_tasks/task-1:archive"
	crossSite := map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://attacker.example"}
	sameSite := map[string]string{"Sec-Fetch-Site": "same-origin"}
	for name, tc := range map[string]struct {
		write   bool
		call    call
		status  int
		pending int
	}{
		"read-only POST":         {false, call{http.MethodPost, archive, user, password, sameSite}, http.StatusMethodNotAllowed, 2},
		"read-only DELETE":       {false, call{http.MethodDelete, deleteAll, user, password, sameSite}, http.StatusMethodNotAllowed, 2},
		"POST":                   {true, call{http.MethodPost, archive, user, password, sameSite}, http.StatusNoContent, 1},
		"DELETE":                 {true, call{http.MethodDelete, deleteAll, user, password, nil}, http.StatusOK, 0},
		"cross-site POST":        {true, call{http.MethodPost, archive, user, password, crossSite}, http.StatusForbidden, 2},
		"cross-site DELETE":      {true, call{http.MethodDelete, deleteAll, user, password, crossSite}, http.StatusForbidden, 2},
		"old browser's":          {true, call{http.MethodPost, archive, user, password, map[string]string{"Origin": "https://attacker.example"}}, http.StatusForbidden, 2},
		"POST without the login": {true, call{http.MethodPost, archive, "", "", sameSite}, http.StatusUnauthorized, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDashboard(t, tc.write)
			answer, body := d.do(t, tc.call)
			if pending := d.pending(t, "event"); answer.StatusCode != tc.status || pending != tc.pending {
				t.Errorf("%d %s, %d pending; want %d, %d", answer.StatusCode, body, pending, tc.status, tc.pending)
			}
		})
	}
}

func TestDashboardShowsNoContent(t *testing.T) {
	t.Parallel()
	d := newDashboard(t, false)
	for path, want := range map[string]string{
		"/dashboard/api/queues":                             `"event"`,
		"/dashboard/api/queues/event/pending_tasks":         "push to acme/web",
		"/dashboard/api/queues/event/tasks/task-1":          "push to acme/web",
		"/dashboard/api/queues/interactive/completed_tasks": "bytes",
		"/dashboard/api/queues/interactive/tasks/task-0":    "bytes",
		"/dashboard/api/servers":                            "servers",
		"/dashboard/api/scheduler_entries":                  "entries",
		"/dashboard/api/queue_stats":                        "stats",
	} {
		answer, body := d.do(t, call{path: path, user: user, password: password})
		if answer.StatusCode != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, answer.StatusCode, body)
		}
		if strings.Contains(body, canary) {
			t.Errorf("%s shows the canary: %s", path, body)
		}
	}
	for _, path := range []string{"/dashboard/api/redis_info", "/dashboard/api/redis_info/", "/dashboard/api//redis_info", "/dashboard/api/redis%5Finfo"} {
		if answer, body := d.do(t, call{path: path, user: user, password: password}); answer.StatusCode != http.StatusForbidden || strings.Contains(body, "redis_version") {
			t.Errorf("%s: %d %s", path, answer.StatusCode, body)
		}
	}
	if err := d.redis.Ping(t.Context()).Err(); err != nil {
		t.Errorf("the caller's client: %v", err)
	}
}

var (
	unseen  = regexp.MustCompile(`(?s)<(style|script|svg|head|noscript)\b.*?</(style|script|svg|head|noscript)>`)
	tag     = regexp.MustCompile(`<[^>]*>`)
	console = regexp.MustCompile(`(?m)^.*CONSOLE.*$`)
)

// render is the page's text once its scripts have run in a real browser, and what they and the browser said on its console.
func (d *dashboard) render(t *testing.T, page string) (text, said string) {
	t.Helper()
	binary, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatal("chromium is not in PATH; run `make test-tools` (Debian: apt-get install chromium)")
	}
	address, err := url.Parse(d.URL + page)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.UserPassword(user, password)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	home := t.TempDir()
	command := exec.CommandContext(ctx, binary, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--enable-logging=stderr", "--user-data-dir="+home, "--virtual-time-budget=8000", "--dump-dom", address.String())
	command.Env = append(command.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home)
	command.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		t.Fatalf("chromium: %v\n%s", err, stderr.String())
	}
	text = tag.ReplaceAllString(unseen.ReplaceAllString(stdout.String(), ""), "\n")
	return strings.Join(strings.Fields(text), " "), strings.Join(console.FindAllString(stderr.String(), -1), "\n")
}

func TestDashboardRendersInABrowser(t *testing.T) {
	t.Parallel()
	d := newDashboard(t, false)
	for page, want := range map[string][]string{
		"/dashboard/":                                {"interactive", "event", "Queues"},
		"/dashboard/queues/event?status=pending":     {"push to acme/web", "1-2 of 2"},
		"/dashboard/queues/interactive/tasks/task-0": {"task-0", "completed"},
		"/dashboard/redis":                           {"Could not retrieve redis live data"},
	} {
		text, said := d.render(t, page)
		for _, part := range want {
			if !strings.Contains(text, part) {
				t.Errorf("%s: no %q in %q; the console says:\n%s", page, part, text, said)
			}
		}
		if strings.Contains(text, canary) {
			t.Errorf("%s shows the canary", page)
		}
		// Fonts and the manifest, which browsers ask for without the login, are refused on purpose.
		for line := range strings.Lines(said) {
			if strings.Contains(line, "violates") && !strings.Contains(line, "fonts.googleapis.com") && !strings.Contains(line, "manifest") {
				t.Errorf("%s: the policy is in its way: %s", page, line)
			}
		}
	}
}
