package receiver

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/intake"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/rule"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// What becomes of an event.
const (
	outcomeQueued        = "queued"         // it made jobs
	outcomeDuplicate     = "duplicate"      // its jobs were there
	outcomeUnwanted      = "unwanted"       // no rule asks for it
	outcomeSelfGenerated = "self_generated" // the app caused it
	outcomeOwnCommit     = "own_commit"     // a job of ours pushed what it tells of
	outcomeTooOld        = "too_old"
	outcomeRemoved       = "removed" // the app was, minutes ago
)

// eventView is the answer to an event.
type eventView struct {
	Outcome string         `json:"outcome"`
	Jobs    []eventJobView `json:"jobs,omitempty"`
}

type eventJobView struct {
	ID    string    `json:"id"`
	Rule  string    `json:"rule"`
	State job.State `json:"state"`
}

// events answers POST /forge/events: something happened on Bitbucket. Forge delivers it again, up to four times a minute apart, until it
// is answered in time; the rules' jobs are made once, whatever became of them. An event that makes no job is answered with 200 and why,
// types that nobody knows too.
func (r *receiver) events(ctx context.Context, c *call) error {
	happened, err := c.event()
	if err != nil {
		return err
	}
	c.log.event, c.log.place = happened.Type, happened.Place
	delivery := intake.Delivery{Invocation: c.Invocation, Size: int(c.Request().ContentLength)}
	switch happened.Type {
	case forge.EventInstalled, forge.EventUpgraded: // an app may send its lifecycle here too
		delivery.Installed = true
	case forge.EventRepositoryUpdated, forge.EventRepositoryDeleted:
		delivery.Changed = happened.Repository
	}
	outcome := r.judge(happened)
	if outcome == "" {
		delivery.Jobs = r.decide(ctx, c, happened)
		outcome = outcomeUnwanted
		if happened.MayBeOurs() {
			delivery.Commit = happened.Head()
		}
	}
	delivery.TooOld = outcome == outcomeTooOld
	taken, err := r.Intake.Take(ctx, delivery)
	if err != nil {
		return err
	}
	return r.answerEvent(c, happened, delivery.Jobs, taken, outcome)
}

// judge is why an event is not acted on, as far as the event itself says; empty where it is. What the app itself did is no event for it: a
// rule that pushes would feed itself.
func (r *receiver) judge(happened forge.Event) string {
	switch {
	case happened.SelfGenerated:
		return outcomeSelfGenerated
	case !happened.Timestamp.IsZero() && r.Now().Sub(happened.Timestamp) > r.EventAge:
		return outcomeTooOld
	}
	return ""
}

// decide is the jobs that the rules make of an event. A rule that fails for it is counted and told in the log; the others count.
func (r *receiver) decide(ctx context.Context, c *call, happened forge.Event) []job.Job {
	decisions, failures := r.Rules().Decide(happened, rule.Invocation{
		Installation: c.Installation(), Workspace: c.WorkspaceID(), AppVersion: c.AppVersion(), Environment: c.Environment(), Module: c.Module().Key,
	})
	traceID, spanID := telemetry.TraceOf(ctx)
	jobs := make([]job.Job, 0, len(decisions))
	for _, decided := range decisions {
		made, err := job.New(c.Invocation, decided.Request, job.Options{
			// The spaces keep it apart from what a caller can send as Idempotency-Key.
			IdempotencyKey: fmt.Sprintf("event %s %s", happened.Digest, decided.Rule), Class: decided.Class,
			Trace: job.Trace{TraceID: traceID, SpanID: spanID}, Now: r.Now(),
			Rule: decided.Rule, Event: happened.Digest, Coalesce: decided.Coalesce, User: decided.User, HappenedAt: happened.Timestamp,
		})
		if err != nil {
			failures = append(failures, rule.Failure{Rule: decided.Rule, Err: err})
			continue
		}
		jobs = append(jobs, made)
	}
	for _, failure := range failures {
		r.Metrics.RuleFailed(failure.Rule)
		r.Logger.WarnContext(ctx, "a rule made no job of an event", slog.String(telemetry.KeyInstallation, c.Installation()),
			slog.String(telemetry.KeyEvent, happened.Type), slog.String(telemetry.KeyRule, failure.Rule), errorOf(failure.Err))
	}
	return jobs
}

func (r *receiver) answerEvent(c *call, happened forge.Event, asked []job.Job, taken intake.Taken, outcome string) error {
	status := http.StatusOK
	view := eventView{Outcome: outcome}
	switch {
	case taken.Late:
		view.Outcome = outcomeRemoved
	case taken.Ours:
		view.Outcome = outcomeOwnCommit
	case len(taken.Jobs) > 0:
		view.Outcome = outcomeDuplicate
		c.log.job = taken.Jobs[0].Status.ID
	}
	for i, each := range taken.Jobs {
		if each.Created {
			status, view.Outcome = http.StatusAccepted, outcomeQueued
		}
		r.Metrics.Enqueued(string(asked[i].Operation()), string(asked[i].Class), each.Created)
		view.Jobs = append(view.Jobs, eventJobView{each.Status.ID, asked[i].Rule, each.Status.State})
	}
	c.log.outcome = view.Outcome
	r.Metrics.Event(happened.Type, view.Outcome)
	return c.JSON(status, view)
}

// installationView is the record as the app may see it.
type installationView struct {
	ID              string             `json:"id"`
	State           installation.State `json:"state"`
	AppID           string             `json:"app_id,omitempty"`
	AppVersion      string             `json:"app_version,omitempty"`
	Environment     string             `json:"environment,omitempty"`
	WorkspaceID     string             `json:"workspace_id,omitempty"`
	FirstSeenAt     time.Time          `json:"first_seen_at"`
	LastSeenAt      time.Time          `json:"last_seen_at"`
	InstalledAt     time.Time          `json:"installed_at,omitzero"`
	TokenExpiresAt  time.Time          `json:"token_expires_at,omitzero"`
	TokenRefusedAt  time.Time          `json:"token_refused_at,omitzero"`
	LastScheduledAt time.Time          `json:"last_scheduled_at,omitzero"`
	GoneAt          time.Time          `json:"gone_at,omitzero"`
	EraseAt         time.Time          `json:"erase_at,omitzero"`
	EventsTooOld    int                `json:"events_too_old"`
	Actors          []forge.ActorKind  `json:"actors"` // as which the caller may ask for work
	LastEventTooOld time.Time          `json:"last_event_too_old_at,omitzero"`
}

// installation answers GET /v1/installation: what is known of the caller's own.
func (r *receiver) installation(ctx context.Context, c *call) error {
	known, err := r.Installations.Get(ctx, c.Installation())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, installationView{
		ID: known.ID, State: known.State, AppID: known.AppID, AppVersion: known.AppVersion, Environment: known.Environment, WorkspaceID: known.Workspace,
		FirstSeenAt: known.FirstSeen, LastSeenAt: known.LastSeen, InstalledAt: known.InstalledAt, TokenExpiresAt: known.TokenExpiresAt,
		TokenRefusedAt: known.TokenRefusedAt, LastScheduledAt: known.LastScheduled, GoneAt: known.GoneAt, EraseAt: known.EraseAt,
		EventsTooOld: known.TooOld, LastEventTooOld: known.LastTooOld, Actors: c.actors(),
	})
}
