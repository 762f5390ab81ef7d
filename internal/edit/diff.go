package edit

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/bluekeyes/go-gitdiff/gitdiff"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// fileDiff is what a patch does to one file. Of a new file old is empty, of a deleted one new; of a copy old stays.
type fileDiff struct {
	old, new string
	copies   bool
	oldMode  Mode // empty where the patch does not say
	newMode  Mode // the same
	hunks    []hunk
	binary   *gitdiff.File // set where the file is binary
}

// hunk is a run of lines, each with its line feed where it has one.
type hunk struct {
	header       string
	atOld, atNew int64 // line numbers from 1; 0 in a file that is not there
	old, new     []string
	leading      bool // it begins with lines of context
	trailing     bool // it ends with such
}

// name is the path under which the user knows the file.
func (d fileDiff) name() string {
	if d.new == "" {
		return d.old
	}
	return d.new
}

// parseDiff reads a unified diff as git writes it. Text around the files' diffs, such as a commit message, is passed over.
func parseDiff(field, diff string, pathBytes int) ([]fileDiff, error) {
	if strings.TrimSpace(diff) == "" {
		return nil, fault.Newf(fault.Invalid, "%s.diff: it is empty", field)
	}
	if !strings.HasSuffix(diff, "\n") {
		diff += "\n" // git ends every line with one; it got lost on the way
	}
	var files []fileDiff
	for _, section := range sections(diff) {
		parsed, _, err := gitdiff.Parse(strings.NewReader(section.text))
		if err != nil {
			return nil, parseFault(field, section.line, err)
		}
		switch len(parsed) {
		case 0: // text around diffs
		case 1:
			file, err := convert(field, section, parsed[0], pathBytes)
			if err != nil {
				return nil, err
			}
			files = append(files, file)
		default:
			return nil, fault.Newf(fault.Invalid, "%s.diff: line %d and below: it mixes diffs with and without a diff --git line; send two patches", field, section.line)
		}
	}
	if len(files) == 0 {
		return nil, fault.Newf(fault.Invalid, "%s.diff: it holds no file's diff; send what git diff writes", field)
	}
	return files, checkTwice(field, files)
}

var parseError = regexp.MustCompile(`^gitdiff: line (\d+): (.*)`)

// parseFault is the one place that knows go-gitdiff's parse errors. They quote nothing of a file but single characters and
// names.
func parseFault(field string, line int, err error) error {
	text := err.Error()
	if match := parseError.FindStringSubmatch(text); match != nil {
		if offset, atoiErr := strconv.Atoi(match[1]); atoiErr == nil {
			line, text = line+offset-1, match[2]
		}
	}
	text, _, _ = strings.Cut(text, ": @@") // a hunk's header may quote code
	return fault.Newf(fault.Invalid, "%s.diff: line %d: %.200s", field, line, text)
}

// section is the diff of one file within a patch.
type section struct {
	text string
	line int  // of its first line, from 1
	git  bool // it begins with diff --git, and its names have lost their a/ and b/ in parsing
}

var hunkHeader = regexp.MustCompile(`^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@`)

// sections splits a patch before each file's header. Within a hunk nothing is taken for a header.
func sections(diff string) []section {
	lines := strings.SplitAfter(diff, "\n")
	starts := map[int]bool{}
	var order []int
	inGitHeader := false
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case strings.HasPrefix(line, "diff --git "):
			starts[i], inGitHeader = true, true
			order = append(order, i)
		case strings.HasPrefix(line, "@@ -"):
			inGitHeader = false
			i = hunkEnd(lines, i)
		case !inGitHeader && strings.HasPrefix(line, "--- ") && i+2 < len(lines) &&
			strings.HasPrefix(lines[i+1], "+++ ") && strings.HasPrefix(lines[i+2], "@@ -"):
			starts[i] = false
			order = append(order, i)
		}
	}
	if len(order) == 0 {
		return []section{{text: diff, line: 1}}
	}
	var all []section
	for n, from := range order {
		to := len(lines)
		if n+1 < len(order) {
			to = order[n+1]
		}
		all = append(all, section{text: strings.Join(lines[from:to], ""), line: from + 1, git: starts[from]})
	}
	if before := strings.Join(lines[:order[0]], ""); strings.Contains("\n"+before, "\n@@ -") {
		all = append([]section{{text: before, line: 1}}, all...) // a hunk without a file: let the parser say so
	}
	return all
}

