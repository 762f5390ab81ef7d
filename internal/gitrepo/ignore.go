package gitrepo

import (
	"bytes"
	"context"
	"path"
	"strings"

	"github.com/gitsmith/gitsmith/internal/glob"
)

const (
	ignoreFile       = ".gitignore"
	maxIgnoreFile    = 1 << 20 // bytes that are read of one
	maxIgnorePattern = 4_096
)

// ignoreRule is a line of a .gitignore file (gitignore(5)). go-git's own takes a pattern without a slash for one of every
// directory on the way, so that its ! lets more in than git's.
type ignoreRule struct {
	base     string // the directory that the file is in, with a slash at its end; empty for the root
	pattern  *glob.Glob
	negated  bool
	dirOnly  bool
	anchored bool // the pattern is of paths below base, else of names
}

// parseIgnore reads a .gitignore file in the directory dir, "" for the root.
func parseIgnore(dir string, content []byte) []ignoreRule {
	if dir != "" {
		dir += "/"
	}
	var rules []ignoreRule
	content = bytes.TrimPrefix(content, []byte("\xef\xbb\xbf"))
	for line := range bytes.Lines(content) {
		text := strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")
		if rule, found := parseIgnoreLine(text); found {
			rule.base = dir
			rules = append(rules, rule)
		}
	}
	return rules
}

func parseIgnoreLine(text string) (rule ignoreRule, found bool) {
	if strings.HasPrefix(text, "#") || len(text) > maxIgnorePattern {
		return rule, false
	}
	text = trimSpaces(text)
	text, rule.negated = strings.CutPrefix(text, "!")
	text, rule.dirOnly = strings.CutSuffix(text, "/")
	rule.anchored = strings.Contains(text, "/")
	text = strings.TrimPrefix(text, "/")
	if text == "" {
		return rule, false
	}
	if strings.HasSuffix(text, "/**") {
		text += "/*" // all that is in the directory, not the directory
	}
	pattern, err := glob.Parse(globOf(text))
	rule.pattern = pattern
	return rule, err == nil // git takes no notice of such a line either
}

// trimSpaces takes spaces away from the end, but one that a backslash keeps.
func trimSpaces(text string) string {
	end := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case ' ':
			continue
		case '\\':
			i++
		}
		end = min(i+1, len(text))
	}
	return text[:end]
}

var posixClasses = strings.NewReplacer(
	"[:alpha:]", "a-zA-Z", "[:digit:]", "0-9", "[:alnum:]", "a-zA-Z0-9", "[:upper:]", "A-Z", "[:lower:]", "a-z",
	"[:xdigit:]", "0-9a-fA-F", "[:space:]", " \t\n\v\f\r", "[:blank:]", " \t",
)

// globOf escapes the braces, which git takes literally.
func globOf(text string) string {
	text = posixClasses.Replace(text)
	var pattern strings.Builder
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			if i+1 < len(text) {
				pattern.WriteByte(text[i])
				i++
			}
		case '{', '}':
			pattern.WriteByte('\\')
		}
		pattern.WriteByte(text[i])
	}
	return pattern.String()
}

func (r *ignoreRule) matches(ctx context.Context, meter *glob.Meter, file string, isDir bool) (bool, error) {
	if r.dirOnly && !isDir {
		return false, nil
	}
	name := file[len(r.base):]
	if !r.anchored {
		name = path.Base(name)
	}
	return meter.Match(ctx, r.pattern, name)
}

// ignored reports what the rules say of a path, whose directories are not ignored themselves. The last one that matches decides.
func ignored(ctx context.Context, meter *glob.Meter, rules []ignoreRule, path string, isDir bool) (bool, error) {
	for i := len(rules) - 1; i >= 0; i-- {
		if matches, err := rules[i].matches(ctx, meter, path, isDir); matches || err != nil {
			return !rules[i].negated, err
		}
	}
	return false, nil
}
