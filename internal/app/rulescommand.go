package app

import (
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/rule"
)

const rulesUsage = `usage: %[1]s rules check [--rules FILE]
       %[1]s rules test  [--rules FILE] --event FILE
       %[1]s rules schema

check  reads the rules and reports everything that is wrong, by line.
test   shows the jobs that an event, as Forge delivers it, would make; nothing is queued.
schema writes the JSON schema of rules files, for editors.
FILE of --rules is GITSMITH_RULES where it is not given; --event - reads standard input.
`

var errRulesUsage = errors.New("wrong arguments of rules")

// rulesCommand is what operators ask about rules before they put them in force.
func rulesCommand(program string, args, environ []string, stdout, stderr io.Writer) error {
	usage := func() error {
		fmt.Fprintf(stderr, rulesUsage, program)
		return errRulesUsage
	}
	if len(args) == 0 {
		return usage()
	}
	flags := flag.NewFlagSet("rules "+args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("rules", valueOf(environ, "GITSMITH_RULES"), "")
	event := flags.String("event", "", "")
	if err := flags.Parse(args[1:]); err != nil || flags.NArg() > 0 {
		return usage()
	}
	if args[0] == "schema" {
		_, err := stdout.Write(rule.Schema)
		return err
	}
	if args[0] != "check" && args[0] != "test" || args[0] == "test" && *event == "" {
		return usage()
	}
	if *path == "" {
		return errors.New("there is no rules file: give --rules FILE, or set GITSMITH_RULES")
	}
	content, err := os.ReadFile(*path)
	if err != nil {
		return err
	}
	set, err := rule.Parse(content, job.DefaultLimits())
	if err != nil {
		return fmt.Errorf("%s:\n%w", *path, err)
	}
	if args[0] == "check" {
		fmt.Fprintf(stdout, "%s: %d rules, all right\n", *path, set.Len())
		return nil
	}
	return testRules(set, *event, stdout)
}

// testRules shows what the rules make of an event in a file.
func testRules(set *rule.Set, path string, stdout io.Writer) error {
	var body []byte
	var err error
	if path == "-" {
		body, err = io.ReadAll(os.Stdin)
	} else {
		body, err = os.ReadFile(path)
	}
	if err != nil {
		return err
	}
	event, err := forge.ParseEvent(body)
	if err != nil {
		return err
	}
	if event.SelfGenerated {
		fmt.Fprintln(stdout, "the event is selfGenerated: a receiver makes no job of it")
	}
	decisions, failures := set.Decide(event, rule.Invocation{
		Installation: "ari:cloud:ecosystem::installation/example", Workspace: strings.Trim(event.Workspace, "{}"), Environment: "PRODUCTION", Module: "event",
	})
	fmt.Fprintf(stdout, "%s: %d of %d rules make a job\n", event.Type, len(decisions), set.Len())
	for _, decided := range decisions {
		if decided.User != "" {
			decided.Request.Actor = forge.ActorUser
		}
		request, err := json.MarshalIndent(decided.Request, "  ", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(stdout, "\n%s\n  queue: %s\n  replaces an older one that waits: %t\n", decided.Rule, decided.Class, decided.Coalesce != "")
		if decided.User != "" {
			fmt.Fprintf(stdout, "  acts as: %s\n", decided.User)
		}
		fmt.Fprintf(stdout, "  %s\n", request)
	}
	var errs []error
	for _, failure := range failures {
		errs = append(errs, fmt.Errorf("rule %s: %w", failure.Rule, failure.Err))
	}
	return errors.Join(errs...)
}

// valueOf is a variable of an environment, empty where it is not set.
func valueOf(environ []string, name string) string {
	value := ""
	for _, pair := range environ {
		if rest, found := strings.CutPrefix(pair, name+"="); found {
			value = cmp.Or(rest, value)
		}
	}
	return value
}
