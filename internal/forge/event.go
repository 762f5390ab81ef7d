package forge

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Event types of the app's own life. They start with avi:forge:, Bitbucket's with avi:bitbucket:.
const (
	EventInstalled = "avi:forge:installed:app"
	EventUpgraded  = "avi:forge:upgraded:app"
)

// Event is a body that Forge delivered, as far as it is read. It says what happened, never who calls: identity comes from the
// FIT. What is missing or of another type than documented is empty: an event refused is an event lost.
type Event struct {
	Type          string
	Timestamp     time.Time // zero where there is none
	SelfGenerated bool
	Workspace     string // UUID in braces
	Repository    string // UUID in braces
	Slug          string // of the repository; often empty
	RetryCount    int    // how often Forge delivered it before
	// Place is where the body had the eventType, such as "payload.eventType", or the object whose fields tell a lifecycle event without one,
	// such as "payload".
	Place string
	// Digest is the hex SHA-256 of the event as Fields has it: the same for each delivery of one event.
	Digest string
	// Fields is the whole event without what differs from delivery to delivery (retryContext, and contextToken, which is a token);
	// numbers are json.Number.
	Fields map[string]any
}

// Events of Bitbucket that mean something to us, whatever the rules say.
const (
	EventPush              = "avi:bitbucket:push:repository"
	EventRepositoryUpdated = "avi:bitbucket:updated:repository"
	EventRepositoryDeleted = "avi:bitbucket:deleted:repository"
)

const (
	maxEnvelope  = 3   // levels
	maxEventType = 200 // bytes
)

// ParseEvent finds the event in a body and reads it. Forge's documents wrap it in payload; remotes were seen to get it at the top
// level, in event, and in payload.event. A lifecycle event is also recognized without an eventType, which its documented fields do not
// include. Any other body without an eventType at one of these places is an Invalid fault; unknown types are fine.
func ParseEvent(body []byte) (Event, error) {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var outer map[string]any
	if err := decoder.Decode(&outer); err != nil {
		return Event{}, fault.Wrapf(fault.Invalid, err, "the event is no JSON object")
	}
	place := ""
	for range maxEnvelope {
		if kind := textOf(outer, "eventType"); kind != "" {
			return readEvent(kind, place+"eventType", outer)
		}
		if kind := lifecycleOf(outer); kind != "" {
			return readEvent(kind, cmp.Or(strings.TrimSuffix(place, "."), "the body"), outer)
		}
		name := "payload"
		if objectOf(outer, name) == nil {
			name = "event"
		}
		inner := objectOf(outer, name)
		if inner == nil {
			return Event{}, fault.Newf(fault.Invalid, "the body holds no eventType, neither at the top nor in payload, event or payload.event")
		}
		outer, place = inner, place+name+"."
	}
	return Event{}, fault.Newf(fault.Invalid, "the event is wrapped too deep")
}

// lifecycleOf is the type of a lifecycle event that names none: the documented fields are id, app, environment, and the account that
// installed or upgraded the app. Empty for anything else.
func lifecycleOf(fields map[string]any) string {
	switch {
	case textOf(fields, "id") == "" || textOf(objectOf(fields, "app"), "id") == "":
		return ""
	case textOf(fields, "upgraderAccountId") != "":
		return EventUpgraded
	}
	return EventInstalled
}

func readEvent(kind, place string, fields map[string]any) (Event, error) {
	if len(kind) > maxEventType {
		return Event{}, fault.Newf(fault.Invalid, "the eventType has %d bytes", len(kind))
	}
	retry := objectOf(fields, "retryContext")
	delete(fields, "retryContext")
	delete(fields, "contextToken")
	delete(objectOf(fields, "context"), "contextToken")
	digest, err := digestOf(fields)
	if err != nil {
		return Event{}, err
	}
	repository := objectOf(fields, "repository")
	event := Event{
		Type: kind, Workspace: textOf(objectOf(fields, "workspace"), "uuid"), Repository: textOf(repository, "uuid"),
		Slug: textOf(repository, "slug"), Place: place, Digest: digest, Fields: fields,
	}
	event.SelfGenerated, _ = fields["selfGenerated"].(bool)
	if count, ok := retry["retryCount"].(json.Number); ok {
		number, _ := count.Int64() // what is no whole number is no count
		event.RetryCount = int(max(min(number, 1<<20), 0))
	}
	if when, err := time.Parse(time.RFC3339Nano, textOf(fields, "timestamp")); err == nil {
		event.Timestamp = when.UTC()
	}
	return event, nil
}

