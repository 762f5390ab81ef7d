package systemtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// seed is what acme/web holds when a script starts.
var seed = map[string]string{
	"README.md":     "# Web\n",
	"docs/a.md":     "A\n",
	"old.txt":       "old\n",
	"src/config.go": "package web\n\nconst host = \"old.example.com\"\n",
}

// TestScripts runs testdata/*.txtar. Beside testscript's own commands there are:
//
//	start [FILE]               the receiver and a worker, which has the recipes of the file
//	[!] submit WHO FILE        POST /v1/jobs by WHO (user, system, none: the token it brings); sets $JOB; the answer is stdout
//	await STATE                until $JOB is in that state; the job is stdout
//	artifact FILE              downloads $JOB's archive
//	server-git ARGS            git on the server's repository
//	shutdown                   both programs, softly; they must end with status 0
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"start": scriptStart, "submit": scriptSubmit, "await": scriptAwait, "artifact": scriptArtifact,
			"server-git": scriptGit, "shutdown": scriptStop,
		},
		Setup: func(env *testscript.Env) error {
			env.Values[systemKey{}] = &scripted{t: env.T().(testing.TB)}
			env.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
			return nil
		},
	})
}

type systemKey struct{}

// scripted is what one script has started.
type scripted struct {
	t       testing.TB
	system  *system
	worker  *process
	callers map[string]caller
	who     caller // of the last submit
}

func of(ts *testscript.TestScript) *scripted { return ts.Value(systemKey{}).(*scripted) }

func scriptStart(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	s.system = startSystem(s.t, seed)
	var more []string
	if len(args) > 0 {
		more = append(more, "GITSMITH_RECIPES="+ts.MkAbs(args[0]))
	}
	s.worker = s.system.startWorker(more...)
	alice := s.system.userCaller("712020:alice", 4*time.Hour)
	system, none := alice, alice
	system.userToken, system.principal = "", "" // a function of the app
	system.systemToken = s.system.oauthToken(4 * time.Hour)
	none.userToken, none.principal = "", "712020:bob"
	s.callers = map[string]caller{"user": alice, "system": system, "none": none}
}

func scriptSubmit(ts *testscript.TestScript, negated bool, args []string) {
	s := of(ts)
	body := ts.ReadFile(args[1])
	status, answer := s.system.call(s.callers[args[0]], http.MethodPost, "/v1/jobs", body, "Idempotency-Key", key(args[1]))
	fmt.Fprint(ts.Stdout(), answer)
	if (status/100 == 2) == negated {
		ts.Fatalf("status %d: %s", status, answer)
	}
	if !negated {
		ts.Setenv("JOB", s.system.decode(answer).ID)
		s.who = s.callers[args[0]]
	}
}

// key is one for all bodies that are not named after an operation of their own, so that other.json meets push.json's.
func key(file string) string {
	if file == "other.json" {
		file = "push.json"
	}
	return "script-" + file
}

func scriptAwait(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	s.system.await(s.who, ts.Getenv("JOB"), args[0])
	_, answer := s.system.call(s.who, http.MethodGet, "/v1/jobs/"+ts.Getenv("JOB"), "")
	fmt.Fprint(ts.Stdout(), answer)
}

func scriptArtifact(ts *testscript.TestScript, _ bool, args []string) {
	s := of(ts)
	status, answer := s.system.call(s.who, http.MethodGet, "/v1/jobs/"+ts.Getenv("JOB")+"/artifact", "")
	if status != http.StatusOK {
		ts.Fatalf("status %d: %s", status, answer)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(answer), 0o600))
}

func scriptGit(ts *testscript.TestScript, _ bool, args []string) {
	command := gitCommand(of(ts).t.Context(), of(ts).system.bare, args...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		ts.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	fmt.Fprint(ts.Stdout(), stdout.String())
}

func scriptStop(ts *testscript.TestScript, _ bool, _ []string) {
	for _, process := range of(ts).system.logs {
		if status := process.stop(of(ts).t); status != 0 {
			ts.Fatalf("%s ended with status %d", process.name, status)
		}
		checkLog(ts, process.name, process.log.String())
	}
}

var jsonLine = regexp.MustCompile(`^\{.*\}$`)

// checkLog asks that every line is JSON, and that the trace which Forge sent runs through both programs.
func checkLog(ts *testscript.TestScript, program, log string) {
	if !strings.Contains(log, `"trace_id":"`+traceID+`"`) {
		ts.Fatalf("no line of %s has the caller's trace:\n%s", program, log)
	}
	for line := range strings.Lines(log) {
		line = strings.TrimSpace(line)
		if !jsonLine.MatchString(line) || !json.Valid([]byte(line)) {
			ts.Fatalf("a log line is no JSON: %s", line)
		}
	}
}
