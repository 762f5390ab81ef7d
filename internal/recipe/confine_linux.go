package recipe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// The kernel's numbers that package syscall lacks; the same on every architecture that Go's 64-bit ports to Linux have, but MIPS.
const (
	rlimitProcesses  = 6
	prSetDumpable    = 4
	prSetNoNewPrivs  = 38
	waitForPID       = 1
	namespacesAlways = syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC
	innerUser        = 1000 // root's name within; root there would keep its rights over namespaces
)

const (
	maxOpenFiles = 4_096
	maxProcesses = 1_024     // and threads of one recipe, where it has its own users
	minFileSize  = 256 << 20 // of the largest file: those beside the repository's own count too
	probeTimeout = 10 * time.Second
	failureFD    = 3 // where a trampoline says why it could not start the command
)

// trampolineArgument begins the arguments of a process that is to become a recipe's command.
const trampolineArgument = "gitsmith-recipe-trampoline"

// Trampoline takes over where args, those after the program's name, say that this process is to become a recipe's command: Go can
// set no limits between fork and exec, so the worker starts itself. It returns at once in any other process; in this one it
// does not, unless the command cannot be started: then started is true, and why was told to the parent.
func Trampoline(args []string) (started bool) {
	if len(args) < 2 || args[0] != trampolineArgument {
		return false
	}
	report := os.NewFile(failureFD, "report")
	if err := become(args[1:]); err != nil {
		fmt.Fprint(report, err)
	}
	return true
}

// limitsArgument is how the limits are handed on.
func (r *recipe) limitsArgument(processes int) string {
	cpu := int64(math.Ceil(r.timeout.Seconds()))*int64(runtime.NumCPU()) + 1
	return fmt.Sprintf("%d,%d,%d,%d", r.memory, max(r.output, minFileSize), cpu, processes)
}

// become sets limits and is the command from then on. args are the limits, the program and its arguments; without a program it
// is a trial.
func become(args []string) error {
	runtime.LockOSThread() // what it gives up is of the thread that execs
	var memory, file, cpu, processes uint64
	if _, err := fmt.Sscanf(args[0], "%d,%d,%d,%d", &memory, &file, &cpu, &processes); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("no new privileges: %w", errno)
	}
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0o600) // where memory runs out, this goes first
	if err := closeOnExec(); err != nil {
		return fmt.Errorf("open files: %w", err)
	}
	if len(args) < 3 {
		return nil
	}
	// Go's own process is larger than many a limit on memory. From the limit to the exec it must want none, so nothing else runs.
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(1)
	limits := []struct {
		resource int
		value    uint64
	}{
		{syscall.RLIMIT_CORE, 0},
		{syscall.RLIMIT_FSIZE, file},
		{syscall.RLIMIT_CPU, cpu},
		{syscall.RLIMIT_NOFILE, maxOpenFiles},
		{rlimitProcesses, processes},
		{syscall.RLIMIT_AS, memory}, // the last: from there on this process may get no memory
	}
	for _, limit := range limits {
		var current syscall.Rlimit
		if err := syscall.Getrlimit(limit.resource, &current); err != nil {
			return fmt.Errorf("limit %d: %w", limit.resource, err)
		}
		if limit.resource == rlimitProcesses && limit.value == 0 {
			continue
		}
		value := min(limit.value, current.Max)
		if err := syscall.Setrlimit(limit.resource, &syscall.Rlimit{Cur: value, Max: value}); err != nil {
			return fmt.Errorf("limit %d: %w", limit.resource, err)
		}
	}
	return syscall.Exec(args[1], args[2:], os.Environ())
}

// closeOnExec lets the command inherit no file but its standard ones, whoever opened it.
func closeOnExec() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= failureFD {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// probe finds what this process may keep commands apart with. Where nothing hides the worker's memory and environment from
// a command that runs as the same user, they are hidden by making it impossible to dump this process.
func probe() (confinement, error) {
	var failed error
	for _, c := range []confinement{{namespaces: true, users: true}, {namespaces: true}, {}} {
		trial := &run{recipe: &recipe{name: "trial", timeout: probeTimeout}, confinement: c, dir: "/"}
		ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
		err := trial.do(ctx)
		cancel()
		if err != nil {
			failed = err
			continue
		}
		if !c.users {
			return c, hide()
		}
		return c, nil
	}
	return confinement{}, fmt.Errorf("this program cannot start commands: %w", errors.Join(failed, errors.Unwrap(failed)))
}

// hide keeps other processes of this user from looking into this one.
func hide() error {
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetDumpable, 0, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("hide this process from commands: %w", errno)
	}
	return nil
}

