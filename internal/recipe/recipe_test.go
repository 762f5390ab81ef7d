//go:build linux

package recipe_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/recipe"
)

func TestMain(m *testing.M) {
	if recipe.Trampoline(os.Args[1:]) {
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

const canary = "canary-recipe-8d21f0"

// load makes a book of recipes whose commands are scripts of sh.
func load(t *testing.T, text string) *recipe.Book {
	t.Helper()
	path := filepath.Join(t.TempDir(), "recipes.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	book, err := recipe.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return book
}

// script is a recipe of sh, with more of its fields.
func script(name, text string, fields ...string) string {
	return fmt.Sprintf("  - name: %s\n    argv: [\"sh\", \"-c\", %s]\n", name, strconv.Quote(text)) + strings.Join(append(fields, ""), "\n")
}

// bothWays runs a test with what the kernel gives to keep commands apart, and without.
func bothWays(t *testing.T, text string, test func(t *testing.T, book *recipe.Book, namespaces bool)) {
	book := load(t, "recipes:\n"+text)
	t.Run("apart", func(t *testing.T) {
		if !book.Namespaces() {
			t.Skip("the kernel, or the container, refuses namespaces")
		}
		test(t, book, true)
	})
	t.Run("limits alone", func(t *testing.T) {
		bare, show, err := book.WithoutNamespaces()
		if err != nil {
			t.Fatal(err)
		}
		defer show()
		test(t, bare, false)
	})
}

// folder is one for the files, in one of its own.
func folder(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "files")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 1 {
			t.Errorf("left beside the files: %v, %v", left, err)
		}
	})
	return dir
}

func TestRunChangesFiles(t *testing.T) {
	t.Setenv("GITSMITH_KEY", canary)
	text := script("change", `cat >in; printf '%s' "$RECIPE_VERSION" >version; rm gone; mkdir -p "$HOME/a" "$TMPDIR/b"; chmod 555 "$HOME/a"; env >env; ls /proc/self/fd >fds; pwd >where`,
		`    parameters: {version: {pattern: "v?[0-9.]+|none", default: "none"}, unset: {pattern: ".*"}}`, "    env: {GOFLAGS: -mod=mod}")
	bothWays(t, text, func(t *testing.T, book *recipe.Book, _ bool) {
		dir := folder(t)
		if err := os.WriteFile(filepath.Join(dir, "gone"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := book.Run(t.Context(), "change", map[string]string{"version": "v1.2"}, dir); err != nil {
			t.Fatal(err, fault.Private(err))
		}
		if got := read(t, dir, "version") + read(t, dir, "in"); got != "v1.2" {
			t.Errorf("the command was told the version %q", got)
		}
		if _, err := os.Stat(filepath.Join(dir, "gone")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("nothing was removed: %v", err)
		}
		known := map[string]bool{"PATH": true, "HOME": true, "TMPDIR": true, "LANG": true, "RECIPE_VERSION": true, "GOFLAGS": true, "PWD": true, "OLDPWD": true, "SHLVL": true, "_": true}
		environment := read(t, dir, "env")
		for line := range strings.Lines(environment) {
			if name, _, _ := strings.Cut(line, "="); !known[name] {
				t.Errorf("the command has %q in its environment", line)
			}
		}
		if strings.Contains(environment, canary) || !strings.Contains(environment, "GOFLAGS=-mod=mod\n") || !strings.Contains(environment, "LANG=C.UTF-8\n") {
			t.Errorf("the environment is\n%s", environment)
		}
		if fds := strings.Fields(read(t, dir, "fds")); len(fds) > 4 { // ls has the folder open
			t.Errorf("open files: %q", fds)
		}
		if where := strings.TrimSpace(read(t, dir, "where")); where != dir {
			t.Errorf("it ran in %s", where)
		}
	})
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Error(err)
	}
	return string(content)
}

// TestWhatFails: each way to fail says so, and is not tried again.
func TestWhatFails(t *testing.T) {
	secretText := "fatal: https://user:" + canary + "@example.com/x refused"
	text := script("fails", "echo "+canary+" >&2; exit 3") +
		script("shown", "echo first >&2; echo '"+secretText+"' >&2; exit 4", "    show_output: true") +
		script("long", "head -c 100000 /dev/zero | tr '\\0' x >&2; echo >&2; head -c 300 /dev/zero | tr '\\0' y >&2; exit 5", "    show_output: true") +
		script("slow", "sleep 1000", "    timeout: 300ms") +
		script("deaf", "trap '' TERM INT HUP; while :; do :; done", "    timeout: 300ms") +
		script("hungry", "tail /dev/zero", "    memory: 64MiB") +
		script("big", "dd if=/dev/zero of=big bs=1M count=1 seek=300 2>/dev/null") +
		script("much", "head -c 700 /dev/zero >1; head -c 700 /dev/zero >2", "    output: 1KB") +
		script("signal", "sh -c 'kill -SEGV $$'; exit 1") +
		script("files", "i=3; while ulimit -n | grep -qx 4096; do exit 0; done; exit 9") +
		script("setuid", "grep -q 'NoNewPrivs:.*1' /proc/self/status && [ $(ulimit -c) = 0 ]")
	bothWays(t, text, func(t *testing.T, book *recipe.Book, _ bool) {
		for name, want := range map[string]string{
			"fails": "recipe fails exited with status 3", "slow": "recipe slow took longer than 300ms", "deaf": "recipe deaf took longer than 300ms",
			"shown":  `recipe shown exited with status 4: "fatal: https://[redacted]@example.com/x refused"`,
			"long":   `recipe long exited with status 5: "` + strings.Repeat("y", 200) + `…"`,
			"hungry": "recipe hungry ", "big": "recipe big ", "signal": "recipe signal exited with status 1",
			"much": "recipe much wrote 1400 bytes into the repository's files, at most 1000 are taken", "files": "", "setuid": "",
		} {
			err := book.Run(t.Context(), name, nil, folder(t))
			switch {
			case want == "":
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case err == nil || fault.KindOf(err) != fault.Invalid || !strings.HasPrefix(fault.Public(err), want):
				t.Errorf("%s: %v (%s), want %s", name, err, fault.Private(err), want)
			}
			if strings.Contains(fault.Private(err), canary) {
				t.Errorf("%s: the command's words are in %q", name, fault.Private(err))
			}
		}
	})
}

// TestNothingIsLeftRunning: at its end, at its timeout and at the end of ctx, what a command started ends.
func TestNothingIsLeftRunning(t *testing.T) {
	// A lock that a process holds tells whether it lives, in whichever namespace.
	const child = `flock %s lock sh -c 'echo >started; exec sleep 1000' & while ! [ -e started ]; do :; done; `
	text := script("leaves", fmt.Sprintf(child, "-x")) +
		script("escapes", "setsid "+fmt.Sprintf(child, "-x")) +
		script("hangs", fmt.Sprintf(child, "-x")+"sleep 1000", "    timeout: 5s") + // a machine under load needs some of it to start
		script("waits", fmt.Sprintf(child, "-x")+"sleep 1000")
	for _, tool := range []string{"flock", "setsid"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	bothWays(t, text, func(t *testing.T, book *recipe.Book, namespaces bool) {
		for _, name := range []string{"leaves", "escapes", "hangs", "waits"} {
			if name == "escapes" && !namespaces {
				continue // a session of its own leaves the group: docs/recipes.md says so
			}
			dir := folder(t)
			cause := fault.Newf(fault.Canceled, "the caller has canceled the job")
			ctx, cancel := context.WithCancelCause(t.Context())
			if name == "waits" {
				go func() {
					for {
						if _, err := os.Stat(filepath.Join(dir, "started")); err == nil || t.Context().Err() != nil {
							break
						}
					}
					cancel(cause)
				}()
			}
			err := book.Run(ctx, name, nil, dir)
			cancel(nil)
			if name == "waits" && !errors.Is(err, cause) {
				t.Errorf("%s: %v, want the context's cause", name, err)
			}
			if name == "hangs" && !strings.Contains(fmt.Sprint(err), "took longer") {
				t.Errorf("%s: %v", name, err)
			}
			lock, err := os.Open(filepath.Join(dir, "lock"))
			if err != nil {
				t.Fatal(name, err)
			}
			if !locked(t, lock) {
				t.Errorf("%s: a process of it lives", name)
			}
			lock.Close()
		}
	})
}

// locked takes a lock, for which the kernel may need a moment after the kill.
func locked(t *testing.T, file *os.File) bool {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		if syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			return true
		}
	}
	return false
}

