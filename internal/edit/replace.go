package edit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/glob"
)

type replaceOperation struct {
	field string
	globs []*glob.Glob
	// Either expression or literal is set.
	expression *regexp.Regexp
	literal    []byte
	with       []byte
	groups     int // references in with
}

func (c *compiler) replace(field string, replace Replace) (operation, error) {
	switch {
	case len(replace.Paths) == 0:
		return nil, fault.Newf(fault.Invalid, `%s.paths: it is empty; name files by globs, such as "**/*.go"`, field)
	case len(replace.Paths) > c.limits.Globs:
		return nil, fault.Newf(fault.Invalid, "%s.paths: %d globs, at most %d are taken; use ** and {a,b} to say more with fewer", field, len(replace.Paths), c.limits.Globs)
	case replace.Pattern == "":
		return nil, fault.Newf(fault.Invalid, "%s.pattern: it is empty, and would match everywhere", field)
	case !utf8.ValidString(replace.Pattern) || !utf8.ValidString(replace.With):
		return nil, fault.Newf(fault.Invalid, "%s: pattern or with is not UTF-8", field)
	}
	globs := make([]*glob.Glob, len(replace.Paths))
	for i, pattern := range replace.Paths {
		parsed, problem := parseGlob(pattern, c.limits.PathBytes)
		if problem != "" {
			return nil, fault.Newf(fault.Invalid, "%s.paths[%d]: %s: %s", field, i, quote(pattern), problem)
		}
		globs[i] = parsed
	}
	if err := c.content(field, len(replace.Pattern)+len(replace.With)); err != nil {
		return nil, err
	}
	operation := replaceOperation{field: field, globs: globs, with: []byte(replace.With)}
	if !replace.Regexp {
		operation.literal = []byte(replace.Pattern)
		return operation, nil
	}
	return c.expression(operation, replace)
}

func (c *compiler) expression(operation replaceOperation, replace Replace) (_ operation, err error) {
	if len(replace.Pattern) > c.limits.PatternBytes {
		return nil, fault.Newf(fault.Invalid, "%s.pattern: %d bytes, at most %d are taken for a regular expression", operation.field, len(replace.Pattern), c.limits.PatternBytes)
	}
	if operation.expression, err = regexp.Compile(replace.Pattern); err != nil {
		why := "it cannot be read"
		if wrong := (*syntax.Error)(nil); errors.As(err, &wrong) {
			why = wrong.Code.String() // not where: an error is kept, and a pattern is content
		}
		return nil, fault.Newf(fault.Invalid, "%s.pattern: it is no RE2 regular expression (https://golang.org/s/re2syntax): %s", operation.field, why)
	}
	for _, name := range references(replace.With) {
		operation.groups++
		if !hasGroup(operation.expression, name) {
			return nil, fault.Newf(fault.Invalid, "%s.with: the pattern has no group %.40q; write ${1}x where letters follow a number, and $$ for a dollar", operation.field, name)
		}
	}
	return operation, nil
}

// parseGlob reads a glob over the paths of a tree; problem says what is wrong with it.
func parseGlob(pattern string, limit int) (parsed *glob.Glob, problem string) {
	switch {
	case !utf8.ValidString(pattern) || strings.IndexByte(pattern, 0) >= 0:
		return nil, "it is no glob: it holds a NUL or is not UTF-8"
	case len(pattern) > limit:
		return nil, "it is too long; use ** and {a,b} to say it shorter"
	}
	parsed, err := glob.Parse(pattern)
	switch {
	case err != nil:
		return nil, err.Error()
	case pattern[0] == '/':
		return nil, "it begins with /; globs start at the repository's root without it"
	case slices.ContainsFunc(strings.Split(pattern, "/"), func(part string) bool { return part == "." || part == ".." || part == "" }):
		return nil, "it holds an empty component, . or .., and would match nothing"
	}
	return parsed, ""
}

