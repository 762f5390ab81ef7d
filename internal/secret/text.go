// Package secret holds text that cannot be printed by accident, the key ring that seals what is stored, and the scrubber
// for text that others wrote.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strings"
)

// Redacted is what every way of printing a [Text] shows.
const Redacted = "[redacted]"

// Text is a secret string. No verb of fmt, no encoder and no slog handler shows it, not even where it sits in an
// unexported field: it holds a pointer, and packages that print by reflection stop there. The zero value is empty.
type Text struct{ value *string }

// New makes a secret of value.
func New(value string) Text { return Text{&value} }

// Reveal is the only way to the value. Call it where the value leaves the process, nowhere else.
func (t Text) Reveal() string {
	if t.value == nil {
		return ""
	}
	return *t.value
}

// IsZero reports whether there is no secret, or an empty one.
func (t Text) IsZero() bool { return t.value == nil || *t.value == "" }

// Equal compares in constant time.
func (t Text) Equal(other Text) bool {
	return subtle.ConstantTimeCompare([]byte(t.Reveal()), []byte(other.Reveal())) == 1
}

// Format shows Redacted for every verb and flag.
func (t Text) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, Redacted) }

// String is Redacted.
func (t Text) String() string { return Redacted }

// GoString is Redacted.
func (t Text) GoString() string { return Redacted }

// MarshalText is Redacted, for JSON and YAML alike.
func (t Text) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// LogValue is Redacted.
func (t Text) LogValue() slog.Value { return slog.StringValue(Redacted) }

var (
	// A JWT, whole or cut short: header and the beginning of a payload are enough.
	jwtShape = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){0,2}`)
	// Credentials in a URL, whoever the user is.
	urlCredentials = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@:]*(?::[^\s/@]*)?@`)
	// x-token-auth with a password outside a URL.
	tokenAuth = regexp.MustCompile(`(?i)x-token-auth:[^\s@"']+`)
	// Authorization headers as servers and libraries quote them.
	authorization = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}`)
	oauthHeader   = regexp.MustCompile(`(?i)(x-forge-oauth-(?:system|user))["']?\s*[:=]\s*["'\[]*[^\s"'\],]+`)
)

// Scrub removes what looks like a credential from text that somebody else wrote: a server's answer, a library's error.
// It is a net below the rule that no secret gets into such text, not a replacement for it.
func Scrub(text string) string {
	// Most texts are short words of a log; a look at what each shape cannot do without costs less than the shapes.
	if strings.Contains(text, "://") && strings.IndexByte(text, '@') >= 0 {
		text = urlCredentials.ReplaceAllString(text, "${1}"+Redacted+"@")
	}
	if strings.Contains(text, "x-") || strings.Contains(text, "X-") {
		text = tokenAuth.ReplaceAllString(text, "x-token-auth:"+Redacted)
		text = oauthHeader.ReplaceAllString(text, "${1}: "+Redacted)
	}
	if strings.ContainsAny(text, " \t\n\f\r") {
		text = authorization.ReplaceAllString(text, "${1} "+Redacted)
	}
	if strings.Contains(text, "eyJ") {
		text = jwtShape.ReplaceAllString(text, Redacted)
	}
	return text
}
