package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// byGitsmith does the work as a worker does. It measures the process that it runs in, which should do nothing else. What comes before a
// worker's job is not counted: the start of the process, and a job on another repository, if there is to be one; nor is what goes
// on arriving for the tip cache once the commit is at the server.
func byGitsmith(ctx context.Context, work Work) (sample Sample, err error) {
	base, err := url.Parse(work.Base)
	if err != nil {
		return sample, err
	}
	cache := work.Kept
	if cache == "" {
		cache = filepath.Join(work.Folder, "tips")
	}
	client, err := gitrepo.New(gitrepo.Config{Base: base, TempDir: filepath.Join(work.Folder, "temp"), CacheDir: cache})
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	remote := func(slug string) gitrepo.Remote {
		return gitrepo.Remote{Repository: bitbucket.Repository{Workspace: Workspace, Slug: slug}, Token: secret.New("not-checked"), Installation: "bench"}
	}
	if work.Before != "" {
		before := work
		before.Word = fmt.Sprintf("before%d", time.Now().UnixNano())
		if _, err := pushJob(ctx, client, remote(work.Before), before); err != nil {
			return sample, err
		}
		if _, err := traffic(ctx, work.Base); err != nil { // what it asked for is not counted
			return sample, err
		}
	}
	used, start := ownCPU(), time.Now()
	var way gitrepo.Way
	if work.Word == "" {
		err = archiveJob(ctx, client, remote(work.Slug), filepath.Join(work.Folder, artifactName))
	} else {
		way, err = pushJob(ctx, client, remote(work.Slug), work)
	}
	sample = Sample{Wall: time.Since(start), Read: string(way)}
	client.WaitForCache()
	sample.Filled, sample.CPU, sample.RSS = time.Since(start), ownCPU()-used, peakMemory("self")
	return sample, err
}

func archiveJob(ctx context.Context, client *gitrepo.Client, remote gitrepo.Remote, name string) (err error) {
	snapshot, err := client.Fetch(ctx, remote, gitrepo.Want{Ref: "main", Depth: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = snapshot.Archive(ctx, out, gitrepo.ArchiveSpec{Format: job.ArchiveTarGz})
	return err
}

func pushJob(ctx context.Context, client *gitrepo.Client, remote gitrepo.Remote, work Work) (gitrepo.Way, error) {
	changes := []edit.Change{{Replace: &edit.Replace{Paths: []string{work.File}, Pattern: `\A\w+`, With: work.Word, Regexp: true}}}
	limits := edit.DefaultLimits()
	snapshot, err := client.Fetch(ctx, remote, gitrepo.Want{
		Ref: "refs/heads/main", Depth: 1, Sparse: true, Push: true, TreeDepth: edit.TreeDepth(changes, limits),
	})
	if err != nil {
		return "", err
	}
	commit, err := build(ctx, snapshot, changes, limits, work.Word)
	if err = errors.Join(err, snapshot.Close()); err != nil {
		return "", err
	}
	return snapshot.Way(), client.Push(ctx, remote, gitrepo.PushSpec{Branch: "main", Old: snapshot.Commit(), Commit: commit})
}

func build(ctx context.Context, snapshot *gitrepo.Snapshot, changes []edit.Change, limits edit.Limits, word string) (*gitrepo.Commit, error) {
	applied, err := edit.Apply(ctx, snapshot, changes, limits)
	if err != nil {
		return nil, err
	}
	commit, err := snapshot.Build(ctx, applied, gitrepo.CommitSpec{
		Message: "one line", AuthorName: "Bench", AuthorEmail: "bench@example.com", Time: time.Now(), Mark: gitrepo.Mark{Job: "bench-" + word},
	})
	if err == nil && commit.Unchanged {
		err = fmt.Errorf("replacing the first word by %q changed nothing", word)
	}
	return commit, err
}
