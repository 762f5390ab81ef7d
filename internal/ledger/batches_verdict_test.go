package ledger

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// a batch as a case of the table finds it, and what its script is given.
type verdictCase struct {
	script *script
	root   []any          // fields of the batch; nil where there is none
	items  batchItems     // numbers by state
	gone   bool           // the app was removed
	args   []any          // without the id, which comes first
	rest   []any          //
	want   string         // the answer, joined by spaces
	state  batch.State    // after it; empty where there is no batch
	after  map[string]int // how many are in each state after it
}

type batchItems map[batch.ItemState][]int

// The clock of the table, and a root that runs.
const tableNow = 1_800_000_000_000

func running(total int, more ...any) []any {
	return append([]any{"digest", "d", "state", "running", "resolved", 1, "total", total, "concurrency", 2, "created", tableNow, "actor", "user", "principal", "alice"}, more...)
}

func writing(more ...any) []any {
	return append(running(3, more...), "state", "writing", "resolved", 0, "plan", "p", "written", "2")
}

func resolving(more ...any) []any {
	return running(0, append([]any{"state", "resolving", "resolved", 0}, more...)...)
}

func createArgs(plan string) []any { return []any{"mine", "d", tableNow, 60_000, "spec", plan, 8} }

// offer are jobs of repositories as batch_take takes them.
func offer(numbers ...int) (rest []any) {
	for _, number := range numbers {
		rest = append(rest, number, fmt.Sprint("job", number), "payload", 4, "state", "queued", "generation", 0)
	}
	return rest
}

func takeArgs(hold string) []any { return []any{tableNow, hold, 100, 1000, 0, 60_000, "", 10} }

// rootFields are what batch_create is given as the batch's fields.
func rootFields(entries ...any) []any {
	return append([]any{"digest", "d", "state", "running", "resolved", 1, "total", 3}, entries...)
}

