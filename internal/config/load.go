package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/knadh/koanf/parsers/yaml"
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
	if path := environment.String(fileName); path != "" {
		if err := values.Load(file.Provider(path), yaml.Parser()); err != nil {
			return fmt.Errorf("%s: %w", fileName, err)
		}
	}
	if err := values.Merge(environment); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	errs := unknown(values.Keys())
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

// unknown reports names of ours that no program knows: a misspelt setting would be ignored otherwise. Names of the other
// program are fine, for both may be started from one file.
func unknown(names []string) []error {
	var known []string
	for _, field := range all() {
		known = append(known, field.name)
		if field.secret {
			known = append(known, field.name+fileSuffix)
		}
	}
	known = append(known, fileName)
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("%s is no setting; did you mean %s?", name, nearest(name, known)))
		}
	}
	return errs
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
