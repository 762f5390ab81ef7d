package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/gitsmith/gitsmith/internal/config"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ops"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/receiver"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// API is the receiver's program.
func API() Program {
	return Program{
		Name: "api", Help: config.HelpAPI,
		OpsAddr: func(environ []string) (string, error) {
			settings, err := config.LoadAPI(environ)
			return settings.OpsAddr, err
		},
		Run: func(ctx context.Context, environ []string, log io.Writer) error {
			collectRarely(ctx, environ)
			return RunAPI(ctx, environ, log, nil)
		},
	}
}

// RunAPI serves the receiver until ctx ends, then lets answers that are under way finish. listening, which may be nil, is
// called once both listeners are bound.
func RunAPI(ctx context.Context, environ []string, log io.Writer, listening func(Addresses)) (err error) {
	settings, err := config.LoadAPI(environ)
	if err != nil {
		return err
	}
	b, err := open(ctx, "api", settings.Common, log)
	if err != nil {
		return err
	}
	b.queue.Group = settings.RedisGroup
	defer func() { err = errors.Join(err, b.close()) }()

	verifier, err := forge.NewVerifier(forge.VerifierConfig{
		AppIDs: settings.AppIDs, JWKSURL: settings.JWKSURL, JWKSURLTemplate: settings.JWKSURLTemplate,
		UnreadableLife: settings.UnreadableLife, Logger: b.logger,
	})
	if err != nil {
		return err
	}
	jobs := queue.NewClient(b.queue)
	inlet, err := b.newDoor(ctx, settings, jobs)
	if err != nil {
		return err
	}
	rules, err := loadRules(settings.Rules, jobLimits(settings.Common), b.logger, b.metrics)
	if err != nil {
		return err
	}
	private, err := b.opsListener(ctx, settings.OpsAddr, map[string]func(context.Context) error{
		"forge_keys": func(context.Context) error { return verifier.Ready() }, "redis": inlet.readiness(jobs.Ready),
	}, ops.Dashboard{User: settings.DashboardUser, Password: settings.DashboardPassword, Write: settings.DashboardWrite})
	if err != nil {
		return err
	}
	public, err := b.publicListener(ctx, settings, verifier, jobs, inlet, rules)
	if err != nil {
		return errors.Join(err, private.Close())
	}
	if listening != nil {
		listening(Addresses{Public: public.Addr().String(), Ops: private.Addr().String()})
	}
	b.logger.InfoContext(ctx, "the receiver listens", slog.String(telemetry.KeyAddress, public.Addr().String()), slog.String("ops_address", private.Addr().String()))
	return serve(ctx, public.serve, private.serve, inlet.Run, rules.watch, func(ctx context.Context) error { return keepWarm(ctx, verifier) })
}

func (b *base) publicListener(
	ctx context.Context, settings config.API, verifier *forge.Verifier, jobs *queue.Client, inlet *door, rules *rules,
) (*listener, error) {
	b.metrics.WatchQueues(func(ctx context.Context) ([]telemetry.QueueDepth, error) {
		depths, err := jobs.Depths(ctx)
		converted := make([]telemetry.QueueDepth, len(depths))
		for i, depth := range depths {
			converted[i] = telemetry.QueueDepth(depth)
		}
		return converted, err
	})
	b.metrics.WatchBatches(b.batches.Going)
	handler, err := receiver.New(receiver.Config{
		Verifier: verifier, Intake: inlet, Tokens: b.vault, Installations: b.installations, Jobs: jobs, Batches: b.batches, Artifacts: b.artifacts,
		Metrics: b.metrics, Logger: b.logger, Limits: jobLimits(settings.Common), MaxBody: settings.MaxBody,
		Rules: rules.current.Load, EventAge: settings.EventAge,
		EventKeys: settings.EventKeys, ScheduleKeys: settings.ScheduleKeys, LifecycleKeys: settings.LifecycleKeys, UninstallKeys: settings.UninstallKeys,
	})
	if err != nil {
		return nil, fmt.Errorf("receiver: %w", err)
	}
	return bind(ctx, settings.Addr, receiver.NewServer(handler))
}

func jobLimits(settings config.Common) job.Limits {
	limits := job.DefaultLimits()
	limits.Edit = editLimits(settings)
	return limits
}

func editLimits(settings config.Common) edit.Limits {
	limits := edit.DefaultLimits()
	limits.Changes = settings.MaxChanges
	return limits
}

// keepWarm fetches Forge's keys before the first invocation needs them, and again until they are there.
func keepWarm(ctx context.Context, verifier *forge.Verifier) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for verifier.Warm(ctx) != nil { // the verifier logs what is wrong
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}
