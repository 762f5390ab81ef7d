package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
)

// step is one thing that the product does, shown on one line.
type step struct {
	name string
	// run does it and says in a few words what was seen; an error means that the step did not hold.
	run func(ctx context.Context) (string, error)
}

// walk runs every step and reports whether all held.
func (s *sandbox) walk(ctx context.Context, out io.Writer) bool {
	held := true
	defer func() { s.watch = func(string) {} }()
	for i, step := range s.steps() {
		begun := time.Now()
		s.watch = func(string) {}
		if isTerminal(out) {
			s.watch = func(line string) { fmt.Fprintf(out, "\r     %2d  %-48s %s", i+1, step.name, line) }
		}
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		seen, err := step.run(limited)
		cancel()
		mark := "ok  "
		if err != nil {
			mark, seen, held = "FAIL", err.Error(), false
		}
		if isTerminal(out) {
			fmt.Fprint(out, "\r\x1b[K")
		}
		fmt.Fprintf(out, "%s %2d  %6.0f ms  %-48s %s\n", mark, i+1, float64(time.Since(begun).Microseconds())/1000, step.name, seen)
	}
	return held
}

// isTerminal reports whether somebody watches.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (s *sandbox) steps() []step {
	return []step{
		{"Forge tells of the install", s.install},
		{"a clone, archived", s.cloneArchive},
		{"a push as the user", s.pushAsUser},
		{"the same request again, one Idempotency-Key", s.pushAgain},
		{"a replace over several files", s.replace},
		{"a token about to expire", s.expired},
		{"a token without the scope to push", s.missingScope},
		{"a branch that moves during the push", s.movedBranch},
		{"a caller that Forge did not sign", s.unsigned},
		{"another installation, then another user, asks", s.stranger},
		{"a user asks for the app's rights", s.noBot},
		{"an event: a push; the rule archive-main", s.event},
		{"the event delivered again", s.eventAgain},
		{"an event of a commit that a job pushed", s.ownEvent},
		{"an event: a tag; the rule changelog-on-tag", s.changelog},
		{"an event: a new repository; licence-header", s.licence},
		{"an event: a pull request; mirror-pull-requests", s.mirror},
		{"a newer push while the older one's job waits", s.coalesce},
		{"a job without a token, then a scheduled trigger", s.wake},
		{"a dry run over what a query finds", s.dryRun},
		{"a batch over 25 repositories, of which 3 fail", s.batch},
		{"the failed ones again", s.batchAgain},
		{"the app is removed", s.uninstall},
	}
}

func (s *sandbox) install(ctx context.Context) (string, error) {
	got, err := s.forge.deliver(ctx, invocation{Path: "/forge/lifecycle", Body: json.RawMessage(
		`{"eventType":"avi:forge:installed:app","id":"` + installation + `","app":{"id":"` + s.forge.issuer.AppID + `","version":"1.0.0"}}`)})
	if err != nil {
		return "", err
	}
	return "the system token is kept, sealed, until it expires", want(got, http.StatusOK)
}

func (s *sandbox) cloneArchive(ctx context.Context) (string, error) {
	done, err := s.finish(ctx, invocation{Body: body("user", `"clone":{"ref":"main","archive":"tar.gz"}`)}, "succeeded")
	if err != nil {
		return "", err
	}
	artifact := done.Result.Clone.Artifact
	archive, err := s.forge.deliver(ctx, invocation{Path: "/v1/jobs/" + done.ID + "/artifact"})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(archive.Raw)
	if got := hex.EncodeToString(sum[:]); got != artifact.SHA256 {
		return "", fmt.Errorf("the archive has sha256 %s, the job says %s", got, artifact.SHA256)
	}
	files, err := countFiles(archive.Raw)
	if err != nil {
		return "", err
	}
	if tip := s.git(ctx, "web", "rev-parse", "main"); tip != done.Result.Clone.Commit || files != artifact.Files {
		return "", fmt.Errorf("%d files of %s, want %d of %s", files, done.Result.Clone.Commit, artifact.Files, tip)
	}
	return fmt.Sprintf("%d files, %d bytes, the digest matches what was downloaded", files, artifact.Size), nil
}

func countFiles(archive []byte) (int, error) {
	unzipped, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		return 0, err
	}
	files := 0
	for reader := tar.NewReader(unzipped); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return 0, err
		}
		if header.Typeflag == tar.TypeReg || header.Typeflag == tar.TypeSymlink {
			files++
		}
	}
}

