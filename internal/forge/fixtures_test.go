package forge_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/forge"
)

// documented is every event type that Bitbucket sends to Forge apps, and the two of an app's own life, by the reference of
// Forge's events (June 2026).
var documented = []string{
	"avi:bitbucket:created:repository", "avi:bitbucket:updated:repository", "avi:bitbucket:push:repository", "avi:bitbucket:deleted:repository",
	"avi:bitbucket:created:build-status", "avi:bitbucket:updated:build-status", "avi:bitbucket:created:commit-comment",
	"avi:bitbucket:created:pullrequest", "avi:bitbucket:updated:pullrequest", "avi:bitbucket:fulfilled:pullrequest", "avi:bitbucket:rejected:pullrequest",
	"avi:bitbucket:created:pullrequest-comment", "avi:bitbucket:updated:pullrequest-comment", "avi:bitbucket:deleted:pullrequest-comment",
	"avi:bitbucket:resolved:pullrequest-comment", "avi:bitbucket:reopened:pullrequest-comment", "avi:bitbucket:updated:pullrequest-reviewer-status",
	"avi:bitbucket:pending:deployment", "avi:bitbucket:started:deployment", "avi:bitbucket:completed:deployment",
	"avi:forge:installed:app", "avi:forge:upgraded:app",
}

// fixture is one bare event of testdata/events. Its name is event.variant: full has every optional field, min none; a push's
// other forms are named push.form.variant.
type fixture struct {
	name   string
	text   []byte
	fields map[string]any
}

func fixtures(tb testing.TB) []fixture {
	tb.Helper()
	paths, err := filepath.Glob("testdata/events/*.json")
	if err != nil || len(paths) == 0 {
		tb.Fatalf("no fixtures (%v)", err)
	}
	var all []fixture
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		f := fixture{name: strings.TrimSuffix(filepath.Base(path), ".json"), text: text, fields: decoded(tb, text)}
		all = append(all, f)
	}
	return all
}

// kind is the event type that the fixture's name stands for.
func (f fixture) kind() string {
	event, _, _ := strings.Cut(f.name, ".")
	verb, thing, _ := strings.Cut(event, "-")
	switch {
	case event == "push":
		return "avi:bitbucket:push:repository"
	case thing == "app":
		return "avi:forge:" + verb + ":app"
	}
	return "avi:bitbucket:" + verb + ":" + thing
}

func (f fixture) textAt(path ...string) string {
	at := f.fields
	for _, name := range path[:len(path)-1] {
		at, _ = at[name].(map[string]any)
	}
	text, _ := at[path[len(path)-1]].(string)
	return text
}

func decoded(tb testing.TB, text []byte) map[string]any {
	tb.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var fields map[string]any
	if err := decoder.Decode(&fields); err != nil {
		tb.Fatalf("%.100s: %v", text, err)
	}
	return fields
}

// outer are the shapes in which an event was seen to arrive.
var outer = map[string]string{
	"top level": `%s`, "payload": `{"payload":%s}`, "event": `{"event":%s,"context":{"eventType":7}}`, "payload.event": `{"payload":{"event":%s}}`,
}

// retries are retryContexts, and how often the event was delivered before, as they say.
var retries = map[string]int{
	``: 0, `null`: 0, `{}`: 0,
	`{"retryCount":1,"retryReason":"FUNCTION_UPSTREAM_RATE_LIMITED","retryData":null}`:                                 1,
	`{"retryCount":4,"retryReason":"FUNCTION_TIME_OUT","retryData":{"eventType":"x","retryContext":{"retryCount":9}}}`: 4,
}

// written is the event as JSON with its fields in a random order and random space between, some letters escaped; the same
// value each time.
func written(random *rand.Rand, value any) string {
	space := func() string { return []string{"", " ", "\n\t", "\r\n   "}[random.IntN(4)] }
	switch value := value.(type) {
	case map[string]any:
		names := slices.Sorted(maps.Keys(value))
		random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		parts := make([]string, 0, len(names))
		for _, name := range names {
			parts = append(parts, space()+written(random, name)+space()+":"+space()+written(random, value[name])+space())
		}
		return "{" + strings.Join(parts, ",") + "}"
	case []any:
		parts := make([]string, 0, len(value))
		for _, each := range value {
			parts = append(parts, space()+written(random, each)+space())
		}
		return "[" + strings.Join(parts, ",") + "]"
	case string:
		var text strings.Builder
		for _, r := range value {
			plain, _ := json.Marshal(string(r))
			if r < 0x10000 && random.IntN(8) == 0 {
				plain = fmt.Appendf(nil, `"\u%04x"`, r)
			}
			text.Write(plain[1 : len(plain)-1])
		}
		return `"` + text.String() + `"`
	}
	plain, _ := json.Marshal(value)
	return string(plain)
}

func TestEveryDocumentedEventHasFixtures(t *testing.T) {
	t.Parallel()
	if len(documented) != 20+2 {
		t.Fatalf("%d types are listed", len(documented))
	}
	variants := map[string][]string{}
	for _, f := range fixtures(t) {
		if f.fields["eventType"] != f.kind() {
			t.Errorf("%s is of type %v", f.name, f.fields["eventType"])
		}
		if parts := strings.Split(f.name, "."); len(parts) == 2 {
			variants[f.kind()] = append(variants[f.kind()], parts[1])
		}
	}
	for _, kind := range documented {
		if got := strings.Join(variants[kind], " "); got != "full min" {
			t.Errorf("%s has the variants %q", kind, got)
		}
		delete(variants, kind)
	}
	if len(variants) > 0 {
		t.Errorf("not documented: %v", variants)
	}
}

func TestParseEventReadsEveryFixture(t *testing.T) {
	t.Parallel()
	seen := map[string]string{} // digest to fixture
	for _, f := range fixtures(t) {
		random := rand.New(rand.NewPCG(1, uint64(len(seen))))
		when, _ := time.Parse(time.RFC3339Nano, f.textAt("timestamp"))
		own, _ := f.fields["selfGenerated"].(bool)
		plain, err := forge.ParseEvent(f.text)
		if err != nil {
			t.Errorf("%s: %v", f.name, err)
			continue
		}
		if twin, taken := seen[plain.Digest]; taken || len(plain.Digest) != 64 {
			t.Errorf("%s has the digest %q, and so has %s", f.name, plain.Digest, twin)
		}
		seen[plain.Digest] = f.name
		for retry, count := range retries {
			fields := maps.Clone(f.fields)
			if retry != "" {
				fields["retryContext"] = json.RawMessage(retry)
			}
			for shape, format := range outer {
				got, err := forge.ParseEvent(fmt.Appendf(nil, format, written(random, fields)))
				switch {
				case err != nil:
					t.Errorf("%s, %s, retryContext %s: %v", f.name, shape, retry, err)
				case got.Type != f.kind() || !got.Timestamp.Equal(when) || got.SelfGenerated != own || got.Workspace != f.textAt("workspace", "uuid") ||
					got.Repository != f.textAt("repository", "uuid") || got.Slug != f.textAt("repository", "slug") || got.RetryCount != count:
					t.Errorf("%s, %s, retryContext %s: %+v", f.name, shape, retry, got)
				case got.Digest != plain.Digest:
					t.Errorf("%s, %s, retryContext %s: another digest than alone", f.name, shape, retry)
				}
			}
		}
	}
}
