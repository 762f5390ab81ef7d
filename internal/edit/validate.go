package edit

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Validate finds everything that is wrong with changes and can be known without the tree. An error is an Invalid fault that
// names the field, such as changes[3].put.path, and says what to do. It may be called concurrently.
func Validate(changes []Change, limits Limits) error {
	_, err := compile(changes, limits.withDefaults())
	return err
}

// operation is a change that was found valid and is ready to be applied.
type operation interface {
	apply(ctx context.Context, tree *overlay) error
	// paths are those that it names, as globs where it takes such.
	paths() []string
	// reads are the files of an untouched tree whose content it will read.
	reads(ctx context.Context, tree *overlay) ([]found, error)
}

// compiler turns changes into operations and keeps what must hold for all of them together.
type compiler struct {
	limits Limits
	claims *claims
	bytes  int64
}

func compile(changes []Change, limits Limits) ([]operation, error) {
	if len(changes) > limits.Changes {
		return nil, fault.Newf(fault.Invalid, "changes: %d changes, at most %d are taken; split them over several pushes", len(changes), limits.Changes)
	}
	c := &compiler{limits: limits, claims: newClaims()}
	operations := make([]operation, 0, len(changes))
	for i, change := range changes {
		operation, err := c.change(fmt.Sprintf("changes[%d]", i), change)
		if err != nil {
			return nil, err
		}
		operations = append(operations, operation)
	}
	return operations, nil
}

func (c *compiler) change(field string, change Change) (operation, error) {
	given := 0
	for _, is := range []bool{change.Put != nil, change.Delete != nil, change.Move != nil, change.Replace != nil, change.Patch != nil} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		return nil, fault.Newf(fault.Invalid, "%s: it is empty; give one of put, delete, move, replace, patch", field)
	case given > 1:
		return nil, fault.Newf(fault.Invalid, "%s: it holds %d changes; give each one of put, delete, move, replace, patch an element of its own", field, given)
	case change.Put != nil:
		return c.put(field+".put", *change.Put)
	case change.Delete != nil:
		return c.delete(field+".delete", *change.Delete)
	case change.Move != nil:
		return c.move(field+".move", *change.Move)
	case change.Replace != nil:
		return c.replace(field+".replace", *change.Replace)
	}
	return c.patch(field+".patch", *change.Patch)
}

// path checks a path that a change names and claims it.
func (c *compiler) path(does verb, field, path string) error {
	if problem := pathProblem(path, c.limits.PathBytes); problem != "" {
		return fault.Newf(fault.Invalid, "%s: %s: %s", field, quote(path), problem)
	}
	return c.claims.add(claim{verb: does, field: field, path: path})
}

// content counts bytes that the change carries.
func (c *compiler) content(field string, size int) error {
	if c.bytes += int64(size); c.bytes > c.limits.ContentBytes {
		return fault.Newf(fault.Invalid, "%s: with it the changes hold more than %d bytes; split them over several pushes", field, c.limits.ContentBytes)
	}
	return nil
}

func (c *compiler) put(field string, put Put) (operation, error) {
	if err := c.path(makesFile, field+".path", put.Path); err != nil {
		return nil, err
	}
	content, err := decode(field, put)
	if err != nil {
		return nil, err
	}
	if err := c.content(field+".content", len(content)); err != nil {
		return nil, err
	}
	if int64(len(content)) > c.limits.BlobBytes {
		return nil, fault.Newf(fault.Invalid, "%s.content: %d bytes, at most %d are taken for one file", field, len(content), c.limits.BlobBytes)
	}
	switch put.Mode {
	case "", ModeRegular, ModeExecutable:
	case ModeSymlink:
		if err := checkSymlink(field+".content", put.Path, content); err != nil {
			return nil, err
		}
	case ModeSubmodule, ModeDir:
		return nil, fault.Newf(fault.Invalid, `%s.mode: %q is a directory's or a submodule's; a put makes files: "100644", "100755" or "120000"`, field, put.Mode)
	default:
		return nil, fault.Newf(fault.Invalid, `%s.mode: %.20q is none of "100644", "100755" (executable), "120000" (symbolic link)`, field, put.Mode)
	}
	return putOperation{field: field, path: put.Path, mode: put.Mode, content: content}, nil
}

func decode(field string, put Put) ([]byte, error) {
	switch put.Encoding {
	case "", "utf-8":
		if !utf8.ValidString(put.Content) {
			return nil, fault.Newf(fault.Invalid, `%s.content: it is not UTF-8; send it with "encoding": "base64"`, field)
		}
		return []byte(put.Content), nil
	case "base64":
		content, err := base64.StdEncoding.DecodeString(put.Content)
		var at base64.CorruptInputError
		if errors.As(err, &at) {
			return nil, fault.Newf(fault.Invalid, "%s.content: it is no base64 (RFC 4648 section 4, with padding): wrong at byte %d", field, int64(at))
		}
		return content, err
	}
	return nil, fault.Newf(fault.Invalid, `%s.encoding: %.40q is neither "utf-8" nor "base64"`, field, put.Encoding)
}

// maxTarget is what Linux takes as a symbolic link's target. Git itself takes any.
const maxTarget = 4095

// checkSymlink accepts every target that can be checked out, wherever it leads: so does git. Nothing here follows it.
func checkSymlink(field, path string, target []byte) error {
	if problem := symlinkProblem(path); problem != "" {
		return fault.Newf(fault.Invalid, "%s: %s: %s", field, quote(path), problem)
	}
	switch {
	case len(target) == 0:
		return fault.Newf(fault.Invalid, "%s: the symbolic link %s has no target; its content is the target", field, quote(path))
	case len(target) > maxTarget:
		return fault.Newf(fault.Invalid, "%s: the symbolic link %s has a target of %d bytes, and at most %d can be checked out", field, quote(path), len(target), maxTarget)
	case strings.IndexByte(string(target), 0) >= 0:
		return fault.Newf(fault.Invalid, "%s: the target of the symbolic link %s holds a NUL", field, quote(path))
	}
	return nil
}

func (c *compiler) delete(field string, change Delete) (operation, error) {
	if err := c.path(removes, field+".path", change.Path); err != nil {
		return nil, err
	}
	return deleteOperation{field: field, path: change.Path}, nil
}

func (c *compiler) move(field string, move Move) (operation, error) {
	switch {
	case move.From == move.To && move.From != "":
		return nil, fault.Newf(fault.Invalid, "%s: from and to are the same path", field)
	case isBelow(move.To, move.From):
		return nil, fault.Newf(fault.Invalid, "%s.to: %s is inside of %s; nothing moves into itself", field, quote(move.To), quote(move.From))
	case isBelow(move.From, move.To):
		return nil, fault.Newf(fault.Invalid, "%s.to: %s is the directory that %s is in, so something is there; choose another path", field, quote(move.To), quote(move.From))
	}
	if err := c.path(removes, field+".from", move.From); err != nil {
		return nil, err
	}
	if err := c.path(makes, field+".to", move.To); err != nil {
		return nil, err
	}
	return moveOperation{field: field, from: move.From, to: move.To}, nil
}
