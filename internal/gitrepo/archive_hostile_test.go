package gitrepo

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

func TestZipRefusesWhatWindowsWouldWriteElsewhere(t *testing.T) {
	t.Parallel()
	for name, refused := range map[string]bool{
		`..\evil`: true, `a\..\..\evil`: true, `\evil`: true, `C:\evil`: true, `a\b`: false, `..a\b`: false,
	} {
		r := newArchiveRepo(t)
		commit := r.commit(r.tree([2]string{"100644 " + name, r.object("blob", "x")}))
		_, err := writeArchive(t.Context(), io.Discard, r.source(commit), ArchiveSpec{Format: job.ArchiveZip})
		if (err != nil) != refused || (refused && fault.KindOf(err) != fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := writeArchive(t.Context(), io.Discard, r.source(commit), ArchiveSpec{Format: job.ArchiveTarGz}); err != nil {
			t.Errorf("%s in a tar.gz: %v", name, err)
		}
	}
}

func TestUnsafeTreesAreRefused(t *testing.T) {
	t.Parallel()
	r := newArchiveRepo(t)
	blob := r.object("blob", "x")
	inner := r.tree([2]string{"100644 x", blob})
	for name, tree := range map[string]string{
		"parent":        r.tree([2]string{"40000 ..", inner}),
		"self":          r.tree([2]string{"40000 .", inner}),
		"slash":         r.tree([2]string{"100644 ../x", blob}),
		"rooted":        r.tree([2]string{"100644 /etc/x", blob}),
		"trailing":      r.tree([2]string{"100644 x/", blob}),
		"repository":    r.tree([2]string{"40000 .GiT", inner}),
		"link to zero":  r.tree([2]string{"120000 x", r.object("blob", "a\x00b")}),
		"endless link":  r.tree([2]string{"120000 x", r.object("blob", strings.Repeat("a", maxSymlinkTarget+1))}),
		"further down":  r.tree([2]string{"40000 a", r.tree([2]string{"40000 b", r.tree([2]string{"40000 ..", inner})})}),
		"file as .git":  r.tree([2]string{"100644 .git", blob}),
		"link as .git":  r.tree([2]string{"120000 .git", blob}),
		"module as ../": r.tree([2]string{"160000 ..", blob}),
	} {
		source := r.source(r.commit(tree))
		for _, format := range []job.Archive{job.ArchiveTarGz, job.ArchiveZip} {
			_, err := writeArchive(t.Context(), io.Discard, source, ArchiveSpec{Format: format})
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("%s as %s: %v, want Invalid", name, format, err)
			}
		}
	}
}

// A few kilobytes that unpack to eight billion files.
func TestTreesWithoutEndAreRefused(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long; make test-all runs it")
	}
	r := newArchiveRepo(t)
	mode, hash := "100644", r.object("blob", "x")
	for range 4 {
		var entries [][2]string
		for i := range 300 {
			entries = append(entries, [2]string{fmt.Sprintf("%s f%03d", mode, i), hash})
		}
		mode, hash = "40000", r.tree(entries...)
	}
	source := r.source(r.commit(hash))
	if _, err := writeArchive(t.Context(), io.Discard, source, ArchiveSpec{Format: job.ArchiveBundle}); fault.KindOf(err) != fault.TooLarge {
		t.Errorf("wide: %v, want TooLarge", err)
	}

	hash = r.tree([2]string{"100644 f", r.object("blob", "x")})
	for range maxArchiveDepth + 1 {
		hash = r.tree([2]string{"40000 d", hash})
	}
	source = r.source(r.commit(hash))
	for _, format := range []job.Archive{job.ArchiveTarGz, job.ArchiveBundle} {
		if _, err := writeArchive(t.Context(), io.Discard, source, ArchiveSpec{Format: format}); fault.KindOf(err) != fault.TooLarge {
			t.Errorf("deep as %s: %v, want TooLarge", format, err)
		}
	}
}

func TestClaimedTimesAreBroughtIntoRange(t *testing.T) {
	t.Parallel()
	r := newArchiveRepo(t)
	tree := r.tree([2]string{"100644 x", r.object("blob", "x")})
	for claimed, want := range map[string][2]int64{
		"0":                   {0, earliestZipTime},
		"1700000000":          {1700000000, 1700000000},
		"99999999999":         {latestTarTime, 1<<32 - 1},
		"9223372036854775807": {latestTarTime, 1<<32 - 1},
	} {
		commit := r.object("commit", fmt.Sprintf("tree %s\nauthor A <a@b> %s +0000\ncommitter A <a@b> %s +0000\n\nx\n", tree, claimed, claimed))
		data, _ := r.archive(commit, job.ArchiveTarGz)
		reader := tar.NewReader(bytes.NewReader(gunzip(t, data)))
		_, _ = reader.Next() // the global header
		header, err := reader.Next()
		if err != nil {
			t.Fatal(err)
		}
		data, _ = r.archive(commit, job.ArchiveZip)
		zipped, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if got := [2]int64{header.ModTime.Unix(), zipped.File[0].Modified.Unix()}; got != want {
			t.Errorf("%s: %v, want %v", claimed, got, want)
		}
	}
}

// oneTree is a storage in which every commit has the same root tree, every other tree is empty, and every blob holds an x.
type oneTree []byte

var oneTreeRoot = plumbing.NewHash("0123456789012345678901234567890123456789")

func (o oneTree) EncodedObject(kind plumbing.ObjectType, hash plumbing.Hash) (plumbing.EncodedObject, error) {
	content := []byte("x")
	switch {
	case kind == plumbing.CommitObject:
		content = fmt.Appendf(nil, "tree %s\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nx\n", oneTreeRoot)
	case kind == plumbing.TreeObject && hash == oneTreeRoot:
		content = o
	case kind == plumbing.TreeObject:
		content = nil
	}
	encoded := new(plumbing.MemoryObject)
	encoded.SetType(kind)
	_, err := encoded.Write(content)
	return encoded, err
}

// Whatever bytes a tree is made of, an archive of it unpacks within its folder, or there is none.
func FuzzArchiveStaysInItsFolder(f *testing.F) {
	hash := strings.Repeat("h", 20)
	f.Add([]byte("100644 a\x00" + hash + "40000 b\x00" + hash))
	f.Add([]byte("100644 ../a\x00" + hash))
	f.Add([]byte("120000 a\x00" + hash + "100755 a\x00" + hash + "160000 a\x00" + hash))
	f.Add([]byte("40000 \x00" + hash))
	f.Fuzz(func(t *testing.T, root []byte) {
		var out bytes.Buffer
		source := archiveSource{objects: oneTree(root)}
		if _, err := writeArchive(t.Context(), &out, source, ArchiveSpec{Format: job.ArchiveTarGz}); err != nil {
			return
		}
		unzipped, err := gzip.NewReader(&out)
		if err != nil {
			t.Fatal(err)
		}
		for reader := tar.NewReader(unzipped); ; {
			header, err := reader.Next()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if header.Typeflag != tar.TypeXGlobalHeader && !filepath.IsLocal(header.Name) {
				t.Errorf("%q from %q", header.Name, root)
			}
		}
	})
}
