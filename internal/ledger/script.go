package ledger

import (
	"context"
	"embed"
	"fmt"
	"regexp"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/keyspace"
)

//go:embed lua/*.lua
var sources embed.FS

// script is one file of lua. The comment lines that it begins with say what it does and name what it takes:
//
//	-- keys: record jobs      KEYS[1], KEYS[2]
//	-- args: now id           ARGV[1], ARGV[2]
//	-- rest: fields           ARGV[fields] is the first of those that follow
//	-- with: batch            what lua/batch.lua defines is there too
//
// so that the file speaks of them by name. A name that begins with key_ is a key's name behind its installation's prefix, as
// internal/keyspace spells it. What lua/prelude.lua defines is there too.
type script struct {
	name       string
	keys, args []string
	rest       bool
	redis      *redis.Script
}

// arg is one argument of a script, by the name that its file gives it.
type arg struct {
	name  string
	value any
}

// load reads a script of this package. It panics on one that is wrong, which the package's tests would see.
func load(name string) *script {
	source, prelude := read(name), read("prelude")
	s := &script{name: name}
	var header strings.Builder
	for line := range strings.Lines(source) {
		names, found := strings.CutPrefix(line, "-- ")
		if !found {
			break
		}
		kind, names, _ := strings.Cut(names, ":")
		switch fields := strings.Fields(names); kind {
		case "keys":
			s.keys = fields
			bind(&header, "KEYS", fields)
		case "args":
			s.args = fields
			bind(&header, "ARGV", fields)
		case "rest":
			s.rest = true
			fmt.Fprintf(&header, "local %s = %d ", fields[0], len(s.args)+1)
		case "with":
			for _, shared := range fields {
				prelude += "\n" + read(shared)
			}
		}
	}
	body := prelude + "\n" + source
	s.redis = redis.NewScript(keyNames(body) + header.String() + body)
	return s
}

func read(name string) string {
	text, err := sources.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic(err)
	}
	return string(text)
}

// bind gives names to the values of a table, from its first on.
func bind(into *strings.Builder, table string, names []string) {
	if len(names) == 0 {
		return
	}
	values := make([]string, len(names))
	for i := range names {
		values[i] = fmt.Sprintf("%s[%d]", table, i+1)
	}
	fmt.Fprintf(into, "local %s = %s ", strings.Join(names, ", "), strings.Join(values, ", "))
}

var keyName = regexp.MustCompile(`\bkey_(\w+)\b`)

// keyNames defines the names of keys that a script speaks of.
func keyNames(body string) string {
	var defined strings.Builder
	seen := map[string]bool{}
	for _, found := range keyName.FindAllStringSubmatch(body, -1) {
		if seen[found[1]] {
			continue
		}
		seen[found[1]] = true
		fmt.Fprintf(&defined, "local key_%s = '%s' ", found[1], keyspace.Name(found[1]))
	}
	return defined.String()
}

// run runs the script. args are in the order of the file's, which is checked so that neither can change alone.
func (s *script) run(ctx context.Context, client redis.Scripter, keys []string, args []arg, rest ...any) *redis.Cmd {
	values, err := s.values(keys, args, rest)
	if err != nil {
		failed := redis.NewCmd(ctx)
		failed.SetErr(err)
		return failed
	}
	return s.redis.Run(ctx, client, keys, values...)
}

func (s *script) values(keys []string, args []arg, rest []any) ([]any, error) {
	if len(keys) != len(s.keys) || len(args) != len(s.args) || len(rest) > 0 && !s.rest {
		return nil, fmt.Errorf("script %s takes keys %q and arguments %q, and was given %d, %d and %d more", s.name, s.keys, s.args, len(keys), len(args), len(rest))
	}
	values := make([]any, 0, len(args)+len(rest))
	for i, each := range args {
		if each.name != s.args[i] {
			return nil, fmt.Errorf("script %s: argument %d is %q, and was given as %q", s.name, i+1, s.args[i], each.name)
		}
		values = append(values, each.value)
	}
	return append(values, rest...), nil
}