func textOf(fields map[string]any, name string) string {
	text, _ := fields[name].(string)
	return text
}

func objectOf(fields map[string]any, name string) map[string]any {
	object, _ := fields[name].(map[string]any)
	return object
}

// digestOf hashes the event in a canonical form: keys sorted, numbers as they were written.
func digestOf(fields map[string]any) (string, error) {
	canonical, err := appendCanonical(make([]byte, 0, 2<<10), fields)
	if err != nil {
		return "", fault.Wrapf(fault.Internal, err, "the event cannot be encoded again")
	}
	sum := sha256.Sum256(append(canonical, '\n'))
	return hex.EncodeToString(sum[:]), nil
}

// appendCanonical writes what the decoder gave as encoding/json writes it without escaping HTML, in a third of the time: the digests of
// two versions must agree, for an event may reach both.
func appendCanonical(out []byte, value any) (_ []byte, err error) {
	switch value := value.(type) {
	case map[string]any:
		out = append(out, '{')
		for i, name := range slices.Sorted(maps.Keys(value)) {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = appendText(out, name); err != nil {
				return nil, err
			}
			if out, err = appendCanonical(append(out, ':'), value[name]); err != nil {
				return nil, err
			}
		}
		return append(out, '}'), nil
	case []any:
		out = append(out, '[')
		for i, each := range value {
			if i > 0 {
				out = append(out, ',')
			}
			if out, err = appendCanonical(out, each); err != nil {
				return nil, err
			}
		}
		return append(out, ']'), nil
	case string:
		return appendText(out, value)
	case json.Number:
		return append(out, value...), nil
	}
	return appendEncoded(out, value)
}

// appendText writes a string; one that needs no escape, as nearly all do, as it is.
func appendText(out []byte, text string) ([]byte, error) {
	for i := range len(text) {
		if char := text[i]; char < ' ' || char > '~' || char == '"' || char == '\\' {
			return appendEncoded(out, text)
		}
	}
	return append(append(append(out, '"'), text...), '"'), nil
}

func appendEncoded(out []byte, value any) ([]byte, error) {
	var encoded bytes.Buffer
	encoder := json.NewEncoder(&encoded)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return append(out, bytes.TrimSuffix(encoded.Bytes(), []byte("\n"))...), err
}

// Head is the commit that a push event left at its ref; empty for a ref that was deleted and for other events.
func (e Event) Head() string { return textOf(objectOf(e.Fields, "push"), "after") }

// isTag reports whether a push event has the form of a tag's, which says nothing of branches and commits. Jobs push no tags: a tag is
// somebody's word, on a commit of ours too.
func isTag(push map[string]any) bool {
	_, branch := push["mainbranch"]
	_, commits := push["commits"]
	return !branch && !commits
}

// JobTrailer begins the line of a commit message that names the job which made the commit.
const JobTrailer = "Forge-Job: "

// MayBeOurs reports whether a push may come from a job of ours: a commit's message says so, or no message was delivered whole.
// Anybody can write such a message, so it is a reason to look, not a proof.
func (e Event) MayBeOurs() bool {
	push := objectOf(e.Fields, "push")
	commits, _ := push["commits"].([]any)
	if e.Type != EventPush || textOf(push, "after") == "" || isTag(push) {
		return false
	}
	for _, each := range commits {
		commit, _ := each.(map[string]any)
		message := objectOf(commit, "message")
		truncated, _ := message["truncated"].(bool)
		if truncated || strings.Contains(textOf(message, "value"), JobTrailer) {
			return true
		}
	}
	return len(commits) == 0
}
