package bench

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha1"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// checkArchive compares the files of a tar.gz with git ls-tree -r: paths, modes and contents.
func checkArchive(name, listed string) error {
	want := map[string]string{} // path: mode and blob
	for line := range strings.Lines(listed) {
		about, path, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		fields := strings.Fields(about)
		want[path] = fields[0] + " " + fields[2]
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	archive := tar.NewReader(unpacked)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		hash := sha1.New()
		fmt.Fprintf(hash, "blob %d\x00", header.Size)
		if _, err := io.Copy(hash, archive); err != nil {
			return err
		}
		mode := "100644"
		if header.Mode&0o100 != 0 {
			mode = "100755"
		}
		if got := fmt.Sprintf("%s %x", mode, hash.Sum(nil)); got != want[header.Name] {
			return fmt.Errorf("%s is %s in the archive, want %s", header.Name, got, want[header.Name])
		}
		delete(want, header.Name)
	}
	if len(want) > 0 {
		return fmt.Errorf("the archive lacks %d files", len(want))
	}
	return nil
}
