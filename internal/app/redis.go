package app

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/secret"
)

// dialRedis makes a client from a URL; it does not connect yet. The schemes are redis and rediss (one instance),
// redis-sentinel and rediss-sentinel (…?master_name=NAME&addr=HOST:PORT for further sentinels), redis-cluster and
// rediss-cluster (…?addr=HOST:PORT for further nodes). A call to a Redis that hangs ends with its context, which go-redis does
// only where it is told to: Forge waits 5 s for an answer. The URL holds a password, so no error quotes it.
func dialRedis(address secret.Text) (redis.UniversalClient, error) {
	scheme, rest, _ := strings.Cut(address.Reveal(), "://")
	transport, topology, _ := strings.Cut(scheme, "-")
	url := transport + "://" + rest
	switch topology {
	case "":
		if options, err := redis.ParseURL(url); err == nil {
			options.ContextTimeoutEnabled = true
			return redis.NewClient(options), nil
		}
	case "sentinel":
		if options, err := redis.ParseFailoverURL(url); err == nil && options.MasterName != "" {
			options.ContextTimeoutEnabled = true
			return redis.NewFailoverClient(options), nil
		}
	case "cluster":
		if options, err := redis.ParseClusterURL(url); err == nil {
			options.ContextTimeoutEnabled = true
			return redis.NewClusterClient(options), nil
		}
	}
	return nil, errors.New("GITSMITH_REDIS_URL is no Redis URL; write it like redis://user:password@host:6379/0, " +
		"rediss://… for TLS, redis-sentinel://host:26379/0?master_name=NAME or redis-cluster://host:6379?addr=host2:6379")
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
