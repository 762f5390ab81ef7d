package worker_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/testkit"
	"github.com/gitsmith/gitsmith/internal/vault"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// refusing is a worker with a real vault before a Bitbucket that answers 401 to tokens that it does not know, and for repositories that it
// does not know, as Bitbucket does.
type refusing struct {
	*bench
	bitbucket *bitbuckettest.Server
	api       bitbuckettest.Repository // acme/api
	vault     *vault.Vault
	known     *installation.Store
	redis     *queuetest.Redis
	ring      *secret.Keyring

	mutex   sync.Mutex
	refused []string // whose token was refused for which repository, in order
}

var theSystem = forge.Actor{Kind: forge.ActorSystem}

func newRefusing(t *testing.T) *refusing {
	t.Helper()
	t.Parallel()
	r := &refusing{bench: newBench(t, map[string]string{"a": "a\n"}), redis: queuetest.Start(t)}
	if err := r.server.CreateRepository(t.Context(), "acme/api", map[string]string{"a": "a\n"}); err != nil {
		t.Fatal(err)
	}
	r.bitbucket = bitbuckettest.New(bitbuckettest.Config{Root: strings.TrimSuffix(r.server.Path("acme/web"), "/acme/web.git"), Git: r.server})
	for _, slug := range []string{"web", "api"} {
		var err error
		if r.api, err = r.bitbucket.AddRepository(bitbuckettest.Repository{Workspace: "acme", Slug: slug}); err != nil {
			t.Fatal(err)
		}
	}
	listening := httptest.NewServer(http.HandlerFunc(r.observe))
	t.Cleanup(listening.Close)
	base, err := url.Parse(listening.URL)
	if err != nil {
		t.Fatal(err)
	}
	git, err := gitrepo.New(gitrepo.Config{Base: base, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = git.Close() })
	rest, err := bitbucket.NewClient(bitbucket.Config{Base: base})
	if err != nil {
		t.Fatal(err)
	}
	r.ring = testkit.Keyring(t, "k", 1)
	client := r.redis.Client()
	r.vault = vault.New(client, r.ring, vault.Options{Remember: -1})
	r.known = installation.New(client, installation.Options{Remember: -1})
	if _, err := r.known.Touch(t.Context(), installation.Call{ID: "i"}); err != nil {
		t.Fatal(err)
	}
	r.config.Git, r.config.Keyring, r.config.REST, r.config.TempDir = worker.NewGit(git), r.ring, rest, git.TempFolder()
	r.config.Tokens, r.config.Installs, r.config.Installations, r.config.Names = r.vault, r.vault, r.known, r.known
	return r
}

