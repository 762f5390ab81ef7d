package queuetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// Topology is several servers that are one Redis to its clients.
type Topology struct {
	// Redis is what they are together: its URL, and a client that finds its way.
	*Redis
	Nodes []*Redis // the servers that hold data

	sentinels []*redis.SentinelClient
}

const (
	masterName  = "gitsmith"
	nodeTimeout = 2 * time.Second  // until a server that does not answer is taken for dead
	formTimeout = 60 * time.Second // until servers have found each other
)

// StartSentinel runs a master, a replica and three sentinels for tb.
func StartSentinel(tb testing.TB) *Topology {
	tb.Helper()
	master := start(tb, false)
	host, port, _ := net.SplitHostPort(master.Addr) // it was joined from the two
	t := &Topology{Nodes: []*Redis{master, start(tb, false, "--replicaof", host+" "+port)}}
	query := url.Values{"master_name": {masterName}}
	var addrs []string
	for range 3 {
		addr := startSentinel(tb, host, port)
		addrs = append(addrs, addr)
		sentinel := redis.NewSentinelClient(&redis.Options{Addr: addr})
		tb.Cleanup(func() { _ = sentinel.Close() })
		t.sentinels = append(t.sentinels, sentinel)
	}
	query["addr"] = addrs[1:]
	client := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: masterName, SentinelAddrs: addrs})
	tb.Cleanup(func() { _ = client.Close() })
	t.Redis = &Redis{URL: "redis-sentinel://" + addrs[0] + "/0?" + query.Encode(), tb: tb, dial: func() redis.UniversalClient { return client }}
	t.form("the sentinels know each other and the replica", func(ctx context.Context) error {
		for _, sentinel := range t.sentinels {
			others, err := sentinel.Sentinels(ctx, masterName).Result()
			if err != nil || len(others) < 2 {
				return fmt.Errorf("%d sentinels, %w", len(others), err)
			}
			if replicas, err := sentinel.Replicas(ctx, masterName).Result(); err != nil || len(replicas) < 1 {
				return fmt.Errorf("%d replicas, %w", len(replicas), err)
			}
		}
		return t.synced(ctx)
	})
	return t
}

func startSentinel(tb testing.TB, host, port string) string {
	tb.Helper()
	dir := tb.TempDir()
	for range portAttempts {
		addr := freeAddr()
		_, own, _ := net.SplitHostPort(addr)
		file := filepath.Join(dir, "sentinel.conf")
		text := fmt.Sprintf("bind %s\nport %s\ndir %s\nsentinel monitor %s %s %s 2\nsentinel down-after-milliseconds %[4]s %[7]d\nsentinel failover-timeout %[4]s 10000\n",
			host, own, dir, masterName, host, port, nodeTimeout.Milliseconds())
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			tb.Fatal(err)
		}
		started, err := startProcess(filepath.Join(dir, "log"), []string{file, "--sentinel"})
		if err != nil {
			tb.Fatal(err)
		}
		if started.await(addr) == nil {
			tb.Cleanup(started.stop)
			return addr
		}
		started.stop()
	}
	tb.Fatal("queuetest: no sentinel started")
	return ""
}

// Master is the server that takes writes, as the sentinels know it.
func (t *Topology) Master(ctx context.Context) (*Redis, error) {
	for _, sentinel := range t.sentinels {
		addr, err := sentinel.GetMasterAddrByName(ctx, masterName).Result()
		if err != nil {
			return nil, err
		}
		for _, node := range t.Nodes {
			if len(addr) == 2 && node.Addr == net.JoinHostPort(addr[0], addr[1]) {
				return node, nil
			}
		}
	}
	return nil, errors.New("no master is known")
}

// HandOver makes the replica the master, and the master, which lives, a replica that refuses writes.
func (t *Topology) HandOver(ctx context.Context) error {
	return t.sentinels[0].Failover(ctx, masterName).Err()
}

// Sync waits until every server is there and has what its master has.
func (t *Topology) Sync() {
	t.tb.Helper()
	t.form("the replicas are in sync", t.synced)
}

func (t *Topology) synced(ctx context.Context) error {
	for _, node := range t.Nodes {
		info, err := replication(ctx, node)
		if err != nil {
			return err
		}
		if strings.Contains(info, "role:slave") && !strings.Contains(info, "master_link_status:up") || strings.Contains(info, "role:master") && !strings.Contains(info, "state=online") {
			return fmt.Errorf("%s: %s", node.Addr, info)
		}
	}
	return nil
}

