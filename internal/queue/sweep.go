package queue

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
)

const (
	maxQuarantine = 100
	givenLease    = time.Minute // to an active task that has none
)

// sweep mends, until ctx ends, what asynq leaves lying: an active task that cannot be decoded stops the recovery of all others
// (asynq's pull request 1140), and an active task without a lease is never recovered (asynq's issue 1144).
func (s *Server) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.sweepAll(ctx)
		}
	}
}

// sweepAll names the queues first: of a queue that is not named asynq says that it has no tasks.
func (s *Server) sweepAll(ctx context.Context) {
	s.sweeping.Lock()
	defer s.sweeping.Unlock()
	if err := s.client.Renew(ctx); err != nil {
		if s.life.Err() == nil {
			s.Logger.WarnContext(ctx, "the queues could not be swept", slog.String("error", err.Error()))
		}
		return
	}
	if err := s.refillAll(ctx); err != nil && s.life.Err() == nil {
		s.Logger.WarnContext(ctx, "parked jobs could not be looked after", slog.String("error", err.Error()))
	}
	for queue := range classes() {
		if err := errors.Join(s.sweepQueue(ctx, queue), s.tend(ctx, queue)); err != nil && s.life.Err() == nil {
			s.Logger.WarnContext(ctx, "a queue could not be swept", slog.String("queue", queue), slog.String("error", err.Error()))
		}
	}
	if err := s.endLost(ctx); err != nil && s.life.Err() == nil {
		s.Logger.WarnContext(ctx, "jobs whose tasks are lost could not be ended; the next sweep tries again", slog.String("error", err.Error()))
	}
}

// leaseScript gives every active task a lease and takes leases away that are nobody's.
//
// KEYS: active, lease. ARGV: when a given lease runs out, in Unix seconds. Returns the ids of the active tasks.
var leaseScript = redis.NewScript(`
local ids, active = redis.call('LRANGE', KEYS[1], 0, -1), {}
for _, id in ipairs(ids) do
  active[id] = true
  if not redis.call('ZSCORE', KEYS[2], id) then redis.call('ZADD', KEYS[2], ARGV[1], id) end
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if not active[id] then redis.call('ZREM', KEYS[2], id) end
end
return ids`)

func (s *Server) sweepQueue(ctx context.Context, queue string) error {
	expires := time.Now().Add(givenLease).Unix() // asynq reads leases by the machine's clock
	ids, err := leaseScript.Run(ctx, s.Redis, activeKeys(queue), expires).StringSlice()
	if err != nil {
		return err
	}
	for _, id := range ids {
		info, err := s.client.inspector.GetTaskInfo(queue, id)
		if isBroken(info, id, err) {
			err = s.quarantine(ctx, queue, id, errors.Is(err, asynq.ErrTaskNotFound))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func activeKeys(queue string) []string {
	return []string{listKey(queue, "active"), listKey(queue, "lease")}
}

// isBroken tells a task that nobody can ever read, or whose content is gone, from a Redis that is away. asynq has no error for
// the first, only a text; should it change, tasks stay where they are and the test says so.
func isBroken(info *asynq.TaskInfo, id string, err error) bool {
	if err == nil {
		return info.ID != id // it decodes by chance
	}
	return errors.Is(err, asynq.ErrTaskNotFound) || strings.Contains(err.Error(), "could not decode task message")
}

// quarantineScript takes a task out of its queue's active ones.
//
// KEYS: active, lease, task. ARGV: id, "1" where it has no content. Returns the message it held, or nil where it is not active
// any more or has its content.
var quarantineScript = redis.NewScript(`
if ARGV[2] == '1' and redis.call('EXISTS', KEYS[3]) == 1 then return false end
if redis.call('LREM', KEYS[1], 0, ARGV[1]) == 0 then return false end
local message = redis.call('HGET', KEYS[3], 'msg') or ''
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('DEL', KEYS[3])
return message`)

// quarantine puts a task that asynq cannot read aside, where an operator finds it, and lets the queue go on.
func (s *Server) quarantine(ctx context.Context, queue, id string, empty bool) error {
	if err := s.noteLost(ctx, id); err != nil {
		return err
	}
	keys := append(activeKeys(queue), taskPrefix(queue)+id)
	message, err := quarantineScript.Run(ctx, s.Redis, keys, id, empty).Text()
	if errors.Is(err, redis.Nil) {
		return nil
	}
	if err != nil {
		return err
	}
	s.Logger.ErrorContext(ctx, "a task in Redis is damaged and is put into quarantine", slog.String("queue", queue), slog.String("task", id))
	return s.putAside(ctx, queue+" "+id+" "+message)
}

// putAside adds to what operators find in quarantine: queue, task and what it held.
func (s *Server) putAside(ctx context.Context, tasks ...any) error {
	pipeline := s.Redis.TxPipeline()
	pipeline.LPush(ctx, keyspace.Quarantine, tasks...)
	pipeline.LTrim(ctx, keyspace.Quarantine, 0, maxQuarantine-1)
	_, err := pipeline.Exec(ctx)
	return err
}
