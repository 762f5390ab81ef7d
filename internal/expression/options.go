package expression

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/vm/runtime"
)

// expr-lang counts what goes into lists, at most a million entries in a run, but of texts only those of repeat, and these once they
// are made. So whatever makes texts is replaced by what looks at its parameters first. Its last parameter, which [patch] gives it, is
// the meter of the whole rendering.
const maxWork = 32 << 20 // bytes of text that are read or made

var errWork = fmt.Errorf("it makes more than %d MiB of text", maxWork>>20)

// meter counts. It is a variable under a name that nobody can write.
type meter struct{ work float64 }

const meterName = "the meter"

func (m *meter) take(work float64) error {
	if m.work += work; m.work > maxWork {
		return errWork
	}
	return nil
}

// options are what expressions may use: their variables, and few functions beside expr-lang's own. The clock is not among them: an
// event that is delivered again has to make the same job.
func (l Language) options() []expr.Option {
	options := []expr.Option{
		expr.Env(metered(l.Variables)), expr.MaxNodes(maxNodes), expr.DisableBuiltin("now"), expr.Patch(patch{}),
		function("branch", shortName("refs/heads/")), function("tag", shortName("refs/tags/")), function("kebab", kebab),
		function("quoteRegexp", regexp.QuoteMeta),
		function("quoteWith", func(text string) string { return strings.ReplaceAll(text, "$", "$$") }),
		measured(&builtin.Function{Name: addText, Func: add, Types: []reflect.Type{reflect.TypeFor[func(string, string) string]()}}, nil),
		measured(&builtin.Function{Name: addAny, Func: add, Types: []reflect.Type{reflect.TypeFor[func(any, any) any]()}}, nil),
	}
	for _, each := range builtin.Builtins {
		if isMeasured(each.Name) {
			options = append(options, measured(each, growths[each.Name]))
		}
	}
	return options
}

// shortName is a ref without its beginning, or a short name as it is, which is how Forge's push events name refs; empty for a full
// ref that begins otherwise.
func shortName(prefix string) func(string) string {
	return func(ref string) string {
		name, found := strings.CutPrefix(ref, prefix)
		if !found && strings.HasPrefix(name, "refs/") {
			return ""
		}
		return name
	}
}

var notKebab = regexp.MustCompile(`[^a-z0-9]+`)

// kebab makes words fit for a branch's name: lower case, anything else a dash.
func kebab(text string) string {
	return strings.Trim(notKebab.ReplaceAllString(strings.ToLower(text), "-"), "-")
}

// function is one of ours, from text to text.
func function(name string, call func(string) string) expr.Option {
	return measured(&builtin.Function{
		Name: name, Types: []reflect.Type{reflect.TypeFor[func(string) string]()},
		Func: func(parameters ...any) (any, error) { return call(parameters[0].(string)), nil },
	}, nil)
}

// growths has expr-lang's functions that make texts or take them apart, with the bytes that their parameters make where that is more
// than a few times what they are.
var growths = map[string]func(parameters []any) float64{
	"upper": nil, "lower": nil, "string": nil, "toBase64": nil, "fromBase64": nil,
	"repeat": func(p []any) float64 { return size(p[0]) * float64(runtime.ToInt(p[1])) },
	"replace": func(p []any) float64 {
		text, _ := p[0].(string)
		old, _ := p[1].(string)
		return float64(strings.Count(text, old)) * size(p[2])
	},
	"join": func(p []any) float64 {
		if len(p) < 2 {
			return 0
		}
		return size(p[0]) * size(p[1])
	},
	"split": pieces, "splitAfter": pieces,
	"toJSON":   func(p []any) float64 { return 6 * float64(weight(reflect.ValueOf(p[0]), maxWork)) }, // as \u0000
	"fromJSON": func(p []any) float64 { return 16 * size(p[0]) },
}

func pieces(p []any) float64 {
	text, _ := p[0].(string)
	separator, _ := p[1].(string)
	return 16 * float64(strings.Count(text, separator)+1)
}

// size is a text's bytes or a list's entries.
func size(value any) float64 {
	switch list := reflect.ValueOf(value); list.Kind() {
	case reflect.String, reflect.Slice:
		return float64(list.Len())
	}
	return 0
}

// measured is a function that takes what it reads and makes from the meter, and does not begin what is too much.
func measured(base *builtin.Function, growth func([]any) float64) expr.Option {
	call := func(parameters []any) (any, error) {
		switch {
		case base.Fast != nil:
			return base.Fast(parameters[0]), nil
		case base.Safe != nil:
			made, _, err := base.Safe(parameters...)
			return made, err
		}
		return base.Func(parameters...)
	}
	within := func(parameters ...any) (any, error) {
		last := len(parameters) - 1
		used, ok := parameters[last].(*meter)
		if !ok {
			return nil, fmt.Errorf("%s cannot be used in this way", base.Name)
		}
		parameters = parameters[:last]
		work := float64(weight(reflect.ValueOf(parameters), maxWork))
		if growth != nil {
			work += growth(parameters)
		}
		if err := used.take(work); err != nil {
			return nil, err
		}
		return call(parameters)
	}
	return func(c *conf.Config) {
		c.Functions[base.Name] = &builtin.Function{Name: base.Name, Func: within, Validate: validation(base)}
	}
}

// validation takes a function's parameters, with the meter or before it is there. expr-lang's own looks at parameters anew for each
// of the function's types, and at those within them for each of theirs, which a few calls in one another make for ever.
func validation(base *builtin.Function) func([]reflect.Type) (reflect.Type, error) {
	return func(given []reflect.Type) (kind reflect.Type, err error) {
		if last := len(given) - 1; last >= 0 && given[last] == reflect.TypeFor[*meter]() {
			given = given[:last]
		}
		for _, kind = range base.Types {
			if err = accepts(base.Name, kind, given); err == nil {
				return kind.Out(0), nil
			}
		}
		return kind.Out(0), err
	}
}

