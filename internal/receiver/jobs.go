package receiver

import (
	"context"
	"mime"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/intake"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// submit answers POST /v1/jobs: the app's frontend or function asks for work. The same Idempotency-Key with the same body gives
// the first job again, so a caller that got no answer sends the request again.
func (r *receiver) submit(ctx context.Context, c *call) error {
	asked, err := r.asked(ctx, c)
	if err != nil {
		return err
	}
	if asked.OnExpiry != job.OnExpiryWait && !r.Intake.Away() { // such a job waits for a token, the first one too
		if err := r.hasToken(ctx, c, asked.Actor); err != nil && fault.KindOf(err) != fault.Unavailable {
			// A repeat of a job that is there is answered all the same: it needs nothing more.
			if _, missing := r.Jobs.Get(ctx, c.Installation(), asked.ID); missing != nil {
				return err
			}
		}
	}
	taken, err := r.Intake.Take(ctx, intake.Delivery{Invocation: c.Invocation, Jobs: []job.Job{asked}, Size: int(c.Request().ContentLength)})
	switch {
	case err != nil:
		return err
	case taken.Late || len(taken.Jobs) != 1:
		return fault.Newf(fault.Denied, "the app was removed minutes ago; nothing is done for this installation any more")
	}
	status, created := taken.Jobs[0].Status, taken.Jobs[0].Created
	c.log.job = status.ID
	r.Metrics.Enqueued(string(asked.Operation()), string(asked.Class), created)
	if !created {
		return c.JSON(http.StatusOK, viewOf(status))
	}
	c.Response().Header().Set("Location", pathOf(status.ID))
	return c.JSON(http.StatusAccepted, viewOf(status))
}

// asked is the job in the request.
func (r *receiver) asked(ctx context.Context, c *call) (job.Job, error) {
	header := c.Request().Header
	if err := checkMedia(header); err != nil {
		return job.Job{}, err
	}
	key, err := idempotencyKey(header)
	if err != nil {
		return job.Job{}, err
	}
	body, err := c.body()
	if err != nil {
		return job.Job{}, err
	}
	if !utf8.Valid(body) { // a decoder would put U+FFFD in silence, into somebody's file
		return job.Job{}, fault.Newf(fault.Invalid, `the body is not UTF-8; give other bytes as base64, with "encoding": "base64"`)
	}
	request, err := job.ParseRequest(body, r.Limits)
	if err != nil {
		return job.Job{}, err
	}
	traceID, spanID := telemetry.TraceOf(ctx)
	return job.New(c.Invocation, request, job.Options{
		IdempotencyKey: key, Trace: job.Trace{TraceID: traceID, SpanID: spanID}, Now: r.Now(),
	})
}

func checkMedia(header http.Header) error {
	refused := problem{status: http.StatusUnsupportedMediaType, title: "Unsupported media type"}
	kind, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	switch encoding := header.Get("Content-Encoding"); {
	case err != nil || kind != "application/json":
		refused.detail = "send the job with Content-Type: application/json"
	case encoding != "" && encoding != "identity":
		refused.detail = "send the job uncompressed, without Content-Encoding"
	default:
		return nil
	}
	return refused
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

// tokenTime is how long a look for a token may take before the caller is answered without it.
const tokenTime = 1500 * time.Millisecond

// hasToken refuses a job that nobody has a token for: it could only end as expired. A token that came along has been kept; one
// that is about to expire is the worker's to judge.
func (r *receiver) hasToken(ctx context.Context, c *call, actor forge.Actor) error {
	if !c.Token(actor.Kind).IsZero() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTime)
	defer cancel()
	_, err := r.Tokens.Take(ctx, c.Installation(), actor)
	if err == nil || fault.KindOf(err) != fault.Expired {
		return err
	}
	other := "a call from the app's UI by that user brings one too"
	if actor.Kind == forge.ActorSystem {
		other = "a scheduled trigger to /forge/schedule brings one too"
	}
	return fault.Wrapf(fault.Invalid, err, "there is no token for actor %q: this call brought no %s header and none is kept; "+
		"set %s at the endpoint in the manifest, deploy and call again; %s", actor.Kind, actor.Header(), actor.ManifestLine(), other)
}

const maxPage = 100

// list answers GET /v1/jobs: a page of the installation's jobs, newest first.
func (r *receiver) list(ctx context.Context, c *call) error {
	options := job.ListOptions{State: job.State(c.QueryParam("state")), Cursor: c.QueryParam("cursor")}
	if options.State != "" && !slices.Contains(job.States(), options.State) {
		return fault.Newf(fault.Invalid, "state: %.40q is none of %v", options.State, job.States())
	}
	limit, err := c.limit()
	if err != nil {
		return err
	}
	options.Limit = limit
	page, err := r.Jobs.List(ctx, c.Installation(), options)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, listOf(page))
}

// get answers GET /v1/jobs/{id}.
func (r *receiver) get(ctx context.Context, c *call) error {
	return answer(c, func(id string) (job.Status, error) { return r.Jobs.Get(ctx, c.Installation(), id) })
}

// cancel answers POST /v1/jobs/{id}/cancel. A job that runs is asked to stop and may still be running in the answer.
func (r *receiver) cancel(ctx context.Context, c *call) error {
	return answer(c, func(id string) (job.Status, error) { return r.Jobs.Cancel(ctx, c.Installation(), id) })
}

// retry answers POST /v1/jobs/{id}/retry: again, by the same kind of actor, which for a user is the one who calls. A second one
// finds the job queued, which is a Conflict.
func (r *receiver) retry(ctx context.Context, c *call) error {
	return answer(c, func(id string) (job.Status, error) {
		before, err := r.Jobs.Get(ctx, c.Installation(), id)
		if err != nil {
			return before, err
		}
		actor := c.Actor(before.Actor)
		if actor.Kind == forge.ActorUser && actor.Principal == "" {
			return before, fault.Newf(fault.Invalid, "the job was a user's, and this call has no user in session; retry it from the app's UI")
		}
		if err := r.hasToken(ctx, c, actor); err != nil {
			return before, err
		}
		return r.Jobs.Retry(ctx, c.Installation(), id, actor)
	})
}

func answer(c *call, do func(id string) (job.Status, error)) error {
	id, err := c.jobID()
	if err != nil {
		return err
	}
	status, err := do(id)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, viewOf(status))
}

// jobID is the id in the path. What is no id of ours names no job, and gets neither into a key of the queue nor into the log.
func (c *call) jobID() (string, error) {
	text := c.Param("id")
	id, err := uuid.Parse(text)
	if err != nil || id.String() != text {
		return "", fault.Newf(fault.NotFound, "there is no job %.40q; ids are UUIDs in lower case", text)
	}
	c.log.job = text
	return text, nil
}
