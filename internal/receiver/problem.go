package receiver

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// problem is a refusal that HTTP itself has a status for, beside the kinds of fault.
type problem struct {
	status int
	title  string
	detail string
}

func (p problem) Error() string { return p.detail }

// problemView is an RFC 9457 answer.
type problemView struct {
	Type    string `json:"type"`
	Title   string `json:"title"`
	Status  int    `json:"status"`
	Detail  string `json:"detail"`
	Kind    string `json:"kind"`
	TraceID string `json:"trace_id,omitempty"`
}

// unavailableWait is what callers are told to wait where nobody knows better. Forge does not document that it honours it.
const unavailableWait = 5 * time.Second

// answerProblem answers with a problem, whatever went wrong: a fault, one of echo's own errors, or anything else.
func (r *receiver) answerProblem(err error, c echo.Context) {
	if c.Response().Committed {
		return // an archive that broke off; the connection says so
	}
	view := viewOfError(err)
	view.TraceID, _ = telemetry.TraceOf(c.Request().Context())
	header := c.Response().Header()
	header.Set("Content-Type", problemType(c.Request().Header.Get("Accept")))
	header.Set("Cache-Control", "no-store")
	wait := fault.RetryAfter(err)
	if wait == 0 && view.Status == http.StatusServiceUnavailable {
		wait = unavailableWait
	}
	if wait > 0 {
		header.Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	if view.Status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", "Bearer")
	}
	c.Response().WriteHeader(view.Status)
	if c.Request().Method != http.MethodHead {
		_ = json.NewEncoder(c.Response()).Encode(view) // whoever went away needs no answer
	}
}

// problemType is application/problem+json, as RFC 9457 has it, for a caller that names it. Anybody else gets application/json: the
// bridge's invokeRemote rejects a refusal of another type, and its text is lost (Atlassian, "invokeRemote").
func problemType(accept string) string {
	if strings.Contains(accept, "application/problem+json") {
		return "application/problem+json"
	}
	return "application/json"
}

// asksForJSON reports whether the caller takes application/json, or anything, and does not name a problem's own type. Such is a
// frontend behind invokeRemote, which is handed nothing but JSON, and no refusal of another type (Forge's documentation of it).
func asksForJSON(accept string) bool {
	return (strings.Contains(accept, "application/json") || strings.Contains(accept, "*/*")) && !strings.Contains(accept, "application/problem+json")
}

func viewOfError(err error) problemView {
	var refused problem
	var routing *echo.HTTPError
	switch {
	case errors.As(err, &refused):
	case errors.As(err, &routing) && routing.Code == http.StatusMethodNotAllowed:
		refused = problem{routing.Code, "Method not allowed", "this route takes other methods; the header Allow and /openapi.yaml name them"}
	case errors.As(err, &routing) && routing.Code == http.StatusNotFound:
		refused = problem{routing.Code, "Not found", "there is no such route; /openapi.yaml lists those that there are"}
	default:
		kind := fault.KindOf(err)
		return problemView{
			Type: "urn:gitsmith:problem:" + kind.String(), Title: kind.Problem().Title, Status: kind.Problem().Status,
			Detail: fault.Public(err), Kind: kind.String(),
		}
	}
	kind := fault.Invalid
	if refused.status == http.StatusNotFound {
		kind = fault.NotFound
	}
	return problemView{Type: "urn:gitsmith:problem:" + kind.String(), Title: refused.title, Status: refused.status, Detail: refused.detail, Kind: kind.String()}
}
