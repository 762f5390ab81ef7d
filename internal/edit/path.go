package edit

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gitsmith/gitsmith/internal/fault"
)

const (
	// MaxPathBytes is the bound of a path where no Limits say otherwise.
	MaxPathBytes = 4096
	// MaxPathDepth is how many components a path may have. Each makes a tree object.
	MaxPathDepth = 256
)

// CheckPath accepts the paths that a change may name: relative, with / between components, UTF-8 without control characters,
// and without what git refuses to have in a tree on any system (verify_path in git's read-cache.c with core.protectHFS
// and core.protectNTFS): empty components, . and .., and .git in the disguises that file systems take for it. Beyond git it
// refuses backslashes and drive letters everywhere. An error is an Invalid fault that quotes the path.
func CheckPath(path string) error {
	if problem := pathProblem(path, MaxPathBytes); problem != "" {
		return fault.Newf(fault.Invalid, "path %s: %s", quote(path), problem)
	}
	return nil
}

// quote shows a path in a public text, cut where it is long.
func quote(path string) string { return fmt.Sprintf("%.120q", path) }

// pathProblem says what is wrong with path and what to do, or nothing.
func pathProblem(path string, limit int) string {
	switch {
	case path == "":
		return "it is empty; name a file, such as docs/readme.md"
	case len(path) > limit:
		return fmt.Sprintf("it has %d bytes, at most %d are taken", len(path), limit)
	case !utf8.ValidString(path):
		return "it is not UTF-8"
	case path[0] == '/':
		return "it is absolute; paths start at the repository's root, without / in front"
	case strings.HasSuffix(path, "/"):
		return "it ends in /; leave that out, for a directory too"
	case strings.Contains(path, `\`):
		return `it holds a backslash; write / between directories`
	case len(path) > 1 && path[1] == ':' && isLetter(path[0]):
		return "it starts with a drive letter; paths start at the repository's root"
	case strings.Count(path, "/") >= MaxPathDepth:
		return fmt.Sprintf("it is more than %d directories deep", MaxPathDepth)
	}
	if at := strings.IndexFunc(path, unicode.IsControl); at >= 0 {
		character, _ := utf8.DecodeRuneInString(path[at:])
		return fmt.Sprintf("it holds the control character %U", character)
	}
	for component := range strings.SplitSeq(path, "/") {
		if problem := componentProblem(component); problem != "" {
			return problem
		}
	}
	return ""
}

func componentProblem(component string) string {
	switch {
	case component == "":
		return "it holds an empty component; write one / between directories"
	case component == "." || component == "..":
		return "it holds " + component + ", which no git tree has; write the path from the repository's root"
	case isDotGit(component):
		return fmt.Sprintf("%s is git's own directory, or what some file system takes for it; choose another name", quote(component))
	}
	return ""
}

// CheckSymlink accepts the paths at which a symbolic link may be: those of [CheckPath] but what git reads by itself.
func CheckSymlink(path string) error {
	if problem := symlinkProblem(path); problem != "" {
		return fault.Newf(fault.Invalid, "path %s: %s", quote(path), problem)
	}
	return CheckPath(path)
}

// symlinkProblem says what is wrong with a symbolic link at path beside the path itself: git reads .gitmodules, which must
// therefore be a file.
func symlinkProblem(path string) string {
	for component := range strings.SplitSeq(path, "/") {
		name := withoutIgnorable(component)
		if withNTFSTail(name, ".gitmodules") || isNTFSShortName(name, "gitmod", "gi7eba") {
			return fmt.Sprintf("%s is git's own file, or what some file system takes for it; it cannot be a symbolic link", quote(component))
		}
	}
	return ""
}

// isDotGit reports whether some file system takes the component for .git: HFS+ ignores case and some code points; NTFS ignores
// case and trailing dots and spaces, has streams behind a colon, and gives .git the short name git~1.
func isDotGit(component string) bool {
	name := withoutIgnorable(component)
	return withNTFSTail(name, ".git") || withNTFSTail(name, "git~1")
}

// withoutIgnorable removes the code points that HFS+ ignores in names.
func withoutIgnorable(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return r
	}, name)
}

// withNTFSTail reports whether name is want in any case, followed by nothing but what NTFS drops.
func withNTFSTail(name, want string) bool {
	if len(name) < len(want) || !strings.EqualFold(name[:len(want)], want) {
		return false
	}
	return isNTFSTail(name[len(want):])
}

// isNTFSTail reports whether NTFS drops the text at a name's end: dots and spaces, and a colon with whatever is behind.
func isNTFSTail(text string) bool {
	text, _, _ = strings.Cut(text, ":")
	return strings.Trim(text, ". ") == ""
}

// isNTFSShortName reports whether name is one that NTFS may give in its 8.3 form: the first six letters with ~1 to ~4, else,
// these being taken, a beginning of the hashed form with ~ and digits up to eight characters.
func isNTFSShortName(name, letters, hashed string) bool {
	if len(name) < 8 || !isNTFSTail(name[8:]) {
		return false
	}
	if strings.EqualFold(name[:6], letters) && name[6] == '~' && name[7] >= '1' && name[7] <= '4' {
		return true
	}
	front, digits, found := strings.Cut(name[:8], "~")
	if !found || len(front) > len(hashed) || !strings.EqualFold(front, hashed[:len(front)]) {
		return false
	}
	return digits != "" && digits[0] != '0' && strings.Trim(digits, "0123456789") == ""
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
