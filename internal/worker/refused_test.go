package worker_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// named is a token by its text.
func named(text string, life time.Duration) forge.OAuthToken {
	return forge.OAuthToken{Text: secret.New(text), ExpiresAt: now.Add(life)}
}

// guarded is a world whose git server refuses some tokens. It notes with which token each request is made.
type guarded struct {
	*world
	refuses map[string]bool
	opened  []string
	otherErr,
	after error // of the work with a token that is taken
	markErr error
}

func (g *guarded) Fetch(ctx context.Context, remote gitrepo.Remote, want gitrepo.Want) (worker.Snapshot, error) {
	checkRemote(remote)
	g.opened = append(g.opened, remote.Token.Reveal())
	if g.refuses[remote.Token.Reveal()] {
		return nil, fault.Wrapf(fault.Denied, fault.ErrTokenRefused, "refused")
	}
	if g.after != nil {
		return nil, g.after
	}
	return g.world.Fetch(ctx, remote, want)
}

func (g *guarded) Push(ctx context.Context, remote gitrepo.Remote, spec gitrepo.PushSpec) error {
	checkRemote(remote)
	g.opened = append(g.opened, remote.Token.Reveal())
	return g.world.Push(ctx, remote, spec)
}

func (g *guarded) TakeOther(ctx context.Context, installation string, actor forge.Actor, than forge.OAuthToken) (forge.OAuthToken, error) {
	if g.otherErr != nil {
		return forge.OAuthToken{}, g.otherErr
	}
	return g.world.TakeOther(ctx, installation, actor, than)
}

func (g *guarded) MarkRefused(ctx context.Context, installation string, actor forge.Actor, token forge.OAuthToken) error {
	if g.markErr != nil {
		return g.markErr
	}
	return g.world.MarkRefused(ctx, installation, actor, token)
}

func (g *guarded) worker() *worker.Worker {
	w := g.world.worker()
	w.Tokens, w.Git = g, g
	return w
}

// TestRefusedTokenGivesWay to another one of the same actor, once in an attempt; it is marked only where the other one did the work.
func TestRefusedTokenGivesWay(t *testing.T) {
	t.Parallel()
	unavailable := fault.Newf(fault.Unavailable, "redis is away")
	for name, tc := range map[string]struct {
		change   func(*guarded)
		want     fault.Kind // where it fails
		fails    bool
		opened   []string
		marked   []string
		refusals int
	}{
		"the other one works": {
			change: func(*guarded) {},
			opened: []string{"good", "good"}, marked: []string{"planted"},
		},
		"both are refused": {
			change: func(g *guarded) { g.refuses["good"] = true },
			fails:  true, want: fault.Denied, opened: []string{"good"}, refusals: 1,
		},
		"both are refused right after the install": {
			change: func(g *guarded) { g.refuses["good"], g.recent = true, true },
			fails:  true, want: fault.Unavailable, opened: []string{"good"}, refusals: 1,
		},
		"right after the install the newer one may have its rights later": {
			change: func(g *guarded) { g.recent = true },
			opened: []string{"good", "good"},
		},
		"there is no other one": {
			change: func(g *guarded) { g.other = forge.OAuthToken{} },
			fails:  true, want: fault.Denied, refusals: 1,
		},
		"the other one is about to run out": {
			change: func(g *guarded) { g.other = named("good", time.Second) },
			fails:  true, want: fault.Denied, refusals: 1,
		},
		"nobody knows whether there is another one": {
			change: func(g *guarded) { g.otherErr = unavailable },
			fails:  true, want: fault.Unavailable,
		},
		"the other one finds the server away, which proves nothing": {
			change: func(g *guarded) { g.after = fault.Newf(fault.Unavailable, "bitbucket is away") },
			fails:  true, want: fault.Unavailable, opened: []string{"good"},
		},
		"the other one may not do it": {
			change: func(g *guarded) { g.after = fault.Newf(fault.Denied, "no scope") },
			fails:  true, want: fault.Denied, opened: []string{"good"},
		},
		"the mark cannot be written": {
			change: func(g *guarded) { g.markErr = unavailable },
			opened: []string{"good", "good"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := &guarded{world: newWorld(), refuses: map[string]bool{"planted": true}}
			g.tokens, g.other = []forge.OAuthToken{named("planted", 4*time.Hour)}, named("good", time.Hour)
			tc.change(g)
			_, err := g.worker().Process(t.Context(), pushJob(nil))
			if (err != nil) != tc.fails || tc.fails && fault.KindOf(err) != tc.want {
				t.Errorf("%v, want %s", err, tc.want)
			}
			if want := append([]string{"planted"}, tc.opened...); !slices.Equal(g.opened, want) {
				t.Errorf("the requests were made with %q, want %q", g.opened, want)
			}
			if !slices.Equal(g.marked, tc.marked) || g.known.refused != tc.refusals {
				t.Errorf("marked are %q, and %d refusals are noted; want %q, %d", g.marked, g.known.refused, tc.marked, tc.refusals)
			}
		})
	}
}

