package main

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

// What the repository acme/web holds when the sandbox starts.
var seed = map[string]string{
	"CHANGELOG.md":      "# Changelog\n",
	"README.md":         "# Web\n\nThe site runs at https://old.example.com and https://old.example.org.\n",
	"docs/guide.md":     "Open https://old.example.com first.\n",
	"docs/install.md":   "Nothing to replace here.\n",
	"src/config.go":     "package web\n\nconst host = \"old.example.com\"\n",
	"src/web.go":        "package web\n",
	"src/static/app.js": "fetch('https://old.example.com/api')\n",
}

// cloneUserToken is the sandbox's own token for `git clone` by hand; it reads and writes.
const cloneUserToken = "sandbox"

func (s *sandbox) bare(slug string) string {
	return filepath.Join(s.folder, "bitbucket", "acme", slug+".git")
}

func (s *sandbox) cloneURL() string {
	return strings.Replace(s.gitURL, "http://", "http://x-token-auth:"+cloneUserToken+"@", 1) + "/acme/web.git"
}

// startBitbucket makes the stand-in with one repository, and a door by which a step can act right before a push is taken.
func (s *sandbox) startBitbucket(ctx context.Context) (*bitbuckettest.Server, error) {
	root := filepath.Join(s.folder, "bitbucket")
	git, err := gittest.New(root)
	if err != nil {
		return nil, err
	}
	s.gitServer = git
	if err := git.CreateRepository(ctx, "acme/web", seed); err != nil {
		return nil, err
	}
	server := bitbuckettest.New(bitbuckettest.Config{
		Root: root, Git: git,
		Observe: func(request bitbuckettest.Request) {
			if request.Kind == bitbuckettest.Git {
				s.gitRequests.Add(1)
			}
		},
	})
	web := bitbuckettest.Repository{Workspace: "acme", Slug: "web", WorkspaceUUID: "{" + workspaceID + "}", UUID: webUUID}
	if _, err := server.AddRepository(web); err != nil {
		return nil, err
	}
	s.bitbucket = server
	server.AddToken(cloneUserToken, bitbuckettest.Grant{Scopes: allScopes, Default: bitbuckettest.Write})
	s.gitURL, err = s.serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, token, ok := r.BasicAuth(); ok {
			s.gitTokens.Store(token, true)
		}
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/git-receive-pack") {
			if act := s.beforePush.Swap(nil); act != nil {
				(*act)()
			}
		}
		server.ServeHTTP(w, r)
	}))
	return server, err
}

// commitBehindTheBack puts a commit of somebody else on main.
func (s *sandbox) commitBehindTheBack(ctx context.Context) {
	const stream = "commit refs/heads/main\ncommitter Bob <bob@example.com> 1767225600 +0000\ndata 4\nRace\n" +
		"from refs/heads/main^0\nM 100644 inline bob.txt\ndata 4\nbob\n\n"
	command := exec.CommandContext(ctx, "git", "-C", s.bare("web"), "fast-import", "--quiet")
	command.Env = gittest.Environ()
	command.Stdin = strings.NewReader(stream)
	if output, err := command.CombinedOutput(); err != nil {
		_, _ = fmt.Fprintf(s.log, "{\"msg\":%q}\n", "the race could not be staged: "+string(output)) // the step then says that nothing moved
	}
}
