// Package gittest is a real git server for tests and the sandbox: git's own http-backend over a folder of bare repositories,
// with answers that can be scripted in front of it. It needs no testing.T.
package gittest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// Server serves every bare repository below its root at the repository's path, to everybody, for reading and writing.
type Server struct {
	root    string
	backend string
}

// New makes a server over root, which it creates. git must be installed.
func New(root string) (*Server, error) {
	output, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, fmt.Errorf("git is not installed: %w", err)
	}
	backend := filepath.Join(strings.TrimSpace(string(output)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		return nil, fmt.Errorf("git has no http-backend: %w", err)
	}
	return &Server{root: root, backend: backend}, os.MkdirAll(root, 0o750)
}

// Path is a repository's folder; name is its path without .git, such as acme/web.
func (s *Server) Path(name string) string {
	return filepath.Join(s.root, filepath.FromSlash(name)+".git")
}

// ServeHTTP answers as git's http-backend does. A body without a length is spooled first: net/http/cgi takes no other, and git
// sends larger pushes without one.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength < 0 {
		spooled, err := spool(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer func() {
			_ = spooled.Close()
			_ = os.Remove(spooled.Name())
		}()
	}
	handler := cgi.Handler{
		Path: s.backend, Root: "/", Dir: s.root, Stderr: io.Discard,
		Env: []string{
			"GIT_PROJECT_ROOT=" + s.root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_SYSTEM=" + os.DevNull,
			"REMOTE_USER=gittest", // without one http-backend refuses pushes
		},
		InheritEnv: []string{"PATH"},
	}
	handler.ServeHTTP(w, r)
}

func spool(r *http.Request) (*os.File, error) {
	file, err := os.CreateTemp("", "gittest-body-")
	if err != nil {
		return nil, err
	}
	size, err := io.Copy(file, r.Body)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = file.Close()
		_ = os.Remove(file.Name())
		return nil, err
	}
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(file), size, nil
	return file, nil
}

// CreateRepository makes a bare repository whose branch main holds one commit with files (path: content), none at all where
// files is empty. The server checks what is pushed to it (receive.fsckObjects) and hands out any commit that it has
// (uploadpack.allowAnySHA1InWant), as Bitbucket does for reachable ones.
func (s *Server) CreateRepository(ctx context.Context, name string, files map[string]string) error {
	path := s.Path(name)
	for _, args := range [][]string{
		{"init", "--quiet", "--bare", "--initial-branch=main", path},
		{"-C", path, "config", "http.receivepack", "true"},
		{"-C", path, "config", "receive.fsckObjects", "true"},
		{"-C", path, "config", "uploadpack.allowAnySHA1InWant", "true"},
	} {
		if _, err := Git(ctx, "", nil, args...); err != nil {
			return err
		}
	}
	if len(files) == 0 {
		return nil
	}
	return s.Commit(ctx, name, "main", "Begin", files)
}

// Commit puts a commit with files (path: content) on top of a branch, new or not, by an author of its own.
func (s *Server) Commit(ctx context.Context, name, branch, message string, files map[string]string) error {
	ref := "refs/heads/" + branch
	var stream bytes.Buffer
	fmt.Fprintf(&stream, "commit %s\ncommitter Test <test@example.com> 1767225600 +0000\ndata %d\n%s\n", ref, len(message), message)
	if _, err := Git(ctx, s.Path(name), nil, "rev-parse", "--verify", "--quiet", ref); err == nil {
		fmt.Fprintf(&stream, "from %s^0\n", ref)
	}
	paths := make([]string, 0, len(files))
	for path := range files {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	for _, path := range paths {
		fmt.Fprintf(&stream, "M 100644 inline %s\ndata %d\n%s\n", strconv.Quote(path), len(files[path]), files[path])
	}
	stream.WriteString("\n")
	_, err := Git(ctx, s.Path(name), &stream, "fast-import", "--quiet")
	return err
}

// Environ is the environment for a git CLI: the process's, without anybody's configuration, and without what git hands to its hooks, by which
// the commands would work on the repository that the hook belongs to.
func Environ() []string {
	inherited := slices.DeleteFunc(os.Environ(), func(variable string) bool { return strings.HasPrefix(variable, "GIT_") })
	return append(inherited, "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_SYSTEM="+os.DevNull, "GIT_TERMINAL_PROMPT=0")
}

// Git runs the git CLI in folder, without anybody's configuration, and returns its output without the last line break.
func Git(ctx context.Context, folder string, stdin io.Reader, args ...string) (string, error) {
	command := exec.CommandContext(ctx, "git", args...)
	command.Dir, command.Stdin = folder, stdin
	command.Env = Environ()
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		return stdout.String(), fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSuffix(stdout.String(), "\n"), nil
}
