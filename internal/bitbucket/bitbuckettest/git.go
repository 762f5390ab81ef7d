package bitbuckettest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// Bitbucket's words over git.
const (
	textNoRepository = "You may not have access to this repository or it no longer exists in this workspace. " +
		"If you think this repository exists and you have access, make sure you are authenticated."
	textNoScope   = "Your credentials lack one or more required privilege scopes."
	textNoAccess  = "You do not have the permission that this request requires in this repository."
	textRateLimit = "Rate limit for this resource has been exceeded"
)

// gitUser is the only user name that goes with an OAuth token.
const gitUser = "x-token-auth"

var gitPath = regexp.MustCompile(`^/([^/]+)/([^/]+)\.git/(info/refs|git-upload-pack|git-receive-pack)$`)

func (s *Server) serveGit(w http.ResponseWriter, r *http.Request) {
	if limit, _, over := s.take(Git); over {
		setRetryAfter(w, limit)
		writeText(w, http.StatusTooManyRequests, textRateLimit)
		return
	}
	match := gitPath.FindStringSubmatch(r.URL.Path)
	if match == nil {
		writeText(w, http.StatusNotFound, "Not found")
		return
	}
	scope, permission := ScopeReadRepository, Read
	if match[3] == "git-receive-pack" || r.URL.Query().Get("service") == "git-receive-pack" {
		scope, permission = ScopeWriteRepository, Write
	}
	user, token, _ := r.BasicAuth()
	grant, known := s.grant(token)
	repository, exists := s.lookup(match[1], match[2])
	switch {
	case user != gitUser, !known, !exists, repository.Slug != match[2]:
		w.Header().Set("WWW-Authenticate", `Basic realm="Bitbucket.org HTTP"`)
		writeText(w, http.StatusUnauthorized, textNoRepository)
	case !grant.has(scope):
		writeText(w, http.StatusForbidden, textNoScope)
	case grant.permission(repository.Workspace+"/"+repository.Slug) < permission:
		writeText(w, http.StatusForbidden, textNoAccess)
	case s.config.Git == nil:
		writeText(w, http.StatusNotImplemented, "bitbuckettest: Config.Git is not set")
	default:
		inner := r.Clone(r.Context())
		inner.Header.Del("Authorization")
		s.config.Git.ServeHTTP(w, inner)
	}
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func setRetryAfter(w http.ResponseWriter, limit limit) {
	if limit.retryAfter != "" {
		w.Header().Set("Retry-After", limit.retryAfter)
	}
}

// The files beside the hook that say what it refuses.
const (
	restrictedFile = "gitsmith-restricted" // full refs, one a line
	readOnlyFile   = "gitsmith-read-only"  // there with the limit's name: nothing can be pushed
)

// hook refuses a push as Bitbucket does: its words reach the client by the sideband, and git adds "pre-receive hook declined".
const hook = `#!/bin/sh
folder=$(dirname "$0")
if test -e "$folder/` + readOnlyFile + `"; then
  echo "repository is in read only mode (over $(cat "$folder/` + readOnlyFile + `") size limit)." >&2
  exit 1
fi
test -e "$folder/` + restrictedFile + `" || exit 0
refused=0
while read -r old new ref; do
  if grep -Fqx -- "$ref" "$folder/` + restrictedFile + `"; then
    echo "Permission denied to update branch ${ref#refs/heads/}." >&2
    refused=1
  fi
done
exit $refused
`

// installHook puts the hook into the bare repository.
func installHook(folder string) error {
	if _, err := os.Stat(filepath.Join(folder, "HEAD")); err != nil {
		return fmt.Errorf("bitbuckettest: no bare repository: %w", err)
	}
	hooks := filepath.Join(folder, "hooks")
	if err := os.MkdirAll(hooks, 0o755); err != nil { //nolint:gosec // git runs the hook, as whoever serves it
		return err
	}
	return os.WriteFile(filepath.Join(hooks, "pre-receive"), []byte(hook), 0o755) //nolint:gosec // the same
}

// Restrict puts a branch restriction on the branches: nobody may push to them. Without branches there is none.
func (s *Server) Restrict(workspace, slug string, branches ...string) error {
	var lines strings.Builder
	for _, branch := range branches {
		lines.WriteString("refs/heads/" + branch + "\n")
	}
	return s.configureHook(workspace, slug, restrictedFile, lines.String())
}

// SetReadOnly makes the repository refuse every push because it is over the size limit of that name, such as "4 GB". An
// empty one ends that.
func (s *Server) SetReadOnly(workspace, slug, limit string) error {
	return s.configureHook(workspace, slug, readOnlyFile, limit)
}

func (s *Server) configureHook(workspace, slug, name, content string) error {
	found, exists := s.lookup(workspace, slug)
	if !exists {
		return fmt.Errorf("bitbuckettest: there is no repository %s/%s", workspace, slug)
	}
	file := filepath.Join(s.folder(found.Workspace, found.Slug), "hooks", name)
	if content == "" {
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	}
	return os.WriteFile(file, []byte(content), 0o600)
}

// mainBranch is what HEAD names; false in a repository without commits. It looks itself: a list asks about thousands.
func (s *Server) mainBranch(repository Repository) (string, bool) {
	folder := s.folder(repository.Workspace, repository.Slug)
	head, err := os.ReadFile(filepath.Join(folder, "HEAD"))
	name, found := strings.CutPrefix(strings.TrimSpace(string(head)), "ref: refs/heads/")
	if err != nil || !found {
		return "", false
	}
	if _, err := os.Stat(filepath.Join(folder, "refs", "heads", filepath.FromSlash(name))); err == nil {
		return name, true
	}
	packed, err := os.ReadFile(filepath.Join(folder, "packed-refs"))
	return name, err == nil && strings.Contains(string(packed), " refs/heads/"+name+"\n")
}

// branchTip is the branch's commit; empty where there is no such branch.
func (s *Server) branchTip(repository Repository, branch string) string {
	hash, err := s.git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", "refs/heads/"+branch+"^{commit}")
	if err != nil {
		return ""
	}
	return hash
}

// git asks the repository something.
func (s *Server) git(repository Repository, arguments ...string) (string, error) {
	command := exec.Command("git", append([]string{"--git-dir", s.folder(repository.Workspace, repository.Slug)}, arguments...)...)
	command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	output, err := command.Output()
	return strings.TrimSpace(string(output)), err
}

// size is what REST reports: the folder's files, unless the repository was added with a size.
func (s *Server) size(repository Repository) int64 {
	if repository.Size != 0 {
		return repository.Size
	}
	var total int64
	_ = filepath.WalkDir(s.folder(repository.Workspace, repository.Slug), func(_ string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // what a running git moves away is not counted
		}
		if info, err := entry.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}

// uuidOf makes a UUID of a name, always the same, in the form of a random one.
func uuidOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	sum[6], sum[8] = sum[6]&0x0f|0x40, sum[8]&0x3f|0x80
	return fmt.Sprintf("{%x-%x-%x-%x-%x}", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
