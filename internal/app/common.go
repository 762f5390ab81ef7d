// Package app wires the rooms together: it turns settings into constructors, binds the listeners and stops in order.
// cmd/api, cmd/worker and cmd/sandbox share it.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/gitsmith/gitsmith/internal/artifact"
	"github.com/gitsmith/gitsmith/internal/config"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/ops"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/repolock"
	"github.com/gitsmith/gitsmith/internal/telemetry"
	"github.com/gitsmith/gitsmith/internal/vault"
)

// Addresses are where a program listens once it does.
type Addresses struct {
	Public string // of the receiver; empty for a worker
	Ops    string
}

// base is what both programs have.
type base struct {
	logger        *slog.Logger
	metrics       *telemetry.Metrics
	tracing       *telemetry.Tracing
	redis         redis.UniversalClient
	queue         queue.Options
	servers       servers // of Redis
	vault         *vault.Vault
	artifacts     *artifact.Store
	installations *installation.Store
	batches       *ledger.Batches
	closers       []func() error // in the order of opening
}

// open makes what both programs need. What it opened before an error it closes.
func open(ctx context.Context, service string, settings config.Common, log io.Writer) (_ *base, err error) {
	b := &base{
		logger:  telemetry.NewLogger(log, settings.LogLevel, settings.LogFormat).With(slog.String(telemetry.KeyService, service), slog.String(telemetry.KeyVersion, Version)),
		metrics: telemetry.NewMetrics(),
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.tracing, err = telemetry.NewTracing(ctx, "gitsmith-"+service, Version, settings.OTLP, b.logger); err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	b.closers = append(b.closers, func() error {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return b.tracing.Shutdown(last)
	})
	if b.redis, err = dialRedis(settings.RedisURL, &b.servers); err != nil {
		return nil, err
	}
	b.closers = append(b.closers, b.redis.Close)
	b.closers = append(b.closers, b.lookAtRedis(ctx))
	if b.artifacts, err = artifact.Open(ctx, settings.ArtifactURL); err != nil {
		return nil, fmt.Errorf("GITSMITH_ARTIFACT_URL: %w", err)
	}
	b.closers = append(b.closers, b.artifacts.Close)
	b.vault = vault.New(b.redis, settings.Keyring, vault.Options{Logger: b.logger})
	b.installations = installation.New(b.redis, installation.Options{EraseAfter: settings.EraseAfter, Interval: settings.ScheduleInterval, Logger: b.logger})
	b.queue = queue.Options{
		Redis: b.redis, Keyring: settings.Keyring, Retention: settings.Retention, Cap: settings.InstallationJobs, Logger: b.logger,
	}
	b.batches = ledger.NewBatches(ledger.BatchOptions{
		Redis: b.redis, Keyring: settings.Keyring, Ledger: queue.NewClient(b.queue).Ledger, Retention: settings.Retention, Logger: b.logger,
	})
	return b, nil
}

// lookAtRedis tells of a Redis that could lose jobs, without anybody waiting for one that is away. The function that it returns waits.
func (b *base) lookAtRedis(ctx context.Context) (wait func() error) {
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		if err := checkRedis(ctx, b.redis); err != nil {
			b.logger.ErrorContext(ctx, "redis can lose jobs", slog.Any(telemetry.KeyError, err))
		}
	}()
	return func() error { <-looked; return nil }
}

// close gives everything back, the newest first.
func (b *base) close() error {
	var errs []error
	for i := len(b.closers) - 1; i >= 0; i-- {
		errs = append(errs, b.closers[i]())
	}
	return errors.Join(errs...)
}

// opsListener binds the private listener.
func (b *base) opsListener(ctx context.Context, address string, checks map[string]func(context.Context) error, dashboard ops.Dashboard) (*listener, error) {
	stopping := make(chan struct{})
	handler, err := ops.New(ops.Config{
		Checks: checks, Metrics: b.metrics.Handler(), Redis: b.redis, Dashboard: dashboard, Describe: queue.Describe, Stopping: stopping,
		Batches: b.batches, Logger: b.logger,
	})
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	server.RegisterOnShutdown(sync.OnceFunc(func() { close(stopping) }))
	return bind(ctx, address, server)
}

// serve runs everything until ctx ends or one part fails, and then the rest ends too.
func serve(ctx context.Context, parts ...func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, part := range parts {
		group.Go(func() error { return part(ctx) })
	}
	return group.Wait()
}

// locker is the lock on repositories that workers share.
func (b *base) locker(retention time.Duration) *repolock.Locker {
	return repolock.New(b.redis, repolock.Options{Retention: retention})
}
