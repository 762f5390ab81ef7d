package queue

import (
	"context"
	"errors"
	"log/slog"
	"strconv"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// Retry runs a job again that ended without success, for the same requester, as the same actor and with that actor's current token.
//
// Whatever dies in between, nothing is lost and nothing runs twice: what the job was lies beside its record from the very step
// that ended it until a run succeeds. The new run is a task of its own generation, queued before the record is opened again; a
// worker that takes it up earlier opens the record itself, and the same call again finds the task there. The old task goes last.
func (c *Client) Retry(ctx context.Context, installation, id string) (job.Status, error) {
	found, err := read(ctx, c.Redis, installation, id)
	if err != nil {
		return job.Status{}, err
	}
	return c.retry(ctx, installation, found)
}

// RetryRun is Retry of a job's run of that generation; a Conflict where another run is there already.
func (c *Client) RetryRun(ctx context.Context, installation, id string, generation int) (job.Status, error) {
	found, err := read(ctx, c.Redis, installation, id)
	switch {
	case err != nil:
		return job.Status{}, err
	case found.number("generation") != generation:
		return job.Status{}, fault.Newf(fault.Conflict, "the job has been retried meanwhile")
	}
	return c.retry(ctx, installation, found)
}

func (c *Client) retry(ctx context.Context, installation string, found record) (job.Status, error) {
	id := found["id"]
	switch state := job.State(found["state"]); {
	case state == job.Succeeded:
		return job.Status{}, fault.Newf(fault.Conflict, "the job has succeeded; there is nothing to retry")
	case !state.Ended():
		return job.Status{}, fault.Newf(fault.Conflict, "the job is %s; only one that has ended can be retried", state)
	}
	payload, err := c.kept(ctx, installation, found)
	if err != nil {
		return job.Status{}, err
	}
	again, err := job.Unmarshal(payload, c.Keyring)
	if err != nil {
		return job.Status{}, err
	}
	generation := found.number("generation")
	again.Generation = generation + 1
	task, err := newTask(again, c.Keyring)
	if err != nil {
		return job.Status{}, err
	}
	if _, err := c.tasks.EnqueueContext(ctx, task); err != nil && !errors.Is(err, asynq.ErrTaskIDConflict) {
		return job.Status{}, unavailable(err, "retry a job")
	}
	err = reopenScript.Run(ctx, c.Redis, []string{keyspace.Installation(installation).Job(id)}, again.Generation, c.Now().UnixMilli(), liveLife.Milliseconds()).Err()
	if err != nil {
		return job.Status{}, unavailable(err, "retry a job")
	}
	if err := c.inspector.DeleteTask(found["class"], taskID(id, generation)); err != nil && !isGone(err) {
		c.Logger.DebugContext(ctx, "a retried job's old task stays where it is", slog.String("error", err.Error()))
	}
	return c.Get(ctx, installation, id)
}

// kept is what a job was that ended without success.
func (c *Client) kept(ctx context.Context, installation string, found record) ([]byte, error) {
	payload, err := c.Redis.Get(ctx, keyspace.Installation(installation).Payload(found["id"])).Bytes()
	if errors.Is(err, redis.Nil) {
		payload, err = c.payload(found)
	}
	switch {
	case err != nil:
		return nil, unavailable(err, "retry a job")
	case payload == nil:
		return nil, fault.Newf(fault.NotFound, "what the job was to do is not kept any more; submit it anew")
	}
	return payload, nil
}

// Wake runs the installation's jobs that wait for a token, oldest first and as many at once as the installation may have, and
// returns how many woke. A job that is about to wait just now runs again at once instead.
func (c *Client) Wake(ctx context.Context, installation string) (int, error) {
	keys := []string{keyspace.Installation(installation).Wakes(), keyspace.Installation(installation).Waiting()}
	arguments := []any{wakesLife.Milliseconds(), c.Now().UnixMilli(), c.Cap, keyspace.Installation(installation).Job("")}
	for _, class := range job.Classes() {
		keys = append(keys, keyspace.Installation(installation).Slots(string(class)), keyspace.Installation(installation).Parked(string(class)))
		arguments = append(arguments, string(class))
	}
	answer, err := texts(wakeScript.Run(ctx, c.Redis, keys, arguments...).Result())
	if err != nil {
		return 0, unavailable(err, "wake waiting jobs")
	}
	woken, _ := strconv.Atoi(answer[0]) // the script wrote it
	if woken > 0 && c.Cap > 0 {
		if err := c.Redis.SAdd(ctx, keyspace.Parked, installation).Err(); err != nil {
			return 0, unavailable(err, "wake waiting jobs")
		}
	}
	for pair := answer[1:]; len(pair) > 1; pair = pair[2:] {
		if err := c.run(ctx, installation, job.Class(pair[0]), pair[1:2]); err != nil {
			return woken, err
		}
	}
	return woken, nil
}
