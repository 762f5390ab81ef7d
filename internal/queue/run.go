package queue

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

const (
	wakeWait  = 2 * time.Second // for tasks that are not where they can be run yet
	wakePause = 20 * time.Millisecond
	arrival   = time.Minute // how long after its record a task may still be on its way from the receiver
)

// readiness is what became of a task that was to be run.
type readiness int

const (
	settled  readiness = iota // it is in the queue, runs, or is not needed any more
	coming                    // it will be where it can be run in a moment
	doubtful                  // it should be there and is not
)

// run puts the tasks of promoted jobs into the queue. Whoever promotes a job is responsible for it until its task has been seen: the
// script that promotes it works on the installation's keys, the task lies among asynq's, and no script sees both. A task may not be
// there yet at that moment:
//
//   - A worker has just written down that the job waits, and asynq has not moved the task from the active ones.
//   - A receiver has made the record and parked the job, and its task comes with the next command. There is a gap between the two where
//     Redis does not know asynq's script yet (the first parked job after a start of Redis), on a Cluster, and where the task is too large for one
//     read. In that gap another job can end and promote this one. The receiver then puts the task off for 12 hours, as
//     it believes the job to be parked, and nobody but the promoter knows better.
//
// So run asks again for up to two seconds. It hands what it has not seen by then to the sweep, by marking the job's slot as doubtful.
func (c *Client) run(ctx context.Context, installation string, class job.Class, tasks []string) error {
	giveUp := c.Now().Add(wakeWait)
	var lost []string
	for len(tasks) > 0 && ctx.Err() == nil {
		var later []string
		for _, task := range tasks {
			ready, err := c.runOne(ctx, installation, class, task)
			switch {
			case err != nil:
				return err
			case ready == coming:
				later = append(later, task)
			case ready == doubtful:
				lost = append(lost, task)
			}
		}
		if tasks = later; len(tasks) == 0 || c.Now().After(giveUp) {
			break
		}
		select {
		case <-ctx.Done(): // whoever waited for it is gone; the job's turn is not
		case <-time.After(wakePause):
		}
	}
	return c.suspect(ctx, installation, class, append(lost, tasks...))
}

func (c *Client) runOne(ctx context.Context, installation string, class job.Class, task string) (readiness, error) {
	if c.inspector.RunTask(string(class), task) == nil {
		return settled, nil
	}
	info, err := c.inspector.GetTaskInfo(string(class), task)
	switch {
	case isGone(err):
		return c.whyGone(ctx, installation, task)
	case err != nil:
		return settled, unavailable(err, "run a job that waited")
	case info.State == asynq.TaskStateActive, info.State == asynq.TaskStateRetry, info.State == asynq.TaskStateScheduled:
		return coming, nil // on its way into its wait, or there since it was looked at
	}
	return settled, nil
}

// whyGone looks into the record of a job whose task is not there.
func (c *Client) whyGone(ctx context.Context, installation, task string) (readiness, error) {
	fields := []string{"state", "generation", "opened"}
	found, err := c.Redis.HMGet(ctx, keyspace.Installation(installation).Job(jobOf(task)), fields...).Result()
	if err != nil {
		return settled, unavailable(err, "run a job that waited")
	}
	read := recordOf(fields, found)
	switch {
	case read["state"] == "" || job.State(read["state"]).Ended() || taskID(jobOf(task), read.number("generation")) != task:
		return settled, nil
	case c.Now().Sub(read.time("opened")) < arrival:
		return coming, nil
	}
	return doubtful, nil
}

// suspect marks the slots of jobs whose tasks were not seen, so that the next sweep looks for them whatever their age.
func (c *Client) suspect(ctx context.Context, installation string, class job.Class, tasks []string) error {
	if len(tasks) == 0 || c.Cap == 0 {
		return nil
	}
	slots := make([]redis.Z, len(tasks))
	for i, task := range tasks {
		slots[i] = redis.Z{Member: jobOf(task)} // as if it had been there since 1970
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wakeWait)
	defer cancel()
	markErr := c.Redis.ZAddXX(ctx, keyspace.Installation(installation).Slots(string(class)), slots...).Err()
	if err := errors.Join(markErr, c.Redis.SAdd(ctx, keyspace.Parked, installation).Err()); err != nil {
		return unavailable(err, "run a job that waited")
	}
	return nil
}

// jobOf is the id of the job whose task it is: taskID backwards. Ids of jobs hold no dot.
func jobOf(task string) string {
	id, generation, found := strings.Cut(task, ".")
	if _, err := strconv.Atoi(generation); !found || err != nil {
		return task
	}
	return id
}
