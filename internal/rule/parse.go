package rule

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/expression"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/glob"
	"github.com/gitsmith/gitsmith/internal/job"
)

const (
	maxFile  = 1 << 20 // bytes
	maxRules = 200
)

// Problem is one thing that is wrong in a file of rules.
type Problem struct {
	Line int // from 1; 0 for the file as a whole
	Text string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return p.Text
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Text)
}

// Problems is the error of [Parse]: everything that is wrong, in the order of the file.
type Problems []Problem

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// Parse reads a file of rules and checks it in full: names, globs, expressions, and the job, whose expressions are taken for some
// text or other. The error is [Problems].
func Parse(content []byte, limits job.Limits) (*Set, error) {
	reader := &reader{limits: limits}
	if len(content) > maxFile {
		return nil, Problems{{Text: fmt.Sprintf("the file has %d bytes, at most %d", len(content), maxFile)}}
	}
	var document yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	if err := decoder.Decode(&document); err != nil {
		return nil, Problems{{Text: strings.TrimPrefix(err.Error(), "yaml: ")}}
	}
	if hasAlias(&document) { // a few lines of them can stand for gigabytes
		return nil, Problems{{Text: "YAML aliases (*name) are not supported; write it out"}}
	}
	set := &Set{rules: reader.file(document.Content[0]), limits: limits}
	if len(reader.problems) > 0 {
		slices.SortStableFunc(reader.problems, func(a, b Problem) int { return a.Line - b.Line })
		return nil, reader.problems
	}
	return set, nil
}

func hasAlias(node *yaml.Node) bool {
	return node.Kind == yaml.AliasNode || slices.ContainsFunc(node.Content, hasAlias)
}

// reader collects what is wrong.
type reader struct {
	limits   job.Limits
	problems Problems
}

func (r *reader) wrong(node *yaml.Node, format string, args ...any) {
	r.problems = append(r.problems, Problem{Line: node.Line, Text: fmt.Sprintf(format, args...)})
}

// fields are a mapping's, by name. Names that are not known, and names given twice, are wrong.
func (r *reader) fields(node *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	found := map[string]*yaml.Node{}
	if node.Kind != yaml.MappingNode {
		r.wrong(node, "%s: a mapping is wanted, with %s", what, strings.Join(known, ", "))
		return found
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		switch {
		case !slices.Contains(known, name.Value):
			r.wrong(name, "%s: %.60q is not known; there are %s", what, name.Value, strings.Join(known, ", "))
		case found[name.Value] != nil:
			r.wrong(name, "%s: %s is given twice", what, name.Value)
		default:
			found[name.Value] = node.Content[i+1]
		}
	}
	return found
}

func (r *reader) file(node *yaml.Node) []*rule {
	list := r.fields(node, "the file", "rules")["rules"]
	if list == nil || list.Kind != yaml.SequenceNode || len(list.Content) > maxRules {
		r.wrong(node, "rules: a list of at most %d rules is wanted", maxRules)
		return nil
	}
	var rules []*rule
	for _, each := range list.Content {
		read := r.rule(each)
		if slices.ContainsFunc(rules, func(other *rule) bool { return other.name == read.name }) {
			r.wrong(each, "name: %q is taken by a rule above", read.name)
		}
		rules = append(rules, read)
	}
	return rules
}

var nameShape = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (r *reader) rule(node *yaml.Node) *rule {
	fields := r.fields(node, "a rule", "name", "on", "when", "actor", "on_expiry", "queue", "coalesce", "job")
	read := &rule{class: job.ClassEvent, templates: language.Templates()}
	if name := fields["name"]; name == nil || !nameShape.MatchString(name.Value) {
		r.wrong(orNode(name, node), "name: give one of lower case letters, digits and dashes, at most 63")
	} else {
		read.name = name.Value
	}
	read.on = r.globs(fields["on"], node)
	if when := fields["when"]; when != nil {
		condition, err := language.Condition(when.Value)
		if err != nil {
			r.wrong(when, "when: %s", err)
		}
		read.when = condition
	}
	read.user = r.actor(fields["actor"])
	read.coalesce, read.none = r.coalesce(fields["coalesce"])
	if queue := fields["queue"]; queue != nil {
		read.class = job.Class(queue.Value)
		if !slices.Contains(job.Classes(), read.class) {
			r.wrong(queue, "queue: %.40q is none of %v", queue.Value, job.Classes())
		}
	}
	onExpiry := job.OnExpiryWait
	if given := fields["on_expiry"]; given != nil {
		if onExpiry = map[string]job.OnExpiry{"wait": job.OnExpiryWait}[given.Value]; onExpiry == "" && given.Value != "fail" {
			r.wrong(given, "on_expiry: %.40q is neither wait nor fail", given.Value)
		}
	}
	if fields["job"] == nil {
		r.wrong(node, "job: it is missing; say what the rule does, in the words of POST /v1/jobs")
		return read
	}
	r.job(fields["job"], read)
	read.blueprint.OnExpiry = onExpiry
	read.blueprint.Actor = forge.ActorSystem
	return read
}

func orNode(node, other *yaml.Node) *yaml.Node {
	if node == nil {
		return other
	}
	return node
}

