package systemtest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/bench"
)

// seedVariable gives the seed of a run that is to be had again.
const seedVariable = "GITSMITH_SOAK_SEED"

func soakSeed(b *testing.B) uint64 {
	b.Helper()
	text := os.Getenv(seedVariable)
	if text == "" {
		return rand.Uint64()
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		b.Fatalf("%s: %v", seedVariable, err)
	}
	return seed
}

// soakBatchTrouble is 500 repositories on a bad day.
func soakBatchTrouble(b *testing.B) []bench.Table {
	day := badDay{repositories: 500, refused: 10, every: 100, spells: 30, spell: 2 * time.Second, seed: soakSeed(b)}
	r, p := day.run(b)
	r.check(b, day, p)
	summary := bench.Table{
		Title: "A batch over 500 repositories with pull requests, behind rate limits, broken connections and refusals",
		Header: []string{
			"repositories", "429 with Retry-After", "429 without", "connections reset", "succeeded", "commits", "pull requests", "duplicates", "lost", "failed",
			"asked again after a refusal", "ledger apart", "fsck", "polls that add up", "done after",
		},
		Note: fmt.Sprintf("After every 100 requests of git, and of REST, all are answered 429 for 2 s, 30 times each at most, every second time with Retry-After: 1. 2 %% of the requests lose their\n"+
			"connection: %d %s, %d %s, %d %s, %d %s, %d %s. One worker with 8 slots, 16 repositories at once. Seed %d.",
			p.broken[0], places[0], p.broken[1], places[1], p.broken[2], places[2], p.broken[3], places[3], p.broken[4], places[4], day.seed),
	}
	resets := 0
	for _, count := range p.broken {
		resets += count
	}
	var row []string
	for _, number := range []int{
		day.repositories, p.limited[0], p.limited[1], resets, r.succeeded, r.commits, r.pullRequests, r.duplicates, r.lost, r.failed, r.after, r.apart, r.unsound, r.polls,
	} {
		row = append(row, fmt.Sprint(number))
	}
	summary.Rows = [][]string{append(row, seconds(r.took))}
	groups := bench.Table{Title: "Its failures, as GET /v1/batches/{id} groups them", Header: []string{"repositories", "kind", "reason"}}
	for _, each := range r.groups {
		groups.Rows = append(groups.Rows, []string{fmt.Sprint(each.Count), each.Kind, each.Reason})
	}
	return []bench.Table{summary, groups}
}

// soakBatchKills is ten batches of 500 repositories.
func soakBatchKills(b *testing.B) []bench.Table {
	table := bench.Table{
		Title:  "A batch over 500 repositories with pull requests, everything killed at random, ten times",
		Header: append(append([]string{"run", "seed"}, victims[:]...), "polls", "unanswered", "succeeded", "commits", "pull requests", "duplicates", "lost", "ledger apart", "fsck", "done after"),
		Note: "SIGKILL at random times, 1 to 5 s apart, and a start at once: two workers with 4 slots each, the receiver, redis-server (append-only file, fsync every second). The columns of the\n" +
			"victims are how often each was killed. Where both workers are, the leases of what they did run out at once, as mayhem's do; what one alone did comes back by itself. At every\n" +
			"poll that was answered the totals added up. Apart: repositories whose place in the ledger is not their job's record's. fsck: repositories in which git fsck --strict finds a fault.\n" +
			"A run is had again, as far as the machine allows, by GITSMITH_SOAK_SEED.",
	}
	seed := soakSeed(b)
	for run := range 10 {
		k := slaughter{repositories: 500, most: 60, pause: 5 * time.Second, seed: seed + uint64(run)}
		r := k.run(b)
		r.check(b, k)
		table.Rows = append(table.Rows, r.row(fmt.Sprint(run+1), k))
		fmt.Printf("%q %+v\n", table.Rows[run], r.groups) // a line as soon as it is known, for the ten take a quarter of an hour
	}
	return []bench.Table{table}
}

// soakBatchToken is 300 repositories whose token ends when a fifth of them is done.
func soakBatchToken(b *testing.B) []bench.Table {
	table := bench.Table{
		Title:  "A batch over 300 repositories whose system token runs out in the middle",
		Header: []string{"it runs out", "done by then", "waiting", "not begun", "failed or expired", "succeeded", "duplicates", "lost", "ledger apart", "from the trigger to the end"},
	}
	for _, row := range []struct {
		name string
		expiry
	}{
		{"within the worker's margin", expiry{repositories: 300, before: 60, life: 50 * time.Second}},
		{"under what git was asked", expiry{repositories: 300, before: 60, life: 50 * time.Second, hard: true}},
	} {
		r := row.run(b)
		r.check(b, row.expiry)
		table.Note = "While it is paused its reason is: " + r.reason + ".\nPOST /forge/schedule with a new token lets it go on. One worker with 4 slots."
		table.Rows = append(table.Rows, []string{
			row.name, fmt.Sprint(r.done), fmt.Sprint(r.waiting), fmt.Sprint(r.queued), fmt.Sprint(row.repositories - r.done - r.waiting - r.queued), fmt.Sprint(r.succeeded),
			fmt.Sprint(r.duplicates), fmt.Sprint(r.lost), fmt.Sprint(r.apart), fmt.Sprintf("%.1f s", r.seconds),
		})
	}
	return []bench.Table{table}
}
