package gitrepo

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/glob"
	"github.com/gitsmith/gitsmith/internal/job"
)

func unpackTar(tb testing.TB, name string, archive []byte, flags string) map[string]string {
	tb.Helper()
	dir := tb.TempDir()
	command := exec.CommandContext(tb.Context(), "tar", flags, "-", "-C", dir)
	command.Stdin = bytes.NewReader(archive)
	if out, err := command.CombinedOutput(); err != nil || len(out) > 0 {
		tb.Fatalf("tar %s of %s: %v: %s", flags, name, err, out)
	}
	return fileTree(tb, dir)
}

func gunzip(tb testing.TB, data []byte) []byte {
	tb.Helper()
	reader, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		tb.Fatal(err)
	}
	out, err := io.ReadAll(reader)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func TestTarGzIsWhatGitArchives(t *testing.T) {
	t.Parallel()
	r := motley(t)
	for _, paths := range [][]string{nil, {"docs", "links/inside"}} {
		ours, files := r.archive("refs/heads/main", job.ArchiveTarGz, paths...)
		theirs := r.gitAt(r.dir, nil, append([]string{"-c", "tar.umask=022", "archive", "--format=tar", "refs/heads/main", "--"}, paths...)...)
		want := unpackTar(t, "git", theirs, "-xpf")
		if diff := cmp.Diff(want, unpackTar(t, "ours", ours, "-xpzf")); diff != "" {
			t.Errorf("paths %q: git archive (-) and ours (+) differ:\n%s", paths, diff)
		}
		counted := 0
		for _, file := range want {
			if file[0] != 'd' {
				counted++
			}
		}
		if files != counted || counted == 0 {
			t.Errorf("paths %q: %d files reported, %d are there", paths, files, counted)
		}
		id := r.gitAt(r.dir, gunzip(t, ours), "get-tar-commit-id")
		if want := r.git("rev-parse", "main"); string(id) != want {
			t.Errorf("git get-tar-commit-id says %q, want %q", id, want)
		}
	}
}

func TestTarGzHeaders(t *testing.T) {
	t.Parallel()
	r := motley(t)
	data, _ := r.archive("refs/heads/main", job.ArchiveTarGz)
	if !bytes.Equal(data[:10], []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}) {
		t.Errorf("the gzip header % x says more than it must", data[:10])
	}
	var names []string
	reader := tar.NewReader(bytes.NewReader(gunzip(t, data)))
	for {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		names = append(names, header.Name)
		if header.Uid != 0 || header.Gid != 0 || header.Uname != "" || header.Gname != "" || header.ModTime.Unix() != 1700000004 {
			t.Errorf("%q: owner %d:%d %q:%q, time %d", header.Name, header.Uid, header.Gid, header.Uname, header.Gname, header.ModTime.Unix())
		}
	}
	var order []string
	for line := range strings.SplitSeq(strings.TrimSuffix(r.git("ls-tree", "-rtz", "main"), "\x00"), "\x00") {
		meta, name, _ := strings.Cut(line, "\t")
		if !strings.Contains(meta, " blob ") {
			name += "/"
		}
		order = append(order, name)
	}
	if diff := cmp.Diff(order, names); diff != "" {
		t.Errorf("order of git ls-tree (-) and of the archive (+):\n%s", diff)
	}
}

// The bytes of the tar are part of what is promised: they may change with a release that says so, not by accident.
func TestTarBytesAreFixed(t *testing.T) {
	t.Parallel()
	data, _ := motley(t).archive("refs/heads/main", job.ArchiveTarGz)
	if got, want := digest(gunzip(t, data)), "1258d0547de7b61349704e379517db9dd22f71d2b3fa97bca01fc28ed35ada75"; got != want {
		t.Errorf("the tar's sha256 is %s, it was %s", got, want)
	}
}