var verdicts = map[string]verdictCase{
	"create a small one":         {script: batchCreateScript, args: createArgs(""), rest: rootFields("e0", "e1"), want: "made 2", state: batch.StateRunning, after: map[string]int{"pending": 2}},
	"create an empty one":        {script: batchCreateScript, args: createArgs(""), rest: rootFields(), want: "made 0", state: batch.StateRunning},
	"create a large one":         {script: batchCreateScript, args: createArgs("p"), rest: rootFields("e0", "e1"), want: "writing 2", state: batch.StateWriting, after: map[string]int{"pending": 2}},
	"create it again":            {script: batchCreateScript, root: running(1), args: createArgs(""), rest: rootFields("e0"), want: "there 0", state: batch.StateRunning},
	"create it, sent twice":      {script: batchCreateScript, root: running(1, "call", "mine"), args: createArgs(""), rest: rootFields("e0"), want: "made 0", state: batch.StateRunning},
	"create another":             {script: batchCreateScript, root: running(1, "digest", "other"), args: createArgs(""), rest: rootFields("e0"), want: "another 0", state: batch.StateRunning},
	"create another, unfinished": {script: batchCreateScript, root: writing("digest", "other"), args: createArgs("p"), rest: rootFields("e0"), want: "another 0", state: batch.StateWriting},
	"create for a removed app":   {script: batchCreateScript, gone: true, args: createArgs(""), rest: rootFields("e0"), want: "gone 0"},
	"create what broke off": {
		script: batchCreateScript, root: writing(), items: batchItems{batch.Pending: {0, 1}}, args: createArgs("p"), rest: rootFields("e0"), want: "writing 2", state: batch.StateWriting, after: map[string]int{"pending": 2},
	},
	"create with another plan": {
		script: batchCreateScript, root: writing(), items: batchItems{batch.Pending: {0, 1}}, args: createArgs("q"), rest: rootFields("e0"), want: "writing 1", state: batch.StateWriting, after: map[string]int{"pending": 1},
	},
	"write a piece": {
		script: batchWriteScript, root: writing(), items: batchItems{batch.Pending: {0, 1}}, args: []any{"mine", "d", "p", 2, 5}, rest: []any{"e2", "e3"}, want: "writing 4", state: batch.StateWriting, after: map[string]int{"pending": 4},
	},
	"write the last piece": {
		script: batchWriteScript, root: writing(), items: batchItems{batch.Pending: {0, 1}}, args: []any{"mine", "d", "p", 2, 3}, rest: []any{"e2"}, want: "made 3", state: batch.StateRunning, after: map[string]int{"pending": 3},
	},
	"write what another has written": {script: batchWriteScript, root: writing(), args: []any{"mine", "d", "p", 0, 3}, rest: []any{"e0"}, want: "writing 2", state: batch.StateWriting},
	"write after the last":           {script: batchWriteScript, root: running(3), args: []any{"mine", "d", "p", 2, 3}, rest: []any{"e2"}, want: "there 0", state: batch.StateRunning},
	"write to another plan":          {script: batchWriteScript, root: writing("plan", "q"), args: []any{"mine", "d", "q", 2, 3}, rest: []any{"e2"}, want: "lost 0", state: batch.StateWriting},
	"write to what was removed":      {script: batchWriteScript, args: []any{"mine", "d", "p", 2, 3}, rest: []any{"e2"}, want: "lost 0"},
	"write for a removed app":        {script: batchWriteScript, root: writing(), gone: true, args: []any{"mine", "d", "p", 2, 3}, rest: []any{"e2"}, want: "gone 0", state: batch.StateWriting},

	"abandon one that is written": {script: batchAbandonScript, root: writing(), items: batchItems{batch.Pending: {0}}, want: "abandoned"},
	"abandon one that runs":       {script: batchAbandonScript, root: running(1), items: batchItems{batch.Pending: {0}}, want: "kept", state: batch.StateRunning, after: map[string]int{"pending": 1}},
	"abandon none":                {script: batchAbandonScript, want: "kept"},

	"take from none":                {script: batchTakeScript, args: takeArgs(""), want: "none"},
	"take from one that is written": {script: batchTakeScript, root: writing(), items: batchItems{batch.Pending: {0}}, args: takeArgs(""), want: "writing", state: batch.StateWriting, after: map[string]int{"pending": 1}},
	"take": {
		script: batchTakeScript, root: running(3), items: batchItems{batch.Pending: {0, 1, 2}}, args: takeArgs(""), rest: offer(0, 1), want: "going running 2  job0 job1", state: batch.StateRunning, after: map[string]int{"pending": 1, "queued": 2},
	},
	"take more than is offered": {
		script: batchTakeScript, root: running(3), items: batchItems{batch.Pending: {0, 1, 2}}, args: takeArgs(""), rest: offer(0), want: "going running 1 more job0", state: batch.StateRunning, after: map[string]int{"pending": 2, "queued": 1},
	},
	"take less than is offered": {
		script: batchTakeScript, root: running(3), items: batchItems{batch.Pending: {0, 1, 2}}, args: takeArgs(""), rest: offer(0, 1, 2), want: "going running 2  job0 job1", state: batch.StateRunning, after: map[string]int{"pending": 1, "queued": 2},
	},
	"take what has begun": {
		script: batchTakeScript, root: running(3), items: batchItems{batch.Pending: {1, 2}, batch.Running: {0}}, args: takeArgs(""), rest: offer(0, 1), want: "going running 2  job1", state: batch.StateRunning, after: map[string]int{"pending": 1, "queued": 1, "running": 1},
	},
	"take without a token": {script: batchTakeScript, root: running(1), items: batchItems{batch.Pending: {0}}, args: takeArgs("no token"), rest: offer(0), want: "going running 0 ", state: batch.StateRunning, after: map[string]int{"pending": 1}},
	"take from a paused one": {
		script: batchTakeScript, root: running(1, "state", "paused"), items: batchItems{batch.Pending: {0}}, args: takeArgs(""), rest: offer(0), want: "going paused 0 ", state: batch.StatePaused, after: map[string]int{"pending": 1},
	},
	"take after failures": {
		script: batchTakeScript, root: running(2, "stop", "1"), items: batchItems{batch.Pending: {0}, batch.Failed: {1}}, args: takeArgs(""), want: "stopped stopped", state: batch.StateStopped, after: map[string]int{"pending": 1, "failed": 1},
	},
	"take the canaries": {
		script: batchTakeScript, root: running(3, "canary", "1"), items: batchItems{batch.Pending: {0, 1, 2}}, args: takeArgs(""), rest: offer(0, 1), want: "going running 1  job0", state: batch.StateRunning, after: map[string]int{"pending": 2, "queued": 1},
	},
	"take after the end": {script: batchTakeScript, root: running(1), items: batchItems{batch.Succeeded: {0}}, args: takeArgs(""), want: "over", state: batch.StateFinished, after: map[string]int{"succeeded": 1}},
	"take from an old one": {
		script: batchTakeScript, root: running(1, "created", tableNow-2000), items: batchItems{batch.Pending: {0}}, args: takeArgs(""), want: "over", state: batch.StateCanceled, after: map[string]int{"canceled": 1},
	},
	"take for a removed app": {
		script: batchTakeScript, root: running(2), items: batchItems{batch.Pending: {0}, batch.Running: {1}}, gone: true, args: takeArgs(""), want: "going canceled 0 ", state: batch.StateCanceled, after: map[string]int{"canceled": 1, "running": 1},
	},

	"pause none":            {script: batchActScript, args: []any{"pause"}, want: "none "},
	"pause":                 {script: batchActScript, root: running(1), args: []any{"pause"}, want: "done running", state: batch.StatePaused},
	"pause twice":           {script: batchActScript, root: running(1, "state", "paused"), args: []any{"pause"}, want: "refused paused", state: batch.StatePaused},
	"resume":                {script: batchActScript, root: running(1, "state", "stopped"), args: []any{"resume"}, want: "done stopped", state: batch.StateRunning},
	"resume a query":        {script: batchActScript, root: resolving("state", "stopped"), args: []any{"resume"}, want: "done stopped", state: batch.StateResolving},
	"resume one that runs":  {script: batchActScript, root: running(1), args: []any{"resume"}, want: "refused running", state: batch.StateRunning},
	"resume one on hold":    {script: batchActScript, root: running(1, "hold", "no token"), args: []any{"resume"}, want: "done running", state: batch.StateRunning},
	"retry":                 {script: batchActScript, root: running(2, "state", "finished"), items: batchItems{batch.Failed: {1}}, args: []any{"retry"}, want: "done finished", state: batch.StateRunning, after: map[string]int{"pending": 1}},
	"retry nothing":         {script: batchActScript, root: running(1), args: []any{"retry"}, want: "refused running", state: batch.StateRunning},
	"cancel":                {script: batchActScript, root: running(1), items: batchItems{batch.Pending: {0}}, args: []any{"cancel"}, want: "done running", state: batch.StateCanceled, after: map[string]int{"canceled": 1}},
	"cancel what has ended": {script: batchActScript, root: running(1, "state", "finished"), args: []any{"cancel"}, want: "refused finished", state: batch.StateFinished},
	"end":                   {script: batchActScript, root: running(1), args: []any{"end"}, want: "done running", state: batch.StateCanceled},
	"cancel one that is written": {
		script: batchActScript, root: writing(), items: batchItems{batch.Pending: {0}}, args: []any{"cancel"}, want: "none ", state: batch.StateWriting, after: map[string]int{"pending": 1},
	},
	"end one that is written": {script: batchActScript, root: writing(), items: batchItems{batch.Pending: {0}}, args: []any{"end"}, want: "none "},

	"append a page":       {script: batchAppendScript, root: resolving(), args: []any{"", "c1", 5, 10}, rest: []any{"e0"}, want: "added 1", state: batch.StateResolving, after: map[string]int{"pending": 1}},
	"append the last":     {script: batchAppendScript, root: resolving("cursor", "c1"), args: []any{"c1", "", 5, 10}, rest: []any{"e0"}, want: "last 1", state: batch.StateRunning, after: map[string]int{"pending": 1}},
	"append nothing":      {script: batchAppendScript, root: resolving(), args: []any{"", "", 5, 10}, want: "last 0", state: batch.StateFinished},
	"append too many":     {script: batchAppendScript, root: resolving(), args: []any{"", "c1", 5, 1}, rest: []any{"e0", "e1"}, want: "full 1", state: batch.StateStopped, after: map[string]int{"pending": 1}},
	"append a page twice": {script: batchAppendScript, root: resolving("cursor", "c1"), args: []any{"", "c1", 5, 10}, rest: []any{"e0"}, want: "over 0", state: batch.StateResolving},
	"append to one paused": {
		script: batchAppendScript, root: resolving("state", "paused"), args: []any{"", "c1", 5, 10}, rest: []any{"e0"}, want: "over 0", state: batch.StatePaused,
	},

	"put off":          {script: batchPutOffScript, root: resolving(), args: []any{tableNow, "slow down"}, want: "waits", state: batch.StateResolving},
	"put off for good": {script: batchPutOffScript, root: resolving(), args: []any{"", "denied"}, want: "stopped", state: batch.StateStopped},
	"put off too late": {script: batchPutOffScript, root: running(1), args: []any{"", "denied"}, want: "over", state: batch.StateRunning},

	"reclaim": {
		script: batchReclaimScript, root: running(2), items: batchItems{batch.Queued: {0}, batch.Running: {1}}, rest: []any{0, "job0", 1, "job1"}, want: "reclaimed", state: batch.StateRunning, after: map[string]int{"pending": 1, "running": 1},
	},
	"reclaim nothing": {script: batchReclaimScript, root: running(1), items: batchItems{batch.Running: {0}}, rest: []any{0, "job0"}, want: "none", state: batch.StateRunning, after: map[string]int{"running": 1}},
	"next of none":    {script: batchNextScript, args: []any{2}, want: "none"},
	"next":            {script: batchNextScript, root: []any{"digest", "d", "state", "running"}, items: batchItems{batch.Pending: {1, 2, 3}}, args: []any{2}, want: "batch digest 1", state: batch.StateRunning, after: map[string]int{"pending": 3}},
	"reclaim of a canceled one": {
		script: batchReclaimScript, root: running(1, "state", "canceled"), items: batchItems{batch.Queued: {0}}, rest: []any{0, "job0"}, want: "reclaimed", state: batch.StateCanceled, after: map[string]int{"canceled": 1},
	},

	"keep an entry":            {script: batchKeepEntryScript, root: running(1), items: batchItems{batch.Running: {0}}, args: []any{0, "new"}, want: "kept", state: batch.StateRunning, after: map[string]int{"running": 1}},
	"keep an entry of nothing": {script: batchKeepEntryScript, args: []any{0, "new"}, want: "none"},
}

