package expression

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Templates are the texts of a value, its blueprint, that hold expressions. It may be used concurrently once nothing is added.
type Templates struct {
	language    Language
	texts       map[string]*Text  // by what is written there
	places      map[string]string // of each, the first
	expressions int
}

// Templates has none yet.
func (l Language) Templates() *Templates {
	return &Templates{language: l, texts: map[string]*Text{}, places: map[string]string{}}
}

// Parse finds the templates among a value's texts, however deep in structs, pointers, lists, and the values of maps. Its error is an
// Invalid fault that names the first wrong one by its place, as JSON's names have it, below the field.
func (l Language) Parse(field string, blueprint any) (*Templates, error) {
	found := l.Templates()
	if err := found.find(field, reflect.ValueOf(blueprint)); err != nil {
		return nil, err
	}
	return found, nil
}

func (t *Templates) find(field string, value reflect.Value) error {
	switch value.Kind() {
	case reflect.String:
		if err := t.Add(value.String()); err != nil {
			return fault.Newf(fault.Invalid, "%s: %s", field, err)
		}
		if _, known := t.places[value.String()]; !known && t.texts[value.String()] != nil {
			t.places[value.String()] = field
		}
	case reflect.Pointer:
		if !value.IsNil() {
			return t.find(field, value.Elem())
		}
	case reflect.Struct:
		for i := range value.NumField() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			if err := t.find(field+"."+name, value.Field(i)); err != nil {
				return err
			}
		}
	case reflect.Slice:
		for i := range value.Len() {
			if err := t.find(fmt.Sprintf("%s[%d]", field, i), value.Index(i)); err != nil {
				return err
			}
		}
	case reflect.Map:
		for each := value.MapRange(); each.Next(); {
			if err := t.find(fmt.Sprintf("%s.%.60s", field, each.Key()), each.Value()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Add adds a text of the blueprint, if it has expressions. Its error is a plain text, without the field's name.
func (t *Templates) Add(text string) error {
	if !strings.Contains(text, "{{") || t.texts[text] != nil {
		return nil
	}
	read, err := t.language.Text(text)
	if err != nil {
		return err
	}
	for _, each := range read.parts {
		if each.program != nil {
			t.expressions++
		}
	}
	if t.language.Strangers && t.expressions > maxExpressions {
		return fmt.Errorf("there are more than %d expressions", maxExpressions)
	}
	t.texts[text] = read
	return nil
}

// Len is how many different texts hold expressions.
func (t *Templates) Len() int { return len(t.texts) }

// Render puts texts in place of the templates of copyOf, which points to a copy of the blueprint. Whatever holds templates is made
// anew, so the blueprint stays as it is. Its error is an Invalid fault that begins with the template, or its place where the language is
// quiet.
func (t *Templates) Render(copyOf any, variables map[string]any) error {
	variables, room := metered(variables), maxRendered
	return replace(copyOf, func(text string) (string, error) {
		found := t.texts[text]
		if found == nil {
			return text, nil
		}
		if t.language.Quiet {
			return found.render(t.places[text], variables, &room)
		}
		return found.render(strconv.Quote(shorten(text)), variables, &room)
	})
}

// Fill does as Render does with the same plain text in place of each expression, whatever it would give.
func (t *Templates) Fill(copyOf any, with string) {
	_ = replace(copyOf, func(text string) (string, error) { // it gives no error
		found := t.texts[text]
		if found == nil {
			return text, nil
		}
		var filled strings.Builder
		for _, each := range found.parts {
			filled.WriteString(each.literal)
			if each.program != nil {
				filled.WriteString(with)
			}
		}
		return filled.String(), nil
	})
}

func replace(copyOf any, text func(string) (string, error)) error {
	target := reflect.ValueOf(copyOf).Elem()
	replaced, err := replaceIn(target, text)
	if err != nil {
		return err
	}
	target.Set(replaced)
	return nil
}

// replaceIn is a copy of the value, as deep as it holds texts.
func replaceIn(value reflect.Value, text func(string) (string, error)) (reflect.Value, error) {
	fresh := reflect.New(value.Type()).Elem()
	fresh.Set(value)
	into := func(target, from reflect.Value) error {
		inner, err := replaceIn(from, text)
		if err == nil {
			target.Set(inner)
		}
		return err
	}
	switch value.Kind() {
	case reflect.String:
		made, err := text(value.String())
		fresh.SetString(made)
		return fresh, err
	case reflect.Pointer:
		if !value.IsNil() {
			fresh.Set(reflect.New(value.Type().Elem()))
			return fresh, into(fresh.Elem(), value.Elem())
		}
	case reflect.Struct:
		for i := range value.NumField() {
			if !fresh.Field(i).CanSet() { // not exported: a time.Time's, for one
				continue
			}
			if err := into(fresh.Field(i), value.Field(i)); err != nil {
				return fresh, err
			}
		}
	case reflect.Slice:
		if !value.IsNil() {
			fresh.Set(reflect.MakeSlice(value.Type(), value.Len(), value.Len()))
		}
		for i := range value.Len() {
			if err := into(fresh.Index(i), value.Index(i)); err != nil {
				return fresh, err
			}
		}
	case reflect.Map:
		if !value.IsNil() {
			fresh.Set(reflect.MakeMapWithSize(value.Type(), value.Len()))
		}
		for each := value.MapRange(); each.Next(); {
			inner, err := replaceIn(each.Value(), text)
			if err != nil {
				return fresh, err
			}
			fresh.SetMapIndex(each.Key(), inner)
		}
	}
	return fresh, nil
}

func shorten(text string) string {
	if len(text) > 60 {
		return strings.ToValidUTF8(text[:60], "") + "…"
	}
	return text
}
