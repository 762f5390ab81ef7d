package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/job"
)

func TestClone(t *testing.T) {
	t.Parallel()
	for archive, want := range map[job.Archive]struct{ calls, key string }{
		job.ArchiveTarGz:  {"snapshot main@ of acme/web, artifact 4cd9b7672d7fbee8/j1.tar.gz", "4cd9b7672d7fbee8/j1.tar.gz"},
		job.ArchiveBundle: {"snapshot main@history of acme/web, artifact 4cd9b7672d7fbee8/j1.bundle", "4cd9b7672d7fbee8/j1.bundle"},
		job.ArchiveNone:   {"snapshot main@some of acme/web", ""},
	} {
		w := newWorld()
		result, err := w.worker().Process(t.Context(), pushJob(func(j *job.Job) {
			j.Push, j.Clone = nil, &job.Clone{Ref: "main", Archive: archive}
		}))
		if err != nil {
			t.Fatal(err)
		}
		wanted := &job.CloneResult{Ref: "main", Commit: "c1", Read: "shallow"}
		if want.key != "" {
			wanted.Artifact = &job.Artifact{
				Key: want.key, Format: archive, Size: int64(len("archive " + archive)), SHA256: "digest",
				Files: 3, ExpiresAt: now.Add(time.Hour),
			}
		}
		if diff := cmp.Diff(wanted, result.Clone); diff != "" {
			t.Errorf("%s: %s", archive, diff)
		}
		if got := strings.Join(w.calls, ", "); got != want.calls || w.closed != 1 {
			t.Errorf("%s: %s; %d closed", archive, got, w.closed)
		}
	}
}
