package app

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/rule"
)

// TestRulesDocument: what docs/rules.md shows is right, and it knows every event.
func TestRulesDocument(t *testing.T) {
	t.Chdir(filepath.Join("..", "..")) // where its commands are to be run
	text, err := os.ReadFile(filepath.Join("docs", "rules.md"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, block := range regexp.MustCompile("(?ms)^```(\\w+)\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		seen[block[1]]++
		switch block[1] {
		case "yaml":
			if _, err := rule.Parse([]byte(block[2]), job.DefaultLimits()); err != nil {
				t.Errorf("%s\n%v", block[2], err)
			}
		case "sh":
			for line := range strings.Lines(block[2]) {
				runDocumented(t, strings.Fields(line))
			}
		default:
			t.Errorf("a block of %s that nobody checks", block[1])
		}
	}
	if seen["yaml"] < 3 || seen["sh"] != 1 {
		t.Errorf("blocks: %v", seen)
	}
	fixtures, err := filepath.Glob("internal/forge/testdata/events/*.json")
	if err != nil || len(fixtures) < 22 {
		t.Fatalf("%d fixtures, %v", len(fixtures), err)
	}
	for _, path := range fixtures {
		var event struct {
			Type string `json:"eventType"`
		}
		content, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(content, &event) != nil || !strings.Contains(string(text), "`"+event.Type+"`") {
			t.Errorf("%s: %q is not in the document (%v)", path, event.Type, err)
		}
	}
}

func runDocumented(t *testing.T, words []string) {
	t.Helper()
	if len(words) < 3 || words[0] != "worker" || words[1] != "rules" {
		t.Errorf("%q is no command of worker rules", words)
		return
	}
	var stdout, stderr bytes.Buffer
	status := Main(Worker(), words[1:], nil, &stdout, &stderr)
	wanted := map[string]string{"check": "1 rules, all right", "test": "1 of 1 rules make a job", "schema": "Gitsmith rules"}[words[2]]
	if status != 0 || wanted == "" || !strings.Contains(stdout.String(), wanted) {
		t.Errorf("%q: status %d\n%s%s", words, status, stdout.String(), stderr.String())
	}
}
