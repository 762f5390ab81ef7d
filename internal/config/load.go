package config

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
)

const (
	fileName   = "GITSMITH_CONFIG"
	fileSuffix = "_FILE" // of the setting that names the file with a secret
	prefix     = "GITSMITH_"
)

// load sets every field from environ, or from the YAML file that it names. Empty values count as absent, so that a compose
// file can pass a variable on that nobody has set.
func load(environ []string, fields []field) error {
	values := koanf.New("\x00") // names hold no levels
	fromEnvironment := env.Provider("\x00", env.Opt{
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			if value == "" {
				return "", nil
			}
			return name, value
		},
	})
	environment := koanf.New("\x00")
	if err := environment.Load(fromEnvironment, nil); err != nil {
		return fmt.Errorf("environment: %w", err)
	}
	var errs []error
	if path := environment.String(fileName); path != "" {
		content := koanf.New("\x00")
		if err := content.Load(file.Provider(path), yaml.Parser()); err != nil {
			return fmt.Errorf("%s: no YAML file with a name and a value a line can be read: %w", fileName, err)
		}
		var named map[string]any
		named, errs = fromFile(content.Raw())
		if err := values.Load(confmap.Provider(named, ""), nil); err != nil {
			return fmt.Errorf("%s: %w", fileName, err)
		}
	}
	if err := values.Merge(environment); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	errs = append(errs, unknown(environment.Keys())...)
	for _, field := range fields {
		if err := field.load(values); err != nil {
			errs = append(errs, fmt.Errorf("%s %w", field.name, err))
		}
	}
	return errors.Join(errs...)
}

func (f field) load(values *koanf.Koanf) error {
	value := values.String(f.name)
	if path := values.String(f.name + fileSuffix); f.secret && path != "" {
		if value != "" {
			return fmt.Errorf("is set, and %s%s is too; set one of them", f.name, fileSuffix)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("is to come from a file: %w", err)
		}
		value = strings.TrimSpace(string(content))
	}
	if value == "" {
		value = f.fallback
	}
	if value == "" {
		if f.required {
			return errors.New("is required and not set: " + strings.ReplaceAll(f.meaning, "`", ""))
		}
		return nil
	}
	err := f.set(value)
	if err != nil && !f.secret {
		return fmt.Errorf("(%.100q) %w", value, err)
	}
	return err
}

// fromFile is what a YAML file sets, each value in the form that the environment has; a list gets commas between its parts.
// Every name in the file must be known, and every value one value.
func fromFile(raw map[string]any) (map[string]any, []error) {
	named := map[string]any{}
	var errs []error
	known := known()
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		value, ok := inWords(raw[name])
		switch {
		case !slices.Contains(known, name):
			errs = append(errs, noSetting(name, known))
		case !ok:
			errs = append(errs, fmt.Errorf("%s holds a map in the file; write one value, or a list of values", name))
		case value != "":
			named[name] = value
		}
	}
	return named, errs
}

func inWords(value any) (string, bool) {
	switch value := value.(type) {
	case nil:
		return "", true
	case map[string]any, map[any]any:
		return "", false
	case []any:
		parts := make([]string, len(value))
		for i, part := range value {
			if _, isList := part.([]any); isList {
				return "", false
			}
			words, ok := inWords(part)
			if !ok {
				return "", false
			}
			parts[i] = words
		}
		return strings.Join(parts, ","), true
	}
	return fmt.Sprint(value), true
}

// unknown reports names of ours in the environment that no program knows: a misspelt setting would be ignored otherwise. Names
// of the other program are fine, for both may be started from one file.
func unknown(names []string) []error {
	known := known()
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && !slices.Contains(known, name) {
			errs = append(errs, noSetting(name, known))
		}
	}
	return errs
}

// removed are settings of earlier versions, each with what to do instead. Ignoring one would change who may call.
var removed = map[string]string{
	"GITSMITH_EVENT_MODULES":     movedToKeys("EVENT"),
	"GITSMITH_SCHEDULE_MODULES":  movedToKeys("SCHEDULE"),
	"GITSMITH_LIFECYCLE_MODULES": movedToKeys("LIFECYCLE"),
	"GITSMITH_UNINSTALL_MODULES": movedToKeys("UNINSTALL"),
	"GITSMITH_ALLOW_PRINCIPAL": "the /forge routes take the platform's calls whether or not they name a user; remove it, and set GITSMITH_EVENT_KEYS, " +
		"GITSMITH_SCHEDULE_KEYS, GITSMITH_LIFECYCLE_KEYS and GITSMITH_UNINSTALL_KEYS to pin who may call them",
}

func movedToKeys(route string) string {
	return "every call of Forge's own has the module type core:endpoint; remove it, or set GITSMITH_" + route + "_KEYS to module keys to pin who may call"
}

func noSetting(name string, known []string) error {
	if instead, found := removed[name]; found {
		return fmt.Errorf("%s is no setting any more: %s", name, instead)
	}
	return fmt.Errorf("%.100s is no setting; did you mean %s?", name, nearest(name[:min(len(name), 100)], known))
}

// known are the names that may be set.
func known() []string {
	names := []string{fileName}
	for _, field := range all() {
		names = append(names, field.name)
		if field.secret {
			names = append(names, field.name+fileSuffix)
		}
	}
	return names
}

// all are the settings of both programs, each once.
func all() []field {
	fields := new(API).fields()
	for _, field := range new(Worker).fields() {
		if find(fields, field.name) == nil {
			fields = append(fields, field)
		}
	}
	return fields
}

// nearest is the known name that takes the fewest edits to reach.
func nearest(name string, known []string) string {
	return slices.MinFunc(known, func(a, b string) int { return distance(name, a) - distance(name, b) })
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func (f field) shownDefault() string {
	switch {
	case f.required:
		return "required"
	case f.shown != "":
		return f.shown
	case f.fallback == "":
		return "none"
	}
	return "`" + f.fallback + "`"
}

func help(w io.Writer, fields []field) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(table, "%s\t%s\t%s\n", fileName, "none", "a YAML file with the same names; the environment wins")
	for _, field := range fields {
		meaning := field.meaning
		if field.secret {
			meaning += "; or " + field.name + fileSuffix
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", field.name, strings.ReplaceAll(field.shownDefault(), "`", ""), strings.ReplaceAll(meaning, "`", ""))
	}
	return table.Flush()
}

// Markdown is the table of all settings as README shows it.
func Markdown() string {
	var out strings.Builder
	out.WriteString("| name | default | meaning | program |\n|---|---|---|---|\n")
	api, worker := new(API).fields(), new(Worker).fields()
	for _, field := range all() {
		program, shown := "both", field.shownDefault()
		inAPI, inWorker := find(api, field.name), find(worker, field.name)
		switch {
		case inWorker == nil:
			program = "api"
		case inAPI == nil:
			program = "worker"
		case inAPI.fallback != inWorker.fallback:
			shown += "; worker: " + inWorker.shownDefault()
		}
		meaning := field.meaning
		if field.secret {
			meaning += "; or `" + field.name + fileSuffix + "`"
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", field.name, shown, meaning, program)
	}
	return out.String()
}

func find(fields []field, name string) *field {
	for i := range fields {
		if fields[i].name == name {
			return &fields[i]
		}
	}
	return nil
}
