package worker_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// known is what is remembered of installations and their repositories.
type known struct {
	names   map[string]bitbucket.Info // by the repository's UUID
	nameErr error
	refused int
	pushed  []string
}

func (k *known) Name(_ context.Context, _ string, repository bitbucket.Repository) (bitbucket.Info, bool, error) {
	info, found := k.names[repository.RepositoryUUID]
	return info, found, k.nameErr
}

func (k *known) KeepName(_ context.Context, _ string, repository bitbucket.Repository, info bitbucket.Info) error {
	k.names[repository.RepositoryUUID] = info
	return nil
}

func (k *known) DropName(_ context.Context, _, uuid string) error { delete(k.names, uuid); return nil }

func (k *known) Workspace(context.Context, string) (string, error) { return "the-workspace", nil }

func (k *known) Refused(context.Context, string) error { k.refused++; return nil }

func (k *known) Pushed(_ context.Context, _, commit string) error {
	k.pushed = append(k.pushed, commit)
	return nil
}

// atlassian gives tokens of users.
type atlassian struct {
	asked []string
	life  time.Duration
	err   error
}

func (a *atlassian) Token(_ context.Context, system secret.Text, workspace, account string) (forge.OAuthToken, error) {
	if system.Reveal() != "t" {
		return forge.OAuthToken{}, fault.Newf(fault.Denied, "another token")
	}
	a.asked = append(a.asked, account+" of "+workspace)
	return forge.OAuthToken{Text: secret.New("users"), ExpiresAt: now.Add(a.life)}, a.err
}

// requests is a budget.
type requests struct {
	reserved, spent, exchanges int
	err                        error
}

func (r *requests) Reserve(_ context.Context, _ string, n int) error { r.reserved += n; return r.err }
func (r *requests) Spend(_ context.Context, _ string, n int) error   { r.spent += n; return nil }
func (r *requests) Exchange(context.Context) error                   { r.exchanges++; return nil }

const uuid = "{11111111-1111-1111-1111-111111111111}"

func uuidJob(j *job.Job) {
	j.Repository = bitbucket.Repository{WorkspaceUUID: "{22222222-2222-2222-2222-222222222222}", RepositoryUUID: uuid}
}

func infoOf(slug string) bitbucket.Info {
	return bitbucket.Info{Repository: bitbucket.Repository{Workspace: "acme", Slug: slug}, Size: 10}
}

// TestNames asks Bitbucket once for a repository's name, and again where the one that is remembered fails.
func TestNames(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.info = infoOf("web")
	for range 2 {
		if _, err := w.worker().Process(t.Context(), pushJob(uuidJob)); err != nil {
			t.Fatal(err)
		}
	}
	if w.resolved != 1 {
		t.Errorf("bitbucket was asked %d times", w.resolved)
	}

	w = newWorld()
	w.info, w.known.names[uuid] = infoOf("renamed"), infoOf("web")
	w.snapErr = fault.Newf(fault.NotFound, "there is no such repository")
	_, err := w.worker().Process(t.Context(), pushJob(uuidJob))
	want := []string{"snapshot refs/heads/main@push+some of acme/web", "release", "snapshot refs/heads/main@push+some of acme/renamed", "release"}
	if diff := cmp.Diff(want, w.calls); diff != "" || fault.KindOf(err) != fault.NotFound || w.resolved != 1 {
		t.Error(diff, err, w.resolved)
	}
	if _, there := w.known.names[uuid]; !there || w.known.names[uuid].Repository.Slug != "renamed" {
		t.Error(w.known.names)
	}

	// It failed by the name that Bitbucket has just given: there is nothing to try again, and the next job asks.
	w = newWorld()
	w.info, w.snapErr = infoOf("web"), fault.Wrapf(fault.Denied, fault.ErrTokenRefused, "refused")
	_, err = w.worker().Process(t.Context(), pushJob(uuidJob))
	if fault.KindOf(err) != fault.Denied || w.resolved != 1 || len(w.known.names) != 0 || w.known.refused != 1 {
		t.Error(err, w.resolved, w.known)
	}

	w = newWorld()
	w.known.nameErr = fault.Newf(fault.Throttled, "near")
	if _, err := w.worker().Process(t.Context(), pushJob(uuidJob)); fault.KindOf(err) != fault.Throttled || w.resolved != 0 || len(w.calls) != 0 {
		t.Error(err, w.resolved, w.calls)
	}

	w = newWorld()
	w.info = bitbucket.Info{Repository: infoOf("web").Repository, Size: 1001}
	if _, err := w.worker().Process(t.Context(), pushJob(uuidJob)); fault.KindOf(err) != fault.TooLarge || len(w.calls) != 0 {
		t.Error(err, w.calls)
	}
}

