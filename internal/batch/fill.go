package batch

import (
	"context"
	"encoding/json"
	"log/slog"
	"strconv"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/expression"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// variables are what a batch's expressions speak of.
type variables struct {
	Workspace  string `expr:"workspace"`
	Slug       string `expr:"slug"`
	FullName   string `expr:"full_name"`
	Name       string `expr:"name"`
	UUID       string `expr:"uuid"`
	Project    string `expr:"project"`
	Language   string `expr:"language"`
	MainBranch string `expr:"main_branch"`
}

var language = expression.Language{
	Variables: map[string]any{"repository": variables{}, "values": map[string]string{}, "index": 0}, Subject: "this repository", Strangers: true, Quiet: true,
}

// work is a push whose texts may hold expressions.
type work struct {
	push      *job.Push
	templates *expression.Templates
	details   bool // they ask for what a repository's slugs do not say
	names     bool // they ask for its slugs
}

func parseWork(push *job.Push) (*work, error) {
	templates, err := language.Parse("push", push)
	if err != nil {
		return nil, err
	}
	return &work{
		push: push, templates: templates,
		details: templates.Uses("repository.name", "repository.uuid", "repository.project", "repository.language", "repository.main_branch"),
		names:   templates.Uses("repository.workspace", "repository.slug", "repository.full_name"),
	}, nil
}

// render is the push for one repository.
func (w *work) render(kept entry, values map[string]string, number int) (*job.Push, error) {
	made := *w.push
	if w.templates.Len() == 0 {
		return &made, nil
	}
	about := variables{Workspace: kept.Workspace, Slug: kept.Slug, UUID: kept.RepositoryUUID}
	if known := kept.Details; known != nil {
		if known.Slug != "" {
			about.Workspace, about.Slug = known.Workspace, known.Slug
		}
		about.Name, about.UUID, about.Project, about.Language, about.MainBranch = known.Name, known.UUID, known.Project, known.Language, known.MainBranch
	}
	about.FullName = about.Workspace + "/" + about.Slug
	if values == nil {
		values = map[string]string{}
	}
	if kept.Index != nil {
		number = *kept.Index
	}
	err := w.templates.Render(&made, map[string]any{"repository": about, "values": values, "index": number})
	return &made, err
}

// maxTried is how many repositories' texts are worked out before a batch is taken.
const maxTried = 20

// tryExpressions works the push out for the first repositories, so that a mistake is told at once. What has to be looked up is made up here.
func (r *Request) tryExpressions(limits job.Limits) error {
	parsed, err := parseWork(r.Push)
	if err != nil {
		return err
	}
	targets := r.Repositories[:min(len(r.Repositories), maxTried)]
	if r.Query != nil {
		targets = []Target{{Repository: bitbucket.Repository{Workspace: "workspace", Slug: "repository"}}}
	}
	sample := &details{
		Workspace: "workspace", Slug: "repository", UUID: "{00000000-0000-0000-0000-000000000000}", Name: "Repository", Project: "PROJECT",
		Language: "go", MainBranch: "main",
	}
	for i, target := range targets {
		tried := entry{
			Workspace: target.Workspace, Slug: target.Slug, WorkspaceUUID: target.WorkspaceUUID, RepositoryUUID: target.RepositoryUUID, Details: sample,
		}
		if target.Slug != "" {
			known := *sample
			known.Workspace, known.Slug = "", ""
			tried.Details = &known
		}
		push, err := parsed.render(tried, target.Values, i)
		if err != nil {
			return err
		}
		request := job.Request{Repository: target.Repository, Push: push}
		if err := request.Validate(limits); err != nil {
			return err
		}
	}
	return nil
}

// Filler gives batches' jobs their content.
type Filler struct {
	Store  *Store
	Limits job.Limits
	// Describe looks a repository up, with the token of the job's actor.
	Describe func(ctx context.Context, j job.Job) (bitbucket.Details, error)
}

// Fill is the job with its push, worked out for its repository. What the push has become is checked as a caller's would be: an Invalid
// fault ends the job.
func (f *Filler) Fill(ctx context.Context, j job.Job) (job.Job, error) {
	found, err := f.Store.spec(ctx, j.Installation, j.Batch.ID)
	if err != nil {
		return job.Job{}, err
	}
	entries, err := f.Store.entries(ctx, j.Installation, j.Batch.ID, []int{j.Batch.Item})
	if err != nil {
		return job.Job{}, err
	}
	kept := entries[0]
	if lacks := kept.Details == nil; found.work.details && lacks || found.work.names && kept.Slug == "" && (lacks || kept.Details.Slug == "") {
		if err := f.describe(ctx, j, &kept); err != nil {
			return job.Job{}, err
		}
	}
	var values map[string]string
	if len(kept.Values) > 0 {
		plain, err := f.Store.Keyring.Open(kept.Values, valuesContext(j.Installation, j.Batch.ID, j.Batch.Item)...)
		if err == nil {
			err = json.Unmarshal(plain, &values)
		}
		if err != nil {
			return job.Job{}, fault.Wrapf(fault.Internal, err, "the repository's values cannot be opened: they are damaged, or their sealing key is not in GITSMITH_SEAL_KEYS any more")
		}
	}
	push, err := found.work.render(kept, values, j.Batch.Item)
	if err != nil {
		return job.Job{}, err
	}
	request := job.Request{Repository: j.Repository, Push: push}
	if err := request.Validate(f.Limits); err != nil {
		return job.Job{}, err
	}
	push.Expect = kept.Expect
	j.Push = push
	return j, nil
}

// describe looks the repository up and keeps the answer for the next attempt.
func (f *Filler) describe(ctx context.Context, j job.Job, kept *entry) error {
	described, err := f.Describe(ctx, j)
	if err != nil {
		return err
	}
	kept.Details = detailsOf(described, kept.Slug == "")
	text, err := json.Marshal(kept)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "a repository cannot be encoded")
	}
	if err := f.Store.keepEntry(ctx, j.Installation, j.Batch.ID, j.Batch.Item, text); err != nil {
		f.Store.Logger.WarnContext(ctx, "what bitbucket said of a repository could not be kept; the next attempt asks again", slog.Any("error", err))
	}
	return nil
}

// keepEntry replaces an entry that is there: a batch whose time is over stays gone.
func (s *Store) keepEntry(ctx context.Context, installation, id string, number int, text []byte) error {
	err := keepEntryScript.Run(ctx, s.Redis, []string{keyspace.Installation(installation).Batch(id).Root() + ":items"}, strconv.Itoa(number), text).Err()
	return unavailable(err, "keep what is known of a repository")
}
