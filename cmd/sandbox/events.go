package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
)

const (
	pushEvent = "avi:bitbucket:push:repository"
	carol     = "712020:carol" // who is never in session
)

// eventView is the answer to an event.
type eventView struct {
	Outcome string `json:"outcome"`
	Jobs    []struct {
		ID   string `json:"id"`
		Rule string `json:"rule"`
	} `json:"jobs"`
}

// jobOf is the job that a rule made.
func (v eventView) jobOf(rule string) (string, error) {
	for _, each := range v.Jobs {
		if each.Rule == rule {
			return each.ID, nil
		}
	}
	return "", fmt.Errorf("%s: no job of the rule %s among %d", v.Outcome, rule, len(v.Jobs))
}

// happening is an event as Bitbucket tells it: by UUIDs, with the workspace's and the repository's names left out.
func happening(kind, repository string, when time.Time, more string) string {
	return fmt.Sprintf(`{"eventType":%q,"timestamp":%q,"selfGenerated":false,"actor":{"type":"user","accountId":%q},`+
		`"workspace":{"uuid":"{%s}"},"repository":{"uuid":%q},%s}`, kind, when.UTC().Format(time.RFC3339Nano), carol, workspaceID, repository, more)
}

func branchPush(branch, after string, created bool) string {
	return fmt.Sprintf(`"push":{"ref":%q,"mainbranch":%t,"after":%q,"created":%t,"closed":false,"forced":false,"truncated":false,`+
		`"commits":[{"hash":%q,"message":{"value":"By hand\n","truncated":false}}]}`, branch, branch == "main", after, created, after)
}

// again is an event as Forge delivers it after a failure: wrapped, and with what it says of the delivery before.
func again(event string) string {
	return `{"payload":` + strings.TrimSuffix(event, "}") + `,"retryContext":{"retryCount":1,"retryReason":"FUNCTION_TIME_OUT","retryData":null}}}`
}

// tell delivers an event.
func (s *sandbox) tell(ctx context.Context, call invocation, event string, status int) (view eventView, err error) {
	call.Path, call.Body = "/forge/events", json.RawMessage(event)
	got, err := s.forge.deliver(ctx, call)
	if err == nil {
		err = want(got, status)
	}
	if err != nil {
		return view, err
	}
	return view, json.Unmarshal(got.Body, &view)
}

// run delivers an event and waits for the end of the job that the rule makes of it.
func (s *sandbox) run(ctx context.Context, rule, event string) (jobView, error) {
	told, err := s.tell(ctx, invocation{}, event, http.StatusAccepted)
	if err != nil {
		return jobView{}, err
	}
	id, err := told.jobOf(rule)
	if err != nil {
		return jobView{}, err
	}
	return s.await(ctx, id, "", "succeeded")
}

func (s *sandbox) event(ctx context.Context) (string, error) {
	tip, asked := s.git(ctx, "web", "rev-parse", "main"), s.bitbucket.Count(bitbuckettest.REST)
	s.told = happening(pushEvent, webUUID, time.Now(), branchPush("main", strings.Repeat("ab", 20), false))
	done, err := s.run(ctx, "archive-main", s.told)
	if err != nil {
		return "", err
	}
	s.toldJob = done.ID
	if done.Result.Clone.Commit != tip || done.Result.Clone.Artifact.Files == 0 {
		return "", fmt.Errorf("the archive is of %q, want %s", done.Result.Clone.Commit, tip)
	}
	if s.bitbucket.Count(bitbuckettest.REST) == asked {
		return "", fmt.Errorf("nobody asked Bitbucket for the repository's name")
	}
	return fmt.Sprintf("known by UUIDs only; named over REST, %d files archived", done.Result.Clone.Artifact.Files), nil
}

func (s *sandbox) eventAgain(ctx context.Context) (string, error) {
	told, err := s.tell(ctx, invocation{}, again(s.told), http.StatusOK)
	if err != nil {
		return "", err
	}
	if id, err := told.jobOf("archive-main"); err != nil || id != s.toldJob || told.Outcome != "duplicate" || len(told.Jobs) != 1 {
		return "", fmt.Errorf("%+v, %w; want the job %s again", told, err, s.toldJob)
	}
	return "200 with the first job's id, no second job", nil
}

