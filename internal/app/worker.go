package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/budget"
	"github.com/gitsmith/gitsmith/internal/config"
	"github.com/gitsmith/gitsmith/internal/dispatch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ops"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/recipe"
	"github.com/gitsmith/gitsmith/internal/telemetry"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// Worker is the worker's program.
func Worker() Program {
	return Program{
		Name: "worker", Help: config.HelpWorker,
		OpsAddr: func(environ []string) (string, error) {
			settings, err := config.LoadWorker(environ)
			return settings.OpsAddr, err
		},
		Run: func(ctx context.Context, environ []string, log io.Writer) error {
			return RunWorker(ctx, environ, log, nil)
		},
	}
}

// RunWorker does jobs until ctx ends, then gives what runs its grace time and the rest back to the queue. listening, which may
// be nil, is called once the private listener is bound.
func RunWorker(ctx context.Context, environ []string, log io.Writer, listening func(Addresses)) (err error) {
	settings, err := config.LoadWorker(environ)
	if err != nil {
		return err
	}
	b, err := open(ctx, "worker", settings.Common, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()

	// Before anything is started: the programs that it tries inherit nothing.
	recipes, err := b.recipes(ctx, settings.Recipes)
	if err != nil {
		return err
	}
	git, err := gitrepo.New(gitrepo.Config{
		Base: settings.GitURL, TempDir: settings.TempDir, MemoryLimit: settings.MemoryLimit, MaxRepository: settings.MaxRepository,
		CacheDir: settings.CacheDir, CacheSize: settings.CacheSize,
		Observe:     func(t gitrepo.Transfer) { b.metrics.GitTransfer(string(t.Phase), t.Status, t.Sent, t.Received) },
		ObserveRead: func(way gitrepo.Way) { b.metrics.GitRead(string(way)) },
		CacheFailed: func(err error) {
			b.logger.WarnContext(ctx, "the tip cache cannot be written; the next job on the repository reads it anew", slog.Any(telemetry.KeyError, err))
		},
	})
	if err != nil {
		return fmt.Errorf("git: %w", err)
	}
	b.closers = append(b.closers, git.Close)
	rest, err := bitbucket.NewClient(bitbucket.Config{Base: settings.RESTURL, Logger: b.logger})
	if err != nil {
		return fmt.Errorf("GITSMITH_API_URL: %w", err)
	}
	private, err := b.opsListener(ctx, settings.OpsAddr, map[string]func(context.Context) error{"redis": queue.NewClient(b.queue).Ready}, ops.Dashboard{})
	if err != nil {
		return err
	}
	tickets := queue.NewClient(b.queue)
	dispatcher := dispatch.New(dispatch.Config{Ledger: tickets.Ledger, Tickets: tickets, Logger: b.logger})
	driver := dispatch.NewDriver(dispatch.DriverConfig{
		Batches: b.batches, Queue: tickets, Tokens: b.vault, Lister: rest, Workspaces: b.installations, TokenMargin: settings.TokenMargin,
		Leads: dispatcher.Leads, Logger: b.logger,
	})
	jobs := b.worker(settings, git, rest, recipes)
	server := queue.NewServer(b.queue, b.serverConfig(settings, jobs, driver))
	if err := server.Start(); err != nil {
		return errors.Join(err, private.Close())
	}
	if listening != nil {
		listening(Addresses{Ops: private.Addr().String()})
	}
	b.logger.InfoContext(ctx, "the worker takes jobs", slog.Int(telemetry.KeyCount, settings.Concurrency), slog.String("ops_address", private.Addr().String()))
	return serve(ctx, private.serve, b.sweepArtifacts(settings.ArtifactTTL), b.newHousekeeping(git).run, dispatcher.Run, driver.Run, func(ctx context.Context) error {
		<-ctx.Done()
		server.Stop()
		return nil
	})
}

func (b *base) worker(settings config.Worker, git *gitrepo.Client, rest *bitbucket.Client, recipes *recipe.Book) *worker.Worker {
	content := &dispatch.Filler{Batches: b.batches, Limits: jobLimits(settings.Common)}
	jobs := worker.New(worker.Config{
		RedisSince: b.servers.Since,
		Content:    content,
		Tokens:     b.vault, Installs: b.vault, Installations: b.installations, Names: b.installations,
		Impersonator: forge.NewImpersonator(forge.ImpersonatorConfig{URL: settings.GraphQLURL, ContextID: settings.ContextID}),
		Budget:       budget.New(b.redis, budget.Options{GitPerHour: settings.GitBudget, ExchangesPerMinute: exchangesPerMinute}),
		Locker:       worker.NewLocker(b.locker(settings.Retention)), Git: worker.NewGit(git), Keyring: settings.Keyring,
		Artifacts: b.artifacts, REST: rest, Recorder: b.metrics, Tracing: b.tracing, Logger: b.logger,
		Limits: editLimits(settings.Common), TokenMargin: settings.TokenMargin, ArtifactTTL: settings.ArtifactTTL, MaxRepository: settings.MaxRepository,
		TempDir: git.TempFolder(), Recipes: recipes,
		Author: job.Author{Name: settings.AuthorName, Email: settings.AuthorEmail},
	})
	content.Describe = jobs.Describe // the filler asks with a token, and the worker has the tokens
	return jobs
}

// recipes reads the file of commands that pushes may run; nil where there is none.
func (b *base) recipes(ctx context.Context, path string) (*recipe.Book, error) {
	book, err := recipe.Load(path)
	if err != nil {
		return nil, fmt.Errorf("GITSMITH_RECIPES (%s):\n%w", path, err)
	}
	if book != nil {
		b.logger.InfoContext(ctx, "the recipes were read", slog.Int(telemetry.KeyCount, book.Len()), slog.String("confinement", book.Confinement()))
	}
	return book, nil
}

// exchangesPerMinute is Atlassian's bound on exchanges of tokens by one app, 1,000, with room for what others count otherwise.
const exchangesPerMinute = 950

func (b *base) serverConfig(settings config.Worker, processor queue.Processor, driver *dispatch.Driver) queue.ServerConfig {
	return queue.ServerConfig{
		Processor: processor, Concurrency: settings.Concurrency, JobTimeout: settings.JobTimeout, Grace: settings.Grace,
		TokenWait: settings.TokenWait,
		Started: func(_ context.Context, j job.Job, waited time.Duration) {
			b.metrics.JobStarted(string(j.Operation()), waited)
		},
		Ended: func(ctx context.Context, j job.Job, end queue.End) {
			b.ended(ctx, j, end)
			if j.Batch.ID != "" {
				driver.Nudge(j.Installation, j.Batch.ID)
			}
		},
	}
}

// ended counts an attempt and writes its one log event.
func (b *base) ended(ctx context.Context, j job.Job, end queue.End) {
	kind := ""
	if end.Err != nil {
		kind = end.Kind.String()
	}
	b.metrics.JobEnded(string(j.Operation()), string(end.State), kind, end.Duration)
	level := slog.LevelInfo
	if end.Err != nil && end.Kind == fault.Internal {
		level = slog.LevelError
	}
	attributes := []slog.Attr{
		slog.String(telemetry.KeyJob, j.ID), slog.String(telemetry.KeyInstallation, j.Installation),
		slog.String(telemetry.KeyOperation, string(j.Operation())), slog.String(telemetry.KeyClass, string(j.Class)),
		slog.String(telemetry.KeyRepository, j.Repository.String()), slog.String(telemetry.KeyActor, string(j.Actor.Kind)),
		slog.String(telemetry.KeyState, string(end.State)), slog.Int(telemetry.KeyAttempt, end.Attempt),
		slog.Duration(telemetry.KeyDuration, end.Duration),
	}
	if end.Err != nil {
		attributes = append(attributes, slog.String(telemetry.KeyKind, kind), slog.String(telemetry.KeyError, fault.Private(end.Err)))
	}
	if end.Next > 0 && !end.State.Ended() {
		attributes = append(attributes, slog.Duration(telemetry.KeyRetryAfter, end.Next))
	}
	b.logger.LogAttrs(telemetry.WithTrace(ctx, j.Trace.TraceID, j.Trace.SpanID), level, "job attempt", attributes...)
}

// sweepArtifacts removes archives whose time is over, and what crashed writers left, until ctx ends.
func (b *base) sweepArtifacts(ttl time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		tick := time.NewTicker(min(ttl, 10*time.Minute))
		defer tick.Stop()
		for {
			removed, err := b.artifacts.Sweep(ctx, time.Now().Add(-ttl))
			if err != nil && ctx.Err() == nil {
				b.logger.WarnContext(ctx, "old archives could not be removed", slog.Any(telemetry.KeyError, err))
			}
			if removed > 0 {
				b.logger.InfoContext(ctx, "old archives were removed", slog.Int(telemetry.KeyCount, removed))
			}
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
	}
}
