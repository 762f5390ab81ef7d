package receiver

import (
	"time"

	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// jobView is a job in an answer.
type jobView struct {
	ID            string          `json:"id"`
	State         job.State       `json:"state"`
	Operation     job.Operation   `json:"operation"`
	Repository    string          `json:"repository"`
	Actor         forge.ActorKind `json:"actor"`
	Branch        string          `json:"branch,omitempty"`
	Ref           string          `json:"ref,omitempty"`
	Rule          string          `json:"rule,omitempty"`
	Batch         string          `json:"batch,omitempty"`
	Attempts      int             `json:"attempts"`
	CreatedAt     time.Time       `json:"created_at"`
	StartedAt     time.Time       `json:"started_at,omitzero"`
	EndedAt       time.Time       `json:"ended_at,omitzero"`
	NextAttemptAt time.Time       `json:"next_attempt_at,omitzero"`
	Result        *resultView     `json:"result,omitempty"`
	Failure       *job.Failure    `json:"failure,omitempty"`
	Links         linksView       `json:"links"`
}

type resultView struct {
	Clone *cloneView `json:"clone,omitempty"`
	Push  *pushView  `json:"push,omitempty"`
}

type cloneView struct {
	Ref      string        `json:"ref,omitempty"`
	Commit   string        `json:"commit"`
	Artifact *artifactView `json:"artifact,omitempty"`
}

type pushView struct {
	Branch      string                 `json:"branch"`
	Commit      string                 `json:"commit,omitempty"`
	Parent      string                 `json:"parent,omitempty"`
	Changed     int                    `json:"changed"`
	Unchanged   bool                   `json:"unchanged"`
	Created     bool                   `json:"created"`
	Restarts    int                    `json:"restarts,omitempty"`
	Read        job.Read               `json:"read,omitempty"`
	PullRequest *job.PullRequestResult `json:"pull_request,omitempty"`
	Skipped     string                 `json:"skipped,omitempty"`
	DryRun      bool                   `json:"dry_run,omitempty"`
	Tree        string                 `json:"tree,omitempty"`
	Added       int                    `json:"added,omitempty"`
	Removed     int                    `json:"removed,omitempty"`
	Diff        *artifactView          `json:"diff,omitempty"`
}

// artifactView is an archive or a diff without its place in the store.
type artifactView struct {
	Format    job.Archive `json:"format"`
	Size      int64       `json:"size"`
	SHA256    string      `json:"sha256"`
	Files     int         `json:"files"`
	ExpiresAt time.Time   `json:"expires_at"`
	Truncated bool        `json:"truncated,omitempty"`
	URL       string      `json:"url"`
}

type linksView struct {
	Self     string `json:"self"`
	Cancel   string `json:"cancel,omitempty"`
	Retry    string `json:"retry,omitempty"`
	Artifact string `json:"artifact,omitempty"`
}

type listView struct {
	Jobs []jobView `json:"jobs"`
	Next string    `json:"next,omitempty"` // cursor
}

func pathOf(id string) string { return "/v1/jobs/" + id }

// viewOf shows a job, with links to what can be done with it now.
func viewOf(status job.Status) jobView {
	self := pathOf(status.ID)
	view := jobView{
		ID: status.ID, State: status.State, Operation: status.Operation, Repository: status.Repository, Actor: status.Actor,
		Branch: status.Branch, Ref: status.Ref, Rule: status.Rule, Batch: status.Batch, Attempts: status.Attempts, CreatedAt: status.CreatedAt, StartedAt: status.StartedAt,
		EndedAt: status.EndedAt, NextAttemptAt: status.NextAt, Failure: status.Failure, Links: linksView{Self: self},
	}
	switch {
	case !status.State.Ended():
		view.Links.Cancel = self + "/cancel"
	case status.State != job.Succeeded:
		view.Links.Retry = self + "/retry"
	}
	if status.Result == nil {
		return view
	}
	view.Result = &resultView{}
	kept := artifactOf(status)
	if kept != nil {
		view.Links.Artifact = self + "/artifact"
	}
	if clone := status.Result.Clone; clone != nil {
		view.Result.Clone = &cloneView{Ref: clone.Ref, Commit: clone.Commit, Artifact: viewOfArtifact(kept, view.Links.Artifact)}
	}
	if push := status.Result.Push; push != nil {
		view.Result.Push = &pushView{
			Branch: push.Branch, Commit: push.Commit, Parent: push.Parent, Changed: push.Changed, Unchanged: push.Unchanged, Created: push.Created,
			Restarts: push.Restarts, Read: push.Read, PullRequest: push.PullRequest, Skipped: push.Skipped, DryRun: push.DryRun, Tree: push.Tree,
			Added: push.Added, Removed: push.Removed, Diff: viewOfArtifact(kept, view.Links.Artifact),
		}
	}
	return view
}

// artifactOf is what a job has in the store, nil for nothing: the archive of a clone, the diff of a dry run.
func artifactOf(status job.Status) *job.Artifact {
	switch result := status.Result; {
	case result == nil:
		return nil
	case result.Clone != nil:
		return result.Clone.Artifact
	case result.Push != nil:
		return result.Push.Diff
	}
	return nil
}

func viewOfArtifact(kept *job.Artifact, url string) *artifactView {
	if kept == nil {
		return nil
	}
	return &artifactView{
		Format: kept.Format, Size: kept.Size, SHA256: kept.SHA256, Files: kept.Files, ExpiresAt: kept.ExpiresAt, Truncated: kept.Truncated, URL: url,
	}
}

func listOf(page job.List) listView {
	view := listView{Jobs: make([]jobView, len(page.Jobs)), Next: page.Next}
	for i, status := range page.Jobs {
		view.Jobs[i] = viewOf(status)
	}
	return view
}