func replication(ctx context.Context, node *Redis) (string, error) {
	client := redis.NewClient(&redis.Options{Addr: node.Addr, MaxRetries: -1})
	defer client.Close() //nolint:errcheck // nothing is buffered
	return client.Info(ctx, "replication").Result()
}

func (t *Topology) form(what string, try func(ctx context.Context) error) {
	t.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), formTimeout)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return
		}
		if pause(ctx) != nil {
			t.tb.Fatalf("queuetest: %s: %v", what, err)
		}
	}
}

// StartMasters runs a Redis Cluster of three masters, which share the slots, and a replica of each.
func StartMasters(tb testing.TB) *Topology {
	tb.Helper()
	t := &Topology{}
	var addrs []string
	for range 6 {
		node := start(tb, true, "--cluster-node-timeout", fmt.Sprint(nodeTimeout.Milliseconds()))
		t.Nodes, addrs = append(t.Nodes, node), append(addrs, node.Addr)
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: addrs})
	tb.Cleanup(func() { _ = client.Close() })
	query := url.Values{"addr": addrs[1:]}
	t.Redis = &Redis{URL: "redis-cluster://" + addrs[0] + "?" + query.Encode(), tb: tb, cluster: true, dial: func() redis.UniversalClient { return client }}
	ctx, clients, ids := tb.Context(), make([]*redis.Client, len(t.Nodes)), make([]string, len(t.Nodes))
	for i, node := range t.Nodes {
		clients[i] = redis.NewClient(&redis.Options{Addr: node.Addr})
		defer clients[i].Close() //nolint:errcheck // nothing is buffered
		host, port, _ := net.SplitHostPort(t.Nodes[0].Addr)
		if err := clients[i].ClusterMeet(ctx, host, port).Err(); err != nil {
			tb.Fatal(err)
		}
		ids[i] = clients[i].ClusterMyID(ctx).Val()
	}
	for i, from := range []int{0, 5461, 10923} {
		if err := clients[i].ClusterAddSlotsRange(ctx, from, []int{5460, 10922, 16383}[i]).Err(); err != nil {
			tb.Fatal(err)
		}
	}
	for i := range 3 {
		t.form("a replica knows its master", func(ctx context.Context) error { return clients[3+i].ClusterReplicate(ctx, ids[i]).Err() })
	}
	t.form("the cluster is whole", func(ctx context.Context) error {
		for _, each := range clients {
			info, err := each.ClusterInfo(ctx).Result()
			if err != nil || !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_known_nodes:6") {
				return fmt.Errorf("%s, %w", info, err)
			}
		}
		return t.synced(ctx)
	})
	return t
}

// OwnerOf is the master that has a key's slot.
func (t *Topology) OwnerOf(ctx context.Context, key string) (*Redis, error) {
	client, err := t.Client().(*redis.ClusterClient).MasterForKey(ctx, key)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(t.Nodes, func(node *Redis) bool { return node.Addr == client.Options().Addr })
	if at < 0 {
		return nil, fmt.Errorf("%s is no node", client.Options().Addr)
	}
	return t.Nodes[at], nil
}

// Move moves slots from their master to another one, as redis-cli's reshard does.
func (t *Topology) Move(ctx context.Context, slots []int, from, to *Redis) error {
	source, target := redis.NewClient(&redis.Options{Addr: from.Addr}), redis.NewClient(&redis.Options{Addr: to.Addr})
	defer source.Close() //nolint:errcheck // nothing is buffered
	defer target.Close() //nolint:errcheck // nothing is buffered
	sourceID, targetID := source.ClusterMyID(ctx).Val(), target.ClusterMyID(ctx).Val()
	host, port, _ := net.SplitHostPort(to.Addr)
	for _, slot := range slots {
		if err := target.Do(ctx, "CLUSTER", "SETSLOT", slot, "IMPORTING", sourceID).Err(); err != nil {
			return err
		}
		if err := source.Do(ctx, "CLUSTER", "SETSLOT", slot, "MIGRATING", targetID).Err(); err != nil {
			return err
		}
		for {
			keys, err := source.ClusterGetKeysInSlot(ctx, slot, 100).Result()
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				break
			}
			migrate := []any{"MIGRATE", host, port, "", 0, 5000, "KEYS"}
			for _, key := range keys {
				migrate = append(migrate, key)
			}
			if err := source.Do(ctx, migrate...).Err(); err != nil {
				return err
			}
		}
		for _, node := range []*redis.Client{target, source} {
			if err := node.Do(ctx, "CLUSTER", "SETSLOT", slot, "NODE", targetID).Err(); err != nil {
				return err
			}
		}
	}
	return nil
}
