package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
)

// The fleet that the batch goes over. The last of it is not there at first.
const (
	fleet       = 25
	fleetBranch = "chore/owners"
	// Of an installation of its own: right after an install Bitbucket's refusals are tried again, for minutes.
	fleetInstallation = installation + "-fleet"
)

func fleetSlug(i int) string { return fmt.Sprintf("service-%02d", i) }

// addFleet adds repositories from first to last to the stand-in Bitbucket.
func (s *sandbox) addFleet(ctx context.Context, first, last int) error {
	for i := first; i <= last; i++ {
		slug := fleetSlug(i)
		if err := s.gitServer.CreateRepository(ctx, "acme/"+slug, map[string]string{"README.md": "# " + slug + "\n"}); err != nil {
			return err
		}
		added := bitbuckettest.Repository{Workspace: "acme", Slug: slug, WorkspaceUUID: "{" + workspaceID + "}", Project: "FLEET", Language: "go"}
		if _, err := s.bitbucket.AddRepository(added); err != nil {
			return err
		}
	}
	return nil
}

// batchView is what GET /v1/batches/{id} says, as far as the walk looks.
type batchView struct {
	ID       string         `json:"id"`
	State    string         `json:"state"`
	Reason   string         `json:"reason"`
	EndedAt  time.Time      `json:"ended_at"`
	Total    int            `json:"total"`
	Totals   map[string]int `json:"totals"`
	Failures []struct {
		Kind     string   `json:"kind"`
		Reason   string   `json:"reason"`
		Count    int      `json:"count"`
		Examples []string `json:"examples"`
	} `json:"failures"`
}

// ownersPush says in each repository who owns it.
const ownersPush = `"push":{"branch":"` + fleetBranch + `","create":true,"on_conflict":"fail","message":"Say who owns {{repository.slug}}",` +
	`"changes":[{"put":{"path":"OWNERS","content":"{{values.team ?? \"everybody\"}}\n"}}],"pull_request":{"title":"Say who owns {{repository.slug}}"}}`

// dryRun asks a query what the change would do, and reads one of the diffs.
func (s *sandbox) dryRun(ctx context.Context) (string, error) {
	if err := s.addFleet(ctx, 1, fleet-1); err != nil {
		return "", err
	}
	body := `{"query":{"workspace":"acme","project":"FLEET","name":"service-*"},"dry_run":true,` + ownersPush + `}`
	done, err := s.finishBatch(ctx, "/v1/batches", body)
	if err != nil {
		return "", err
	}
	if done.Totals["succeeded"] != fleet-1 {
		return "", fmt.Errorf("%v, %v", done.Totals, done.Failures)
	}
	var page struct {
		Repositories []struct {
			Repository string `json:"repository"`
			Links      struct {
				Diff string `json:"diff"`
			} `json:"links"`
		} `json:"repositories"`
	}
	if err := s.read(ctx, "/v1/batches/"+done.ID+"/repositories?limit=1", &page); err != nil {
		return "", err
	}
	diff, err := s.forge.deliver(ctx, invocation{Path: page.Repositories[0].Links.Diff, Installation: fleetInstallation, Tokens: noTokens})
	if err != nil {
		return "", err
	}
	if !strings.Contains(string(diff.Raw), "+everybody") {
		return "", fmt.Errorf("the diff of %s is %q", page.Repositories[0].Repository, diff.Raw)
	}
	for i := 1; i < fleet; i++ {
		if s.git(ctx, fleetSlug(i), "rev-parse", "--verify", "--quiet", fleetBranch) != "" {
			return "", fmt.Errorf("%s was pushed to", fleetSlug(i))
		}
	}
	return fmt.Sprintf("the query finds %d, each has a diff, and nothing was pushed", done.Total), nil
}

