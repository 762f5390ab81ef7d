package edit

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/gitsmith/gitsmith/internal/fault"
)

type patchOperation struct {
	field string
	files []fileDiff
}

func (c *compiler) patch(field string, patch Patch) (operation, error) {
	if err := c.content(field+".diff", len(patch.Diff)); err != nil {
		return nil, err
	}
	files, err := parseDiff(field, patch.Diff, c.limits.PathBytes)
	if err != nil {
		return nil, err
	}
	return patchOperation{field: field, files: files}, nil
}

// apply reads every file as it was before the patch, then takes away what the patch takes away, then writes: so two files can
// change their names with one another, and a file can become a directory.
func (p patchOperation) apply(ctx context.Context, tree *overlay) error {
	results := make([]file, len(p.files))
	for i, diff := range p.files {
		result, err := diff.result(ctx, p.where(diff), tree)
		if err != nil {
			return err
		}
		results[i] = result
	}
	for _, diff := range p.files {
		if diff.old == "" || diff.copies {
			continue
		}
		if err := tree.remove(ctx, p.field, diff.old); err != nil {
			return err
		}
	}
	for i, diff := range p.files {
		if diff.new == "" {
			continue
		}
		if err := tree.vacant(ctx, p.field, diff.new); err != nil {
			return err
		}
		if err := tree.write(ctx, p.field, diff.new, results[i]); err != nil {
			return err
		}
	}
	return nil
}

func (p patchOperation) where(diff fileDiff) string {
	return fmt.Sprintf("%s: %s", p.field, quote(diff.name()))
}

// result is the file that the diff makes of what is in the tree.
func (d fileDiff) result(ctx context.Context, where string, tree *overlay) (file, error) {
	before, err := d.before(ctx, where, tree)
	if err != nil {
		return file{}, err
	}
	mode := d.newMode
	if mode == "" {
		mode = before.mode
	}
	if d.new != "" && d.old != "" && (mode == ModeSymlink) != (before.mode == ModeSymlink) {
		return file{}, fault.Newf(fault.Invalid, "%s: a file becomes a symbolic link only by deleting and making it anew, as git diff writes it", where)
	}
	if len(d.hunks) == 0 && d.binary == nil && d.old != "" && d.new != "" {
		before.mode = mode
		return before, nil
	}
	var content []byte
	if d.old != "" {
		if content, err = tree.content(ctx, where, d.old, before); err != nil {
			return file{}, err
		}
	}
	if d.binary != nil {
		content, err = applyBinary(where, d.binary, content, tree.limits.BlobBytes)
	} else {
		content, err = d.text(ctx, where, content)
	}
	switch {
	case err != nil:
		return file{}, err
	case d.new == "" && len(content) > 0:
		return file{}, fault.Newf(fault.Invalid, "%s: the patch deletes the file but does not remove all of its lines; make the diff again from the branch's tip", where)
	case d.new != "" && mode == ModeSymlink:
		if err := checkSymlink(where, d.new, content); err != nil {
			return file{}, err
		}
	}
	return newFile(mode, content), nil
}

// before is the file that the diff starts from.
func (d fileDiff) before(ctx context.Context, where string, tree *overlay) (file, error) {
	if d.old == "" {
		return file{mode: ModeRegular}, nil
	}
	before, what, err := tree.at(ctx, d.old)
	switch {
	case err != nil:
		return file{}, err
	case what == nothing:
		return file{}, fault.Newf(fault.Invalid, "%s: the patch changes %s, which is not there; make the diff again from the branch's tip", where, quote(d.old))
	case what == isDirectory:
		return file{}, fault.Newf(fault.Invalid, "%s: the patch changes %s as a file, and it is a directory; make the diff again from the branch's tip", where, quote(d.old))
	case before.mode == ModeSubmodule:
		return file{}, fault.Newf(fault.Invalid, "%s: %s is a submodule, which a patch cannot change here", where, quote(d.old))
	case d.oldMode != "" && (d.oldMode == ModeSymlink) != (before.mode == ModeSymlink):
		return file{}, fault.Newf(fault.Invalid, "%s: the patch takes %s for mode %s, and it has %s; make the diff again from the branch's tip", where, quote(d.old), d.oldMode, before.mode)
	}
	return before, nil
}

