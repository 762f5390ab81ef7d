package gitrepo_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/gitrepo"
	"github.com/gitsmith/gitsmith/internal/gitrepo/gittest"
	"github.com/gitsmith/gitsmith/internal/job"
)

// importing feeds a stream to git fast-import at the server.
func (s *sparse) importing(stream string) {
	s.t.Helper()
	if _, err := gittest.Git(s.t.Context(), s.git.Path("acme/web"), strings.NewReader(stream), "-c", "fastimport.unpackLimit=0", "fast-import", "--quiet"); err != nil {
		s.t.Fatal(err)
	}
}

// object writes a raw object at the server, whatever git thinks of it.
func (s *sparse) object(kind, content string) string {
	s.t.Helper()
	hash, err := gittest.Git(s.t.Context(), s.git.Path("acme/web"), strings.NewReader(content), "hash-object", "-t", kind, "--literally", "-w", "--stdin")
	if err != nil {
		s.t.Fatal(err)
	}
	return hash
}

// others makes a commit on main with files beside the one that is edited: mode, path and content.
func (s *sparse) others(files ...[3]string) {
	s.t.Helper()
	var stream strings.Builder
	stream.WriteString("commit refs/heads/main\ncommitter T <t@example.com> 1767225600 +0000\ndata 6\nothers\nfrom refs/heads/main^0\n")
	for _, file := range files {
		if file[0] == "160000" {
			fmt.Fprintf(&stream, "M 160000 %s %s\n", file[2], quotePath(file[1]))
			continue
		}
		fmt.Fprintf(&stream, "M %s inline %s\ndata %d\n%s\n", file[0], quotePath(file[1]), len(file[2]), file[2])
	}
	s.importing(stream.String())
}

// archived reads the tip as a tar.gz, by path: mode, target and content.
func (s *sparse) archived() map[string]string {
	s.t.Helper()
	snapshot, err := s.client.Fetch(s.t.Context(), cachedRemote, gitrepo.Want{Ref: "main", Depth: 1})
	if err != nil {
		s.t.Fatal(err)
	}
	var out bytes.Buffer
	_, err = snapshot.Archive(s.t.Context(), &out, gitrepo.ArchiveSpec{Format: job.ArchiveTarGz})
	if err = errors.Join(err, snapshot.Close()); err != nil {
		s.t.Fatal(err)
	}
	unzipped, err := gzip.NewReader(&out)
	if err != nil {
		s.t.Fatal(err)
	}
	found := map[string]string{}
	for reader := tar.NewReader(unzipped); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			s.t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			s.t.Fatal(err)
		}
		found[header.Name] = fmt.Sprintf("%o %s%s", header.Mode, header.Linkname, content)
	}
}

// TestShapes edits one file of repositories of all kinds: what was not edited stays as it was, to the byte.
func TestShapes(t *testing.T) {
	t.Parallel()
	eachVersion(t, testShapes)
}

