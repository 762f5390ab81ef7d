package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
	sample, err := byGitsmith(context.Background(), work)
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
		return sample, fmt.Errorf("%s by Gitsmith: %w: %s", work.Kind, err, bytes.TrimSpace(stderr.Bytes()))
	}
	return sample, json.Unmarshal(out, &sample)
}

// served is a repository on a git server, put back as it was after each job.
type served struct {
	tb   testing.TB
	base string // URL
	slug string
	path string
	tip  string
	word int
}

// serve puts a copy of a shape on a git server of its own.
func serve(tb testing.TB, cache string, shape Shape) *served {
	tb.Helper()
	built, err := Build(tb.Context(), cache, shape)
	if err != nil {
		tb.Fatal(err)
	}
	root := tb.TempDir()
	server := startGitServer(tb, root)
	s := &served{tb: tb, base: server.base, slug: shape.Name, path: server.git.Path(Workspace + "/" + shape.Name)}
	gitOutput(tb, "", "clone", "--quiet", "--bare", "--local", built, s.path)
	gitOutput(tb, s.path, "config", "http.receivepack", "true")
	s.tip = gitOutput(tb, s.path, "rev-parse", "main")
	return s
}

// round does the work once in one way and checks what came of it.
func (s *served) round(kind string, way func(context.Context, Work) (Sample, error)) Sample {
	s.tb.Helper()
	s.word++
	folder, err := os.MkdirTemp(s.tb.TempDir(), "work-")
	if err != nil {
		s.tb.Fatal(err)
	}
	work := Work{Kind: kind, Base: s.base, Slug: s.slug, Folder: folder, Word: fmt.Sprintf("word%d", s.word)}
	sample, err := way(s.tb.Context(), work)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.check(work)
	gitOutput(s.tb, s.path, "update-ref", "refs/heads/main", s.tip)
	if err := os.RemoveAll(folder); err != nil {
		s.tb.Fatal(err)
	}
	return sample
}

func (s *served) check(work Work) {
	s.tb.Helper()
	if work.Kind == Archive {
		if info, err := os.Stat(filepath.Join(work.Folder, artifactName)); err != nil || info.Size() == 0 {
			s.tb.Fatalf("no archive: %v", err)
		}
		return
	}
	if parent := gitOutput(s.tb, s.path, "rev-parse", "main^"); parent != s.tip {
		s.tb.Fatalf("the pushed commit stands on %s, not on %s", parent, s.tip)
	}
	if changed := gitOutput(s.tb, s.path, "diff", "--name-only", s.tip, "main"); changed != EditedFile {
		s.tb.Fatalf("the push changed %q", changed)
	}
	if content := gitOutput(s.tb, s.path, "show", "main:"+EditedFile); !strings.HasPrefix(content, work.Word+" ") {
		s.tb.Fatalf("the pushed file begins %.20q", content)
	}
}

// compare does the work in both ways, in turns, as often as -benchtime asks and at least minRounds times.
func (s *served) compare(b *testing.B, kind string) Comparison {
	comparison := Comparison{Name: s.slug}
	round := func() {
		if len(comparison.Ours)%2 == 0 { // neither way always comes first
			comparison.Theirs = append(comparison.Theirs, s.round(kind, byCommandLine))
			comparison.Ours = append(comparison.Ours, s.round(kind, inOwnProcess))
		} else {
			comparison.Ours = append(comparison.Ours, s.round(kind, inOwnProcess))
			comparison.Theirs = append(comparison.Theirs, s.round(kind, byCommandLine))
		}
	}
	for b.Loop() {
		round()
	}
	for len(comparison.Ours) < minRounds {
		round()
	}
	return comparison
}

// benchmarkGit is the two tables of the comparison with the command line, as far as they were asked for.
func benchmarkGit(b *testing.B) (tables []Table) {
	for _, kind := range []struct{ kind, title, note string }{
		{
			Push, "Push: one line of one file",
			"git: clone --depth 1, edit, commit, push. Gitsmith: the same by a worker's client that knows nothing of the\nrepository yet.",
		},
		{
			Archive, "Archive: tar.gz of the tip",
			"git: clone --depth 1 and tar -cz. Gitsmith: the same by a worker's client, written straight from the objects.",
		},
	} {
		var all []Comparison
		for _, shape := range []Shape{Small(), Medium()} {
			b.Run(kind.kind+"/"+shape.Name, func(b *testing.B) {
				all = append(all, serve(b, cacheFolder, shape).compare(b, kind.kind))
			})
		}
		if len(all) > 0 {
			tables = append(tables, comparisons(kind.title, kind.note, all...))
		}
	}
	return tables
}