const userPush = `"push":{"branch":"chore/hello","base":"main","create":true,"message":"Say hello",` +
	`"author":{"name":"Alice","email":"alice@example.com"},` +
	`"changes":[{"put":{"path":"hello.txt","content":"hello\n"}},{"put":{"path":"bin/run","content":"#!/bin/sh\n","mode":"100755"}}],` +
	`"pull_request":{"title":"Say hello","destination":"main"}}`

func (s *sandbox) pushAsUser(ctx context.Context) (string, error) {
	done, err := s.finish(ctx, invocation{
		Headers: map[string]string{"Idempotency-Key": "walk-hello"}, Body: body("user", userPush),
	}, "succeeded")
	if err != nil {
		return "", err
	}
	s.helloJob = done.ID
	push := done.Result.Push
	message := s.git(ctx, "web", "log", "-1", "--format=%an <%ae>|%s|%(trailers:key=Forge-Job,valueonly,separator=)", "chore/hello")
	if message != "Alice <alice@example.com>|Say hello|"+done.ID || s.git(ctx, "web", "rev-parse", "chore/hello") != push.Commit {
		return "", fmt.Errorf("the branch holds %q", message)
	}
	if push.PullRequest == nil {
		return "", errors.New("no pull request was opened")
	}
	return fmt.Sprintf("commit %.8s on a new branch, pull request %d", push.Commit, push.PullRequest.ID), s.fsck(ctx, "web")
}

func (s *sandbox) pushAgain(ctx context.Context) (string, error) {
	before := s.git(ctx, "web", "rev-list", "--count", "--all")
	got, err := s.submit(ctx, invocation{Headers: map[string]string{"Idempotency-Key": "walk-hello"}, Body: body("user", userPush)}, http.StatusOK)
	if err != nil {
		return "", err
	}
	if got.ID != s.helloJob || s.git(ctx, "web", "rev-list", "--count", "--all") != before {
		return "", fmt.Errorf("job %s, want %s again", got.ID, s.helloJob)
	}
	return "gives the first job, and no second commit", nil
}

func (s *sandbox) replace(ctx context.Context) (string, error) {
	done, err := s.finish(ctx, invocation{Body: body("user", `"push":{"branch":"main","message":"Use the new host",`+
		`"changes":[{"replace":{"paths":["**/*.md","src/**"],"pattern":"old\\.example\\.(\\w+)","with":"new.example.$1","regexp":true}}]}`)}, "succeeded")
	if err != nil {
		return "", err
	}
	if left := s.git(ctx, "web", "grep", "-c", "old.example", "main"); left != "" {
		return "", fmt.Errorf("the old text is still in %s", left)
	}
	return fmt.Sprintf("%d files changed in one commit", done.Result.Push.Changed), s.fsck(ctx, "web")
}

func (s *sandbox) expired(ctx context.Context) (string, error) {
	bob, before := "712020:bob", s.gitRequests.Load()
	done, err := s.finish(ctx, invocation{Principal: &bob, TokenLife: "30s", Body: body("user", putOne("main", "never.txt"))}, "expired")
	if err != nil {
		return "", err
	}
	if touched := s.gitRequests.Load() - before; touched != 0 {
		return "", fmt.Errorf("git was touched: %d requests", touched)
	}
	return fmt.Sprintf("refused before git was touched: %.60s…", done.Failure.Detail), nil
}

func (s *sandbox) missingScope(ctx context.Context) (string, error) {
	// Of an installation of its own: right after an install Bitbucket's refusals are tried again.
	done, err := s.finish(ctx, invocation{
		Installation: installation + "-older", Scopes: []string{bitbuckettest.ScopeReadRepository}, Body: body("user", putOne("main", "never.txt")),
	}, "failed")
	if err != nil {
		return "", err
	}
	if done.Failure.Kind != "denied" || !strings.Contains(done.Failure.Detail, "write:repository:bitbucket") {
		return "", fmt.Errorf("%s: %s", done.Failure.Kind, done.Failure.Detail)
	}
	return "the job's failure names write:repository:bitbucket", nil
}

func (s *sandbox) movedBranch(ctx context.Context) (string, error) {
	s.beforePush.Store(new(func() { s.commitBehindTheBack(ctx) }))
	done, err := s.finish(ctx, invocation{Body: body("user", putOne("main", "raced.txt"))}, "succeeded")
	if err != nil {
		return "", err
	}
	landed := s.git(ctx, "web", "log", "--format=%H", "--grep=Forge-Job: "+done.ID, "main")
	if landed != done.Result.Push.Commit || done.Result.Push.Restarts == 0 {
		return "", fmt.Errorf("restarts: %d, commits of the job on main: %q", done.Result.Push.Restarts, landed)
	}
	s.ownCommit = landed
	return fmt.Sprintf("made again on the new tip (%d restart), landed once", done.Result.Push.Restarts), s.fsck(ctx, "web")
}

