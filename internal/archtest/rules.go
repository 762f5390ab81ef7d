// Package archtest holds the drawing of docs/architecture.md as rules, and checks a graph of packages against them. Its tests
// check the real one. A new package, arrow or library is drawn here.
package archtest

import (
	"fmt"
	"slices"
	"strings"
)

// Module is the path that every package of ours begins with.
const Module = "github.com/gitsmith/gitsmith/"

// Package is one package as `go list -json` describes it.
type Package struct {
	ImportPath string
	Imports    []string // of the package itself, not of its tests
	Deps       []string // whatever it imports, directly or not
}

// layers, from the bottom up. A room imports what lies below its own layer, never a neighbour.
var layers = [][]string{
	{"internal/fault", "internal/secret", "internal/keyspace", "internal/packstream", "internal/tipcache", "internal/pipeline", "deploy/rules", "deploy/forge/app/bridge"},
	{"internal/telemetry", "internal/expression", "internal/glob"},
	{"internal/config", "internal/edit", "internal/forge", "internal/bitbucket"},
	{"internal/job"},
	{"internal/installation", "internal/rule", "internal/budget", "internal/batch", "internal/repolock", "internal/artifact", "internal/gitrepo"},
	{"internal/intake", "internal/ledger"},
	{"internal/vault", "internal/spool", "internal/recipe", "internal/queue", "internal/dispatch", "internal/receiver", "internal/worker", "internal/ops"},
	{"internal/app"},
	{"cmd/api", "cmd/worker", "cmd/sandbox", "internal/bench", "internal/systemtest", "internal/archtest", "deploy"},
}

// users are the only rooms below app that may import a room, where not all that lie above it may.
var users = map[string][]string{
	"internal/gitrepo":  {"internal/worker"},
	"internal/repolock": {"internal/worker"},
	"internal/artifact": {"internal/worker"},
}

// kits are for tests. Of the programs only the sandbox may use them, and benchmarks.
var (
	kits = []string{
		"internal/forge/forgetest", "internal/gitrepo/gittest", "internal/queue/queuetest", "internal/bitbucket/bitbuckettest", "internal/browsertest",
		testkit,
	}
	kitUsers = []string{"cmd/sandbox", "internal/bench", "internal/systemtest"}
)

// testkit is for tests alone: neither the sandbox nor a benchmark's program uses it, only other kits and internal/systemtest.
const testkit = "internal/testkit"

// apart never meet: no room below app holds two of them, not even through what it imports.
var apart = []string{"github.com/labstack/echo/v4", "github.com/hibiken/asynq", "github.com/go-git/go-git/v5"}

// libraries and the only rooms that import them. What is in shared may be used anywhere.
var libraries = map[string][]string{
	"github.com/MicahParks/":          {"internal/forge", "internal/forge/forgetest"},
	"github.com/golang-jwt/jwt":       {"internal/forge", "internal/forge/forgetest"},
	"github.com/alicebob/miniredis":   {"cmd/sandbox", "internal/queue/queuetest"},
	"github.com/bluekeyes/go-gitdiff": {"internal/edit"},
	"github.com/cenkalti/backoff":     {"internal/bitbucket"},
	"github.com/chromedp/":            {"internal/browsertest"},
	"github.com/expr-lang/expr":       {"internal/expression"},
	"github.com/go-git/":              {"internal/gitrepo"},
	"github.com/go-redis/redis_rate":  {"internal/budget"},
	"github.com/go-redsync/redsync":   {"internal/repolock"},
	"github.com/hibiken/asynqmon":     {"internal/ops"},
	"github.com/hibiken/asynq":        {"internal/queue"},
	"github.com/klauspost/compress":   {"internal/packstream", "internal/gitrepo"},
	"github.com/knadh/koanf":          {"internal/config"},
	"github.com/labstack/echo":        {"internal/receiver"},
	"github.com/prometheus/":          {"internal/telemetry"},
	"github.com/redis/go-redis": {
		"internal/pipeline", "internal/vault", "internal/repolock", "internal/queue", "internal/installation", "internal/budget", "internal/ledger", "internal/ops", "internal/app",
		"internal/queue/queuetest",
	},
	"go.opentelemetry.io/": {"internal/telemetry"},
	"go.yaml.in/yaml":      {"internal/rule", "internal/recipe"},
	"gocloud.dev":          {"internal/artifact"},
}

var shared = []string{"github.com/google/uuid", "golang.org/x/sync/", "golang.org/x/text/"}