// hunkEnd is the last line of the hunk whose header is lines[at], as its counts have it.
func hunkEnd(lines []string, at int) int {
	match := hunkHeader.FindStringSubmatch(lines[at])
	if match == nil {
		return at
	}
	count := func(text string) int {
		if text == "" {
			return 1
		}
		number, err := strconv.Atoi(text)
		if err != nil {
			return 0
		}
		return number
	}
	old, added := count(match[1]), count(match[2])
	for i := at + 1; i < len(lines) && (old > 0 || added > 0); i++ {
		switch line := lines[i]; {
		case strings.HasPrefix(line, "-"):
			old--
		case strings.HasPrefix(line, "+"):
			added--
		case strings.HasPrefix(line, " "), line == "\n":
			old--
			added--
		case !strings.HasPrefix(line, `\`):
			return i - 1
		}
		at = i
	}
	return at
}

// convert checks what the parser made of one file's diff.
func convert(field string, from section, parsed *gitdiff.File, pathBytes int) (fileDiff, error) {
	where := fmt.Sprintf("%s.diff: line %d", field, from.line)
	file := fileDiff{old: parsed.OldName, new: parsed.NewName, copies: parsed.IsCopy}
	if parsed.IsNew || file.old == os.DevNull {
		file.old = ""
	}
	if parsed.IsDelete || file.new == os.DevNull {
		file.new = ""
	}
	for _, name := range []*string{&file.old, &file.new} {
		if *name == "" {
			continue
		}
		if !from.git {
			stripped, ok := withoutPrefix(*name)
			if !ok {
				return fileDiff{}, fault.Newf(fault.Invalid, "%s: %s has no a/ or b/ in front; write the names as git diff does", where, quote(*name))
			}
			*name = stripped
		}
		if problem := pathProblem(*name, pathBytes); problem != "" {
			return fileDiff{}, fault.Newf(fault.Invalid, "%s: %s: %s", where, quote(*name), problem)
		}
	}
	if file.old == "" && file.new == "" {
		return fileDiff{}, fault.Newf(fault.Invalid, "%s: it names no file", where)
	}
	where = fmt.Sprintf("%s.diff: %s", field, quote(file.name()))
	var err error
	if file.oldMode, err = convertMode(where, parsed.OldMode); err != nil {
		return fileDiff{}, err
	}
	if file.newMode, err = convertMode(where, parsed.NewMode); err != nil {
		return fileDiff{}, err
	}
	if file.newMode == ModeSymlink {
		if problem := symlinkProblem(file.name()); problem != "" {
			return fileDiff{}, fault.Newf(fault.Invalid, "%s: %s", where, problem)
		}
	}
	return file, file.fill(where, parsed)
}

// fill takes over what happens to the content.
func (d *fileDiff) fill(where string, parsed *gitdiff.File) error {
	if parsed.IsBinary {
		if parsed.BinaryFragment == nil {
			return fault.Newf(fault.Invalid, "%s: it is binary and the patch holds no data for it; make the patch with git diff --binary", where)
		}
		if len(parsed.OldOIDPrefix) != oidSize || len(parsed.NewOIDPrefix) != oidSize {
			return fault.Newf(fault.Invalid, "%s: a binary diff needs its full index line; make the patch with git diff --binary", where)
		}
		d.binary = parsed
		return nil
	}
	for i, fragment := range parsed.TextFragments {
		converted := convertHunk(fragment)
		if len(converted.old) == 0 && d.old != "" && fragment.OldPosition > 0 {
			return fault.Newf(fault.Invalid, "%s, hunk %d (%s): it holds no line of the file, so its place is not sure; make the diff with context lines", where, i+1, converted.header)
		}
		d.hunks = append(d.hunks, converted)
	}
	if len(d.hunks) == 0 && d.old == d.new && d.newMode == "" {
		return fault.Newf(fault.Invalid, "%s: the patch changes nothing in it", where)
	}
	return nil
}

// oidSize is the length of a full SHA-1 object name in hex.
const oidSize = 40

func convertHunk(fragment *gitdiff.TextFragment) hunk {
	converted := hunk{
		header: fmt.Sprintf("@@ -%d,%d +%d,%d @@", fragment.OldPosition, fragment.OldLines, fragment.NewPosition, fragment.NewLines),
		atOld:  fragment.OldPosition, atNew: fragment.NewPosition,
		leading: fragment.LeadingContext > 0, trailing: fragment.TrailingContext > 0,
	}
	for _, line := range fragment.Lines {
		if line.Old() {
			converted.old = append(converted.old, line.Line)
		}
		if line.New() {
			converted.new = append(converted.new, line.Line)
		}
	}
	return converted
}

// withoutPrefix removes the a/ or b/ that git puts in front of names. A name without any directory is taken as it is.
func withoutPrefix(name string) (string, bool) {
	first, rest, found := strings.Cut(name, "/")
	if !found {
		return name, true
	}
	return rest, first == "a" || first == "b"
}

func convertMode(where string, mode os.FileMode) (Mode, error) {
	switch converted := Mode(fmt.Sprintf("%06o", uint32(mode))); converted {
	case "000000":
		return "", nil
	case ModeRegular, ModeExecutable, ModeSymlink:
		return converted, nil
	case ModeSubmodule:
		return "", fault.Newf(fault.Invalid, "%s: it is a submodule, which a patch cannot change here", where)
	default:
		return "", fault.Newf(fault.Invalid, "%s: mode %.20q is none of 100644, 100755, 120000", where, string(converted))
	}
}

// checkTwice refuses a patch that takes a file as it was twice, or makes one twice. A file may be deleted and made anew: that
// is how git writes a file that becomes a symbolic link.
func checkTwice(field string, files []fileDiff) error {
	taken, made := map[string]bool{}, map[string]bool{}
	for _, file := range files {
		if !file.copies && file.old != "" {
			if taken[file.old] {
				return fault.Newf(fault.Invalid, "%s.diff: %s stands in it twice; make one diff of the two or send two patches", field, quote(file.old))
			}
			taken[file.old] = true
		}
		if file.new != "" {
			if made[file.new] {
				return fault.Newf(fault.Invalid, "%s.diff: %s stands in it twice; make one diff of the two or send two patches", field, quote(file.new))
			}
			made[file.new] = true
		}
	}
	return nil
}

// applyBinary is the one place that knows go-gitdiff's apply errors. The result has been compared with the name that the patch
// gives it.
func applyBinary(where string, parsed *gitdiff.File, content []byte, limit int64) ([]byte, error) {
	const unset = "0000000000000000000000000000000000000000"
	if parsed.OldOIDPrefix != unset && parsed.OldOIDPrefix != blobID(content) || parsed.OldOIDPrefix == unset && len(content) > 0 {
		return nil, fault.Newf(fault.Invalid, "%s: the binary diff is for another version of the file (%.12s); make it again from the branch's tip", where, parsed.OldOIDPrefix)
	}
	if parsed.NewOIDPrefix == unset {
		return nil, nil
	}
	var out bytes.Buffer
	err := gitdiff.Apply(&out, bytes.NewReader(content), parsed, gitdiff.WithMaxBinaryFragmentBytes(limit))
	var failed *gitdiff.ApplyError
	switch {
	case errors.As(err, &failed) && (parsed.BinaryFragment.Size > limit || strings.Contains(err.Error(), "byte limit")):
		return nil, fault.Wrapf(fault.TooLarge, err, "%s: the binary diff makes more than %d bytes", where, limit)
	case err != nil:
		return nil, fault.Wrapf(fault.Invalid, err, "%s: the binary diff is damaged; make it again with git diff --binary", where)
	case blobID(out.Bytes()) != parsed.NewOIDPrefix:
		return nil, fault.Newf(fault.Invalid, "%s: the binary diff does not give the file that its index line names; make it again with git diff --binary", where)
	}
	return out.Bytes(), nil
}
