package rule_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/rule"
)

var invocation = rule.Invocation{Installation: "i", Workspace: "w", AppVersion: "2.1.0", Environment: "PRODUCTION", Module: "events"}

func parse(t *testing.T, text string) *rule.Set {
	t.Helper()
	set, err := rule.Parse([]byte(text), job.DefaultLimits())
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return set
}

const place = `"workspace":{"uuid":"{4c16a397-8e48-479c-8ca2-442e46c90570}"},"repository":{"uuid":"{15a31549-1cff-45dc-9d0d-310114c5038b}"},` +
	`"timestamp":"2026-11-23T12:00:00.123456Z","actor":{"accountId":"557058:ada"},`

// push is a branch's event, pushTag a tag's, which says less.
func push(t *testing.T, branch, more string) forge.Event {
	t.Helper()
	return event(t, fmt.Sprintf(`"eventType":"avi:bitbucket:push:repository","push":{"ref":%q,"mainbranch":%t%s}`, branch, branch == "main", more))
}

func pushTag(t *testing.T, tag, more string) forge.Event {
	t.Helper()
	return event(t, fmt.Sprintf(`"eventType":"avi:bitbucket:push:repository","push":{"ref":%q%s}`, tag, more))
}

func event(t *testing.T, fields string) forge.Event {
	t.Helper()
	read, err := forge.ParseEvent([]byte(`{` + place + fields + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return read
}

// decide wants one decision.
func decide(t *testing.T, set *rule.Set, happened forge.Event) rule.Decision {
	t.Helper()
	decisions, failures := set.Decide(happened, invocation)
	if len(failures) > 0 || len(decisions) != 1 {
		t.Fatalf("%d decisions, %v", len(decisions), failures)
	}
	return decisions[0]
}

func none(t *testing.T, set *rule.Set, happened forge.Event) {
	t.Helper()
	if decisions, failures := set.Decide(happened, invocation); len(failures) > 0 || len(decisions) > 0 {
		t.Errorf("%+v, %v", decisions, failures)
	}
}

func TestArchiveMain(t *testing.T) {
	t.Parallel()
	set := example(t, "archive-main.yml")
	got := decide(t, set, push(t, "main", ""))
	if got.Rule != "archive-main" || got.Class != job.ClassEvent || got.User != "" || got.Coalesce == "" ||
		got.Request.OnExpiry != job.OnExpiryWait || got.Request.Clone.Ref != "refs/heads/main" || got.Request.Clone.Archive != job.ArchiveTarGz ||
		got.Request.Repository.RepositoryUUID != "{15a31549-1cff-45dc-9d0d-310114c5038b}" {
		t.Errorf("%+v %+v", got, got.Request.Clone)
	}
	again := decide(t, set, push(t, "main", `,"after":"b"`))
	if again.Coalesce != got.Coalesce {
		t.Error("a newer push does not replace an older one")
	}
	none(t, set, push(t, "other", ""))
	none(t, set, push(t, "main", `,"closed":true`))
	none(t, set, pushTag(t, "main", ""))
	none(t, set, event(t, `"eventType":"avi:bitbucket:created:repository"`))
	none(t, set, event(t, `"eventType":"avi:bitbucket:push:repository"`))
}

func TestChangelogOnTag(t *testing.T) {
	t.Parallel()
	set := example(t, "changelog-on-tag.yml")
	got := decide(t, set, pushTag(t, "v1.2.0", `,"created":true,"message":{"value":"It costs $1.\n","truncated":false}`))
	change := got.Request.Push.Changes[0].Replace
	if got.Request.Push.Branch != "main" || got.Request.Push.Message != "Add v1.2.0 to the changelog" || got.Coalesce != "" {
		t.Errorf("%+v", got.Request.Push)
	}
	if want := "# Changelog\n\n## v1.2.0, 2026-11-23\n\nIt costs $$1.\n"; change.With != want {
		t.Errorf("%q, want %q", change.With, want)
	}
	if got := decide(t, set, pushTag(t, "v2", `,"created":true`)).Request.Push.Changes[0].Replace.With; !strings.Contains(got, "No notes.") {
		t.Error(got)
	}
	none(t, set, pushTag(t, "nightly", `,"created":true`))
	none(t, set, push(t, "v1", `,"created":true`))
	none(t, set, pushTag(t, "v1", `,"closed":true,"created":false`))
}

func TestLicenceHeader(t *testing.T) {
	t.Parallel()
	set := example(t, "licence-header.yml")
	got := decide(t, set, push(t, "main", `,"created":true`))
	if len(got.Request.Push.Changes[0].Replace.Paths) != 2 || got.Request.Push.Branch != "main" {
		t.Errorf("%+v", got.Request.Push)
	}
	none(t, set, push(t, "main", `,"created":false`))
}

func TestMirrorPullRequests(t *testing.T) {
	t.Parallel()
	set := example(t, "mirror-pull-requests.yml")
	source := func(branch string) forge.Event {
		return event(t, `"eventType":"avi:bitbucket:created:pullrequest","pullrequest":{"id":7,"source":{"branch":"`+branch+`"}}`)
	}
	got := decide(t, set, source("feature/x"))
	if got.User != "557058:ada" || got.Class != job.ClassBatch || got.Request.OnExpiry != job.OnExpiryWait || got.Request.Clone.Ref != "refs/heads/feature/x" || got.Coalesce == "" {
		t.Errorf("%+v", got)
	}
	// What an event holds goes through the same checks as what a caller sends.
	if _, failures := set.Decide(source("../../x y"), invocation); len(failures) != 1 || fault.KindOf(failures[0].Err) != fault.Invalid {
		t.Error(failures)
	}
}

// TestExamplesOnFixtures holds the examples against every event as Forge documents it: which make a job, and none fails.
func TestExamplesOnFixtures(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"push.full": "archive-main", "push.truncated.full": "archive-main", "push.created-main.min": "archive-main licence-header",
		"push.tag.min": "changelog-on-tag", "created-pullrequest.full": "mirror-pull-requests", "created-pullrequest.min": "mirror-pull-requests",
		"updated-pullrequest.full": "mirror-pull-requests", "updated-pullrequest.min": "mirror-pull-requests",
	}
	paths, err := filepath.Glob("../forge/testdata/events/*.json")
	if err != nil || len(paths) < len(want) {
		t.Fatalf("%d fixtures, %v", len(paths), err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		happened, err := forge.ParseEvent(text)
		if err != nil {
			t.Fatal(err)
		}
		var made []string
		for _, name := range []string{"archive-main", "changelog-on-tag", "licence-header", "mirror-pull-requests"} {
			decisions, failures := example(t, name+".yml").Decide(happened, invocation)
			if len(failures) > 0 {
				t.Errorf("%s, %s: %v", path, name, failures)
			}
			for _, decided := range decisions {
				made = append(made, decided.Rule)
			}
		}
		if name := strings.TrimSuffix(filepath.Base(path), ".json"); strings.Join(made, " ") != want[name] {
			t.Errorf("%s makes %q, want %q", name, made, want[name])
		}
	}
}

// TestTagsAndBranchesReplaceEachOtherNot: their events name both by the short name.
func TestTagsAndBranchesReplaceEachOtherNot(t *testing.T) {
	t.Parallel()
	set := parse(t, `rules: [{name: a, on: "avi:bitbucket:push:*", job: {clone: {ref: "{{ event.push.ref }}"}}}]`)
	branch, tag := decide(t, set, push(t, "v1", "")), decide(t, set, pushTag(t, "v1", ""))
	if branch.Coalesce == "" || tag.Coalesce == "" || branch.Coalesce == tag.Coalesce {
		t.Errorf("%q and %q", branch.Coalesce, tag.Coalesce)
	}
}

// example reads a rule that is shipped.
func example(t *testing.T, name string) *rule.Set {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../deploy/rules", name))
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, string(text))
}

func TestExpressions(t *testing.T) {
	t.Parallel()
	happened := event(t, `"eventType":"x","number":7,"big":12345678901234567890,"half":1.5,"list":[1,"a"],"text":"a b","deep":{"er":null},"flag":true`)
	for template, want := range map[string]string{
		"plain": "plain", "{{ event.number }}": "7", "{{ event.number + 1 }}": "8", "{{ event.half }}": "1.5", "{{ event.list }}": `[1,"a"]`,
		"a {{ event.text }} b {{ event.flag }}": "a a b b true", `{{ event.missing ?? "none" }}`: "none", `{{ event.deep?.er?.nothing ?? "none" }}`: "none",
		`{{ {"a": {"b": 1}}.a.b }}`: "1", `{{ "}}" }}`: "}}", `{{ invocation.workspace + "/" + invocation.module }}`: "w/events",
		`{{ branch("refs/heads/a/b") }}|{{ branch("refs/tags/a") }}|{{ branch("a") }}`: "a/b||a", `{{ tag("refs/tags/a") }}|{{ tag("refs/heads/a") }}|{{ tag("v1") }}`: "a||v1", `{{ kebab("Fix: the Thing!") }}`: "fix-the-thing",
		`{{ quoteRegexp("a.b") }}`: `a\.b`, `{{ quoteWith("$1") }}`: `$$1`, `{{ event.actor.accountId | upper() }}`: "557058:ADA",
	} {
		encoded, err := json.Marshal(template)
		if err != nil {
			t.Fatal(err)
		}
		set := parse(t, fmt.Sprintf("rules: [{name: a, on: x, job: {push: {branch: b, message: %s, changes: [{delete: {path: p}}]}}}]", encoded))
		if got := decide(t, set, happened).Request.Push.Message; got != want {
			t.Errorf("%s: %q, want %q", template, got, want)
		}
	}
	for _, template := range []string{`{{ event.missing }}`, `{{ event.missing.deeper }}`, `{{ event.text.deeper }}`, `{{ 1 / "a" }}`} {
		encoded, err := json.Marshal(template)
		if err != nil {
			t.Fatal(err)
		}
		set, err := rule.Parse(fmt.Appendf(nil, "rules: [{name: a, on: x, job: {push: {branch: b, message: %s, changes: [{delete: {path: p}}]}}}]", encoded), job.DefaultLimits())
		if err != nil {
			continue // known to be wrong beforehand
		}
		if decisions, failures := set.Decide(happened, invocation); len(decisions) != 0 || len(failures) != 1 || fault.KindOf(failures[0].Err) != fault.Invalid {
			t.Errorf("%s: %+v %v", template, decisions, failures)
		}
	}
}

// TestOneRuleDoesNotHinderAnother makes the jobs of the rules that work.
func TestOneRuleDoesNotHinderAnother(t *testing.T) {
	t.Parallel()
	set := parse(t, `
rules:
  - {name: broken, on: "x", when: event.a.b.c == 1, job: {clone: {}}}
  - {name: works, on: ["y", "*"], job: {clone: {}}}
  - {name: elsewhere, on: "x", job: {repository: {workspace: acme, slug: "{{ kebab(event.actor.accountId) }}"}, clone: {paths: ["{{ invocation.module }}/**"]}}}
`)
	decisions, failures := set.Decide(event(t, `"eventType":"x"`), invocation)
	if len(failures) != 1 || failures[0].Rule != "broken" || !strings.Contains(failures[0].Err.Error(), "invalid: when:") || len(decisions) != 2 || decisions[0].Rule != "works" {
		t.Fatalf("%+v %v", decisions, failures)
	}
	if got := decisions[1].Request; got.Repository.String() != "acme/557058-ada" || got.Clone.Paths[0] != "events/**" {
		t.Errorf("%+v", got)
	}
	if again, _ := set.Decide(event(t, `"eventType":"x"`), rule.Invocation{Module: "other"}); again[1].Request.Clone.Paths[0] != "other/**" || decisions[1].Request.Clone.Paths[0] != "events/**" {
		t.Error("decisions share what they render")
	}
}

func TestProblemsAreNamedByLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"rules:\n  - name: A\n    on: x\n    job: {clone: {}}":                                                              "line 2: name: give one",
		"rules:\n  - name: a\n    job: {clone: {}}":                                                                         "line 2: on: it is missing",
		"rules:\n  - name: a\n    on: x":                                                                                    "line 2: job: it is missing",
		"rules:\n  - name: a\n    on: '[a'\n    job: {clone: {}}":                                                           "line 3: on:",
		"rules:\n  - name: a\n    on: x\n    when: event.a ==\n    job: {clone: {}}":                                        "line 4: when:",
		"rules:\n  - name: a\n    on: x\n    when: '1 + 1'\n    job: {clone: {}}":                                           "line 4: when: expected bool",
		"rules:\n  - name: a\n    on: x\n    when: evnt.a\n    job: {clone: {}}":                                            "line 4: when: unknown name evnt",
		"rules:\n  - name: a\n    on: x\n    when: now() == nil\n    job: {clone: {}}":                                      "line 4: when:",
		"rules:\n  - name: a\n    on: x\n    job:\n      clone:\n        reff: a":                                           `line 6: job: unknown field "reff"`,
		"rules:\n  - name: a\n    on: x\n    job:\n      clone:\n        depth: a":                                          "line 6: job: clone.depth",
		"rules:\n  - name: a\n    on: x\n    job:\n      clone:\n        archive: rar":                                      "line 6: job: clone.archive",
		"rules:\n  - name: a\n    on: x\n    job:\n      clone:\n        ref: '{{ event.'":                                  "line 6: job.clone.ref",
		"rules:\n  - name: a\n    on: x\n    job:\n      push:\n        branch: b\n        message: m\n        changes: []": "line 8: job: push.changes",
		"rules:\n  - name: a\n    on: x\n    job: {push: {branch: b, message: m, changes: [{delete: {path: .git}}]}}":       "line 4: job:",
		"rules:\n  - name: a\n    on: x\n    job: {clone: {}}\n  - name: a\n    on: y\n    job: {clone: {}}":                `line 5: name: "a" is taken`,
		"rules:\n  - name: a\n    on: x\n    nam: b\n    job: {clone: {}}":                                                  `line 4: a rule: "nam" is not known`,
		"rules:\n  - name: a\n    on: x\n    actor: me\n    job: {clone: {}}":                                               "line 4: actor",
		"rules:\n  - name: a\n    on: x\n    queue: fast\n    job: {clone: {}}":                                             "line 4: queue",
		"rules:\n  - name: a\n    on: x\n    coalesce: '{{ 1'\n    job: {clone: {}}":                                        "line 4: coalesce",
		"rules: 7": "line 1: rules: a list",
		"a: b":     `line 1: the file: "a" is not known`,
		"rules: [": "line 1",
		"rules:\n  - &a {name: a, on: x, job: {clone: {}}}\n  - *a": "aliases",
		"": "EOF",
	} {
		_, err := rule.Parse([]byte(text), job.DefaultLimits())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n-> %v, want %s", text, err, want)
		}
	}
	_, err := rule.Parse([]byte("rules:\n  - {name: A, on: x, when: 'a', queue: q, job: {clone: {archive: rar}}}\n  - {}"), job.DefaultLimits())
	if lines := strings.Split(fmt.Sprint(err), "\n"); len(lines) < 6 {
		t.Errorf("not everything is reported at once: %v", err)
	}
}

