package systemtest

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gitsmith/gitsmith/internal/testkit"
)

// binaries are built once for the package.
var binaries = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "gitsmith-binaries-")
	if err != nil {
		return "", err
	}
	build := exec.Command("go", "build", "-o", folder+string(filepath.Separator), "../../cmd/api", "../../cmd/worker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return folder, fmt.Errorf("go build: %w\n%s", err, output)
	}
	return folder, nil
})

// process is one of the two binaries, running.
type process struct {
	name    string
	command *exec.Cmd
	log     *testkit.Buffer
	ops     string // base URL
	exited  chan struct{}
}

// startProcess runs a binary by the given settings and waits until it is ready.
func startProcess(t testing.TB, name string, environ ...string) *process {
	t.Helper()
	folder, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	ops := testkit.FreeAddress(t)
	p := &process{name: name, log: new(testkit.Buffer), ops: "http://" + ops, exited: make(chan struct{})}
	p.command = exec.Command(filepath.Join(folder, name))
	p.command.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GITSMITH_OPS_ADDR=" + ops}, environ...)
	p.command.Stdout, p.command.Stderr = p.log, p.log
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.command.Wait() // the state says how it ended
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", name, withoutPolls(p.log.String()))
		}
	})
	testkit.Eventually(t, name+" is ready", func() error {
		select {
		case <-p.exited:
			t.Fatalf("%s ended: %s\n%s", name, p.command.ProcessState, p.log)
		default:
		}
		response, err := http.Get(p.ops + "/readyz")
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", response.StatusCode)
		}
		return nil
	})
	return p
}

// withoutPolls leaves out the lines of the test's own questions.
func withoutPolls(log string) string {
	var kept strings.Builder
	for line := range strings.Lines(log) {
		if !strings.Contains(line, `"GET"`) && !strings.Contains(line, "GET /v1/jobs") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// kill ends the process at once, by SIGKILL.
func (p *process) kill() {
	_ = p.command.Process.Kill() // it may have ended
	<-p.exited
}

// stop ends the process softly and returns its exit status.
func (p *process) stop(t testing.TB) int {
	t.Helper()
	if err := p.command.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	testkit.Receive(t, p.name+" stops", p.exited)
	return p.command.ProcessState.ExitCode()
}
