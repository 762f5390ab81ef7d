package job_test

import (
	"bytes"
	"encoding/base64"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

// writeGolden writes files that do not exist yet; it never touches one that does, because what was once written must be read
// for ever.
var writeGolden = flag.Bool("write-golden", false, "write missing golden files")

const privateText = "canary-private-content"

func ring(t testing.TB, id string) *secret.Keyring { return testkit.Keyring(t, id, 7) }

func samples() map[string]job.Job {
	common := job.Job{
		ID: "0197a4c4-0000-7000-8000-000000000001", Installation: "ari:cloud:ecosystem::installation/one",
		Actor: forge.Actor{Kind: forge.ActorUser, Principal: "712020:user"}, Class: job.ClassInteractive,
		Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"},
		CreatedAt:  time.Date(2026, 11, 23, 12, 0, 0, 5e6, time.UTC),
		Trace:      job.Trace{TraceID: "463ac35c9f6413ad48485a3953bb6124", SpanID: "a2fb4a1d1a96d312"},
		Digest:     strings.Repeat("ab", 32), Generation: 2,
	}
	clone, push := common, common
	clone.Clone = &job.Clone{Ref: "v1", Depth: 3, Paths: []string{privateText}, Archive: job.ArchiveZip}
	push.OnExpiry = job.OnExpiryWait
	push.Push = &job.Push{
		Branch: "chore/license", Base: "main", Create: true, Message: privateText,
		Author: &job.Author{Name: "A", Email: "a@example.com"},
		Changes: []edit.Change{
			{Put: &edit.Put{Path: "a", Content: privateText, Encoding: "utf-8", Mode: edit.ModeExecutable}},
			{Delete: &edit.Delete{Path: "b"}},
			{Move: &edit.Move{From: "c", To: "d"}},
			{Replace: &edit.Replace{Paths: []string{"**/*.go"}, Pattern: "x", With: "y", Regexp: true}},
			{Patch: &edit.Patch{Diff: "--- a/e\n+++ b/e\n"}},
		},
		PullRequest: &job.PullRequest{Title: privateText, Description: "d", Destination: "main", CloseSourceBranch: true},
	}
	batch := common
	batch.Class, batch.Batch = job.ClassBatch, job.BatchRef{ID: "0197a4c4-0000-7000-8000-00000000000b", Item: 3}
	options := push
	options.Push = &job.Push{
		Branch: "b", Create: true, Message: privateText, DryRun: true, HasFile: "go.mod", OnConflict: job.OnConflictSkip,
		Expect:      &job.Expect{Parent: strings.Repeat("a", 40), Tree: strings.Repeat("b", 40)},
		Recipe:      &job.Recipe{Name: "bump", Parameters: map[string]string{"to": privateText}},
		PullRequest: &job.PullRequest{Title: privateText, Reviewers: []string{"712020:ada"}},
	}
	return map[string]job.Job{"v1-clone": clone, "v1-push": push, "v2-push": options, "v2-batch": batch}
}

func TestWireRoundTrip(t *testing.T) {
	t.Parallel()
	for name, want := range samples() {
		payload, err := job.Marshal(want, ring(t, "a"))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(payload, []byte(privateText)) || bytes.Contains(payload, []byte(base64.StdEncoding.EncodeToString([]byte(privateText))[:20])) {
			t.Errorf("%s: private content is readable", name)
		}
		got, err := job.Unmarshal(payload, ring(t, "a"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		meta, err := job.ReadMeta(payload)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.MetaOf(), meta); diff != "" {
			t.Errorf("%s: meta: %s", name, diff)
		}
	}
}

// TestWireGolden reads what versions of Gitsmith up to this one have written.
func TestWireGolden(t *testing.T) {
	t.Parallel()
	for name, want := range samples() {
		path := filepath.Join("testdata", name+".json")
		payload, err := os.ReadFile(path)
		if os.IsNotExist(err) && *writeGolden {
			if payload, err = job.Marshal(want, ring(t, "golden")); err == nil {
				err = os.WriteFile(path, payload, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := job.Unmarshal(payload, ring(t, "golden"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestWireVersionIsTheLeast: a worker of an older version must not take a dry run for a push, and goes on with what it knows.
func TestWireVersionIsTheLeast(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*job.Push){
		"nothing new": func(*job.Push) {},
		"dry run":     func(p *job.Push) { p.DryRun = true },
		"has_file":    func(p *job.Push) { p.HasFile = "a" },
		"on_conflict": func(p *job.Push) { p.OnConflict = job.OnConflictFail },
		"expect":      func(p *job.Push) { p.Expect = &job.Expect{} },
		"recipe":      func(p *job.Push) { p.Recipe = &job.Recipe{} },
		"reviewers":   func(p *job.Push) { p.PullRequest = &job.PullRequest{Reviewers: []string{"a"}} },
	} {
		push := job.Push{Branch: "b", PullRequest: &job.PullRequest{Title: "t"}}
		change(&push)
		want := 2
		if name == "nothing new" {
			want = 1
		}
		if got := (job.Job{Push: &push}).MetaOf().Version; got != want {
			t.Errorf("%s: version %d, want %d", name, got, want)
		}
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	t.Parallel()
	push := samples()["v1-push"]
	payload, err := job.Marshal(push, ring(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	moved := bytes.Replace(payload, []byte("installation/one"), []byte("installation/two"), 1)
	newer := bytes.Replace(payload, []byte(`"v":1`), []byte(`"v":999`), 1)
	for name, tc := range map[string]struct {
		payload []byte
		ring    string
		want    string
	}{
		"no JSON":                     {[]byte("\x00garbage"), "a", "cannot be read"},
		"empty":                       {nil, "a", "cannot be read"},
		"another installation's meta": {moved, "a", "cannot be opened"},
		"a key that is gone":          {payload, "b", "cannot be opened"},
		"a newer version":             {newer, "a", "upgrade the worker"},
		"no version":                  {[]byte(`{}`), "a", "wire version 0"},
	} {
		_, err := job.Unmarshal(tc.payload, ring(t, tc.ring))
		if fault.KindOf(err) != fault.Internal || !strings.Contains(fault.Public(err), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	keys := ring(f, "a")
	for _, sample := range samples() {
		payload, err := job.Marshal(sample, keys)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		got, err := job.Unmarshal(payload, keys)
		if err == nil && (got.Clone == nil) == (got.Push == nil) && got.Batch.ID == "" {
			t.Fatal("a job that is neither a clone nor a push")
		}
	})
}
