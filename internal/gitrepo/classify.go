package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/packstream"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// maxQuote bounds what a fault quotes of a server's words, in bytes.
const maxQuote = 200

// classifyStatus is what a status other than a git answer means. Bitbucket's words are those of its documents and of public
// threads: only the scope's are relied on, and only to say more.
func classifyStatus(op operation, status int, wait time.Duration, body string) error {
	cause := &statusError{status, quote(body)}
	switch {
	case status == http.StatusOK:
		return fault.Wrapf(fault.Unavailable, cause, "%s: the server's answer is not git's, as when a proxy or a login page answers; if it stays so, check GITSMITH_GIT_URL", op)
	case status >= 300 && status < 400:
		return fault.Wrapf(fault.NotFound, cause, "%s: the server redirects, and a token is not sent after a redirect; the repository may have been renamed", op)
	case status == http.StatusUnauthorized:
		return fault.Wrapf(fault.Denied, cause, "%s: the server took the token for nothing: it is revoked, or the repository does not exist, or the app or user has no access to it", op)
	case status == http.StatusForbidden && strings.Contains(strings.ToLower(body), "scope"):
		return fault.Wrapf(fault.Denied, cause, "%s: the token lacks the scope %s; add it to permissions.scopes in the app's manifest, deploy, and let the installation be upgraded", op, op.scope)
	case status == http.StatusForbidden:
		return fault.Wrapf(fault.Denied, cause, "%s: access is refused: the app or user lacks the permission on the repository, the token the scope %s, or the workspace allows other IP addresses only", op, op.scope)
	case status == http.StatusNotFound || status == http.StatusGone:
		return fault.Wrapf(fault.NotFound, cause, "%s: there is no such repository, or it is not visible to the app or user", op)
	case status == http.StatusRequestEntityTooLarge:
		return fault.Wrapf(fault.TooLarge, cause, "%s: the server takes no push of this size", op)
	case status == http.StatusTooManyRequests:
		return &fault.Error{
			Kind: fault.Throttled, RetryAfter: wait, Cause: cause,
			Public: op.String() + ": the server's rate limit is reached; the job goes on when it is over",
		}
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusMisdirectedRequest, status == http.StatusTooEarly:
		return &fault.Error{
			Kind: fault.Unavailable, RetryAfter: wait, Cause: cause,
			Public: fmt.Sprintf("%s: the server cannot answer at the moment (status %d); it is tried again", op, status),
		}
	}
	return fault.Wrapf(fault.Internal, cause, "%s: the server answered with status %d", op, status)
}

// statusError is a status that is no git answer.
type statusError struct {
	code  int
	words string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.code, e.words) }

// Is tells a refused token.
func (e *statusError) Is(target error) bool {
	return target == fault.ErrTokenRefused && e.code == http.StatusUnauthorized
}

// classifyNetwork is what it means that no answer came, or that it broke off.
func classifyNetwork(ctx context.Context, op operation, err error) error {
	var classified *fault.Error
	cause := context.Cause(ctx)
	switch {
	case errors.As(err, &classified):
		return err
	case errors.As(cause, &classified):
		return cause
	case errors.Is(cause, errIdle), errors.Is(err, errIdle):
		return fault.Wrapf(fault.Unavailable, err, "%s: the server sent nothing for too long; it is tried again", op)
	case errors.Is(cause, context.Canceled):
		return fault.Wrapf(fault.Interrupted, err, "%s: interrupted", op)
	case errors.Is(cause, context.DeadlineExceeded):
		return fault.Wrapf(fault.Unavailable, err, "%s: the time for one attempt ran out; it is tried again", op)
	}
	return fault.Wrapf(fault.Unavailable, err, "%s: the server cannot be reached, or the connection broke; it is tried again", op)
}

// classifyPack is what it means that a pack or an advertisement could not be read: a cut connection and a broken server look
// alike, so it is tried again.
func classifyPack(ctx context.Context, op operation, err error) error {
	var classified *fault.Error
	if errors.As(err, &classified) || context.Cause(ctx) != nil || errors.Is(err, errIdle) {
		return classifyNetwork(ctx, op, err)
	}
	var disk *fs.PathError
	switch {
	case errors.Is(err, packstream.ErrTooLarge):
		return fault.Wrapf(fault.TooLarge, err, "%s: the repository is larger than GITSMITH_MAX_REPOSITORY allows", op)
	case errors.As(err, &disk):
		return fault.Wrapf(fault.Internal, err, "%s: there is no place on disk for what the server sends", op)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, plumbing.ErrObjectNotFound) {
		return fault.Wrapf(fault.Unavailable, err, "%s: the server's answer ended too early; it is tried again", op)
	}
	return fault.Wrapf(fault.Unavailable, err, "%s: the server's answer is not what git sends; it is tried again", op)
}