func testShapes(t *testing.T, v0 bool) {
	deep := strings.Repeat("d/", 200) + "leaf"
	lfs := "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
	for name, tc := range map[string]struct {
		make func(s *sparse)
		want map[string]string // of the archive
	}{
		"a submodule":      {func(s *sparse) { s.others([3]string{"160000", "vendor/module", strings.Repeat("12", 20)}) }, map[string]string{"vendor/module/": "755 "}},
		"symbolic links":   {func(s *sparse) { s.others([3]string{"120000", "links/up", "../../.."}) }, map[string]string{"links/up": "777 ../../.."}},
		"executable files": {func(s *sparse) { s.others([3]string{"100755", "run", "#!/bin/sh\n"}) }, map[string]string{"run": "755 #!/bin/sh\n"}},
		"CRLF":             {func(s *sparse) { s.others([3]string{"100644", "dos.txt", "a\r\nb\r\n"}) }, map[string]string{"dos.txt": "644 a\r\nb\r\n"}},
		"no UTF-8":         {func(s *sparse) { s.others([3]string{"100644", "latin-\xe9/\xff", "x"}) }, map[string]string{"latin-\xe9/\xff": "644 x"}},
		"an LFS pointer":   {func(s *sparse) { s.others([3]string{"100644", "film.mp4", lfs}) }, map[string]string{"film.mp4": "644 " + lfs}},
		"deep directories": {func(s *sparse) { s.others([3]string{"100644", deep, "x"}) }, map[string]string{deep: "644 x"}},
		"cases that differ": {func(s *sparse) {
			s.others([3]string{"100644", "README", "upper"}, [3]string{"100644", "readme", "lower"})
		}, map[string]string{"README": "644 upper", "readme": "644 lower"}},
		"names like git's": {func(s *sparse) {
			s.others([3]string{"100644", "a.b", "1"}, [3]string{"100644", "a/b", "2"}, [3]string{"100644", "a0", "3"}, [3]string{"100644", "a-b", "4"})
		}, map[string]string{"a.b": "644 1", "a/b": "644 2", "a0": "644 3", "a-b": "644 4"}},
		"a mode that old versions wrote": {func(s *sparse) {
			blob := s.object("blob", "old")
			raw := "100664 aged\x00" + unhex(blob) + "40000 edited\x00" + unhex(s.cli("rev-parse", "main:edited"))
			s.head(s.object("tree", raw), "")
		}, map[string]string{"aged": "644 old"}},
		"a signed commit": {func(s *sparse) {
			s.head("", "gpgsig -----BEGIN PGP SIGNATURE-----\n \n iQ==\n -----END PGP SIGNATURE-----\n")
		}, nil},
		"a commit in an encoding":    {func(s *sparse) { s.head("", "encoding ISO-8859-1\n") }, nil},
		"a commit of unknown fields": {func(s *sparse) { s.head("", "HG:extra branch:x\nmergetag object x\n type commit\n") }, nil},
		"a merge": {func(s *sparse) {
			s.importing("commit refs/heads/side\ncommitter T <t@example.com> 1767225600 +0000\ndata 4\nside\nfrom refs/heads/main^0\nM 100644 inline side\ndata 1\nx\n" +
				"commit refs/heads/main\ncommitter T <t@example.com> 1767225601 +0000\ndata 5\nmerge\nfrom refs/heads/main^0\nmerge refs/heads/side\nM 100644 inline side\ndata 1\nx\n")
		}, map[string]string{"side": "644 x"}},
		"alternates": {func(s *sparse) {
			path, base := s.git.Path("acme/web"), s.git.Path("acme/base")
			if err := os.Rename(path, base); err != nil {
				s.t.Fatal(err)
			}
			for _, args := range [][]string{
				{"clone", "-q", "--bare", "--shared", base, path}, {"-C", path, "config", "http.receivepack", "true"}, {"-C", path, "config", "receive.fsckObjects", "true"},
			} {
				if _, err := gittest.Git(s.t.Context(), "", nil, args...); err != nil {
					s.t.Fatal(err)
				}
			}
			if _, err := os.Stat(filepath.Join(path, "objects", "info", "alternates")); err != nil {
				s.t.Fatal(err)
			}
		}, nil},
		"HEAD that points nowhere": {func(s *sparse) { s.cli("symbolic-ref", "HEAD", "refs/heads/nowhere") }, nil},
		"2,000 refs":               {func(s *sparse) { s.refs(2000) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, filter := range []string{"false", "true"} {
				s := startSparse(t, gitrepo.Config{})
				s.v0.Store(v0)
				s.files(20)
				tc.make(s)
				s.cli("config", "uploadpack.allowFilter", filter)
				text := s.succeed("cold", "two", "zwei")
				s.succeed("warm", text, "deux")
				if name != "a mode that old versions wrote" && name != "a commit of unknown fields" {
					s.cli("fsck", "--strict", "--no-dangling")
				}
				archived := s.archived()
				if got := archived["edited/deep/down/file.txt"]; got != "644 one\ndeux\nthree\n" {
					t.Errorf("the edited file is %q", got)
				}
				for path, want := range tc.want {
					if archived[path] != want {
						t.Errorf("%q is %q, want %q", path, archived[path], want)
					}
				}
			}
		})
	}
}

// head makes a raw commit of a tree, the tip's if that is empty, with more fields in its header.
func (s *sparse) head(tree, fields string) {
	s.t.Helper()
	if tree == "" {
		tree = s.cli("rev-parse", "main^{tree}")
	}
	commit := s.object("commit", "tree "+tree+"\nparent "+s.cli("rev-parse", "main")+"\nauthor \xc4 <a@example.com> 1700000000 +0100\ncommitter C <c@example.com> 1700000000 +0100\n"+fields+"\nn\xe4me\n")
	s.cli("update-ref", "refs/heads/main", commit)
}

