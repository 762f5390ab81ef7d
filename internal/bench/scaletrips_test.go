package bench

import (
	"context"
	"crypto/sha1" // Redis names its scripts so
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
)

// trips counts the round trips of a client by what they are for: a pipeline is one. It is a hook of go-redis.
type trips struct {
	sources map[string]string // the ledger's scripts, by their end
	mutex   sync.Mutex
	names   map[string]string // of scripts, by their hash
	seen    map[string]int
}

func newTrips(tb testing.TB) *trips {
	tb.Helper()
	t := &trips{sources: map[string]string{}, names: map[string]string{}, seen: map[string]int{}}
	files, err := filepath.Glob("../ledger/lua/*.lua")
	if err != nil || len(files) == 0 {
		tb.Fatalf("the ledger's scripts are not there: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		t.sources[string(text)] = strings.TrimSuffix(filepath.Base(file), ".lua")
	}
	return t
}

func (t *trips) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return next(ctx, network, address)
	}
}

func (t *trips) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		err := next(ctx, command)
		kind := t.kind(command)
		if errors.Is(err, redis.Nil) {
			kind += " of nothing"
		}
		t.count(kind)
		return err
	}
}

func (t *trips) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		err := next(ctx, commands)
		var kinds []string
		for _, command := range commands {
			if kind := t.kind(command); !slices.Contains(kinds, kind) {
				kinds = append(kinds, kind)
			}
		}
		t.count(strings.Join(kinds, "+"))
		return err
	}
}

func (t *trips) count(kind string) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	t.seen[kind]++
}

var called = regexp.MustCompile(`redis\.call\(["'](\w+)["']`)

// kind is what a command is for. Of a script's hash it is known from when the script itself was sent.
func (t *trips) kind(command redis.Cmder) string {
	name := command.Name()
	if name != "eval" && name != "evalsha" {
		return name
	}
	text := fmt.Sprint(command.Args()[1])
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if name == "evalsha" {
		if known := t.names[text]; known != "" {
			return known
		}
		return "script not loaded"
	}
	sum := sha1.Sum([]byte(text))
	t.names[hex.EncodeToString(sum[:])] = t.nameOf(text)
	return t.nameOf(text)
}

// known is the name of a script by its hash, or of the text itself.
func (t *trips) known(text string) string {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if name := t.names[text]; name != "" {
		return name
	}
	return "a script that was just loaded"
}

func (t *trips) nameOf(text string) string {
	for source, name := range t.sources {
		if strings.HasSuffix(text, "\n"+source) && name != "prelude" {
			return name
		}
	}
	if strings.Contains(text, "RPOPLPUSH") {
		return dequeue
	}
	var commands []string
	for _, found := range called.FindAllStringSubmatch(text, -1) {
		if command := strings.ToLower(found[1]); !slices.Contains(commands, command) {
			commands = append(commands, command)
		}
	}
	return "script of " + strings.Join(commands, " ")
}

// dequeue is asynq's script that takes a task.
const dequeue = "asynq's dequeue"

// since gives what was counted since it was called last.
func (t *trips) since() map[string]int {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	seen := maps.Clone(t.seen)
	clear(t.seen)
	return seen
}
