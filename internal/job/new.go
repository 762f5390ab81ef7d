package job

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
)

// Options complete a request.
type Options struct {
	IdempotencyKey string // the caller's; empty for a job of its own
	Class          Class  // default: interactive
	Trace          Trace
	Now            time.Time

	// What a rule makes of an event: see the fields of [Job]. User is the account id of the user as whom the job acts, although that
	// user does not call.
	Rule, Event, Coalesce, User string
	HappenedAt                  time.Time
}

// New makes the job that a verified invocation asks for with a validated request, as [ActorOf] says; a rule's job acts as the app or as
// the user that the rule names, whoever caused the event.
//
// The id is a UUID: derived from installation, actor and idempotency key where there is one, so that the same key gives the
// same job; of version 7 otherwise.
func New(invocation forge.Invocation, request Request, options Options) (Job, error) {
	if invocation.Installation() == "" {
		return Job{}, fault.Newf(fault.Internal, "a job needs a verified invocation")
	}
	actor, requester := forge.Actor{Kind: forge.ActorSystem}, ""
	if options.Rule == "" {
		var err error
		if actor, err = ActorOf(invocation, request.Actor); err != nil {
			return Job{}, err
		}
		requester = invocation.Principal()
	}
	request.Actor = actor.Kind
	if options.User != "" {
		actor = forge.Actor{Kind: forge.ActorUser, Principal: options.User}
	}
	if request.OnExpiry == OnExpiryWait && actor.Kind != forge.ActorSystem && options.User == "" {
		return Job{}, fault.Newf(fault.Invalid, `on_expiry: "wait" is for the system actor: no scheduled trigger brings a user's token`)
	}
	if options.Class == "" {
		options.Class = ClassInteractive
	}
	digest, err := DigestOf(request, actor)
	if err != nil {
		return Job{}, err
	}
	id, err := newID(invocation.Installation(), actor, options.IdempotencyKey)
	if err != nil {
		return Job{}, err
	}
	return Job{
		ID: id, Installation: invocation.Installation(), Actor: actor, Requester: requester, Repository: request.Repository,
		OnExpiry: request.OnExpiry, Class: options.Class, CreatedAt: options.Now.UTC().Truncate(time.Millisecond),
		Trace: options.Trace, Rule: options.Rule, Event: options.Event, Coalesce: options.Coalesce, HappenedAt: options.HappenedAt.UTC().Truncate(time.Millisecond),
		Impersonate: options.User != "", Digest: digest, Clone: request.Clone, Push: request.Push,
	}, nil
}

// idSpace separates our derived UUIDs from everybody else's (RFC 9562, version 5).
var idSpace = uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://github.com/gitsmith/gitsmith#job"))

func newID(installation string, actor forge.Actor, key string) (string, error) {
	if key != "" {
		name := fmt.Sprintf("%q,%q,%q,%q", installation, actor.Kind, actor.Principal, key)
		return uuid.NewSHA1(idSpace, []byte(name)).String(), nil
	}
	id, err := uuid.NewV7()
	if err != nil {
		return "", fault.Wrapf(fault.Internal, err, "no job id could be made")
	}
	return id.String(), nil
}

// ActorOf returns the actor whose token does a call's work. A user acts as himself: what he asks for is never done with the app's own,
// wider rights, so "system" by a user is a Denied fault. A call that names no user comes from the app and acts as the app; "user" is an
// Invalid fault there.
func ActorOf(invocation forge.Invocation, asked forge.ActorKind) (forge.Actor, error) {
	user := invocation.Principal() != ""
	switch {
	case user && asked == forge.ActorSystem:
		return forge.Actor{}, fault.Newf(fault.Denied, `actor: a user's call cannot act as the app ("system"): leave actor out to act as that user, `+
			"or let a rule or a function of the app do it")
	case user:
		return invocation.Actor(forge.ActorUser), nil
	case asked == forge.ActorUser:
		return forge.Actor{}, fault.Newf(fault.Invalid, `actor: "user" needs a user in session, and this call has none; use "system", or call from the app's UI`)
	}
	return invocation.Actor(forge.ActorSystem), nil
}

// DigestOf is the hex SHA-256 of a normalised request and its actor.
func DigestOf(request any, actor forge.Actor) (string, error) {
	encoded, err := json.Marshal(struct {
		Request any
		Actor   forge.Actor
	}{request, actor})
	if err != nil {
		return "", fault.Wrapf(fault.Internal, err, "the request cannot be encoded")
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:]), nil
}
