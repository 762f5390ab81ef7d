package expression_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/expression"
	"github.com/gitsmith/gitsmith/internal/fault"
)

// repository is as a batch declares it.
type repository struct {
	Workspace  string `expr:"workspace"`
	Slug       string `expr:"slug"`
	FullName   string `expr:"full_name"`
	Name       string `expr:"name"`
	UUID       string `expr:"uuid"`
	Project    string `expr:"project"`
	Language   string `expr:"language"`
	MainBranch string `expr:"main_branch"`
}

var (
	events  = expression.Language{Variables: map[string]any{"event": map[string]any{}}, Subject: "this event"}
	batches = expression.Language{
		Variables: map[string]any{"repository": repository{}, "values": map[string]string{}, "index": 0},
		Subject:   "this repository", Strangers: true,
	}
	web = map[string]any{
		"repository": repository{"acme", "web", "acme/web", "Web", "{1}", "CORE", "go", "main"},
		"values":     map[string]string{"team": "core", "none": "", "long": strings.Repeat("x", 1<<20)}, "index": 7,
	}
)

func render(t *testing.T, language expression.Language, text string, variables map[string]any) (string, error) {
	t.Helper()
	read, err := language.Text(text)
	if err != nil {
		return "", err
	}
	return read.Render("message", variables)
}

func TestTexts(t *testing.T) {
	t.Parallel()
	event := map[string]any{"event": map[string]any{"number": 7, "half": 1.5, "list": []any{1, "a"}, "text": "a b", "flag": true, "deep": map[string]any{"er": nil}}}
	for text, want := range map[string]string{
		"": "", "plain": "plain", "a }} b": "a }} b", "{{ event.number }}": "7", "{{ event.number + 1 }}": "8", "{{ event.number + event.half }}": "8.5",
		"{{ event.half }}": "1.5", "{{ event.list }}": `[1,"a"]`, "a {{ event.text }} b {{ event.flag }}": "a a b b true",
		`{{ event.missing ?? "none" }}`: "none", `{{ event.deep?.er?.nothing ?? "none" }}`: "none", `{{ {"a": {"b": 1}}.a.b }}`: "1", `{{ "}}" }}`: "}}",
		`{{ branch("refs/heads/a/b") }}|{{ branch("refs/tags/a") }}|{{ branch("a") }}`: "a/b||a", `{{ tag("refs/tags/a") }}|{{ tag("refs/heads/a") }}|{{ tag("v1") }}`: "a||v1",
		`{{ kebab("Fix: the Thing!") }}`: "fix-the-thing", `{{ quoteRegexp("a.b") }}`: `a\.b`, `{{ quoteWith("$1") }}`: `$$1`, `{{ event.text | upper() }}`: "A B",
		`{{ event.text + event.text + "c" }}`: "a ba bc", `{{ "a" + "b" }}`: "ab", `{{ let a = event.text; a + upper(a) }}`: "a bA B",
		`{{ map(event.list, string(#) + "!") | join(",") }}`: "1!,a!", `{{ join(split(event.text, " "), "-") }}{{ join(["a"]) }}`: "a-ba",
		`{{ replace("aab", "a", "x") }}{{ replace("aab", "a", "x", 1) }}`: "xxbxab", `{{ repeat("ab", 3) }}`: "ababab", `{{ toJSON(1) }}{{ fromJSON("[1]")[0] }}`: "11",
		`{{ fromBase64(toBase64("a")) }}{{ lower("A") }}{{ last(splitAfter("a,b", ",")) }}{{ split("a,b,c", ",", 2)[1] }}`: "aabb,c",
		`{{ date("2026-01-02").Year() + 1 }}`: "2027", `{{ (event.flag ? "a" : "b") + "c" }}`: "ac", `{{ upper("a") + lower("B") + "c" }}`: "Abc",
	} {
		if got, err := render(t, events, text, event); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"{{ event.missing }}":        "message: an expression gives nil for this event; say what else with ??",
		"{{ event.missing.deeper }}": "message: the expression fails for this event: cannot fetch deeper", "{{ event.text + 1 }}": "fails for this event",
		"{{ event.number + event.text }}": "fails for this event", "{{ upper(event.number) }}": "fails for this event", `{{ repeat("a", -1) }}`: "fails for this event",
	} {
		if got, err := render(t, events, text, event); fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), want) {
			t.Errorf("%s: %q, %v, want %s", text, got, err, want)
		}
	}
}