// batch goes over the fleet, of which three fail for reasons of their own.
func (s *sandbox) batch(ctx context.Context) (string, error) {
	if err := s.bitbucket.SetReadOnly("acme", fleetSlug(9), "4 GB"); err != nil {
		return "", err
	}
	s.git(ctx, fleetSlug(17), "branch", fleetBranch, "main")
	repositories := make([]string, fleet)
	for i := range repositories {
		repositories[i] = fmt.Sprintf(`{"workspace":"acme","slug":"%s","values":{"team":"team-%d"}}`, fleetSlug(i+1), i%4)
	}
	done, err := s.finishBatch(ctx, "/v1/batches", `{"title":"Say who owns what","repositories":[`+strings.Join(repositories, ",")+`],`+ownersPush+
		`,"rollout":{"canary":3,"then":"50%"}}`)
	if err != nil {
		return "", err
	}
	s.fleetBatch = done.ID
	if done.Totals["succeeded"] != fleet-3 || done.Totals["failed"] != 3 || len(done.Failures) != 3 {
		return "", fmt.Errorf("%v, %v", done.Totals, done.Failures)
	}
	reasons := make([]string, len(done.Failures))
	for i, each := range done.Failures {
		reasons[i] = strings.TrimPrefix(each.Examples[0], "acme/") + " " + each.Kind
	}
	slices.Sort(reasons)
	return bar(done) + " failed: " + strings.Join(reasons, ", "), s.owners(ctx, 9, 17, fleet)
}

// batchAgain mends what was wrong and retries what failed.
func (s *sandbox) batchAgain(ctx context.Context) (string, error) {
	if err := s.bitbucket.SetReadOnly("acme", fleetSlug(9), ""); err != nil {
		return "", err
	}
	s.git(ctx, fleetSlug(17), "branch", "-D", fleetBranch)
	if err := s.addFleet(ctx, fleet, fleet); err != nil {
		return "", err
	}
	done, err := s.finishBatch(ctx, "/v1/batches/"+s.fleetBatch+"/retry", "{}")
	if err != nil {
		return "", err
	}
	if done.Totals["succeeded"] != fleet {
		return "", fmt.Errorf("%v, %v", done.Totals, done.Failures)
	}
	return bar(done) + " the three were tried again, the others not touched", s.owners(ctx)
}

// owners sees to it that each repository but some has exactly one commit and one pull request of the batch.
func (s *sandbox) owners(ctx context.Context, but ...int) error {
	for i := 1; i <= fleet; i++ {
		if slices.Contains(but, i) {
			continue
		}
		slug := fleetSlug(i)
		if log := s.git(ctx, slug, "log", "--format=%s", "main.."+fleetBranch); log != "Say who owns "+slug {
			return fmt.Errorf("the branch of %s holds %q", slug, log)
		}
		if opened := s.bitbucket.PullRequests("acme", slug); len(opened) != 1 || opened[0].Title != "Say who owns "+slug {
			return fmt.Errorf("%s has the pull requests %v", slug, opened)
		}
		if err := s.fsck(ctx, slug); err != nil {
			return err
		}
	}
	return nil
}

// finishBatch posts to a path that answers with a batch, and asks for it until it has finished; who watches sees a bar.
func (s *sandbox) finishBatch(ctx context.Context, path, body string) (batchView, error) {
	got, err := s.forge.deliver(ctx, invocation{Path: path, Installation: fleetInstallation, Body: json.RawMessage(body)})
	if err != nil {
		return batchView{}, err
	}
	if got.Status != http.StatusAccepted && got.Status != http.StatusOK {
		return batchView{}, want(got, http.StatusAccepted)
	}
	var view batchView
	if err := json.Unmarshal(got.Body, &view); err != nil {
		return view, err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := s.read(ctx, "/v1/batches/"+view.ID, &view); err != nil {
			return view, err
		}
		s.watch(bar(view))
		switch {
		case view.State == "finished" && !view.EndedAt.IsZero():
			return view, nil
		case view.State == "stopped" || view.State == "canceled":
			return view, fmt.Errorf("the batch is %s: %s", view.State, view.Reason)
		}
		select {
		case <-ctx.Done():
			return view, errors.New("the batch goes on: " + bar(view) + " " + view.Reason)
		case <-tick.C:
			view = batchView{ID: view.ID}
		}
	}
}

// read asks the receiver for something.
func (s *sandbox) read(ctx context.Context, path string, into any) error {
	got, err := s.forge.deliver(ctx, invocation{Path: path, Installation: fleetInstallation, Tokens: noTokens})
	if err == nil {
		err = want(got, http.StatusOK)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(got.Body, into)
}

// bar is a batch's progress.
func bar(view batchView) string {
	ended := view.Totals["succeeded"] + view.Totals["unchanged"] + view.Totals["skipped"]
	cells, total := 25, max(view.Total, 1)
	done, failed := ended*cells/total, (view.Totals["failed"]*cells+total-1)/total
	return "[" + strings.Repeat("#", done) + strings.Repeat("x", failed) + strings.Repeat(".", max(cells-done-failed, 0)) + fmt.Sprintf("] %d/%d", ended, view.Total)
}
