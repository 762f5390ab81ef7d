package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
)

// Machine describes what the figures were taken on: processor, memory and the versions of the programs, nothing that names
// the machine or its owner.
func Machine(ctx context.Context) string {
	parts := []string{fmt.Sprintf("%d × %s", runtime.NumCPU(), processor())}
	if memory := memoryGiB(); memory > 0 {
		parts = append(parts, fmt.Sprintf("%d GiB", memory))
	}
	parts = append(parts, runtime.GOOS+"/"+runtime.GOARCH, runtime.Version())
	for _, program := range [][]string{{"git", "--version"}, {"redis-server", "--version"}} {
		if out, err := exec.CommandContext(ctx, program[0], program[1:]...).Output(); err == nil {
			parts = append(parts, version(string(out)))
		}
	}
	return strings.Join(parts, ", ")
}

// version shortens what a program says of itself: "git version 2.39.5", "Redis server v=7.0.15 sha=…".
func version(text string) string {
	fields := strings.Fields(text)
	for i, field := range fields {
		if number, found := strings.CutPrefix(field, "v="); found {
			return strings.ToLower(fields[0]) + " " + number
		}
		if field == "version" && i+1 < len(fields) {
			return fields[0] + " " + fields[i+1]
		}
	}
	return strings.TrimSpace(text)
}

func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown processor"
}

func memoryGiB() int {
	info, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(info)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemTotal:" {
			kib, _ := strconv.Atoi(fields[1])
			return (kib + 1<<19) >> 20
		}
	}
	return 0
}
