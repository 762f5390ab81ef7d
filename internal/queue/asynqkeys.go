package queue

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// asynq trims its archive in one script, which unpacks everything older than 90 days or beyond 10,000 tasks: from about 8,000 ids on, Lua
// refuses, after the script has deleted the tasks. Ours are trimmed before asynq's bounds are reached.
const (
	archiveAge   = 80 * 24 * time.Hour
	archiveSize  = 9_500
	archivePiece = 500 // tasks that one script removes
	lookPiece    = 500 // ids that one sweep looks at in each of a queue's lists
	sampled      = 20  // ids at the head of each list that asynq's own GetQueueInfo reads
	scanPiece    = 1000
)

// lists are where asynq keeps the ids of a queue's tasks, but for the active ones.
var lists = [...]string{"pending", "scheduled", "retry", "archived", "completed"}

func taskPrefix(queue string) string { return listKey(queue, "t") + ":" }

func listKey(queue, list string) string { return "asynq:{" + queue + "}:" + list }

// tend repairs what asynq does not: its archive, and ids whose task is gone.
func (s *Server) tend(ctx context.Context, queue string) error {
	if err := s.trimArchive(ctx, queue); err != nil {
		return err
	}
	for _, list := range lists {
		if err := s.dropOrphans(ctx, queue, list); err != nil {
			return err
		}
	}
	return nil
}

// trimScript removes the oldest tasks of an archive.
//
// KEYS: archived. ARGV: prefix of tasks, Unix time before which a task is too old, how many are kept, how many are removed at most.
// Returns how many were removed.
var trimScript = redis.NewScript(`
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[4])
local excess = math.min(redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[3]), tonumber(ARGV[4]))
if excess > #ids then ids = redis.call('ZRANGE', KEYS[1], 0, excess - 1) end
for _, id in ipairs(ids) do
  redis.call('DEL', ARGV[1] .. id)
  redis.call('ZREM', KEYS[1], id)
end
return #ids`)

func (s *Server) trimArchive(ctx context.Context, queue string) error {
	oldest := s.Now().Add(-archiveAge).Unix()
	for {
		removed, err := trimScript.Run(ctx, s.Redis, []string{listKey(queue, "archived")}, taskPrefix(queue), oldest, archiveSize, archivePiece).Int()
		if err != nil || removed < archivePiece {
			return err
		}
	}
}

// orphanScript finds ids in a list whose task is gone: a task is written and listed in one script, so that there is none on its way.
//
// KEYS: list. ARGV: prefix of tasks, how many ids at the head, and how many from where on. Returns {ids from there on, orphans...}.
var orphanScript = redis.NewScript(`
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' then return {0} end
local range = kind == 'zset' and 'ZRANGE' or 'LRANGE'
local rest = redis.call(range, KEYS[1], ARGV[4], ARGV[4] + ARGV[3] - 1)
local seen, answer = {}, {#rest}
for _, ids in ipairs({redis.call(range, KEYS[1], 0, ARGV[2] - 1), rest}) do
  for _, id in ipairs(ids) do
    if not seen[id] and redis.call('HEXISTS', ARGV[1] .. id, 'msg') == 0 then answer[#answer + 1] = id end
    seen[id] = true
  end
end
return answer`)

// dropScript removes ids from a list, but for those that have a task again.
//
// KEYS: list. ARGV: prefix of tasks, then the ids.
var dropScript = redis.NewScript(`
local zset = redis.call('TYPE', KEYS[1]).ok == 'zset'
for i = 2, #ARGV do
  if redis.call('HEXISTS', ARGV[1] .. ARGV[i], 'msg') == 0 then
    if zset then redis.call('ZREM', KEYS[1], ARGV[i]) else redis.call('LREM', KEYS[1], 0, ARGV[i]) end
    redis.call('DEL', ARGV[1] .. ARGV[i])
  end
end`)

// dropOrphans looks at a list's head, which asynq's inspector fails on, and at a further part of it at each sweep. What it finds is noted
// before it leaves the list: a worker that dies in between leaves both to the next sweep.
func (s *Server) dropOrphans(ctx context.Context, queue, list string) error {
	key := listKey(queue, list)
	answer, err := texts(orphanScript.Run(ctx, s.Redis, []string{key}, taskPrefix(queue), sampled, lookPiece, s.looked[key]).Result())
	if err != nil {
		return err
	}
	s.looked[key] += lookPiece
	if looked, err := strconv.Atoi(answer[0]); err != nil || looked < lookPiece {
		s.looked[key] = 0
	}
	orphans := answer[1:]
	if len(orphans) == 0 {
		return nil
	}
	s.Logger.ErrorContext(ctx, "tasks are gone from Redis although their ids are listed; the ids are put into quarantine, and the jobs end as failed",
		slog.String("queue", queue), slog.String("list", list), slog.Int("count", len(orphans)))
	if list != "archived" && list != "completed" { // those jobs have ended
		if err := s.noteLost(ctx, orphans...); err != nil {
			return err
		}
	}
	aside, arguments := make([]any, len(orphans)), []any{taskPrefix(queue)}
	for i, id := range orphans {
		aside[i] = queue + " " + id + " "
		arguments = append(arguments, id)
	}
	if err := dropScript.Run(ctx, s.Redis, []string{key}, arguments...).Err(); err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	return s.putAside(ctx, aside...)
}

