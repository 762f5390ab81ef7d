package queue_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/queue"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
)

type processor func(ctx context.Context, j job.Job) (job.Result, error)

func (p processor) Process(ctx context.Context, j job.Job) (job.Result, error) { return p(ctx, j) }

func TestEnqueueAndServe(t *testing.T) {
	t.Parallel()
	ring, err := secret.ParseKeyring("a:" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{1}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	options := queue.Options{Redis: queuetest.Start(t).Client(), Keyring: ring}
	client := queue.NewClient(options)
	j := job.Job{
		ID: "j1", Installation: "i1", Actor: forge.Actor{Kind: forge.ActorSystem}, Class: job.ClassInteractive, Digest: "d",
		Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}, CreatedAt: time.Now(), Clone: &job.Clone{Ref: "main", Archive: job.ArchiveNone},
	}
	status, created, err := client.Enqueue(t.Context(), j)
	if err != nil || !created || status.State != job.Queued {
		t.Fatalf("%+v %t %v", status, created, err)
	}
	server := queue.NewServer(options, queue.ServerConfig{Processor: processor(func(context.Context, job.Job) (job.Result, error) {
		return job.Result{Clone: &job.CloneResult{Commit: "c"}}, nil
	})})
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	deadline := time.Now().Add(10 * time.Second)
	for {
		status, err = client.Get(t.Context(), "i1", "j1")
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v %v", status, err)
		}
		if status.State == job.Succeeded {
			break
		}
	}
	if status.Attempts != 1 || status.Result.Clone.Commit != "c" {
		t.Errorf("%+v", status)
	}
	list, err := client.List(t.Context(), "i1", job.ListOptions{})
	if err != nil || len(list.Jobs) != 1 || list.Next != "" {
		t.Errorf("%+v %v", list, err)
	}
}