// TestTheTokenThatWasUsedIsTheRefusedOne: a job takes its token anew before each step, and another one may have come by then.
func TestTheTokenThatWasUsedIsTheRefusedOne(t *testing.T) {
	t.Parallel()
	g := &guarded{world: newWorld(), refuses: map[string]bool{"planted": true}}
	g.tokens, g.other = []forge.OAuthToken{named("good", time.Hour), named("planted", 4*time.Hour)}, named("good", time.Hour)
	if _, err := g.worker().Process(t.Context(), pushJob(nil)); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(g.opened, []string{"planted", "good", "good"}) || !slices.Equal(g.marked, []string{"planted"}) {
		t.Error(g.opened, g.marked)
	}
}

// gateway refuses a system token.
type gateway struct {
	refuses string
	asked   []string
}

func (g *gateway) Token(_ context.Context, system secret.Text, _, _ string) (forge.OAuthToken, error) {
	g.asked = append(g.asked, system.Reveal())
	if system.Reveal() == g.refuses {
		return forge.OAuthToken{}, fault.Wrapf(fault.Denied, fault.ErrTokenRefused, "refused")
	}
	return named("users", time.Hour), nil
}

// TestRefusedExchange: where a user's token is to be had for the system's, it is the system's that is refused and gives way.
func TestRefusedExchange(t *testing.T) {
	t.Parallel()
	g := &guarded{world: newWorld(), refuses: map[string]bool{}}
	g.tokens = []forge.OAuthToken{{}, named("planted", 4*time.Hour), {}} // the user has none
	g.other = named("good", time.Hour)
	w, atlassian := g.worker(), &gateway{refuses: "planted"}
	w.Impersonator = atlassian
	_, err := w.Process(t.Context(), pushJob(func(j *job.Job) {
		j.Actor, j.Impersonate = forge.Actor{Kind: forge.ActorUser, Principal: "ada"}, true
	}))
	if err != nil || !slices.Equal(slices.Compact(atlassian.asked), []string{"planted", "good"}) || !slices.Equal(g.marked, []string{"planted"}) {
		t.Error(err, atlassian.asked, g.marked)
	}
}

// TestNameThatCannotBeAskedFor: whether a repository has another name now is found out before a refusal counts, as one of the token or of
// the job.
func TestNameThatCannotBeAskedFor(t *testing.T) {
	t.Parallel()
	g := &guarded{world: newWorld(), refuses: map[string]bool{"planted": true}}
	g.tokens, g.other = []forge.OAuthToken{named("planted", 4*time.Hour)}, named("good", time.Hour)
	g.known.names[uuid], g.restErr = infoOf("web"), fault.Newf(fault.Unavailable, "bitbucket failed")
	if _, err := g.worker().Process(t.Context(), pushJob(uuidJob)); fault.KindOf(err) != fault.Unavailable || len(g.marked) != 0 {
		t.Error(err, g.marked)
	}
	g.restErr = fault.Newf(fault.NotFound, "no such repository")
	g.known.names[uuid] = infoOf("web")
	if _, err := g.worker().Process(t.Context(), pushJob(uuidJob)); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
}
