package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// memoryPoll is how often the processes of a command are looked at. The largest ones live for far longer.
const memoryPoll = 2 * time.Millisecond

// command runs one program and adds what it and its children cost to sample. Wall time is the caller's to take.
//
// Memory is looked up while they run: what the kernel reports of an ended child begins with the size of the process that
// started it, which here would be this one's.
func command(ctx context.Context, sample *Sample, directory, name string, args ...string) error {
	process := exec.CommandContext(ctx, name, args...)
	process.Dir, process.Env = directory, gitEnvironment()
	var stderr bytes.Buffer
	process.Stderr = &stderr
	if err := process.Start(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	ended := make(chan struct{})
	peak := make(chan int64, 1)
	go func() { peak <- watchMemory(process.Process.Pid, ended) }()
	err := process.Wait()
	close(ended)
	sample.RSS = max(sample.RSS, <-peak)
	sample.CPU += process.ProcessState.UserTime() + process.ProcessState.SystemTime()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// watchMemory gives the most memory that one process at or below pid was seen to have until ended.
func watchMemory(pid int, ended <-chan struct{}) int64 {
	ticker := time.NewTicker(memoryPoll)
	defer ticker.Stop()
	var most int64
	for {
		select {
		case <-ended:
			return most
		case <-ticker.C:
			most = max(most, familyMemory(strconv.Itoa(pid)))
		}
	}
}

func familyMemory(pid string) int64 {
	most := peakMemory(pid)
	children, _ := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	for child := range strings.FieldsSeq(string(children)) {
		most = max(most, familyMemory(child))
	}
	return most
}

// peakMemory is the most resident memory that a running process ("self" for this one) has had; zero where it cannot be told.
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
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
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
