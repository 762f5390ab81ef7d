package receiver

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// Batches keeps batches. Every call names the installation whose batches it may see.
type Batches interface {
	Create(ctx context.Context, b batch.Batch) (status batch.Status, created bool, err error)
	Get(ctx context.Context, installation, id string) (batch.Status, error)
	List(ctx context.Context, installation string, options batch.ListOptions) ([]batch.Status, string, error)
	Items(ctx context.Context, installation, id string, options batch.ItemOptions) ([]batch.Item, string, error)
	Pause(ctx context.Context, installation, id string) error
	Resume(ctx context.Context, installation, id string) error
	Retry(ctx context.Context, installation, id string) error
	Cancel(ctx context.Context, installation, id string) error
	// CancelAll cancels every batch of the installation that has not ended.
	CancelAll(ctx context.Context, installation string) error
}

// batchView is a batch in an answer.
type batchView struct {
	batch.Status
	Links batchLinks `json:"links"`
}

// batchLinks are what can be done with the batch now.
type batchLinks struct {
	Self         string `json:"self"`
	Repositories string `json:"repositories"`
	Cancel       string `json:"cancel,omitempty"`
	Pause        string `json:"pause,omitempty"`
	Resume       string `json:"resume,omitempty"`
	Retry        string `json:"retry,omitempty"`
}

type batchListView struct {
	Batches []batchView `json:"batches"`
	Next    string      `json:"next,omitempty"` // cursor
}

type itemView struct {
	batch.Item
	Links itemLinks `json:"links"`
}

type itemLinks struct {
	Job  string `json:"job,omitempty"`
	Diff string `json:"diff,omitempty"`
}

type itemListView struct {
	Repositories []itemView `json:"repositories"`
	Next         string     `json:"next,omitempty"` // cursor
}

func batchViewOf(status batch.Status) batchView {
	self := "/v1/batches/" + status.ID
	view := batchView{Status: status, Links: batchLinks{Self: self, Repositories: self + "/repositories"}}
	going := status.State == batch.StateRunning || status.State == batch.StateResolving
	halted := status.State == batch.StatePaused || status.State == batch.StateStopped
	if going || halted {
		view.Links.Cancel = self + "/cancel"
	}
	if going {
		view.Links.Pause = self + "/pause"
	}
	if halted {
		view.Links.Resume = self + "/resume"
	}
	if status.State != batch.StateCanceled && status.Totals[batch.Failed] > 0 {
		view.Links.Retry = self + "/retry"
	}
	return view
}

// submitBatch answers POST /v1/batches: the app's frontend or function asks for one change over many repositories. The same
// Idempotency-Key with the same body gives the first batch again. While Redis is away nothing is kept, and the caller is told.
func (r *receiver) submitBatch(ctx context.Context, c *call) error {
	asked, err := r.askedBatch(ctx, c)
	if err != nil {
		return err
	}
	if asked.Actor.Kind != forge.ActorSystem { // the system's next token comes by itself
		if err := r.hasToken(ctx, c, asked.Actor); err != nil {
			return err
		}
	}
	status, created, err := r.Batches.Create(ctx, asked)
	if err != nil {
		return err
	}
	c.log.batch = status.ID
	if !created {
		return c.JSON(http.StatusOK, batchViewOf(status))
	}
	c.Response().Header().Set("Location", "/v1/batches/"+status.ID)
	return c.JSON(http.StatusAccepted, batchViewOf(status))
}

// askedBatch is the batch in the request.
func (r *receiver) askedBatch(ctx context.Context, c *call) (batch.Batch, error) {
	header := c.Request().Header
	if err := checkMedia(header); err != nil {
		return batch.Batch{}, err
	}
	key, err := idempotencyKey(header)
	if err != nil {
		return batch.Batch{}, err
	}
	body, err := c.body()
	if err != nil {
		return batch.Batch{}, err
	}
	if !utf8.Valid(body) {
		return batch.Batch{}, fault.Newf(fault.Invalid, `the body is not UTF-8; give other bytes as base64, with "encoding": "base64"`)
	}
	request, err := batch.ParseRequest(body, r.Limits)
	if err != nil {
		return batch.Batch{}, err
	}
	traceID, spanID := telemetry.TraceOf(ctx)
	return batch.New(c.Invocation, request, key, job.Trace{TraceID: traceID, SpanID: spanID}, r.Now())
}

// listBatches answers GET /v1/batches: a page of the batches that the caller may see, newest first.
func (r *receiver) listBatches(ctx context.Context, c *call) error {
	limit, err := c.limit()
	if err != nil {
		return err
	}
	statuses, next, err := r.Batches.List(ctx, c.Installation(), batch.ListOptions{Requester: c.Principal(), Limit: limit, Cursor: c.QueryParam("cursor")})
	if err != nil {
		return err
	}
	view := batchListView{Batches: make([]batchView, len(statuses)), Next: next}
	for i, status := range statuses {
		view.Batches[i] = batchViewOf(status)
	}
	return c.JSON(http.StatusOK, view)
}

