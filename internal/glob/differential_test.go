package glob_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"
	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/glob"
)

// braces are alternatives, each a sequence of string tokens and braces.
type braces [][]any

var tokens = []string{"a", "b", "/", "/", "*", "**", "**", "?", "[ab]", "[^ab/]", "[!a-b/]", "[b-]", `\a`, `\*`, "-", ",", "]", "ü"}

// drawSequence makes a sequence in which every construct appears. What doublestar does not take as it
// documents (see TestDiffersFromDoublestar) is said in another way by clean and documented.
func drawSequence(t *rapid.T, depth int) []any {
	var sequence []any
	for range rapid.IntRange(0, 5).Draw(t, "length") {
		if depth < 2 && rapid.IntRange(0, 4).Draw(t, "braces") == 0 {
			alternatives := make(braces, rapid.IntRange(1, 3).Draw(t, "alternatives"))
			for i := range alternatives {
				alternatives[i] = drawSequence(t, depth+1)
			}
			sequence = append(sequence, alternatives)
			continue
		}
		token := rapid.SampledFrom(tokens).Draw(t, "token")
		if token == "," && depth > 0 {
			token = `\,`
		}
		if before, isText := last(sequence); isText && isStar(before) && isStar(token) {
			continue // written side by side they would be another token
		}
		sequence = append(sequence, token)
	}
	return sequence
}

func last(sequence []any) (token string, isText bool) {
	if len(sequence) == 0 {
		return "", false
	}
	token, isText = sequence[len(sequence)-1].(string)
	return token, isText
}

func isStar(token string) bool { return token == "*" || token == "**" }

func write(sequence []any) string {
	var text strings.Builder
	for _, each := range sequence {
		switch each := each.(type) {
		case string:
			text.WriteString(each)
		case braces:
			parts := make([]string, len(each))
			for i, alternative := range each {
				parts[i] = write(alternative)
			}
			text.WriteString("{" + strings.Join(parts, ",") + "}")
		}
	}
	return text.String()
}

// writeOut is a sequence without its braces: one list of tokens for each choice of alternatives.
func writeOut(sequence []any) [][]string {
	all := [][]string{nil}
	for _, each := range sequence {
		var choices [][]string
		switch each := each.(type) {
		case string:
			choices = [][]string{{each}}
		case braces:
			for _, alternative := range each {
				choices = append(choices, writeOut(alternative)...)
			}
		}
		var longer [][]string
		for _, before := range all {
			for _, choice := range choices {
				longer = append(longer, append(append([]string(nil), before...), choice...))
			}
		}
		all = longer
	}
	return all
}

// clean says the same in a way that doublestar understands as documented; odd is true where there is none.
func clean(list []string) (pattern string, odd bool) {
	var kept []string
	for i, token := range list {
		if isStar(token) && len(kept) > 0 && isStar(kept[len(kept)-1]) {
			kept[len(kept)-1] = "*" // several stars are one, and never a **
			continue
		}
		if token == "**" && i+1 < len(list) && isStar(list[i+1]) {
			token = "*"
		}
		kept = append(kept, token)
	}
	pattern = strings.Join(kept, "")
	for strings.Contains("/"+pattern+"/", "/**/**/") {
		pattern = strings.TrimSuffix(strings.TrimPrefix(strings.ReplaceAll("/"+pattern+"/", "/**/**/", "/**/"), "/"), "/")
	}
	return pattern, strings.HasPrefix(pattern, "/") || strings.HasSuffix(pattern, "/") || strings.Contains(pattern, "//") || pattern == ""
}

// documented is what doublestar says of a pattern without braces, and what it should say where a * before a final /** is empty.
func documented(pattern, path string) bool {
	if doublestar.MatchUnvalidated(pattern, path) {
		return true
	}
	before, found := strings.CutSuffix(pattern, "/**")
	return found && doublestar.MatchUnvalidated(before, path)
}

// drawPath makes any path, or one that is made after a pattern and likely to match.
func drawPath(t *rapid.T, written [][]string) string {
	var path strings.Builder
	for _, token := range rapid.SampledFrom(written).Draw(t, "after") {
		switch {
		case token == "*" || token == "**":
			path.WriteString(rapid.SampledFrom([]string{"a", "b", "ab", "a/b", ""}).Draw(t, "star"))
		case token == "?" || token[0] == '[':
			path.WriteString(rapid.SampledFrom([]string{"a", "b", "-", "c"}).Draw(t, "one"))
		default:
			path.WriteString(strings.TrimPrefix(token, `\`))
		}
	}
	if made := path.String(); made != "" && !slices.Contains(strings.Split(made, "/"), "") && rapid.Bool().Draw(t, "made") {
		return made
	}
	return strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ab*,\]ü-]{1,3}`), 1, 4).Draw(t, "parts"), "/")
}

// TestMeansWhatDoublestarDocuments compares a glob with all that its braces stand for, each as doublestar matches it.
func TestMeansWhatDoublestarDocuments(t *testing.T) {
	t.Parallel()
	matched, braced := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		sequence := drawSequence(t, 0)
		pattern := write(sequence)
		if strings.Count(pattern, "*") > 30 || pattern == "" {
			t.Skip("beyond a bound")
		}
		written := writeOut(sequence)
		if len(written) > 1024 {
			t.Skip("beyond a bound")
		}
		g, err := glob.Parse(pattern)
		if err != nil {
			t.Fatalf("%q: %v", pattern, err)
		}
		var plain []string
		for _, list := range written {
			each, odd := clean(list)
			if odd {
				t.Skip("a part of nothing")
			}
			plain = append(plain, each)
		}
		for range 20 {
			path := drawPath(t, written)
			want := false
			for _, each := range plain {
				want = want || documented(each, path)
			}
			got, steps := g.Steps(path)
			if got != want {
				t.Fatalf("%q and %q: %t, but %q: %t", pattern, path, got, plain, want)
			}
			if steps > g.Bound(len(path)) {
				t.Fatalf("%q and %q: %d steps, the bound is %d", pattern, path, steps, g.Bound(len(path)))
			}
			if base := g.Base(); got && base != "" && path != base && !strings.HasPrefix(path, base+"/") {
				t.Fatalf("%q matches %q, which is not in %q", pattern, path, base)
			}
			if got {
				matched++
				if len(plain) > 1 {
					braced++
				}
			}
		}
	})
	if !testing.Short() && (matched < 100 || braced < 20) { // with -short rapid draws a fifth
		t.Errorf("only %d paths matched, %d of them by braces", matched, braced)
	}
}

// TestTakesWhatDoublestarTakes: of small patterns the same are globs, but for ranges that run backwards.
func TestTakesWhatDoublestarTakes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab/*?{},!^\[\]\\-]{1,12}`).Draw(t, "pattern")
		_, err := glob.Parse(pattern)
		if err != nil && (strings.Contains(err.Error(), "backwards") || strings.Contains(err.Error(), "too complex")) {
			return
		}
		if valid := doublestar.ValidatePattern(pattern); valid != (err == nil) {
			t.Fatalf("%q: %v, doublestar says %t", pattern, err, valid)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, attack := range attacks {
		f.Add(attack[0], attack[1])
	}
	f.Add("docs/**/*.md", "docs/a/b.md")
	f.Add("[^]", "a")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		g, err := glob.Parse(pattern)
		if err != nil {
			return
		}
		if matched, steps := g.Steps(path); steps > g.Bound(len(path)) {
			t.Errorf("%d steps, the bound is %d (matched: %t)", steps, g.Bound(len(path)), matched)
		}
	})
}
