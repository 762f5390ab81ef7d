// Package fault is the closed set of ways in which work can fail, and the two tables that say what follows:
// what an HTTP caller is told ([Kind.Problem]) and what becomes of a job ([Kind.Disposition]).
//
// Adapters (forge, bitbucket, gitrepo, vault, queue, edit, job) give the kind, each at one place. Everything above
// them adds context with fmt.Errorf and %w and keeps the kind.
package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind is one way to fail. The zero value is [Internal]: an error nobody classified is ours.
type Kind uint8

// The kinds. Internal is a defect or a state of ours; all others are named after what the caller can do about it.
const (
	Internal        Kind = iota // a defect or an unknown state of ours
	Invalid                     // the request is wrong and will stay wrong
	Unauthenticated             // the FIT did not verify: the only kind that answers 401
	Denied                      // a scope or a permission is missing
	NotFound                    // no such thing, or not for this caller
	Conflict                    // something else moved first: a branch tip, an idempotency key
	TooLarge                    // over one of our limits or the server's
	Expired                     // the OAuth token is gone or about to go
	Throttled                   // over a rate limit: try after RetryAfter
	Unavailable                 // the other side is away or broken for now
	Interrupted                 // we are stopping
	Canceled                    // the caller asked to stop
)

var kindNames = [...]string{
	Internal: "internal", Invalid: "invalid", Unauthenticated: "unauthenticated", Denied: "denied",
	NotFound: "not_found", Conflict: "conflict", TooLarge: "too_large", Expired: "expired", Throttled: "throttled",
	Unavailable: "unavailable", Interrupted: "interrupted", Canceled: "canceled",
}

// Kinds lists every kind, for tests over the tables and for the OpenAPI document.
func Kinds() []Kind {
	var all []Kind
	for k := Internal; k <= Canceled; k++ {
		all = append(all, k)
	}
	return all
}

// String is the kind as the wire, the log and the metrics spell it.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Internal]
}

// MarshalText spells the kind as [Kind.String] does.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads a kind; a name that this version does not know is Internal, so that old code reads new records.
func (k *Kind) UnmarshalText(text []byte) error {
	*k = Internal
	for _, kind := range Kinds() {
		if kind.String() == string(text) {
			*k = kind
		}
	}
	return nil
}

// ErrTokenRefused is among the causes of a fault where the other side took an OAuth token for nothing (401), whatever its exp says.
var ErrTokenRefused = errors.New("the oauth token was refused")

// MaxPublic is the bound of a public text in bytes. It ends up in Redis, in the dashboard and in answers.
const MaxPublic = 500

// Error is a classified failure.
type Error struct {
	Kind Kind
	// Public is for the caller: lower case, names the operation and the thing, says what to do next, at most MaxPublic
	// bytes, never a secret.
	Public string
	// RetryAfter is how long the other side asked us to wait; zero where it did not.
	RetryAfter time.Duration
	// Cause is for the log only.
	Cause error
}

// Newf makes an error whose public text is the formatted one.
func Newf(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Public: bound(fmt.Sprintf(format, args...))}
}

// Wrapf classifies cause. The formatted text is public, cause is not.
func Wrapf(kind Kind, cause error, format string, args ...any) *Error {
	return &Error{Kind: kind, Public: bound(fmt.Sprintf(format, args...)), Cause: cause}
}

// Error is the public text alone: whoever prints an error by habit prints nothing private.
func (e *Error) Error() string { return e.Kind.String() + ": " + e.Public }

// Unwrap gives the private cause to errors.Is and errors.As.
func (e *Error) Unwrap() error { return e.Cause }

// KindOf is the kind of the outermost classified error in err's tree. A bare context.Canceled is Interrupted and a bare
// context.DeadlineExceeded Unavailable; any other error is Internal. KindOf(nil) is Internal.
func KindOf(err error) Kind {
	var classified *Error
	switch {
	case errors.As(err, &classified):
		return classified.Kind
	case errors.Is(err, context.Canceled):
		return Interrupted
	case errors.Is(err, context.DeadlineExceeded):
		return Unavailable
	}
	return Internal
}

// Public is what err tells the caller, bounded by MaxPublic. An unclassified error says nothing of itself.
func Public(err error) string {
	var classified *Error
	if errors.As(err, &classified) && classified.Public != "" {
		return bound(classified.Public)
	}
	switch KindOf(err) {
	case Interrupted:
		return "the work was interrupted and will be taken up again"
	case Unavailable:
		return "the time allowed ran out; try again"
	}
	return "something went wrong on our side; the log has it under this request's trace id"
}

// Private is the text for the log: the public text and the causes. The caller passes it through secret.Scrub.
func Private(err error) string {
	if err == nil {
		return ""
	}
	var classified *Error
	if errors.As(err, &classified) && classified.Cause != nil {
		return err.Error() + ": " + Private(classified.Cause)
	}
	return err.Error()
}

// RetryAfter is the wait that the other side asked for, zero if none.
func RetryAfter(err error) time.Duration {
	var classified *Error
	if errors.As(err, &classified) {
		return classified.RetryAfter
	}
	return 0
}

func bound(text string) string {
	text = strings.ToValidUTF8(text, "�")
	if len(text) <= MaxPublic {
		return text
	}
	cut := MaxPublic - len("…")
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
