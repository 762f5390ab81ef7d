package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/glob"
)

// Request is what a caller asks for, as it stands in the body of POST /v1/jobs.
type Request struct {
	Repository bitbucket.Repository `json:"repository"`
	Actor      forge.ActorKind      `json:"actor,omitempty"`     // default: the user who calls, else the app
	OnExpiry   OnExpiry             `json:"on_expiry,omitempty"` // default: fail
	Clone      *Clone               `json:"clone,omitempty"`
	Push       *Push                `json:"push,omitempty"`
}

// Limits bound a request.
type Limits struct {
	Edit        edit.Limits
	Paths       int // globs of a clone
	MessageSize int // bytes of a commit message or a pull request's description
}

// DefaultLimits are the limits where the operator says nothing.
func DefaultLimits() Limits {
	return Limits{Edit: edit.DefaultLimits(), Paths: 100, MessageSize: 64 << 10}
}

// ParseRequest decodes and validates the body of POST /v1/jobs. Unknown fields are refused by name. Every error is an
// Invalid fault that names the field and what to do.
func ParseRequest(body []byte, limits Limits) (Request, error) {
	var request Request
	if err := Decode(body, &request); err != nil {
		return Request{}, err
	}
	if err := request.Validate(limits); err != nil {
		return Request{}, err
	}
	return request, nil
}

// Decode decodes a body with a push in it, as strictly as what is written into somebody's files has to be.
func Decode(body []byte, request any) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(request); err != nil {
		return decodeFault(err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return fault.Newf(fault.Invalid, "the body holds more than one JSON value; send one object")
	}
	return checkShape(body)
}

// checkShape refuses what encoding/json lets pass and would be written into somebody's file: a put without content would make
// it empty, and half of a surrogate pair would become U+FFFD.
func checkShape(body []byte) error {
	var shape struct {
		Push struct {
			Changes []struct {
				Put *struct {
					Content *string `json:"content"`
				} `json:"put"`
			} `json:"changes"`
		} `json:"push"`
	}
	if err := json.Unmarshal(body, &shape); err != nil {
		return decodeFault(err)
	}
	for i, change := range shape.Push.Changes {
		if change.Put != nil && change.Put.Content == nil {
			return fault.Newf(fault.Invalid, `changes[%d].put.content: it is missing; for an empty file give ""`, i)
		}
	}
	if at := loneSurrogate(body); at >= 0 {
		return fault.Newf(fault.Invalid, "the escape %.6s at byte %d is half of a character; write UTF-8, or both halves", body[at:], at)
	}
	return nil
}

// loneSurrogate finds an escape in valid JSON that is half of a UTF-16 pair without the other half (RFC 8259, section 8.2); -1
// where there is none.
func loneSurrogate(body []byte) int {
	unit := func(at int) rune {
		if at+6 > len(body) || body[at] != '\\' || body[at+1] != 'u' {
			return -1
		}
		value, err := strconv.ParseUint(string(body[at+2:at+6]), 16, 16)
		if err != nil {
			return -1
		}
		return rune(value)
	}
	for at := 0; at < len(body); at++ {
		if body[at] != '\\' {
			continue
		}
		first := unit(at)
		switch {
		case !utf16.IsSurrogate(first):
			at++ // the character behind the backslash is part of the escape
		case utf16.DecodeRune(first, unit(at+6)) == utf8.RuneError:
			return at
		default:
			at += 11
		}
	}
	return -1
}

// decodeFault is the one place that knows encoding/json's errors.
func decodeFault(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var own *fault.Error
	switch {
	case errors.As(err, &own): // a type of ours said it
		return own
	case errors.Is(err, io.EOF):
		return fault.Newf(fault.Invalid, "the body is empty; send a JSON object with a repository and a clone or a push")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fault.Newf(fault.Invalid, "the body's JSON ends too early")
	case errors.As(err, &syntax):
		return fault.Newf(fault.Invalid, "the body is no JSON: %s at byte %d", syntax.Error(), syntax.Offset)
	case errors.As(err, &kind):
		return fault.Newf(fault.Invalid, "%s: a JSON %s stands where %s is wanted", nameOr(kind.Field, "the body"), kind.Value, jsonName(kind.Type.Kind().String()))
	}
	if name, found := strings.CutPrefix(err.Error(), "json: unknown field "); found {
		return fault.Newf(fault.Invalid, "unknown field %.80s; the fields are listed in /openapi.yaml", name)
	}
	return fault.Wrapf(fault.Invalid, err, "the body's JSON cannot be read")
}

func nameOr(name, other string) string {
	if name == "" {
		return other
	}
	return name
}

func jsonName(goKind string) string {
	switch goKind {
	case "struct", "map", "ptr":
		return "an object"
	case "slice", "array":
		return "an array"
	case "bool":
		return "true or false"
	case "string":
		return "a string"
	}
	return "a whole number"
}

// Validate checks a request and completes it by its defaults; every error is an Invalid fault that names the field.
func (r *Request) Validate(limits Limits) error {
	if err := r.Repository.Validate(); err != nil {
		return err
	}
	switch r.Actor {
	case "", forge.ActorSystem, forge.ActorUser:
	default:
		return fault.Newf(fault.Invalid, `actor: %.80q is neither "system" nor "user"`, r.Actor)
	}
	switch r.OnExpiry {
	case OnExpiryFail, OnExpiryWait:
	default:
		return fault.Newf(fault.Invalid, `on_expiry: %.80q is not "wait"; leave it out to let the job end as expired`, r.OnExpiry)
	}
	switch {
	case r.Clone != nil && r.Push != nil:
		return fault.Newf(fault.Invalid, "clone and push: give one of the two; a job does one thing")
	case r.Clone != nil:
		return r.Clone.validate(limits)
	case r.Push != nil:
		return r.Push.validate(limits)
	}
	return fault.Newf(fault.Invalid, "clone or push is missing: say what the job does")
}

