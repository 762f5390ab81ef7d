package recipe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// What a file may say.
const (
	maxFile       = 1 << 20 // bytes
	maxRecipes    = 200
	maxArguments  = 100
	maxText       = 4_096 // bytes of an argument, a pattern or a variable
	maxTimeout    = 10 * time.Minute
	minMemory     = 16 << 20
	maxMemory     = 1 << 40
	maxOutput     = 1 << 30
	standardPath  = "/usr/local/bin:/usr/bin:/bin"
	defaultMemory = 1 << 30
	defaultOutput = 10 << 20
)

var (
	nameShape      = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)
	parameterShape = regexp.MustCompile(`^[a-z][a-z0-9_]{0,31}$`)
	variableShape  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	placeholder    = regexp.MustCompile(`\{\{\s*parameters\.`)
)

// Load reads a file of recipes, of which the error names everything that is wrong, by line; and tries what the kernel allows to keep
// commands apart. Without a path there is no book, and no error. The program's main must have called [Trampoline].
func Load(path string) (*Book, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("the file has more than %d bytes", maxFile)
	}
	recipes, err := parse(content)
	if err != nil || len(recipes) == 0 {
		return nil, err
	}
	book := &Book{recipes: map[string]*recipe{}}
	if book.confinement, err = probe(); err != nil {
		return nil, err
	}
	for _, r := range recipes {
		if r.network == networkForbidden && !book.confinement.namespaces {
			err = errors.Join(err, fmt.Errorf("%s: network: the kernel, or the container, does not let the worker switch it off; allow it namespaces, or leave network out", r.name))
		}
		book.recipes[r.name] = r
	}
	return book, err
}

// reader collects what is wrong.
type reader struct{ problems []error }

func (r *reader) wrong(node *yaml.Node, format string, args ...any) {
	r.problems = append(r.problems, fmt.Errorf("line %d: %w", node.Line, fmt.Errorf(format, args...)))
}

func parse(content []byte) ([]*recipe, error) {
	var document yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(content)).Decode(&document); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if hasAlias(&document) { // a few lines of them can stand for gigabytes
		return nil, errors.New("YAML aliases (*name) are not supported; write it out")
	}
	r := &reader{}
	list := r.fields(document.Content[0], "the file", "recipes")["recipes"]
	if list == nil || list.Kind != yaml.SequenceNode || len(list.Content) == 0 || len(list.Content) > maxRecipes {
		r.wrong(document.Content[0], "recipes: a list of 1 to %d is wanted", maxRecipes)
		return nil, errors.Join(r.problems...)
	}
	var recipes []*recipe
	for _, node := range list.Content {
		read := r.recipe(node)
		if slices.ContainsFunc(recipes, func(other *recipe) bool { return other.name == read.name && read.name != "" }) {
			r.wrong(node, "name: %s is taken by a recipe above", read.name)
		}
		recipes = append(recipes, read)
	}
	return recipes, errors.Join(r.problems...)
}

func hasAlias(node *yaml.Node) bool {
	return node.Kind == yaml.AliasNode || slices.ContainsFunc(node.Content, hasAlias)
}

// fields are a mapping's, by name. Names that are not known, and names given twice, are wrong. Without known, all are.
func (r *reader) fields(node *yaml.Node, what string, known ...string) map[string]*yaml.Node {
	found := map[string]*yaml.Node{}
	if node.Kind != yaml.MappingNode {
		r.wrong(node, "%s: a mapping is wanted", what)
		return found
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		switch {
		case known != nil && !slices.Contains(known, name.Value):
			r.wrong(name, "%s: %.60q is not known; there are %s", what, name.Value, strings.Join(known, ", "))
		case found[name.Value] != nil:
			r.wrong(name, "%s: %.60s is given twice", what, name.Value)
		default:
			found[name.Value] = node.Content[i+1]
		}
	}
	return found
}

func (r *reader) recipe(node *yaml.Node) *recipe {
	fields := r.fields(node, "a recipe", "name", "argv", "parameters", "timeout", "memory", "output", "network", "env", "show_output")
	read := &recipe{
		timeout: time.Minute, memory: defaultMemory, output: defaultOutput,
		parameters: map[string]*parameter{}, env: map[string]string{},
	}
	if name := fields["name"]; name == nil || !nameShape.MatchString(name.Value) {
		r.wrong(orNode(name, node), "name: give one of 1 to 64 lower case letters, digits and dashes")
	} else {
		read.name = name.Value
	}
	r.argv(read, orNode(fields["argv"], node))
	if parameters := fields["parameters"]; parameters != nil {
		for name, node := range r.fields(parameters, "parameters") {
			read.parameters[name] = r.parameter(name, node)
		}
	}
	if timeout := fields["timeout"]; timeout != nil {
		parsed, err := time.ParseDuration(timeout.Value)
		if err != nil || parsed <= 0 || parsed > maxTimeout {
			r.wrong(timeout, "timeout: write it like 30s or 2m; at most %v", maxTimeout)
		}
		read.timeout = parsed
	}
	r.size(fields["memory"], "memory", minMemory, maxMemory, &read.memory)
	r.size(fields["output"], "output", 1, maxOutput, &read.output)
	read.network = r.network(fields["network"])
	if env := fields["env"]; env != nil {
		for name, node := range r.fields(env, "env") {
			r.variable(name, node)
			read.env[name] = node.Value
		}
	}
	if show := fields["show_output"]; show != nil {
		var err error
		if read.showOutput, err = strconv.ParseBool(show.Value); err != nil {
			r.wrong(show, "show_output: true or false is wanted")
		}
	}
	return read
}

