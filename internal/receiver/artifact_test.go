package receiver

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

const artifactKey = "canary-artifact-key"

// cloned is a status of a clone that kept content.
func cloned(status job.Status, h *house, content string) job.Status {
	sum := sha256.Sum256([]byte(content))
	h.artifacts.kept[artifactKey] = content
	status.State, status.EndedAt = job.Succeeded, time.Now()
	status.Result = &job.Result{Clone: &job.CloneResult{Commit: strings.Repeat("c", 40), Artifact: &job.Artifact{
		Key: artifactKey, Format: job.ArchiveTarGz, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]), Files: 3,
		ExpiresAt: time.Now().Add(time.Hour),
	}}}
	return status
}

func TestArtifact(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	content := strings.Repeat("the archive ", 10_000)
	sum := sha256.Sum256([]byte(content))
	id := h.submit(t, h.user(), cloneBody).ID
	for format, media := range map[job.Archive]string{
		job.ArchiveTarGz: "application/gzip", job.ArchiveZip: "application/zip", job.ArchiveBundle: "application/octet-stream",
	} {
		h.jobs.set(id, func(status *job.Status) {
			*status = cloned(*status, h, content)
			status.Result.Clone.Artifact.Format = format
		})
		seen := h.do(t, http.MethodGet, "/v1/jobs/"+id, h.user(), "")
		shown := decode[jobView](t, seen)
		if shown.Links.Artifact != "/v1/jobs/"+id+"/artifact" || shown.Result.Clone.Artifact.URL != shown.Links.Artifact || shown.Links.Retry != "" {
			t.Errorf("shown: %+v", shown)
		}
		if strings.Contains(string(seen.Body), artifactKey) {
			t.Error("the artifact's key is shown")
		}
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			answer := h.do(t, method, shown.Links.Artifact, h.user(), "")
			if answer.Status != http.StatusOK || method == http.MethodGet && string(answer.Body) != content {
				t.Errorf("%s: status %d, %d bytes", method, answer.Status, len(answer.Body))
			}
			for name, want := range map[string]string{
				"Content-Type": media, "Content-Length": strconv.Itoa(len(content)), "ETag": `"` + hex.EncodeToString(sum[:]) + `"`,
				"Content-Disposition": `attachment; filename="` + id + "." + string(format) + `"`, "Cache-Control": "no-store",
				"Repr-Digest": "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":",
			} {
				if got := answer.Header.Get(name); got != want {
					t.Errorf("%s: %s is %q, not %q", method, name, got, want)
				}
			}
		}
	}
}

// dried is a status of a dry run that kept a diff.
func dried(status job.Status, h *house, diff string) job.Status {
	kept := cloned(status, h, diff).Result.Clone.Artifact
	kept.Format = job.ArchiveDiff
	status.State, status.EndedAt = job.Succeeded, time.Now()
	status.Result = &job.Result{Push: &job.PushResult{
		Branch: "chore/license", Parent: strings.Repeat("a", 40), Tree: strings.Repeat("b", 40), Changed: 1, Added: 1, DryRun: true, Diff: kept,
	}}
	return status
}

// TestDiff: what a dry run found is read where a clone's archive is, by those who may read that.
func TestDiff(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	const diff = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -0,0 +1 @@\n+ü\n"
	id := h.submit(t, h.user(), pushBody).ID
	h.jobs.set(id, func(status *job.Status) { *status = dried(*status, h, diff) })
	seen := h.do(t, http.MethodGet, "/v1/jobs/"+id, h.user(), "")
	shown := decode[jobView](t, seen)
	if shown.Links.Artifact != "/v1/jobs/"+id+"/artifact" || shown.Result.Push.Diff.URL != shown.Links.Artifact || strings.Contains(string(seen.Body), artifactKey) {
		t.Errorf("shown: %s", seen.Body)
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		answer := h.do(t, method, shown.Links.Artifact, h.user(), "")
		if answer.Status != http.StatusOK || method == http.MethodGet && string(answer.Body) != diff {
			t.Errorf("%s: status %d, %q", method, answer.Status, answer.Body)
		}
		for name, want := range map[string]string{
			"Content-Type": "text/x-diff; charset=utf-8", "Content-Length": strconv.Itoa(len(diff)), "Cache-Control": "no-store",
			"Content-Disposition": `attachment; filename="` + id + `.diff"`, "X-Content-Type-Options": "nosniff",
		} {
			if got := answer.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, not %q", method, name, got, want)
			}
		}
	}
	refused(t, h.do(t, http.MethodGet, shown.Links.Artifact, h.foreign(), ""), http.StatusNotFound, fault.NotFound)
	refused(t, h.do(t, http.MethodGet, shown.Links.Artifact, http.Header{}, ""), http.StatusUnauthorized, fault.Unauthenticated)
	h.jobs.set(id, func(status *job.Status) {
		status.Result.Push.Diff.ExpiresAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	})
	refused(t, h.do(t, http.MethodGet, shown.Links.Artifact, h.user(), ""), http.StatusNotFound, fault.NotFound, "the diff was kept until", "submit the job again")
	h.jobs.set(id, func(status *job.Status) { status.Result.Push.Diff = nil })
	refused(t, h.do(t, http.MethodGet, shown.Links.Artifact, h.user(), ""), http.StatusNotFound, fault.NotFound, "the dry run of a push")
}

