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

// byGitsmith does the work as a worker does, with a client that has done nothing before. It measures the process that it runs
// in, which should do nothing else. Starting the process is not counted: a worker runs already.
func byGitsmith(ctx context.Context, work Work) (sample Sample, err error) {
	base, err := url.Parse(work.Base)
	if err != nil {
		return sample, err
	}
	used, start := ownCPU(), time.Now()
	client, err := gitrepo.New(gitrepo.Config{Base: base, TempDir: filepath.Join(work.Folder, "temp")})
	if err != nil {
		return sample, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	remote := gitrepo.Remote{
		Repository: bitbucket.Repository{Workspace: Workspace, Slug: work.Slug},
		Token:      secret.New("not-checked"),
	}
	if work.Kind == Archive {
		err = archiveJob(ctx, client, remote, filepath.Join(work.Folder, artifactName))
	} else {
		err = pushJob(ctx, client, remote, work.Word)
	}
	return Sample{Wall: time.Since(start), CPU: ownCPU() - used, RSS: peakMemory("self")}, err
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

func pushJob(ctx context.Context, client *gitrepo.Client, remote gitrepo.Remote, word string) (err error) {
	snapshot, err := client.Fetch(ctx, remote, gitrepo.Want{Ref: "main", Depth: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	replace := edit.Replace{Paths: []string{EditedFile}, Pattern: `\A\w+`, With: word, Regexp: true}
	changes, err := edit.Apply(ctx, snapshot, []edit.Change{{Replace: &replace}}, edit.DefaultLimits())
	if err != nil {
		return err
	}
	commit, err := snapshot.Build(ctx, changes, gitrepo.CommitSpec{
		Message: "one line", AuthorName: "Bench", AuthorEmail: "bench@example.com", Time: time.Now(), JobID: "bench-" + word,
	})
	if err != nil {
		return err
	}
	if commit.Unchanged() {
		return fmt.Errorf("replacing the first word by %q changed nothing", word)
	}
	return client.Push(ctx, remote, gitrepo.PushSpec{Branch: "main", Old: snapshot.Commit(), Commit: commit})
}