func (s *sparse) refs(count int) {
	s.t.Helper()
	tip := s.cli("rev-parse", "main")
	var packed strings.Builder
	packed.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	for i := range count {
		fmt.Fprintf(&packed, "%s refs/heads/feature/number-%06d\n", tip, i)
	}
	fmt.Fprintf(&packed, "%s refs/heads/main\n", tip)
	if err := os.WriteFile(filepath.Join(s.git.Path("acme/web"), "packed-refs"), []byte(packed.String()), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func unhex(hash string) string {
	var raw []byte
	if _, err := fmt.Sscanf(hash, "%x", &raw); err != nil {
		panic(err)
	}
	return string(raw)
}

// TestManyRefs costs what one ref costs, where the server speaks version 2.
func TestManyRefs(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("50,000 refs; make test-all runs it")
	}
	s := startSparse(t, gitrepo.Config{})
	s.files(20)
	s.refs(50_000)
	text := s.succeed("cold", "two", "zwei")
	for _, v0 := range []bool{false, true} {
		s.received.Store(0)
		s.inject(v0, "", nil)
		text = s.succeed("warm", text, text+"w")
		if got := s.received.Load(); !v0 && got > 10_000 {
			t.Errorf("%d bytes were received for an edit from a warm cache", got)
		}
	}
}

// TestLargeThings edits beside a blob of 100 MB and in a tree of 100,000 entries.
func TestLargeThings(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("100 MB; make test-all runs it")
	}
	s := startSparse(t, gitrepo.Config{})
	s.files(20)
	var stream strings.Builder
	stream.WriteString("blob\nmark :1\ndata 2\nx\n\ncommit refs/heads/main\ncommitter T <t@example.com> 1767225600 +0000\ndata 5\nlarge\nfrom refs/heads/main^0\n")
	large := strings.Repeat(incompressible(7), 100<<20/520)
	fmt.Fprintf(&stream, "M 100644 inline large.bin\ndata %d\n%s\n", len(large), large)
	for i := range 100_000 {
		fmt.Fprintf(&stream, "M 100644 :1 wide/f%06d\n", i)
	}
	s.importing(stream.String())
	text := s.succeed("cold", "two", "zwei")
	s.succeed("warm", text, "deux")
	s.cli("fsck", "--strict", "--no-dangling")
	snapshot, err := s.client.Fetch(t.Context(), cachedRemote, gitrepo.Want{Ref: "refs/heads/main", Depth: 1})
	if err != nil {
		t.Fatal(err)
	}
	commit, err := snapshot.Build(t.Context(), []edit.FileChange{put("wide/f050000", "new\n")}, spec("j1"))
	if err == nil {
		err = s.client.Push(t.Context(), cachedRemote, gitrepo.PushSpec{Branch: "main", Old: snapshot.Commit(), Commit: commit})
	}
	if err != nil || s.cli("diff-tree", "-r", "--name-only", "--no-commit-id", "main~1", "main") != "wide/f050000" {
		t.Errorf("in the wide tree: %v", err)
	}
	entry, _, err := snapshot.Entry(t.Context(), "large.bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.Blob(t.Context(), entry.ID, 1<<20); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("a file of 100 MB is read to be edited: %v", err)
	}
	files, err := snapshot.Archive(t.Context(), io.Discard, gitrepo.ArchiveSpec{Format: job.ArchiveTarGz, Paths: []string{"wide"}})
	if err = errors.Join(err, snapshot.Close()); err != nil || files != 100_000 {
		t.Errorf("%d files, %v", files, err)
	}
}

// TestTrailerIsWhatGitWrites compares messages with those of git interpret-trailers.
func TestTrailerIsWhatGitWrites(t *testing.T) {
	t.Parallel()
	s := startSparse(t, gitrepo.Config{})
	s.files(1)
	for i, message := range []string{
		"Subject", "Subject\n\nBody", "Subject\n\nBody\n\nSigned-off-by: A <a@example.com>", "Subject\n\nSigned-off-by: A\nReviewed-by: B\n\n",
		"Subject\n\nnot: a block\nof trailers, as this line shows", "Subject\r\n\r\nBody\r\n", "Subject: with a colon", "Subject\n\nKey: value\n continued",
	} {
		spec := spec(fmt.Sprintf("id-%d", i))
		spec.Message = message
		snapshot, err := s.client.Fetch(t.Context(), cachedRemote, gitrepo.Want{Ref: "main", Depth: 1})
		if err != nil {
			t.Fatal(err)
		}
		commit, err := snapshot.Build(t.Context(), []edit.FileChange{put("file", fmt.Sprint(i))}, spec)
		if err = errors.Join(err, snapshot.Close()); err == nil {
			err = s.client.Push(t.Context(), cachedRemote, gitrepo.PushSpec{Branch: "main", Old: snapshot.Commit(), Commit: commit})
		}
		if err != nil {
			t.Fatal(err)
		}
		proof := s.cli("log", "-1", "--format=%(trailers:key=Forge-Job-Proof,valueonly,separator=)", "main")
		want, err := gittest.Git(context.Background(), "", strings.NewReader(strings.TrimSpace(strings.ReplaceAll(message, "\r\n", "\n"))+"\n"),
			"interpret-trailers", "--trailer", "Forge-Job: "+spec.Mark.Job, "--trailer", "Forge-Job-Proof: "+proof)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.cli("log", "-1", "--format=%B", "main"); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%q becomes\n%q, git makes\n%q", message, got, want)
		}
		if found := s.cli("log", "-1", "--format=%(trailers:key=Forge-Job,valueonly)", "main"); strings.TrimSpace(found) != spec.Mark.Job || len(proof) != 43 {
			t.Errorf("%q: git finds the trailer %q", message, found)
		}
	}
}
