package app

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/secret"
)

// dialRedis makes a client from a URL; it does not connect yet. The schemes are redis and rediss (one instance),
// redis-sentinel and rediss-sentinel (…?master_name=NAME&addr=HOST:PORT for further sentinels), redis-cluster and
// rediss-cluster (…?addr=HOST:PORT for further nodes). A call to a Redis that hangs ends with its context, which go-redis does
// only where it is told to: Forge waits 5 s for an answer. seen hears of each server before it gets a command. The URL holds a password, so no error quotes it.
func dialRedis(address secret.Text, seen *servers) (redis.UniversalClient, error) {
	scheme, rest, _ := strings.Cut(address.Reveal(), "://")
	transport, topology, _ := strings.Cut(scheme, "-")
	url := transport + "://" + rest
	switch topology {
	case "":
		if options, err := redis.ParseURL(url); err == nil {
			options.ContextTimeoutEnabled, options.OnConnect = true, seen.connected
			return redis.NewClient(options), nil
		}
	case "sentinel":
		if options, err := redis.ParseFailoverURL(url); err == nil && options.MasterName != "" {
			options.ContextTimeoutEnabled, options.OnConnect = true, seen.connected
			return redis.NewFailoverClient(options), nil
		}
	case "cluster":
		if options, err := redis.ParseClusterURL(url); err == nil {
			options.ContextTimeoutEnabled, options.OnConnect = true, seen.connected
			return redis.NewClusterClient(options), nil
		}
	}
	return nil, errors.New("GITSMITH_REDIS_URL is no Redis URL; write it like redis://user:password@host:6379/0, " +
		"rediss://… for TLS, redis-sentinel://host:26379/0?master_name=NAME or redis-cluster://host:6379?addr=host2:6379")
}

// servers are the Redis servers that this process has met, by the ids that each gives itself at its start. One that is new may lack the last
// second of what the one before had answered.
type servers struct {
	mutex sync.Mutex
	known map[string]bool
	first time.Time // when the first was met
	since time.Time
}

// getToKnow is how long a process meets the servers for the first time that have been there all along, as the nodes of a cluster.
const getToKnow = 10 * time.Second

// clocks is by how much the clocks of this machine and of the receivers may differ.
const clocks = 30 * time.Second

// connected is called for each new connection. A server that does not say who it is, or may not, is taken for the one before.
func (s *servers) connected(ctx context.Context, connection *redis.Conn) error {
	info, err := connection.Info(ctx, "server").Result()
	id := fieldOf(info, "run_id")
	if err != nil || id == "" || fieldOf(info, "redis_mode") == "sentinel" {
		return nil //nolint:nilerr // the connection's own commands say what is wrong with it
	}
	uptime, _ := strconv.Atoi(fieldOf(info, "uptime_in_seconds")) // without one, it has just begun
	s.met(id, time.Duration(uptime)*time.Second, time.Now())
	return nil
}

func (s *servers) met(id string, uptime time.Duration, now time.Time) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.known[id] {
		return
	}
	if s.known == nil {
		s.known, s.first = map[string]bool{}, now
	}
	since := now.Add(-uptime)
	if now.Sub(s.first) > getToKnow { // a replica that has become the master may have been there for long
		since = now.Add(clocks)
	}
	s.known[id] = true
	if since.After(s.since) {
		s.since = since
	}
}

// Since is the time before which another server may have answered that a job has run, and this one not know of it.
func (s *servers) Since() time.Time {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.since
}

func fieldOf(info, name string) string {
	_, rest, _ := strings.Cut(info, name+":")
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}

// checkRedis says what is wrong with a Redis that answers but would lose jobs: an eviction policy other than noeviction. A
// Redis that does not let us look is taken as it is.
func checkRedis(ctx context.Context, client redis.UniversalClient) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	settings, err := client.ConfigGet(ctx, "maxmemory-policy").Result()
	if policy := settings["maxmemory-policy"]; err == nil && policy != "" && policy != "noeviction" {
		return fmt.Errorf("redis runs with maxmemory-policy %s and will drop waiting jobs when memory is short; set it to noeviction", policy)
	}
	return nil
}