// TestApart: a command has no network, and cannot look into the worker.
func TestApart(t *testing.T) {
	t.Setenv("GITSMITH_KEY", canary)
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("bash, which can open connections, is not installed")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	connect := func(name string, fields string) string {
		return "  - name: " + name + "\n    argv: [bash, -c, \"exec 3<>/dev/tcp/127.0.0.1/$RECIPE_PORT\"]\n    parameters: {port: {pattern: '\\d+', required: true}}\n" + fields
	}
	text := connect("default", "") + connect("network", "    network: on\n") +
		script("peek", `cat /proc/$RECIPE_PID/environ >environ 2>/dev/null; head -c 100 /proc/$RECIPE_PID/mem >mem 2>/dev/null; true`, "    parameters: {pid: {pattern: '[0-9]+', required: true}}") +
		script("kill", `kill -9 $RECIPE_PID`, "    parameters: {pid: {pattern: '[0-9]+', required: true}}")
	bothWays(t, text, func(t *testing.T, book *recipe.Book, namespaces bool) {
		port := map[string]string{"port": strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)}
		if err := book.Run(t.Context(), "network", port, folder(t)); err != nil {
			t.Errorf("a recipe that has the network: %v", err)
		}
		if err := book.Run(t.Context(), "default", port, folder(t)); (err == nil) == namespaces {
			t.Errorf("a recipe that has none: %v", err)
		}
		if !namespaces && os.Getuid() == 0 {
			t.Skip("root looks into every process, and ends it")
		}
		dir := folder(t)
		if err := book.Run(t.Context(), "peek", map[string]string{"pid": strconv.Itoa(os.Getpid())}, dir); err != nil {
			t.Error(err)
		}
		if got := read(t, dir, "environ") + read(t, dir, "mem"); got != "" {
			t.Errorf("it sees %q of the worker", got)
		}
		if namespaces {
			if err := book.Run(t.Context(), "kill", map[string]string{"pid": strconv.Itoa(os.Getpid())}, folder(t)); err == nil {
				t.Error("it found the worker's process")
			}
		}
	})
}

func TestCannotStart(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(program, []byte("#!/nowhere/interpreter\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	book := load(t, "recipes:\n  - {name: x, argv: ["+program+"]}\n")
	if err := book.Run(t.Context(), "x", nil, folder(t)); err == nil || fault.KindOf(err) != fault.Internal {
		t.Errorf("an interpreter that is not there: %v", err)
	}
	if err := book.Run(t.Context(), "x", nil, filepath.Join(t.TempDir(), "a", "b")); err == nil || fault.KindOf(err) != fault.Internal {
		t.Errorf("no folder: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := book.Run(ctx, "x", nil, folder(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
}
