package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/artifact"
	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/telemetry"
	"github.com/gitsmith/gitsmith/internal/testkit"
	"github.com/gitsmith/gitsmith/internal/tipcache"
	"github.com/gitsmith/gitsmith/internal/vault"
	"github.com/gitsmith/gitsmith/internal/worker"
)

var theSystem = forge.Actor{Kind: forge.ActorSystem}

// tended is a worker's housekeeping on a real Redis, with a clock that the test moves.
type tended struct {
	*housekeeping
	now  time.Time
	tips string
}

func startHousekeeping(t *testing.T) *tended {
	t.Helper()
	t.Parallel()
	ctx, client := t.Context(), queuetest.Start(t).Client()
	k := &tended{now: time.Now(), tips: t.TempDir()}
	ring := testkit.Keyring(t, "k", 1)
	store, err := artifact.Open(ctx, "mem://")
	if err != nil {
		t.Fatal(err)
	}
	git, err := gitrepo.New(gitrepo.Config{Base: &url.URL{Scheme: "https", Host: "bitbucket.org"}, TempDir: t.TempDir(), CacheDir: k.tips})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(git.Close(), store.Close()) })
	b := &base{
		logger: slog.New(slog.DiscardHandler), redis: client, artifacts: store, vault: vault.New(client, ring, vault.Options{}),
		queue:         queue.Options{Redis: client, Keyring: ring, Cap: 2},
		installations: installation.New(client, installation.Options{Remember: -1, Now: func() time.Time { return k.now }}),
	}
	b.batches = ledger.NewBatches(ledger.BatchOptions{Redis: client, Keyring: ring, Ledger: queue.NewClient(b.queue).Ledger})
	k.housekeeping = b.newHousekeeping(git)
	return k
}

// furnish gives an installation one of everything: tokens, one of them refused, jobs, an archive, a tip.
func (k *tended) furnish(t *testing.T, id string) {
	t.Helper()
	ctx := t.Context()
	_, touchErr := k.installations.Touch(ctx, installation.Call{ID: id, Installed: true})
	_, _, batchErr := k.batches.Create(ctx, batch.Batch{
		ID: "b-" + id, Installation: id, Actor: forge.Actor{Kind: forge.ActorSystem}, CreatedAt: time.Now(), Digest: "d",
		Request: batch.Request{Push: new(job.Push), Repositories: make([]batch.Target, 2)},
	})
	token := forge.OAuthToken{ExpiresAt: time.Now().Add(time.Hour)}
	var tokenErr error
	for _, text := range []string{"before", "current", "refused"} {
		token.Text = secret.New(text)
		_, err := k.vault.Put(ctx, id, theSystem, token, time.Time{})
		tokenErr = errors.Join(tokenErr, err)
	}
	tokenErr = errors.Join(tokenErr, k.vault.MarkRefused(ctx, id, theSystem, token))
	token.Text = secret.New("current too")
	_, putErr := k.vault.Put(ctx, id, theSystem, token, time.Time{})
	for _, name := range []string{"a", "b", "c"} {
		_, _, err := k.jobs.Enqueue(ctx, job.Job{
			ID: id + "-" + name, Installation: id, Actor: forge.Actor{Kind: forge.ActorSystem}, Class: job.ClassEvent, CreatedAt: time.Now(), Digest: "d",
			Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}, Clone: &job.Clone{},
		})
		touchErr = errors.Join(touchErr, err)
	}
	_, artifactErr := k.artifacts.Put(ctx, worker.ArtifactFolder(id)+"/a.zip", func(w io.Writer) error { _, err := io.WriteString(w, "zip"); return err })
	tips, err := tipcache.Open(k.tips, 1<<20)
	if err == nil {
		err = tips.Store(tipcache.Key{Installation: id, Repository: "acme/web"}, nil, nil, nil, nil)
	}
	if err := errors.Join(touchErr, batchErr, tokenErr, putErr, artifactErr, err); err != nil {
		t.Fatal(err)
	}
}

// left is how many keys, archives and tips of an installation there are.
func (k *tended) left(t *testing.T, id string) (keys, archives, tips int) {
	t.Helper()
	all, err := k.redis.Keys(t.Context(), "*"+id+"*").Result()
	if err != nil {
		t.Fatal(err)
	}
	if content, _, err := k.artifacts.Get(t.Context(), worker.ArtifactFolder(id)+"/a.zip"); err == nil {
		archives = 1
		_ = content.Close()
	}
	files, err := filepath.Glob(filepath.Join(k.tips, "*.tip"))
	if err != nil {
		t.Fatal(err)
	}
	return len(all), archives, len(files)
}

