package worker

import (
	"context"
	"errors"
	"log/slog"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// resolve turns UUIDs into the full name that git needs, and refuses what is known to be too large. remembered says that it was not
// asked for just now.
func (w *Worker) resolve(ctx context.Context, j job.Job, token forge.OAuthToken) (repository bitbucket.Repository, remembered bool, err error) {
	if j.Repository.Resolved() {
		return j.Repository, false, nil
	}
	info, remembered, err := w.Names.Name(ctx, j.Installation, j.Repository)
	if err != nil {
		return bitbucket.Repository{}, false, err
	}
	if !remembered {
		if info, err = w.REST.Resolve(ctx, token.Text, j.Repository); err != nil {
			return bitbucket.Repository{}, false, err
		}
		if err := w.Names.KeepName(ctx, j.Installation, j.Repository, info); err != nil {
			w.Logger.WarnContext(ctx, "a repository's name could not be remembered; the next job asks again", slog.Any("error", err))
		}
	}
	if w.MaxRepository > 0 && info.Size > w.MaxRepository {
		return bitbucket.Repository{}, remembered, fault.Newf(fault.TooLarge, "%s has %d bytes, and GITSMITH_MAX_REPOSITORY is %d", info.Repository, info.Size, w.MaxRepository)
	}
	return info.Repository, remembered, nil
}

// maybeRenamed reports whether a failure may be for want of the repository's present name: a server says the same of one that it does
// not know as of one that the token may not see.
func maybeRenamed(err error) bool {
	return fault.KindOf(err) == fault.NotFound || errors.Is(err, fault.ErrTokenRefused)
}
