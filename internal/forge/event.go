package forge

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Event types of the app's own life. They start with avi:forge:, Bitbucket's with avi:bitbucket:.
const (
	EventInstalled = "avi:forge:installed:app"
	EventUpgraded  = "avi:forge:upgraded:app"
)

// Event is a body that Forge delivered, as far as it is read. It says what happened, never who calls: identity comes from the
// FIT.
type Event struct {
	Type          string
	Timestamp     time.Time // zero where there is none
	SelfGenerated bool
	Workspace     string // UUID in braces
	Repository    string // UUID in braces
	Slug          string // of the repository; often empty
	RetryCount    int    // how often Forge delivered it before
	// Digest is the hex SHA-256 of the event without its retryContext: the same for each delivery of one event.
	Digest string
}

// envelope is where an event may stand: Forge's documents wrap it in payload, remotes were seen to get it at the top level, in
// event, and in payload.event.
type envelope struct {
	Payload json.RawMessage `json:"payload"`
	Event   json.RawMessage `json:"event"`
	Type    string          `json:"eventType"`
}

const maxEnvelope = 3 // levels

// ParseEvent finds the event in a body and reads it. A body without an eventType at any of the known places is an Invalid
// fault; types that nobody knows are fine.
func ParseEvent(body []byte) (Event, error) {
	for range maxEnvelope {
		var outer envelope
		if err := json.Unmarshal(body, &outer); err != nil {
			return Event{}, fault.Wrapf(fault.Invalid, err, "the event is no JSON object")
		}
		switch {
		case outer.Type != "":
			return readEvent(body)
		case isObject(outer.Payload):
			body = outer.Payload
		case isObject(outer.Event):
			body = outer.Event
		default:
			return Event{}, fault.Newf(fault.Invalid, "the body holds no eventType, neither at the top nor in payload, event or payload.event")
		}
	}
	return Event{}, fault.Newf(fault.Invalid, "the event is wrapped too deep")
}

func isObject(text json.RawMessage) bool { return len(text) > 0 && text[0] == '{' }

func readEvent(text []byte) (Event, error) {
	var read struct {
		Type          string `json:"eventType"`
		Timestamp     string `json:"timestamp"`
		SelfGenerated bool   `json:"selfGenerated"`
		Workspace     struct {
			UUID string `json:"uuid"`
		} `json:"workspace"`
		Repository struct {
			UUID string `json:"uuid"`
			Slug string `json:"slug"`
		} `json:"repository"`
		RetryContext struct {
			RetryCount int `json:"retryCount"`
		} `json:"retryContext"`
	}
	if err := json.Unmarshal(text, &read); err != nil {
		return Event{}, fault.Wrapf(fault.Invalid, err, "the event's fields are not of the documented types")
	}
	if len(read.Type) > 200 {
		return Event{}, fault.Newf(fault.Invalid, "the eventType has %d bytes", len(read.Type))
	}
	digest, err := digestOf(text)
	if err != nil {
		return Event{}, err
	}
	event := Event{
		Type: read.Type, SelfGenerated: read.SelfGenerated, Workspace: read.Workspace.UUID, Repository: read.Repository.UUID,
		Slug: read.Repository.Slug, RetryCount: read.RetryContext.RetryCount, Digest: digest,
	}
	if when, err := time.Parse(time.RFC3339Nano, read.Timestamp); err == nil {
		event.Timestamp = when.UTC()
	}
	return event, nil
}

// digestOf hashes the event in a canonical form: keys sorted, numbers as they were written, no retryContext.
func digestOf(text []byte) (string, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var fields map[string]any
	if err := decoder.Decode(&fields); err != nil {
		return "", fault.Wrapf(fault.Invalid, err, "the event is no JSON object")
	}
	delete(fields, "retryContext")
	canonical, err := json.Marshal(fields)
	if err != nil {
		return "", fault.Wrapf(fault.Internal, err, "the event cannot be encoded again")
	}
	sum := sha256.Sum256(canonical)
	return hex.EncodeToString(sum[:]), nil
}