// observe notes what is refused.
func (r *refusing) observe(w http.ResponseWriter, request *http.Request) {
	recorded := &statusWriter{ResponseWriter: w}
	r.bitbucket.ServeHTTP(recorded, request)
	if recorded.status != http.StatusUnauthorized {
		return
	}
	_, token, _ := request.BasicAuth()
	if token == "" {
		token = strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer ")
	}
	repository, _, _ := strings.Cut(strings.TrimPrefix(request.URL.Path, "/"), ".git/")
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.refused = append(r.refused, token+" for "+repository)
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// refusals are those since the last call, each once: a token may be sent with two requests at the same time.
func (r *refusing) refusals() []string {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	once := slices.Compact(r.refused)
	r.refused = nil
	return once
}

// deliver keeps a token that expires after so many hours; Bitbucket knows it if it is good.
func (r *refusing) deliver(text string, hours int, good bool) {
	r.t.Helper()
	if good {
		r.bitbucket.AddToken(text, bitbuckettest.Grant{
			Scopes: []string{
				bitbuckettest.ScopeReadRepository, bitbuckettest.ScopeWriteRepository, "read:pullrequest:bitbucket", "write:pullrequest:bitbucket",
			},
			Default: bitbuckettest.Write,
		})
	}
	token := forge.OAuthToken{Text: secret.New(text), ExpiresAt: time.Now().Add(time.Duration(hours) * time.Hour)}
	if _, err := r.vault.Put(r.t.Context(), "i", theSystem, token, time.Time{}); err != nil {
		r.t.Fatal(err)
	}
}

// run is one attempt of a push.
func (r *refusing) run(id string, repository bitbucket.Repository) (job.Result, error) {
	return worker.New(r.config).Process(r.t.Context(), job.Job{
		ID: id, Installation: "i", Actor: theSystem, CreatedAt: time.Unix(1_800_000_000, 0), Repository: repository,
		Push: &job.Push{Branch: "b-" + id, Create: true, Message: "Change it", Changes: put("new-"+id, "x\n"), PullRequest: &job.PullRequest{Title: "t"}},
	})
}

func bySlug(slug string) bitbucket.Repository {
	return bitbucket.Repository{Workspace: "acme", Slug: slug}
}

func (r *refusing) mustRun(id, slug string) {
	r.t.Helper()
	if _, err := r.run(id, bySlug(slug)); err != nil {
		r.t.Errorf("%s: %s", id, fault.Private(err))
	}
}

func (r *refusing) current() string {
	r.t.Helper()
	token, err := r.vault.Take(r.t.Context(), "i", theSystem)
	if err != nil {
		r.t.Error(err)
	}
	return token.Text.Reveal()
}

func (r *refusing) expectRefusals(want ...string) {
	r.t.Helper()
	if got := r.refusals(); !slices.Equal(got, want) {
		r.t.Errorf("refused were %q, want %q", got, want)
	}
}

// noted reports whether a refusal counts against the installation.
func (r *refusing) noted() bool {
	r.t.Helper()
	record, err := r.known.Get(r.t.Context(), "i")
	if err != nil {
		r.t.Fatal(err)
	}
	return !record.TokenRefusedAt.IsZero()
}

// TestPlantedToken expires later than the good one, and is refused: the good one does the work, of this job and of all others, however
// often the refused one is delivered.
func TestPlantedToken(t *testing.T) {
	r := newRefusing(t)
	r.deliver("good", 1, true)
	r.deliver("planted", 4, false)
	r.mustRun("one", "web")
	r.expectRefusals("planted for acme/web")
	r.mustRun("two", "api")
	r.deliver("planted", 4, false)
	r.mustRun("three", "web")
	r.expectRefusals()
	if r.current() != "good" || r.noted() {
		t.Errorf("current is %q; noted: %v", r.current(), r.noted())
	}
	r.deliver("planted again", 4, false) // by REST, which tells a refused token from a missing repository
	result, err := r.run("four", bitbucket.Repository{WorkspaceUUID: r.api.WorkspaceUUID, RepositoryUUID: r.api.UUID})
	if err != nil || result.Push.PullRequest == nil || r.current() != "good" || len(r.refusals()) != 1 {
		t.Error(err, result.Push, r.current())
	}
}

// TestBothRefused is denied after one try with each, and said once.
func TestBothRefused(t *testing.T) {
	r := newRefusing(t)
	r.deliver("revoked", 1, false)
	r.deliver("revoked too", 2, false)
	for _, id := range []string{"one", "two"} {
		if _, err := r.run(id, bySlug("web")); fault.KindOf(err) != fault.Denied {
			t.Errorf("%v, want it denied", err)
		}
		r.expectRefusals("revoked too for acme/web", "revoked for acme/web")
	}
	if !r.noted() {
		t.Error("the refusal is not noted")
	}
	r.deliver("good", 1, true) // it expires earlier than one of them, and takes the other one's place
	r.mustRun("three", "web")
	r.expectRefusals("revoked too for acme/web")
	r.mustRun("four", "web")
	r.expectRefusals()
}

// TestMissingRepository is answered as a refused token is. It costs one try with each token, and no other job its token.
func TestMissingRepository(t *testing.T) {
	r := newRefusing(t)
	r.deliver("before", 1, true)
	r.deliver("current", 2, true)
	for _, id := range []string{"one", "two"} {
		if _, err := r.run(id, bySlug("missing")); fault.KindOf(err) != fault.Denied {
			t.Errorf("%v, want it denied", err)
		}
		r.expectRefusals("current for acme/missing", "before for acme/missing")
		r.mustRun("web-"+id, "web")
		r.expectRefusals()
		if r.current() != "current" {
			t.Errorf("%q is current", r.current())
		}
	}
	other, err := r.vault.TakeOther(t.Context(), "i", theSystem, forge.OAuthToken{Text: secret.New("current")})
	if err != nil || other.Text.Reveal() != "before" {
		t.Errorf("the one before is lost: %v", err)
	}
}

// TestWorkersAtOnce: jobs of two workers that find the same token refused at the same time all get their work done with the other one,
// while missing repositories are refused beside them.
func TestWorkersAtOnce(t *testing.T) {
	r := newRefusing(t)
	r.deliver("good", 1, true)
	second := &refusing{bench: &bench{t: t, config: r.config}}
	second.config.Tokens = vault.New(r.redis.Client(), r.ring, vault.Options{Remember: -1})
	for round := range 4 {
		r.deliver(fmt.Sprint("planted ", round), 4, false)
		var group sync.WaitGroup
		for i, worker := range []*refusing{r, second, r, second} {
			id := fmt.Sprintf("%d-%d", round, i)
			group.Go(func() { worker.mustRun(id, []string{"web", "api"}[i/2]) })
			group.Go(func() {
				if _, err := worker.run("missing-"+id, bySlug("missing")); fault.KindOf(err) != fault.Denied {
					t.Errorf("%v, want it denied", err)
				}
			})
		}
		group.Wait()
		if r.current() != "good" {
			t.Fatalf("%q is current", r.current())
		}
	}
}

// TestRefusedTokensStayOutOfTheLog, of which the texts are known.
func TestRefusedTokensStayOutOfTheLog(t *testing.T) {
	r := newRefusing(t)
	var log bytes.Buffer
	r.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	r.deliver("canary-good", 1, true)
	r.deliver("canary-planted", 4, false)
	r.mustRun("one", "web")
	text := log.String()
	if strings.Contains(text, "canary") || strings.Count(text, "level=WARN") != 1 || !strings.Contains(text, "a token was set aside") {
		t.Errorf("the log says too much, or too little:\n%s", text)
	}
	for _, key := range r.redis.Client().Keys(context.WithoutCancel(t.Context()), "*").Val() {
		if strings.Contains(key+r.redis.Client().Dump(t.Context(), key).Val(), "canary") {
			t.Errorf("%s holds a token in clear", key)
		}
	}
}
