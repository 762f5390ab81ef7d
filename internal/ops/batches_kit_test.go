package ops_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ops"
	"github.com/gitsmith/gitsmith/internal/secret"
)

const installationOne = "ari:cloud:ecosystem::installation/0f6a2b1c-0000-4000-8000-000000000001"

// stand is a [ops.Batches] that a test writes.
type stand struct {
	lock     sync.Mutex
	statuses []batch.Status
	items    []batch.Item
	err      error
	looks    int // at the list
}

func (s *stand) change(how func(*stand)) {
	s.lock.Lock()
	defer s.lock.Unlock()
	how(s)
}

func (s *stand) Recent(_ context.Context, limit int) ([]batch.Status, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	s.looks++
	if s.err != nil {
		return nil, s.err
	}
	var recent []batch.Status
	for _, status := range s.statuses[:min(limit, len(s.statuses))] {
		status.Totals = maps.Clone(status.Totals)
		recent = append(recent, status)
	}
	return recent, nil
}

func (s *stand) Get(_ context.Context, installation, id string) (batch.Status, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.err != nil {
		return batch.Status{}, s.err
	}
	for _, status := range s.statuses {
		if status.Installation == installation && status.ID == id {
			status.Installation, status.Totals = "", maps.Clone(status.Totals)
			return status, nil
		}
	}
	return batch.Status{}, fault.Newf(fault.NotFound, "there is no batch %s", id)
}

// Items has pages; the cursor "page" followed by a number is all that it knows.
func (s *stand) Items(_ context.Context, _, _ string, options batch.ItemOptions) ([]batch.Item, string, error) {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.err != nil {
		return nil, "", s.err
	}
	page := 0
	if options.Cursor != "" {
		if _, err := fmt.Sscanf(options.Cursor, "page %d&", &page); err != nil {
			return nil, "", fault.Newf(fault.Invalid, "the cursor is none of ours")
		}
	}
	var of []batch.Item
	for _, item := range s.items {
		if options.State == "" || options.State == item.State {
			of = append(of, item)
		}
	}
	from, to := min(page*options.Limit, len(of)), min((page+1)*options.Limit, len(of))
	if to < len(of) {
		return of[from:to], fmt.Sprintf("page %d&", page+1), nil
	}
	return of[from:to], "", nil
}

// pages is a listener's handler that shows batches; nothing of asynqmon's is asked for, so no Redis answers.
func pages(t *testing.T, batches ops.Batches, stopping <-chan struct{}) http.Handler {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = client.Close() })
	return handler(t, ops.Config{
		Redis: client, Batches: batches, Stopping: stopping, Dashboard: ops.Dashboard{User: user, Password: secret.New(password)},
	})
}

var errAway = fault.Wrapf(fault.Unavailable, errors.New("dial "+canary), "redis does not answer")

func totals(queued, running, waiting, succeeded, unchanged, failed, canceled, skipped int) map[batch.ItemState]int {
	return map[batch.ItemState]int{
		"queued": queued, "running": running, "waiting": waiting, "succeeded": succeeded, "unchanged": unchanged, "failed": failed,
		"canceled": canceled, "skipped": skipped,
	}
}

