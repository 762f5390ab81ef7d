package batch

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Plan is a batch as it is written down.
type Plan struct {
	Spec    []byte // sealed
	Fields  []any  // names and values of a [Root]
	Entries [][]byte
	// Digest is the same for plans with the same repositories. Two of one request differ where the dry run that they repeat changed.
	Digest string
}

// DryRun is what a batch that is started from a dry run takes over from it. Numbers are the repositories that it would have changed;
// Entries and Jobs are what is known of each.
type DryRun struct {
	Status  Status
	Spec    *Spec
	Numbers []int
	Entries []Entry
	Jobs    []job.Status
}

// Plan makes the plan of a batch. dry is the dry run that it repeats; nil where it repeats none.
func (b Batch) Plan(ring *secret.Keyring, dry *DryRun) (Plan, error) {
	work := &Spec{Push: b.Push, Query: b.Query}
	entries, err := b.entries(ring)
	if err != nil {
		return Plan{}, err
	}
	if dry != nil {
		if err := b.inherit(dry.Status); err != nil {
			return Plan{}, err
		}
		if work, entries, err = b.repeat(ring, dry); err != nil {
			return Plan{}, err
		}
	}
	title := b.Title
	if title == "" {
		title, _, _ = strings.Cut(strings.TrimSpace(work.Push.Message), "\n")
		title = strings.ToValidUTF8(title[:min(len(title), maxTitle)], "")
	}
	made := Plan{Fields: b.fields(ring, title, len(entries))}
	if made.Spec, err = work.seal(ring, b.Installation, b.ID); err != nil {
		return Plan{}, err
	}
	digest := sha256.New()
	for _, each := range entries {
		text, err := each.Encode()
		if err != nil {
			return Plan{}, err
		}
		made.Entries = append(made.Entries, text)
		each.Values = nil // sealed anew for each plan; they are part of the request, or of the dry run
		if err := json.NewEncoder(digest).Encode(each); err != nil {
			return Plan{}, fault.Wrapf(fault.Internal, err, "a repository cannot be encoded")
		}
	}
	made.Digest = hex.EncodeToString(digest.Sum(nil))
	return made, nil
}

// entries are the repositories that were given by name.
func (b Batch) entries(ring *secret.Keyring) ([]Entry, error) {
	entries := make([]Entry, len(b.Repositories))
	for i, target := range b.Repositories {
		entries[i] = Entry{
			Workspace: target.Workspace, Slug: target.Slug, WorkspaceUUID: target.WorkspaceUUID, RepositoryUUID: target.RepositoryUUID,
		}
		if len(target.Values) == 0 {
			continue
		}
		plain, err := json.Marshal(target.Values)
		if err != nil {
			return nil, fault.Wrapf(fault.Internal, err, "the batch cannot be encoded")
		}
		entries[i].Values = ring.Seal(plain, valuesContext(b.Installation, b.ID, i)...)
	}
	return entries, nil
}

// fields are the root's. title is the caller's own text and is sealed.
func (b Batch) fields(ring *secret.Keyring, title string, total int) []any {
	state, resolved := StateRunning, 1
	if b.Query != nil {
		state, resolved = StateResolving, 0
	}
	fields := []any{
		"id", b.ID, "digest", b.Digest, "state", string(state), "resolved", resolved, "actor", string(b.Actor.Kind), "created", b.CreatedAt.UnixMilli(),
		"total", total, "concurrency", b.Concurrency, "changes", 0, "stage", 0, "accepted", 0,
		"title", ring.Seal([]byte(title), titleContext(b.Installation, b.ID)...),
	}
	if b.PerHour > 0 {
		fields = append(fields, "per_hour", b.PerHour)
	}
	if b.DryRun {
		fields = append(fields, "dry", 1)
	}
	if rollout := b.Rollout; rollout != nil {
		for name, share := range map[string]Share{"canary": rollout.Canary, "then": rollout.Then, "stop": rollout.StopAtFailures} {
			if !share.IsZero() {
				fields = append(fields, name, share.String())
			}
		}
	}
	for _, field := range [][2]string{
		{"principal", b.Actor.Principal}, {"requester", b.Requester}, {"from", b.From}, {"trace", b.Trace.TraceID}, {"span", b.Trace.SpanID},
	} {
		if field[1] != "" {
			fields = append(fields, field[0], field[1])
		}
	}
	return fields
}

// Repeatable says why b cannot repeat the dry run, by an Invalid fault. err is of the look for the dry run.
func (b Batch) Repeatable(dry Status, err error) error {
	wrong := func(format string, arguments ...any) error {
		return fault.Newf(fault.Invalid, "from: "+format, arguments...)
	}
	switch {
	case fault.KindOf(err) == fault.NotFound && err != nil, err == nil && dry.Requester != b.Requester && b.Requester != "":
		return wrong("there is no batch %.40q, or its time is over", b.From)
	case err == nil && dry.Requester != b.Requester:
		return wrong("the dry run is a user's; only that user can start it")
	case err != nil:
		return err
	case !dry.DryRun:
		return wrong("batch %s is no dry run", b.From)
	case dry.State != StateFinished:
		return wrong("the dry run is %s; wait until it has finished", dry.State)
	case dry.Totals[Succeeded] == 0:
		return wrong("the dry run found nothing to change")
	}
	return nil
}

// inherit completes b with what its dry run was asked for: always the actor, and the roll-out and the pace where b gives none. The
// requester is the same, so that a user's dry run is continued by that user.
func (b *Batch) inherit(dry Status) error {
	if kind := forge.ActorKind(dry.Actor); b.Request.Actor != "" && b.Request.Actor != kind {
		return fault.Newf(fault.Invalid, "actor: the dry run acts as %q, and so does the batch that is started from it; leave actor out, or make another dry run", kind)
	}
	b.Actor = forge.Actor{Kind: forge.ActorKind(dry.Actor)}
	if b.Actor.Kind == forge.ActorUser {
		b.Actor.Principal = b.Requester
	}
	if b.Title == "" {
		b.Title = dry.Title
	}
	if b.Rollout == nil {
		b.Rollout = dry.Rollout
	}
	b.Concurrency = cmp.Or(b.Concurrency, dry.Concurrency)
	b.PerHour = cmp.Or(b.PerHour, dry.PerHour)
	return nil
}

// repeat takes over what a dry run found: its push, and those of its repositories that it would have changed.
func (b Batch) repeat(ring *secret.Keyring, dry *DryRun) (work *Spec, entries []Entry, err error) {
	push := *dry.Spec.Push
	push.DryRun = false
	for i, each := range dry.Entries {
		if len(each.Values) > 0 { // they are sealed for their place
			plain, err := ring.Open(each.Values, valuesContext(b.Installation, b.From, dry.Numbers[i])...)
			if err != nil {
				return nil, nil, fault.Wrapf(fault.Internal, err, "a repository's values cannot be opened: their sealing key is not in GITSMITH_SEAL_KEYS any more")
			}
			each.Values = ring.Seal(plain, valuesContext(b.Installation, b.ID, i)...)
		}
		if b.Changed != ChangedApply {
			each.Expect = expectOf(dry.Jobs[i])
		}
		each.Index = &dry.Numbers[i]
		entries = append(entries, each)
	}
	return &Spec{Push: &push}, entries, nil
}

// expectOf is what a dry run's job found. Of one whose result is gone nothing can match, so that the repository is left alone.
func expectOf(status job.Status) *job.Expect {
	if status.Result == nil || status.Result.Push == nil {
		return &job.Expect{}
	}
	return &job.Expect{Parent: status.Result.Push.Parent, Tree: status.Result.Push.Tree}
}
