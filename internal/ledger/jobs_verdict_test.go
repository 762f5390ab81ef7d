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
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// jobCase is a job as a case of the table finds it, what its script is given, and what is left. The job is j, of class event; next is
// another one that stands in line behind it.
type jobCase struct {
	script *script
	job    []any          // fields of its record; nil where there is none
	in     string         // the sets that it is in: held, line, due, asleep
	next   bool           // next stands in line
	more   [][]any        // what else is there
	with   map[string]any // arguments that are not as in defaults
	rest   []any
	quiet  bool   // of look: a glance sees that there is nothing to do
	want   string // the answer, joined by spaces, a ticket as <job>.<generation>.<serial>
	after  string // the state of j, and the sets that it is in
}

// defaults are the scripts' arguments by their names.
var defaults = map[string]any{
	"now": tableNow, "id": "j", "digest": "d", "class": "event", "created": tableNow, "payload": "p", "batch": "", "item": "", "cap": 1, "life": 60_000,
	"retention": 30_000, "once": 40_000, "coalesce": "", "happened": "", "replaced": "replaced", "trim": "", "keep": 10, "generation": 0, "attempt": "a", "lease": 15_000,
	"canceled": "canceled", "fence": "1-a", "state": "succeeded", "item_state": "succeeded", "after": 0, "uncounted": "", "wakes": "", "spare": 5000,
	"leave_running": "", "failure": "failed", "judge": "1", "pause": 1000, "most": 300_000, "oldest_interactive": "", "oldest_event": "", "oldest_batch": "",
	"within": 0, "installation": "x", "least": 0, "name": "me", "wait": 30_000,
}

// jobFields are a record's, with more of them.
func jobFields(state string, more ...any) []any {
	return append([]any{"id", "j", "digest", "d", "class", "event", "created", tableNow - 5000, "opened", tableNow - 5000, "generation", 0, "state", state, "serial", 0}, more...)
}

// attempted are those of a job that runs, or has run.
func attempted(state string, more ...any) []any {
	return jobFields(state, append([]any{"active", "1-a", "run", 1, "attempts", 1, "begun", 1, "lease", tableNow + 1000}, more...)...)
}

func lapsed(more ...any) []any { return attempted("running", append(more, "lease", tableNow-1)...) }

func set(key string, value any) []any { return []any{"SET", key, value} }

func zadd(key string, score any, member string) []any { return []any{"ZADD", key, score, member} }

func hset(key string, fields ...any) []any { return append([]any{"HSET", key}, fields...) }

// of and live stand for the prefix of the case's installation, and for the set of live ones of its shard.
const (
	of   = "<root>"
	live = "<live>"
)

// runsIn is a batch of one repository, in a state, whose job j is.
func runsIn(state, item string) [][]any {
	return [][]any{
		hset(of+"batch:b", "state", state, "total", 1),
		{"PEXPIRE", of + "batch:b", 600_000},
		zadd(of+"batch:b:"+item, 0, "0"),
	}
}

