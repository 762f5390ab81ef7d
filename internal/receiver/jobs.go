package receiver

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// submit answers POST /v1/jobs: the app's frontend or function asks for work. The same Idempotency-Key with the same body gives
// the first job again, so a caller that got no answer sends the request again.
func (r *receiver) submit(c *call) error {
	if kind, _, err := mime.ParseMediaType(c.Request().Header.Get("Content-Type")); err != nil || kind != "application/json" {
		return problem{status: http.StatusUnsupportedMediaType, title: "Unsupported media type", detail: "send the job as application/json"}
	}
	key, err := idempotencyKey(c.Request().Header)
	if err != nil {
		return err
	}
	body, err := c.body()
	if err != nil {
		return err
	}
	request, err := job.ParseRequest(body, r.Limits)
	if err != nil {
		return err
	}
	traceID, spanID := telemetry.TraceOf(c.ctx)
	asked, err := job.New(c.Invocation, request, job.Options{
		IdempotencyKey: key, Trace: job.Trace{TraceID: traceID, SpanID: spanID}, Now: r.Now(),
	})
	if err != nil {
		return err
	}
	if err := r.hasToken(c, asked.Actor); err != nil {
		return err
	}
	status, created, err := r.Jobs.Enqueue(c.ctx, asked)
	if err != nil {
		return err
	}
	c.log.job = status.ID
	r.Metrics.Enqueued(string(asked.Operation()), string(asked.Class), created)
	code := http.StatusOK
	if created {
		code = http.StatusAccepted
		c.Response().Header().Set("Location", "/v1/jobs/"+status.ID)
	}
	return c.JSON(code, viewOf(status))
}

const maxKey = 255

func idempotencyKey(header http.Header) (string, error) {
	values := header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	invisible := func(r rune) bool { return r <= ' ' || r > '~' }
	if len(values) > 1 || key == "" || len(key) > maxKey || slices.ContainsFunc([]rune(key), invisible) {
		return "", fault.Newf(fault.Invalid, "Idempotency-Key: give one of 1 to %d visible ASCII characters, such as a UUID", maxKey)
	}
	return key, nil
}

// hasToken refuses a job that nobody has a token for: it could only end as expired.
func (r *receiver) hasToken(c *call, actor forge.Actor) error {
	if !c.Token(actor.Kind).IsZero() {
		return nil
	}
	_, err := r.Tokens.Take(c.ctx, c.Installation(), actor)
	if fault.KindOf(err) != fault.Expired {
		return err
	}
	return fault.Wrapf(fault.Invalid, err, "there is no token for actor %q: the call brought no %s header, and none is kept; set %s at the endpoint in the manifest, "+
		"or call where Forge sends it", actor.Kind, actor.Header(), actor.ManifestLine())
}

// list answers GET /v1/jobs: a page of the installation's jobs, newest first.
func (r *receiver) list(c *call) error {
	options := job.ListOptions{State: job.State(c.QueryParam("state")), Cursor: c.QueryParam("cursor")}
	if options.State != "" && !slices.Contains(job.States(), options.State) {
		return fault.Newf(fault.Invalid, "state: %.40q is none of %v", options.State, job.States())
	}
	if text := c.QueryParam("limit"); text != "" {
		limit, err := strconv.Atoi(text)
		if err != nil || limit < 1 || limit > 100 {
			return fault.Newf(fault.Invalid, "limit: %.40q is no number from 1 to 100", text)
		}
		options.Limit = limit
	}
	page, err := r.Jobs.List(c.ctx, c.Installation(), options)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, listOf(page))
}

// get answers GET /v1/jobs/{id}.
func (r *receiver) get(c *call) error {
	return r.answer(c, func(id string) (job.Status, error) { return r.Jobs.Get(c.ctx, c.Installation(), id) })
}

// cancel answers POST /v1/jobs/{id}/cancel. A job that runs is asked to stop and may still be running in the answer.
func (r *receiver) cancel(c *call) error {
	return r.answer(c, func(id string) (job.Status, error) { return r.Jobs.Cancel(c.ctx, c.Installation(), id) })
}

// retry answers POST /v1/jobs/{id}/retry: again, by the same kind of actor, which for a user is the one who calls.
func (r *receiver) retry(c *call) error {
	return r.answer(c, func(id string) (job.Status, error) {
		before, err := r.Jobs.Get(c.ctx, c.Installation(), id)
		if err != nil {
			return before, err
		}
		actor := c.Actor(before.Actor)
		if actor.Kind == forge.ActorUser && actor.Principal == "" {
			return before, fault.Newf(fault.Invalid, "the job was a user's, and this call has no user in session; retry it from the app's UI")
		}
		if err := r.hasToken(c, actor); err != nil {
			return before, err
		}
		return r.Jobs.Retry(c.ctx, c.Installation(), id, actor)
	})
}

func (r *receiver) answer(c *call, do func(id string) (job.Status, error)) error {
	c.log.job = c.Param("id")
	status, err := do(c.log.job)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, viewOf(status))
}

// artifact answers GET and HEAD of /v1/jobs/{id}/artifact. Through Forge an answer is bounded at 5 MB; a caller that reaches the
// receiver directly gets any size.
func (r *receiver) artifact(c *call) error {
	c.log.job = c.Param("id")
	status, err := r.Jobs.Get(c.ctx, c.Installation(), c.log.job)
	if err != nil {
		return err
	}
	switch {
	case !status.State.Ended():
		return fault.Newf(fault.Conflict, "the job is %s; ask again when it has succeeded", status.State)
	case status.Result == nil || status.Result.Clone == nil || status.Result.Clone.Artifact == nil:
		return fault.Newf(fault.NotFound, "the job has no archive: only a clone that succeeded, with an archive other than none, has one")
	case !r.Now().Before(status.Result.Clone.Artifact.ExpiresAt):
		return fault.Newf(fault.NotFound, "the archive was kept until %s (GITSMITH_ARTIFACT_TTL); submit the clone again", status.Result.Clone.Artifact.ExpiresAt.Format(time.RFC3339))
	}
	found := status.Result.Clone.Artifact
	content, size, err := r.Artifacts.Get(c.ctx, found.Key)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }() // it was read; nothing is lost
	digest, err := hex.DecodeString(found.SHA256)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "the archive's digest is damaged")
	}
	// The bound on an answer's time is for small ones: a download may take as long as it moves.
	control := http.NewResponseController(c.Response())
	_ = control.SetWriteDeadline(time.Now().Add(downloadTime)) // a writer without deadlines needs none
	header := c.Response().Header()
	header.Set("Content-Type", mediaType(found.Format))
	header.Set("Content-Length", strconv.FormatInt(size, 10))
	header.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", status.ID+"."+string(found.Format)))
	header.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(digest)+":") // RFC 9530
	header.Set("ETag", `"`+found.SHA256+`"`)
	c.Response().WriteHeader(http.StatusOK)
	if c.Request().Method == http.MethodHead {
		return nil
	}
	_, err = io.Copy(c.Response(), content)
	return err
}

const downloadTime = 30 * time.Minute

func mediaType(format job.Archive) string {
	switch format {
	case job.ArchiveTarGz:
		return "application/gzip"
	case job.ArchiveZip:
		return "application/zip"
	}
	return "application/octet-stream"
}