func orNode(node, other *yaml.Node) *yaml.Node {
	if node == nil {
		return other
	}
	return node
}

func (r *reader) argv(read *recipe, node *yaml.Node) {
	if node.Kind != yaml.SequenceNode || len(node.Content) == 0 || len(node.Content) > maxArguments {
		r.wrong(node, `argv: a list of 1 to %d arguments is wanted, such as ["go", "mod", "tidy"]`, maxArguments)
		return
	}
	for _, argument := range node.Content {
		switch {
		case !isText(argument):
			r.wrong(argument, "argv: each argument is a text of at most %d bytes", maxText)
		case placeholder.MatchString(argument.Value):
			r.wrong(argument, "argv: arguments are taken as they stand; a parameter reaches the command as the variable %s<NAME>", variablePrefix)
		}
		read.argv = append(read.argv, argument.Value)
	}
	program := read.argv[0]
	if strings.Contains(program, "/") && !filepath.IsAbs(program) {
		r.wrong(node, "argv: %.100q would be looked for in the repository; give a name or an absolute path", program)
		return
	}
	found, err := exec.LookPath(program)
	if err == nil {
		found, err = filepath.Abs(found)
	}
	if err != nil {
		r.wrong(node, "argv: there is no program %.100q on this machine, by the worker's PATH", program)
	}
	read.program = found
}

func isText(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && len(node.Value) <= maxText && !strings.Contains(node.Value, "\x00")
}

func (r *reader) parameter(name string, node *yaml.Node) *parameter {
	what := fmt.Sprintf("parameter %.40q", name)
	if !parameterShape.MatchString(name) {
		r.wrong(node, "%s: a name has at most 32 lower case letters, digits and _, a letter first", what)
	}
	fields := r.fields(node, what, "pattern", "default", "required")
	read := &parameter{}
	pattern := fields["pattern"]
	if pattern == nil || !isText(pattern) {
		r.wrong(orNode(pattern, node), "%s: pattern: a regular expression is wanted, which a value must match as a whole", what)
		return read
	}
	_, err := regexp.Compile(pattern.Value) // by itself, so that no parenthesis leaves the group below
	if err == nil {
		read.pattern, err = regexp.Compile(`\A(?:` + pattern.Value + `)\z`)
	}
	if err != nil {
		r.wrong(pattern, "%s: pattern: %w", what, err)
		return read
	}
	if required := fields["required"]; required != nil {
		if read.required, err = strconv.ParseBool(required.Value); err != nil {
			r.wrong(required, "%s: required: true or false is wanted", what)
		}
	}
	if fallback := fields["default"]; fallback != nil {
		read.fallback = &fallback.Value
		if len(fallback.Value) > maxValue || !isText(fallback) || !read.pattern.MatchString(fallback.Value) {
			r.wrong(fallback, "%s: default: it does not match the pattern", what)
		}
		if read.required {
			r.wrong(fallback, "%s: default: what is required needs none", what)
		}
	}
	return read
}

func (r *reader) variable(name string, node *yaml.Node) {
	switch {
	case !variableShape.MatchString(name):
		r.wrong(node, "env: %.60q is no name of a variable", name)
	case name == "HOME" || name == "TMPDIR" || strings.HasPrefix(name, "GITSMITH_") || strings.HasPrefix(name, variablePrefix):
		r.wrong(node, "env: %.60s is not for recipes to set", name)
	case !isText(node):
		r.wrong(node, "env: %s: a text of at most %d bytes is wanted", name, maxText)
	}
}

func (r *reader) network(node *yaml.Node) network {
	if node == nil {
		return networkAvoided
	}
	switch node.Value {
	case "on":
		return networkAllowed
	case "off":
		return networkForbidden
	}
	r.wrong(node, "network: on, or off where the worker is not to start unless it can switch it off; left out, it is off where the kernel allows")
	return networkAvoided
}

func (r *reader) size(node *yaml.Node, what string, least, most int64, target *int64) {
	if node == nil {
		return
	}
	digits := strings.TrimRight(node.Value, "KMGTiB ")
	number, err := strconv.ParseInt(digits, 10, 64)
	unit, known := map[string]int64{
		"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
	}[strings.TrimSpace(node.Value[len(digits):])]
	if err != nil || !known || number < 1 || number > most/unit || number*unit < least {
		r.wrong(node, "%s: a size from %d to %d bytes is wanted; write it like 512MiB", what, least, most)
		return
	}
	*target = number * unit
}
