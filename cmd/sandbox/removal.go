package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// noTokens is a call that brings none.
var noTokens = []string{}

func (s *sandbox) coalesce(ctx context.Context) (string, error) {
	// Of an installation of its own, which no system token has reached yet: its jobs wait.
	where := installation + "-coalescing"
	older, err := s.waiting(ctx, where, time.Now().Add(-time.Second))
	if err != nil {
		return "", err
	}
	newer, err := s.waiting(ctx, where, time.Now())
	if err != nil {
		return "", err
	}
	replaced, err := s.await(ctx, older, where, "canceled")
	if err != nil {
		return "", err
	}
	if err := s.trigger(ctx, where); err != nil {
		return "", err
	}
	if _, err := s.await(ctx, newer, where, "succeeded"); err != nil {
		return "", err
	}
	return "takes its place: " + replaced.Failure.Detail, nil
}

// waiting delivers a push of main without a token, and returns its job's id once that waits for one.
func (s *sandbox) waiting(ctx context.Context, where string, when time.Time) (string, error) {
	told, err := s.tell(ctx, invocation{Installation: where, Tokens: noTokens},
		happening(pushEvent, webUUID, when, branchPush("main", randomHex(20), false)), http.StatusAccepted)
	if err != nil {
		return "", err
	}
	id, err := told.jobOf("archive-main")
	if err != nil {
		return "", err
	}
	_, err = s.await(ctx, id, where, "waiting")
	return id, err
}

// trigger is the app's hourly one, with a system token.
func (s *sandbox) trigger(ctx context.Context, where string) error {
	got, err := s.forge.deliver(ctx, invocation{Path: "/forge/schedule", Installation: where})
	if err != nil {
		return err
	}
	return want(got, http.StatusOK)
}

func (s *sandbox) wake(ctx context.Context) (string, error) {
	where := installation + "-waiting"
	request := strings.Replace(string(body("system", `"clone":{"archive":"none"}`)), `"actor"`, `"on_expiry":"wait","actor"`, 1)
	if _, err := s.submit(ctx, invocation{Installation: where, Principal: &noUser, Tokens: noTokens, Body: json.RawMessage(request)}, http.StatusAccepted); err != nil {
		return "", err
	}
	var list struct {
		Jobs []jobView `json:"jobs"`
	}
	got, err := s.forge.deliver(ctx, invocation{Path: "/v1/jobs", Installation: where, Principal: &noUser, Tokens: noTokens})
	if err != nil {
		return "", err
	}
	if err := json.Unmarshal(got.Body, &list); err != nil || len(list.Jobs) != 1 {
		return "", fmt.Errorf("%d jobs, %w", len(list.Jobs), err)
	}
	if _, err := s.await(ctx, list.Jobs[0].ID, where, "waiting"); err != nil {
		return "", err
	}
	begun := time.Now()
	if err := s.trigger(ctx, where); err != nil {
		return "", err
	}
	if _, err := s.await(ctx, list.Jobs[0].ID, where, "succeeded"); err != nil {
		return "", err
	}
	return fmt.Sprintf("it waits; %d ms after the trigger it is done", time.Since(begun).Milliseconds()), nil
}

func (s *sandbox) uninstall(ctx context.Context) (string, error) {
	where := installation + "-leaving"
	job, err := s.waiting(ctx, where, time.Now())
	if err != nil {
		return "", err
	}
	if _, err := s.forge.deliver(ctx, invocation{Path: "/v1/jobs", Installation: where, Tokens: []string{"user"}}); err != nil {
		return "", err
	}
	if s.tokensOf(where) != 1 {
		return "", fmt.Errorf("%d tokens are kept, want the user's", s.tokensOf(where))
	}
	got, err := s.forge.deliver(ctx, invocation{Path: "/forge/uninstall", Installation: where})
	if err == nil {
		err = want(got, http.StatusOK)
	}
	if err != nil {
		return "", err
	}
	if left := s.tokensOf(where); left > 0 {
		return "", fmt.Errorf("%d tokens are left", left)
	}
	if _, err := s.await(ctx, job, where, "canceled"); err != nil {
		return "", err
	}
	return s.afterwards(ctx, where)
}

// afterwards is what is answered to an app that was removed.
func (s *sandbox) afterwards(ctx context.Context, where string) (string, error) {
	got, err := s.forge.deliver(ctx, invocation{Path: "/v1/installation", Installation: where})
	if err == nil {
		err = want(got, http.StatusOK)
	}
	if err != nil {
		return "", err
	}
	var known struct {
		State   string    `json:"state"`
		EraseAt time.Time `json:"erase_at"`
	}
	if err := json.Unmarshal(got.Body, &known); err != nil {
		return "", err
	}
	if known.State != "gone" || known.EraseAt.Before(time.Now()) {
		return "", fmt.Errorf("the installation is %s", got.Body)
	}
	told, err := s.tell(ctx, invocation{Installation: where}, happening(pushEvent, webUUID, time.Now(), branchPush("main", randomHex(20), false)), http.StatusOK)
	if err != nil {
		return "", err
	}
	if told.Outcome != "removed" || len(told.Jobs) > 0 || s.tokensOf(where) > 0 {
		return "", fmt.Errorf("a late event: %+v, %d tokens", told, s.tokensOf(where))
	}
	late, err := s.forge.deliver(ctx, invocation{Path: "/v1/jobs", Installation: where, Body: body("user", `"clone":{}`)})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("tokens gone, its job canceled, late calls refused; erased on %s", known.EraseAt.Format(time.DateOnly)), want(late, http.StatusForbidden)
}

// tokensOf is how many tokens are kept for an installation.
func (s *sandbox) tokensOf(where string) int {
	kept := 0
	for _, key := range s.redis.Keys() {
		if strings.HasPrefix(key, keyspace.Installation(where).Token("")) {
			kept++
		}
	}
	return kept
}
