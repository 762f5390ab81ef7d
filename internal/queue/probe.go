package queue

import (
	"context"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

const (
	probeTimeout = 1500 * time.Millisecond // of one look; /readyz waits 2 s
	probeLife    = time.Second             // for which a look that found all well serves every caller
)

// probe is the last look at Redis.
type probe struct {
	flight singleflight.Group
	well   time.Time // when Redis was last seen to take a write; the flight's alone
}

// probeScript writes a key, as every script of ours and of asynq does: it fails wherever those would. It deletes the key again.
//
// KEYS: the key.
var probeScript = redis.NewScript(`
redis.call('SET', KEYS[1], 1)
return redis.call('DEL', KEYS[1])`)

// Writable reports whether Redis takes scripts that write. One that is full, has become a replica or lacks a permission answers a ping all
// the same, and no job could be queued or taken. The error is an Unavailable fault whose public text says what is wrong.
func (c *Client) Writable(ctx context.Context) error {
	for _, key := range c.probeKeys() {
		if err := probeScript.Run(ctx, c.Redis, []string{key}).Err(); err != nil {
			return fault.Wrapf(fault.Unavailable, err, "%s", whatIsWrong(err))
		}
	}
	return nil
}

// Ready is [Client.Writable] for health checks, which come from several sides and often: callers of the same moment share one look, a
// look that found all well serves for a second, and none takes longer than 1.5 s. A failure is never remembered.
func (c *Client) Ready(ctx context.Context) error {
	// The look is everybody's: it does not end with the caller that happened to be the first.
	looked := c.probe.flight.DoChan("", func() (any, error) {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
		defer cancel()
		return nil, c.look(limited)
	})
	select {
	case <-ctx.Done():
		return unavailable(ctx.Err(), "look at redis")
	case result := <-looked:
		return result.Err
	}
}

// look is Writable unless all was well a moment ago. One runs at a time.
func (c *Client) look(ctx context.Context) error {
	if c.now().Sub(c.probe.well) < probeLife {
		return nil
	}
	err := c.Writable(ctx)
	if err == nil {
		c.probe.well = c.now()
	}
	return err
}

// probeKeys are what a look writes: one key, and on a Cluster one beside each of asynq's queues, which different masters may hold.
func (c *Client) probeKeys() []string {
	if _, cluster := c.Redis.(*redis.ClusterClient); !cluster {
		return []string{keyspace.Writable}
	}
	keys := make([]string, 0, len(queues()))
	for queue := range queues() {
		keys = append(keys, keyspace.WritableOf(queue))
	}
	return keys
}

// refusals are what Redis answers where it is there and does not do as it is asked: the error's first word, and what it means to whoever
// operates it.
var refusals = [...]struct{ code, text string }{
	{"OOM", "redis is full and takes no writes (OOM); give it more memory (maxmemory)"},
	{"READONLY", "redis is a read-only replica (READONLY); GITSMITH_REDIS_URL must lead to the master"},
	{"NOPERM", "the redis user may not run scripts or write the keys (NOPERM); docs/architecture.md lists what it needs"},
	{"ACL failure in script", "the redis user may not run scripts or write the keys (NOPERM); docs/architecture.md lists what it needs"},
	{"The user executing the script", "the redis user may not run scripts or write the keys (NOPERM); docs/architecture.md lists what it needs"},
	{"CLUSTERDOWN", "the redis cluster is down or does not serve every slot (CLUSTERDOWN)"},
	{"LOADING", "redis is still loading its data (LOADING)"},
	{"MASTERDOWN", "redis is a replica that has lost its master (MASTERDOWN)"},
	{"MISCONF", "redis cannot save its data to disk and takes no writes (MISCONF)"},
	{"NOREPLICAS", "redis has too few replicas and takes no writes (NOREPLICAS)"},
	{"BUSY", "redis is busy with a script (BUSY)"},
	{"NOAUTH", "redis asks for a password (NOAUTH); set it in GITSMITH_REDIS_URL"},
	{"WRONGPASS", "redis refuses the user or the password of GITSMITH_REDIS_URL (WRONGPASS)"},
}

// whatIsWrong is the public text of a failed look. Redis before version 7 puts a script's error behind its own words and a dash.
func whatIsWrong(err error) string {
	text := err.Error()
	for _, refusal := range refusals {
		if strings.HasPrefix(text, refusal.code) || strings.Contains(text, "-"+refusal.code+" ") || strings.HasPrefix(text, "ERR "+refusal.code) {
			return refusal.text
		}
	}
	return "redis cannot be reached now"
}