func TestZip(t *testing.T) {
	t.Parallel()
	r := motley(t)
	data, files := r.archive("refs/heads/main", job.ArchiveZip)
	reader, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		t.Fatal(err)
	}
	if want := strings.TrimSpace(r.git("rev-parse", "main")); reader.Comment != want {
		t.Errorf("comment %q, want the commit %q", reader.Comment, want)
	}
	got, counted := map[string]string{}, 0
	for _, file := range reader.File {
		content, err := file.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		got[strings.TrimSuffix(file.Name, "/")] = file.Mode().String() + " " + string(text)
		if file.Mode()&fs.ModeDir == 0 {
			counted++
		}
		if !file.Modified.Equal(time.Unix(1700000004, 0)) {
			t.Errorf("%q: time %s", file.Name, file.Modified)
		}
	}
	theirs := r.gitAt(r.dir, nil, "-c", "tar.umask=022", "archive", "--format=tar", "refs/heads/main")
	if diff := cmp.Diff(unpackTar(t, "git", theirs, "-xpf"), got); diff != "" {
		t.Errorf("git archive (-) and our zip (+) differ:\n%s", diff)
	}
	if files != counted {
		t.Errorf("%d files reported, %d are there", files, counted)
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	r := motley(t)
	for _, test := range []struct {
		paths []string
		want  []string // nil: NotFound
	}{
		{[]string{"docs/**"}, []string{"docs/", "docs/deep/", "docs/deep/er/", "docs/deep/er/page.md", "docs/guide.md"}},
		{[]string{"docs"}, []string{"docs/", "docs/deep/", "docs/deep/er/", "docs/deep/er/page.md", "docs/guide.md"}},
		{[]string{"docs/deep/"}, []string{"docs/", "docs/deep/", "docs/deep/er/", "docs/deep/er/page.md"}},
		{[]string{"docs/*.md"}, []string{"docs/", "docs/guide.md"}},
		{[]string{"*.md"}, []string{"README.md", "docs-not.md"}},
		{[]string{"**/page.md", "bin/run"}, []string{"bin/", "bin/run", "docs/", "docs/deep/", "docs/deep/er/", "docs/deep/er/page.md"}},
		{[]string{"{bin,docs}/{run,guide.*}"}, []string{"bin/", "bin/run", "docs/", "docs/guide.md"}},
		{[]string{"vendor/**"}, []string{"vendor/", "vendor/module/"}},
		{[]string{"links/ins*"}, []string{"links/", "links/inside"}},
		{[]string{"latin1*"}, []string{"latin1-\xe9\xe8.txt"}},
		{[]string{"doc"}, nil},
		{[]string{"docs/**/*.go", "no/such"}, nil},
	} {
		var out bytes.Buffer
		_, err := writeArchive(t.Context(), &out, r.source("main"), ArchiveSpec{Format: job.ArchiveTarGz, Paths: test.paths})
		if test.want == nil {
			if fault.KindOf(err) != fault.NotFound || !strings.Contains(fault.Public(err), test.paths[0]) {
				t.Errorf("%q: %v, want NotFound with the paths", test.paths, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", test.paths, err)
			continue
		}
		if diff := cmp.Diff(test.want, tarNames(t, out.Bytes())); diff != "" {
			t.Errorf("%q: want (-), got (+):\n%s", test.paths, diff)
		}
	}
}

func tarNames(tb testing.TB, archive []byte) []string {
	tb.Helper()
	var names []string
	for reader := tar.NewReader(bytes.NewReader(gunzip(tb, archive))); ; {
		header, err := reader.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			tb.Fatal(err)
		}
		if header.Typeflag != tar.TypeXGlobalHeader {
			names = append(names, header.Name)
		}
	}
}

func TestEmptyTree(t *testing.T) {
	t.Parallel()
	r := newArchiveRepo(t)
	var stream fastImporter
	stream.commit("refs/heads/main", "nothing", "")
	r.fastImport(stream.done())
	for _, format := range []job.Archive{job.ArchiveTarGz, job.ArchiveZip, job.ArchiveBundle} {
		if data, files := r.archive("refs/heads/main", format); files != 0 || len(data) == 0 {
			t.Errorf("%s: %d bytes, %d files", format, len(data), files)
		}
	}
	_, err := writeArchive(t.Context(), io.Discard, r.source("main"), ArchiveSpec{Format: job.ArchiveZip, Paths: []string{"**"}})
	if fault.KindOf(err) != fault.NotFound {
		t.Errorf("paths in an empty tree: %v, want NotFound", err)
	}
}

func TestArchiveDoesNotDependOnThePacking(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long; make test-all runs it")
	}
	r := motley(t)
	historyOf(r, 60)
	whole := archiveRepo{t, filepath.Join(t.TempDir(), "whole.git")}
	tight := archiveRepo{t, filepath.Join(t.TempDir(), "tight.git")}
	loose := archiveRepo{t, filepath.Join(t.TempDir(), "loose.git")}
	for _, other := range []archiveRepo{whole, tight} {
		r.gitAt("", nil, "clone", "-q", "--mirror", "--no-local", r.dir, other.dir)
	}
	whole.git("repack", "-q", "-adf", "--window=0")
	tight.git("repack", "-q", "-adf", "--window=100", "--depth=200")
	r.gitAt("", nil, "init", "-q", "--bare", loose.dir)
	loose.gitAt(loose.dir, nil, "-c", "transfer.unpackLimit=100000", "fetch", "-q", r.dir, "+refs/*:refs/*")

	for _, format := range []job.Archive{job.ArchiveTarGz, job.ArchiveZip} {
		for _, ref := range []string{"refs/heads/main", "refs/heads/history", "refs/tags/v1"} {
			want, _ := r.archive(ref, format)
			for _, other := range []archiveRepo{r, whole, tight, loose} {
				if got, _ := other.archive(ref, format); digest(got) != digest(want) {
					t.Errorf("%s of %s: %s in %s, %s elsewhere", format, ref, digest(got), filepath.Base(other.dir), digest(want))
				}
			}
		}
	}
}

