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
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// workVariable makes this program do one job as a worker does and print its Sample as JSON.
const workVariable = "GITSMITH_BENCH_WORK"

func TestMain(m *testing.M) {
	if root := os.Getenv(serverVariable); root != "" {
		if err := serveAlone(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if text := os.Getenv(workVariable); text != "" {
		if err := workAlone(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
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
	sample, err := way(context.Background(), work)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(sample)
}

// inOwnProcess does the work in a process of its own, so that its memory and processor time are its own too.
func inOwnProcess(ctx context.Context, work Work) (sample Sample, err error) {
	text, err := json.Marshal(work)
	if err != nil {
		return sample, err
	}
	process := exec.CommandContext(ctx, os.Args[0], "-test.run=^$")
	process.Env = append(os.Environ(), workVariable+"="+string(text))
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
	bound  float64
	read   string // how Gitsmith is to read the tip
}

// size is a shape with the bounds that issue 3 sets for it.
type size struct {
	shape                                           Shape
	filter, cold, warm, moved, archive, memoryLimit float64
}

func sizes() []size {
	return []size{
		{Small(), 0.40, 0.60, 0.30, 0.45, 0.80, 32},
		{Medium(), 0.06, 0.55, 0.03, 0.05, 0.70, 40},
		{Large(), 0.04, 0.45, 0.015, 0.03, 0.60, 64},
	}
}

// inMemory is the size's bounds where the folder is in memory: only those without a filter hold there.
func (s size) inMemory() size {
	return size{shape: s.shape, cold: 0.75, archive: 0.75, memoryLimit: s.memoryLimit}
}

func (s size) pushes() []way {
	return []way{
		{name: "git: clone --depth 1, edit, commit, push", do: byCommandLine},
		{name: "git, warm: mirror, fetch, worktree, edit, push", do: byMirror, keeps: "mirror", moved: true},
		{name: goGit, do: inOwnProcess},
		{name: "Gitsmith, cold, filter offered", do: inOwnProcess, filter: true, bound: s.filter, read: "partial"},
		{name: "Gitsmith, cold, no filter", do: inOwnProcess, bound: s.cold, read: "shallow"},
		{name: "the same, a worker's very first job, filter", do: inOwnProcess, filter: true, read: "partial"},
		{name: "the same, a worker's very first job, no filter", do: inOwnProcess, read: "shallow"},
		{name: "Gitsmith, warm, unmoved", do: inOwnProcess, keeps: "tips", bound: s.warm, read: "cached"},
		{name: "Gitsmith, warm, moved by one, no filter", do: inOwnProcess, keeps: "tips", moved: true, bound: s.moved, read: "updated"},
	}
}

func (s size) archives() []way {
	return []way{
		{name: "git: clone --depth 1, archive", do: byCommandLine},
		{name: "Gitsmith, cold, no filter", do: inOwnProcess, bound: s.archive},
	}
}

// beforeSlug is the repository that workers have met before.
const beforeSlug = "before"

// served is a repository on a git server in one folder with the clients, put back as it was after each work.
type served struct {
	tb         testing.TB
	shape      Shape
	server     *gitServer
	root       string
	path       string // of the repository
	tip, moved string
	words      int
}

// serve puts a copy of a shape on a git server of its own, below root.
func serve(tb testing.TB, root string, shape Shape) *served {
	tb.Helper()
	built, err := Build(tb.Context(), cacheFolder, shape)
	if err != nil {
		tb.Fatal(err)
	}
	s := &served{tb: tb, shape: shape, root: root, server: startGitServer(tb, filepath.Join(root, "server"))}
	s.path = s.server.git.Path(Workspace + "/" + shape.Name)
	gitOutput(tb, "", "clone", "--quiet", "--bare", "--no-local", built, s.path)
	for _, setting := range []string{"http.receivepack", "receive.fsckObjects", "uploadpack.allowAnySHA1InWant"} {
		gitOutput(tb, s.path, "config", setting, "true")
	}
	s.tip = gitOutput(tb, s.path, "rev-parse", "main")
	stream := fmt.Sprintf("commit refs/bench/moved\ncommitter Bench <bench@example.com> 1700000000 +0000\ndata 6\nothers\nfrom %s\nM 100644 inline %s\ndata 6\nothers\n", s.tip, shape.Other())
	if err := run(tb.Context(), s.path, func(w io.Writer) error { _, err := io.WriteString(w, stream); return err }, "fast-import", "--quiet"); err != nil {
		tb.Fatal(err)
	}
	s.moved = gitOutput(tb, s.path, "rev-parse", "refs/bench/moved")
	err = s.server.git.CreateRepository(tb.Context(), Workspace+"/"+beforeSlug, map[string]string{shape.Edited(): "some words in a file\n"})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// prime gives the ways that keep something what they had from a work before.
func (s *served) prime() {
	s.tb.Helper()
	gitOutput(s.tb, s.root, "clone", "--quiet", "--mirror", s.path, filepath.Join(s.root, "mirror"))
	s.once(way{name: "priming", do: inOwnProcess}, "primed", filepath.Join(s.root, "tips"))
}

// round does a work in one way and checks what came of it.
func (s *served) round(w way, word string) Sample {
	s.tb.Helper()
	kept := ""
	if w.keeps != "" {
		kept = filepath.Join(s.root, w.keeps)
	}
	if w.keeps == "tips" { // a copy, so that each round finds the same
		kept = filepath.Join(s.root, "tips-copy")
		if err := errors.Join(os.RemoveAll(kept), os.CopyFS(kept, os.DirFS(filepath.Join(s.root, "tips")))); err != nil {
			s.tb.Fatal(err)
		}
	}
	sample := s.once(w, word, kept)
	if w.read != "" && sample.Read != w.read {
		s.tb.Fatalf("%s: read %s, not %s", w.name, sample.Read, w.read)
	}
	return sample
}

func (s *served) once(w way, word, kept string) Sample {
	s.tb.Helper()
	folder, err := os.MkdirTemp(s.root, "work-")
	if err != nil {
		s.tb.Fatal(err)
	}
	start := s.tip
	if w.moved {
		start = s.moved
	}
	gitOutput(s.tb, s.path, "update-ref", "refs/heads/main", start)
	gitOutput(s.tb, s.path, "config", "uploadpack.allowFilter", strconv.FormatBool(w.filter))
	work := Work{Way: w.name, Base: s.server.base, Slug: s.shape.Name, Folder: folder, Kept: kept, File: s.shape.Edited(), Word: word}
	if strings.HasPrefix(w.name, "Gitsmith") && word != "" {
		work.Before = beforeSlug
		gitOutput(s.tb, s.server.git.Path(Workspace+"/"+beforeSlug), "config", "uploadpack.allowFilter", strconv.FormatBool(w.filter))
	}
	s.server.traffic()
	sample, err := w.do(s.tb.Context(), work)
	if err != nil {
		s.tb.Fatal(err)
	}
	sample.Traffic = s.server.traffic()
	s.check(work, start)
	if err := os.RemoveAll(folder); err != nil {
		s.tb.Fatal(err)
	}
	gitOutput(s.tb, s.path, "update-ref", "refs/heads/main", s.tip)
	if w.keeps == "mirror" {
		gitOutput(s.tb, kept, "worktree", "prune")
	}
	return sample
}

// check lets git look at what a work left. Of a large repository every object is read once a way, and each time only whether all
// that the branch leads to is there.
func (s *served) check(work Work, start string) {
	s.tb.Helper()
	if work.Word == "" {
		if info, err := os.Stat(filepath.Join(work.Folder, artifactName)); err != nil || info.Size() == 0 {
			s.tb.Fatalf("%s: no archive: %v", work.Way, err)
		}
		return
	}
	if parent := gitOutput(s.tb, s.path, "rev-parse", "main^"); parent != start {
		s.tb.Fatalf("%s: the pushed commit stands on %s, not on %s", work.Way, parent, start)
	}
	if changed := gitOutput(s.tb, s.path, "diff", "--name-only", start, "main"); changed != work.File {
		s.tb.Fatalf("%s: the push changed %q", work.Way, changed)
	}
	before, after := gitOutput(s.tb, s.path, "show", start+":"+work.File), gitOutput(s.tb, s.path, "show", "main:"+work.File)
	if _, rest, _ := strings.Cut(before, " "); after != work.Word+" "+rest {
		s.tb.Fatalf("%s: the pushed file begins %.20q", work.Way, after)
	}
	check := []string{"fsck", "--strict", "--no-dangling"}
	if s.shape.Files > 10_000 {
		check = append(check, "--connectivity-only")
	}
	if said := gitOutput(s.tb, s.path, check...); strings.Contains(said, "error") {
		s.tb.Fatalf("%s: git fsck: %s", work.Way, said)
	}
}

// compare does a work in all ways, in turns, minRounds times.
func (s *served) compare(b *testing.B, ways []way, pushes bool, memory float64) []Row {
	rows := make([]Row, len(ways))
	for i, w := range ways {
		rows[i] = Row{Name: w.name, Bound: w.bound}
		if i > 0 && pushes && strings.HasPrefix(w.name, "Gitsmith") {
			rows[i].Memory = int64(memory) << 20
		}
	}
	round := func() {
		s.words++
		word := ""
		if pushes {
			word = fmt.Sprintf("word%d", s.words)
		}
		for i := range ways {
			at := (i + s.words) % len(ways) // none always comes first
			rows[at].Samples = append(rows[at].Samples, s.round(ways[at], word))
		}
	}
	for range minRounds {
		round()
	}
	if said := gitOutput(b, s.path, "fsck", "--strict", "--no-dangling"); strings.Contains(said, "error") {
		b.Fatalf("git fsck: %s", said)
	}
	return rows
}

// BenchmarkGit is Gitsmith beside the command line and go-git, once on the disk and once in memory. GITSMITH_BENCH_SIZES names
// the sizes, all by default.
func BenchmarkGit(b *testing.B) {
	var tables []Table
	for _, place := range places(b) {
		for _, size := range sizes() {
			if wanted := os.Getenv("GITSMITH_BENCH_SIZES"); wanted != "" && !slices.Contains(strings.Split(wanted, ","), size.shape.Name) {
				continue
			}
			if place.memory {
				size = size.inMemory()
			}
			b.Run(place.name+"/"+size.shape.Name, func(b *testing.B) {
				root, err := os.MkdirTemp(place.folder, "bench-")
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _ = os.RemoveAll(root) })
				s := serve(b, root, size.shape)
				s.prime()
				pushed := s.compare(b, size.pushes(), true, size.memoryLimit)
				archived := s.compare(b, size.archives(), false, size.memoryLimit)
				cold := pushed[4] // no filter
				filled := median(cold.Samples, func(s Sample) time.Duration { return s.Filled })
				tables = append(tables, comparison(fmt.Sprintf("Push, %s, %s", size.shape.Name, place.name), fmt.Sprintf(
					"%d files, %d commits; one word in one file, in the middle of the tree. Without a filter the tip cache had all trees after %s.\n",
					size.shape.Files, size.shape.Commits, milliseconds(filled)), pushed))
				tables = append(tables, comparison(fmt.Sprintf("Archive as tar.gz, %s, %s", size.shape.Name, place.name), "", archived))
			})
		}
	}
	b.Run("queue", func(b *testing.B) { tables = append(tables, benchmarkQueue(b)) })
	report(b, "git", tables)
}

type place struct {
	name   string
	folder string
	memory bool
}

// places are where the server's repositories and the clients' work are: on the disk, and in memory where the machine has such a
// folder.
func places(b *testing.B) []place {
	b.Helper()
	folder, err := filepath.Abs(cacheFolder)
	if err == nil {
		err = os.MkdirAll(folder, 0o750)
	}
	if err != nil {
		b.Fatal(err)
	}
	found := []place{{"on disk", folder, false}}
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		found = append(found, place{"in memory", "/dev/shm", true})
	}
	return found
}