var jobVerdicts = map[string]jobCase{
	"create":                        {script: createScript, rest: []any{"state", "queued"}, want: "slot", after: "queued held"},
	"create behind others":          {script: createScript, next: true, more: [][]any{zadd(of+"held:event", 1, "x")}, rest: []any{"state", "queued"}, want: "line", after: "queued line"},
	"create it again":               {script: createScript, job: jobFields("running", "generation", 2), in: "held due", want: "there d running 2 0", after: "running held due"},
	"create for a removed app":      {script: createScript, more: [][]any{set(of+"gone", 1)}, want: "gone", after: ""},
	"create of a newer event":       {script: createScript, more: older("queued"), with: map[string]any{"coalesce": "c", "happened": 200}, rest: []any{"state", "queued"}, want: "slot", after: "queued held"},
	"create of an older event":      {script: createScript, more: older("queued"), with: map[string]any{"coalesce": "c", "happened": 50}, rest: []any{"state", "queued"}, want: "replaced", after: "canceled"},
	"create beside one that runs":   {script: createScript, more: older("running"), with: map[string]any{"coalesce": "c", "happened": 50, "cap": 0}, rest: []any{"state", "queued"}, want: "slot", after: "queued held"},
	"create of a batch":             {script: createScript, more: runsIn("running", "queued"), with: map[string]any{"batch": "b", "item": 0}, rest: []any{"state", "queued"}, want: "slot", after: "queued held"},
	"begin":                         {script: beginScript, job: jobFields("queued"), in: "held", want: fmt.Sprint("run 1 1 0 ", tableNow-5000, " ", tableNow-5000, " 1-a  "), after: "running held due"},
	"begin without a slot":          {script: beginScript, job: jobFields("queued"), in: "line", want: fmt.Sprint("run 1 1 0 ", tableNow-5000, " ", tableNow-5000, " 1-a  "), after: "running held due"},
	"begin again with the same":     {script: beginScript, job: attempted("running"), in: "held due", want: fmt.Sprint("run 1 1 0 ", tableNow-5000, " ", tableNow-5000, " 1-a  "), after: "running held due"},
	"begin beside another":          {script: beginScript, job: attempted("running"), in: "held due", with: map[string]any{"attempt": "b"}, want: "over", after: "running held due"},
	"begin an earlier run":          {script: beginScript, job: jobFields("queued", "generation", 1), in: "held", want: "over", after: "queued held"},
	"begin one that waits":          {script: beginScript, job: jobFields("waiting"), in: "due asleep", want: "over", after: "waiting due asleep"},
	"begin one that has ended":      {script: beginScript, job: jobFields("failed"), next: true, want: "over", after: "failed"},
	"begin with a slot left behind": {script: beginScript, job: jobFields("failed"), in: "held", next: true, want: "over next.0.1", after: "failed"},
	"begin too early":               {script: beginScript, job: jobFields("retrying", "next", tableNow+700), in: "due", want: "early 700", after: "retrying due"},
	"begin in time":                 {script: beginScript, job: jobFields("retrying", "next", tableNow), in: "due", want: fmt.Sprint("run 1 1 0 ", tableNow-5000, " ", tableNow, " 1-a  "), after: "running held due"},
	"begin none":                    {script: beginScript, want: "unknown", after: ""},
	"begin where all slots are taken": {
		script: beginScript, job: jobFields("retrying", "next", tableNow), in: "due", more: [][]any{zadd(of+"held:event", "+inf", "x")}, want: "line", after: "queued line",
	},
	"begin of a canceled batch": {
		script: beginScript, job: jobFields("queued", "batch", "b", "item", 0), in: "held", next: true, more: runsIn("canceled", "queued"), want: "canceled next.0.1", after: "canceled",
	},

	"renew":                   {script: renewScript, job: attempted("running"), in: "held due", want: "held", after: "running held due"},
	"renew a lapsed lease":    {script: renewScript, job: lapsed(), in: "held due", want: "held", after: "running held due"},
	"renew one to be stopped": {script: renewScript, job: attempted("running", "cancel", 0), in: "held due", want: "cancel", after: "running held due"},
	"renew one given up":      {script: renewScript, job: jobFields("queued", "run", 1), in: "held", want: "lost", after: "queued held"},
	"renew another's":         {script: renewScript, job: attempted("running", "active", "2-b"), in: "held due", want: "lost", after: "running held due"},
	"renew none":              {script: renewScript, want: "lost", after: ""},

	"end":                          {script: endScript, job: attempted("running"), in: "held due", next: true, want: "written next.0.1", after: "succeeded"},
	"end of a failure":             {script: endScript, job: attempted("running"), in: "held due", with: map[string]any{"state": "failed"}, want: "written", after: "failed"},
	"end for a while":              {script: endScript, job: attempted("running"), in: "held due", next: true, with: map[string]any{"state": "retrying", "after": 500}, want: "written next.0.1", after: "retrying due"},
	"end without a token":          {script: endScript, job: attempted("running"), in: "held due", with: map[string]any{"state": "waiting", "after": 500}, want: "written", after: "waiting due asleep"},
	"end without a token, woken":   {script: endScript, job: attempted("running"), in: "held due", more: [][]any{set(of+"wakes", 1)}, with: map[string]any{"state": "waiting", "after": 500}, want: "again", after: "queued held"},
	"end of an interrupted one":    {script: endScript, job: attempted("running"), in: "held due", next: true, with: map[string]any{"state": "queued"}, want: "again", after: "queued held"},
	"end of one to be stopped":     {script: endScript, job: attempted("running", "cancel", 0), in: "held due", with: map[string]any{"state": "retrying"}, want: "canceled", after: "running held due"},
	"end of one that was given up": {script: endScript, job: attempted("running", "active", "2-b"), in: "held due", with: map[string]any{"state": "failed"}, want: "over", after: "running held due"},
	"success of one given up":      {script: endScript, job: attempted("running", "active", "2-b"), in: "held due", want: "written", after: "succeeded"},
	"success of one put in line":   {script: endScript, job: jobFields("queued", "run", 1), in: "line", next: true, want: "written next.0.1", after: "succeeded"},
	"success of one that waits":    {script: endScript, job: jobFields("waiting", "run", 1), in: "due asleep", want: "written", after: "succeeded"},
	"end of what has ended":        {script: endScript, job: jobFields("canceled"), want: "over", after: "canceled"},
	"end of an earlier run":        {script: endScript, job: jobFields("queued", "generation", 1), in: "held", want: "over", after: "queued held"},
	"end of none":                  {script: endScript, want: "over", after: ""},

	"cancel":                    {script: cancelScript, job: jobFields("queued"), in: "held", next: true, want: "ended next.0.1", after: "canceled"},
	"cancel one in line":        {script: cancelScript, job: jobFields("queued"), in: "line", want: "ended", after: "canceled"},
	"cancel one put off":        {script: cancelScript, job: jobFields("retrying"), in: "due", want: "ended", after: "canceled"},
	"cancel one that waits":     {script: cancelScript, job: jobFields("waiting"), in: "due asleep", want: "ended", after: "canceled"},
	"cancel one that runs":      {script: cancelScript, job: attempted("running"), in: "held due", want: "asked 0", after: "running held due"},
	"cancel unless it runs":     {script: cancelScript, job: attempted("running"), in: "held due", with: map[string]any{"leave_running": "1"}, want: "left", after: "running held due"},
	"cancel what has succeeded": {script: cancelScript, job: jobFields("succeeded"), want: "succeeded", after: "succeeded"},
	"cancel none":               {script: cancelScript, want: "unknown", after: ""},

	"cancel all":              {script: cancelAllScript, job: jobFields("queued"), in: "held", next: true, rest: []any{"j", "none"}, want: "1", after: "canceled"},
	"cancel all that run":     {script: cancelAllScript, job: attempted("running"), in: "held due", rest: []any{"j"}, want: "1 j 0", after: "running held due"},
	"cancel all asked before": {script: cancelAllScript, job: attempted("running", "cancel", 0), in: "held due", rest: []any{"j"}, want: "0", after: "running held due"},
	"cancel all ended before": {script: cancelAllScript, job: jobFields("failed"), rest: []any{"j"}, want: "0", after: "failed"},

	"retry":                    {script: retryScript, more: [][]any{set(of+"payload:j", "kept")}, job: jobFields("failed"), want: "opened j.1.1", after: "queued held"},
	"retry behind others":      {script: retryScript, job: jobFields("canceled"), more: [][]any{set(of+"payload:j", "kept"), zadd(of+"held:event", 1, "x")}, want: "opened", after: "queued line"},
	"retry of a run":           {script: retryScript, more: [][]any{set(of+"payload:j", "kept")}, job: jobFields("expired", "generation", 3), want: "opened j.4.1", after: "queued held"},
	"retry what has succeeded": {script: retryScript, job: jobFields("succeeded"), want: "succeeded", after: "succeeded"},
	"retry what goes on":       {script: retryScript, job: jobFields("queued"), in: "held", want: "queued", after: "queued held"},
	"retry what is not kept":   {script: retryScript, job: jobFields("failed"), with: map[string]any{"payload": ""}, want: "forgotten", after: "failed"},
	"retry none":               {script: retryScript, want: "unknown", after: ""},
	"wake":                     {script: wakeScript, job: jobFields("waiting"), in: "due asleep", want: "1", after: "waiting due asleep"},
	"wake none":                {script: wakeScript, job: jobFields("retrying"), in: "due", want: "0", after: "retrying due"},
	"adopt":                    {script: adoptScript, rest: []any{"state", "queued", "generation", 0}, want: "adopted", after: "queued due"},
	"adopt a retry":            {script: adoptScript, job: jobFields("failed"), with: map[string]any{"generation": 1}, want: "adopted", after: "queued due"},
	"adopt what has ended":     {script: adoptScript, job: jobFields("failed"), want: "over", after: "failed"},
	"adopt for a removed app":  {script: adoptScript, more: [][]any{set(of+"gone", 1)}, want: "over", after: ""},
	"adopt what was retried":   {script: adoptScript, job: jobFields("queued", "generation", 1), in: "held", want: "over", after: "queued held"},
	"look at nothing":          {script: lookScript, want: " idle -1 0", after: "", quiet: true},
	"look at slots that are taken": {
		script: lookScript, job: jobFields("queued"), in: "line", more: [][]any{zadd(of+"held:event", tableNow-60_000, "x")}, want: "  -1 0", after: "queued line", quiet: true,
	},
	"look at one due later": {script: lookScript, job: jobFields("retrying"), more: [][]any{zadd(of+"due", tableNow+700, "j")}, want: "  700 0", after: "retrying due", quiet: true},
	"look at one woken before": {
		script: lookScript, job: jobFields("waiting"), in: "asleep", more: [][]any{set(of+"wakes", 1), set(of+"woken", 1), zadd(of+"due", tableNow+5, "j")}, want: "  5 0", after: "waiting due asleep", quiet: true,
	},
	"look at one in line":        {script: lookScript, job: jobFields("queued"), in: "line", want: "  -1 0 j.0.1", after: "queued held"},
	"look at one that runs":      {script: lookScript, job: attempted("running"), in: "held due", want: "  1000 0", after: "running held due"},
	"look at a silent one":       {script: lookScript, job: lapsed(), in: "held due", want: "  -1 1 j.0.1", after: "queued held"},
	"look without judging":       {script: lookScript, job: lapsed(), in: "held due", with: map[string]any{"judge": ""}, want: "  1000 0", after: "running held due"},
	"look at a silent, canceled": {script: lookScript, job: lapsed("cancel", 0), in: "held due", want: " idle -1 0", after: "canceled"},
	"look at one put off":        {script: lookScript, job: jobFields("retrying", "next", tableNow+700), in: "due", want: "  700 0", after: "retrying due"},
	"look at one whose time has come": {
		script: lookScript, job: jobFields("retrying", "next", tableNow-1), in: "due", want: "  10000 0 j.0.1", after: "retrying due",
	},
	"look at one that has waited": {script: lookScript, job: jobFields("waiting", "next", tableNow-1), in: "due asleep", want: "  -1 0 j.0.1", after: "queued held"},
	"look at one that was woken":  {script: lookScript, job: jobFields("waiting"), in: "asleep", more: [][]any{set(of+"wakes", 1)}, want: "  -1 0 j.0.1", after: "queued held"},
	"look at a lost ticket": {
		script: lookScript, job: jobFields("queued"), more: [][]any{zadd(of+"held:event", tableNow-60_000, "j")}, with: map[string]any{"oldest_event": 0}, want: "  -1 0 j.0.1", after: "queued held",
	},
	"look at a queue that is behind": {
		script: lookScript, job: jobFields("queued"), more: [][]any{zadd(of+"held:event", tableNow-60_000, "j")}, with: map[string]any{"oldest_event": 61_000}, want: "  -1 0", after: "queued held", quiet: true,
	},
	"look at many": {script: lookScript, more: many(), want: "more  0 0", after: ""},

	"enter":                     {script: enterScript, with: map[string]any{"within": 500}, want: "1"},
	"enter one sooner":          {script: enterScript, more: [][]any{zadd(live, tableNow+900, "x")}, with: map[string]any{"within": 500}, want: "0"},
	"claim":                     {script: claimScript, more: [][]any{zadd(live, tableNow, "x"), zadd(live, tableNow+1, "y")}, want: "x"},
	"claim none":                {script: claimScript, more: [][]any{zadd(live, tableNow+1, "y")}, want: ""},
	"settle":                    {script: settleScript, more: [][]any{zadd(live, tableNow+1000, "x")}, with: map[string]any{"after": 200}, want: "0"},
	"settle for good":           {script: settleScript, more: [][]any{zadd(live, tableNow+1000, "x")}, with: map[string]any{"after": -1}, want: "1"},
	"settle, asked for":         {script: settleScript, more: [][]any{zadd(live, tableNow-1, "x")}, with: map[string]any{"after": -1}, want: "0"},
	"settle none":               {script: settleScript, with: map[string]any{"after": 200}, want: "0"},
	"settle several":            {script: settleAllScript, more: [][]any{zadd(live, tableNow+1000, "x")}, rest: []any{"x", 200, "gone", 200}, want: "1"},
	"settle several, asked for": {script: settleAllScript, more: [][]any{zadd(live, tableNow-1, "x")}, rest: []any{"x", 200}, want: "0"},
	"lease":                     {script: leaseScript, want: "1"},
	"lease one's own":           {script: leaseScript, more: [][]any{set(live, fmt.Sprint(tableNow+1, " me"))}, want: "1"},
	"lease another's":           {script: leaseScript, more: [][]any{set(live, fmt.Sprint(tableNow+1, " other"))}, want: "0"},
	"lease a lapsed":            {script: leaseScript, more: [][]any{set(live, fmt.Sprint(tableNow, " other"))}, want: "1"},
	"give a lease up":           {script: leaseScript, more: [][]any{set(live, fmt.Sprint(tableNow+1, " me"))}, with: map[string]any{"life": 0}, want: "1"},
}

