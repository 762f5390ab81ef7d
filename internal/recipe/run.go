package recipe

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
)

const (
	maxShown  = 200     // bytes of the command's words in a failure
	keptWords = 4 << 10 // of which the last line is looked for
	afterEnd  = time.Second
)

// Run runs the recipe name in the folder dir, which it may change; nothing else may write there meanwhile. Its home and its temporary
// files are in a folder beside dir, which is removed. When Run returns, every process of the command is gone. A command that
// fails, takes too long or writes too much is an Invalid fault, one that cannot be started Internal; at the end of ctx the
// error is its cause.
func (b *Book) Run(ctx context.Context, name string, parameters map[string]string, dir string) (err error) {
	r, err := b.find(name, parameters)
	if err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(filepath.Dir(dir), "recipe-")
	if err != nil {
		return r.cannot(err)
	}
	defer func() {
		if left := removeAll(scratch); left != nil && err == nil {
			err = r.cannot(left)
		}
	}()
	home, temp := filepath.Join(scratch, "home"), filepath.Join(scratch, "tmp")
	if err := errors.Join(os.Mkdir(home, 0o700), os.Mkdir(temp, 0o700)); err != nil {
		return r.cannot(err)
	}
	before, err := sizes(ctx, dir)
	if err != nil {
		return r.unmeasured(ctx, err)
	}
	bounded, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	run := &run{recipe: r, confinement: b.confinement, dir: dir, env: r.environment(parameters, cmp.Or(os.Getenv("PATH"), standardPath), home, temp)}
	if err := run.do(bounded); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if bounded.Err() != nil {
			return fault.Wrapf(fault.Invalid, err, "recipe %s took longer than %v", r.name, r.timeout)
		}
		return err
	}
	after, err := sizes(ctx, dir)
	if err != nil {
		return r.unmeasured(ctx, err)
	}
	return r.within(before, after)
}

func (r *recipe) cannot(err error) error {
	return fault.Wrapf(fault.Internal, err, "recipe %s cannot be run on this worker; its log says why", r.name)
}

// unmeasured is that the folder could not be read: after the command, it may be the command's doing.
func (r *recipe) unmeasured(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return fault.Wrapf(fault.Invalid, err, "recipe %s: the files cannot be read", r.name)
}

// stamp is what tells that a file was written to. The change time cannot be set by a program.
type stamp struct {
	size    int64
	inode   uint64
	changed syscall.Timespec
}

// sizes looks at each file in a folder, following no link.
func sizes(ctx context.Context, dir string) (map[string]stamp, error) {
	found := map[string]stamp{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return errors.Join(err, context.Cause(ctx))
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		found[path] = stampOf(info)
		return nil
	})
	return found, err
}

// within tells whether the files that were written to are small enough.
func (r *recipe) within(before, after map[string]stamp) error {
	var written int64
	for path, now := range after {
		if before[path] != now {
			written += now.size
		}
	}
	if written > r.output {
		return fault.Newf(fault.Invalid, "recipe %s wrote %d bytes into the repository's files, at most %d are taken", r.name, written, r.output)
	}
	return nil
}

// run is a command that runs.
type run struct {
	recipe      *recipe
	confinement confinement
	dir         string
	env         []string
}

// ended is what a command that ended says: nothing, or how it failed.
func (r *run) ended(state *os.ProcessState, words string) error {
	status, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case state.Success():
		return nil
	case ok && status.Signaled():
		return fault.Newf(fault.Invalid, "recipe %s was ended by a signal: %s%s", r.recipe.name, status.Signal(), r.said(words))
	}
	return fault.Newf(fault.Invalid, "recipe %s exited with status %d%s", r.recipe.name, state.ExitCode(), r.said(words))
}

// said is the last line of the command's words, where the operator lets it be seen.
func (r *run) said(words string) string {
	if !r.recipe.showOutput {
		return ""
	}
	words = strings.TrimSpace(secret.Scrub(words)) // before it is cut, so that no part of a secret is left
	words = words[strings.LastIndexByte(words, '\n')+1:]
	words = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(words, "�"))
	if len(words) > maxShown {
		words = strings.ToValidUTF8(words[:maxShown], "") + "…"
	}
	if words == "" {
		return ""
	}
	return fmt.Sprintf(": %q", words)
}

// tail keeps the last of what a command writes, and takes all of it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p[max(0, len(p)-keptWords):]...)
	if excess := len(t.kept) - keptWords; excess > 0 {
		t.kept = append(t.kept[:0], t.kept[excess:]...)
	}
	return len(p), nil
}

// String is what was kept, without the line that may have been cut: half of a secret looks like none.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.kept) == keptWords {
		_, whole, _ := bytes.Cut(t.kept, []byte("\n"))
		return string(whole)
	}
	return string(t.kept)
}

// drain reads a pipe until stop is called or all that could write to it are gone.
func drain(pipe *os.File) (words *tail, stop func()) {
	words = &tail{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(words, pipe) // its end, or the deadline
	}()
	return words, func() {
		_ = pipe.SetReadDeadline(time.Now().Add(afterEnd))
		<-done
		_ = pipe.Close()
	}
}

// removeAll removes a folder in which a command may have taken rights from itself, as go's module cache does.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() {
			_ = os.Chmod(path, 0o700) //nolint:gosec // a folder of this user's, about to go
		}
		return nil // what cannot be removed is told below
	})
	return os.RemoveAll(dir)
}
