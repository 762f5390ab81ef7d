package gitrepo

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"github.com/gitsmith/gitsmith/internal/job"
)

// archiveRepo is a bare repository made with the git CLI.
type archiveRepo struct {
	tb  testing.TB
	dir string
}

func newArchiveRepo(tb testing.TB) archiveRepo {
	tb.Helper()
	r := archiveRepo{tb, filepath.Join(tb.TempDir(), "repo.git")}
	r.gitAt("", nil, "init", "-q", "--bare", "--initial-branch=main", r.dir)
	return r
}

func (r archiveRepo) git(args ...string) string { return string(r.gitAt(r.dir, nil, args...)) }

func (r archiveRepo) gitAt(dir string, stdin []byte, args ...string) []byte {
	r.tb.Helper()
	command := exec.CommandContext(r.tb.Context(), "git", args...)
	command.Dir = dir
	command.Stdin = bytes.NewReader(stdin)
	command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		r.tb.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

// fastImport feeds a stream to git fast-import. The result is packed.
func (r archiveRepo) fastImport(stream string) {
	r.tb.Helper()
	r.gitAt(r.dir, []byte(stream), "-c", "fastimport.unpackLimit=0", "fast-import", "--quiet", "--done")
}

// object writes a raw object, whatever git thinks of it.
func (r archiveRepo) object(kind, content string) string {
	r.tb.Helper()
	return strings.TrimSpace(string(r.gitAt(r.dir, []byte(content), "hash-object", "-t", kind, "--literally", "-w", "--stdin")))
}

// tree writes a raw tree; each entry is "mode name" and a hash.
func (r archiveRepo) tree(entries ...[2]string) string {
	r.tb.Helper()
	var content bytes.Buffer
	for _, entry := range entries {
		hash, err := hex.DecodeString(entry[1])
		if err != nil {
			r.tb.Fatal(err)
		}
		content.WriteString(entry[0] + "\x00")
		content.Write(hash)
	}
	return r.object("tree", content.String())
}

// commit writes a commit of a tree.
func (r archiveRepo) commit(tree string) string {
	return r.object("commit", "tree "+tree+"\nauthor A <a@example.com> 1700000000 +0100\ncommitter C <c@example.com> 1700000000 +0100\n\nraw\n")
}

// source opens what Archive reads of the repository, with the threshold above which objects are streamed.
func (r archiveRepo) source(ref string) archiveSource {
	r.tb.Helper()
	storage := filesystem.NewStorageWithOptions(osfs.New(r.dir), cache.NewObjectLRU(4*cache.MiByte),
		filesystem.Options{KeepDescriptors: true, LargeObjectThreshold: 512 << 10})
	r.tb.Cleanup(func() { _ = storage.Close() })
	source := archiveSource{
		objects: storage,
		commit:  plumbing.NewHash(strings.TrimSpace(r.git("rev-parse", ref+"^{commit}"))),
		tip:     plumbing.NewHash(strings.TrimSpace(r.git("rev-parse", ref))),
	}
	if strings.HasPrefix(ref, "refs/") {
		source.ref = ref
	}
	return source
}

// sourceFor is source with what the format needs: the pack, as a server sends it, of which a bundle is made.
func (r archiveRepo) sourceFor(format job.Archive, ref string) archiveSource {
	r.tb.Helper()
	source := r.source(ref)
	if format == job.ArchiveBundle {
		source.pack = r.pack(r.gitAt(r.dir, []byte(ref+"\n"), "pack-objects", "-q", "--revs", "--stdout", "--delta-base-offset"))
	}
	return source
}

// pack opens a pack's bytes, which lie on disk.
func (r archiveRepo) pack(content []byte) *pack {
	r.tb.Helper()
	client, err := New(Config{Base: &url.URL{Scheme: "http", Host: "127.0.0.1:1"}, TempDir: r.tb.TempDir(), MemoryLimit: 1})
	if err != nil {
		r.tb.Fatal(err)
	}
	opened := client.open(r.tb.Context(), io.NopCloser(nil), bytes.NewReader(content), packRequest{})
	r.tb.Cleanup(func() {
		if err := errors.Join(opened.close(), client.Close()); err != nil {
			r.tb.Error(err)
		}
	})
	return opened
}

func (r archiveRepo) archive(ref string, format job.Archive, paths ...string) ([]byte, int) {
	r.tb.Helper()
	var out bytes.Buffer
	files, err := writeArchive(r.tb.Context(), &out, r.sourceFor(format, ref), ArchiveSpec{Format: format, Paths: paths})
	if err != nil {
		r.tb.Fatalf("archive %s of %s: %v", format, ref, err)
	}
	return out.Bytes(), files
}

// fastImporter puts a fast-import stream together.
type fastImporter struct {
	stream strings.Builder
	clock  int
}

// commit begins a commit on a branch. From is where a new branch starts, or is empty; merged become further parents.
func (f *fastImporter) commit(ref, message, from string, merged ...string) {
	f.clock++
	fmt.Fprintf(&f.stream, "commit %s\nauthor A <a@example.com> %d +0100\ncommitter C <c@example.com> %d -0330\ndata %d\n%s\n",
		ref, 1700000000+f.clock, 1700000000+f.clock, len(message), message)
	if from != "" {
		fmt.Fprintf(&f.stream, "from %s\n", from)
	}
	for _, parent := range merged {
		fmt.Fprintf(&f.stream, "merge %s\n", parent)
	}
}

func (f *fastImporter) file(mode, path, content string) {
	fmt.Fprintf(&f.stream, "M %s inline %s\ndata %d\n%s\n", mode, quotePath(path), len(content), content)
}

func (f *fastImporter) submodule(path, hash string) {
	fmt.Fprintf(&f.stream, "M 160000 %s %s\n", hash, quotePath(path))
}

func (f *fastImporter) done() string { return f.stream.String() + "done\n" }

// quotePath writes a path as fast-import's C style strings are written.
func quotePath(path string) string {
	var quoted strings.Builder
	quoted.WriteByte('"')
	for i := range len(path) {
		if c := path[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			fmt.Fprintf(&quoted, `\%03o`, c)
		} else {
			quoted.WriteByte(c)
		}
	}
	quoted.WriteByte('"')
	return quoted.String()
}

const lfsPointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"

// motleyFiles is a tree with everything that an archive can get wrong, by path: mode and content.
func motleyFiles() map[string][2]string {
	deep := strings.Repeat("directory-of-some-length/", 30) + "leaf.txt"
	return map[string][2]string{
		"README.md":            {"100644", "# Motley\n"},
		"bin/run":              {"100755", "#!/bin/sh\nexit 0\n"},
		"empty":                {"100644", ""},
		"docs/guide.md":        {"100644", "guide\n"},
		"docs/deep/er/page.md": {"100644", "page\n"},
		"docs-not.md":          {"100644", "sorts before docs/ in git\n"},
		"links/inside":         {"120000", "../README.md"},
		"links/outside":        {"120000", "../../../../etc/passwd"},
		"links/absolute":       {"120000", "/etc/passwd"},
		"links/long":           {"120000", strings.Repeat("target-of-some-length/", 20)},
		"links/dangling \xff":  {"120000", "no-such-\xfe"},
		"big.bin":              {"100644", pseudoRandom(700 << 10)},
		"media/film.mp4":       {"100644", lfsPointer},
		".gitattributes":       {"100644", "*.mp4 filter=lfs diff=lfs merge=lfs -text\n"},
		"name with spaces and ünïcode 日本.txt": {"100644", "unicode\n"},
		"latin1-\xe9\xe8.txt":                 {"100644", "latin 1\n"},
		"back\\slash":                         {"100644", "backslash\n"},
		"new\nline":                           {"100644", "new line\n"},
		"-dash":                               {"100644", "dash\n"},
		strings.Repeat("n", 250):              {"100755", "long name\n"},
		deep:                                  {"100644", "deep\n"},
	}
}

// pseudoRandom is text that does not compress, the same each time.
func pseudoRandom(size int) string {
	out := make([]byte, 0, size+sha256.Size)
	for sum := sha256.Sum256(nil); len(out) < size; sum = sha256.Sum256(sum[:]) {
		out = append(out, sum[:]...)
	}
	return string(out[:size])
}

// motley is a repository of three commits, a merge, a branch refs/heads/main and two tags.
func motley(tb testing.TB) archiveRepo {
	tb.Helper()
	r := newArchiveRepo(tb)
	var stream fastImporter
	stream.commit("refs/heads/main", "first", "")
	for path, file := range motleyFiles() {
		stream.file(file[0], path, file[1])
	}
	stream.submodule("vendor/module", "0123456789abcdef0123456789abcdef01234567")
	stream.commit("refs/heads/side", "side", "refs/heads/main")
	stream.file("100644", "README.md", "# Motley\nand a side\n")
	stream.commit("refs/heads/main", "second", "")
	stream.file("100644", "docs/guide.md", "guide, second edition\n")
	stream.commit("refs/heads/main", "merge", "", "refs/heads/side")
	stream.file("100644", "README.md", "# Motley\nmerged\n")
	stream.stream.WriteString("tag v1\nfrom refs/heads/main\ntagger T <t@example.com> 1700000500 +0000\ndata 4\nv1.0\n")
	stream.stream.WriteString("reset refs/tags/light\nfrom refs/heads/side\n\n")
	r.fastImport(stream.done())
	return r
}

// fileTree lists what is in a folder: mode, and the content or target, by path.
func fileTree(tb testing.TB, root string) map[string]string {
	tb.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		if entry.IsDir() && entry.Name() == ".git" {
			return fs.SkipDir
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			content, err = os.Readlink(path)
		case info.Mode().IsRegular():
			var data []byte
			data, err = os.ReadFile(path)
			content = string(data)
		}
		found[strings.TrimPrefix(path, root+"/")] = info.Mode().String() + " " + content
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