// older is a job of an event that happened at 100, in a state, which one with the coalesce key c would replace.
func older(state string) [][]any {
	return [][]any{hset(of+"job:x", "state", state, "class", "event"), zadd(of+"held:event", 1, "x"), set(of+"newest:c", "100 x")}
}

// many are a hundred members of due that are no jobs, and one more.
func many() (all [][]any) {
	for i := range 101 {
		all = append(all, zadd(of+"due", i, fmt.Sprintf("x%d", i)))
	}
	return all
}

// TestJobVerdicts: what each script answers, and where it leaves the job.
func TestJobVerdicts(t *testing.T) {
	onEach(t, func(a *accounts) {
		for name, tc := range jobVerdicts {
			a.jobVerdict(name, tc)
		}
	})
}

// jobVerdict runs one case in an installation of its own.
func (a *accounts) jobVerdict(name string, tc jobCase) {
	a.t.Helper()
	ctx, own := a.t.Context(), keyspace.Installation(name)
	setup := a.redis.Pipeline()
	if tc.job != nil {
		setup.HSet(ctx, own.Job("j"), tc.job...)
	}
	for _, place := range strings.Fields(tc.in) {
		setup.ZAdd(ctx, a.places(name)[place], redis.Z{Score: tableNow, Member: "j"})
	}
	if tc.next {
		setup.HSet(ctx, own.Job("next"), "state", "queued", "class", "event", "generation", 0)
		setup.ZAdd(ctx, own.Line("event"), redis.Z{Score: tableNow, Member: "next"})
	}
	key := own.Prefix()
	if tc.script.keys[0] != "root" {
		key = "gitsmith:live:" + name
	}
	for _, command := range tc.more {
		args := slices.Clone(command)
		args[1] = strings.NewReplacer(of, own.Prefix(), live, key).Replace(fmt.Sprint(args[1]))
		setup.Do(ctx, args...)
	}
	if setup.Len() > 0 {
		if _, err := setup.Exec(ctx); err != nil {
			a.t.Fatal(name, err)
		}
	}
	args := make([]arg, len(tc.script.args))
	for i, each := range tc.script.args {
		value, given := tc.with[each]
		if !given {
			value = defaults[each]
		}
		if value == nil {
			a.t.Fatalf("%s: argument %s has no default", name, each)
		}
		args[i] = arg{each, value}
	}
	quiet, found := a.glance(name, tc)
	answer, err := tc.script.run(ctx, a.redis, []string{key}, args, tc.rest...).Result()
	if tc.script == lookScript && (quiet != tc.quiet || quiet && spell(answer) != found) {
		a.t.Errorf("%s: a glance sees that there is nothing to do: %t, and %q", name, quiet, found)
	}
	if got := spell(answer); err != nil || got != tc.want {
		a.t.Errorf("%s: %s answers %q (%v), want %q", name, tc.script.name, got, err, tc.want)
	}
	if after := a.place(name); after != tc.after {
		a.t.Errorf("%s: the job is %q, want %q", name, after, tc.after)
	}
}