// example is what an installation's operators may see on a busy day.
func example() *stand {
	left := 262
	begun := time.Now().Add(-7 * time.Minute).Truncate(time.Second)
	return &stand{
		statuses: []batch.Status{
			{
				ID: "0197a4c4-11d2-7c10-9a44-6a1f3f6b0001", Installation: installationOne, Title: "Move the pipelines to the new build image", State: "running",
				Actor: "system", CreatedAt: begun, Total: 1250, Totals: totals(548, 16, 3, 590, 61, 12, 0, 20), PerMinute: 121.6, SecondsLeft: &left,
				Stage: &batch.Stage{Name: "then", Until: 875},
				Failures: []batch.Group{
					{Kind: "denied", Reason: "push to main: the branch is restricted; let the app's user push, or give another branch", Count: 9, Examples: []string{"acme/payments", "acme/ledger", "acme/billing-web", "acme/invoices", "acme/tax"}},
					{Kind: "conflict", Reason: "bitbucket-pipelines.yml: the text to replace is not there exactly once", Count: 3, Examples: []string{"acme/legacy-api", "acme/reports", "acme/old-web"}},
				},
				Skips: []batch.Group{{Reason: "it has no bitbucket-pipelines.yml", Count: 20, Examples: []string{"acme/docs", "acme/brand", "acme/notes"}}},
			},
			{
				ID: "0197a4c4-0a91-7c10-9a44-6a1f3f6b0002", Installation: installationOne, Title: "Add SECURITY.md", State: "paused", Reason: "paused by a user at 09:02",
				Actor: "user", CreatedAt: begun.Add(-20 * time.Minute), Total: 410, Totals: totals(310, 0, 0, 100, 0, 0, 0, 0),
			},
			{
				ID: "0197a4c3-ff20-7c10-9a44-6a1f3f6b0003", Installation: "ari:cloud:ecosystem::installation/9b1d7e22-0000-4000-8000-000000000002",
				Title: "Raise the Go version", State: "stopped", Reason: "stopped by itself: 14 of the first 25 repositories failed, more than the 10% that were allowed",
				Actor: "system", CreatedAt: begun.Add(-2 * time.Hour), EndedAt: begun.Add(-110 * time.Minute), Total: 250, Totals: totals(0, 0, 0, 11, 0, 14, 225, 0),
				Failures: []batch.Group{{Kind: "invalid", Reason: "recipe go-version: exit status 1: go.mod has no go line", Count: 14, Examples: []string{"globex/a", "globex/b"}}},
			},
			{
				ID: "0197a4c3-e110-7c10-9a44-6a1f3f6b0004", Installation: installationOne, Title: "Add the licence", State: "finished", DryRun: true,
				Actor: "system", CreatedAt: begun.Add(-26 * time.Hour), EndedAt: begun.Add(-26*time.Hour + 94*time.Second), Total: 10000, Totals: totals(0, 0, 0, 9321, 671, 3, 0, 5),
				Failures: []batch.Group{{Kind: "not_found", Reason: "no such repository, or not for the app", Count: 3, Examples: []string{"acme/gone"}}},
			},
		},
		items: exampleItems(begun),
	}
}

func exampleItems(begun time.Time) []batch.Item {
	var items []batch.Item
	for i := range 12 {
		item := batch.Item{
			Repository: fmt.Sprintf("acme/service-%02d", i), State: "succeeded", Job: fmt.Sprintf("0197a4c4-2000-7c10-9a44-%012d", i), Branch: "gitsmith/build-image",
			Commit: fmt.Sprintf("%012x%028x", 0x9f3c1e5a7b2d+i*791_900_321, i), Changed: 1 + i%3, Added: 10 + i, Removed: 2, Attempts: 1, StartedAt: begun, EndedAt: begun.Add(3 * time.Second),
			PullRequest: &job.PullRequestResult{ID: 40 + i, URL: fmt.Sprintf("https://bitbucket.org/acme/service-%02d/pull-requests/%d", i, 40+i)},
		}
		switch {
		case i%5 == 1:
			item.State, item.Commit, item.PullRequest, item.Changed, item.Added = "failed", "", nil, 0, 0
			item.Removed, item.Attempts = 0, 3
			item.Failure = &job.Failure{Kind: fault.Denied, Detail: "push to main: the branch is restricted; let the app's user push, or give another branch"}
		case i%5 == 3:
			item.State, item.Skipped, item.Commit, item.PullRequest, item.Changed, item.Added, item.Removed = "skipped", "it has no bitbucket-pipelines.yml", "", nil, 0, 0, 0
		case i == 5:
			item.State, item.EndedAt, item.Commit, item.PullRequest, item.Changed, item.Added, item.Removed = "running", time.Time{}, "", nil, 0, 0, 0
		case i > 9:
			item = batch.Item{Repository: item.Repository, State: "queued"}
		}
		items = append(items, item)
	}
	return items
}
