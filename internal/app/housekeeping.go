package app

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/telemetry"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// housekeepingPause is between two rounds of a worker. All workers make them: each step may be done twice.
const housekeepingPause = time.Minute

// housekeeping looks after installations that are gone.
type housekeeping struct {
	*base
	jobs   *queue.Client
	git    *gitrepo.Client
	erased map[string]bool // installations whose tips this worker has removed
}

func (b *base) newHousekeeping(git *gitrepo.Client) *housekeeping {
	return &housekeeping{base: b, jobs: queue.NewClient(b.queue), git: git, erased: map[string]bool{}}
}

// run makes a round now and then, until ctx ends.
func (h *housekeeping) run(ctx context.Context) error {
	for {
		if err := h.round(ctx); err != nil && ctx.Err() == nil {
			h.logger.WarnContext(ctx, "installations could not be looked after; it is tried again", slog.Any(telemetry.KeyError, err))
		}
		next := time.NewTimer(housekeepingPause/2 + rand.N(housekeepingPause))
		select {
		case <-ctx.Done():
			next.Stop()
			return nil
		case <-next.C:
		}
	}
}

// round does what is due. One installation's trouble does not keep the others waiting.
func (h *housekeeping) round(ctx context.Context) error {
	var errs []error
	each := func(ids []string, err error, do func(ctx context.Context, id string) error) {
		errs = append(errs, err)
		for _, id := range ids {
			errs = append(errs, do(ctx, id))
		}
	}
	ids, err := h.installations.Silent(ctx)
	each(ids, err, h.giveUp)
	ids, err = h.installations.Leaving(ctx)
	each(ids, err, h.leave)
	ids, err = h.installations.Due(ctx)
	each(ids, err, h.erase)
	ids, err = h.installations.Erased(ctx)
	each(ids, err, h.forgetTips)
	return errors.Join(errs...)
}

// giveUp takes an installation for removed that nobody told us of.
func (h *housekeeping) giveUp(ctx context.Context, id string) error {
	eraseAt, err := h.installations.Remove(ctx, id)
	if err != nil {
		return err
	}
	h.logger.WarnContext(ctx, "an installation is taken for removed: its scheduled triggers stay away and its tokens are refused",
		slog.String(telemetry.KeyInstallation, id), slog.Time("erase_at", eraseAt))
	return h.leave(ctx, id)
}

// leave takes away what an installation that was removed needs no more. It is done again while something of it may still be on its way.
func (h *housekeeping) leave(ctx context.Context, id string) error {
	if err := h.vault.Forget(ctx, id); err != nil {
		return err
	}
	return h.cancelAll(ctx, id)
}

func (h *housekeeping) cancelAll(ctx context.Context, id string) error {
	if err := h.batches.CancelAll(ctx, id); err != nil {
		return err
	}
	canceled, err := h.jobs.CancelAll(ctx, id)
	if canceled > 0 {
		h.logger.InfoContext(ctx, "jobs of a removed installation were canceled", slog.String(telemetry.KeyInstallation, id), slog.Int(telemetry.KeyCount, canceled))
	}
	return err
}

// erase deletes all that is kept of an installation. What is on other workers' disks they delete themselves.
func (h *housekeeping) erase(ctx context.Context, id string) error {
	if err := h.leave(ctx, id); err != nil {
		return err
	}
	if err := h.jobs.EraseAll(ctx, id); err != nil {
		return err
	}
	if _, err := h.artifacts.DeleteAll(ctx, worker.ArtifactFolder(id)); err != nil {
		return err
	}
	if err := h.git.Forget(id); err != nil {
		return err
	}
	if err := h.batches.Forget(ctx, id); err != nil {
		return err
	}
	_, err := h.installations.Erase(ctx, id) // it logs
	return err
}

func (h *housekeeping) forgetTips(_ context.Context, id string) error {
	if h.erased[id] {
		return nil
	}
	err := h.git.Forget(id)
	h.erased[id] = err == nil
	return err
}