// glance is what Glance says of a case that look is about to be tried on, spelled as that script would.
func (a *accounts) glance(name string, tc jobCase) (quiet bool, found string) {
	a.t.Helper()
	backlog := Backlog{}
	for _, class := range job.Classes() {
		if age, given := tc.with["oldest_"+string(class)].(int); given {
			backlog[class] = time.Duration(age) * time.Millisecond
		}
	}
	ledger := New(Options{Redis: a.redis, Cap: defaults["cap"].(int), Now: func() time.Time { return time.UnixMilli(tableNow) }})
	all, err := ledger.Glance(a.t.Context(), []string{name, "another"}, backlog)
	if err != nil || !all["another"].Idle {
		a.t.Fatal(name, err, all)
	}
	read, quiet := all[name]
	idle, next := "", int64(-1)
	if read.Idle {
		idle = "idle"
	}
	if read.Next >= 0 {
		next = read.Next.Milliseconds()
	}
	return quiet, fmt.Sprintf(" %s %d 0", idle, next)
}

// places are the sets of an installation by what they are called in the table.
func (*accounts) places(name string) map[string]string {
	own := keyspace.Installation(name)
	return map[string]string{"held": own.Held("event"), "line": own.Line("event"), "due": own.Due(), "asleep": own.Asleep()}
}

