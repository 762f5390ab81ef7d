// Package keyspace spells every Redis key and channel that Gitsmith uses. No other package does; archtest checks that.
//
// A key that belongs to an installation carries its id as hash tag, so that one script can touch all of an installation's keys on a Redis
// Cluster. The remaining keys are about all installations, and a Cluster may keep each of them elsewhere: no script touches one of them
// together with an installation's.
package keyspace

import (
	"hash/fnv"
	"strconv"
	"strings"
)

// Keys that are about all installations.
const (
	ActiveBatches = "gitsmith:batches:active" // sorted set of the batches that have not ended, by when one was last asked for
	RecentBatches = "gitsmith:batches:recent" // sorted set of the newest batches, by creation time
	Scheduled     = "gitsmith:scheduled"      // sorted set of the installations, by their last scheduled trigger
	Erasures      = "gitsmith:erasures"       // sorted set of the installations, by when their data is to be erased
	Removed       = "gitsmith:removed"        // sorted set of the installations, by when the app was removed
	Erased        = "gitsmith:erased"         // sorted set of the installations, by when their data was erased
	Quarantine    = "gitsmith:quarantine"     // list of the newest tasks that could not be decoded
	Writable      = "gitsmith:writable"       // written and deleted to see whether Redis takes writes
	Exchanges     = "gitsmith:exchanges"      // budget of token exchanges; redis_rate puts "rate:" before it
)

// Channels.
const (
	CancelChannel = "gitsmith:cancel"       // jobs that somebody canceled
	BatchChannel  = "gitsmith:batches:wake" // batches that can advance at once
)

// Queue is the name of asynq's queue for the tickets of a class. Versions whose tasks held the jobs themselves used the class's name.
func Queue(class string) string { return "jobs-" + class }

// Shards is how many parts the set of live installations has, so that several processes can look at it without meeting.
const Shards = 8

// Live is a sorted set of the installations of a shard that have jobs which have not ended, by when somebody is to look at them.
func Live(shard int) string { return "gitsmith:live:" + strconv.Itoa(shard) }

// Lease names the process that looks at the installations of a shard.
func Lease(shard int) string { return "gitsmith:lease:" + strconv.Itoa(shard) }

// ShardOf is the shard of an installation.
func ShardOf(installation string) int {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(installation)) // it never fails
	return int(sum.Sum32() % Shards)
}

// WritableOf is Writable on the master of a Cluster that holds the queue.
func WritableOf(queue string) string { return "gitsmith:{" + queue + "}:writable" }

// names are how the keys that scripts make themselves are called behind the installation's prefix. One that ends with a colon is
// followed by what the key is about.
var names = map[string]string{
	"job":       "job:",
	"payload":   "payload:",
	"jobs":      "jobs",
	"asleep":    "asleep",
	"wakes":     "wakes",
	"woken":     "woken",
	"old_slots": "slots:", "old_parked": "parked:", "old_waiting": "waiting", // of versions before tickets, whose jobs are adopted
	"held":    "held:",
	"line":    "line:",
	"due":     "due",
	"newest":  "newest:",
	"gone":    "gone",
	"batches": "batches",
	"batch":   "batch:",
}

// Name is how a key is called behind its installation's prefix, for scripts, which make keys from both. It panics for one that is not
// there.
func Name(what string) string {
	name, found := names[what]
	if !found {
		panic("keyspace: there is no key " + what)
	}
	return name
}

// Installation is an installation's id, from which its keys are made.
type Installation string

func (i Installation) key(name string) string { return "gitsmith:{" + string(i) + "}:" + name }

// Prefix is what the installation's keys begin with. It is no key; scripts take it for one, so that a Cluster finds their node.
func (i Installation) Prefix() string { return i.key("") }

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
func (i Installation) Gone() string { return i.key(names["gone"]) }

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
func (i Installation) Job(id string) string { return i.key(names["job"] + id) }

// JobOf is the installation and the id of the job whose record the key is.
func JobOf(key string) (installation, id string) {
	installation, id, _ = strings.Cut(strings.TrimPrefix(key, "gitsmith:{"), "}:job:")
	return installation, id
}

// InstallationOf is the installation that a key belongs to, empty for one that belongs to none.
func InstallationOf(key string) string {
	_, rest, _ := strings.Cut(key, "{")
	installation, _, found := strings.Cut(rest, "}:")
	if !found {
		return ""
	}
	return installation
}

// LivePatterns are globs for SCAN: an installation that has a job which has not ended has a key that matches.
func LivePatterns() []string {
	all := Installation("*")
	return []string{all.Due(), all.Held("*"), all.Line("*")}
}

// Payload is what a job that ended without success was asked to do, sealed.
func (i Installation) Payload(job string) string { return i.key(names["payload"] + job) }

// Jobs is a sorted set of the jobs, by creation time.
func (i Installation) Jobs() string { return i.key(names["jobs"]) }

// Asleep is a sorted set of the jobs that wait for a token, by creation time.
func (i Installation) Asleep() string { return i.key(names["asleep"]) }

// Wakes counts how often the jobs that wait for a token were to be woken.
func (i Installation) Wakes() string { return i.key(names["wakes"]) }

// Woken is the count of wakes up to which the jobs that wait were queued.
func (i Installation) Woken() string { return i.key(names["woken"]) }

// Held is a sorted set of the class's jobs that hold a slot: of those that have not begun by when their ticket was issued, of the others
// infinite.
func (i Installation) Held(class string) string { return i.key(names["held"] + class) }

// Line is a sorted set of the class's jobs that have no slot yet, by creation time.
func (i Installation) Line(class string) string { return i.key(names["line"] + class) }

// Due is a sorted set of the jobs that run, by when their lease runs out, and of those that were put off, by when they are to be looked at.
func (i Installation) Due() string { return i.key(names["due"]) }

// Newest names the newest event's job among those that replace each other.
func (i Installation) Newest(what string) string { return i.key(names["newest"] + what) }

// Batches is a sorted set of the batches, by creation time.
func (i Installation) Batches() string { return i.key(names["batches"]) }

// Batch is a batch's keys.
func (i Installation) Batch(id string) Batch { return Batch(i.key(names["batch"] + id)) }

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