func (c *Clone) validate(limits Limits) error {
	if c.Ref != "" && c.Ref != "HEAD" && !IsCommit(c.Ref) {
		if err := checkRef("clone.ref", c.Ref); err != nil {
			return err
		}
	}
	switch c.Archive {
	case "":
		c.Archive = ArchiveTarGz
	case ArchiveTarGz, ArchiveZip, ArchiveBundle, ArchiveNone:
	default:
		return fault.Newf(fault.Invalid, "clone.archive: %.80q is none of tar.gz, zip, bundle, none", c.Archive)
	}
	switch {
	case c.Depth < 0:
		return fault.Newf(fault.Invalid, "clone.depth: %d is negative; 0 or leaving it out means as much as the archive needs", c.Depth)
	case c.Archive == ArchiveBundle && c.Depth != 0:
		return fault.Newf(fault.Invalid, "clone.depth: a bundle holds the whole history, or git could not clone from it; leave depth out")
	case c.Archive == ArchiveBundle && len(c.Paths) != 0:
		return fault.Newf(fault.Invalid, "clone.paths: a bundle holds whole commits; use tar.gz or zip to choose paths")
	case len(c.Paths) > limits.Paths:
		return fault.Newf(fault.Invalid, "clone.paths: %d globs, at most %d; use ** to say more with fewer", len(c.Paths), limits.Paths)
	}
	for i, pattern := range c.Paths {
		if len(pattern) > limits.Edit.PathBytes {
			return fault.Newf(fault.Invalid, "clone.paths[%d]: %.80q: it has more than %d bytes; use ** to say it shorter", i, pattern, limits.Edit.PathBytes)
		}
		if _, err := glob.Parse(strings.TrimSuffix(pattern, "/")); err != nil {
			return fault.Newf(fault.Invalid, "clone.paths[%d]: %.80q: %s", i, pattern, err)
		}
	}
	return nil
}

func (p *Push) validate(limits Limits) error {
	if err := checkRef("push.branch", p.Branch); err != nil {
		return err
	}
	if strings.HasPrefix(p.Branch, "refs/") {
		return fault.Newf(fault.Invalid, "push.branch: give the short name, such as main, not %.80q", p.Branch)
	}
	if p.Base != "" {
		if err := checkRef("push.base", p.Base); err != nil {
			return err
		}
		if !p.Create {
			return fault.Newf(fault.Invalid, `push.base: only a new branch starts somewhere; add "create": true, or leave base out`)
		}
	}
	if err := checkText("push.message", p.Message, limits.MessageSize); err != nil {
		return err
	}
	if strings.TrimSpace(p.Message) == "" {
		return fault.Newf(fault.Invalid, "push.message: it is empty; a commit needs one")
	}
	if err := p.Author.validate(); err != nil {
		return err
	}
	if len(p.Changes) == 0 && p.Recipe == nil {
		return fault.Newf(fault.Invalid, "push.changes: it is empty; a push needs at least one change, or a recipe")
	}
	if err := edit.Validate(p.Changes, limits.Edit); err != nil {
		return fmt.Errorf("push: %w", err)
	}
	if err := p.validateOptions(); err != nil {
		return err
	}
	return p.PullRequest.validate(p.Branch, limits)
}

func (a *Author) validate() error {
	if a == nil {
		return nil
	}
	for field, text := range map[string]string{"push.author.name": a.Name, "push.author.email": a.Email} {
		if err := checkText(field, text, 256); err != nil {
			return err
		}
		if strings.TrimSpace(text) == "" || strings.ContainsAny(text, "<>\n") {
			return fault.Newf(fault.Invalid, "%s: it is empty or holds <, > or a line break, which git does not take there", field)
		}
	}
	return nil
}

func (p *PullRequest) validate(source string, limits Limits) error {
	if p == nil {
		return nil
	}
	if err := checkText("push.pull_request.title", p.Title, 255); err != nil {
		return err
	}
	if strings.TrimSpace(p.Title) == "" {
		return fault.Newf(fault.Invalid, "push.pull_request.title: it is empty")
	}
	if err := checkText("push.pull_request.description", p.Description, limits.MessageSize); err != nil {
		return err
	}
	if err := checkReviewers(p.Reviewers); err != nil {
		return err
	}
	if p.Destination == "" {
		return nil
	}
	if strings.HasPrefix(p.Destination, "refs/") {
		return fault.Newf(fault.Invalid, "push.pull_request.destination: give the short name, such as main, not %.80q", p.Destination)
	}
	if p.Destination == source {
		return fault.Newf(fault.Invalid, "push.pull_request.destination: it is the pushed branch itself")
	}
	return checkRef("push.pull_request.destination", p.Destination)
}

func checkText(field, text string, limit int) error {
	switch {
	case len(text) > limit:
		return fault.Newf(fault.Invalid, "%s: %d bytes, at most %d", field, len(text), limit)
	case !utf8.ValidString(text) || strings.ContainsRune(text, 0):
		return fault.Newf(fault.Invalid, "%s: it holds a NUL or is not UTF-8", field)
	}
	return nil
}
