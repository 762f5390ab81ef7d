package gitrepo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// historyOf adds a branch on which a large file, a directory and a binary change again and again, longer than a chain of deltas.
func historyOf(r archiveRepo, commits int) {
	r.tb.Helper()
	var stream fastImporter
	lines := make([]string, 500)
	for i := range lines {
		lines[i] = fmt.Sprintf("line %d of a file that is long enough to be worth a delta", i)
	}
	for i := range commits {
		stream.commit("refs/heads/history", fmt.Sprintf("commit %d", i), "")
		lines[i*7%len(lines)] = fmt.Sprintf("changed in commit %d", i)
		stream.file("100644", "src/long.txt", strings.Join(lines, "\n"))
		stream.file("100644", fmt.Sprintf("src/many/file%d", i), "x\n")
		stream.file("100644", "binary", pseudoRandom(1000+i))
	}
	r.fastImport(stream.done())
}

func TestBundleIsCloned(t *testing.T) {
	t.Parallel()
	r := motley(t)
	historyOf(r, 120)
	r.git("tag", "-f", "twice", "refs/tags/light") // a second name for a commit
	for _, test := range []struct {
		ref    string
		branch string // what git clone checks out; empty: a detached HEAD
	}{
		{"refs/heads/main", "main"},
		{"refs/heads/history", "history"},
		{"refs/tags/v1", ""},
		{"refs/tags/light", ""},
		{"HEAD", ""},
		{strings.TrimSpace(r.git("rev-parse", "main~1")), ""},
	} {
		data, files := r.archive(test.ref, job.ArchiveBundle)
		name := filepath.Join(t.TempDir(), "x.bundle")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r.git("bundle", "verify", "-q", name)
		clone := archiveRepo{t, filepath.Join(t.TempDir(), "clone")}
		r.gitAt("", nil, "-c", "transfer.fsckObjects=true", "clone", "-q", name, clone.dir)
		clone.git("fsck", "--strict", "--no-dangling")
		if got, want := clone.git("rev-list", "--objects", "HEAD"), r.git("rev-list", "--objects", test.ref+"^{commit}"); got != want {
			t.Errorf("%s: the objects differ:\n%s\nwant:\n%s", test.ref, got, want)
		}
		if branch := strings.TrimSpace(clone.git("branch", "--show-current")); branch != test.branch {
			t.Errorf("%s: %q is checked out, want %q", test.ref, branch, test.branch)
		}
		if listed := strings.Count(clone.git("ls-tree", "-rz", "HEAD"), " blob "); listed != files {
			t.Errorf("%s: %d files reported, %d are there", test.ref, files, listed)
		}
	}
}

func TestBundleBringsTheTagObject(t *testing.T) {
	t.Parallel()
	r := motley(t)
	r.git("-c", "user.name=T", "-c", "user.email=t@example.com", "tag", "-a", "-m", "a tag of a tag", "outer", "refs/tags/v1")
	data, _ := r.archive("refs/tags/outer", job.ArchiveBundle)
	name := filepath.Join(t.TempDir(), "x.bundle")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	clone := archiveRepo{t, filepath.Join(t.TempDir(), "clone")}
	r.gitAt("", nil, "clone", "-q", "--mirror", name, clone.dir)
	clone.git("fsck", "--strict")
	if got, want := clone.git("rev-parse", "refs/tags/outer", "outer^{}"), r.git("rev-parse", "refs/tags/outer", "main"); got != want {
		t.Errorf("tag and commit %s, want %s", got, want)
	}
	if kind := clone.git("cat-file", "-t", strings.TrimSpace(r.git("rev-parse", "v1"))); kind != "tag\n" {
		t.Errorf("the inner tag is a %q", kind)
	}
}

func TestBundleHeader(t *testing.T) {
	t.Parallel()
	r := motley(t)
	commit, tag := strings.TrimSpace(r.git("rev-parse", "main")), strings.TrimSpace(r.git("rev-parse", "v1"))
	for ref, want := range map[string]string{
		"refs/heads/main": "# v2 git bundle\n" + commit + " HEAD\n" + commit + " refs/heads/main\n\nPACK",
		"refs/tags/v1":    "# v2 git bundle\n" + commit + " HEAD\n" + tag + " refs/tags/v1\n\nPACK",
		commit:            "# v2 git bundle\n" + commit + " HEAD\n\nPACK",
	} {
		if data, _ := r.archive(ref, job.ArchiveBundle); !bytes.HasPrefix(data, []byte(want)) {
			t.Errorf("%s: the bundle begins %q, want %q", ref, data[:min(len(data), len(want))], want)
		}
	}
}

func TestBundleRefusesPartOfARepository(t *testing.T) {
	t.Parallel()
	r := motley(t)
	shallow := r.source("refs/heads/main")
	shallow.shallow = true
	for name, refused := range map[string]error{
		"shallow": second(writeArchive(t.Context(), io.Discard, shallow, ArchiveSpec{Format: job.ArchiveBundle})),
		"paths":   second(writeArchive(t.Context(), io.Discard, r.sourceFor(job.ArchiveBundle, "main"), ArchiveSpec{Format: job.ArchiveBundle, Paths: []string{"docs"}})),
	} {
		if fault.KindOf(refused) != fault.Invalid {
			t.Errorf("%s: %v, want Invalid", name, refused)
		}
	}
}

func second(_ int, err error) error { return err }

func TestBundleWithAMissingObjectIsNoBundle(t *testing.T) {
	t.Parallel()
	r := motley(t)
	for _, missing := range []string{"main~1:docs/guide.md", "main~1:docs", "main~1", "main^{tree}", "main"} {
		hash := strings.TrimSpace(r.git("rev-parse", missing))
		var rest strings.Builder
		for line := range strings.Lines(r.git("rev-list", "--objects", "main")) {
			if !strings.HasPrefix(line, hash) {
				rest.WriteString(line)
			}
		}
		source := r.source("refs/heads/main")
		source.pack = r.pack(r.gitAt(r.dir, []byte(rest.String()), "pack-objects", "-q", "--stdout"))
		_, err := writeArchive(t.Context(), io.Discard, source, ArchiveSpec{Format: job.ArchiveBundle})
		if !errors.Is(err, plumbing.ErrObjectNotFound) {
			t.Errorf("%s is missing: %v", missing, err)
		}
	}
}
