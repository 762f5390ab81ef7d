package queue

import (
	"context"
	"errors"
	"time"

	"github.com/hibiken/asynq"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// doubtfulAge is how old a slot is before the sweep looks whether its task is still there. Attempts may take longer.
const doubtfulAge = 30 * time.Second

// refillAll sees to it that no job stays parked while its installation has slots: whoever was to run it may have died.
func (s *Server) refillAll(ctx context.Context) error {
	installations, err := s.Redis.SMembers(ctx, keyspace.Parked).Result()
	if err != nil {
		return unavailable(err, "look after parked jobs")
	}
	for _, installation := range installations {
		parked := 0
		for _, class := range job.Classes() {
			left, err := s.refill(ctx, installation, class)
			if err != nil {
				return err
			}
			parked += left
		}
		if parked == 0 {
			// Whoever parks one at this moment tells the set again within seconds, or the jobs that run now let it follow.
			if err := s.Redis.SRem(ctx, keyspace.Parked, installation).Err(); err != nil {
				return unavailable(err, "look after parked jobs")
			}
		}
	}
	return nil
}

// refill returns how many jobs stay parked or hold a slot.
func (s *Server) refill(ctx context.Context, installation string, class job.Class) (int, error) {
	now := s.Now()
	keys := []string{keyspace.Installation(installation).Slots(string(class)), keyspace.Installation(installation).Parked(string(class))}
	answer, err := numbersAndTexts(refillScript.Run(ctx, s.Redis, keys, s.Cap, now.UnixMilli(), keyspace.Installation(installation).Job(""), now.Add(-doubtfulAge).UnixMilli()).Result())
	if err != nil {
		return 0, unavailable(err, "look after parked jobs")
	}
	parked, taken, tasks := answer.numbers[0], answer.numbers[1], answer.numbers[2]
	if err := s.client.run(ctx, installation, class, answer.texts[:tasks]); err != nil {
		return 0, err
	}
	for _, id := range answer.texts[tasks:] {
		if err := s.doubt(ctx, installation, class, id); err != nil {
			return 0, err
		}
	}
	return parked + taken, nil
}

// doubt checks a slot that is old: its task may have been forgotten, or be gone. A task that may still be on its way keeps the slot.
func (s *Server) doubt(ctx context.Context, installation string, class job.Class, id string) error {
	fields := []string{"generation", "state", "opened"}
	found, err := s.Redis.HMGet(ctx, keyspace.Installation(installation).Job(id), fields...).Result()
	if err != nil {
		return unavailable(err, "look after parked jobs")
	}
	read := recordOf(fields, found)
	state, task := job.State(read["state"]), taskID(id, read.number("generation"))
	info, err := s.client.inspector.GetTaskInfo(string(class), task)
	switch {
	case err != nil && !errors.Is(err, asynq.ErrTaskNotFound):
		return unavailable(err, "look after parked jobs")
	case err == nil && (info.State == asynq.TaskStateActive || info.State == asynq.TaskStatePending):
		return nil
	case state.Ended() || state == "":
	case err == nil:
		return s.client.run(ctx, installation, class, []string{task})
	case s.Now().Sub(read.time("opened")) < arrival:
		return nil
	default:
		if over, err := s.lose(ctx, installation, id); err != nil || !over {
			return err
		}
	}
	if err := s.Redis.ZRem(ctx, keyspace.Installation(installation).Slots(string(class)), id).Err(); err != nil {
		return unavailable(err, "look after parked jobs")
	}
	return nil
}
