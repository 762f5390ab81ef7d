package gitrepo

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

const (
	// maxDiffed and maxDiffLines are how large a file is compared by lines; larger ones are shown as binary, as git shows those
	// over core.bigFileThreshold.
	maxDiffed    = 8 << 20
	maxDiffLines = 250_000
	diffContext  = 3
	binaryLook   = 8_000 // git's: a file with a NUL in its beginning is binary
)

// DiffStat is what a diff comes to. Lines of binary files are not counted; of files over 8 MiB or 250,000 lines, all count as replaced.
type DiffStat struct {
	Files          int // paths that differ
	Added, Removed int // lines, of everything, cut off or not
	Truncated      bool
}

// Diff writes how the tree that changes make differs from the snapshot's, as git diff prints it, by path. At most limit bytes are
// written; a longer one is cut at a line's end. What is not cut, git apply makes the new tree of, but for binary files, of which
// it says only that they differ. Renames are not looked for.
func (s *Snapshot) Diff(ctx context.Context, w io.Writer, changes []edit.FileChange, limit int) (DiffStat, error) {
	d := differ{snapshot: s, out: diffWriter{out: w, left: limit}, work: maxDiffWork}
	changes = slices.Clone(changes)
	slices.SortStableFunc(changes, func(a, b edit.FileChange) int { return cmp.Compare(a.Path, b.Path) })
	pairs, err := d.pairs(ctx, changes)
	if err != nil {
		return DiffStat{}, err
	}
	for _, pair := range pairs {
		if ctx.Err() != nil {
			return DiffStat{}, context.Cause(ctx)
		}
		if err := d.pair(ctx, pair); err != nil {
			return DiffStat{}, s.classify(ctx, err)
		}
		if d.out.err != nil {
			return DiffStat{}, fault.Wrapf(fault.Internal, d.out.err, "diff: it cannot be stored; the log says why")
		}
	}
	d.stat.Truncated = d.out.truncated
	return d.stat, nil
}

// side is a file before or after; no mode where there is none.
type side struct {
	mode    edit.Mode
	id      string
	content []byte // where it is held
	held    bool
	large   bool
	lines   int // as newlines are counted
}

type filePair struct {
	path          string
	before, after side
}

// differ writes one diff.
type differ struct {
	snapshot *Snapshot
	out      diffWriter
	stat     DiffStat
	work     int
}

// pairs are the files that differ. What of them has to be read is got in one request.
func (d *differ) pairs(ctx context.Context, changes []edit.FileChange) ([]filePair, error) {
	var pairs []filePair
	var ids []string
	for _, change := range changes {
		pair := filePair{path: change.Path}
		entry, found, err := d.snapshot.Entry(ctx, change.Path)
		if err != nil {
			return nil, err
		}
		if found && entry.Mode != edit.ModeDir {
			pair.before = side{mode: entry.Mode, id: entry.ID}
		}
		if !change.Deleted {
			pair.after = side{mode: change.Mode, id: change.ID, content: change.Content}
			if change.ID == "" {
				pair.after.held = true
				pair.after.id = plumbing.ComputeHash(plumbing.BlobObject, change.Content).String()
			}
		}
		if pair.before.mode == pair.after.mode && pair.before.id == pair.after.id {
			continue
		}
		for _, side := range []side{pair.before, pair.after} {
			if side.mode != "" && side.mode != edit.ModeSubmodule && !side.held && pair.before.id != pair.after.id {
				ids = append(ids, side.id)
			}
		}
		pairs = append(pairs, pair)
	}
	return pairs, d.snapshot.Prefetch(ctx, ids)
}

func (d *differ) pair(ctx context.Context, pair filePair) error {
	d.stat.Files++
	if pair.before.mode != "" && pair.after.mode != "" && kindOf(pair.before.mode) != kindOf(pair.after.mode) {
		// As git does: what was there goes, something of another kind comes.
		if err := d.file(ctx, pair.path, pair.before, side{}); err != nil {
			return err
		}
		return d.file(ctx, pair.path, side{}, pair.after)
	}
	return d.file(ctx, pair.path, pair.before, pair.after)
}

func kindOf(mode edit.Mode) edit.Mode {
	if mode == edit.ModeExecutable {
		return edit.ModeRegular
	}
	return mode
}

