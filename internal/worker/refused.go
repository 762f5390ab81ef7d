package worker

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// given is a token that was handed out, and whose it is.
type given struct {
	actor forge.Actor
	token forge.OAuthToken
}

// attemptTokens are the tokens as one attempt of a job sees them. It remembers the token handed out last, which is the one that a 401 is
// about, and no longer hands out the rejected one. It is not for concurrent use: an attempt takes its tokens one after the other.
type attemptTokens struct {
	Tokens
	last    given
	refused given // zero: none yet
}

func (a *attemptTokens) Take(ctx context.Context, installation string, actor forge.Actor) (forge.OAuthToken, error) {
	var token forge.OAuthToken
	var err error
	if a.refused.actor == actor && !a.refused.token.IsZero() {
		token, err = a.TakeOther(ctx, installation, actor, a.refused.token)
	} else {
		token, err = a.Tokens.Take(ctx, installation, actor)
	}
	if err == nil {
		a.last = given{actor, token}
	}
	return token, err
}

// Put stores a token that the attempt is about to use.
func (a *attemptTokens) Put(ctx context.Context, installation string, actor forge.Actor, token forge.OAuthToken, arrived time.Time) (bool, error) {
	stored, err := a.Tokens.Put(ctx, installation, actor, token, arrived)
	if err == nil {
		a.last = given{actor, token}
	}
	return stored, err
}

// withToken calls do with the token of the job's actor, and once more with the actor's other token if Bitbucket rejects the first. Work that
// takes further tokens while it runs must take them through the worker passed to do.
func (w *Worker) withToken(ctx context.Context, j job.Job, do func(w *Worker, token forge.OAuthToken) error) error {
	tokens := &attemptTokens{Tokens: w.Tokens}
	under := *w
	under.Tokens = tokens
	token, err := under.try(ctx, j, do)
	if errors.Is(err, fault.ErrTokenRefused) && ctx.Err() == nil && w.Now().Before(tokens.last.token.ExpiresAt) {
		token, err = under.tryOther(ctx, j, tokens, token, err, do)
	}
	switch {
	case err == nil:
		return nil
	case token.IsZero():
		return w.judge(ctx, j, w.withoutToken(j, err))
	case errors.Is(err, fault.ErrTokenRefused) && !w.Now().Before(tokens.last.token.ExpiresAt):
		return w.outlived(ctx, j, err)
	}
	err = w.judge(ctx, j, err)
	if !j.Impersonate {
		err = &job.AttemptError{Err: err, RetryUntil: token.ExpiresAt.Add(-w.TokenMargin)}
	}
	return err
}

// try does the work once and returns the token that it began with. The token is zero if there was none, so that the work did not begin.
func (w *Worker) try(ctx context.Context, j job.Job, do func(w *Worker, token forge.OAuthToken) error) (forge.OAuthToken, error) {
	token, err := w.liveToken(ctx, j)
	if err != nil {
		return forge.OAuthToken{}, err
	}
	w.Recorder.TokenLife(string(j.Actor.Kind), token.ExpiresAt.Sub(w.Now()))
	return token, do(w, token)
}

// tryOther repeats the work after Bitbucket rejected the token that was used last, if that token's actor has another one. If the other
// token does the work, the rejected one is bad and is marked, so that other jobs do not try it. If Bitbucket rejects the other one too,
// that says nothing about either, because it rejects every token for a repository that is missing or hidden: neither is marked, and
// the first refusal stands.
func (w *Worker) tryOther(
	ctx context.Context, j job.Job, tokens *attemptTokens, first forge.OAuthToken, refusal error, do func(w *Worker, token forge.OAuthToken) error,
) (forge.OAuthToken, error) {
	refused := tokens.last
	tokens.refused = refused
	_, err := w.kept(ctx, j, refused.actor)
	if err != nil {
		tokens.last = refused
		if fault.KindOf(err) == fault.Expired {
			return first, refusal
		}
		return first, err // there may be another token; the next attempt looks again
	}
	w.Logger.InfoContext(ctx, "bitbucket rejected a token; the worker repeats the attempt with the actor's other token", slog.String("job", j.ID),
		slog.String("installation", j.Installation), slog.String("actor", string(refused.actor.Kind)), slog.String("error", fault.Private(refusal)))
	token, err := w.try(ctx, j, do)
	switch {
	case errors.Is(err, fault.ErrTokenRefused):
		return first, refusal
	case err == nil:
		w.markRefused(ctx, j, refused)
	}
	return token, err
}

// markRefused marks a token that was rejected while the actor's other token did the same work. It does nothing shortly after an install or
// an upgrade: a new token's permissions may arrive a few minutes later than the token does.
func (w *Worker) markRefused(ctx context.Context, j job.Job, refused given) {
	recent, err := w.Installs.RecentlyInstalled(ctx, j.Installation)
	if err == nil && recent {
		return
	}
	if err == nil {
		err = w.Tokens.MarkRefused(ctx, j.Installation, refused.actor, refused.token)
	}
	attributes := []any{slog.String("job", j.ID), slog.String("installation", j.Installation), slog.String("actor", string(refused.actor.Kind))}
	if err != nil {
		w.Logger.WarnContext(ctx, "cannot mark a rejected token; the next job tries it again", append(attributes, slog.Any("error", err))...)
		return
	}
	w.Logger.WarnContext(ctx, "a token was set aside until its expiry: bitbucket rejects it and accepts the actor's other token", attributes...)
}