func (k *tended) tend(t *testing.T) {
	t.Helper()
	if err := k.round(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestRemovedInstallation loses its tokens and jobs at once, everything else at its date, and its neighbour nothing.
func TestRemovedInstallation(t *testing.T) {
	k := startHousekeeping(t)
	k.furnish(t, "gone")
	k.furnish(t, "here")
	hereKeys, _, _ := k.left(t, "here")
	if _, err := k.installations.Remove(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	k.tend(t)
	for _, name := range []string{"a", "b", "c"} {
		if status, err := k.jobs.Get(t.Context(), "gone", "gone-"+name); err != nil || status.State != job.Canceled {
			t.Errorf("%s: %+v %v", name, status, err)
		}
	}
	if _, err := k.vault.Take(t.Context(), "gone", forge.Actor{Kind: forge.ActorSystem}); fault.KindOf(err) != fault.Expired {
		t.Errorf("a token is kept: %v", err)
	}
	if keys, err := k.redis.Keys(t.Context(), "gitsmith:{gone}:token*").Result(); err != nil || len(keys) != 0 {
		t.Errorf("of the tokens are left: %q, %v", keys, err)
	}
	if _, archives, _ := k.left(t, "gone"); archives != 1 {
		t.Error("an archive went before its time")
	}
	k.now = k.now.Add(31 * 24 * time.Hour)
	k.tend(t)
	if keys, archives, tips := k.left(t, "gone"); keys != 0 || archives != 0 || tips != 1 {
		t.Errorf("left: %d keys, %d archives, %d tips of both", keys, archives, tips)
	}
	recent, err := k.batches.Recent(t.Context(), 10)
	if active := k.redis.ZRange(t.Context(), "gitsmith:batches:active", 0, -1).Val(); err != nil || len(recent) != 1 || !slices.Equal(active, []string{"here b-here"}) {
		t.Errorf("batches: %+v, %v, active %q", recent, err, active)
	}
	if keys, archives, _ := k.left(t, "here"); keys != hereKeys || archives != 1 {
		t.Errorf("of the neighbour are left: %d of %d keys, %d archives", keys, hereKeys, archives)
	}
}

// TestSilentInstallation is taken for removed where its triggers stay away and its tokens are refused.
func TestSilentInstallation(t *testing.T) {
	k := startHousekeeping(t)
	k.furnish(t, "silent")
	k.furnish(t, "quiet")
	k.now = k.now.Add(4 * time.Hour)
	if err := k.installations.Refused(t.Context(), "silent"); err != nil {
		t.Fatal(err)
	}
	k.tend(t)
	for id, want := range map[string]installation.State{"silent": installation.Gone, "quiet": installation.Active} {
		if record, err := k.installations.Get(t.Context(), id); err != nil || record.State != want {
			t.Errorf("%s: %+v %v", id, record, err)
		}
	}
	if status, err := k.jobs.Get(t.Context(), "silent", "silent-a"); err != nil || status.State != job.Canceled {
		t.Errorf("%+v %v", status, err)
	}
}

// TestReload takes a file over when it has changed; a wrong one, or none, changes nothing but the log and the metric.
func TestReload(t *testing.T) {
	t.Parallel()
	const one = "rules:\n  - {name: one, on: x, job: {clone: {}}}\n"
	const two = one + "  - {name: two, on: y, job: {clone: {}}}\n"
	path, log, metrics := filepath.Join(t.TempDir(), "rules.yml"), new(testkit.Buffer), telemetry.NewMetrics()
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(one)
	r, err := loadRules(path, job.DefaultLimits(), slog.New(slog.NewTextHandler(log, nil)), metrics)
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name, content string
		asked         bool
		rules         int
		bad           string
		lines         int // of the log, by then
	}{
		{"the same", one, false, 1, "0", 0},
		{"the same, asked for", one, true, 1, "0", 1},
		{"another", two, false, 2, "0", 2},
		{"a wrong one", "rules: nonsense", false, 2, "1", 3},
		{"the wrong one again", "rules: nonsense", false, 2, "1", 3},
		{"removed", "", false, 2, "1", 4},
		{"still removed", "", false, 2, "1", 4},
		{"back", one, false, 1, "0", 5},
	} {
		if step.content == "" {
			_ = os.Remove(path) // it may be gone
		} else {
			write(step.content)
		}
		r.reload(context.Background(), step.asked)
		scraped := scrape(t, metrics)
		if r.current.Load().Len() != step.rules || !strings.Contains(scraped, "gitsmith_rules_bad "+step.bad) || strings.Count(log.String(), "\n") != step.lines {
			t.Errorf("%s: %d rules, log %q", step.name, r.current.Load().Len(), log)
		}
	}
	write("rules:\n  - {name: Wrong, on: x}\n")
	if _, err := loadRules(path, job.DefaultLimits(), r.logger, metrics); err == nil || !strings.Contains(err.Error(), "GITSMITH_RULES") || !strings.Contains(err.Error(), "line 2: name") {
		t.Errorf("a wrong file at the start: %v", err)
	}
}

func scrape(t *testing.T, metrics *telemetry.Metrics) string {
	t.Helper()
	recorder := httptest.NewRecorder()
	metrics.Handler().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	return recorder.Body.String()
}