func accepts(name string, function reflect.Type, given []reflect.Type) error {
	switch wanted := function.NumIn(); {
	case len(given) < wanted:
		return fmt.Errorf("not enough arguments to call %s", name)
	case len(given) > wanted:
		return fmt.Errorf("too many arguments to call %s", name)
	}
	for i, each := range given {
		wanted := function.In(i)
		switch {
		case wanted.Kind() == reflect.Interface:
		case each == nil:
			return fmt.Errorf("cannot use nil as argument (type %s) to call %s", wanted, name)
		case each.Kind() == reflect.Interface || each.AssignableTo(wanted) || wanted.Kind() == reflect.Int && each.ConvertibleTo(wanted) && each.Kind() != reflect.String:
		default:
			return fmt.Errorf("cannot use %s as argument (type %s) to call %s", each, wanted, name)
		}
	}
	return nil
}

// weight is about how many bytes a value takes. It stops counting above the limit: lists that hold each other stand for more
// than there is memory.
func weight(value reflect.Value, limit int) int {
	total := 8
	add := func(inner reflect.Value) bool {
		total += weight(inner, limit-total)
		return total <= limit
	}
	switch value.Kind() {
	case reflect.String:
		total += value.Len()
	case reflect.Interface, reflect.Pointer:
		add(value.Elem())
	case reflect.Slice, reflect.Array:
		for i := 0; i < value.Len() && add(value.Index(i)); i++ {
			continue
		}
	case reflect.Map:
		for each := value.MapRange(); each.Next() && add(each.Key()) && add(each.Value()); {
			continue
		}
	case reflect.Struct:
		for i := 0; i < value.NumField() && add(value.Field(i)); i++ {
			continue
		}
	}
	return total
}

// The functions that + becomes, under names that nobody can write.
const (
	addText = "+ of texts"
	addAny  = "+"
)

func add(p ...any) (any, error) { return runtime.Add(p[0], p[1]), nil }

// patch replaces the + of what is text or may be, and hands the meter to the functions that want it. It knows the types of the calls
// that it has met: they are taken from the calls themselves, or the checker, which comes once more, would not look into them.
type patch map[ast.Node]reflect.Type

// Reset and ShouldRepeat make the walk the last but the checker's, which has looked at nothing of it then.
func (p patch) Reset() {}

// ShouldRepeat is false: one walk does it.
func (p patch) ShouldRepeat() bool { return false }

// Visit is called for each node once, from the leaves up.
func (p patch) Visit(node *ast.Node) {
	switch found := (*node).(type) {
	case *ast.BinaryNode:
		if found.Operator == "+" {
			p.sum(node, found)
		}
	case *ast.CallNode:
		p[found] = found.Type()
		found.SetType(reflect.TypeFor[any]())
		if callee, ok := found.Callee.(*ast.IdentifierNode); ok && isMeasured(callee.Value) {
			found.Arguments = append(found.Arguments, &ast.IdentifierNode{Value: meterName})
		}
	}
}

func (p patch) sum(node *ast.Node, sum *ast.BinaryNode) {
	name, kind := addText, reflect.TypeFor[string]()
	for _, side := range []ast.Node{sum.Left, sum.Right} {
		known := p[side]
		if known == nil {
			known = side.Type()
		}
		switch known.Kind() {
		case reflect.String:
		case reflect.Interface:
			name, kind = addAny, reflect.TypeFor[any]()
		default: // numbers and times, or wrong, which expr-lang says better
			return
		}
	}
	call := &ast.CallNode{
		Callee: &ast.IdentifierNode{Value: name}, Arguments: []ast.Node{sum.Left, sum.Right, &ast.IdentifierNode{Value: meterName}},
	}
	ast.Patch(node, call)
	p[call] = kind
}

// isMeasured is asked for the names of functions. Those of several types are among them for [validation]'s sake.
func isMeasured(name string) bool {
	if at, theirs := builtin.Index[name]; theirs && len(builtin.Builtins[at].Types) > 1 && name != "now" {
		return true
	}
	_, grows := growths[name]
	return grows || slices.Contains([]string{"branch", "tag", "kebab", "quoteRegexp", "quoteWith"}, name)
}

// simple refuses what can do one thing many times, or make much of little: then each part of an expression is worked out once, over
// what its variables hold.
func simple(node ast.Node) error {
	found := &loops{}
	ast.Walk(&node, found)
	return found.err
}

type loops struct{ err error }

// Visit is called for each node once.
func (l *loops) Visit(node *ast.Node) {
	switch node := (*node).(type) {
	case *ast.VariableDeclaratorNode:
		l.err = fmt.Errorf("let cannot be used here; write the value where it is wanted")
	case *ast.PredicateNode, *ast.PointerNode:
		l.err = fmt.Errorf("map, filter and whatever else goes through a list cannot be used here; split, join, first, last and get can")
	case *ast.IdentifierNode:
		if node.Value == "$env" {
			l.err = fmt.Errorf("$env cannot be used here")
		}
	case *ast.BinaryNode:
		if node.Operator == ".." { // that of x in 1..9 is gone by now
			l.err = fmt.Errorf("ranges (1..9) cannot be used here, only to ask whether a number is in one")
		}
		if _, literal := node.Right.(*ast.StringNode); node.Operator == "matches" && !literal {
			l.err = fmt.Errorf("matches wants its regular expression as a text in quotes here")
		}
	}
}
