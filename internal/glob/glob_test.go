package glob_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/glob"
)

func parse(t testing.TB, pattern string) *glob.Glob {
	t.Helper()
	g, err := glob.Parse(pattern)
	if err != nil {
		t.Fatalf("%q: %v", pattern, err)
	}
	return g
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for pattern, paths := range map[string]struct{ yes, no []string }{
		"README.md":       {[]string{"README.md"}, []string{"readme.md", "a/README.md", "README.md/a", ""}},
		"*.go":            {[]string{"a.go", ".go"}, []string{"a/b.go", "a.go.x"}},
		"**/*.go":         {[]string{"a.go", "a/b.go", "a/b/c.go"}, []string{"a.go/b", "a/go"}},
		"**/a":            {[]string{"a", "x/a", "x/y/a"}, []string{"xa", "a/x"}},
		"docs/**":         {[]string{"docs/a", "docs/a/b", "docs"}, []string{"docsx", "a/docs/b", "doc"}},
		"docs/**/*":       {[]string{"docs/a", "docs/a/b"}, []string{"docs"}},
		"a/**/b":          {[]string{"a/b", "a/x/b", "a/x/y/b"}, []string{"ab", "a/xb", "a/b/c"}},
		"a/**/b/**/c":     {[]string{"a/b/c", "a/b/b/c", "a/x/b/y/c"}, []string{"a/c", "a/bc", "a/b/xc"}},
		"**":              {[]string{"a", "a/b"}, nil},
		"**/**":           {[]string{"a", "a/b"}, nil},
		"a/**/**":         {[]string{"a", "a/b"}, []string{"ab"}},
		"**/a/**":         {[]string{"a", "a/b", "x/a", "x/a/y/z"}, []string{"ab", "xa/b"}},
		"a**":             {[]string{"a", "ab"}, []string{"a/b"}},
		"a**/b":           {[]string{"a/b", "ax/b"}, []string{"a/x/b", "b"}},
		"**a/b":           {[]string{"a/b", "xa/b"}, []string{"x/a/b"}},
		"***/b":           {[]string{"a/b"}, []string{"a/a/b", "b"}},
		"?":               {[]string{"a", "ü", "\xff"}, []string{"", "ab", "/"}},
		"a?c":             {[]string{"abc"}, []string{"a/c", "ac"}},
		"[a-c]x":          {[]string{"ax", "cx"}, []string{"dx", "x"}},
		"[!a-c]x":         {[]string{"dx", "-x"}, []string{"ax", "/x"}},
		"[^a]":            {[]string{"b"}, []string{"a", "/"}},
		"[-a]":            {[]string{"-", "a"}, []string{"b"}},
		"[a-]":            {[]string{"-", "a"}, []string{"b"}},
		`[\]\-]`:          {[]string{"]", "-"}, []string{`\`}},
		"[ä-ü]":           {[]string{"ö"}, []string{"o"}},
		"{a,b}/c":         {[]string{"a/c", "b/c"}, []string{"c/c", "a,b/c"}},
		"{a,b{c,d}}":      {[]string{"a", "bc", "bd"}, []string{"b", "ad"}},
		"a{,b}":           {[]string{"a", "ab"}, []string{"b"}},
		"{**/,}a":         {[]string{"a", "x/a"}, []string{"xa"}},
		"{src/**,docs}/a": {[]string{"src/a", "src/x/a", "docs/a"}, []string{"docs/x/a", "srca"}},
		"**{/a,b}":        {[]string{"a", "x/a", "b", "xb"}, []string{"x/b"}},
		"a/{**,b}":        {[]string{"a", "a/b", "a/b/c"}, []string{"b"}},
		"{a,b}*{c,d}":     {[]string{"ac", "bxd"}, []string{"a/c"}},
		"{a}":             {[]string{"a"}, []string{"{a}"}},
		"{}a":             {[]string{"a"}, nil},
		`\*`:              {[]string{"*"}, []string{"a", `\*`}},
		`\{a\}`:           {[]string{"{a}"}, []string{"a"}},
		`{a\,b,c}`:        {[]string{"a,b", "c"}, []string{"a"}},
		"[{]a,b[}]":       {[]string{"{a,b}"}, nil},
		"\xff*":           {[]string{"\xffa"}, []string{"\xfea", "\ufffda"}},
		"a,b?":            {[]string{"a,bc"}, nil},
	} {
		g := parse(t, pattern)
		for _, path := range paths.yes {
			if !g.Match(path) {
				t.Errorf("%q does not match %q", pattern, path)
			}
		}
		for _, path := range paths.no {
			if g.Match(path) {
				t.Errorf("%q matches %q", pattern, path)
			}
		}
	}
}

// TestDiffersFromDoublestar lists where doublestar says something else, and why.
func TestDiffersFromDoublestar(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		pattern, path string
		want          bool
	}{
		"a class takes no slash, as in git":         {"a[!b]c", "a/c", false},
		"a * may be empty at the end":               {"a*{b,}", "a", true},
		"several * at the end may be empty":         {"a***", "a", true},
		"a * before ** at the end may be empty":     {"a*/**", "a", true},
		"** twice is ** once":                       {"a/**/**", "a", true},
		"** in braces at the end":                   {"a/{**,b}", "a", true},
		"** before braces that begin with a slash":  {"**{/a,/b}", "x/y/a", true},
		"stars of different braces do not join":     {"{*,a}*/b", "x/y/b", false},
		"a slash at the end wants one":              {"a/**/", "a", false},
		"a byte that is no UTF-8 is only itself":    {"\xff*", "\xfe", false},
		"** in a part of its own by an alternative": {"{a,**}{/b,c}", "x/y/b", true},
	} {
		if got := parse(t, tc.pattern).Match(tc.path); got != tc.want {
			t.Errorf("%s: %q and %q: %t", name, tc.pattern, tc.path, got)
		}
		if doublestar.MatchUnvalidated(tc.pattern, tc.path) == tc.want {
			t.Errorf("%s: doublestar says the same of %q and %q now", name, tc.pattern, tc.path)
		}
	}
}

func TestParts(t *testing.T) {
	t.Parallel()
	for pattern, want := range map[string]struct {
		base    string
		literal bool
	}{
		"a": {"a", true}, "a/b": {"a/b", true}, `a/\*`: {"a/*", true}, "*": {"", false}, "a*": {"", false}, "a/b*": {"a", false}, "a/**": {"a", false},
		"a/b/**/c": {"a/b", false}, `a/\[b/*`: {"a/[b", false}, "{a,b}/c": {"", false}, "a/{b,c}": {"a", false}, "a/?": {"a", false}, "**/a": {"", false},
	} {
		g := parse(t, pattern)
		path, literal := g.Literal()
		if g.Base() != want.base || literal != want.literal || literal && path != want.base || g.String() != pattern {
			t.Errorf("%q: base %q, literal %q %t, written %q", pattern, g.Base(), path, literal, g)
		}
	}
	if (&glob.Glob{}).Match("a") {
		t.Error("the zero glob matches")
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ pattern, says string }{
		"empty":                   {"", "it is empty"},
		"class open":              {"a[b", "[ has no ]"},
		"class open after !":      {"[!", "[ has no ]"},
		"class open after range":  {"[a-", "[ has no ]"},
		"class open, quoted":      {`[a\`, "[ has no ]"},
		"class of nothing":        {"[]", "nothing in between"},
		"class of not nothing":    {"[^]", "nothing in between"},
		"class backwards":         {"[z-a]", "runs backwards"},
		"braces open":             {"{a,b", "{ has no }"},
		"braces open in braces":   {"{a,{b}", "{ has no }"},
		"braces only closed":      {"a}", "} has no {"},
		"ends in a backslash":     {`a\`, `ends in a \`},
		"too long":                {strings.Repeat("a", glob.MaxBytes) + "*", "at most 1024 bytes"},
		"too many parts":          {strings.Repeat("a/", 64) + "*", "more than 64 parts"},
		"too many parts, braces":  {"{" + strings.Repeat("a/", 64) + "}", "more than 64 parts"},
		"too many **":             {strings.Repeat("**/", 17), "more than 16 **"},
		"too many **, in braces":  {"{" + strings.Repeat("**,", 17) + "}", "more than 16 **"},
		"too many *":              {strings.Repeat("*a", 65), "more than 64 wildcards"},
		"too deep":                {strings.Repeat("{", 9) + strings.Repeat("}", 9), "more than 8 braces"},
		"much too deep":           {strings.Repeat("{", 1000), "more than 8 braces"},
		"too many alternatives":   {strings.Repeat("{a,b}", 11), "more than 1024 globs"},
		"many more alternatives":  {strings.Repeat("{a,b}", 200), "more than 1024 globs"},
		"one brace too many":      {"{" + strings.Repeat(",", 511) + "}{,,}*", "more than 1024 globs"},
		"** before many branches": {"{" + strings.Repeat("**,", 15) + "**}{" + strings.Repeat("/,", 50) + "}", "** and braces stand for too much"},
	} {
		g, err := glob.Parse(tc.pattern)
		switch {
		case err == nil:
			t.Errorf("%s: taken, with a bound of %d for 100 bytes", name, g.Bound(100))
		case !strings.Contains(err.Error(), tc.says):
			t.Errorf("%s: %v, which does not say %q", name, err, tc.says)
		case len(tc.pattern) > 8 && strings.Contains(err.Error(), tc.pattern):
			t.Errorf("%s: the error repeats the pattern", name)
		}
	}
	if _, err := glob.Parse(strings.Repeat("a", 4096)); err != nil {
		t.Errorf("a path that is as long as paths may be: %v", err)
	}
}

// attacks are patterns that take a backtracking matcher, such as doublestar, time that is exponential in their length, or at least much,
// each with a path that it almost matches.
var attacks = map[string][2]string{
	"121 bytes":                {strings.Repeat("*{a,a}", 20) + "b", strings.Repeat("a", 200) + "b"},
	"braces behind stars":      {strings.Repeat("*{a,a}", 10) + "[b]", strings.Repeat("a", 200) + "c"},
	"braces behind **":         {strings.Repeat("**/{a,a}/", 10) + "[b]", strings.Repeat("a/", 200) + "c"},
	"stars in braces":          {strings.Repeat("{*,*}", 10) + "[b]", strings.Repeat("a", 200) + "c"},
	"** in braces":             {strings.Repeat("{**/,**/}", 8) + "[b]", strings.Repeat("a/", 200) + "c"},
	"nested braces":            {strings.Repeat("{a,*", 7) + strings.Repeat("}", 7) + "[b]", strings.Repeat("a", 200) + "c"},
	"braces of nothing":        {strings.Repeat("{,}", 10) + "*" + "[b]", strings.Repeat("a", 200) + "c"},
	"braces before **":         {strings.Repeat("{a,a/}**{/,a}", 5) + "[b]", strings.Repeat("a/a", 200)},
	"classes in braces":        {strings.Repeat("*{[a-m],[!n-z]}", 10) + "[0]", strings.Repeat("a", 200) + "c"},
	"many stars":               {strings.Repeat("*a", 64) + "[b]", strings.Repeat("a", 4000) + "c"},
	"many stars, one wrong":    {strings.Repeat("a*", 64) + "[b]", strings.Repeat("a", 4000) + "bc"},
	"many **":                  {strings.Repeat("**/a/", 16) + "[b]", strings.Repeat("a/", 2000) + "c"},
	"many ** and stars":        {strings.Repeat("**/*a*/", 16) + "[b]", strings.Repeat("aa/", 1300) + "c"},
	"many classes":             {strings.Repeat("*[a-z]", 64) + "[0]", strings.Repeat("a", 4000)},
	"one large class":          {"*[" + strings.Repeat("b", 1000) + "]", strings.Repeat("a", 4000)},
	"a large class many times": {strings.Repeat("*["+strings.Repeat("a", 90)+"]", 10) + "[0]", strings.Repeat("a", 4000) + "1"},
	"a long text behind *":     {"*" + strings.Repeat("a", 1000) + "b?", strings.Repeat("a", 4094) + "bb"},
	"many questions":           {"*" + strings.Repeat("?", 1000) + "b?", strings.Repeat("a", 4096)},
	"many alternatives":        {"*{" + strings.Repeat("a,", 500) + "}b?", strings.Repeat("a", 4096)},
}

// TestBound: whatever the pattern, a match takes no more steps than Bound says, which is linear in the path, and no glob is larger than the
// parser allows. A pattern that is refused costs nothing.
func TestBound(t *testing.T) {
	t.Parallel()
	for name, attack := range attacks {
		g, err := glob.Parse(attack[0])
		if err != nil {
			t.Logf("%s: %d bytes, refused: %v", name, len(attack[0]), err)
			continue
		}
		_, steps := g.Steps(attack[1])
		bound := g.Bound(len(attack[1]))
		if most := 1 + glob.StepsPerState*glob.MaxSize*(len(attack[1])+1); steps > bound || bound > most {
			t.Errorf("%s: %d steps, more than the bound of %d, or that is more than %d", name, steps, bound, most)
		}
		if steps < len(attack[1]) {
			t.Errorf("%s: only %d steps; it is no attack", name, steps)
		}
		t.Logf("%s: %d bytes, %d steps of at most %d", name, len(attack[0]), steps, bound)
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	g := parse(t, "*a*")
	meter := glob.NewMeter(100)
	for i := 0; ; i++ {
		matched, err := meter.Match(t.Context(), g, "bbbab")
		if err == nil && matched && i < 100 {
			continue
		}
		if fault.KindOf(err) != fault.TooLarge || i == 0 || i == 100 {
			t.Errorf("after %d: %v", i, err)
		}
		break
	}
	why := errors.New("the job's time is over")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	if _, err := glob.NewMeter(0).Match(ctx, g, "a"); !errors.Is(err, why) {
		t.Errorf("after the end: %v", err)
	}
}
