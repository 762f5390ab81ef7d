// Package installation keeps what is known of each installation of the app, in Redis: a small record, the names of its
// repositories, the commits that jobs of ours pushed, and when all of it is to be erased.
package installation

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// Options are what a [Store] can be told. The zero value is right for production.
type Options struct {
	EraseAfter time.Duration // from the removal to the end of all data; 30 days by default
	Interval   time.Duration // between scheduled triggers, as the manifest says; an hour by default
	Remember   time.Duration // how long a call that says nothing new is not written down; a minute by default, negative for never
	Now        func() time.Time
	Logger     *slog.Logger
}

// Store keeps installations. It may be used concurrently and by several processes on the same Redis.
type Store struct {
	redis redis.UniversalClient
	Options

	mutex sync.Mutex
	known map[string]seen // installations that were written down last
}

// seen is what a process wrote down of an installation.
type seen struct {
	at                   time.Time
	version, environment string
	token                time.Time
}

const (
	maxKnown = 10_000
	// late is for how long calls of a removed installation are taken for late deliveries: Forge delivers again for five minutes.
	late = 10 * time.Minute
	// pushedLife is how long a commit of ours is known. Events may lag minutes.
	pushedLife = 24 * time.Hour
	// missed is how many scheduled triggers may stay away before an installation whose tokens are refused counts as removed.
	missed = 3
)

// New makes a Store.
func New(client redis.UniversalClient, options Options) *Store {
	for _, each := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{{&options.EraseAfter, 30 * 24 * time.Hour}, {&options.Interval, time.Hour}, {&options.Remember, time.Minute}} {
		if *each.value == 0 {
			*each.value = each.fallback
		}
	}
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	return &Store{redis: client, Options: options, known: map[string]seen{}}
}

// State says whether the app is there.
type State string

// The states.
const (
	Active State = "active"
	Gone   State = "gone" // removed; what is known of it is erased at EraseAt
)

// Record is what is known of an installation. Times are zero where it has not happened.
type Record struct {
	ID, AppID, AppVersion, Environment, Workspace string
	State                                         State
	FirstSeen, LastSeen                           time.Time
	InstalledAt                                   time.Time // or upgraded
	TokenExpiresAt                                time.Time // of the newest system token that came
	TokenRefusedAt                                time.Time // Bitbucket's last no to a token that was alive
	LastScheduled                                 time.Time
	GoneAt, EraseAt                               time.Time
	TooOld                                        int // events that came too late to be acted on
	LastTooOld                                    time.Time
}

// Call is a verified call, as far as it says something of the installation. It can be kept and noted later.
type Call struct {
	ID             string    `json:"id"`
	At             time.Time `json:"at,omitzero"` // when it came; zero is now
	AppID          string    `json:"app,omitempty"`
	AppVersion     string    `json:"version,omitempty"`
	Environment    string    `json:"environment,omitempty"`
	Workspace      string    `json:"workspace,omitempty"`
	TokenExpiresAt time.Time `json:"token_expires,omitzero"` // of the system token that came along
	// What it was for.
	Installed bool `json:"installed,omitempty"` // or upgraded
	Scheduled bool `json:"scheduled,omitempty"`
	TooOld    bool `json:"too_old,omitempty"` // an event that is not acted on
}

// CallOf is what an invocation says of its installation.
func CallOf(invocation forge.Invocation) Call {
	return Call{
		ID: invocation.Installation(), AppID: invocation.AppID(), AppVersion: invocation.AppVersion(), Environment: invocation.Environment(),
		Workspace: invocation.WorkspaceID(), TokenExpiresAt: invocation.Token(forge.ActorSystem).ExpiresAt,
	}
}

// KEYS: record, gone. ARGV: when the call came, "1" for an event that was too old, then fields and values; empty values are left out.
// A call that waited in a spool, older than the last one, replaces nothing.
// Returns 0 where the installation was removed minutes ago or after the call, 2 where it was gone and is back, else 1.
var touchScript = redis.NewScript(`
if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
local have = redis.call('HMGET', KEYS[1], 'state', 'gone_at', 'last_seen')
local state = have[1]
if state == 'gone' and tonumber(ARGV[1]) <= tonumber(have[2] or 0) then return 0 end
redis.call('HSETNX', KEYS[1], 'first_seen', ARGV[1])
redis.call('HSET', KEYS[1], 'state', 'active')
local set = 'HSET'
if tonumber(have[3] or 0) > tonumber(ARGV[1]) then set = 'HSETNX' end
redis.call(set, KEYS[1], 'last_seen', ARGV[1])
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] ~= '' then redis.call(set, KEYS[1], ARGV[i], ARGV[i + 1]) end
end
if ARGV[2] == '1' then redis.call('HINCRBY', KEYS[1], 'too_old', 1) end
if state == 'gone' then
  redis.call('HDEL', KEYS[1], 'gone_at', 'erase_at')
  return 2
end
return 1`)

