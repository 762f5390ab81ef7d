package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
)

// policy is what decides how often and how long a job is tried.
type policy struct {
	attempts  int           // that count
	maxAge    time.Duration // of a run that is put off without counting
	tokenWait time.Duration // of a job that waits for a token
}

// decide is the one place that turns a failed attempt into what becomes of the job: the table of fault dispositions, bounded
// by attempts, age, and the life of the only token there is.
func decide(err error, j job.Job, at ledger.Attempt, now time.Time, limits policy) ledger.Outcome {
	kind := fault.KindOf(err)
	end := func(state job.State) ledger.Outcome {
		return ledger.Outcome{State: state, Counted: true, Kind: kind, Detail: fault.Public(err)}
	}
	again := func(after time.Duration, counted bool) ledger.Outcome {
		return ledger.Outcome{State: job.Retrying, After: after, Counted: counted, Kind: kind, Detail: fault.Public(err)}
	}
	switch kind.Disposition() {
	case fault.Cancel:
		return end(job.Canceled)
	case fault.Requeue:
		out := again(0, false)
		out.State = job.Queued
		return out
	case fault.Expire:
		return withoutToken(end(job.Expired), j, at, now, limits)
	case fault.Snooze:
		after := fault.RetryAfter(err)
		if after == 0 {
			after = backoff(at.Snoozes+1, 3*time.Minute)
		} else {
			after += rand.N(after/5 + time.Second) // not all at once when the limit is over
		}
		if now.Add(after).After(at.OpenedAt.Add(limits.maxAge)) {
			return givenUp(end(job.Failed), "given up after %s; try later", limits.maxAge)
		}
		return whileTokenLives(again(after, false), err, j, at, now, limits)
	case fault.Retry:
		if at.Number >= limits.attempts {
			return givenUp(end(job.Failed), "given up after %d attempts; try later", limits.attempts)
		}
		after := max(backoff(at.Number, 5*time.Minute), fault.RetryAfter(err))
		return whileTokenLives(again(after, true), err, j, at, now, limits)
	}
	return end(job.Failed) // Fail, and Restart: the worker has begun again as often as is worth it
}

// whileTokenLives puts nothing off past the expiry of the only token there is.
func whileTokenLives(out ledger.Outcome, err error, j job.Job, at ledger.Attempt, now time.Time, limits policy) ledger.Outcome {
	var bounded *job.AttemptError
	if !errors.As(err, &bounded) || bounded.RetryUntil.IsZero() || !now.Add(out.After).After(bounded.RetryUntil) {
		return out
	}
	return withoutToken(givenUp(out, "the %s token runs out before the next attempt; call again with a new one", j.Actor.Kind), j, at, now, limits)
}

// givenUp adds to the detail why there is no further attempt, within the bound of public texts.
func givenUp(out ledger.Outcome, format string, args ...any) ledger.Outcome {
	const reserve = 100 // bytes for the reason, which must not be what is cut off
	reason, detail := fmt.Sprintf(format, args...), out.Detail
	if len(detail) > fault.MaxPublic-reserve {
		detail = strings.ToValidUTF8(detail[:fault.MaxPublic-reserve], "") + "…"
	}
	out.Detail = fault.Newf(out.Kind, "%s; %s", detail, reason).Public
	return out
}

// waitLook is how often a waiting job looks for a token by itself, should the wake that a token brings have been lost.
const waitLook = 5 * time.Minute

// withoutToken lets a job wait for the next system token where it asked to and such a one helps, and ends it as expired elsewhere.
func withoutToken(out ledger.Outcome, j job.Job, at ledger.Attempt, now time.Time, limits policy) ledger.Outcome {
	left := at.OpenedAt.Add(limits.tokenWait).Sub(now)
	if j.OnExpiry == job.OnExpiryWait && (j.Actor.Kind == forge.ActorSystem || j.Impersonate) && left > 0 {
		out.State, out.After, out.Counted = job.Waiting, min(left, waitLook), false
		return out
	}
	out.State, out.Counted = job.Expired, true
	return out
}

// backoff doubles from two seconds up to a most, and is anything between half of that and all of it.
func backoff(n int, most time.Duration) time.Duration {
	full := min(2*time.Second<<min(n-1, 20), most)
	return full/2 + rand.N(full/2)
}

// errCanceled ends the context of a job whose cancel was asked for.
func errCanceled() error {
	return fault.Newf(fault.Canceled, "the job was canceled while it ran; what it had pushed by then stays")
}

// errStopping ends the context of what still runs when a server's grace time is over.
func errStopping() error {
	return fault.Wrapf(fault.Interrupted, context.Canceled, "the worker stopped; the job is taken up again")
}

// errLost ends the context of an attempt that was given up, because its worker was not heard for too long.
func errLost() error {
	return fault.Wrapf(fault.Interrupted, context.Canceled, "another attempt of the job has taken over")
}

// errTimeout ends the context of an attempt that took too long.
func errTimeout(limit time.Duration) error {
	return fault.Wrapf(fault.Unavailable, context.DeadlineExceeded, "the attempt took longer than %s (GITSMITH_JOB_TIMEOUT)", limit)
}
