package queue

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

const (
	sweepInterval = 15 * time.Second
	maxQuarantine = 100
)

// sweep mends, until ctx ends, what asynq leaves lying: an active task that cannot be decoded stops the recovery of all others
// in its queue (asynq's pull request 1140), and an active task without a lease is never recovered (asynq's issue 1144).
func (s *Server) sweep(ctx context.Context) {
	for tick := time.NewTicker(sweepInterval); ; {
		for queue := range classes() {
			if err := s.sweepQueue(ctx, queue); err != nil && ctx.Err() == nil {
				s.Logger.WarnContext(ctx, "a queue could not be swept", slog.String("queue", queue), slog.String("error", err.Error()))
			}
		}
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}

func (s *Server) sweepQueue(ctx context.Context, queue string) error {
	active, lease := "asynq:{"+queue+"}:active", "asynq:{"+queue+"}:lease"
	ids, err := s.Redis.LRange(ctx, active, 0, -1).Result()
	if err != nil {
		return err
	}
	for _, id := range ids {
		_, err := s.client.inspector.GetTaskInfo(queue, id)
		switch {
		case errors.Is(err, asynq.ErrQueueNotFound):
			continue
		case err == nil:
			// A lease that is missing is given, and runs out: then asynq recovers the task. NX leaves one that is there.
			err = s.Redis.ZAddNX(ctx, lease, redis.Z{Score: float64(s.Now().Add(time.Minute).Unix()), Member: id}).Err()
		case ctx.Err() != nil || isNetwork(ctx, s.Redis):
			return err
		default:
			err = s.quarantine(ctx, queue, id, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// isNetwork tells a Redis that is away from a task that is broken.
func isNetwork(ctx context.Context, client redis.UniversalClient) bool {
	return client.Ping(ctx).Err() != nil
}

// quarantineScript takes a task out of its queue's active ones.
//
// KEYS: active, lease. ARGV: id.
var quarantineScript = redis.NewScript(`
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('LREM', KEYS[1], 0, ARGV[1])`)

// quarantine puts a task that asynq cannot read aside, where an operator finds it, and lets the queue go on.
func (s *Server) quarantine(ctx context.Context, queue, id string, cause error) error {
	key := "asynq:{" + queue + "}:t:" + id
	message, err := s.Redis.HGet(ctx, key, "msg").Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	s.Logger.ErrorContext(ctx, "a task in Redis is damaged and is put into quarantine", slog.String("queue", queue),
		slog.String("task", id), slog.String("error", cause.Error()))
	if err := s.Redis.LPush(ctx, quarantineKey, queue+" "+id+" "+message).Err(); err != nil {
		return err
	}
	if err := s.Redis.LTrim(ctx, quarantineKey, 0, maxQuarantine-1).Err(); err != nil {
		return err
	}
	if err := s.Redis.Del(ctx, key).Err(); err != nil {
		return err
	}
	return quarantineScript.Run(ctx, s.Redis, []string{"asynq:{" + queue + "}:active", "asynq:{" + queue + "}:lease"}, id).Err()
}
