package batch

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
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
	pageLease  = 25 * time.Second // of a worker that asks for a page; a call takes at most 20 s
)

// resolveAll asks the queries of all batches, one page of each in turn, until ctx ends.
func (d *Driver) resolveAll(ctx context.Context) {
	for {
		more, err := d.resolveRound(ctx)
		if err != nil && ctx.Err() == nil {
			d.Logger.WarnContext(ctx, "a batch's query could not be asked; it is tried again", slog.Any("error", err))
		}
		if more && err == nil {
			continue
		}
		pause := time.NewTimer(tickPause)
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
	names, err := d.Store.Redis.ZRange(ctx, keyspace.ActiveBatches, 0, -1).Result()
	if err != nil {
		return false, unavailable(err, "look for batches")
	}
	states := make([]*redis.StringCmd, len(names))
	pipeline := d.Store.Redis.Pipeline()
	for i, name := range names {
		installation, id := split(name)
		states[i] = pipeline.HGet(ctx, keyspace.Installation(installation).Batch(id).Root(), "state")
	}
	if _, err := pipeline.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return false, unavailable(err, "look for batches")
	}
	for i, name := range names {
		if State(states[i].Val()) != StateResolving {
			continue
		}
		installation, id := split(name)
		fields, err := d.Store.head(ctx, installation, id)
		if err != nil {
			return false, err
		}
		next, _ := strconv.ParseInt(fields["next_page"], 10, 64) // not there is at once
		if State(fields["state"]) != StateResolving || d.Store.Now().UnixMilli() < next {
			continue
		}
		again, err := d.resolvePage(ctx, installation, id, fields)
		if err != nil {
			return false, err
		}
		more = more || again
	}
	return more, nil
}

// resolvePage asks for one page and keeps what it brings. Trouble that passes puts the query off; other trouble stops the batch, and a
// resume asks again.
func (d *Driver) resolvePage(ctx context.Context, installation, id string, fields map[string]string) (more bool, err error) {
	lease := keyspace.Installation(installation).Batch(id).Page()
	mine, err := d.Store.Redis.SetNX(ctx, lease, 1, pageLease).Result()
	if err != nil || !mine {
		return false, unavailable(err, "ask a query")
	}
	defer d.Store.Redis.Del(context.WithoutCancel(ctx), lease)
	found, err := d.page(ctx, installation, id, fields)
	now := d.Store.Now()
	if err != nil {
		if ctx.Err() != nil {
			return false, nil
		}
		var until time.Time
		switch fault.KindOf(err) {
		case fault.Throttled, fault.Unavailable, fault.Internal, fault.Expired:
			until = now.Add(max(laterPause, fault.RetryAfter(err)))
		}
		return false, d.Store.putOff(ctx, installation, id, until, fault.Public(err))
	}
	at := now
	if found.NearLimit {
		at = now.Add(nearPause)
	}
	entries := make([]any, len(found.Repositories))
	for i, each := range found.Repositories {
		text, err := json.Marshal(entryOf(each))
		if err != nil {
			return false, fault.Wrapf(fault.Internal, err, "a repository cannot be encoded")
		}
		entries[i] = text
	}
	if err := d.Store.appendPage(ctx, installation, id, fields["cursor"], found.Next, at, entries); err != nil {
		return false, err
	}
	if found.Next == "" {
		d.Nudge(installation, id)
	}
	return found.Next != "" && !found.NearLimit, nil
}

// page is what the query finds on one page.
func (d *Driver) page(ctx context.Context, installation, id string, fields map[string]string) (bitbucket.ListPage, error) {
	work, err := d.Store.spec(ctx, installation, id)
	if err != nil {
		return bitbucket.ListPage{}, err
	}
	query := work.Query
	if query == nil {
		return bitbucket.ListPage{}, fault.Newf(fault.Internal, "the batch has no query")
	}
	name, err := query.name()
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
	found, err := d.list(ctx, installation, actorOf(fields), bitbucket.ListSpec{
		Workspace: workspace, Project: query.Project, Language: query.Language, MainBranch: query.MainBranch, UpdatedSince: query.UpdatedSince,
		Page: fields["cursor"],
	})
	if err != nil || name == nil {
		return found, err
	}
	found.Repositories = slices.DeleteFunc(found.Repositories, func(each bitbucket.Details) bool { return !name.Match(each.Repository.Slug) })
	return found, nil
}

// entryOf is a repository as a query found it.
func entryOf(found bitbucket.Details) entry {
	return entry{Workspace: found.Repository.Workspace, Slug: found.Repository.Slug, Details: detailsOf(found, false)}
}

// detailsOf keeps what expressions can ask for. The name is kept where the repository was given by its UUIDs.
func detailsOf(found bitbucket.Details, withName bool) *details {
	kept := &details{UUID: found.UUID, Name: found.Name, Project: found.Project, Language: found.Language, MainBranch: found.MainBranch}
	if withName {
		kept.Workspace, kept.Slug = found.Repository.Workspace, found.Repository.Slug
	}
	return kept
}
