package job_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/job"
)

func clone() job.Request {
	return job.Request{Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}, Clone: &job.Clone{Archive: job.ArchiveZip}}
}

func TestNewChoosesTheActor(t *testing.T) {
	t.Parallel()
	issuer := forgetest.Start(t)
	alice := forge.Actor{Kind: forge.ActorUser, Principal: "712020:alice"}
	user, app := forgetest.FITOptions{Principal: alice.Principal}, forgetest.FITOptions{}
	function := forgetest.FITOptions{Principal: alice.Principal, ModuleType: forge.ModuleEndpoint}
	system := forge.Actor{Kind: forge.ActorSystem}
	for name, tc := range map[string]struct {
		fit    forgetest.FITOptions
		tokens forgetest.Tokens
		asked  forge.ActorKind
		rule   job.Options
		want   forge.Actor
	}{
		"a user":                          {user, forgetest.Tokens{System: "s", User: "u"}, "", job.Options{}, alice},
		"a user without a token":          {user, forgetest.Tokens{System: "s"}, "", job.Options{}, alice},
		"a user who says so":              {user, forgetest.Tokens{}, forge.ActorUser, job.Options{}, alice},
		"a function":                      {app, forgetest.Tokens{}, "", job.Options{}, system},
		"a function that says so":         {app, forgetest.Tokens{}, forge.ActorSystem, job.Options{}, system},
		"a function for a user":           {function, forgetest.Tokens{}, "", job.Options{}, alice},
		"a rule":                          {app, forgetest.Tokens{}, "", job.Options{Rule: "r"}, system},
		"a rule, of a user's event":       {function, forgetest.Tokens{User: "u"}, forge.ActorSystem, job.Options{Rule: "r"}, system},
		"a rule as a user":                {app, forgetest.Tokens{}, "", job.Options{Rule: "r", User: "712020:bob"}, forge.Actor{Kind: forge.ActorUser, Principal: "712020:bob"}},
		"a rule as one, of another's one": {function, forgetest.Tokens{}, "", job.Options{Rule: "r", User: "712020:bob"}, forge.Actor{Kind: forge.ActorUser, Principal: "712020:bob"}},
	} {
		request := clone()
		request.Actor, tc.rule.Now = tc.asked, time.Now()
		made, err := job.New(issuer.Invocation(tc.fit, tc.tokens), request, tc.rule)
		requester := tc.fit.Principal
		if tc.rule.Rule != "" {
			requester = ""
		}
		if err != nil || made.Actor != tc.want || made.Requester != requester || made.Class != job.ClassInteractive || made.Installation != forgetest.Installation {
			t.Errorf("%s: %+v, %v", name, made, err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	issuer := forgetest.Start(t)
	asUser, asApp, waiting := clone(), clone(), clone()
	asUser.Actor, asApp.Actor = forge.ActorUser, forge.ActorSystem
	waiting.Actor, waiting.OnExpiry = forge.ActorUser, job.OnExpiryWait
	for name, tc := range map[string]struct {
		invocation forge.Invocation
		request    job.Request
		kind       fault.Kind
		want       string
	}{
		"an unverified invocation": {forge.Invocation{}, clone(), fault.Internal, "verified"},
		"a user without a session": {issuer.Invocation(forgetest.FITOptions{}, forgetest.Tokens{}), asUser, fault.Invalid, "user in session"},
		"a user as the app":        {issuer.Invocation(forgetest.FITOptions{Principal: "p"}, forgetest.Tokens{System: "s"}), asApp, fault.Denied, "leave actor out"},
		"a user who waits":         {issuer.Invocation(forgetest.FITOptions{Principal: "p"}, forgetest.Tokens{}), waiting, fault.Invalid, "on_expiry"},
	} {
		_, err := job.New(tc.invocation, tc.request, job.Options{Now: time.Now()})
		if fault.KindOf(err) != tc.kind || !strings.Contains(fault.Public(err), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewNamesTheJob(t *testing.T) {
	t.Parallel()
	issuer := forgetest.Start(t)
	alice := issuer.Invocation(forgetest.FITOptions{Principal: "712020:alice"}, forgetest.Tokens{User: "u"})
	bob := issuer.Invocation(forgetest.FITOptions{Principal: "712020:bob"}, forgetest.Tokens{User: "u"})
	elsewhere := issuer.Invocation(forgetest.FITOptions{Principal: "712020:alice", Installation: "another"}, forgetest.Tokens{User: "u"})
	named := func(invocation forge.Invocation, request job.Request, key string) job.Job {
		t.Helper()
		made, err := job.New(invocation, request, job.Options{IdempotencyKey: key, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	first, other := named(alice, clone(), "k"), clone()
	other.Clone = &job.Clone{Archive: job.ArchiveTarGz}
	if again := named(alice, clone(), "k"); again.ID != first.ID || again.Digest != first.Digest {
		t.Error("the same key and body are not the same job")
	}
	if changed := named(alice, other, "k"); changed.ID != first.ID || changed.Digest == first.Digest {
		t.Error("the same key with another body is not told apart by its digest")
	}
	ids := map[string]bool{first.ID: true}
	for _, made := range []job.Job{named(alice, clone(), "other"), named(bob, clone(), "k"), named(elsewhere, clone(), "k"), named(alice, clone(), ""), named(alice, clone(), "")} {
		if ids[made.ID] {
			t.Errorf("two jobs are called %s", made.ID)
		}
		ids[made.ID] = true
	}
}
