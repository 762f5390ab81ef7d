// Package expression is what stands between {{ and }} in a text, and conditions: expressions of expr-lang over variables that the
// caller declares. Rules speak of an event by them, batches of a repository. It finds the expressions of a value, says what is wrong
// with them, and makes copies of the value with texts in their place. It calls nobody, reads no clock, and bounds what an expression
// may make.
package expression

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"

	"github.com/gitsmith/gitsmith/internal/fault"
)

const (
	maxExpression  = 4096     // bytes
	maxNodes       = 2_000    // of an expression's tree
	maxExpressions = 1_000    // of strangers, in one value
	maxRendered    = 16 << 20 // bytes of text in one value
)

// Language is what expressions may speak of. It is not changed once it is used, and may be used concurrently.
type Language struct {
	// Variables has an example of each: a struct's fields are all there are (named by their tag `expr`), a map may have any.
	Variables map[string]any
	// Subject is what the variables are of, as errors call it: "this event".
	Subject string
	// Strangers write the expressions, not the operator: whatever could work for long is refused. Those are loops (map, filter, …),
	// let, ranges, $env, regular expressions that are worked out, and more than 1,000 expressions in a value.
	Strangers bool
	// Quiet makes errors name the place of a template and the expression, unless it has texts of its own, and say nothing of what stands
	// around it or of values: they are kept in records and logs, which hold no content.
	Quiet bool
}

// Condition is an expression that gives true or false.
type Condition struct {
	language Language
	program  *vm.Program
}

// Text is a text with or without expressions.
type Text struct {
	language Language
	parts    []part
}

// part is either literal text or an expression.
type part struct {
	literal string
	program *vm.Program
	code    string // of the program, where errors may show it: it holds no literal text, which could be content
}

// Condition reads one. Its error is a plain text, without the field's name.
func (l Language) Condition(code string) (*Condition, error) {
	program, err := l.compile(code, expr.AsBool())
	if err != nil {
		return nil, err
	}
	return &Condition{l, program}, nil
}

// Text reads one. Its error is a plain text, without the field's name.
func (l Language) Text(text string) (*Text, error) {
	read := &Text{language: l}
	for rest := text; rest != ""; {
		before, after, found := strings.Cut(rest, "{{")
		if before != "" {
			read.parts = append(read.parts, part{literal: before})
		}
		if !found {
			break
		}
		end := closing(after)
		if end < 0 {
			if l.Quiet {
				return nil, fmt.Errorf("{{ is not closed by }}")
			}
			return nil, fmt.Errorf("%.80q: {{ is not closed by }}", text)
		}
		code := strings.TrimSpace(after[:end])
		program, err := l.compile(code)
		if err != nil {
			return nil, err
		}
		if strings.ContainsAny(code, "\"'`") {
			code = ""
		}
		read.parts = append(read.parts, part{program: program, code: code})
		rest = after[end+2:]
	}
	return read, nil
}

// closing is where }} stands outside of quotes; -1 for nowhere.
func closing(text string) int {
	var quote byte
	depth := 0
	for i := 0; i < len(text); i++ {
		switch char := text[i]; {
		case quote != 0 && char == '\\' && quote != '`':
			i++
		case quote != 0:
			if char == quote {
				quote = 0
			}
		case char == '"' || char == '\'' || char == '`':
			quote = char
		case char == '{':
			depth++
		case char == '}' && depth > 0:
			depth--
		case char == '}' && i+1 < len(text) && text[i+1] == '}':
			return i
		}
	}
	return -1
}

func (l Language) compile(code string, more ...expr.Option) (*vm.Program, error) {
	switch {
	case code == "":
		return nil, fmt.Errorf("an expression is empty")
	case len(code) > maxExpression:
		return nil, fmt.Errorf("an expression has %d bytes, at most %d", len(code), maxExpression)
	}
	program, err := expr.Compile(code, append(l.options(), more...)...)
	if err != nil {
		return nil, fmt.Errorf("%s", firstLine(err.Error()))
	}
	if l.Strangers {
		if err := simple(program.Node()); err != nil {
			return nil, err
		}
	}
	return program, nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// open lets a missing member of a map of texts be nil, as it is in any other map, not an empty text that nobody notices.
func open(variables map[string]any) map[string]any {
	opened := make(map[string]any, len(variables)+1)
	maps.Copy(opened, variables)
	for name, value := range variables {
		if texts, ok := value.(map[string]string); ok {
			values := make(map[string]any, len(texts))
			for key, text := range texts {
				values[key] = text
			}
			opened[name] = values
		}
	}
	return opened
}

// metered are the variables of one rendering.
func metered(variables map[string]any) map[string]any {
	opened := open(variables)
	opened[meterName] = &meter{}
	return opened
}

// Holds works the condition out. Its error is an Invalid fault that begins with the field.
func (c *Condition) Holds(field string, variables map[string]any) (bool, error) {
	yes, err := expr.Run(c.program, metered(variables))
	if err != nil {
		return false, c.language.failed(field, err)
	}
	return yes == true, nil
}

// Render works the text out: what an expression gives is written as text, numbers in decimal, lists and maps as JSON. Its error, also
// where an expression gives nil, is an Invalid fault that begins with the field.
func (t *Text) Render(field string, variables map[string]any) (string, error) {
	room := maxRendered
	return t.render(field, metered(variables), &room)
}

// render takes the text's bytes from the room that there is.
func (t *Text) render(field string, variables map[string]any, room *int) (string, error) {
	var out strings.Builder
	for _, each := range t.parts {
		text := each.literal
		if each.program != nil {
			var err error
			if text, err = t.language.run(t.language.place(field, each.code), each.program, variables); err != nil {
				return "", err
			}
		}
		if *room -= len(text); *room < 0 {
			return "", tooLong(field)
		}
		out.WriteString(text)
	}
	return out.String(), nil
}

// place is what an error of an expression begins with.
func (l Language) place(field, code string) string {
	if !l.Quiet || code == "" {
		return field
	}
	return field + ": {{ " + shorten(code) + " }}"
}

func (l Language) run(field string, program *vm.Program, variables map[string]any) (string, error) {
	value, err := expr.Run(program, variables)
	if err != nil {
		return "", l.failed(field, err)
	}
	switch value := value.(type) {
	case nil:
		return "", fault.Newf(fault.Invalid, "%s: an expression gives nil for %s; say what else with ??", field, l.Subject)
	case string:
		return value, nil
	}
	if weight(reflect.ValueOf(value), maxRendered) > maxRendered {
		return "", tooLong(field)
	}
	encoded, err := json.Marshal(value)
	if err != nil {
		return "", l.failed(field, err)
	}
	return string(encoded), nil
}

// failed is what an expression that failed tells its writer.
func (l Language) failed(field string, err error) error {
	if l.Quiet {
		return fault.Newf(fault.Invalid, "%s: the expression fails for %s; a field that may be absent is read with ?. and ??", field, l.Subject)
	}
	return fault.Wrapf(fault.Invalid, err, "%s: the expression fails for %s: %.200s; a field that may be absent is read with ?. and ??", field, l.Subject, firstLine(err.Error()))
}

func tooLong(field string) error {
	return fault.Newf(fault.Invalid, "%s: with the expressions worked out there are more than %d MiB of text", field, maxRendered>>20)
}
