package archtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/archtest"
)

func TestArchitecture(t *testing.T) {
	t.Parallel()
	graph := list(t)
	if len(graph) < 15 {
		t.Fatalf("go list found %d packages", len(graph))
	}
	for _, violation := range archtest.Violations(graph) {
		t.Error(violation)
	}
}

// TestViolations: every rule is able to fail, and none fails what is as drawn.
func TestViolations(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		room    string
		imports []string
		deps    []string
		want    string // empty: as drawn
	}{
		"as drawn":                    {"worker", []string{"~job", "~fault", "context"}, nil, ""},
		"receiver with echo":          {"receiver", []string{"~job", "github.com/labstack/echo/v4/middleware"}, []string{"github.com/labstack/echo/v4"}, ""},
		"shared library":              {"receiver", []string{"golang.org/x/sync/errgroup"}, nil, ""},
		"kit in a kit":                {"bitbucket/bitbuckettest", []string{"~gitrepo/gittest", "~forge/forgetest"}, nil, ""},
		"testkit in a kit":            {"queue/queuetest", []string{"~testkit", "testing"}, nil, ""},
		"testkit in the system tests": {"systemtest", []string{"~testkit"}, nil, ""},
		"testkit in a program":        {"queue", []string{"~testkit"}, nil, "which is for tests alone"},
		"testkit in the benchmarks":   {"bench", []string{"~testkit"}, nil, "which is for tests alone"},
		"app with everything":         {"app", []string{"~receiver", "~queue", "~gitrepo"}, []string{"github.com/labstack/echo/v4", "github.com/hibiken/asynq"}, ""},
		"receiver to queue":           {"receiver", []string{"~queue"}, nil, "receiver: imports internal/queue, which does not lie below it"},
		"receiver to vault":           {"receiver", []string{"~vault"}, nil, "receiver: imports internal/vault"},
		"worker with git":             {"worker", []string{"~gitrepo", "~repolock", "~artifact"}, []string{"github.com/go-git/go-git/v5"}, ""},
		"worker to vault":             {"worker", []string{"~vault"}, nil, "worker: imports internal/vault, which does not lie below it"},
		"worker to queue":             {"worker", []string{"~queue"}, nil, "worker: imports internal/queue, which does not lie below it"},
		"receiver to gitrepo":         {"receiver", []string{"~gitrepo"}, nil, "receiver: imports internal/gitrepo, which is for [internal/worker]"},
		"queue to repolock":           {"queue", []string{"~repolock"}, nil, "queue: imports internal/repolock, which is for [internal/worker]"},
		"ops to artifact":             {"ops", []string{"~artifact"}, nil, "ops: imports internal/artifact, which is for [internal/worker]"},
		"upwards":                     {"fault", []string{"~job"}, nil, "fault: imports internal/job"},
		"to app":                      {"queue", []string{"~app"}, nil, "queue: imports internal/app"},
		"kit in a program":            {"app", []string{"~queue/queuetest"}, nil, "a test kit"},
		"kit upwards":                 {"forge/forgetest", []string{"~app"}, nil, "which lies above it"},
		"library in another room":     {"worker", []string{"github.com/go-git/go-git/v5/plumbing"}, nil, "which is for [internal/gitrepo]"},
		"asynq in ops":                {"ops", []string{"github.com/hibiken/asynq"}, nil, "which is for [internal/queue]"},
		"asynqmon in ops":             {"ops", []string{"github.com/hibiken/asynqmon"}, nil, ""},
		"unknown library":             {"worker", []string{"example.com/new"}, nil, "a library that has no room yet"},
		"undrawn package":             {"helper", nil, nil, "internal/helper: is not drawn"},
		"git called":                  {"gitrepo", []string{"os/exec"}, nil, "imports os/exec"},
		"weak randomness":             {"secret", []string{"math/rand/v2"}, nil, "imports math/rand/v2"},
		"old logger":                  {"receiver", []string{"log"}, nil, "imports log,"},
		"testing in a program":        {"worker", []string{"testing"}, nil, "imports testing"},
		"files in a pure room":        {"job", []string{"os"}, nil, "but it is to be pure"},
		"echo and asynq meet":         {"receiver", nil, []string{"github.com/labstack/echo/v4", "github.com/hibiken/asynq"}, "brings together"},
		"git and asynq meet":          {"worker", nil, []string{"github.com/go-git/go-git/v5", "github.com/hibiken/asynq"}, "brings together"},
		"git and asynq meet in a kit": {"gitrepo/gittest", nil, []string{"github.com/go-git/go-git/v5", "github.com/hibiken/asynq"}, "brings together"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			made := archtest.Package{ImportPath: archtest.Module + "internal/" + tc.room, Deps: tc.deps}
			for _, imported := range tc.imports {
				made.Imports = append(made.Imports, strings.Replace(imported, "~", archtest.Module+"internal/", 1))
			}
			found := archtest.Violations([]archtest.Package{made})
			switch {
			case tc.want == "" && len(found) > 0:
				t.Errorf("found %q where all is as drawn", found)
			case tc.want != "" && (len(found) != 1 || !strings.Contains(found[0], tc.want)):
				t.Errorf("found %q, want one that says %q", found, tc.want)
			}
		})
	}
}

// list is the module's own packages. One that does not build is listed all the same: the compiler says that better.
func list(t *testing.T) []archtest.Package {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=ImportPath,Imports,Deps", "./...")
	command.Dir = root
	var errorText bytes.Buffer
	command.Stderr = &errorText
	output, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, errorText.Bytes())
	}
	var graph []archtest.Package
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var p archtest.Package
		switch err := decoder.Decode(&p); {
		case errors.Is(err, io.EOF):
			return graph
		case err != nil:
			t.Fatal(err)
		}
		graph = append(graph, p)
	}
}
