package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
)

// ticket is a [ledger.Ticket] as a task's payload: what operators see on the dashboard.
type ticket struct {
	Job          string        `json:"job"`
	Run          int           `json:"run"`
	Serial       int           `json:"serial,omitempty"`
	Installation string        `json:"installation"`
	Class        job.Class     `json:"class"`
	Operation    job.Operation `json:"operation,omitempty"`
	Repository   string        `json:"repository,omitempty"`
	Branch       string        `json:"branch,omitempty"`
	Ref          string        `json:"ref,omitempty"`
	Actor        string        `json:"actor,omitempty"`
	Requester    string        `json:"requester,omitempty"`
	Rule         string        `json:"rule,omitempty"`
	Batch        string        `json:"batch,omitempty"`
	CreatedAt    time.Time     `json:"created_at,omitzero"`
}

// taskOf is a ticket as asynq takes it.
func taskOf(t ledger.Ticket) (*asynq.Task, error) {
	payload, err := json.Marshal(ticket{
		t.Job, t.Generation, t.Serial, t.Installation, t.Class, t.Operation, t.Repository, t.Branch, t.Ref, t.Actor, t.Requester, t.Rule, t.Batch, t.CreatedAt,
	})
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "a ticket cannot be encoded")
	}
	kind, retention := string(t.Operation), taskRetention
	if kind == "" {
		kind = "job"
	}
	if t.Class == job.ClassBatch { // the batch's own page says what became of it
		retention = 0
	}
	return asynq.NewTask(kind, payload, asynq.TaskID(t.ID()), asynq.Queue(queueOf(t.Class)), asynq.MaxRetry(maxTaskRetries),
		asynq.Timeout(taskTimeout), asynq.Retention(retention)), nil
}

// readTicket reads a task's payload. Whatever else somebody put into a queue is an Invalid fault.
func readTicket(payload []byte) (ledger.Ticket, error) {
	var t ticket
	if err := json.Unmarshal(payload, &t); err != nil || t.Job == "" || t.Installation == "" {
		return ledger.Ticket{}, fault.Wrapf(fault.Invalid, err, "the task is no ticket of a job")
	}
	return ledger.Ticket{
		Installation: t.Installation, Job: t.Job, Class: t.Class, Generation: t.Run, Serial: t.Serial, Operation: t.Operation,
		Repository: t.Repository, Actor: t.Actor, Requester: t.Requester, Branch: t.Branch, Ref: t.Ref, Rule: t.Rule, Batch: t.Batch, CreatedAt: t.CreatedAt,
	}, nil
}

// Describe is what the dashboard shows of a task.
func Describe(payload []byte) string {
	t, err := readTicket(payload)
	if err != nil {
		return "a task that cannot be read"
	}
	where := t.Branch
	if t.Operation == job.OperationClone {
		where = t.Ref
	}
	if where != "" {
		where = " " + where
	}
	return fmt.Sprintf("%s %s%s as %s, asked for by %s at %s", t.Operation, t.Repository, where, t.Actor, t.Installation, t.CreatedAt.Format(time.RFC3339))
}

// Issue hands tickets to the workers, in their order. One that is lost here is issued again when somebody looks at its installation, so that a
// own work is done need not fail for it.
func (c *Client) Issue(ctx context.Context, tickets []ledger.Ticket) error {
	for _, t := range tickets {
		if err := c.issue(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (c *Client) issue(ctx context.Context, t ledger.Ticket) error {
	task, err := taskOf(t)
	if err != nil {
		return err
	}
	if _, err := c.tasks.EnqueueContext(ctx, task); err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return unavailable(err, "queue a job")
	}
	return nil
}

// issueLater is Issue for a caller who has what he wanted.
func (c *Client) issueLater(ctx context.Context, tickets []ledger.Ticket) {
	if err := c.Issue(ctx, tickets); err != nil {
		c.Logger.WarnContext(ctx, "tickets of jobs could not be issued; it is done again within seconds", slog.Int("count", len(tickets)),
			slog.String("error", err.Error()))
	}
}

// Backlog is how long the oldest ticket of each class has been waiting for a worker; a class is missing while its queue is paused.
func (c *Client) Backlog(ctx context.Context) (ledger.Backlog, error) {
	classes := job.Classes()
	pipeline := c.Redis.Pipeline()
	paused, oldest := make([]interface{ Val() int64 }, len(classes)), make([]interface{ Val() string }, len(classes))
	for i, class := range classes {
		paused[i] = pipeline.Exists(ctx, listKey(queueOf(class), "paused"))
		oldest[i] = pipeline.LIndex(ctx, listKey(queueOf(class), "pending"), -1)
	}
	if _, err := pipeline.Exec(ctx); err != nil && !isNil(err) {
		return nil, unavailable(err, "look at the queues")
	}
	backlog := ledger.Backlog{}
	for i, class := range classes {
		if paused[i].Val() > 0 {
			continue
		}
		age, known, err := c.age(ctx, queueOf(class), oldest[i].Val())
		if err != nil {
			return nil, err
		}
		if known {
			backlog[class] = age
		}
	}
	return backlog, nil
}

// age is for how long a task has been pending; zero without one, unknown where it is being taken just now or its content is gone.
func (c *Client) age(ctx context.Context, queue, task string) (age time.Duration, known bool, err error) {
	if task == "" {
		return 0, true, nil
	}
	since, err := c.Redis.HGet(ctx, taskPrefix(queue)+task, "pending_since").Int64() // nanoseconds
	switch {
	case err == nil:
		return max(c.now().Sub(time.Unix(0, since)), 0), true, nil
	case isNil(err):
		return 0, false, nil
	}
	return 0, false, unavailable(err, "look at the queues")
}
