package gitrepo_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// TestCapabilitiesAreAskedFor: a push asks for a report whenever the server has them, and for nothing that the server did not
// advertise. The second push uses what the client remembered of the server.
func TestCapabilitiesAreAskedFor(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		protocol string // the header that arrives at the server, for both services
		has      *regexp.Regexp
		lacks    string
	}{
		"version 0":                   {"", regexp.MustCompile("\x00 report-status side-band-64k quiet object-format=sha1 agent=git/gitsmith0000PACK"), ""},
		"version 1":                   {"version=1", regexp.MustCompile("\x00 report-status side-band-64k quiet object-format=sha1 agent=git/gitsmith0000PACK"), ""},
		"version 2":                   {"version=2", regexp.MustCompile("\x00 report-status side-band-64k quiet object-format=sha1 agent=git/gitsmith0000PACK"), ""},
		"version 0, without an agent": {"", regexp.MustCompile("\x00 report-status side-band-64k0000PACK"), `agent=\S+|quiet|object-format=\S+`},
		"version 2, without an agent": {"version=2", regexp.MustCompile("\x00 report-status side-band-64k0000PACK"), `agent=\S+|quiet|object-format=\S+`},
		"version 0, without a band":   {"", regexp.MustCompile("\x00 report-status0000PACK"), `agent=\S+|quiet|object-format=\S+|side-band\S*`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, gitrepo.Config{})
			b.create(map[string]string{"a": "b"})
			var pushes atomic.Int64
			lacks := regexp.MustCompile(tc.lacks)
			hide := gittest.RewriteAnswer(func(line string) string {
				if tc.lacks == "" || strings.HasPrefix(line, "# service") {
					return line
				}
				return strings.TrimPrefix(lacks.ReplaceAllString(line, ""), "\n")
			})
			b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				r.Header.Set("Git-Protocol", tc.protocol)
				text := gittest.BodyOf(r)
				switch phase := gittest.PhaseOf(r); {
				case phase == "receive_pack":
					pushes.Add(1)
					if !tc.has.MatchString(text) {
						command, _, _ := strings.Cut(text, "PACK")
						t.Errorf("the command is %q", command)
					}
				case r.Method == http.MethodGet:
					hide(w, r, b.git)
					return true
				case strings.Contains(text, "agent=") != (tc.lacks == ""):
					t.Errorf("%s says %q", phase, text)
				}
				return false
			})
			for _, text := range []string{"1", "2"} {
				if _, err := b.push(t.Context(), "main", put("x", text)); err != nil {
					t.Fatal(err)
				}
			}
			if pushes.Load() != 2 {
				t.Errorf("%d pushes", pushes.Load())
			}
		})
	}
}

// TestRefusalsWithoutAReport: a server may send an error message in place of a report, in an ERR line or on band 3. The fault quotes
// it; an unknown message is retried; and if the branch moved nonetheless, the push succeeded.
func TestRefusalsWithoutAReport(t *testing.T) {
	t.Parallel()
	eachVersion(t, testRefusalsWithoutAReport)
}

