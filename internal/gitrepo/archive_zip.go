package gitrepo

import (
	"archive/zip"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// earliestZipTime is 1980-01-01, where MS-DOS time begins.
const earliestZipTime = 315532800

// zipFile writes a zip: Unix modes, symlinks as entries that hold their target, the commit as the archive's comment (both as
// git archive does), sizes after the content, ZIP64 where it is needed. A name that is no UTF-8 is stored byte by byte and
// without the mark for UTF-8. The central directory is kept in memory until the end, some 400 bytes an entry.
type zipFile struct {
	zip    *zip.Writer
	time   time.Time
	buffer []byte
}

func newZip(out io.Writer, commit string, when time.Time) (*zipFile, error) {
	w := &zipFile{zip: zip.NewWriter(out), time: clampTime(when, earliestZipTime, math.MaxUint32), buffer: make([]byte, archiveBuffer)}
	return w, w.zip.SetComment(commit)
}

func (w *zipFile) directory(path string) error {
	_, err := w.create(path+"/", fs.ModeDir|modeDirectory, zip.Store)
	return err
}

func (w *zipFile) file(path string, executable bool, size int64, content io.Reader) error {
	mode, method := fs.FileMode(modeFile), zip.Deflate
	if executable {
		mode = modeExecutable
	}
	if size == 0 {
		method = zip.Store
	}
	out, err := w.create(path, mode, method)
	if err != nil {
		return err
	}
	return copyExactly(out, content, size, w.buffer)
}

func (w *zipFile) symlink(path, target string) error {
	out, err := w.create(path, fs.ModeSymlink|modeSymlink, zip.Store)
	if err != nil {
		return err
	}
	_, err = io.WriteString(out, target)
	return err
}

func (w *zipFile) Close() error { return w.zip.Close() }

func (w *zipFile) create(path string, mode fs.FileMode, method uint16) (io.Writer, error) {
	if len(path) > math.MaxUint16 {
		return nil, fault.Newf(fault.Invalid, "archive: the path %.80q has %d bytes, a zip takes %d; ask for tar.gz", path, len(path), math.MaxUint16)
	}
	if leavesOnWindows(path) {
		return nil, fault.Newf(fault.Invalid, "archive: unpacked on Windows, %.200q would be written outside the folder it is unpacked in; ask for tar.gz, or choose other paths", path)
	}
	header := zip.FileHeader{Name: path, Method: method, Modified: w.time}
	header.SetMode(mode)
	return w.zip.CreateHeader(&header)
}

// leavesOnWindows reports whether a path leads upwards, to a root or to a drive for an unpacker that takes a backslash, which is
// part of a name in git, for a separator.
func leavesOnWindows(path string) bool {
	if !strings.Contains(path, `\`) {
		return false
	}
	slashed := strings.ReplaceAll(path, `\`, "/")
	return strings.HasPrefix(slashed, "/") || strings.Contains(slashed, ":/") || strings.Contains("/"+slashed+"/", "/../")
}

// copyExactly copies content, which must be size bytes long.
func copyExactly(out io.Writer, content io.Reader, size int64, buffer []byte) error {
	written, err := io.CopyBuffer(out, content, buffer)
	if err == nil && written != size {
		err = fmt.Errorf("%d bytes where %d were announced", written, size)
	}
	return err
}
