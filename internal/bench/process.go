package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// childrenVariable makes this program print what the ended children of its process used, as a Sample. A shell script becomes
// this program at its end, by exec, which keeps the account of the process: so the figures are the kernel's own, of the
// script's commands alone, and nobody has to look at them while they run.
const childrenVariable = "GITSMITH_BENCH_CHILDREN"

const scriptEnd = `
echo done
export ` + childrenVariable + `=1
exec "$BENCH" '-test.run=^$'
`

// runScript runs a shell script in folder, with variables, and measures it until its last command has ended.
func runScript(ctx context.Context, folder, script string, variables ...string) (sample Sample, err error) {
	program, err := os.Executable()
	if err != nil {
		return sample, err
	}
	process := exec.CommandContext(ctx, "sh", "-e", "-c", script+scriptEnd)
	process.Dir, process.Env = folder, append(gitEnvironment(), append(variables, "BENCH="+program, noWait)...)
	var stderr bytes.Buffer
	process.Stderr = &stderr
	out, err := process.StdoutPipe()
	if err != nil {
		return sample, err
	}
	start := time.Now()
	if err := process.Start(); err != nil {
		return sample, err
	}
	said := bufio.NewReader(out)
	line, _ := said.ReadString('\n') // an early end is seen below
	wall := time.Since(start)
	rest, _ := io.ReadAll(said)
	if err := process.Wait(); err != nil {
		return sample, fmt.Errorf("the script: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	if line != "done\n" {
		return sample, fmt.Errorf("the script said %q", line)
	}
	err = json.Unmarshal(rest, &sample)
	sample.Wall = wall
	return sample, err
}

// noWait lets a process with the race detector, as a test starts it, end without the second that it waits by default.
const noWait = "GORACE=atexit_sleep_ms=0"

// usageOf is what this process, or its ended children, used (getrusage(2)).
func usageOf(who int) (Sample, error) {
	var usage syscall.Rusage
	err := syscall.Getrusage(who, &usage)
	return Sample{CPU: time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), RSS: usage.Maxrss << 10}, err
}

// peakMemory is the most resident memory that a running process ("self" for this one) has had; zero where it cannot be told.
// Unlike what getrusage says of a process that a large one started, it does not begin with the size of that one.
func peakMemory(pid string) int64 {
	status, _ := os.ReadFile(filepath.Join("/proc", pid, "status"))
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "VmHWM:" {
			kib, _ := strconv.ParseInt(fields[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// ownCPU is the processor time that this process has used.
func ownCPU() time.Duration {
	usage, _ := usageOf(syscall.RUSAGE_SELF) // fails for no other than a wrong argument
	return usage.CPU
}

// trafficPath gives what a server was asked for since it was last looked at.
const trafficPath = "/-/traffic"

func traffic(ctx context.Context, base string) (t Traffic, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+trafficPath, nil)
	if err != nil {
		return t, err
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return t, err
	}
	defer answer.Body.Close() //nolint:errcheck // only read
	return t, json.NewDecoder(answer.Body).Decode(&t)
}