// text applies hunks as git apply does without options: each exactly, at its lines or, those being others, where its old lines
// are found. Unlike git, which takes the nearest place, it takes only the single one.
func (d fileDiff) text(ctx context.Context, where string, content []byte) ([]byte, error) {
	image := &image{rest: splitLines(string(content))}
	for i, hunk := range d.hunks {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if problem := image.apply(hunk); problem != "" {
			return nil, fault.Newf(fault.Invalid, "%s, hunk %d (%s): %s", where, i+1, hunk.header, problem)
		}
	}
	return image.bytes(), nil
}

func splitLines(text string) []string {
	lines := strings.SplitAfter(text, "\n")
	if last := len(lines) - 1; lines[last] == "" {
		lines = lines[:last]
	}
	return lines
}

// image is a file under a patch: done is settled up to and with the last hunk, rest is as it was.
type image struct {
	done, rest []string
	untouched  [][]string // the runs of done that no hunk has touched
}

func (m *image) bytes() []byte {
	var size int
	for _, part := range [][]string{m.done, m.rest} {
		for _, line := range part {
			size += len(line)
		}
	}
	content := make([]byte, 0, size)
	for _, part := range [][]string{m.done, m.rest} {
		for _, line := range part {
			content = append(content, line...)
		}
	}
	return content
}

// apply puts the hunk in, or says why it cannot.
func (m *image) apply(h hunk) string {
	if h.atOld == 0 && len(m.done)+len(m.rest) > 0 {
		return "it begins an empty file, and the file is not empty; make the diff again from the branch's tip"
	}
	at, problem := m.place(h)
	if problem != "" {
		return problem
	}
	m.untouched = append(m.untouched, m.rest[:at])
	m.done = append(append(m.done, m.rest[:at]...), h.new...)
	m.rest = m.rest[at+len(h.old):]
	return ""
}

// place finds where in rest the hunk goes. As in git, a hunk from line 1 goes to the beginning only, and one without context
// at its end to the file's end only.
func (m *image) place(h hunk) (int, string) {
	const again = "; make the diff again from the branch's tip"
	first, last := h.atOld <= 1, !h.trailing
	end := len(m.rest) - len(h.old)
	switch {
	case first && (len(m.done) > 0 || !startsWith(m.rest, h.old)):
		return 0, "its old lines are not at the beginning of the file" + again
	case first && last && end != 0:
		return 0, "it holds the whole file, and the file has other lines" + again
	case first:
		return 0, ""
	case last && (end < 0 || !startsWith(m.rest[end:], h.old)):
		return 0, "its old lines are not at the end of the file, where a hunk without context after it belongs" + again
	case last:
		return end, ""
	}
	if at := int(h.atNew) - 1 - len(m.done); at >= 0 && at <= end && startsWith(m.rest[at:], h.old) {
		return at, ""
	}
	earlier := 0
	for _, run := range m.untouched {
		earlier += len(occurrences(run, h.old))
	}
	switch places := occurrences(m.rest, h.old); {
	case len(places)+earlier > 1:
		return 0, "its old lines are not where it says, and are in several other places" + again
	case earlier == 1:
		return 0, "its old lines come before those of an earlier hunk" + again
	case len(places) == 0:
		return 0, fmt.Sprintf("its old lines are neither at line %d nor elsewhere in the file", h.atOld) + again
	default:
		return places[0], ""
	}
}

func startsWith(lines, with []string) bool {
	return len(lines) >= len(with) && slices.Equal(lines[:len(with)], with)
}

// occurrences are the places of part in lines, two at most: more need not be told apart.
func occurrences(lines, part []string) []int {
	var places []int
	for at := 0; at+len(part) <= len(lines) && len(places) < 2; at++ {
		if lines[at] == part[0] && startsWith(lines[at:], part) {
			places = append(places, at)
		}
	}
	return places
}
