package batch

import (
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/expression"
	"github.com/gitsmith/gitsmith/internal/job"
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
func (w *work) render(kept Entry, values map[string]string, number int) (*job.Push, error) {
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
	sample := &Details{
		Workspace: "workspace", Slug: "repository", UUID: "{00000000-0000-0000-0000-000000000000}", Name: "Repository", Project: "PROJECT",
		Language: "go", MainBranch: "main",
	}
	for i, target := range targets {
		tried := Entry{
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