func (d *differ) file(ctx context.Context, path string, before, after side) error {
	d.header(path, before, after)
	if before.id == after.id {
		return nil // the mode alone
	}
	if err := d.load(ctx, &before); err != nil {
		return err
	}
	if err := d.load(ctx, &after); err != nil {
		return err
	}
	from, to := diffNames(path, before, after)
	switch {
	case isBinary(before.content) || isBinary(after.content):
		d.out.line("Binary files %s and %s differ\n", strings.TrimSuffix(from, "\t"), strings.TrimSuffix(to, "\t"))
		return nil
	case before.large || after.large:
		d.out.line("Binary files %s and %s differ\n", strings.TrimSuffix(from, "\t"), strings.TrimSuffix(to, "\t"))
		d.stat.Removed += before.lines
		d.stat.Added += after.lines
		return nil
	}
	old, fresh := splitLines(before.content), splitLines(after.content)
	removed, added := diffLines(old, fresh, &d.work)
	d.stat.Removed += count(removed)
	d.stat.Added += count(added)
	if len(old)+len(fresh) > 0 {
		d.out.line("--- %s\n", from)
		d.out.line("+++ %s\n", to)
		d.hunks(old, fresh, removed, added)
	}
	return nil
}

func count(marks []bool) int {
	n := 0
	for _, mark := range marks {
		if mark {
			n++
		}
	}
	return n
}

// load reads a side's content, of a large one at least the beginning.
func (d *differ) load(ctx context.Context, s *side) error {
	switch {
	case s.mode == "":
		return nil
	case s.mode == edit.ModeSubmodule:
		s.content = []byte("Subproject commit " + s.id + "\n")
		return nil
	case !s.held:
		content, err := d.snapshot.Blob(ctx, s.id, maxDiffed)
		if fault.KindOf(err) == fault.TooLarge {
			return d.scan(ctx, s)
		}
		if err != nil {
			return err
		}
		s.content = content
	}
	s.lines = bytes.Count(s.content, []byte("\n"))
	s.large = len(s.content) > maxDiffed || s.lines > maxDiffLines
	return nil
}

// scan counts a large file's lines.
func (d *differ) scan(ctx context.Context, s *side) error {
	s.large = true
	found, err := d.snapshot.objects.find(ctx, plumbing.BlobObject, plumbing.NewHash(s.id))
	if err != nil {
		return err
	}
	reader, err := found.Reader()
	if err != nil {
		return err
	}
	s.content, s.lines, err = scan(contextReader{ctx, reader})
	return errors.Join(err, reader.Close())
}

// scan counts lines, and keeps the beginning.
func scan(reader io.Reader) (beginning []byte, lines int, err error) {
	buffer := make([]byte, archiveBuffer)
	for {
		n, err := reader.Read(buffer)
		lines += bytes.Count(buffer[:n], []byte("\n"))
		if missing := binaryLook - len(beginning); missing > 0 {
			beginning = append(beginning, buffer[:min(n, missing)]...)
		}
		if errors.Is(err, io.EOF) {
			return beginning, lines, nil
		}
		if err != nil {
			return beginning, lines, err
		}
	}
}

func isBinary(content []byte) bool {
	return bytes.IndexByte(content[:min(len(content), binaryLook)], 0) >= 0
}

const noObject = "0000000"

func (d *differ) header(path string, before, after side) {
	d.out.line("diff --git %s %s\n", diffName("a/"+path), diffName("b/"+path))
	from, to := noObject, noObject
	if before.mode != "" {
		from = before.id[:len(noObject)]
	}
	if after.mode != "" {
		to = after.id[:len(noObject)]
	}
	switch {
	case before.mode == "":
		d.out.line("new file mode %s\n", after.mode)
	case after.mode == "":
		d.out.line("deleted file mode %s\n", before.mode)
	case before.mode != after.mode:
		d.out.line("old mode %s\n", before.mode)
		d.out.line("new mode %s\n", after.mode)
	default:
		d.out.line("index %s..%s %s\n", from, to, after.mode)
		return
	}
	if before.id != after.id {
		d.out.line("index %s..%s\n", from, to)
	}
}