func (s *sandbox) unsigned(ctx context.Context) (string, error) {
	got, err := s.forge.deliver(ctx, invocation{Path: "/v1/jobs", Headers: map[string]string{"Authorization": "Bearer eyJhbGciOiJub25lIn0.e30."}})
	if err != nil {
		return "", err
	}
	return "401, and nothing is queued", want(got, http.StatusUnauthorized)
}

func (s *sandbox) stranger(ctx context.Context) (string, error) {
	got, err := s.forge.deliver(ctx, invocation{Path: "/v1/jobs/" + s.helloJob, Installation: "ari:cloud:ecosystem::installation/another"})
	if err != nil {
		return "", err
	}
	if err := want(got, http.StatusNotFound); err != nil {
		return "", err
	}
	bob := "712020:bob"
	if got, err = s.forge.deliver(ctx, invocation{Path: "/v1/jobs/" + s.helloJob, Principal: &bob}); err != nil {
		return "", err
	}
	return "404: installations see their own jobs only, users what they asked for", want(got, http.StatusNotFound)
}

func (s *sandbox) noBot(ctx context.Context) (string, error) {
	got, err := s.forge.deliver(ctx, invocation{Path: "/v1/jobs", Body: body("system", putOne("main", "never.txt"))})
	if err != nil {
		return "", err
	}
	return "403: a user's call acts as that user; rules and functions act as the app", want(got, http.StatusForbidden)
}

// jobView is what GET /v1/jobs/{id} says, as far as the walk looks.
type jobView struct {
	ID     string `json:"id"`
	State  string `json:"state"`
	Actor  string `json:"actor"`
	Result struct {
		Clone struct {
			Commit   string `json:"commit"`
			Artifact struct {
				Size   int64  `json:"size"`
				SHA256 string `json:"sha256"`
				Files  int    `json:"files"`
			} `json:"artifact"`
		} `json:"clone"`
		Push struct {
			Commit      string `json:"commit"`
			Changed     int    `json:"changed"`
			Restarts    int    `json:"restarts"`
			PullRequest *struct {
				ID int `json:"id"`
			} `json:"pull_request"`
		} `json:"push"`
	} `json:"result"`
	Failure struct {
		Kind   string `json:"kind"`
		Detail string `json:"detail"`
	} `json:"failure"`
}

// body is a job request on acme/web.
func body(actor, operation string) json.RawMessage {
	return json.RawMessage(`{"repository":{"workspace":"acme","slug":"web"},"actor":"` + actor + `",` + operation + `}`)
}

func putOne(branch, path string) string {
	return `"push":{"branch":"` + branch + `","message":"Add ` + path + `","changes":[{"put":{"path":"` + path + `","content":"x\n"}}]}`
}

func (s *sandbox) submit(ctx context.Context, call invocation, status int) (jobView, error) {
	call.Path = "/v1/jobs"
	got, err := s.forge.deliver(ctx, call)
	if err != nil {
		return jobView{}, err
	}
	if err := want(got, status); err != nil {
		return jobView{}, err
	}
	var view jobView
	return view, json.Unmarshal(got.Body, &view)
}

// finish submits a job and asks for it until it has ended, in the state that is wanted.
func (s *sandbox) finish(ctx context.Context, call invocation, state string) (jobView, error) {
	view, err := s.submit(ctx, call, http.StatusAccepted)
	if err != nil {
		return view, err
	}
	return s.await(ctx, view.ID, call.Installation, state)
}

// noUser is the principal of a call by a function of the app, which sees every job of its installation.
var noUser = ""

// await asks for a job, as the app does, until it is in the state that is wanted, or has ended in another.
func (s *sandbox) await(ctx context.Context, id, where, state string) (jobView, error) {
	view := jobView{ID: id}
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return view, fmt.Errorf("job %s is still %s", view.ID, view.State)
		case <-tick.C:
		}
		got, err := s.forge.deliver(ctx, invocation{Path: "/v1/jobs/" + id, Installation: where, Principal: &noUser, Tokens: noTokens})
		if err == nil {
			err = want(got, http.StatusOK)
		}
		if err == nil {
			err = json.Unmarshal(got.Body, &view)
		}
		if err != nil {
			return view, err
		}
		switch view.State {
		case state:
			return view, nil
		case "succeeded", "failed", "expired", "canceled":
			return view, fmt.Errorf("ended as %s, want %s (%s)", view.State, state, view.Failure.Detail)
		}
	}
}

func want(got answer, status int) error {
	if got.Status != status {
		return fmt.Errorf("status %d, want %d: %.300s", got.Status, status, got.Body)
	}
	return nil
}
