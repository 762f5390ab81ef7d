package dispatch

import (
	"context"
	"crypto/sha1" // what Redis names scripts by
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

// bug is a piece of a script and what is there instead.
type bug struct{ correct, wrong string }

// planted are bugs that the model has to find.
var planted = map[string]bug{
	"a second attempt begins beside one that runs": {"if active == have[6] .. '-' .. attempt then return", "if true then return"},
	"a given-up attempt ends the job":              {"if fence ~= '' and have[3] ~= fence and state ~= 'succeeded' then return {'over'} end", ""},
	"a job that is put off keeps its slot":         {"redis.call('ZREM', root .. key_held .. class, id)\n  if state == 'waiting' then", "if state == 'waiting' then"},
	"a renewed lease lapses all the same":          {"redis.call('HSET', record, 'lease', now + lease)\nredis.call('ZADD', root .. key_due, now + lease, id)", ""},
	"promotion is by the cap, not by free slots":   {"math.min(free, cap - redis.call('ZCARD', held))", "math.min(free, cap)"},
	"a ticket of an earlier run begins":            {"if have[1] ~= generation or is_ended(state) or state == 'waiting' then", "if is_ended(state) or state == 'waiting' then"},
	"a wake during the attempt is forgotten":       {"if state == 'waiting' and (redis.call('GET', root .. key_wakes) or '') ~= wakes then", "if false then"},
	"a repository is in two states":                {"if not from or redis.call('ZREM', batch .. ':' .. from, item) == 0 then", "if not from then"},
	"a silent job that was to stop begins again":   {"if have[3] and have[3] == have[4] then\n    redis.call('HSET', record, 'state', 'canceled'", "if false then\n    redis.call('HSET', record, 'state', 'canceled'"},
	"a lost ticket is not issued again":            {"local lost = redis.call('ZRANGEBYSCORE', held, '-inf', before, 'LIMIT', 0, 100)", "local lost = {}"},
	"an ended job is canceled":                     {"if is_ended(state) then return {state} end", ""},
	"leases are judged though Redis was away":      {"elseif state == 'running' and judge == '1' then", "elseif state == 'running' then"},
	"a retry begins before its time":               {"if state == 'retrying' and due and tonumber(due) > now then", "if false then"},
	"a job of a canceled batch begins":             {"if batch_canceled(root, have[12]) then", "if false then"},
}

// The processes of a house.
const (
	receiver = iota
	firstWorker
	secondWorker
	firstLooker
	secondLooker
	processes
)

// house is what plays one after another share: a Redis, and processes with a connection each.
type house struct {
	processes [processes]*process
	auditor   *redis.Client
	ring      *secret.Keyring
	bug       *bug
	changed   atomic.Bool // a script was run that has the bug
	steps     int
	plays     int
}

func newHouse(tb testing.TB, bug *bug) *house {
	tb.Helper()
	server := queuetest.Start(tb)
	h := &house{ring: testkit.Keyring(tb, "a", 1), bug: bug}
	connect := func() *redis.Client {
		client := redis.NewClient(&redis.Options{Addr: server.Addr, PoolSize: 2, ReadTimeout: -1, WriteTimeout: -1, MaxRetries: -1})
		tb.Cleanup(func() { _ = client.Close() })
		return client
	}
	h.auditor = connect()
	for i := range h.processes {
		h.processes[i] = &process{client: connect()}
		if bug != nil {
			h.processes[i].client.AddHook(&planter{house: h, shas: map[string]string{}})
		}
		h.processes[i].client.AddHook(&h.processes[i].fuse)
	}
	return h
}

// empty is a Redis without keys, and processes that have just begun.
func (h *house) empty(w *world) {
	if err := h.auditor.FlushDB(w.ctx).Err(); err != nil {
		w.fatalf("flush: %v", err)
	}
	for _, p := range h.processes {
		p.start(w)
	}
}

// process is what has a connection to Redis and can die between any two commands.
type process struct {
	client  *redis.Client
	fuse    fuse
	ledger  *ledger.Ledger
	batches *ledger.Batches
}

// start begins the process anew.
func (p *process) start(w *world) {
	p.fuse.left.Store(noFuse)
	p.fuse.before.Store(0)
	p.ledger = ledger.New(ledger.Options{Redis: p.client, Keyring: w.ring, Cap: slots, Now: w.clock, Retention: 48 * time.Hour})
	p.batches = ledger.NewBatches(ledger.BatchOptions{Redis: p.client, Keyring: w.ring, Ledger: p.ledger, Now: w.clock})
}

// fuse lets so many commands pass, and then fails every later one. Where late is set, the first of them reaches Redis, and its answer is lost.
type fuse struct {
	left    atomic.Int64
	late    bool
	before  atomic.Int64 // so many commands
	between func()       // this is called
}

// meet has something happen before one of the next commands.
func (f *fuse) meet(commands int, between func()) {
	f.between = between
	f.before.Store(int64(commands))
}

const (
	noFuse = 1 << 40
	blown  = -1 << 40
)

var errDead = errors.New("the process is dead")

func (f *fuse) isBlown() bool { return f.left.Load() < 0 }

func (*fuse) DialHook(next redis.DialHook) redis.DialHook { return next }

func (f *fuse) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		if f.before.Add(-1) == 0 {
			f.between()
		}
		switch left := f.left.Add(-1); {
		case left >= 0:
			return next(ctx, command)
		case left == -1 && f.late:
			_ = next(ctx, command)
		}
		f.left.Store(blown)
		command.SetErr(errDead)
		return errDead
	}
}

