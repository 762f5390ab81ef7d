package job

import (
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// maxRef bounds a ref in bytes. A server keeps refs as files, and file systems give a name 255 bytes.
const maxRef = 240

var commitShape = regexp.MustCompile(`^[0-9a-f]{40}$`)

// IsCommit reports whether ref is a commit's full hash (SHA-1, the only object format that Bitbucket has).
func IsCommit(ref string) bool { return commitShape.MatchString(ref) }

// checkRef applies git's rules for the name of a ref (git-check-ref-format(1)) to one below refs/heads or refs/tags, and
// git's rule for branches that none begins with a dash or is called HEAD. field names the offender in the fault.
func checkRef(field, name string) error {
	if why := refFlaw(name); why != "" {
		return fault.Newf(fault.Invalid, "%s: %.80q is no name that git takes: %s", field, name, why)
	}
	return nil
}

func refFlaw(name string) string {
	switch {
	case name == "":
		return "it is empty"
	case len(name) > maxRef:
		return "it is longer than 240 bytes"
	case !utf8.ValidString(name):
		return "it is not UTF-8"
	case name == "@" || name == "HEAD":
		return "the name is reserved"
	case strings.HasPrefix(name, "-"):
		return "it begins with '-'"
	case strings.HasSuffix(name, "."):
		return "it ends with '.'"
	case strings.Contains(name, ".."):
		return "it holds '..'"
	case strings.Contains(name, "@{"):
		return "it holds '@{'"
	}
	for _, r := range name {
		if r <= ' ' || r == 0x7f || strings.ContainsRune(`~^:?*[\`, r) {
			return "it holds a space, a control character or one of ~ ^ : ? * [ \\"
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "":
			return "a part between slashes is empty"
		case strings.HasPrefix(part, "."):
			return "a part begins with '.'"
		case strings.HasSuffix(part, ".lock"):
			return "a part ends with '.lock'"
		}
	}
	return ""
}
