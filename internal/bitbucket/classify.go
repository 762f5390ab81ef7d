package bitbucket

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// The scopes of the REST calls, as the manifest's permissions.scopes spell them.
const (
	scopeReadRepository   = "read:repository:bitbucket"
	scopeReadPullRequest  = "read:pullrequest:bitbucket"
	scopeWritePullRequest = "write:pullrequest:bitbucket"
)

// maxRetryAfter bounds what a server can make us wait: Bitbucket counts over a rolling hour.
const maxRetryAfter = time.Hour

// maxQuote bounds what is quoted of a server's own words, in bytes.
const maxQuote = 200

// classifyTransport gives the kind to a call that brought no answer. The end of the caller's ctx keeps its own.
func (call call) classifyTransport(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", call.operation, context.Cause(ctx))
	}
	return fault.Wrapf(fault.Unavailable, err, "%s: bitbucket cannot be reached, or broke off; try again", call.operation)
}

// classifyAnswer gives the kind to an answer other than 2xx. What a refusal means is in Atlassian's documentation of the REST
// API and of its rate limits; an answer for a missing repository and for a missing permission may be the same.
func (call call) classifyAnswer(response *http.Response, body []byte, now time.Time) error {
	said := quote(body)
	cause := fmt.Errorf("bitbucket answered %d: %q", response.StatusCode, said)
	classified := func(kind fault.Kind, format string, args ...any) *fault.Error {
		return fault.Wrapf(kind, cause, "%s: %s", call.operation, fmt.Sprintf(format, args...))
	}
	switch status := response.StatusCode; {
	case status == http.StatusUnauthorized:
		cause = errors.Join(fault.ErrTokenRefused, cause)
		return classified(fault.Denied, "bitbucket refused the oauth token (401): it was revoked, or the app lacks the scope %s; add the scope to permissions.scopes in the manifest, deploy, let the workspace approve the new version, then retry with a new invocation", call.scope)
	case status == http.StatusForbidden:
		return classified(fault.Denied, "bitbucket does not allow it (403): the app lacks the scope %s, or the token's holder lacks access to the repository; add the scope to permissions.scopes in the manifest, deploy and let the workspace approve the new version, or grant the access", call.scope)
	case status == http.StatusNotFound, status == http.StatusGone:
		return classified(fault.NotFound, "bitbucket knows no such %s, or the token's holder may not see it; check the name and who has access", cmp.Or(call.thing, "repository"))
	case status == http.StatusConflict:
		return classified(fault.Conflict, "something else changed it at the same time%s; try again", said.public())
	case status == http.StatusTooManyRequests:
		throttled := classified(fault.Throttled, "bitbucket's rate limit is reached; it is tried again later")
		throttled.RetryAfter = retryAfter(response.Header.Get("Retry-After"), now)
		return throttled
	case status/100 == 3:
		return classified(fault.Unavailable, "bitbucket redirects to another host, which is not followed; check GITSMITH_API_URL")
	case status/100 == 4:
		return classified(fault.Invalid, "bitbucket refused the request (%d)%s; correct it and send it again", status, said.public())
	}
	return classified(fault.Unavailable, "bitbucket failed (%d); try again", response.StatusCode)
}

// retryAfter reads seconds or a date (RFC 9110, 10.2.3); zero where there is neither.
func retryAfter(header string, now time.Time) time.Duration {
	var wait time.Duration
	if seconds, err := strconv.ParseUint(strings.TrimSpace(header), 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		wait = at.Sub(now)
	}
	return min(max(wait, 0), maxRetryAfter)
}

// words are what a server said, made harmless: one bounded line without credentials.
type words string

// public is how a public text goes on with the words; nothing where there are none.
func (w words) public() string {
	if w == "" {
		return ""
	}
	return fmt.Sprintf(": it says %q", string(w))
}

// quote takes the message out of Bitbucket's error document; of any other answer it takes nothing.
func quote(body []byte) words {
	var document struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &document) != nil {
		return ""
	}
	line := strings.Map(func(char rune) rune {
		if !unicode.IsPrint(char) {
			return ' '
		}
		return char
	}, secret.Scrub(document.Error.Message))
	line = strings.Join(strings.Fields(line), " ")
	if len(line) > maxQuote {
		line = strings.ToValidUTF8(line[:maxQuote], "") + "…"
	}
	return words(line)
}