// references are the groups that a replacement names, read as package regexp reads them.
func references(with string) []string {
	var names []string
	for {
		_, rest, found := strings.Cut(with, "$")
		if !found {
			return names
		}
		if strings.HasPrefix(rest, "$") {
			with = rest[1:]
			continue
		}
		name := rest
		if strings.HasPrefix(rest, "{") {
			if name, _, found = strings.Cut(rest[1:], "}"); !found {
				name = ""
			}
		} else if end := strings.IndexFunc(rest, isNoWord); end >= 0 {
			name = rest[:end]
		}
		if name != "" && strings.IndexFunc(name, isNoWord) < 0 {
			names = append(names, name)
		}
		with = rest
	}
}

func isNoWord(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' }

func hasGroup(expression *regexp.Regexp, name string) bool {
	if number, err := strconv.Atoi(name); err == nil {
		return number <= expression.NumSubexp() && (name == "0" || name[0] != '0')
	}
	return slices.Contains(expression.SubexpNames(), name)
}

func (r replaceOperation) apply(ctx context.Context, tree *overlay) error {
	files, err := r.files(ctx, tree)
	if err != nil {
		return err
	}
	for _, file := range files {
		if file.mode != ModeRegular && file.mode != ModeExecutable {
			continue
		}
		content, err := tree.content(ctx, r.field, file.path, file.file)
		if err != nil {
			return err
		}
		if isBinary(content) {
			continue
		}
		replaced, size := r.replace(content, tree.limits.BlobBytes)
		switch {
		case size > tree.limits.BlobBytes:
			return fault.Newf(fault.TooLarge, "%s: %s would grow over %d bytes; make the pattern narrower or with shorter", r.field, quote(file.path), tree.limits.BlobBytes)
		case replaced == nil || bytes.Equal(replaced, content):
			continue
		}
		if err := tree.write(ctx, r.field, file.path, newFile(file.mode, replaced)); err != nil {
			return err
		}
	}
	return nil
}

// files are those that a glob matches, each once. Only the directories are listed that the globs name.
func (r replaceOperation) files(ctx context.Context, tree *overlay) ([]found, error) {
	var matched []found
	seen := map[string]bool{}
	for _, each := range r.globs {
		files, err := candidates(ctx, tree, each)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			matches, err := tree.globs.Match(ctx, each, file.path)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", r.field, err)
			}
			if matches && !seen[file.path] {
				seen[file.path] = true
				matched = append(matched, file)
			}
		}
	}
	return matched, nil
}

func candidates(ctx context.Context, tree *overlay, pattern *glob.Glob) ([]found, error) {
	dir := pattern.Base()
	if dir == "" {
		return tree.files(ctx, "")
	}
	single, what, err := tree.at(ctx, dir)
	switch what {
	case isFile:
		return []found{{dir, single}}, err
	case isDirectory:
		return tree.files(ctx, dir)
	}
	return nil, err
}

// isBinary decides as git does: a NUL among the first 8,000 bytes.
func isBinary(content []byte) bool {
	return bytes.IndexByte(content[:min(len(content), 8000)], 0) >= 0
}

// replace returns the new content, nil where nothing matches, and a size that it does not exceed; above limit nothing is made.
func (r replaceOperation) replace(content []byte, limit int64) ([]byte, int64) {
	size := int64(len(content))
	if r.expression == nil {
		matches := int64(bytes.Count(content, r.literal))
		if size += matches * int64(len(r.with)-len(r.literal)); matches == 0 || size > limit {
			return nil, size
		}
		return bytes.ReplaceAll(content, r.literal, r.with), size
	}
	matches := 0
	r.expression.ReplaceAllFunc(content, func(match []byte) []byte {
		matches++
		size += int64(len(r.with) - len(match) + r.groups*len(match))
		return nil
	})
	if matches == 0 || size > limit {
		return nil, size
	}
	return r.expression.ReplaceAll(content, r.with), size
}