func (r *run) attributes() *syscall.SysProcAttr {
	attributes := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if !r.confinement.namespaces {
		return attributes
	}
	attributes.Cloneflags = namespacesAlways
	if r.recipe.network != networkAllowed {
		attributes.Cloneflags |= syscall.CLONE_NEWNET
	}
	if r.confinement.users {
		attributes.Cloneflags |= syscall.CLONE_NEWUSER
		user, group := os.Getuid(), os.Getgid()
		attributes.UidMappings = []syscall.SysProcIDMap{{ContainerID: notRoot(user), HostID: user, Size: 1}}
		attributes.GidMappings = []syscall.SysProcIDMap{{ContainerID: notRoot(group), HostID: group, Size: 1}}
	}
	return attributes
}

func notRoot(id int) int {
	if id == 0 {
		return innerUser
	}
	return id
}

// do starts the command, waits for it and ends what it leaves, at the end of ctx with it.
func (r *run) do(ctx context.Context) error {
	// Where the thread that started a process ends, the process gets its Pdeathsig.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	failure, reports, err := os.Pipe()
	if err != nil {
		return r.recipe.cannot(err)
	}
	pipe, stderr, err := os.Pipe()
	if err != nil {
		return r.recipe.cannot(errors.Join(err, failure.Close(), reports.Close()))
	}
	processes := 0
	if r.confinement.users {
		processes = maxProcesses
	}
	// The context ends it below, with all that it started.
	command := exec.Command("/proc/self/exe", append([]string{trampolineArgument, r.recipe.limitsArgument(processes), r.recipe.program}, r.recipe.argv...)...) //nolint:noctx // see above
	if r.recipe.program == "" {
		command.Args = command.Args[:3]
	}
	command.Dir, command.Env, command.Stderr, command.ExtraFiles = r.dir, r.env, stderr, []*os.File{reports}
	if command.Env == nil {
		command.Env = []string{}
	}
	command.SysProcAttr = r.attributes()
	err = command.Start()
	_ = reports.Close()
	_ = stderr.Close()
	if err != nil {
		return r.recipe.cannot(errors.Join(err, failure.Close(), pipe.Close()))
	}
	words, drained := drain(pipe)
	why, said := drain(failure)
	err = waitKilling(ctx, command)
	drained()
	said()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return r.recipe.cannot(err)
	}
	if reason := why.String(); reason != "" {
		return r.recipe.cannot(errors.New(reason))
	}
	return r.ended(command.ProcessState, words.String())
}

// waitKilling waits for a command's end, which that of ctx brings about, and ends what it left running.
func waitKilling(ctx context.Context, command *exec.Cmd) error {
	var mu sync.Mutex
	waited := false
	kill := func() {
		mu.Lock()
		defer mu.Unlock()
		if !waited { // until then its number is nobody else's
			killGroup(command.Process.Pid)
		}
	}
	defer context.AfterFunc(ctx, kill)()
	waitExited(command.Process.Pid)
	kill()
	mu.Lock()
	waited = true
	mu.Unlock()
	return command.Wait()
}

// killGroup ends a process and its group; of a process namespace's first one, all that are in it.
func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) }

// waitExited waits for the end of a child, and leaves it to be waited for.
func waitExited(pid int) {
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, waitForPID, uintptr(pid), 0, syscall.WEXITED|syscall.WNOWAIT, 0, 0)
		if errno != syscall.EINTR {
			return
		}
	}
}

func stampOf(info fs.FileInfo) stamp {
	found := stamp{size: info.Size()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		found.inode, found.changed = stat.Ino, stat.Ctim
	}
	return found
}