func (r *reader) globs(node, parent *yaml.Node) []*glob.Glob {
	if node == nil {
		r.wrong(parent, "on: it is missing; name an event, such as %s, or several", forge.EventPush)
		return nil
	}
	list := []*yaml.Node{node}
	if node.Kind == yaml.SequenceNode {
		list = node.Content
	}
	var globs []*glob.Glob
	for _, each := range list {
		parsed, err := glob.Parse(each.Value)
		switch {
		case each.Kind != yaml.ScalarNode || each.Value == "":
			r.wrong(each, "on: %.80q is no glob; * stands for any text, ? for a character", each.Value)
		case err != nil:
			r.wrong(each, "on: %.80q: %s", each.Value, err)
		}
		globs = append(globs, parsed)
	}
	return globs
}

// actor is nil for the system.
func (r *reader) actor(node *yaml.Node) *expression.Text {
	if node == nil || node.Kind == yaml.ScalarNode && node.Value == string(forge.ActorSystem) {
		return nil
	}
	if node.Kind != yaml.MappingNode {
		r.wrong(node, `actor: give system, or {user: "{{ event.actor.accountId }}"}`)
		return nil
	}
	user := r.fields(node, "actor", "user")["user"]
	if user == nil || user.Value == "" {
		r.wrong(node, "actor: user is missing")
		return nil
	}
	return r.template(user, "actor.user")
}

// template is one of a field that is text anyway, with or without expressions.
func (r *reader) template(node *yaml.Node, field string) *expression.Text {
	read, err := language.Text(node.Value)
	if err != nil {
		r.wrong(node, "%s: %s", field, err)
	}
	return read
}

func (r *reader) coalesce(node *yaml.Node) (key *expression.Text, none bool) {
	switch {
	case node == nil:
		return nil, false
	case node.Value == "none":
		return nil, true
	case node.Kind != yaml.ScalarNode || node.Value == "":
		r.wrong(node, `coalesce: give none, or a text such as "{{ event.push.ref }}": of jobs with the same text that wait, the newest event's is done`)
		return nil, false
	}
	return r.template(node, "coalesce"), false
}

// job reads the job into the rule's blueprint.
func (r *reader) job(node *yaml.Node, read *rule) {
	fields := r.fields(node, "job", "repository", "clone", "push")
	read.ownPlace = fields["repository"] != nil
	before := len(r.problems)
	r.templates(node, "job", read)
	var plain any
	if err := node.Decode(&plain); err != nil {
		r.wrong(node, "job: %s", err)
		return
	}
	text, err := json.Marshal(plain)
	if err != nil {
		r.wrong(node, "job: %s", err)
		return
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&read.blueprint); err != nil {
		at, text := decodeProblem(node, err)
		r.wrong(at, "job: %s", text)
		return
	}
	if len(r.problems) > before {
		return
	}
	// Whatever an expression will give: here it is a text that fits nearly everywhere.
	example := read.blueprint
	if !read.ownPlace {
		example.Repository = bitbucket.Repository{Workspace: "x", Slug: "x"}
	}
	read.templates.Fill(&example, "x")
	if err := example.Validate(r.limits); err != nil {
		r.wrong(nodeAt(node, fault.Public(err)), "job: %s", fault.Public(err))
	}
}

// templates finds the strings with expressions.
func (r *reader) templates(node *yaml.Node, field string, read *rule) {
	switch node.Kind {
	case yaml.ScalarNode:
		if node.Tag != "!!str" {
			return
		}
		if err := read.templates.Add(node.Value); err != nil {
			r.wrong(node, "%s: %s", field, err)
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			r.templates(node.Content[i+1], field+"."+node.Content[i].Value, read)
		}
	case yaml.SequenceNode:
		for i, each := range node.Content {
			r.templates(each, fmt.Sprintf("%s[%d]", field, i), read)
		}
	}
}

// decodeProblem is an error of encoding/json by its place in the file.
func decodeProblem(node *yaml.Node, err error) (at *yaml.Node, text string) {
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return nodeAt(node, kind.Field+":"), fmt.Sprintf("%s: a %s stands where another type is wanted; an expression gives text", kind.Field, kind.Value)
	}
	if name, found := strings.CutPrefix(err.Error(), "json: unknown field "); found {
		return keyNamed(node, strings.Trim(name, `"`)), fmt.Sprintf("unknown field %s", name)
	}
	return node, err.Error()
}

func keyNamed(node *yaml.Node, name string) *yaml.Node {
	for i, each := range node.Content {
		if node.Kind == yaml.MappingNode && i%2 == 0 && each.Value == name {
			return each
		}
		if found := keyNamed(each, name); found != each {
			return found
		}
	}
	return node
}

var stepShape = regexp.MustCompile(`[A-Za-z_]+|\d+`)

// nodeAt is the node that the beginning of an error's text names, such as "push.changes[2].put.path: …", as deep as it is there.
func nodeAt(node *yaml.Node, text string) *yaml.Node {
	field, _, _ := strings.Cut(text, ":")
	for _, step := range stepShape.FindAllString(field, -1) {
		next := (*yaml.Node)(nil)
		switch node.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(node.Content); i += 2 {
				if node.Content[i].Value == step {
					next = node.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			for i, each := range node.Content {
				if fmt.Sprint(i) == step {
					next = each
				}
			}
		}
		if next != nil {
			node = next
		}
	}
	return node
}