// place is the state of j and the sets that it is in.
func (a *accounts) place(name string) string {
	a.t.Helper()
	words := strings.Fields(a.redis.HGet(a.t.Context(), keyspace.Installation(name).Job("j"), "state").Val())
	for _, place := range []string{"held", "line", "due", "asleep"} {
		if a.redis.ZScore(a.t.Context(), a.places(name)[place], "j").Err() == nil {
			words = append(words, place)
		}
	}
	return strings.Join(words, " ")
}

// spell writes an answer down, tickets by their names.
func spell(answer any) string {
	all, ok := answer.([]any)
	if !ok {
		return fmt.Sprint(answer)
	}
	words := make([]string, len(all))
	for i, each := range all {
		words[i] = fmt.Sprint(each)
		if ticket, ok := each.([]any); ok {
			words[i] = fmt.Sprintf("%v.%v.%v", ticket[0], ticket[3], ticket[2])
		}
	}
	return strings.Join(words, " ")
}

// TestEveryJobVerdict: the table has each script on jobs, and each verdict that its file names.
func TestEveryJobVerdict(t *testing.T) {
	t.Parallel()
	seen := map[string][]string{}
	for _, tc := range jobVerdicts {
		seen[tc.script.name] = append(seen[tc.script.name], strings.Fields(tc.want)...)
	}
	files, err := sources.ReadDir("lua")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file.Name(), ".lua")
		if name == "prelude" || strings.HasPrefix(name, "batch") {
			continue
		}
		if _, found := seen[name]; !found {
			t.Errorf("%s has no case", name)
		}
		says, _, _ := strings.Cut(read(name), "\nlocal ")
		_, says, _ = strings.Cut(says, "Returns")
		named := map[string]bool{}
		for _, found := range regexp.MustCompile(`"(\w+)"`).FindAllStringSubmatch(says, -1) {
			named[found[1]] = true
		}
		for _, word := range seen[name] {
			delete(named, word)
		}
		if diff := cmp.Diff([]string{}, slices.AppendSeq([]string{}, maps.Keys(named))); diff != "" {
			t.Errorf("%s: no case has (+):\n%s", name, diff)
		}
	}
}
