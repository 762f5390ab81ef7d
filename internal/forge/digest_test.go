package forge

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// canonicalByEncoder is what digests are of, by encoding/json.
func canonicalByEncoder(tb testing.TB, fields any) string {
	tb.Helper()
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(fields); err != nil {
		tb.Fatal(err)
	}
	return out.String()
}

func checkCanonical(tb testing.TB, body []byte) {
	tb.Helper()
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var fields map[string]any
	if decoder.Decode(&fields) != nil || fields == nil {
		return
	}
	got, err := appendCanonical(nil, fields)
	if want := canonicalByEncoder(tb, fields); err != nil || string(got)+"\n" != want {
		tb.Errorf("%s, %v; encoding/json writes %s", got, err, want)
	}
}

// Two receivers of different versions must make the same job of one event.
func TestCanonicalFormIsThatOfEncodingJSON(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/events/*.json")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		body, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		checkCanonical(t, body)
	}
	for _, body := range []string{
		`{}`, `{"b":[],"a":{},"":null,"c":[null,true,false,-0,1e400,1.50,[[{}]]]}`, `{"<&>":"<&>\u2028\u0000\ud800\"\\/\u007f","ü":"\u00fc🌳"}`,
		"{\"raw\":\"\xff\x7f\"}",
	} {
		checkCanonical(t, []byte(body))
	}
}

func FuzzCanonicalForm(f *testing.F) {
	f.Add([]byte(`{"a":[1,"<\u2028",{"b":null}]}`))
	f.Fuzz(func(t *testing.T, body []byte) { checkCanonical(t, body) })
}
