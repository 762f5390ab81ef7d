package dispatch

import (
	"context"
	"log/slog"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
)

// Filler gives batches' jobs their content. It may be used concurrently.
type Filler struct {
	Batches *ledger.Batches
	Limits  job.Limits
	// Describe looks a repository up, with the token of the job's actor.
	Describe func(ctx context.Context, j job.Job) (bitbucket.Details, error)
}

// Fill is the job with its push, worked out for its repository. What the push has become is checked as a caller's would be: an Invalid
// fault ends the job.
func (f *Filler) Fill(ctx context.Context, j job.Job) (job.Job, error) {
	spec, kept, err := f.Batches.Content(ctx, j.Installation, j.Batch.ID, j.Batch.Item)
	if err != nil {
		return job.Job{}, err
	}
	if spec.Lacks(kept) {
		found, err := f.Describe(ctx, j)
		if err != nil {
			return job.Job{}, err
		}
		kept.Describe(found)
		if err := f.Batches.KeepEntry(ctx, j.Installation, j.Batch.ID, j.Batch.Item, kept); err != nil { // for the next attempt
			f.Batches.Logger.WarnContext(ctx, "cannot keep what bitbucket said of a repository; the next attempt asks again", slog.Any("error", err))
		}
	}
	return spec.Fill(f.Batches.Keyring, j, kept, f.Limits)
}