// TestWrong is found before anything is worked out.
func TestWrong(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a {{ 1": "{{ is not closed", "{{ }}": "an expression is empty", "{{ " + strings.Repeat(" 1 +", 1100) + " 1 }}": "at most 4096", "{{ evnt.a }}": "unknown name evnt",
		"{{ now() }}": "unknown name now", `{{ upper(evnt) }}`: "unknown name evnt", `{{ upper(1) }}`: "cannot use int", `{{ "a" + 1 }}`: "mismatched types", "{{ kebab() }}": "not enough arguments",
		`{{ branch("a", "b") }}`: "too many arguments", `{{ "a" + upper(evnt) }}`: "unknown name evnt", `{{ len(split(evnt, ",")) }}`: "unknown name evnt", `{{ (upper("a") + "b") * 2 }}`: "mismatched types",
		`{{ trim("a", "b", "c") }}`: "too many arguments", `{{ split("a", 1) }}`: "arguments", `{{ repeat("a", "b") }}`: "cannot use string", `{{ upper(nil) }}`: "cannot use nil",
	} {
		if _, err := events.Text(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{`repository.slug startsWith "w"`: true, `repository.language == "java" or index in 8..9`: false, "index in 1..9": true} {
		condition, err := batches.Condition(code)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := condition.Holds("when", web); err != nil || got != want {
			t.Errorf("%s: %t, %v", code, got, err)
		}
	}
	if _, err := batches.Condition("index"); err == nil || !strings.Contains(err.Error(), "expected bool") {
		t.Error(err)
	}
	condition, err := batches.Condition("values.a.b.c == 1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := condition.Holds("when", web); fault.KindOf(err) != fault.Invalid || !strings.HasPrefix(fault.Public(err), "when: the expression fails for this repository") {
		t.Error(err)
	}
}

func TestBatches(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"{{ repository.full_name }} {{ repository.main_branch }} {{ index }}": "acme/web main 7", "{{ values.team }}{{ values.none }}": "core",
		`{{ values.missing ?? "none" }}`: "none", `{{ repository.slug + "-" + upper(values["team"]) }}`: "web-CORE", `{{ index in 1..9 ? "early" : "late" }}`: "early",
		`{{ repository.name matches "^W" }}`: "true", `{{ split(repository.full_name, "/")[0] }}`: "acme",
	} {
		if got, err := render(t, batches, text, web); err != nil || got != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	_, err := render(t, batches, "{{ values.missing }}", web)
	if want := "message: an expression gives nil for this repository; say what else with ??"; fault.KindOf(err) != fault.Invalid || fault.Public(err) != want {
		t.Error(err)
	}
	for text, want := range map[string]string{
		"{{ repository.branch }}": "has no field branch", "{{ repository.Slug }}": "has no field Slug", "{{ event.a }}": "unknown name event",
		"{{ let a = 1; a }}": "let cannot", "{{ map([1], #) }}": "goes through a list", "{{ reduce([1], #acc) }}": "goes through a list", "{{ all([1], true) }}": "goes through a list",
		"{{ 1..9 }}": "ranges", "{{ $env }}": "$env cannot", `{{ "a" matches values.team }}`: "in quotes", `{{ $env["index"] }}`: "$env cannot",
	} {
		if _, err := batches.Text(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestBounds: what would not fit into memory is refused before it is made.
func TestBounds(t *testing.T) {
	t.Parallel()
	nested := func(open, inner, close string, times int) string {
		return "{{ len(" + strings.Repeat(open, times) + inner + strings.Repeat(close, times) + ") }}"
	}
	for name, tc := range map[string]struct {
		language expression.Language
		text     string
	}{
		"repeat":             {batches, `{{ repeat("x", 1000000000) }}`},
		"repeat often":       {batches, `{{ repeat(repeat("x", 100000), 100000) }}`},
		"repeat as an event": {events, `{{ repeat(repeat("x", 100000), 100000) }}`},
		"replace":            {batches, nested("replace(", `"aaaaaaaaaa"`, `, "a", "`+strings.Repeat("a", 50)+`")`, 30)},
		"replace nothing":    {batches, nested("replace(", `"aaaaaaaaaa"`, `, "", "aaaaaaaaaaaaaaaaaaaa")`, 30)},
		"join":               {batches, nested("join(split(", `"aaaaaaaaaa"`, `, ""), "aaaaaaaaaaaaaaaaaaaa")`, 30)},
		"toJSON":             {batches, nested("toJSON(", `"\\"`, ")", 200)},
		"quoteRegexp":        {batches, nested("quoteRegexp(", `"."`, ")", 200)},
		"quoteWith":          {batches, nested("quoteWith(", `"$"`, ")", 200)},
		"+":                  {batches, "{{ len(values.long" + strings.Repeat("+values.long", 300) + ") }}"},
		"upper":              {batches, "{{ len([1" + strings.Repeat(",upper(values.long)", 200) + "]) }}"},
		"lists as JSON":      {batches, "{{ [1" + strings.Repeat(",values", 300) + "] }}"},
		"lists as text":      {batches, "{{ len(string([1" + strings.Repeat(",values", 300) + "])) }}"},
		"split":              {batches, `{{ len(split(repeat("xxxxxxxx", 1000000), "")) }}`},
		"doubled texts":      {events, `{{ let a = "xx"` + doubled("%+%") + "; len(z) }}"},
		"doubled any":        {events, `{{ let a = event.text` + doubled("%+%") + "; len(z) }}"},
		"doubled in a loop":  {events, `{{ len(reduce(1..60, #acc + #acc, "x")) }}`},
		"doubled lists":      {events, `{{ let a = [1]` + doubled("[%,%]") + "; z }}"},
		"doubled to JSON":    {events, `{{ let a = [1]` + doubled("[%,%]") + "; len(toJSON(z)) }}"},
		"many texts":         {batches, strings.Repeat(`{{ values.long }}`, 17)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := render(t, tc.language, tc.text, map[string]any{"event": map[string]any{"text": "xx"}, "repository": web["repository"], "values": web["values"], "index": 1})
			var invalid *fault.Error
			if !errors.As(err, &invalid) || invalid.Kind != fault.Invalid || !strings.Contains(err.Error(), "MiB of text") && !strings.Contains(err.Error(), "budget exceeded") {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	if got, err := render(t, batches, `{{ repeat("x", 1000000) }}{{ values.long }}`, web); err != nil || len(got) != 1_000_000+1<<20 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestNestedCalls are read in no time, whatever is called.
func TestNestedCalls(t *testing.T) {
	t.Parallel()
	for _, call := range []string{`upper(%)`, `trim(%, " ")`, `trimPrefix(%, "x")`, `split(%, ",")[0]`, `replace(%, "a", "b", 1)`, `join([%], "")`, `kebab(%)`, `string(date(string(%), "2006"))`, `(% + "")`, `concat([%], [1])[0]`, `(true ? % : "")`, `get({"a": %}, "a")`} {
		code := `"a"`
		for range 60 {
			code = strings.ReplaceAll(call, "%", code)
		}
		if _, err := batches.Text("{{ " + code + " }}"); err != nil {
			t.Errorf("%s: %v", call, err)
		}
	}
}

// doubled declares b to z, each twice the one before.
func doubled(shape string) string {
	var code strings.Builder
	for name := 'b'; name <= 'z'; name++ {
		code.WriteString("; let " + string(name) + " = " + strings.ReplaceAll(shape, "%", string(name-1)))
	}
	return code.String()
}

func TestUses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"plain": false, "{{ repository.slug }}": false, "{{ repository.project }}": true, "{{ repository?.project }}": true, `{{ repository["project"] }}`: true,
		`{{ [repository][0].slug }}`: true, "{{ repository }}": true, "{{ upper(repository.project) }}": true,
		`{{ values.project }} {{ values["repository"] }}`: false, `{{ "repository.project" }}`: false, "{{ repository.project[:1] }}": true, `{{ repository.slug + repository.language }}`: true,
		`{{ index == 1 ? [repository.project] : {"a": 1} }}`: true, "{{ toJSON([repository]) }}": true, `{{ repository.slug }} and {{ repository.language }}`: true,
	} {
		templates, err := batches.Parse("message", text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got := templates.Uses("repository.project", "repository.language"); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
	for text, want := range map[string]bool{
		"{{ let r = event; r.a.b }}": true, "{{ event.a }}": true, "{{ event.a.b.c }}": true, "{{ event.a.c }}": false, "{{ event.ab }}": false, "{{ $env.event.c }}": true,
		"{{ filter([event], .a) }}": true, "{{ map(event.c, #.a) }}": false, "{{ event.a?.b }}": true,
	} {
		templates, err := events.Parse("message", text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if got := templates.Uses("event.a.b"); got != want {
			t.Errorf("%s: %t", text, got)
		}
	}
}

type named string

type inner struct {
	Path named             `json:"path"`
	Has  map[string]string `json:"has,omitempty"`
}

type blueprint struct {
	Text  string    `json:"text"`
	List  []inner   `json:"list"`
	Inner *inner    `json:"inner,omitempty"`
	Bytes []byte    `json:"bytes"`
	None  []string  `json:"none"`
	At    time.Time `json:"at"`
}

// TestRender makes everything anew that holds templates.
func TestRender(t *testing.T) {
	t.Parallel()
	made := func(text string) blueprint {
		return blueprint{
			Text: text, List: []inner{{Path: "plain"}, {Path: named(text)}}, Inner: &inner{Path: named(text), Has: map[string]string{"{{ 1 }}": text}},
			Bytes: []byte("{{ 1 }}"), At: time.Unix(1, 0),
		}
	}
	original := made("a {{ repository.slug }}")
	templates, err := batches.Parse("push", original)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		fresh := original
		if err := templates.Render(&fresh, web); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(made("a web"), fresh); diff != "" {
			t.Error(diff)
		}
		fresh.List[0].Path, fresh.Inner.Has["x"] = "changed", "changed"
	}
	if diff := cmp.Diff(made("a {{ repository.slug }}"), original); diff != "" {
		t.Errorf("the blueprint is changed: %s", diff)
	}
	templates.Fill(&original, "x")
	if diff := cmp.Diff(made("a x"), original); diff != "" || templates.Len() != 1 {
		t.Errorf("%d templates, %s", templates.Len(), diff)
	}
}

func TestParseNamesThePlace(t *testing.T) {
	t.Parallel()
	for want, wrong := range map[string]blueprint{
		"push.text: unknown name a": {Text: "{{ a }}"}, "push.list[1].path: unknown name a": {List: []inner{{}, {Path: "{{ a }}"}}},
		"push.inner.has.key: unknown name a": {Inner: &inner{Has: map[string]string{"key": "{{ a }}"}}},
	} {
		if _, err := batches.Parse("push", wrong); fault.KindOf(err) != fault.Invalid || !strings.HasPrefix(fault.Public(err), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	many := make([]inner, 1)
	many[0].Path = named(strings.Repeat("{{ 1 }}", 1001))
	if _, err := batches.Parse("push", blueprint{List: many}); err == nil || !strings.Contains(err.Error(), "more than 1000 expressions") {
		t.Error(err)
	}
	if templates, err := batches.Parse("push", blueprint{Text: "{{ values.a }}"}); err != nil {
		t.Error(err)
	} else if err := templates.Render(&blueprint{Text: "{{ values.a }}"}, web); fault.Public(err) != `"{{ values.a }}": an expression gives nil for this repository; say what else with ??` {
		t.Error(err)
	}
}
