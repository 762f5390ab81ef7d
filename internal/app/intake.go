package app

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/gitsmith/gitsmith/internal/config"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/intake"
	"github.com/gitsmith/gitsmith/internal/ops"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/spool"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// door is the receiver's intake with the disk beside it, which may be none.
type door struct {
	*intake.Intake
	disk *spool.Spool
	size int64 // bytes that the disk takes
}

func (b *base) newDoor(ctx context.Context, settings config.API, jobs *queue.Client) (*door, error) {
	d := &door{size: settings.SpoolSize}
	config := intake.Config{
		Jobs: jobs, Tokens: b.vault, Installations: b.installations, Ping: jobs.Writable, Keyring: settings.Keyring, Logger: b.logger,
		Instance: jobs.Instance, Renewed: func(ctx context.Context) error {
			b.vault.Renew()
			b.installations.Renew()
			return jobs.Renew(ctx)
		},
		Spooled: b.metrics.Spooled,
	}
	if settings.SpoolDir != "" {
		disk, err := spool.Open(spool.Options{
			Dir: settings.SpoolDir, MaxBytes: settings.SpoolSize, Expired: func(count int) {
				b.metrics.SpoolExpired(count)
				b.logger.ErrorContext(ctx, "deliveries waited for redis too long and were dropped", slog.Int(telemetry.KeyCount, count))
			},
			Damaged: func(segment string, offset, length int64) {
				b.logger.ErrorContext(ctx, "a part of the spool cannot be read; its file is put aside", slog.String("segment", segment),
					slog.Int64("offset", offset), slog.Int64(telemetry.KeyBytes, length))
			},
		})
		if err != nil {
			return nil, fmt.Errorf("GITSMITH_SPOOL_DIR: %w; name a folder that can be written, or set it to off", err)
		}
		b.closers = append(b.closers, disk.Close)
		d.disk, config.Spool = disk, disk
	}
	d.Intake = intake.New(config)
	if d.disk != nil {
		b.metrics.WatchSpool(func() telemetry.SpoolStats {
			stats := d.disk.Stats()
			return telemetry.SpoolStats{Records: stats.Records, Bytes: stats.Bytes, Oldest: stats.Oldest, Damaged: stats.Damaged, Away: d.Away()}
		})
	}
	return d, nil
}

// readiness turns a Redis that is away, or refuses writes, into a degraded state as long as the disk takes deliveries: a reason to look
// at it, and none to take the receiver out of service. The text says what is wrong with Redis, and how much waits.
func (d *door) readiness(ready func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := ready(ctx)
		if d.disk == nil || err == nil {
			return err
		}
		stats := d.disk.Stats()
		if d.Refusing() || stats.Bytes >= d.size {
			return fault.Wrapf(fault.Unavailable, err,
				"%s, and the spool is full (GITSMITH_SPOOL_SIZE) or cannot be written: deliveries are refused", fault.Public(err))
		}
		return ops.Degraded{Err: fault.Wrapf(fault.Unavailable, err, "%s; deliveries that wait on this receiver's disk: %d (%d of %d bytes)",
			fault.Public(err), stats.Records, stats.Bytes, d.size)}
	}
}