// Touch writes down that a verified call came. Calls that say nothing new cost nothing: only one a minute is written. It reports
// false where the app was removed minutes ago, or after the call came, so that the call is a late delivery and not to be acted on; a
// later one proves that the app is there.
func (s *Store) Touch(ctx context.Context, call Call) (bool, error) {
	now := call.At
	if now.IsZero() {
		now = s.Now()
	}
	mine := seen{at: now, version: call.AppVersion, environment: call.Environment, token: call.TokenExpiresAt}
	if !call.Installed && !call.Scheduled && !call.TooOld && s.knows(call.ID, mine) {
		return true, nil
	}
	fields := []any{
		"app", call.AppID, "version", call.AppVersion, "environment", call.Environment, "workspace", call.Workspace,
		"token_expires", milliseconds(call.TokenExpiresAt),
	}
	tooOld := "0"
	for field, happened := range map[string]bool{"installed": call.Installed, "scheduled": call.Scheduled, "last_too_old": call.TooOld} {
		if happened {
			fields = append(fields, field, milliseconds(now))
		}
	}
	if call.TooOld {
		tooOld = "1"
	}
	keys := []string{keyspace.Installation(call.ID).Record(), keyspace.Installation(call.ID).Gone()}
	state, err := touchScript.Run(ctx, s.redis, keys, append([]any{milliseconds(now), tooOld}, fields...)...).Int()
	if err != nil {
		return true, unavailable(err, "note the call")
	}
	if state == 0 {
		return false, nil
	}
	return true, s.remember(ctx, call, mine, state == 2)
}

func (s *Store) remember(ctx context.Context, call Call, mine seen, back bool) error {
	id := call.ID
	pipeline := s.redis.Pipeline()
	if call.Scheduled || call.Installed { // an install counts as the first: triggers are expected from then on
		pipeline.ZAddGT(ctx, keyspace.Scheduled, redis.Z{Score: float64(mine.at.UnixMilli()), Member: id})
	}
	if back {
		pipeline.ZRem(ctx, keyspace.Erasures, id)
		pipeline.ZRem(ctx, keyspace.Removed, id)
	}
	if pipeline.Len() > 0 {
		if _, err := pipeline.Exec(ctx); err != nil {
			return unavailable(err, "note the call")
		}
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.known) >= maxKnown {
		clear(s.known)
	}
	if s.known[id].at.Before(mine.at) {
		s.known[id] = mine
	}
	return nil
}

// knows reports whether the same was written down a moment ago.
func (s *Store) knows(id string, now seen) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	last, found := s.known[id]
	return found && now.at.Sub(last.at) < s.Remember && now.version == last.version && now.environment == last.environment && !now.token.After(last.token)
}

// Renew lets every call be written down again: it may be another Redis.
func (s *Store) Renew() {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	clear(s.known)
}

// Get is an installation's record, or a NotFound fault.
func (s *Store) Get(ctx context.Context, id string) (Record, error) {
	fields, err := s.redis.HGetAll(ctx, keyspace.Installation(id).Record()).Result()
	if err != nil {
		return Record{}, unavailable(err, "look up the installation")
	}
	if len(fields) == 0 {
		return Record{}, fault.Newf(fault.NotFound, "nothing is known of this installation yet")
	}
	when := func(field string) time.Time {
		number, err := strconv.ParseInt(fields[field], 10, 64)
		if err != nil || number == 0 {
			return time.Time{}
		}
		return time.UnixMilli(number).UTC()
	}
	tooOld, _ := strconv.Atoi(fields["too_old"]) // not there is none
	return Record{
		ID: id, AppID: fields["app"], AppVersion: fields["version"], Environment: fields["environment"], Workspace: fields["workspace"],
		State: State(fields["state"]), FirstSeen: when("first_seen"), LastSeen: when("last_seen"), InstalledAt: when("installed"),
		TokenExpiresAt: when("token_expires"), TokenRefusedAt: when("refused"), LastScheduled: when("scheduled"),
		GoneAt: when("gone_at"), EraseAt: when("erase_at"), TooOld: tooOld, LastTooOld: when("last_too_old"),
	}, nil
}

// Workspace is the UUID of the installation's workspace without braces; a NotFound fault where nobody knows it yet.
func (s *Store) Workspace(ctx context.Context, id string) (string, error) {
	workspace, err := s.redis.HGet(ctx, keyspace.Installation(id).Record(), "workspace").Result()
	if errors.Is(err, redis.Nil) {
		return "", fault.Newf(fault.NotFound, "the workspace of this installation is not known yet; its next call tells")
	}
	return workspace, unavailable(err, "look up the installation's workspace")
}

// Refused notes that Bitbucket refused a token of the installation that had not expired.
func (s *Store) Refused(ctx context.Context, id string) error {
	return unavailable(s.redis.HSet(ctx, keyspace.Installation(id).Record(), "refused", milliseconds(s.Now())).Err(), "note a refusal")
}

// Pushed remembers a commit that a job of ours pushed, for a day.
func (s *Store) Pushed(ctx context.Context, id, commit string) error {
	return unavailable(s.redis.Set(ctx, keyspace.Installation(id).Pushed(commit), 1, pushedLife).Err(), "remember a pushed commit")
}

// IsOurs reports whether the commit was pushed by a job of ours.
func (s *Store) IsOurs(ctx context.Context, id, commit string) (bool, error) {
	found, err := s.redis.Exists(ctx, keyspace.Installation(id).Pushed(commit)).Result()
	return found > 0, unavailable(err, "look up a pushed commit")
}

func milliseconds(when time.Time) string {
	if when.IsZero() {
		return ""
	}
	return strconv.FormatInt(when.UnixMilli(), 10)
}

func unavailable(err error, operation string) error {
	if err == nil {
		return nil
	}
	return fault.Wrapf(fault.Unavailable, err, "%s: redis cannot be reached now; try again", operation)
}
