package dispatch

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Lister lists a workspace's repositories.
type Lister interface {
	List(ctx context.Context, token secret.Text, spec bitbucket.ListSpec) (bitbucket.ListPage, error)
}

// Workspaces knows the workspace of each installation, by its UUID without braces.
type Workspaces interface {
	Workspace(ctx context.Context, installation string) (uuid string, err error)
}

const (
	nearPause  = time.Minute      // between pages while Bitbucket's rate limit is near
	laterPause = 10 * time.Second // after a page that could not be had
)

// resolveAll asks the queries of all batches, one page of each in turn, until ctx ends.
func (d *Driver) resolveAll(ctx context.Context) {
	for {
		more, err := d.resolveRound(ctx)
		if err != nil && ctx.Err() == nil {
			d.Logger.WarnContext(ctx, "cannot ask a batch's query; will retry", slog.Any("error", err))
		}
		if more && err == nil {
			continue
		}
		pause := time.NewTimer(batchPause)
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// resolveRound reports whether there is a page that can be asked for at once.
func (d *Driver) resolveRound(ctx context.Context) (more bool, err error) {
	if !d.Leads() {
		return false, nil
	}
	resolving, err := d.Batches.Resolving(ctx)
	if err != nil {
		return false, err
	}
	for _, each := range resolving {
		root, err := d.Batches.Head(ctx, each.Installation, each.ID)
		if err != nil {
			return false, err
		}
		if root.State() != batch.StateResolving || d.Now().Before(root.NextPage()) {
			continue
		}
		again, err := d.resolvePage(ctx, each.Installation, each.ID, root)
		if err != nil {
			return false, err
		}
		more = more || again
	}
	return more, nil
}

// resolvePage asks for one page and keeps what it brings. Trouble that passes puts the query off; other trouble stops the batch, and a
// resume asks again.
func (d *Driver) resolvePage(ctx context.Context, installation, id string, root batch.Root) (more bool, err error) {
	mine, release, err := d.Batches.ClaimPage(ctx, installation, id)
	if err != nil || !mine {
		return false, err
	}
	defer release()
	found, err := d.page(ctx, installation, id, root)
	now := d.Now()
	if err != nil {
		if ctx.Err() != nil {
			return false, nil
		}
		var until time.Time
		switch fault.KindOf(err) {
		case fault.Throttled, fault.Unavailable, fault.Internal, fault.Expired:
			until = now.Add(max(laterPause, fault.RetryAfter(err)))
		}
		return false, d.Batches.PutOff(ctx, installation, id, until, fault.Public(err))
	}
	at := now
	if found.NearLimit {
		at = now.Add(nearPause)
	}
	entries := make([]batch.Entry, len(found.Repositories))
	for i, each := range found.Repositories {
		entries[i] = batch.EntryOf(each)
	}
	if err := d.Batches.AppendPage(ctx, installation, id, ledger.Page{Cursor: root.Cursor(), Next: found.Next, At: at, Entries: entries}); err != nil {
		return false, err
	}
	if found.Next == "" {
		d.Nudge(installation, id)
	}
	return found.Next != "" && !found.NearLimit, nil
}

// page is what the query finds on one page.
func (d *Driver) page(ctx context.Context, installation, id string, root batch.Root) (bitbucket.ListPage, error) {
	work, err := d.Batches.Spec(ctx, installation, id)
	if err != nil {
		return bitbucket.ListPage{}, err
	}
	query := work.Query
	if query == nil {
		return bitbucket.ListPage{}, fault.Newf(fault.Internal, "the batch has no query")
	}
	name, err := query.Pattern()
	if err != nil {
		return bitbucket.ListPage{}, err
	}
	workspace := query.Workspace
	if workspace == "" {
		uuid, err := d.Workspaces.Workspace(ctx, installation)
		if err != nil {
			return bitbucket.ListPage{}, err
		}
		workspace = "{" + strings.Trim(uuid, "{}") + "}"
	}
	found, err := d.list(ctx, installation, root.Actor(), bitbucket.ListSpec{
		Workspace: workspace, Project: query.Project, Language: query.Language, MainBranch: query.MainBranch, UpdatedSince: query.UpdatedSince,
		Page: root.Cursor(),
	})
	if err != nil || name == nil {
		return found, err
	}
	found.Repositories = slices.DeleteFunc(found.Repositories, func(each bitbucket.Details) bool { return !name.Match(each.Repository.Slug) })
	return found, nil
}
