package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
)

var (
	testLimits = policy{attempts: 8, maxAge: 24 * time.Hour, tokenWait: 2 * time.Hour}
	testNow    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// TestDecideEveryKind: each kind has a row here, so that a new one is thought about.
func TestDecideEveryKind(t *testing.T) {
	t.Parallel()
	type row struct {
		state   job.State
		counted bool
		again   bool
	}
	rows := map[fault.Kind]row{
		fault.Internal:        {job.Retrying, true, true},
		fault.Invalid:         {job.Failed, true, false},
		fault.Unauthenticated: {job.Failed, true, false},
		fault.Denied:          {job.Failed, true, false},
		fault.NotFound:        {job.Failed, true, false},
		fault.Conflict:        {job.Failed, true, false},
		fault.TooLarge:        {job.Failed, true, false},
		fault.Expired:         {job.Expired, true, false},
		fault.Throttled:       {job.Retrying, false, true},
		fault.Unavailable:     {job.Retrying, true, true},
		fault.Interrupted:     {job.Queued, false, false},
		fault.Canceled:        {job.Canceled, true, false},
	}
	for _, kind := range fault.Kinds() {
		want, known := rows[kind]
		if !known {
			t.Errorf("%s has no row", kind)
			continue
		}
		err := fmt.Errorf("context: %w", fault.Wrapf(kind, errors.New("private"), "public"))
		out := decide(err, job.Job{}, ledger.Attempt{Number: 1, OpenedAt: testNow}, testNow, testLimits)
		if (row{out.State, out.Counted, out.After > 0}) != want || out.Kind != kind || out.Detail != "public" {
			t.Errorf("%s: %+v", kind, out)
		}
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	waits := job.Job{Actor: forge.Actor{Kind: forge.ActorSystem}, OnExpiry: job.OnExpiryWait}
	expires := job.Job{Actor: forge.Actor{Kind: forge.ActorSystem}}
	userWaits := job.Job{Actor: forge.Actor{Kind: forge.ActorUser, Principal: "p"}, OnExpiry: job.OnExpiryWait}
	throttled := func(after time.Duration) error {
		err := fault.Newf(fault.Throttled, "too many")
		err.RetryAfter = after
		return err
	}
	until := func(err error, left time.Duration) error {
		return &job.AttemptError{Err: err, RetryUntil: testNow.Add(left)}
	}
	unavailable, expired := fault.Newf(fault.Unavailable, "away"), fault.Newf(fault.Expired, "no token")
	for name, tc := range map[string]struct {
		err      error
		job      job.Job
		at       ledger.Attempt
		state    job.State
		min, max time.Duration
		detail   string
	}{
		"nobody classified it":           {errors.New("x"), expires, ledger.Attempt{Number: 1}, job.Retrying, time.Second, 2 * time.Second, "our side"},
		"a context that ended":           {context.Canceled, expires, ledger.Attempt{Number: 1}, job.Queued, 0, 0, "interrupted"},
		"a deadline":                     {context.DeadlineExceeded, expires, ledger.Attempt{Number: 1}, job.Retrying, time.Second, 2 * time.Second, "ran out"},
		"the second attempt":             {unavailable, expires, ledger.Attempt{Number: 2}, job.Retrying, 2 * time.Second, 4 * time.Second, "away"},
		"the last but one":               {unavailable, expires, ledger.Attempt{Number: 7}, job.Retrying, 64 * time.Second, 128 * time.Second, "away"},
		"the last":                       {unavailable, expires, ledger.Attempt{Number: 8}, job.Failed, 0, 0, "away; given up after 8 attempts"},
		"minutes at most":                {throttled(0), expires, ledger.Attempt{Number: 1, Snoozes: 60}, job.Retrying, 90 * time.Second, 180 * time.Second, "too many"},
		"as long as it was told":         {throttled(time.Hour), expires, ledger.Attempt{Number: 1}, job.Retrying, time.Hour, time.Hour + 13*time.Minute, "too many"},
		"not counted, however often":     {throttled(time.Second), expires, ledger.Attempt{Number: 8, Snoozes: 900}, job.Retrying, time.Second, 3 * time.Second, "too many"},
		"put off for a day":              {throttled(time.Hour), expires, ledger.Attempt{Number: 1, OpenedAt: testNow.Add(-23*time.Hour - 30*time.Minute)}, job.Failed, 0, 0, "given up after 24h0m0s"},
		"while the token lives":          {until(unavailable, time.Minute), expires, ledger.Attempt{Number: 1}, job.Retrying, time.Second, 2 * time.Second, "away"},
		"not past the token":             {until(unavailable, time.Second/2), expires, ledger.Attempt{Number: 1}, job.Expired, 0, 0, "away; the system token runs out"},
		"throttled past the token":       {until(throttled(time.Hour), time.Minute), expires, ledger.Attempt{Number: 1}, job.Expired, 0, 0, "too many; the system token"},
		"past the token, waiting":        {until(unavailable, time.Second/2), waits, ledger.Attempt{Number: 1}, job.Waiting, waitLook, waitLook, "away; the system token"},
		"no bound":                       {&job.AttemptError{Err: unavailable}, expires, ledger.Attempt{Number: 1}, job.Retrying, time.Second, 2 * time.Second, "away"},
		"failed for good, bound or not":  {until(fault.Newf(fault.Denied, "no scope"), -time.Hour), waits, ledger.Attempt{Number: 1}, job.Failed, 0, 0, "no scope"},
		"no token, waiting":              {expired, waits, ledger.Attempt{Number: 1}, job.Waiting, waitLook, waitLook, "no token"},
		"no token, waiting, a last look": {expired, waits, ledger.Attempt{Number: 1, OpenedAt: testNow.Add(-119 * time.Minute)}, job.Waiting, time.Minute, time.Minute, "no token"},
		"no token for too long":          {expired, waits, ledger.Attempt{Number: 1, OpenedAt: testNow.Add(-2 * time.Hour)}, job.Expired, 0, 0, "no token"},
		"no user's token":                {expired, userWaits, ledger.Attempt{Number: 1}, job.Expired, 0, 0, "no token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tc.at.OpenedAt.IsZero() {
				tc.at.OpenedAt = testNow
			}
			out := decide(tc.err, tc.job, tc.at, testNow, testLimits)
			if out.State != tc.state || !strings.Contains(out.Detail, tc.detail) {
				t.Errorf("%+v", out)
			}
			if !out.State.Ended() && (out.After < tc.min || out.After > tc.max) {
				t.Errorf("again after %s, want %s to %s", out.After, tc.min, tc.max)
			}
		})
	}
}

// TestDecideKeepsTheBound: what is added to a long text fits, and is not what is cut off.
func TestDecideKeepsTheBound(t *testing.T) {
	t.Parallel()
	for _, text := range []string{strings.Repeat("x", 499), strings.Repeat("é", 250), strings.Repeat("€", 166)} {
		out := decide(fault.Newf(fault.Unavailable, "%s", text), job.Job{}, ledger.Attempt{Number: 8, OpenedAt: testNow}, testNow, testLimits)
		if len(out.Detail) > fault.MaxPublic || !strings.HasSuffix(out.Detail, "; given up after 8 attempts; try later") || strings.ContainsRune(out.Detail, '\uFFFD') {
			t.Errorf("%d bytes: %s", len(out.Detail), out.Detail)
		}
	}
}