// diffNames are the names in front of the hunks. A tab after one with a space says where it ends, as git does.
func diffNames(path string, before, after side) (from, to string) {
	tab := ""
	if strings.Contains(path, " ") {
		tab = "\t"
	}
	from, to = diffName("a/"+path)+tab, diffName("b/"+path)+tab
	if before.mode == "" {
		from = "/dev/null"
	}
	if after.mode == "" {
		to = "/dev/null"
	}
	return from, to
}

// diffName quotes a name as git does with core.quotePath off: letters of all languages stay readable.
func diffName(name string) string {
	if utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool { return r == '"' || r == '\\' || unicode.IsControl(r) }) {
		return name
	}
	var quoted strings.Builder
	quoted.WriteByte('"')
	for i := range len(name) {
		switch c, short := name[i], strings.IndexByte("\a\b\t\n\v\f\r\"\\", name[i]); {
		case short >= 0:
			quoted.WriteByte('\\')
			quoted.WriteByte(`abtnvfr"\`[short])
		case c < 0x20 || c >= 0x7f:
			fmt.Fprintf(&quoted, `\%03o`, c)
		default:
			quoted.WriteByte(c)
		}
	}
	quoted.WriteByte('"')
	return quoted.String()
}

// hunks writes the lines that differ, with those around them.
func (d *differ) hunks(old, fresh [][]byte, removed, added []bool) {
	for i, j := 0, 0; !d.out.truncated; {
		for i < len(old) && !removed[i] && (j >= len(fresh) || !added[j]) {
			i++
			j++
		}
		if i >= len(old) && j >= len(fresh) {
			return
		}
		lead := min(diffContext, i)
		from, to := hunkEnd(old, fresh, removed, added, i, j)
		d.hunk(old[i-lead:from], fresh[j-lead:to], removed[i-lead:from], added[j-lead:to], i-lead, j-lead)
		i, j = from, to
	}
}

// hunkEnd is where the hunk ends whose first line that differs is at i and j: so many lines after the last one, before which no
// two neighbours are further apart than both their contexts.
func hunkEnd(old, fresh [][]byte, removed, added []bool, i, j int) (from, to int) {
	same := 0
	for i < len(old) || j < len(fresh) {
		switch {
		case i < len(old) && removed[i]:
			i++
			same = 0
		case j < len(fresh) && added[j]:
			j++
			same = 0
		default:
			if same == 2*diffContext {
				return i - diffContext, j - diffContext
			}
			same++
			i++
			j++
		}
	}
	extra := max(0, same-diffContext)
	return i - extra, j - extra
}

func (d *differ) hunk(old, fresh [][]byte, removed, added []bool, oldStart, freshStart int) {
	d.out.line("@@ -%s +%s @@\n", hunkRange(oldStart, len(old)), hunkRange(freshStart, len(fresh)))
	for i, j := 0, 0; i < len(old) || j < len(fresh); {
		switch {
		case i < len(old) && removed[i]:
			d.out.text('-', old[i])
			i++
		case j < len(fresh) && added[j]:
			d.out.text('+', fresh[j])
			j++
		default:
			d.out.text(' ', old[i])
			i++
			j++
		}
	}
}

func hunkRange(start, lines int) string {
	switch lines {
	case 0:
		return fmt.Sprintf("%d,0", start)
	case 1:
		return fmt.Sprint(start + 1)
	}
	return fmt.Sprintf("%d,%d", start+1, lines)
}

// diffWriter takes whole lines, until one does not fit any more.
type diffWriter struct {
	out       io.Writer
	left      int
	truncated bool
	err       error
}

func (w *diffWriter) line(format string, args ...any) {
	if !w.truncated && w.err == nil {
		w.write(fmt.Appendf(nil, format, args...))
	}
}

func (w *diffWriter) text(sign byte, line []byte) {
	if w.truncated || w.err != nil || len(line) >= w.left {
		w.truncated = w.err == nil
		return
	}
	whole := append([]byte{sign}, line...)
	if !bytes.HasSuffix(line, []byte("\n")) {
		whole = append(whole, "\n\\ No newline at end of file\n"...)
	}
	w.write(whole)
}

func (w *diffWriter) write(line []byte) {
	if len(line) > w.left {
		w.truncated = true
		return
	}
	w.left -= len(line)
	_, w.err = w.out.Write(line)
}
