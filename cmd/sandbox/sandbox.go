package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/gitsmith/gitsmith/deploy/rules"
	"github.com/gitsmith/gitsmith/internal/app"
	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
)

const (
	dashboardUser     = "operator"
	dashboardPassword = "sandbox" // of a dashboard that only this machine reaches
)

// sandbox is everything that runs.
type sandbox struct {
	forge     *standInForge
	bitbucket *bitbuckettest.Server
	gitServer *gittest.Server
	folder    string // temporary: repositories, archives, log
	log       *os.File
	redis     *miniredis.Miniredis
	servers   []*http.Server
	addresses map[string]string
	gitURL    string

	cancel   context.CancelFunc // stops receiver and worker
	programs int
	failed   chan error

	gitRequests atomic.Int64           // that reached the stand-in Bitbucket
	gitTokens   sync.Map               // those that git requests came with there
	beforePush  atomic.Pointer[func()] // runs once, when a push arrives there
	helloJob    string
	ownCommit   string // that a job pushed to main
	told        string // an event that was delivered, and the job that it made
	toldJob     string
	fleetBatch  string
	watch       func(line string) // shows how far a step is
}

// start brings everything up, in the order in which one needs the other.
func start(ctx context.Context) (_ *sandbox, err error) {
	s := &sandbox{addresses: map[string]string{}, failed: make(chan error, 2)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	if s.folder, err = os.MkdirTemp("", "gitsmith-sandbox-"); err != nil {
		return nil, err
	}
	if s.log, err = os.Create(filepath.Join(s.folder, "log.jsonl")); err != nil {
		return nil, err
	}
	s.redis = miniredis.NewMiniRedis()
	s.redis.ClockTTL(true)
	if err := s.redis.Start(); err != nil {
		return nil, err
	}
	bitbucket, err := s.startBitbucket(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.startForge(ctx, bitbucket); err != nil {
		return nil, err
	}
	return s, s.startPrograms(ctx)
}

// startPrograms runs the real receiver and the real worker by the settings that the real binaries would read.
func (s *sandbox) startPrograms(ctx context.Context) error {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	rulesFile, err := s.writeRules()
	if err != nil {
		return err
	}
	common := []string{
		"GITSMITH_REDIS_URL=redis://" + s.redis.Addr() + "/0",
		"GITSMITH_SEAL_KEYS=sandbox:" + base64.StdEncoding.EncodeToString(key),
		"GITSMITH_ARTIFACT_URL=file://" + filepath.ToSlash(filepath.Join(s.folder, "artifacts")),
		"GITSMITH_LOG_FORMAT=json",
	}
	programs, cancel := context.WithCancel(ctx)
	s.cancel = cancel
	api := append([]string{
		"GITSMITH_APP_ID=" + s.forge.issuer.AppID,
		"GITSMITH_JWKS_URL=" + s.addresses["forge"] + "/.well-known/jwks.json",
		"GITSMITH_ADDR=" + free(ctx, "127.0.0.1:8080"), "GITSMITH_OPS_ADDR=" + free(ctx, "127.0.0.1:9090"),
		"GITSMITH_RULES=" + rulesFile, "GITSMITH_SPOOL_DIR=" + filepath.Join(s.folder, "spool"),
		"GITSMITH_DASHBOARD_USER=" + dashboardUser, "GITSMITH_DASHBOARD_PASSWORD=" + dashboardPassword,
	}, common...)
	worker := append([]string{
		"GITSMITH_GIT_URL=" + s.gitURL, "GITSMITH_API_URL=" + s.gitURL, "GITSMITH_GRAPHQL_URL=" + s.addresses["forge"] + "/graphql",
		"GITSMITH_OPS_ADDR=" + free(ctx, "127.0.0.1:9091"),
		"GITSMITH_TEMP_DIR=" + filepath.Join(s.folder, "tmp"), "GITSMITH_CACHE_DIR=" + filepath.Join(s.folder, "tips"),
	}, common...)

	listening := make(chan app.Addresses)
	s.programs = 2
	go func() {
		s.failed <- app.RunAPI(programs, api, s.log, func(addresses app.Addresses) { listening <- addresses })
	}()
	go func() {
		s.failed <- app.RunWorker(programs, worker, s.log, func(addresses app.Addresses) { listening <- addresses })
	}()
	for range s.programs {
		select {
		case addresses := <-listening:
			if addresses.Public != "" {
				s.addresses["api"] = "http://" + addresses.Public
				s.addresses["ops"] = "http://" + addresses.Ops
			}
		case err := <-s.failed:
			s.programs--
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.forge.receiver = s.addresses["api"]
	return nil
}

// writeRules puts the example rules into one file.
func (s *sandbox) writeRules() (string, error) {
	names, err := fs.Glob(rules.Files, "*.yml")
	if err != nil {
		return "", err
	}
	all := "rules:\n"
	for _, name := range names {
		text, err := fs.ReadFile(rules.Files, name)
		if err != nil {
			return "", err
		}
		_, list, _ := strings.Cut(string(text), "\nrules:\n")
		all += list
	}
	path := filepath.Join(s.folder, "rules.yml")
	return path, os.WriteFile(path, []byte(all), 0o600)
}

// stop ends everything that was started and removes what it left.
func (s *sandbox) stop() error {
	var errs []error
	if s.cancel != nil {
		s.cancel()
		for range s.programs {
			errs = append(errs, <-s.failed)
		}
	}
	for _, server := range s.servers {
		errs = append(errs, server.Close())
	}
	if s.redis != nil {
		s.redis.Close()
	}
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	if s.folder != "" {
		errs = append(errs, os.RemoveAll(s.folder))
	}
	return errors.Join(errs...)
}

// keepLog puts the log where stop does not remove it, and says where that is.
func (s *sandbox) keepLog() string {
	kept := filepath.Join(os.TempDir(), "gitsmith-sandbox.jsonl")
	text, err := os.ReadFile(s.log.Name())
	if err == nil {
		err = os.WriteFile(kept, text, 0o600)
	}
	if err != nil {
		return "no file: " + err.Error()
	}
	return kept
}

func (s *sandbox) printAddresses(out io.Writer) {
	fmt.Fprintf(out, `
Receiver    %s
            POST /v1/jobs and the rest; wants a FIT
Forge       %s
            POST /invoke sends an invocation that you describe
Page        %s/app/
            the app in Bitbucket, as alice sees it; built by make app
Git         %s/acme/web.git
Rules       %s
            the examples of deploy/rules; what you change is in force two seconds later
Dashboard   %s/dashboard/
            user %s, password %s
            and %s/dashboard/batches
Metrics     %s/metrics

Try:        curl -s %s/invoke -d '{"path":"/v1/jobs","body":{"repository":{"workspace":"acme","slug":"web"},"clone":{"archive":"zip"}}}'
Event:      curl -s %s/invoke -d '{"path":"/forge/events","body":{"eventType":"avi:bitbucket:push:repository","workspace":{"uuid":"{%s}"},"repository":{"uuid":"%s"},"push":{"ref":"main","mainbranch":true}}}'
Look:       curl -s %s/invoke -d '{"path":"/v1/jobs"}'
Clone:      git clone %s

Ctrl-C ends it and leaves nothing behind.
`, s.addresses["api"], s.addresses["forge"], s.addresses["forge"], s.gitURL, filepath.Join(s.folder, "rules.yml"), s.addresses["ops"], dashboardUser, dashboardPassword, s.addresses["ops"],
		s.addresses["ops"],
		s.addresses["forge"], s.addresses["forge"], workspaceID, webUUID, s.addresses["forge"], s.cloneURL())
}

// serve answers on a free port of this machine and returns the base URL.
func (s *sandbox) serve(ctx context.Context, handler http.Handler) (string, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	s.servers = append(s.servers, server)
	go func() { _ = server.Serve(listener) }() // ends with Close
	return "http://" + listener.Addr().String(), nil
}

// free is the address, or a free port of the same host where somebody has it.
func free(ctx context.Context, address string) string {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		host, _, _ := net.SplitHostPort(address)
		return net.JoinHostPort(host, "0")
	}
	_ = listener.Close() // it was only asked for
	return address
}

// git runs the git CLI on a repository of the stand-in Bitbucket and returns its output, which is empty where it fails.
func (s *sandbox) git(ctx context.Context, slug string, args ...string) string {
	command := exec.CommandContext(ctx, "git", append([]string{"-C", s.bare(slug)}, args...)...)
	command.Env = gittest.Environ()
	output, _ := command.Output()
	return strings.TrimSpace(string(output))
}

func (s *sandbox) fsck(ctx context.Context, slug string) error {
	command := exec.CommandContext(ctx, "git", "-C", s.bare(slug), "fsck", "--strict", "--no-dangling")
	if output, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("git fsck --strict: %s", output)
	}
	return nil
}