func TestNoArtifact(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for name, tc := range map[string]struct {
		change func(*job.Status)
		store  func(context.Context, string) (io.ReadCloser, int64, error)
		status int
		kind   fault.Kind
		says   string
	}{
		"queued":  {func(*job.Status) {}, nil, http.StatusConflict, fault.Conflict, "queued; ask again"},
		"running": {func(s *job.Status) { s.State, s.Result = job.Running, nil }, nil, http.StatusConflict, fault.Conflict, "running; ask again"},
		"failed":  {func(s *job.Status) { s.State, s.Result = job.Failed, nil }, nil, http.StatusNotFound, fault.NotFound, "only a clone that succeeded"},
		"a push": {
			func(s *job.Status) { s.State, s.Result = job.Succeeded, &job.Result{Push: &job.PushResult{}} },
			nil, http.StatusNotFound, fault.NotFound, "only a clone",
		},
		"archive none": {
			func(s *job.Status) { *s = cloned(*s, h, "x"); s.Result.Clone.Artifact = nil },
			nil, http.StatusNotFound, fault.NotFound, "archive other than none",
		},
		"expired": {
			func(s *job.Status) {
				*s = cloned(*s, h, "x")
				s.Result.Clone.Artifact.ExpiresAt = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			},
			nil, http.StatusNotFound, fault.NotFound, "kept until 2026-01-02T03:04:05Z (GITSMITH_ARTIFACT_TTL); submit",
		},
		"gone from the store": {
			func(s *job.Status) { *s = cloned(*s, h, "x"); s.Result.Clone.Artifact.Key = artifactKey + "-2" },
			nil, http.StatusNotFound, fault.NotFound, "submit the job again",
		},
		"another one in the store": {
			func(s *job.Status) { *s = cloned(*s, h, "x"); s.Result.Clone.Artifact.Size = 2 },
			nil, http.StatusInternalServerError, fault.Internal, "not the one that the job wrote",
		},
		"a damaged digest": {
			func(s *job.Status) { *s = cloned(*s, h, "x"); s.Result.Clone.Artifact.SHA256 = "xyz" },
			nil, http.StatusInternalServerError, fault.Internal, "digest is damaged",
		},
		"a store that is away": {
			func(s *job.Status) { *s = cloned(*s, h, "x") },
			func(_ context.Context, key string) (io.ReadCloser, int64, error) {
				return nil, 0, fault.Newf(fault.Unavailable, "cannot read %s", key)
			},
			http.StatusServiceUnavailable, fault.Unavailable, "cannot be read now; try again",
		},
	} {
		id := h.submit(t, h.user(), cloneBody).ID
		h.jobs.set(id, tc.change)
		handler := h.build(t, func(config *Config) {
			config.Artifacts = &memoryArtifacts{kept: map[string]string{artifactKey: "x"}, open: tc.store}
		})
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := h.to(t, handler, http.MethodGet, "/v1/jobs/"+id+"/artifact", h.user(), "")
			refused(t, answer, tc.status, tc.kind, tc.says)
			if strings.Contains(string(answer.Body), artifactKey) {
				t.Errorf("%s names the artifact's key", answer.Body)
			}
			if head := h.to(t, handler, http.MethodHead, "/v1/jobs/"+id+"/artifact", h.user(), ""); head.Status != tc.status {
				t.Errorf("HEAD answers %d", head.Status)
			}
		})
	}
}

// closing tells whether it was closed.
type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

// TestArtifactBreaks: the store fails half way. The answer is short of its Content-Length, which the caller notices.
func TestArtifactBreaks(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	id := h.submit(t, h.user(), cloneBody).ID
	h.jobs.set(id, func(status *job.Status) { *status = cloned(*status, h, "the whole archive") })
	broken := &closing{Reader: io.MultiReader(strings.NewReader("the whole"), iotest.ErrReader(errors.New("disk on fire")))}
	h.artifacts.open = func(context.Context, string) (io.ReadCloser, int64, error) { return broken, 17, nil }
	answer := h.do(t, http.MethodGet, "/v1/jobs/"+id+"/artifact", h.user(), "")
	if answer.Status != http.StatusOK || string(answer.Body) != "the whole" || answer.Header.Get("Content-Length") != "17" {
		t.Errorf("status %d, %q, %v", answer.Status, answer.Body, answer.Header)
	}
	if !broken.closed {
		t.Error("the archive stays open")
	}
	events := h.log.events(t)
	if last := events[len(events)-1]; last["kind"] != "internal" || !strings.Contains(last["error"].(string), "disk on fire") {
		t.Errorf("logged %v", last)
	}
}
