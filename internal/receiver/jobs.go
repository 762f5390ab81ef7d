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
	missing := "this call brought no " + actor.Header() + " header, and none of that user's is kept from an earlier call from the app's UI"
	if actor.Kind == forge.ActorSystem {
		missing = "none is kept, and only Forge's own calls bring one: the next scheduled trigger to /forge/schedule, or an event"
	}
	return fault.Wrapf(fault.Invalid, err, "there is no token for actor %q: %s; set %s at the endpoint in the manifest and deploy", actor.Kind, missing, actor.ManifestLine())
}

const maxPage = 100

// list answers GET /v1/jobs: a page of the jobs that the caller may see, newest first.
func (r *receiver) list(ctx context.Context, c *call) error {
	options := job.ListOptions{State: job.State(c.QueryParam("state")), Requester: c.Principal(), Cursor: c.QueryParam("cursor")}
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
	return r.answer(ctx, c, func(found job.Status) (job.Status, error) { return found, nil })
}

// cancel answers POST /v1/jobs/{id}/cancel. A job that runs is asked to stop and may still be running in the answer.
func (r *receiver) cancel(ctx context.Context, c *call) error {
	return r.answer(ctx, c, func(found job.Status) (job.Status, error) { return r.Jobs.Cancel(ctx, c.Installation(), found.ID) })
}

// retry answers POST /v1/jobs/{id}/retry: again, for the same requester and as the same actor. A second one finds the job queued, which
// is a Conflict.
func (r *receiver) retry(ctx context.Context, c *call) error {
	return r.answer(ctx, c, func(found job.Status) (job.Status, error) {
		actor := forge.Actor{Kind: found.Actor}
		if found.Actor == forge.ActorUser {
			actor.Principal = found.Requester
		}
		if found.Actor == forge.ActorSystem || actor.Principal != "" { // a rule's user is not here to bring a token
			if err := r.hasToken(ctx, c, actor); err != nil {
				return found, err
			}
		}
		return r.Jobs.Retry(ctx, c.Installation(), found.ID)
	})
}

// answer does something to the job in the path, and answers with the job.
func (r *receiver) answer(ctx context.Context, c *call, do func(found job.Status) (job.Status, error)) error {
	found, err := r.job(ctx, c)
	if err != nil {
		return err
	}
	status, err := do(found)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, viewOf(status))
}

// job is the job in the path. To a user another user's is not there.
func (r *receiver) job(ctx context.Context, c *call) (job.Status, error) {
	id, err := c.jobID()
	if err != nil {
		return job.Status{}, err
	}
	status, err := r.Jobs.Get(ctx, c.Installation(), id)
	if err == nil && !c.sees(status.Requester) {
		return job.Status{}, fault.Newf(fault.NotFound, "there is no job %.40q, or its time is over", id)
	}
	return status, err
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