// standard packages that only some rooms may import; nil is none.
var standard = map[string][]string{
	"log":    nil, // log/slog
	"unsafe": nil,
	// Git is spoken, not called. A recipe is the operator's own command.
	"os/exec": {
		"internal/recipe", "cmd/sandbox", "internal/bench", "internal/systemtest", "internal/gitrepo/gittest", "internal/queue/queuetest", "internal/bitbucket/bitbuckettest",
		"internal/browsertest",
	},
	// Where nothing secret is made.
	"math/rand":    nil,
	"math/rand/v2": {"internal/repolock", "internal/queue", "internal/gitrepo", "internal/bitbucket", "internal/app", "internal/bench", "internal/queue/queuetest"},
	"testing": {
		"internal/forge/forgetest", "internal/gitrepo/gittest", "internal/queue/queuetest", "internal/bitbucket/bitbuckettest", "internal/browsertest", "internal/bench", testkit,
	},
}

// pure rooms touch nothing outside the process.
var (
	pure   = []string{"internal/fault", "internal/secret", "internal/expression", "internal/glob", "internal/edit", "internal/job", "internal/batch"}
	impure = []string{"os", "net", "os/exec", "syscall"}
	// edit takes the names of modes and of the empty file from os, which go-gitdiff speaks in; it opens nothing.
	pureBut = map[string]string{"internal/edit": "os"}
)

// Violations are the places where the graph is not as drawn, in no particular order.
func Violations(graph []Package) []string {
	var found []string
	for _, p := range graph {
		room, ours := strings.CutPrefix(p.ImportPath, Module)
		if !ours {
			continue
		}
		if layerOf(room) < 0 && !slices.Contains(kits, room) {
			found = append(found, room+": is not drawn; give it a layer")
		}
		for _, imported := range p.Imports {
			if why := judge(room, imported); why != "" {
				found = append(found, room+": imports "+strings.TrimPrefix(imported, Module)+", "+why)
			}
		}
		found = append(found, meetings(room, p)...)
	}
	return found
}

// judge says what is wrong with one arrow, or nothing.
func judge(room, imported string) string {
	if inner, ours := strings.CutPrefix(imported, Module); ours {
		return judgeArrow(room, inner)
	}
	if rooms, limited := standard[imported]; limited && !slices.Contains(rooms, room) {
		return fmt.Sprintf("which is for %v", rooms)
	}
	if slices.Contains(pure, room) && slices.Contains(impure, imported) && pureBut[room] != imported {
		return "but it is to be pure"
	}
	if !strings.Contains(strings.Split(imported, "/")[0], ".") || hasPrefix(shared, imported) {
		return ""
	}
	// The longest prefix decides: asynqmon is not asynq.
	longest := ""
	for library := range libraries {
		if strings.HasPrefix(imported, library) && len(library) > len(longest) {
			longest = library
		}
	}
	switch rooms := libraries[longest]; {
	case longest == "":
		return "a library that has no room yet"
	case !slices.Contains(rooms, room):
		return fmt.Sprintf("which is for %v", rooms)
	}
	return ""
}

func judgeArrow(room, imported string) string {
	switch {
	case imported == testkit:
		if !slices.Contains(kits, room) && room != "internal/systemtest" {
			return "which is for tests alone"
		}
	case slices.Contains(kits, imported):
		if !slices.Contains(kits, room) && !slices.Contains(kitUsers, room) {
			return "a test kit"
		}
	case slices.Contains(kits, room):
		if imported == "internal/app" || strings.HasPrefix(imported, "cmd/") {
			return "which lies above it"
		}
	case layerOf(imported) >= layerOf(room):
		return "which does not lie below it"
	case layerOf(room) < layerOf("internal/app"):
		if rooms, limited := users[imported]; limited && !slices.Contains(rooms, room) {
			return fmt.Sprintf("which is for %v", rooms)
		}
	}
	return ""
}

// meetings are the libraries that are to be apart and are not, in the rooms below app and in the kits.
func meetings(room string, p Package) []string {
	if layerOf(room) >= layerOf("internal/app") {
		return nil
	}
	var met []string
	for _, library := range apart {
		if slices.Contains(p.Deps, library) {
			met = append(met, library)
		}
	}
	if len(met) > 1 {
		return []string{room + ": brings together " + strings.Join(met, " and ")}
	}
	return nil
}

// layerOf is the layer's number from the bottom, -1 where the room is in none.
func layerOf(room string) int {
	return slices.IndexFunc(layers, func(layer []string) bool { return slices.Contains(layer, room) })
}

func hasPrefix(prefixes []string, text string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool { return strings.HasPrefix(text, prefix) })
}