func (f *fuse) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		switch left := f.left.Add(-1); {
		case left >= 0:
			return next(ctx, commands)
		case left == -1 && f.late:
			_ = next(ctx, commands)
		}
		f.left.Store(blown)
		for _, command := range commands {
			command.SetErr(errDead)
		}
		return errDead
	}
}

// planter puts the bug into the scripts on their way to Redis.
type planter struct {
	*house
	shas map[string]string // of a script with the bug, by that of the correct one
}

func (*planter) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*planter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (k *planter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		args := command.Args()
		switch command.Name() {
		case "evalsha":
			if sha, has := k.shas[args[1].(string)]; has {
				args[1] = sha
				k.changed.Store(true)
			}
		case "eval":
			source := args[1].(string)
			if wrong := strings.ReplaceAll(source, k.bug.correct, k.bug.wrong); wrong != source {
				args[1] = wrong
				k.shas[shaOf(source)] = shaOf(wrong)
				k.changed.Store(true)
			}
		}
		return next(ctx, command)
	}
}

func shaOf(script string) string {
	sum := sha1.Sum([]byte(script))
	return hex.EncodeToString(sum[:])
}

// carrier carries tickets, as badly as the steps have it do.
type carrier struct {
	world    *world
	tickets  []*carried
	paused   map[job.Class]bool
	broken   bool
	instance string
}

type carried struct {
	ledger.Ticket
	at  time.Time // when it was issued
	due time.Time // when workers may have it
}

func (c *carrier) Issue(_ context.Context, tickets []ledger.Ticket) error {
	if c.broken && len(tickets) > 0 {
		return fault.Newf(fault.Unavailable, "the tickets are lost")
	}
	for _, t := range tickets {
		c.world.note("ticket %s", t.ID())
		if !slices.ContainsFunc(c.tickets, func(other *carried) bool { return other.ID() == t.ID() }) { // as asynq does
			c.tickets = append(c.tickets, &carried{t, c.world.now, c.world.now})
		}
	}
	return nil
}

// Backlog measures ages with a clock of its own, as asynq does.
func (c *carrier) Backlog(context.Context) (ledger.Backlog, error) {
	backlog := ledger.Backlog{}
	for _, class := range job.Classes() {
		if !c.paused[class] {
			backlog[class] = c.oldest(class)
		}
	}
	return backlog, nil
}

// oldest is the age of the oldest ticket that workers may have.
func (c *carrier) oldest(class job.Class) time.Duration {
	oldest := time.Duration(0)
	for _, t := range c.tickets {
		if t.Class == class && !t.due.After(c.world.now) {
			oldest = max(oldest, c.world.now.Sub(t.due))
		}
	}
	return oldest
}

// has reports whether a ticket of the run is on its way.
func (c *carrier) has(id string, generation int) bool {
	return slices.ContainsFunc(c.tickets, func(t *carried) bool { return t.Job == id && t.Generation == generation })
}

// ready are the tickets that a worker may take now.
func (c *carrier) ready() []*carried {
	var ready []*carried
	for _, t := range c.tickets {
		if !c.paused[t.Class] && !t.due.After(c.world.now) {
			ready = append(ready, t)
		}
	}
	return ready
}

func (c *carrier) drop(t *carried) {
	c.tickets = slices.DeleteFunc(c.tickets, func(other *carried) bool { return other == t })
}

func (c *carrier) Repair(context.Context) error             { return nil }
func (c *carrier) Adopt(context.Context) error              { return nil }
func (c *carrier) Instance(context.Context) (string, error) { return c.instance, nil }
