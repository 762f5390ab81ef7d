package rule

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
)

// template is a string with expressions between {{ and }}.
type template struct {
	parts []part
}

// part is either literal text or an expression.
type part struct {
	literal string
	program *vm.Program
}

const (
	maxExpression = 4096  // bytes
	maxNodes      = 2_000 // of an expression's tree
)

// options are what expressions may use: their variables, and few functions beside expr-lang's own. The clock is not among them: an
// event that is delivered again has to make the same job.
func options(more ...expr.Option) []expr.Option {
	text := new(func(string) string)
	return append([]expr.Option{
		expr.Env(map[string]any{"event": map[string]any{}, "invocation": Invocation{}}),
		expr.MaxNodes(maxNodes), expr.DisableBuiltin("now"),
		expr.Function("branch", shortName("refs/heads/"), text),
		expr.Function("tag", shortName("refs/tags/"), text),
		expr.Function("quoteRegexp", func(p ...any) (any, error) { return regexp.QuoteMeta(p[0].(string)), nil }, text),
		expr.Function("quoteWith", func(p ...any) (any, error) { return strings.ReplaceAll(p[0].(string), "$", "$$"), nil }, text),
		expr.Function("kebab", func(p ...any) (any, error) { return kebab(p[0].(string)), nil }, text),
	}, more...)
}

// shortName is a ref without its beginning, or a short name as it is, which is how Forge's push events name refs; empty for a full
// ref that begins otherwise.
func shortName(prefix string) func(...any) (any, error) {
	return func(parameters ...any) (any, error) {
		name, found := strings.CutPrefix(parameters[0].(string), prefix)
		if !found && strings.HasPrefix(name, "refs/") {
			return "", nil
		}
		return name, nil
	}
}

var notKebab = regexp.MustCompile(`[^a-z0-9]+`)

// kebab makes words fit for a branch's name: lower case, anything else a dash.
func kebab(text string) string {
	return strings.Trim(notKebab.ReplaceAllString(strings.ToLower(text), "-"), "-")
}

// parseTemplate is nil for a text without expressions.
func parseTemplate(text string) (*template, error) {
	var parsed template
	for rest := text; rest != ""; {
		before, after, found := strings.Cut(rest, "{{")
		if before != "" {
			parsed.parts = append(parsed.parts, part{literal: before})
		}
		if !found {
			break
		}
		end := closing(after)
		if end < 0 {
			return nil, fmt.Errorf("%.80q: {{ is not closed by }}", text)
		}
		program, err := compile(strings.TrimSpace(after[:end]))
		if err != nil {
			return nil, err
		}
		parsed.parts = append(parsed.parts, part{program: program})
		rest = after[end+2:]
	}
	for _, each := range parsed.parts {
		if each.program != nil {
			return &parsed, nil
		}
	}
	return nil, nil
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

func compile(code string, more ...expr.Option) (*vm.Program, error) {
	switch {
	case code == "":
		return nil, fmt.Errorf("an expression is empty")
	case len(code) > maxExpression:
		return nil, fmt.Errorf("an expression has %d bytes, at most %d", len(code), maxExpression)
	}
	program, err := expr.Compile(code, options(more...)...)
	if err != nil {
		return nil, fmt.Errorf("%s", firstLine(err.Error()))
	}
	return program, nil
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// text works the template out. What an expression gives is written as text: numbers in decimal, lists and maps as JSON.
func (t *template) text(field string, variables map[string]any) (string, error) {
	var out strings.Builder
	for _, each := range t.parts {
		if each.program == nil {
			out.WriteString(each.literal)
			continue
		}
		value, err := expr.Run(each.program, variables)
		if err != nil {
			return "", runFault(field, err)
		}
		switch value := value.(type) {
		case nil:
			return "", fault.Newf(fault.Invalid, "%s: an expression gives nil for this event; say what else with ??", field)
		case string:
			out.WriteString(value)
		default:
			encoded, err := json.Marshal(value)
			if err != nil {
				return "", runFault(field, err)
			}
			out.Write(encoded)
		}
	}
	return out.String(), nil
}

// render makes a request of its own out of the blueprint's copy, with texts in place of its templates.
func (r *rule) render(request any, variables map[string]any) error {
	rendered, err := r.renderValue(reflect.ValueOf(request).Elem(), variables)
	if err != nil {
		return err
	}
	reflect.ValueOf(request).Elem().Set(rendered)
	return nil
}

// renderValue is a copy of what the blueprint has there, as deep as it holds strings.
func (r *rule) renderValue(value reflect.Value, variables map[string]any) (reflect.Value, error) {
	switch value.Kind() {
	case reflect.String:
		found := r.templates[value.String()]
		if found == nil {
			return value, nil
		}
		text, err := found.text(strconv.Quote(shorten(value.String())), variables)
		return reflect.ValueOf(text).Convert(value.Type()), err
	case reflect.Pointer:
		if value.IsNil() {
			return value, nil
		}
		inner, err := r.renderValue(value.Elem(), variables)
		if err != nil {
			return value, err
		}
		fresh := reflect.New(value.Type().Elem())
		fresh.Elem().Set(inner)
		return fresh, nil
	case reflect.Struct:
		fresh := reflect.New(value.Type()).Elem()
		fresh.Set(value)
		for i := range value.NumField() {
			inner, err := r.renderValue(value.Field(i), variables)
			if err != nil {
				return value, err
			}
			fresh.Field(i).Set(inner)
		}
		return fresh, nil
	case reflect.Slice:
		fresh := reflect.MakeSlice(value.Type(), value.Len(), value.Len())
		for i := range value.Len() {
			inner, err := r.renderValue(value.Index(i), variables)
			if err != nil {
				return value, err
			}
			fresh.Index(i).Set(inner)
		}
		if value.IsNil() {
			return value, nil
		}
		return fresh, nil
	}
	return value, nil
}

func shorten(text string) string {
	if len(text) > 60 {
		return strings.ToValidUTF8(text[:60], "") + "…"
	}
	return text
}

// environment is what expressions see.
func environment(event forge.Event, invocation Invocation) map[string]any {
	return map[string]any{"event": plain(event.Fields), "invocation": invocation}
}

// plain turns numbers as they were written into Go's.
func plain(value any) any {
	switch value := value.(type) {
	case map[string]any:
		fresh := make(map[string]any, len(value))
		for name, each := range value {
			fresh[name] = plain(each)
		}
		return fresh
	case []any:
		fresh := make([]any, len(value))
		for i, each := range value {
			fresh[i] = plain(each)
		}
		return fresh
	case json.Number:
		if whole, err := value.Int64(); err == nil {
			return int(whole)
		}
		number, _ := value.Float64() // out of range is infinite
		return number
	}
	return value
}