func (s *sandbox) ownEvent(ctx context.Context) (string, error) {
	message, err := json.Marshal(s.git(ctx, "web", "log", "-1", "--format=%B", s.ownCommit))
	if err != nil {
		return "", err
	}
	told, err := s.tell(ctx, invocation{}, happening(pushEvent, webUUID, time.Now(), fmt.Sprintf(
		`"push":{"ref":"main","mainbranch":true,"after":%q,"created":false,"closed":false,"commits":[{"hash":%q,"message":{"value":%s,"truncated":false}}]}`,
		s.ownCommit, s.ownCommit, message)), http.StatusOK)
	if err != nil {
		return "", err
	}
	if told.Outcome != "own_commit" || len(told.Jobs) > 0 {
		return "", fmt.Errorf("%+v, want own_commit and no job", told)
	}
	return "makes no job: a rule that pushes does not feed itself", nil
}

func (s *sandbox) changelog(ctx context.Context) (string, error) {
	s.git(ctx, "web", "-c", "user.name=Bob", "-c", "user.email=bob@example.com", "tag", "-a", "-m", "The first release", "v1.0.0", "main")
	now := time.Now()
	tagged := happening(pushEvent, webUUID, now, fmt.Sprintf(`"push":{"ref":"v1.0.0","created":true,"forced":false,"closed":false,"after":%q,`+
		`"message":{"value":"The first release\n","truncated":false}}`, s.git(ctx, "web", "rev-parse", "v1.0.0^{commit}")))
	if _, err := s.run(ctx, "changelog-on-tag", tagged); err != nil {
		return "", err
	}
	got, title := s.git(ctx, "web", "show", "main:CHANGELOG.md"), "## v1.0.0, "+now.UTC().Format(time.DateOnly)
	if got != "# Changelog\n\n"+title+"\n\nThe first release" {
		return "", fmt.Errorf("CHANGELOG.md holds %q", got)
	}
	tip := s.git(ctx, "web", "rev-parse", "main")
	told, err := s.tell(ctx, invocation{}, again(tagged), http.StatusOK)
	if err != nil {
		return "", err
	}
	if s.git(ctx, "web", "rev-parse", "main") != tip || told.Outcome != "duplicate" {
		return "", fmt.Errorf("the second delivery: %s", told.Outcome)
	}
	return fmt.Sprintf("%q in CHANGELOG.md; delivered again, it changes nothing", title), s.fsck(ctx, "web")
}

func (s *sandbox) licence(ctx context.Context) (string, error) {
	const source = "package fresh\n"
	if err := s.gitServer.CreateRepository(ctx, "acme/fresh", map[string]string{"fresh.go": source, "README.md": "# Fresh\n"}); err != nil {
		return "", err
	}
	added, err := s.bitbucket.AddRepository(bitbuckettest.Repository{Workspace: "acme", Slug: "fresh", WorkspaceUUID: "{" + workspaceID + "}"})
	if err != nil {
		return "", err
	}
	done, err := s.run(ctx, "licence-header", happening(pushEvent, added.UUID, time.Now(), branchPush("main", s.git(ctx, "fresh", "rev-parse", "main"), true)))
	if err != nil {
		return "", err
	}
	if got := s.git(ctx, "fresh", "show", "main:fresh.go"); got != "// SPDX-License-Identifier: Apache-2.0\n"+strings.TrimSpace(source) || done.Result.Push.Changed != 1 {
		return "", fmt.Errorf("%d files changed, fresh.go holds %q", done.Result.Push.Changed, got)
	}
	return "its first push: the header on top of the one source file", s.fsck(ctx, "fresh")
}

func (s *sandbox) mirror(ctx context.Context) (string, error) {
	done, err := s.run(ctx, "mirror-pull-requests", happening("avi:bitbucket:created:pullrequest", webUUID, time.Now(),
		`"pullrequest":{"id":1,"state":"OPEN","source":{"branch":"chore/hello"},"destination":{"branch":"main"}}`))
	if err != nil {
		return "", err
	}
	token, given := s.forge.gateway.given.Load(carol)
	if !given || done.Actor != "user" {
		return "", fmt.Errorf("the job ran as %s, and a token of the user's was given: %t", done.Actor, given)
	}
	if _, used := s.gitTokens.Load(token); !used {
		return "", fmt.Errorf("git was not called with the user's token")
	}
	if tip := s.git(ctx, "web", "rev-parse", "chore/hello"); done.Result.Clone.Commit != tip {
		return "", fmt.Errorf("the bundle is of %s, want %s", done.Result.Clone.Commit, tip)
	}
	return "bundled as its author, who is not there, by her own token", nil
}