// getBatch answers GET /v1/batches/{id}.
func (r *receiver) getBatch(ctx context.Context, c *call) error {
	status, err := r.batch(ctx, c)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, batchViewOf(status))
}

// batch is the batch in the path. To a user another user's is not there.
func (r *receiver) batch(ctx context.Context, c *call) (batch.Status, error) {
	id, err := c.batchID()
	if err != nil {
		return batch.Status{}, err
	}
	status, err := r.Batches.Get(ctx, c.Installation(), id)
	if err == nil && !c.sees(status.Requester) {
		return batch.Status{}, fault.Newf(fault.NotFound, "there is no batch %.40q, or its time is over", id)
	}
	return status, err
}

// listItems answers GET /v1/batches/{id}/repositories: a page of the batch's repositories, in the order in which they were given.
func (r *receiver) listItems(ctx context.Context, c *call) error {
	found, err := r.batch(ctx, c)
	if err != nil {
		return err
	}
	limit, err := c.limit()
	if err != nil {
		return err
	}
	state := batch.ItemState(c.QueryParam("state"))
	if state != "" && !slices.Contains(batch.ItemStates(), state) {
		return fault.Newf(fault.Invalid, "state: %.40q is none of %v", state, batch.ItemStates())
	}
	items, next, err := r.Batches.Items(ctx, c.Installation(), found.ID, batch.ItemOptions{State: state, Limit: limit, Cursor: c.QueryParam("cursor")})
	if err != nil {
		return err
	}
	view := itemListView{Repositories: make([]itemView, len(items)), Next: next}
	for i, item := range items {
		view.Repositories[i] = itemView{Item: item}
		if item.Job != "" {
			view.Repositories[i].Links.Job = pathOf(item.Job)
		}
		if item.Diff {
			view.Repositories[i].Links.Diff = pathOf(item.Job) + "/artifact"
		}
	}
	return c.JSON(http.StatusOK, view)
}

// cancelBatch answers POST /v1/batches/{id}/cancel: what runs finishes, what waits does not begin.
func (r *receiver) cancelBatch(ctx context.Context, c *call) error {
	return r.actOnBatch(ctx, c, func(found batch.Status) error { return r.Batches.Cancel(ctx, c.Installation(), found.ID) })
}

// pauseBatch answers POST /v1/batches/{id}/pause: nothing more begins.
func (r *receiver) pauseBatch(ctx context.Context, c *call) error {
	return r.actOnBatch(ctx, c, func(found batch.Status) error { return r.Batches.Pause(ctx, c.Installation(), found.ID) })
}

// resumeBatch answers POST /v1/batches/{id}/resume, also of one that stopped by itself. Requester and actor stay what they are.
func (r *receiver) resumeBatch(ctx context.Context, c *call) error {
	return r.actOnBatch(ctx, c, func(found batch.Status) error {
		if err := r.hasBatchToken(ctx, c, found); err != nil {
			return err
		}
		return r.Batches.Resume(ctx, c.Installation(), found.ID)
	})
}

// retryBatch answers POST /v1/batches/{id}/retry: the repositories that failed begin again, for the same requester and as the same actor.
// What has succeeded is not touched.
func (r *receiver) retryBatch(ctx context.Context, c *call) error {
	return r.actOnBatch(ctx, c, func(found batch.Status) error {
		if err := r.hasBatchToken(ctx, c, found); err != nil {
			return err
		}
		return r.Batches.Retry(ctx, c.Installation(), found.ID)
	})
}

func (r *receiver) actOnBatch(ctx context.Context, c *call, act func(found batch.Status) error) error {
	found, err := r.batch(ctx, c)
	if err != nil {
		return err
	}
	if err := act(found); err != nil {
		return err
	}
	return r.getBatch(ctx, c)
}

// hasBatchToken refuses to restart a batch whose user has no token. The system's next token comes by itself.
func (r *receiver) hasBatchToken(ctx context.Context, c *call, found batch.Status) error {
	if forge.ActorKind(found.Actor) != forge.ActorUser {
		return nil
	}
	return r.hasToken(ctx, c, forge.Actor{Kind: forge.ActorUser, Principal: found.Requester})
}

// limit is how many entries a page is to have; zero where the caller does not say.
func (c *call) limit() (int, error) {
	text := c.QueryParam("limit")
	if text == "" {
		return 0, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > maxPage {
		return 0, fault.Newf(fault.Invalid, "limit: %.40q is no number from 1 to %d", text, maxPage)
	}
	return limit, nil
}

// batchID is the id in the path, as jobID is.
func (c *call) batchID() (string, error) {
	text := c.Param("id")
	id, err := uuid.Parse(text)
	if err != nil || id.String() != text {
		return "", fault.Newf(fault.NotFound, "there is no batch %.40q; ids are UUIDs in lower case", text)
	}
	c.log.batch = text
	return text, nil
}