// classifyCommand classifies a push that receive-pack refused, by the reason in its report and by the messages for people, which may
// come from hooks. A hook may say anything, so only the reason itself can tell of a branch that moved. An unknown reason is Internal.
func classifyCommand(op operation, cause error, reason string, words *lastWords) error {
	all := strings.ToLower(reason + "\n" + words.String())
	cause = fmt.Errorf("%w: %s", cause, quoteEnd(words.String()))
	said := ""
	if line := sentence(words); line != "" {
		said = fmt.Sprintf("; the server says: %q", line)
	}
	switch reason := strings.ToLower(reason); {
	case hasAny(all, "read only mode", "size limit", "maximum allowed size"):
		return fault.Wrapf(fault.TooLarge, cause, "%s: the repository or the push is over the server's size limit%s", op, said)
	case hasAny(all, "fsck error"):
		return fault.Wrapf(fault.Invalid, cause, "%s: the server does not accept the content of the commit%s", op, said)
	case hasAny(reason, "failed to update ref", "cannot lock ref", "incorrect old value", "non-fast-forward", "fetch first", "stale info",
		"already exists", "reference does not exist"):
		return fault.Wrapf(fault.Conflict, cause, "%s: branch %q moved while the change was made", op, op.branch)
	case hasAny(all, "hook declined", "permission denied", "access denied", "not allowed", "not permitted", "forbidden", "protected", "prohibited", "deny"):
		return fault.Wrapf(fault.Denied, cause, "%s: the server's rules refuse the push to branch %q%s; let the app or user through the branch restriction, or push to another branch", op, op.branch, said)
	case hasAny(reason, "unpack", "index-pack"):
		return fault.Wrapf(fault.Internal, cause, "%s: the server could not unpack what was sent%s", op, said)
	}
	return fault.Wrapf(fault.Internal, cause, "%s: the server did not update branch %q (%s)%s", op, op.branch, quote(reason), said)
}

func hasAny(text string, parts ...string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
}

// classifyRefusal classifies an error message that receive-pack sent in place of a report. One that names no known rule is more likely
// an outage than a rule, so the push is retried.
func classifyRefusal(op operation, refused *refusal, words *lastWords) error {
	_, _ = words.Write([]byte("\n" + refused.words)) // into memory
	classified := classifyCommand(op, refused, refused.words, words)
	if fault.KindOf(classified) == fault.Internal {
		return fault.Wrapf(fault.Unavailable, classified, "%s: the server broke off the push: %q; will retry", op, quote(refused.words))
	}
	return classified
}

// sentence picks the most telling line of a server's messages: the first one that sounds like a refusal; without one, the first line
// of text or, if the beginning was cut off, the last.
func sentence(words *lastWords) string {
	var first, last string
	for line := range strings.Lines(words.String()) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(colours.ReplaceAllString(line, "")), "remote:"))
		refuses := refusalWords.MatchString(line)
		line = strings.TrimSpace(strings.TrimPrefix(line, "error:"))
		switch {
		case !strings.ContainsFunc(line, unicode.IsLetter) || strings.Contains(line, "hook declined"):
			continue
		case refuses:
			return quote(line)
		case first == "":
			first = line
		}
		last = line
	}
	if words.cut {
		return quote(last)
	}
	return quote(first)
}

var (
	colours      = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)
	refusalWords = regexp.MustCompile(`(?i)^(error|fatal)\b|denied|refus|reject|not (allowed|permitted)|forbidden|protected|prohibited`)
)

// quote is a server's text as it may be shown: scrubbed, on one line, bounded.
func quote(text string) string {
	text = oneLine(text)
	if len(text) > maxQuote {
		text = strings.ToValidUTF8(text[:maxQuote], "") + "…"
	}
	return text
}

// quoteEnd is like quote but keeps the end of a long text.
func quoteEnd(text string) string {
	text = oneLine(text)
	if len(text) > maxQuote {
		text = "…" + strings.ToValidUTF8(text[len(text)-maxQuote:], "")
	}
	return text
}

// oneLine removes credentials, control characters and line breaks.
func oneLine(text string) string {
	return strings.Join(strings.FieldsFunc(secret.Scrub(text), func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
}
