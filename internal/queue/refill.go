package queue

import (
	"context"
	"time"

	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/job"
)

// doubtfulAge is how old a slot is before the sweep looks whether its task is still there. Attempts may take longer.
const doubtfulAge = 30 * time.Second

// refillAll sees to it that no job stays parked while its installation has slots: whoever was to run it may have died.
func (c *Client) refillAll(ctx context.Context) error {
	installations, err := c.Redis.SMembers(ctx, parkedSet).Result()
	if err != nil {
		return unavailable(err, "look after parked jobs")
	}
	for _, installation := range installations {
		parked := 0
		for _, class := range job.Classes() {
			left, err := c.refill(ctx, installation, class)
			if err != nil {
				return err
			}
			parked += left
		}
		if parked == 0 {
			// Whoever parks one at this moment tells the set again within seconds, or the jobs that run now let it follow.
			if err := c.Redis.SRem(ctx, parkedSet, installation).Err(); err != nil {
				return unavailable(err, "look after parked jobs")
			}
		}
	}
	return nil
}

// refill returns how many jobs stay parked or hold a slot.
func (c *Client) refill(ctx context.Context, installation string, class job.Class) (int, error) {
	now := c.Now()
	keys := []string{slotsKey(installation, class), parkedKey(installation, class)}
	answer, err := numbersAndTexts(refillScript.Run(ctx, c.Redis, keys, c.Cap, now.UnixMilli(), prefix(installation)+"job:", now.Add(-doubtfulAge).UnixMilli()).Result())
	if err != nil {
		return 0, unavailable(err, "look after parked jobs")
	}
	parked, taken, tasks := answer.numbers[0], answer.numbers[1], answer.numbers[2]
	if err := c.run(ctx, installation, class, answer.texts[:tasks]); err != nil {
		return 0, err
	}
	for _, id := range answer.texts[tasks:] {
		if err := c.doubt(ctx, installation, class, id); err != nil {
			return 0, err
		}
	}
	return parked + taken, nil
}

// doubt looks after a slot that is old: its task may have been forgotten, or be gone.
func (c *Client) doubt(ctx context.Context, installation string, class job.Class, id string) error {
	found, err := c.Redis.HMGet(ctx, recordKey(installation, id), "generation", "state").Result()
	if err != nil {
		return unavailable(err, "look after parked jobs")
	}
	generation, _ := found[0].(string)
	state, _ := found[1].(string)
	task := id
	if generation != "" && generation != "0" {
		task += "." + generation
	}
	info, err := c.inspector.GetTaskInfo(string(class), task)
	switch {
	case err != nil && !isGone(err):
		return unavailable(err, "look after parked jobs")
	case err == nil && (info.State == asynq.TaskStateActive || info.State == asynq.TaskStatePending):
		return nil
	case err == nil && !job.State(state).Ended() && state != "":
		return c.run(ctx, installation, class, []string{task})
	}
	if err := c.Redis.ZRem(ctx, slotsKey(installation, class), id).Err(); err != nil {
		return unavailable(err, "look after parked jobs")
	}
	return nil
}
