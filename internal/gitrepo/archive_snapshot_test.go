package gitrepo

import (
	"bytes"
	"errors"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// archiveServer serves a copy of a repository over HTTP, packed in its own way.
type archiveServer struct {
	archiveRepo
	client *Client
	remote Remote
}

func serveArchive(tb testing.TB, r archiveRepo, memory int64, repack ...string) archiveServer {
	tb.Helper()
	git, err := gittest.New(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	served := archiveServer{archiveRepo: archiveRepo{tb, git.Path("acme/web")}}
	r.gitAt("", nil, "clone", "-q", "--mirror", "--no-local", r.dir, served.dir)
	served.git("config", "uploadpack.allowAnySHA1InWant", "true")
	served.git(append([]string{"repack", "-q", "-adf"}, repack...)...)
	server := httptest.NewServer(git)
	tb.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	if err != nil {
		tb.Fatal(err)
	}
	served.client, err = New(Config{Base: base, TempDir: tb.TempDir(), MemoryLimit: memory})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = served.client.Close() })
	served.remote = Remote{Repository: bitbucket.Repository{Workspace: "acme", Slug: "web"}, Token: secret.New("unchecked")}
	return served
}

func (s archiveServer) fetchAndArchive(want Want, spec ArchiveSpec) ([]byte, int, error) {
	s.tb.Helper()
	snapshot, err := s.client.Fetch(s.tb.Context(), s.remote, want)
	if err != nil {
		s.tb.Fatalf("fetch %v: %v", want, err)
	}
	defer func() {
		if err := snapshot.Close(); err != nil {
			s.tb.Error(err)
		}
	}()
	var out bytes.Buffer
	files, err := snapshot.Archive(s.tb.Context(), &out, spec)
	return out.Bytes(), files, err
}

// What a job stores is the same whichever server packed it in whichever way, in memory and on disk, at every depth.
func TestArchiveOfASnapshotIsAlwaysTheSame(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long; make test-all runs it")
	}
	r := motley(t)
	historyOf(r, 60)
	commit := strings.TrimSpace(r.git("rev-parse", "history~10"))
	servers := []archiveServer{
		serveArchive(t, r, 0, "--window=0"),
		serveArchive(t, r, 4<<10, "--window=100", "--depth=200"),
	}
	for _, test := range []struct {
		want   Want
		format job.Archive
		ref    string // in the repository itself
	}{
		{Want{Ref: "main", Depth: 1}, job.ArchiveTarGz, "refs/heads/main"},
		{Want{Ref: "refs/tags/v1", Depth: 1}, job.ArchiveZip, "refs/tags/v1"},
		{Want{Depth: 2}, job.ArchiveZip, "refs/heads/main"},
		{Want{Ref: commit, Depth: 1}, job.ArchiveTarGz, commit},
		{Want{Ref: "history"}, job.ArchiveTarGz, "refs/heads/history"},
	} {
		expected, count := r.archive(test.ref, test.format)
		for i, server := range servers {
			got, files, err := server.fetchAndArchive(test.want, ArchiveSpec{Format: test.format})
			if err != nil || digest(got) != digest(expected) || files != count {
				t.Errorf("server %d, %v as %s: %d files, sha256 %s, %v; want %d, %s", i, test.want, test.format, files, digest(got), err, count, digest(expected))
			}
		}
	}
}

func TestBundleOfASnapshotIsCloned(t *testing.T) {
	t.Parallel()
	r := motley(t)
	historyOf(r, 60)
	commit := strings.TrimSpace(r.git("rev-parse", "history~10"))
	server := serveArchive(t, r, 4<<10, "--window=100")
	for want, ref := range map[Want]string{
		{Ref: "refs/heads/history"}: "refs/heads/history", {Ref: "v1"}: "refs/tags/v1", {Ref: "refs/tags/light"}: "refs/tags/light", {Ref: commit}: commit, {}: "main",
	} {
		data, files, err := server.fetchAndArchive(want, ArchiveSpec{Format: job.ArchiveBundle})
		name := filepath.Join(t.TempDir(), "x.bundle")
		if err = errors.Join(err, os.WriteFile(name, data, 0o600)); err != nil {
			t.Fatalf("%v: %v", want, err)
		}
		clone := archiveRepo{t, filepath.Join(t.TempDir(), "clone")}
		r.gitAt("", nil, "-c", "transfer.fsckObjects=true", "clone", "-q", name, clone.dir)
		if got, want := clone.git("rev-list", "--objects", "HEAD"), r.git("rev-list", "--objects", ref+"^{commit}"); got != want {
			t.Errorf("%s: the objects differ:\n%s\nwant:\n%s", ref, got, want)
		}
		if listed := strings.Count(clone.git("ls-tree", "-rz", "HEAD"), " blob "); listed != files {
			t.Errorf("%s: %d files reported, %d are there", ref, files, listed)
		}
	}
}

func TestBundleOfAShallowSnapshotIsRefused(t *testing.T) {
	t.Parallel()
	server := serveArchive(t, motley(t), 0)
	_, _, err := server.fetchAndArchive(Want{Ref: "main", Depth: 1}, ArchiveSpec{Format: job.ArchiveBundle})
	if fault.KindOf(err) != fault.Invalid {
		t.Errorf("%v, want Invalid", err)
	}
}

func TestArchiveBlamesWhoFailed(t *testing.T) {
	t.Parallel()
	server := serveArchive(t, motley(t), 0)
	snapshot, err := server.client.Fetch(t.Context(), server.remote, Want{Ref: "main", Depth: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Close()
	_, err = snapshot.Archive(t.Context(), failingWriter{bytes.ErrTooLarge}, ArchiveSpec{Format: job.ArchiveZip})
	if fault.KindOf(err) != fault.Internal || strings.Contains(fault.Public(err), "server") {
		t.Errorf("a full store is reported as %v", err)
	}
	if _, err := snapshot.Archive(t.Context(), new(bytes.Buffer), ArchiveSpec{Format: job.ArchiveZip, Paths: []string{"no/such"}}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("no match is reported as %v", err)
	}
}