// TestPushedIsNotedBefore: Forge may tell of a commit before the server's answer to the push is here.
func TestPushedIsNotedBefore(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.pushErrs = []error{fault.Newf(fault.Denied, "no")}
	if _, err := w.worker().Process(t.Context(), pushJob(nil)); fault.KindOf(err) != fault.Denied || !slices.Equal(w.known.pushed, []string{"on-c1"}) {
		t.Error(err, w.known.pushed)
	}
	if w.known.refused != 0 {
		t.Error("a branch restriction counts as a refused token")
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	w := newWorld()
	w.budget.err = fault.Newf(fault.Throttled, "used up")
	if _, err := w.worker().Process(t.Context(), pushJob(nil)); fault.KindOf(err) != fault.Throttled || len(w.calls) != 0 {
		t.Error(err, w.calls)
	}
	w.budget.err = nil
	if _, err := w.worker().Process(t.Context(), pushJob(nil)); err != nil || w.budget.reserved != 10 || w.budget.spent != 0 {
		t.Error(err, w.budget)
	}
}

// TestImpersonation asks for a user's token where none is kept, with the system's.
func TestImpersonation(t *testing.T) {
	t.Parallel()
	as := func(j *job.Job) {
		uuidJob(j)
		j.Actor, j.Impersonate = forge.Actor{Kind: forge.ActorUser, Principal: "ada"}, true
	}
	w := newWorld()
	w.info, w.atlassian.life = infoOf("web"), time.Hour
	w.tokens = []forge.OAuthToken{{}, token(time.Hour)} // none of the user's; then the system's
	if _, err := w.worker().Process(t.Context(), pushJob(as)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"ada of {22222222-2222-2222-2222-222222222222}"}; !slices.Equal(w.atlassian.asked, want) || w.calls[0] != "keep ada" || w.budget.exchanges != 1 {
		t.Error(w.atlassian.asked, w.calls, w.budget)
	}

	w = newWorld()
	w.tokens, w.atlassian.life = []forge.OAuthToken{{}, token(time.Hour)}, time.Hour
	named := func(j *job.Job) { as(j); j.Repository = infoOf("web").Repository }
	if _, err := w.worker().Process(t.Context(), pushJob(named)); err != nil || w.atlassian.asked[0] != "ada of the-workspace" {
		t.Error(err, w.atlassian.asked)
	}

	for name, tc := range map[string]struct {
		system forge.OAuthToken
		life   time.Duration
		err    error
		want   fault.Kind
	}{
		"no system token":          {want: fault.Expired},
		"one about to go":          {system: token(time.Second), want: fault.Expired},
		"the user gave no consent": {system: token(time.Hour), err: fault.Newf(fault.Denied, "no"), want: fault.Denied},
		"a token for seconds":      {system: token(time.Hour), life: time.Second, want: fault.Unavailable},
	} {
		w := newWorld()
		w.tokens, w.atlassian.life, w.atlassian.err = []forge.OAuthToken{{}, tc.system}, tc.life, tc.err
		_, err := w.worker().Process(t.Context(), pushJob(as))
		if fault.KindOf(err) != tc.want || len(w.known.pushed) != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A user who is there acts by the token that the call brought, and nobody else's is asked for.
	w = newWorld()
	w.tokens = []forge.OAuthToken{{}}
	if _, err := w.worker().Process(t.Context(), pushJob(func(j *job.Job) { as(j); j.Impersonate = false })); fault.KindOf(err) != fault.Expired || len(w.atlassian.asked) != 0 {
		t.Error(err, w.atlassian.asked)
	}
}
