package bench

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// kept is what a Redis holds.
type kept struct {
	all   int64            // used_memory without buffers of connections and of the append-only file
	kinds map[string]int64 // MEMORY USAGE of the keys, by kind
	count map[string]int
}

// batchMemory is what a batch takes of Redis: while nobody has begun with it, and after its end. Nobody but the receiver is connected
// when it is looked at.
func (f *fleet) batchMemory() Table {
	f.tb.Helper()
	f.reset(false)
	before := f.kept()
	id := f.ask(f.batchRequest()).ID
	waits := f.kept()
	worker, log := f.startWorker(f.root + "/tips")
	defer worker.stop()
	f.awaitBatch(id, log)
	worker.stop()
	ended := f.kept()
	f.check()
	f.checkTrailers(id)

	n := int64(len(f.all))
	table := Table{
		Title: "Redis memory for a repository of the batch",
		Note: "Bytes for each repository: used_memory without the buffers of connections and of the append-only file, and MEMORY USAGE of the keys by kind.\n" +
			"Waiting: no repository has begun. The tasks of asynq are kept for an hour after a success, the records as long as the batch.",
		Header: []string{"keys", "waiting", "ended", "keys at the end"},
		Rows:   [][]string{{"all", fmt.Sprint((waits.all - before.all) / n), fmt.Sprint((ended.all - before.all) / n), ""}},
	}
	kinds := slices.SortedFunc(maps.Keys(ended.kinds), func(a, b string) int {
		return int(ended.kinds[b] - before.kinds[b] - ended.kinds[a] + before.kinds[a])
	})
	for _, kind := range kinds {
		atFirst, atLast := waits.kinds[kind]-before.kinds[kind], ended.kinds[kind]-before.kinds[kind]
		if max(atFirst, atLast) >= n {
			table.Rows = append(table.Rows, []string{kind, fmt.Sprint(atFirst / n), fmt.Sprint(atLast / n), fmt.Sprint(ended.count[kind] - before.count[kind])})
		}
	}
	return table
}

var (
	installationTag = regexp.MustCompile(`^gitsmith:\{[^}]*\}:`)
	ownName         = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|:\d+$|\{[^}]*\}|[0-9a-f]{40,}|` + Workspace + `/[^:]*`)
)

// kindOf is a key without what is its own.
func kindOf(key string) string {
	return ownName.ReplaceAllString(installationTag.ReplaceAllString(key, ""), "…")
}

func (f *fleet) kept() kept {
	f.tb.Helper()
	ctx := f.tb.Context()
	read := kept{kinds: map[string]int64{}, count: map[string]int{}}
	info, err := f.redis.Info(ctx, "memory").Result()
	if err != nil {
		f.tb.Fatal(err)
	}
	number := func(name string) (n int64) {
		_, rest, _ := strings.Cut(info, "\n"+name+":")
		if _, err := fmt.Sscan(rest, &n); err != nil {
			f.tb.Fatalf("%s: %v in %s", name, err, info)
		}
		return n
	}
	read.all = number("used_memory") - number("mem_clients_normal") - number("mem_aof_buffer")
	var keys []string
	for each := f.redis.Scan(ctx, 0, "*", 1000).Iterator(); each.Next(ctx); {
		keys = append(keys, each.Val())
	}
	pipeline := f.redis.Pipeline()
	sizes := make([]*redis.IntCmd, len(keys))
	for i, key := range keys {
		sizes[i] = pipeline.MemoryUsage(ctx, key, 0)
	}
	_, _ = pipeline.Exec(ctx) // a key may have run out meanwhile
	for i, key := range keys {
		read.kinds[kindOf(key)] += sizes[i].Val()
		read.count[kindOf(key)]++
	}
	return read
}