// TestSchemaKnowsTheSameFields compares the schema's properties with the types that the parser decodes into.
func TestSchemaKnowsTheSameFields(t *testing.T) {
	t.Parallel()
	var schema struct {
		Definitions map[string]node `json:"definitions"`
	}
	if err := json.Unmarshal(rule.Schema, &schema); err != nil {
		t.Fatal(err)
	}
	request := schema.Definitions["job"]
	push, change := request.Properties["push"], schema.Definitions["change"]
	for name, pair := range map[string]struct {
		node  node
		value any
	}{
		"clone": {request.Properties["clone"], job.Clone{}}, "push": {push, job.Push{}}, "author": {push.Properties["author"], job.Author{}},
		"pull request": {push.Properties["pull_request"], job.PullRequest{}}, "recipe": {push.Properties["recipe"], job.Recipe{}},
		"change": {change, job.Push{}.Changes},
		"put":    {change.Properties["put"], fieldOf(job.Push{}.Changes, "Put")}, "replace": {change.Properties["replace"], fieldOf(job.Push{}.Changes, "Replace")},
	} {
		names := jsonNames(reflect.TypeOf(pair.value))
		delete(names, "expect") // of a push: nobody can give it
		if diff := cmp.Diff(names, pair.node.names()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	shipped, err := os.ReadFile("../../deploy/rules/rules.schema.json")
	if err != nil || !bytes.Equal(shipped, rule.Schema) {
		t.Errorf("deploy/rules/rules.schema.json is not internal/rule/rules.schema.json (%v)", err)
	}
}

type node struct {
	Properties map[string]node `json:"properties"`
}

func (n node) names() map[string]bool {
	names := map[string]bool{}
	for name := range n.Properties {
		names[name] = true
	}
	return names
}

func fieldOf(list any, name string) any {
	field, _ := reflect.TypeOf(list).Elem().FieldByName(name)
	return reflect.New(field.Type.Elem()).Elem().Interface()
}

func jsonNames(kind reflect.Type) map[string]bool {
	if kind.Kind() == reflect.Slice {
		kind = kind.Elem()
	}
	names := map[string]bool{}
	for i := range kind.NumField() {
		name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
		names[name] = true
	}
	return names
}

// FuzzParse reads any file without harm; what is taken can be asked about any event.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"archive-main.yml", "changelog-on-tag.yml", "licence-header.yml", "mirror-pull-requests.yml"} {
		text, err := os.ReadFile(filepath.Join("../../deploy/rules", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, []byte(`{"eventType":"avi:bitbucket:push:repository","push":{"ref":"main","mainbranch":true,"created":true}}`))
	}
	f.Add([]byte("rules: [{name: a, on: '*', when: 'event.a', job: {clone: {ref: '{{ event.a.b }}'}}}]"), []byte(`{"eventType":"x","a":{"b":[1]}}`))
	f.Fuzz(func(t *testing.T, text, body []byte) {
		set, err := rule.Parse(text, job.DefaultLimits())
		if err != nil {
			if _, ok := err.(rule.Problems); !ok { //nolint:errorlint // it is the type that is promised
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		var again yaml.Node
		if yaml.Unmarshal(text, &again) != nil {
			t.Fatal("what is taken is no YAML")
		}
		happened, err := forge.ParseEvent(body)
		if err != nil {
			return
		}
		decisions, failures := set.Decide(happened, invocation)
		if len(decisions)+len(failures) > set.Len() {
			t.Fatal("more decisions than rules")
		}
		for _, decision := range decisions {
			if err := decision.Request.Validate(job.DefaultLimits()); err != nil {
				t.Fatalf("an invalid job was made: %v", err)
			}
		}
	})
}