func testRefusalsWithoutAReport(t *testing.T, v0 bool) {
	line := func(text string) string { return fmt.Sprintf("%04x%s", len(text)+4, text) }
	report := line("\x01" + line("unpack ok\n") + line("ok refs/heads/main\n"))
	for name, tc := range map[string]struct {
		answer string
		done   bool // the server takes the push before it says so
		kind   fault.Kind
		want   string
	}{
		"ERR, a rule":              {line("ERR Access denied: main is protected\n"), false, fault.Denied, `"Access denied: main is protected"`},
		"ERR, a size":              {line("ERR the push is over the size limit"), false, fault.TooLarge, "over the size limit"},
		"ERR, an outage":           {line("ERR internal server error: 17"), false, fault.Unavailable, `"internal server error: 17"`},
		"ERR inside the band":      {line("\x01" + line("ERR Access denied")), false, fault.Denied, "Access denied"},
		"the band for errors":      {line("\x02checking\n") + line("\x03You are not allowed to push to main\n"), false, fault.Denied, "You are not allowed to push to main"},
		"the hook's words":         {line("\x02No issue key: ABC-1\n") + line("\x03pre-receive hook declined\n"), false, fault.Denied, "No issue key: ABC-1"},
		"ERR after the push":       {line("ERR something went wrong"), true, 0, ""},
		"the band after the push":  {report + line("\x03post-receive: gone"), true, 0, ""},
		"denied after the push":    {line("\x03access denied"), true, 0, ""},
		"another push was first":   {line("\x03failed to update ref"), false, fault.Unavailable, "has not moved"},
		"the report of another":    {line("\x01"+line("unpack ok\n")+line("ok refs/heads/other\n")+"0000") + "0000", false, fault.Unavailable, ""},
		"a report on nothing":      {line("\x01"+line("unpack ok\n")+"0000") + "0000", false, fault.Unavailable, ""},
		"a report that is cut off": {report, false, fault.Unavailable, "ended too early"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, gitrepo.Config{})
			b.v0.Store(v0)
			b.create(map[string]string{"a": "b"})
			b.intercept(func(w http.ResponseWriter, r *http.Request) bool {
				if gittest.PhaseOf(r) != "receive_pack" {
					return false
				}
				if tc.done {
					b.git.ServeHTTP(httptest.NewRecorder(), r)
				}
				emptyResult(w)
				_, _ = io.WriteString(w, tc.answer) // the client may be gone
				return true
			})
			_, err := b.push(t.Context(), "main", put("x", "y"))
			if tc.done != (err == nil) || err != nil && (fault.KindOf(err) != tc.kind || !strings.Contains(fault.Public(err), tc.want)) {
				t.Errorf("%s: %v", fault.KindOf(err), err)
			}
		})
	}
}

// TestWordsOfHooks: the fault quotes the line of a hook's output, however long, that gives the reason.
func TestWordsOfHooks(t *testing.T) {
	t.Parallel()
	eachVersion(t, testWordsOfHooks)
}

func testWordsOfHooks(t *testing.T, v0 bool) {
	const long = `i=0; while [ $i -lt 400 ]; do echo "checked file number $i, which is fine"; i=$((i+1)); done; `
	for name, tc := range map[string]struct{ hook, want string }{
		"the last line of many":      {long + `echo 'No issue key in the subject'`, `"No issue key in the subject"`},
		"a refusal, then advice":     {long + `echo 'Commit rejected: no issue key'; echo 'See https://example.com/rules'`, `"Commit rejected: no issue key"`},
		"one line, then a signature": {`echo 'No issue key in the subject'; echo 'Your administrators'`, `"No issue key in the subject"`},
		"colours":                    {`printf '\033[1;31m=====\033[0m\n\033[31mNo issue key\033[0m\n'`, `"No issue key"`},
		"a line without an end":      {`echo 'https://x-token-auth:` + canary + `@'; head -c 9000 /dev/zero | tr '\0' x`, "rules refuse the push"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := start(t, gitrepo.Config{})
			b.v0.Store(v0)
			b.create(map[string]string{"a": "b"})
			hook := "#!/bin/sh\ncat >/dev/null\n( " + tc.hook + " ) >&2\nexit 1\n"
			if err := os.WriteFile(filepath.Join(b.git.Path("acme/web"), "hooks", "pre-receive"), []byte(hook), 0o755); err != nil {
				t.Fatal(err)
			}
			_, err := b.push(t.Context(), "main", put("x", "y"))
			if fault.KindOf(err) != fault.Denied || !strings.Contains(fault.Public(err), tc.want) || strings.Contains(fault.Private(err), canary) {
				t.Errorf("%s: %s", fault.KindOf(err), fault.Private(err))
			}
		})
	}
}

// TestContentThatIsRefused: content that git's own checks refuse is Invalid, as no retry can help.
func TestContentThatIsRefused(t *testing.T) {
	t.Parallel()
	eachVersion(t, testContentThatIsRefused)
}

func testContentThatIsRefused(t *testing.T, v0 bool) {
	b := start(t, gitrepo.Config{})
	b.v0.Store(v0)
	b.create(map[string]string{"a": "b"})
	_, err := b.push(t.Context(), "main", edit.FileChange{Path: ".gitmodules", Mode: edit.ModeRegular, Content: []byte("[submodule \"x\"]\n\tpath = x\n\turl = -u./hooks\n")})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(fault.Public(err), "gitmodulesUrl") {
		t.Errorf("%s: %s", fault.KindOf(err), fault.Private(err))
	}
}