// TestBatchVerdicts: what each script answers, and what it leaves behind.
func TestBatchVerdicts(t *testing.T) {
	onEach(t, func(a *accounts) {
		for name, tc := range verdicts {
			a.verdict(name, tc)
		}
	})
}

// verdict runs one case in an installation of its own.
func (a *accounts) verdict(name string, tc verdictCase) {
	a.t.Helper()
	ctx, keys := a.t.Context(), keysOf(name, "b")
	setup := a.redis.Pipeline()
	if tc.root != nil {
		setup.HSet(ctx, keys.Root(), tc.root...)
		setup.PExpire(ctx, keys.Root(), time.Hour)
	}
	for state, numbers := range tc.items {
		for _, number := range numbers {
			setup.Do(ctx, "ZADD", keys.State(string(state)), number, number)
			setup.HSet(ctx, keys.Items(), number, fmt.Sprintf("e%d", number))
		}
	}
	if tc.gone {
		setup.Set(ctx, keyspace.Installation(name).Gone(), 1, time.Hour)
	}
	if setup.Len() > 0 {
		if _, err := setup.Exec(ctx); err != nil {
			a.t.Fatal(err)
		}
	}
	args := make([]arg, len(tc.script.args))
	for i, value := range append([]any{"b"}, tc.args...) {
		args[i] = arg{tc.script.args[i], value}
	}
	if got := a.answer(tc.script, name, args, tc.rest); got != tc.want {
		a.t.Errorf("%s: %s answers %q, want %q", name, tc.script.name, got, tc.want)
	}
	if state, err := a.State(ctx, name, "b"); err != nil || state != tc.state {
		a.t.Errorf("%s: the batch is %q (%v), want %q", name, state, err, tc.state)
	}
	after := map[string]int{}
	for _, state := range batch.Sets() {
		if count := int(a.redis.ZCard(ctx, keys.State(string(state))).Val()); count > 0 {
			after[string(state)] = count
		}
	}
	if tc.after == nil {
		tc.after = map[string]int{}
	}
	if diff := cmp.Diff(tc.after, after); diff != "" {
		a.t.Errorf("%s: wanted (-), has (+):\n%s", name, diff)
	}
}