// More entries than a zip counts without ZIP64. The files are empty because the race detector is slow on a compressor for each.
func TestWideTree(t *testing.T) {
	t.Parallel()
	count := 100_000
	if testing.Short() {
		count = 5_000
	}
	r := newArchiveRepo(t)
	blob := r.object("blob", "")
	entries := make([][2]string, count)
	for i := range entries {
		entries[i] = [2]string{fmt.Sprintf("100644 f%06d", i), blob}
	}
	r.git("update-ref", "refs/heads/main", r.commit(r.tree(entries...)))
	r.git("repack", "-adq")
	for _, format := range []job.Archive{job.ArchiveTarGz, job.ArchiveZip, job.ArchiveBundle} {
		data, files := r.archive("refs/heads/main", format)
		if files != count {
			t.Errorf("%s: %d files, want %d", format, files, count)
		}
		if format != job.ArchiveZip {
			continue
		}
		reader, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if len(reader.File) != count {
			t.Errorf("the zip lists %d files, want %d", len(reader.File), count)
		}
	}
}

// Not parallel: it measures what is allocated.
func TestLargeBlobIsStreamed(t *testing.T) {
	const size = 20 << 20
	r := newArchiveRepo(t)
	var stream fastImporter
	stream.commit("refs/heads/main", "large", "")
	stream.file("100644", "large.bin", strings.Repeat(pseudoRandom(1<<10), size>>10))
	r.fastImport(stream.done())
	for _, format := range []job.Archive{job.ArchiveTarGz, job.ArchiveZip, job.ArchiveBundle} {
		source := r.sourceFor(format, "refs/heads/main")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := writeArchive(t.Context(), io.Discard, source, ArchiveSpec{Format: format}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if allocated := after.TotalAlloc - before.TotalAlloc; allocated > size/4 {
			t.Errorf("%s: %d bytes allocated for a blob of %d", format, allocated, size)
		}
	}
}

type countingWriter struct {
	bytes int64
	wrote func()
}

func (w *countingWriter) Write(p []byte) (int, error) {
	w.bytes += int64(len(p))
	if w.wrote != nil {
		w.wrote()
	}
	return len(p), nil
}

func TestArchiveStopsWithItsContext(t *testing.T) {
	t.Parallel()
	r := newArchiveRepo(t)
	var stream fastImporter
	stream.commit("refs/heads/main", "large", "")
	stream.file("100644", "large.bin", pseudoRandom(8<<20))
	r.fastImport(stream.done())
	for _, format := range []job.Archive{job.ArchiveTarGz, job.ArchiveZip, job.ArchiveBundle} {
		ctx, cancel := context.WithCancel(t.Context())
		out := countingWriter{wrote: cancel}
		_, err := writeArchive(ctx, &out, r.sourceFor(format, "refs/heads/main"), ArchiveSpec{Format: format})
		if !errors.Is(err, context.Canceled) || fault.KindOf(err) != fault.Interrupted || out.bytes > 4*archiveBuffer {
			t.Errorf("%s: %v after %d bytes", format, err, out.bytes)
		}
	}
}

func TestArchivePassesOnWhatTheWriterSays(t *testing.T) {
	t.Parallel()
	r := motley(t)
	for said, want := range map[error]fault.Kind{
		errors.New("disk full"):                            fault.Internal,
		fault.Newf(fault.TooLarge, "the quota is reached"): fault.TooLarge,
	} {
		for _, format := range []job.Archive{job.ArchiveTarGz, job.ArchiveZip, job.ArchiveBundle} {
			_, err := writeArchive(t.Context(), failingWriter{said}, r.sourceFor(format, "refs/heads/main"), ArchiveSpec{Format: format})
			if !errors.Is(err, said) || fault.KindOf(err) != want {
				t.Errorf("%s: %v, want %v as %v", format, err, said, want)
			}
			if classified := (*fault.Error)(nil); !errors.As(err, &classified) {
				t.Errorf("%s: %v is not classified", format, err)
			}
		}
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestArchiveFormats(t *testing.T) {
	t.Parallel()
	r := motley(t)
	for _, format := range []job.Archive{"", "rar", job.ArchiveNone} {
		if _, err := writeArchive(t.Context(), io.Discard, r.source("main"), ArchiveSpec{Format: format}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v, want Invalid", format, err)
		}
	}
}

// TestArchiveGlobsAreBounded: globs that a backtracking matcher takes minutes for, against a file whose name they almost match, are refused or
// matched at once; the file is nowhere near the last that is looked at.
func TestArchiveGlobsAreBounded(t *testing.T) {
	t.Parallel()
	r := motley(t)
	long := strings.Repeat("n", 250)
	for name, tc := range map[string]struct {
		pattern string
		kind    fault.Kind
	}{
		"121 bytes":       {strings.Repeat("*{n,n}", 20) + "b", fault.Invalid},
		"1,024 braces":    {strings.Repeat("*{n,n}", 10) + "[b]", fault.NotFound},
		"nested braces":   {strings.Repeat("{*n,*{n,n}", 4) + strings.Repeat("}", 4) + "[b]", fault.NotFound},
		"braces and **":   {strings.Repeat("{**/,**/}{n,*n}*", 5) + "[b]", fault.NotFound},
		"stars":           {strings.Repeat("n*", 64) + "[b]", fault.NotFound},
		"deep ** and *":   {strings.Repeat("**/*d*y*/", 12) + "[b]", fault.NotFound},
		"large":           {"{**/,*}" + strings.Repeat("[n-z]*", 60) + "[b]", fault.NotFound},
		"that very file":  {"*{" + long + ",b}", 0},
		"those very ones": {strings.Repeat("*n", 60) + "*", 0},
	} {
		files, err := writeArchive(t.Context(), io.Discard, r.source("main"), ArchiveSpec{Format: job.ArchiveZip, Paths: []string{tc.pattern}})
		if tc.kind == 0 && (err != nil || files != 1) || tc.kind != 0 && fault.KindOf(err) != tc.kind {
			t.Errorf("%s: %d files, %v", name, files, err)
		}
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the job's time is over")
	cancel(why)
	walk := treeWalk{ctx: ctx, meter: glob.NewMeter(0)}
	each, err := newPathGlob("**/*n")
	if err != nil {
		t.Fatal(err)
	}
	walk.globs = []pathGlob{each}
	if _, err := walk.wants(long); !errors.Is(err, why) {
		t.Errorf("after the end: %v", err)
	}
}

func FuzzGlobPrunesNothingThatMatches(f *testing.F) {
	f.Add("docs/**/*.md", "docs/a/b.md")
	f.Add("{a,b}/c", "b/c")
	f.Add("a/b", "a/b/c")
	f.Add(`a\/b`, "a/b")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		if strings.HasPrefix(path, "/") || slices.Contains(strings.Split(path, "/"), "") {
			t.Skip("no path of a tree")
		}
		g, err := newPathGlob(pattern)
		if err != nil {
			t.Skip("no glob")
		}
		if matches, _ := g.matches(t.Context(), glob.NewMeter(0), path); !matches {
			return
		}
		for i, c := range path {
			if c == '/' && !g.mayMatchBelow(path[:i]) {
				t.Errorf("%q matches %q, and %q was left out", pattern, path, path[:i])
			}
		}
	})
}