// noteLost makes this sweep and the following ones end the jobs of the tasks.
func (s *Server) noteLost(ctx context.Context, tasks ...string) error {
	jobs := make([]any, len(tasks))
	for i, task := range tasks {
		jobs[i] = jobOf(task)
	}
	return s.Redis.SAdd(ctx, keyspace.Lost, jobs...).Err()
}

// endLost ends the jobs that have lost their task. Their note in Redis goes when they have ended: a search may fail, and an attempt that is
// under way may put its job off, which nothing would take up again. A note is the job's id, and once that is found its installation too.
func (s *Server) endLost(ctx context.Context) error {
	noted, err := s.Redis.SMembers(ctx, keyspace.Lost).Result()
	if err != nil || len(noted) == 0 {
		return err
	}
	wanted, found := map[string]bool{}, map[string]bool{}
	for _, note := range noted {
		if strings.Contains(note, " ") {
			found[note] = true
		} else {
			wanted[note] = true
		}
	}
	if len(wanted) > 0 {
		if err := s.search(ctx, wanted, found); err != nil {
			return err
		}
	}
	var left []any
	for note := range found {
		id, installation, _ := strings.Cut(note, " ")
		over, err := s.lose(ctx, installation, id)
		if err != nil {
			return err
		}
		if !over {
			left = append(left, note)
		}
	}
	pipeline := s.Redis.TxPipeline()
	pipeline.SRem(ctx, keyspace.Lost, noted)
	if len(left) > 0 {
		pipeline.SAdd(ctx, keyspace.Lost, left...)
	}
	_, err = pipeline.Exec(ctx)
	return err
}

// search finds the jobs that are wanted, with their installations. Nothing but the lost task said whose it was, so all records are looked through, which is rare and
// done in small pieces.
func (s *Server) search(ctx context.Context, wanted, found map[string]bool) error {
	var mutex sync.Mutex // masters of a cluster are searched at the same time
	searchOne := func(ctx context.Context, node redis.Cmdable) error {
		for cursor := uint64(0); ; {
			keys, next, err := node.Scan(ctx, cursor, keyspace.Installation("*").Job("*"), scanPiece).Result()
			if err != nil {
				return err
			}
			mutex.Lock()
			for _, key := range keys {
				if installation, id := keyspace.JobOf(key); wanted[id] {
					found[id+" "+installation] = true
				}
			}
			mutex.Unlock()
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	if cluster, ok := s.Redis.(*redis.ClusterClient); ok {
		return cluster.ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error { return searchOne(ctx, node) })
	}
	return searchOne(ctx, s.Redis)
}

// lose ends a job whose task is gone, and with it what the job was to do. It reports whether nothing is left to do: an attempt that is under
// way ends by itself, unless its worker is gone too. A batch queues a repository's first run again.
func (s *Server) lose(ctx context.Context, installation, id string) (over bool, err error) {
	found, err := s.Redis.HGetAll(ctx, keyspace.Installation(installation).Job(id)).Result()
	if err != nil {
		return false, unavailable(err, "look for a lost job")
	}
	read := record(found)
	state, generation, class := job.State(read["state"]), read.number("generation"), job.Class(read["class"])
	switch {
	case state == "" || state.Ended():
		return true, nil
	case state == job.Running && s.Now().Sub(read.time("started")) < s.config.JobTimeout+stopMargin:
		return false, nil
	case state == job.Queued && generation == 0 && read["batch"] != "":
		return true, nil
	}
	_, err = s.client.inspector.GetTaskInfo(string(class), taskID(id, generation))
	switch {
	case err == nil:
		return true, nil // it was queued again
	case !errors.Is(err, asynq.ErrTaskNotFound):
		return false, unavailable(err, "look for a lost job")
	}
	lost := &run{
		job:     job.Job{ID: id, Installation: installation, Class: class, Generation: generation, CreatedAt: read.time("created")},
		opening: opening{fence: cmp.Or(read["active"], "none")}, // an attempt that has begun since has its task
	}
	if read["batch"] != "" {
		lost.job.Batch = job.BatchRef{ID: read["batch"], Item: read.number("item")}
	}
	_, err = s.write(ctx, lost, outcome{
		state: job.Failed, counted: true, kind: fault.Unavailable, detail: "redis lost what this job was to do, so it cannot run; ask for it again",
	}, job.Result{})
	return err == nil, err
}