func (a *accounts) answer(s *script, installation string, args []arg, rest []any) string {
	a.t.Helper()
	answer, err := a.runOn(a.t.Context(), s, installation, args, rest...).Result()
	if err != nil {
		a.t.Errorf("%s: %v", s.name, err)
	}
	words, ok := answer.([]any)
	if !ok {
		return fmt.Sprint(answer)
	}
	texts := make([]string, len(words))
	for i, word := range words {
		if ticket, is := word.([]any); is {
			word = ticket[0]
		}
		texts[i] = fmt.Sprint(word)
	}
	return strings.Join(texts, " ")
}

// TestActiveBatches: a batch is given to one driver at a time, comes again when it was to, and stays where somebody steered it meanwhile.
func TestActiveBatches(t *testing.T) {
	onEach(t, func(a *accounts) {
		ctx, books := a.t.Context(), a.Batches
		one := Active{"i", "b"}
		mustBe := func(want int, what string) {
			a.t.Helper()
			if found, err := books.Claim(ctx); err != nil || len(found) != want {
				a.t.Errorf("%s: %v, %v", what, found, err)
			}
		}
		ask := func() {
			a.t.Helper()
			if err := a.redis.ZAdd(ctx, keyspace.ActiveBatches, dueNow("i", "b")).Err(); err != nil {
				a.t.Fatal(err)
			}
		}
		settle := func(after time.Duration) {
			a.t.Helper()
			if err := books.Settle(ctx, one, 0, after); err != nil {
				a.t.Fatal(err)
			}
		}
		mustBe(0, "none was asked for")
		ask()
		mustBe(1, "asked for")
		mustBe(0, "claimed")
		settle(0)
		mustBe(1, "due at once")
		settle(time.Hour)
		mustBe(0, "due in an hour")
		if err := books.Hurry(ctx, "i", "b"); err != nil {
			a.t.Fatal(err)
		}
		mustBe(1, "hurried")
		ask() // while it is looked at
		settle(-1)
		mustBe(1, "steered meanwhile")
		settle(-1)
		if err := books.Hurry(ctx, "i", "b"); err != nil {
			a.t.Fatal(err)
		}
		mustBe(0, "let go")
	})
}

// TestEveryVerdict: the table has each verdict that a script's file names.
func TestEveryVerdict(t *testing.T) {
	t.Parallel()
	seen := map[string][]string{}
	for _, tc := range verdicts {
		word, _, _ := strings.Cut(tc.want, " ")
		seen[tc.script.name] = append(seen[tc.script.name], word)
	}
	files, err := sources.ReadDir("lua")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file.Name(), ".lua")
		if !strings.HasPrefix(name, "batch_") {
			continue
		}
		_, says, _ := strings.Cut(read(name), "Returns")
		says, _, _ = strings.Cut(says, "\nlocal ")
		named := map[string]bool{}
		for _, found := range regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(says, -1) {
			named[found[1]] = true
		}
		want, got := slices.Sorted(maps.Keys(named)), slices.Compact(slices.Sorted(slices.Values(seen[name])))
		if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
			t.Errorf("%s: its file names (-), the table has (+):\n%s", name, diff)
		}
	}
}
