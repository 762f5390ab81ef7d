package receiver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// A download takes as long as it moves, up to a bound.
const (
	downloadTime  = time.Hour
	downloadStall = 30 * time.Second
)

// artifact answers GET and HEAD of /v1/jobs/{id}/artifact. Through Forge an answer is bounded at 5 MB; a caller that reaches the
// receiver directly gets any size.
func (r *receiver) artifact(ctx context.Context, c *call) error {
	status, err := r.job(ctx, c)
	if err != nil {
		return err
	}
	kept, err := keptBy(status, r.Now())
	if err != nil {
		return err
	}
	digest, err := hex.DecodeString(kept.SHA256)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "the %s's digest is damaged; submit the job again", noun(kept))
	}
	ctx, cancel := context.WithTimeout(ctx, downloadTime)
	defer cancel()
	content, size, err := r.Artifacts.Get(ctx, kept.Key)
	if err != nil {
		return unreadable(kept, err)
	}
	defer func() { _ = content.Close() }() // it was read; nothing is lost
	if size != kept.Size {
		return fault.Newf(fault.Internal, "the %s is not the one that the job wrote; submit the job again", noun(kept))
	}
	given := representation{content, size, digest, mediaType(kept.Format), status.ID + "." + string(kept.Format)}
	if kept.Format == job.ArchiveDiff && asksForJSON(c.Request().Header.Get("Accept")) {
		if given, err = diffInJSON(content, status.ID); err != nil {
			return unreadable(kept, err)
		}
	}
	given.describe(c.Response().Header())
	c.Response().WriteHeader(http.StatusOK)
	if c.Request().Method == http.MethodHead {
		return nil
	}
	switch _, err = io.Copy(newDownload(c.Response()), given.content); {
	case err == nil:
		return nil
	case c.Request().Context().Err() != nil:
		return fault.Wrapf(fault.Canceled, err, "the caller did not take the %s to its end", noun(kept))
	}
	return unreadable(kept, err)
}

// representation is an artifact in the form in which it is sent.
type representation struct {
	content     io.Reader
	size        int64
	digest      []byte
	media, name string
}

func (r representation) describe(header http.Header) {
	header.Set("Content-Type", r.media)
	header.Set("Content-Length", strconv.FormatInt(r.size, 10))
	header.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", r.name))
	header.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(r.digest)+":") // RFC 9530
	header.Set("ETag", `"`+hex.EncodeToString(r.digest)+`"`)
}

// shownDiff is how much of a diff goes into JSON, in bytes: Forge bounds answers at 5 MB, and escapes make text longer.
const shownDiff = 512 << 10

// diffView is a dry run's diff for a frontend.
type diffView struct {
	Diff      string `json:"diff"`
	Truncated bool   `json:"truncated,omitempty"` // this is its beginning
}

// diffInJSON wraps a diff for those who are handed nothing but JSON. Bytes that are no UTF-8 are replaced: it is to be looked at.
func diffInJSON(content io.Reader, id string) (representation, error) {
	text, err := io.ReadAll(io.LimitReader(content, shownDiff+1))
	if err != nil {
		return representation{}, err
	}
	view := diffView{Truncated: len(text) > shownDiff}
	if view.Truncated {
		text = text[:shownDiff]
	}
	view.Diff = strings.ToValidUTF8(string(text), "\ufffd")
	body, err := json.Marshal(view)
	digest := sha256.Sum256(body)
	return representation{bytes.NewReader(body), int64(len(body)), digest[:], "application/json", id + ".json"}, err
}

// keptBy is the archive or the diff of a job, or a fault that says why there is none.
func keptBy(status job.Status, now time.Time) (*job.Artifact, error) {
	switch {
	case !status.State.Ended():
		return nil, fault.Newf(fault.Conflict, "the job is %s; ask again when it has succeeded", status.State)
	case artifactOf(status) == nil:
		return nil, fault.Newf(fault.NotFound, "the job has no archive: only a clone that succeeded, with an archive other than none, has one, and the dry run of a push that would change something has a diff")
	}
	kept := artifactOf(status)
	if !now.Before(kept.ExpiresAt) {
		return nil, fault.Newf(fault.NotFound, "the %s was kept until %s (GITSMITH_ARTIFACT_TTL); submit the job again", noun(kept), kept.ExpiresAt.UTC().Format(time.RFC3339))
	}
	return kept, nil
}

// unreadable hides the artifact's key, which the store's text may name.
func unreadable(kept *job.Artifact, err error) error {
	kind := fault.KindOf(err)
	if kind == fault.NotFound {
		return fault.Wrapf(kind, err, "the %s is gone from the store before its time; submit the job again", noun(kept))
	}
	return fault.Wrapf(kind, err, "the %s cannot be read now; try again", noun(kept))
}

func noun(kept *job.Artifact) string {
	if kept.Format == job.ArchiveDiff {
		return "diff"
	}
	return "archive"
}

// download writes an artifact to a caller. The server's times are meant for small answers: it moves the deadline with each
// write, so that only a caller that stands still, or takes for ever, is cut off.
type download struct {
	http.ResponseWriter
	control *http.ResponseController
	end     time.Time
}

func newDownload(w http.ResponseWriter) *download {
	d := &download{w, http.NewResponseController(w), time.Now().Add(downloadTime)}
	d.extend()
	_ = d.control.Flush() // the store may be slow; the caller has the head at once
	return d
}

func (d *download) Write(p []byte) (int, error) {
	d.extend()
	return d.ResponseWriter.Write(p)
}

func (d *download) extend() {
	deadline := time.Now().Add(downloadStall)
	if d.end.Before(deadline) {
		deadline = d.end
	}
	_ = d.control.SetWriteDeadline(deadline) // a writer without deadlines needs none
}

func mediaType(format job.Archive) string {
	switch format {
	case job.ArchiveTarGz:
		return "application/gzip"
	case job.ArchiveZip:
		return "application/zip"
	case job.ArchiveDiff:
		return "text/x-diff; charset=utf-8"
	}
	return "application/octet-stream"
}
