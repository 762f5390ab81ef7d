// Package keyspace spells every Redis key and channel that Gitsmith uses. No other package does; archtest checks that.
//
// A key that belongs to an installation carries its id as hash tag, so that one script can touch all of an installation's keys on a Redis
// Cluster. The remaining keys are about all installations, and a Cluster may keep each of them elsewhere: no script touches one of them
// together with an installation's.
package keyspace

import "strings"

// Keys that are about all installations.
const (
	Parked        = "gitsmith:parked"         // set of the installations that have parked jobs
	ActiveBatches = "gitsmith:batches:active" // sorted set of the batches that have not ended, by when one was last asked for
	RecentBatches = "gitsmith:batches:recent" // sorted set of the newest batches, by creation time
	Scheduled     = "gitsmith:scheduled"      // sorted set of the installations, by their last scheduled trigger
	Erasures      = "gitsmith:erasures"       // sorted set of the installations, by when their data is to be erased
	Removed       = "gitsmith:removed"        // sorted set of the installations, by when the app was removed
	Erased        = "gitsmith:erased"         // sorted set of the installations, by when their data was erased
	Quarantine    = "gitsmith:quarantine"     // list of the newest tasks that could not be decoded
	Lost          = "gitsmith:lost"           // set of the jobs whose task is lost, until they have ended
	Writable      = "gitsmith:writable"       // written and deleted to see whether Redis takes writes
	Exchanges     = "gitsmith:exchanges"      // budget of token exchanges; redis_rate puts "rate:" before it
)

// Channels.
const (
	CancelChannel = "gitsmith:cancel"       // jobs that somebody canceled
	BatchChannel  = "gitsmith:batches:wake" // batches that can advance at once
)

// WritableOf is Writable on the master of a Cluster that holds the queue of the class.
func WritableOf(class string) string { return "gitsmith:{" + class + "}:writable" }

// Installation is an installation's id, from which its keys are made.
type Installation string

func (i Installation) key(name string) string { return "gitsmith:{" + string(i) + "}:" + name }

// Owns reports whether the key has the installation as hash tag, be it a key of this package or one that redis_rate made of it.
func (i Installation) Owns(key string) bool {
	_, rest, found := strings.Cut(key, "{") // the first brace opens the tag, whatever a name further back looks like
	return found && strings.HasPrefix(rest, string(i)+"}:")
}

// Pattern is a glob for SCAN that matches every key that the installation owns, and possibly others: ask Owns. Characters of the id that
// mean something in a glob are taken literally; a real id holds none.
func (i Installation) Pattern() string {
	var literal strings.Builder
	for _, c := range []byte(i) {
		if strings.IndexByte(`*?[]\^-`, c) >= 0 {
			literal.WriteByte('\\')
		}
		literal.WriteByte(c)
	}
	return "*{" + literal.String() + "}:*"
}

// Record is a hash: what is known of the installation.
func (i Installation) Record() string { return i.key("installation") }

// Gone is there while nothing may be kept or queued for the installation, because the app was removed.
func (i Installation) Gone() string { return i.key("gone") }

// Installed is there for a while after an install or an upgrade.
func (i Installation) Installed() string { return i.key("installed") }

// Token is an actor's current OAuth token, sealed. actor is "system" or "user:" and an account id.
func (i Installation) Token(actor string) string { return i.key("token:" + actor) }

// TokenBefore is the token that was current before, sealed.
func (i Installation) TokenBefore(actor string) string { return i.key("token:before:" + actor) }

// TokenRefused is a sorted set of the ids of the actor's tokens that Bitbucket rejected.
func (i Installation) TokenRefused(actor string) string { return i.key("token:refused:" + actor) }

// Tokens is a sorted set of the actors that have a token, by its expiry.
func (i Installation) Tokens() string { return i.key("tokens") }

// Git is the budget of git requests; redis_rate puts "rate:" before it.
func (i Installation) Git() string { return i.key("git") }

// Pushed is there for a while after a commit was pushed.
func (i Installation) Pushed(commit string) string { return i.key("pushed:" + commit) }

// Name is the workspace and slug of a repository, by its UUID.
func (i Installation) Name(uuid string) string { return i.key("name:" + uuid) }

// NearLimit is there for a while after Bitbucket's API said that its rate limit is near.
func (i Installation) NearLimit() string { return i.key("near_limit") }

// Job is a hash: a job's record.
func (i Installation) Job(id string) string { return i.key("job:" + id) }

// JobOf is the installation and the id of the job whose record the key is.
func JobOf(key string) (installation, id string) {
	installation, id, _ = strings.Cut(strings.TrimPrefix(key, "gitsmith:{"), "}:job:")
	return installation, id
}

// Payload is what a job that ended without success was asked to do, sealed.
func (i Installation) Payload(job string) string { return i.key("payload:" + job) }

// Jobs is a sorted set of the jobs, by creation time.
func (i Installation) Jobs() string { return i.key("jobs") }

// Waiting is a sorted set of the jobs that wait for a token.
func (i Installation) Waiting() string { return i.key("waiting") }

// Wakes counts how often the waiting jobs were woken.
func (i Installation) Wakes() string { return i.key("wakes") }

// Slots is a sorted set of the class's jobs that are queued or running.
func (i Installation) Slots(class string) string { return i.key("slots:" + class) }

// Parked is a sorted set of the class's jobs that have no slot yet.
func (i Installation) Parked(class string) string { return i.key("parked:" + class) }

// Newest names the newest event's job among those that replace each other.
func (i Installation) Newest(what string) string { return i.key("newest:" + what) }

// Batches is a sorted set of the batches, by creation time.
func (i Installation) Batches() string { return i.key("batches") }

// Batch is a batch's keys.
func (i Installation) Batch(id string) Batch { return Batch(i.key("batch:" + id)) }

// Repository is a repository's keys. name is what the job calls it.
func (i Installation) Repository(name string) Repository {
	return Repository(i.key("repository:" + name))
}

// Batch is the first of a batch's keys; the scripts make the others from it.
type Batch string

// Root is a hash: the batch's own record.
func (b Batch) Root() string { return string(b) }

// Spec is what the batch pushes, sealed.
func (b Batch) Spec() string { return string(b) + ":spec" }

// Items is a hash of the batch's repositories, by number.
func (b Batch) Items() string { return string(b) + ":items" }

// State is a sorted set of the numbers of the repositories in the state.
func (b Batch) State(state string) string { return string(b) + ":" + state }

// Ends is a list of when the last repositories ended.
func (b Batch) Ends() string { return string(b) + ":ends" }

// Tick is the lease of the worker that advances the batch.
func (b Batch) Tick() string { return string(b) + ":tick" }

// Page is the lease of the worker that reads the next page of the batch's query.
func (b Batch) Page() string { return string(b) + ":page" }

// Repository is what a repository's keys begin with.
type Repository string

// Lock is held by the one job that may push.
func (r Repository) Lock() string { return string(r) + ":lock" }

// Fence counts how often the lock was taken.
func (r Repository) Fence() string { return string(r) + ":fence" }

// Intent is the commit that a job is about to push.
func (r Repository) Intent(job string) string { return string(r) + ":intent:" + job }
