package ledger

import (
	"strings"
	"testing"
)

// TestArguments: a script takes what its file names, in that order, and says what is wrong elsewhere.
func TestArguments(t *testing.T) {
	t.Parallel()
	s := &script{name: "x", keys: []string{"record"}, args: []string{"now", "id"}}
	for name, tc := range map[string]struct {
		keys []string
		args []arg
		rest []any
		want string
	}{
		"right":         {[]string{"k"}, []arg{{"now", 1}, {"id", 2}}, nil, ""},
		"another order": {[]string{"k"}, []arg{{"id", 2}, {"now", 1}}, nil, `argument 1 is "now"`},
		"too few":       {[]string{"k"}, []arg{{"now", 1}}, nil, "given 1"},
		"no key":        {nil, []arg{{"now", 1}, {"id", 2}}, nil, "given 0"},
		"a rest":        {[]string{"k"}, []arg{{"now", 1}, {"id", 2}}, []any{3}, "1 more"},
	} {
		_, err := s.values(tc.keys, tc.args, tc.rest)
		if got := errorText(err); (tc.want == "") != (err == nil) || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
