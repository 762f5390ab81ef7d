package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// liveToken is the actor's current token with more than the margin left, or an Expired fault. For a job that acts as a user who is not
// there, one is asked for where none is kept.
func (w *Worker) liveToken(ctx context.Context, j job.Job) (forge.OAuthToken, error) {
	token, err := w.kept(ctx, j, j.Actor)
	if err == nil || !j.Impersonate || fault.KindOf(err) != fault.Expired {
		return token, err
	}
	return w.impersonate(ctx, j)
}

// kept is what the vault has of an actor, if it lives for longer than the margin.
func (w *Worker) kept(ctx context.Context, j job.Job, actor forge.Actor) (forge.OAuthToken, error) {
	token, err := w.Tokens.Take(ctx, j.Installation, actor)
	if err != nil {
		return forge.OAuthToken{}, err
	}
	if left := token.ExpiresAt.Sub(w.Now()); left <= w.TokenMargin {
		return forge.OAuthToken{}, fault.Newf(fault.Expired,
			"the %s token has %s left, and %s is the least that work begins with; the next call that brings %s renews it",
			actor.Kind, max(left, 0).Round(time.Second), w.TokenMargin, actor.Header())
	}
	return token, nil
}

// impersonate exchanges the system's token for the user's, and keeps that for its time.
func (w *Worker) impersonate(ctx context.Context, j job.Job) (forge.OAuthToken, error) {
	system, err := w.kept(ctx, j, forge.Actor{Kind: forge.ActorSystem})
	if err != nil {
		return forge.OAuthToken{}, fmt.Errorf("act as a user: %w", err)
	}
	workspace := j.Repository.WorkspaceUUID
	if workspace == "" {
		if workspace, err = w.Installations.Workspace(ctx, j.Installation); err != nil {
			return forge.OAuthToken{}, err
		}
	}
	if err := w.Budget.Exchange(ctx); err != nil {
		return forge.OAuthToken{}, err
	}
	token, err := w.Impersonator.Token(ctx, system.Text, workspace, j.Actor.Principal)
	if err != nil {
		return forge.OAuthToken{}, err
	}
	if left := token.ExpiresAt.Sub(w.Now()); left <= w.TokenMargin {
		return forge.OAuthToken{}, fault.Newf(fault.Unavailable,
			"act as a user: atlassian gave a token for %s, and %s is the least that work begins with; it is tried again", max(left, 0).Round(time.Second), w.TokenMargin)
	}
	if _, err := w.Tokens.Put(ctx, j.Installation, j.Actor, token, time.Time{}); err != nil {
		return forge.OAuthToken{}, err
	}
	return token, nil
}
