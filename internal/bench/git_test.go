package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// workVariable makes this program do one job as a worker does and print its Sample as JSON.
const workVariable = "GITSMITH_BENCH_WORK"

func TestMain(m *testing.M) {
	var err error
	switch {
	case os.Getenv(serverVariable) != "":
		err = serveAlone(os.Getenv(serverVariable))
	case os.Getenv(workVariable) != "":
		err = workAlone(os.Getenv(workVariable))
	case os.Getenv(signatureVariable) != "":
		err = verifyAlone(os.Getenv(signatureVariable))
	case os.Getenv(peerVariable) != "":
		err = receiveAsPeer(os.Getenv(peerVariable))
	case os.Getenv(childrenVariable) != "":
		err = reportChildren()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func reportChildren() error {
	sample, err := usageOf(syscall.RUSAGE_CHILDREN)
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(sample))
}

func workAlone(text string) error {
	var work Work
	if err := json.Unmarshal([]byte(text), &work); err != nil {
		return err
	}
	way := byGitsmith
	if work.Way == goGit {
		way = byGoGit
	}
	stop, err := profile(work)
	if err != nil {
		return err
	}
	sample, err := way(context.Background(), work)
	stop()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(sample)
}

// profileVariable names a folder for processor profiles of what has a process of this program.
const profileVariable = "GITSMITH_BENCH_PROFILE"

// profile writes a processor profile until its result is called, where one is asked for.
func profile(work Work) (stop func(), err error) {
	folder := os.Getenv(profileVariable)
	if folder == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return nil, err
	}
	name := strings.NewReplacer(" ", "-", ",", "", ":", "").Replace(work.Slug + " " + work.Way + " " + work.Word)
	file, err := os.Create(filepath.Join(folder, name+".pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, err
	}
	return func() { pprof.StopCPUProfile(); _ = file.Close() }, nil
}

// inOwnProcess does the work in a process of its own, so that its memory and processor time are its own too.
func inOwnProcess(ctx context.Context, work Work) (sample Sample, err error) {
	text, err := json.Marshal(work)
	if err != nil {
		return sample, err
	}
	process := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	process.Env = append(gitEnvironment(), workVariable+"="+string(text), noWait, "HOME="+work.Folder)
	var stderr bytes.Buffer
	process.Stderr = &stderr
	out, err := process.Output()
	if err != nil {
		return sample, fmt.Errorf("%s: %w: %s", work.Way, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return sample, json.Unmarshal(out, &sample)
}

// goGit is the way whose program is in this process too.
const goGit = "go-git: clone --depth 1, edit, commit, push"

// way is one way of doing a work.
type way struct {
	name   string
	do     func(context.Context, Work) (Sample, error)
	keeps  string // what it has from before: "mirror" or "tips"
	moved  bool   // somebody else has pushed a commit since
	filter bool   // the server offers one
	met    bool   // the client met the server before, in a job on another repository
	bound  float64
	read   string // how Gitsmith is to read the tip
}

func (w way) ours() bool { return w.read != "" }

// The rows that the summary of bounds names.
const (
	rowFilter      = "Gitsmith, cold, filter offered"
	rowCold        = "Gitsmith, cold, no filter"
	rowFirstFilter = "the same, a worker's very first job, filter"
	rowFirst       = "the same, a worker's very first job, no filter"
	rowWarm        = "Gitsmith, warm, unmoved"
	rowOther       = "the same, after an edit of another file"
	rowMoved       = "Gitsmith, warm, moved by one, no filter"
)

func (s size) pushes() []way {
	return []way{
		{name: "git: clone --depth 1, edit, commit, push", do: byScript(scriptPush)},
		{name: "git, warm: mirror, fetch, worktree, edit, push", do: byScript(scriptMirror), keeps: "mirror", moved: true},
		{name: goGit, do: inOwnProcess},
		{name: rowFilter, do: inOwnProcess, filter: true, met: true, bound: s.filter, read: "partial"},
		{name: rowCold, do: inOwnProcess, met: true, bound: s.cold, read: "shallow"},
		{name: rowFirstFilter, do: inOwnProcess, filter: true, read: "partial"},
		{name: rowFirst, do: inOwnProcess, read: "shallow"},
		{name: rowWarm, do: inOwnProcess, keeps: "tips", met: true, bound: s.warm, read: "cached"},
		{name: rowOther, do: inOwnProcess, keeps: "tips-other", met: true, read: "cached"},
		{name: rowMoved, do: inOwnProcess, keeps: "tips", met: true, moved: true, bound: s.moved, read: "updated"},
	}
}

func (s size) archives() []way {
	return []way{
		{name: "git: clone --depth 1, archive", do: byScript(scriptArchive)},
		{name: "git: clone --depth 1 --bare, archive", do: byScript(scriptBareArchive)},
		{name: "Gitsmith, cold, no filter", do: inOwnProcess, met: true, bound: s.archive},
	}
}

// beforeSlug is the repository that workers have met before.
const beforeSlug = "before"

// served is a repository on a git server in one folder with the clients, put back as it was after each work.
type served struct {
	tb     testing.TB
	shape  Shape
	server *gitServer
	root   string
	*bare
	mirror  *bare  // what the command line keeps
	moved   string // a commit on the tip
	words   int
	settled bool // the disk is given time before each timing
	wholly  bool // git fsck reads every object each time
}

// serve puts a copy of a shape, built below cache, on a git server of its own below root.
func serve(tb testing.TB, cache, root string, shape Shape) *served {
	tb.Helper()
	built, err := Build(tb.Context(), cache, shape)
	if err != nil {
		tb.Fatal(err)
	}
	s := &served{tb: tb, shape: shape, root: root, server: startGitServer(tb, filepath.Join(root, "server")), wholly: shape.Files <= 10_000}
	path := s.server.git.Path(Workspace + "/" + shape.Name)
	install(tb, built, path)
	stream := fmt.Sprintf("commit refs/bench/moved\ncommitter Bench <bench@example.com> 1700000000 +0000\ndata 6\nothers\nfrom refs/heads/main^0\nM 100644 inline %s\ndata 6\nothers\n", shape.Other())
	// Into a pack, which stays.
	if err := run(tb.Context(), path, func(w io.Writer) error { _, err := io.WriteString(w, stream); return err }, "-c", "fastimport.unpackLimit=0", "fast-import", "--quiet"); err != nil {
		tb.Fatal(err)
	}
	s.bare = openBare(tb, path)
	s.moved = s.git("rev-parse", "refs/bench/moved")
	err = s.server.git.CreateRepository(tb.Context(), Workspace+"/"+beforeSlug, map[string]string{shape.Edited(): "some words in a file\n"})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// install copies a built repository to path and sets it up as gittest does.
func install(tb testing.TB, built, path string) {
	tb.Helper()
	gitOutput(tb, "", "clone", "--quiet", "--bare", "--no-local", built, path)
	for _, setting := range []string{"http.receivepack", "receive.fsckObjects", "uploadpack.allowAnySHA1InWant"} {
		gitOutput(tb, path, "config", setting, "true")
	}
}

// prime gives the ways that keep something what they had from a work before.
func (s *served) prime() {
	s.tb.Helper()
	gitOutput(s.tb, s.root, "clone", "--quiet", "--mirror", s.path, filepath.Join(s.root, "mirror"))
	s.mirror = openBare(s.tb, filepath.Join(s.root, "mirror"))
	for folder, file := range map[string]string{"tips": s.shape.Edited(), "tips-other": s.shape.Other()} {
		work := Work{File: file, Word: "primed", Kept: filepath.Join(s.root, folder)}
		s.once(way{name: "priming", do: inOwnProcess, read: "shallow"}, work, true)
	}
}

// round does a work in one way, an archive where word is empty, and checks what came of it.
func (s *served) round(w way, word string, last bool) Sample {
	s.tb.Helper()
	work := Work{File: s.shape.Edited(), Word: word}
	switch {
	case w.keeps == "mirror":
		s.mirror.reset(s.tip)
		work.Kept = s.mirror.path
	case w.keeps != "": // a copy, so that each round finds the same
		work.Kept = filepath.Join(s.root, "tips-copy")
		if err := errors.Join(os.RemoveAll(work.Kept), os.CopyFS(work.Kept, os.DirFS(filepath.Join(s.root, w.keeps)))); err != nil {
			s.tb.Fatal(err)
		}
	}
	return s.once(w, work, s.wholly || last)
}

func (s *served) once(w way, work Work, wholly bool) Sample {
	s.tb.Helper()
	folder, err := os.MkdirTemp(s.root, "work-")
	if err != nil {
		s.tb.Fatal(err)
	}
	defer os.RemoveAll(folder) //nolint:errcheck // the whole root is removed in the end
	start := s.tip
	if w.moved {
		start = s.moved
	}
	s.reset(start)
	s.git("config", "uploadpack.allowFilter", strconv.FormatBool(w.filter))
	work.Way, work.Base, work.Slug, work.Folder = w.name, s.server.base, s.shape.Name, folder
	if w.met {
		work.Before = beforeSlug
		gitOutput(s.tb, s.server.git.Path(Workspace+"/"+beforeSlug), "config", "uploadpack.allowFilter", strconv.FormatBool(w.filter))
	}
	if s.settled {
		syscall.Sync() // nobody pays for writing what another way left behind
	}
	s.server.traffic()
	sample, err := w.do(s.tb.Context(), work)
	if err != nil {
		s.tb.Fatalf("%s: %v", w.name, err)
	}
	sample.Traffic = s.server.traffic()
	if err := s.check(work, start, wholly); err != nil {
		s.tb.Fatalf("%s: %v", w.name, err)
	}
	if sample.Read != "" && sample.Read != w.read {
		s.tb.Fatalf("%s: read %s, not %s", w.name, sample.Read, w.read)
	}
	return sample
}

// check lets git look at what a work left: the tree must be the very one that git makes of the same edit, and an archive hold every
// file as it is.
func (s *served) check(work Work, start string, wholly bool) error {
	s.tb.Helper()
	if work.Word == "" {
		return checkArchive(filepath.Join(work.Folder, artifactName), s.git("ls-tree", "-r", start))
	}
	var options []string
	if !wholly {
		options = []string{"--connectivity-only"}
	}
	return s.checkPush(start, s.expected(start, work.File, work.Word), options...)
}
