package batch

import (
	"context"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

const (
	maxGroups   = 20
	maxExamples = 5
	maxPage     = 100
	pageSize    = 50
	maxLooked   = 2_000 // batches that one call reads to find a requester's
)

// ledger is a batch as Redis has it at one instant.
type ledger struct {
	fields map[string]string
	counts map[ItemState]int
	ends   []string // Unix milliseconds, newest first
}

// sets are all states that the ledger has a set for.
func sets() []ItemState { return append(ItemStates(), pending) }

func (s *Store) ledger(ctx context.Context, installation, id string) (ledger, error) {
	batch := keyspace.Installation(installation).Batch(id)
	instant := s.Redis.TxPipeline()
	fields, ends := instant.HGetAll(ctx, batch.Root()), instant.LRange(ctx, batch.Ends(), 0, -1)
	counts := map[ItemState]*redis.IntCmd{}
	for _, state := range sets() {
		counts[state] = instant.ZCard(ctx, batch.State(string(state)))
	}
	if _, err := instant.Exec(ctx); err != nil {
		return ledger{}, unavailable(err, "look up the batch")
	}
	if len(fields.Val()) == 0 {
		return ledger{}, notThere(id)
	}
	read := ledger{fields: fields.Val(), ends: ends.Val(), counts: map[ItemState]int{}}
	for state, count := range counts {
		read.counts[state] = int(count.Val())
	}
	return read, nil
}

func (l ledger) number(field string) int {
	number, _ := strconv.Atoi(l.fields[field]) // a field that is not there is zero
	return number
}

func (l ledger) time(field string) time.Time {
	milliseconds, err := strconv.ParseInt(l.fields[field], 10, 64)
	if err != nil || milliseconds == 0 {
		return time.Time{}
	}
	return time.UnixMilli(milliseconds).UTC()
}

// Get is a batch of the installation, or a NotFound fault.
func (s *Store) Get(ctx context.Context, installation, id string) (Status, error) {
	read, err := s.ledger(ctx, installation, id)
	if err != nil {
		return Status{}, err
	}
	status := s.statusOf(read, installation, id)
	failures, skips, err := s.grouped(ctx, read, installation, id)
	if err != nil {
		return Status{}, err
	}
	status.Failures, status.Skips = failures, skips
	return status, nil
}

func (s *Store) statusOf(read ledger, installation, id string) Status {
	title := "(its title cannot be opened: the sealing key is gone)"
	if plain, err := s.Keyring.Open([]byte(read.fields["title"]), titleContext(installation, id)...); err == nil {
		title = string(plain)
	}
	status := Status{
		ID: id, Installation: installation, Title: title, State: State(read.fields["state"]), Reason: read.fields["reason"],
		DryRun: read.fields["dry"] == "1", From: read.fields["from"], Rollout: rolloutOf(read.fields), Concurrency: read.number("concurrency"), PerHour: read.number("per_hour"),
		Actor: read.fields["actor"], Requester: requesterOf(read.fields), CreatedAt: read.time("created"), EndedAt: read.time("ended"),
		Total: read.number("total"), Totals: maps.Clone(read.counts),
	}
	status.Totals[Queued] += status.Totals[pending]
	delete(status.Totals, pending)
	left := status.Totals[Queued] + status.Totals[Running] + status.Totals[Waiting]
	going := status.State == StateRunning || status.State == StateResolving
	switch hold := read.fields["hold"]; {
	case going && hold != "":
		status.State, status.Reason, going = StatePaused, hold, false
	case status.State == StateFinished && left > 0: // somebody retried one of its jobs by itself
		status.State, status.EndedAt = StateRunning, time.Time{}
	}
	status.Stage = stageOf(read)
	status.PerMinute = perMinute(read.ends, s.Now(), status.EndedAt)
	if going && left > 0 && status.PerMinute > 0 && status.State == StateRunning {
		seconds := int(math.Ceil(float64(left) / status.PerMinute * 60))
		status.SecondsLeft = &seconds
	}
	return status
}

// rolloutOf returns the roll-out that was asked for; nil for none.
func rolloutOf(fields map[string]string) *Rollout {
	share := func(field string) Share {
		parsed, _ := parseShare(fields[field]) // a field that is not there is the zero Share
		return parsed
	}
	rollout := Rollout{Canary: share("canary"), Then: share("then"), StopAtFailures: share("stop")}
	if rollout == (Rollout{}) {
		return nil
	}
	return &rollout
}

// stageOf is nil for a batch without a roll-out, and for a dry run.
func stageOf(read ledger) *Stage {
	canary, then := read.fields["canary"], read.fields["then"]
	if canary == "" && then == "" || read.fields["dry"] == "1" || read.fields["resolved"] != "1" {
		return nil
	}
	total := read.number("total")
	stages := []Stage{}
	for _, each := range []Stage{{"canary", amount(canary, total)}, {"then", amount(then, total)}} {
		if each.Until > 0 {
			stages = append(stages, each)
		}
	}
	stages = append(stages, Stage{"rest", total})
	return &stages[min(read.number("stage"), len(stages)-1)]
}

// amount is how many of total a share is, rounded up; zero for none.
func amount(share string, total int) int {
	parsed, err := parseShare(share)
	switch {
	case err != nil:
		return 0
	case parsed.Percent > 0:
		return int(math.Ceil(parsed.Percent * float64(total) / 100))
	}
	return min(parsed.Number, total)
}

// perMinute is how many repositories ended in a minute, over the last hundred: until now while the batch goes on.
func perMinute(ends []string, now, ended time.Time) float64 {
	if len(ends) < 2 {
		return 0
	}
	oldest, _ := strconv.ParseInt(ends[len(ends)-1], 10, 64) // our own scripts write them
	until := now
	if !ended.IsZero() {
		until = ended
	}
	took := until.Sub(time.UnixMilli(oldest))
	if took <= 0 {
		return 0
	}
	return math.Round(float64(len(ends))/took.Minutes()*10) / 10
}

// grouped are a batch's groups at one state of its ledger.
type grouped struct {
	changes         string
	failures, skips []Group
}

// version tells the ledger's states apart, also where Redis lost its last second, and counts again what it had counted.
func (l ledger) version() string {
	newest := ""
	if len(l.ends) > 0 {
		newest = l.ends[0]
	}
	return strings.Join([]string{
		l.fields["created"], l.fields["changes"], newest, strconv.Itoa(l.counts[Failed]), strconv.Itoa(l.counts[Skipped]),
	}, " ")
}

// grouped works out why repositories failed or were skipped, once for every change of the ledger.
func (s *Store) grouped(ctx context.Context, read ledger, installation, id string) (failures, skips []Group, err error) {
	key, changes := keyspace.Installation(installation).Batch(id).Root(), read.version()
	s.mutex.Lock()
	last, found := s.groups[key]
	s.mutex.Unlock()
	if found && last.changes == changes {
		return last.failures, last.skips, nil
	}
	if failures, err = s.group(ctx, installation, id, read.counts, Failed); err != nil {
		return nil, nil, err
	}
	if skips, err = s.group(ctx, installation, id, read.counts, Skipped); err != nil {
		return nil, nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if len(s.groups) >= maxKnown {
		clear(s.groups)
	}
	s.groups[key] = grouped{changes, failures, skips}
	return failures, skips, nil
}

func (s *Store) group(ctx context.Context, installation, id string, counts map[ItemState]int, state ItemState) ([]Group, error) {
	groups := []Group{}
	if counts[state] == 0 {
		return groups, nil
	}
	numbers, err := s.numbers(ctx, installation, id, state)
	if err != nil {
		return nil, err
	}
	statuses, err := s.Jobs.GetAll(ctx, installation, jobIDs(id, numbers))
	if err != nil {
		return nil, err
	}
	places := map[string]int{}
	var examples [][]int
	for i, status := range statuses {
		kind, reason := whyOf(status)
		place, found := places[kind+" "+reason]
		if !found {
			place = len(groups)
			places[kind+" "+reason] = place
			groups, examples = append(groups, Group{Kind: kind, Reason: reason}), append(examples, nil)
		}
		groups[place].Count++
		if len(examples[place]) < maxExamples {
			examples[place] = append(examples[place], numbers[i])
		}
	}
	for place := range groups {
		kept, err := s.entries(ctx, installation, id, examples[place])
		if err != nil {
			return nil, err
		}
		for _, each := range kept {
			groups[place].Examples = append(groups[place].Examples, each.name())
		}
	}
	slices.SortStableFunc(groups, func(a, b Group) int { return b.Count - a.Count })
	return groups[:min(len(groups), maxGroups)], nil
}

// whyOf is why a job failed or was skipped, with … for what is its own.
func whyOf(status job.Status) (kind, reason string) {
	switch {
	case status.Failure != nil:
		kind, reason = status.Failure.Kind.String(), status.Failure.Detail
	case status.Result != nil && status.Result.Push != nil:
		reason = status.Result.Push.Skipped
	default:
		return "", "what became of it is not kept any more"
	}
	if status.Repository != "" {
		reason = strings.ReplaceAll(reason, status.Repository, "…")
		if _, slug, found := strings.Cut(status.Repository, "/"); found && len(slug) > 2 && strings.Contains(reason, slug) {
			reason = wordOf(slug).ReplaceAllString(reason, "$1…$2")
		}
	}
	return kind, ownText.ReplaceAllString(reason, "…")
}

// ownText is what differs between repositories that fail for the same reason: object hashes and UUIDs.
var ownText = regexp.MustCompile(`\b[0-9a-f]{40}\b|\{?\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b\}?`)

func wordOf(slug string) *regexp.Regexp {
	return regexp.MustCompile(`(^|[^\w.-])` + regexp.QuoteMeta(slug) + `($|[^\w-])`)
}

// Recent are the newest batches of all installations, newest first. It is for operators.
func (s *Store) Recent(ctx context.Context, limit int) ([]Status, error) {
	members, err := s.Redis.ZRevRange(ctx, keyspace.RecentBatches, 0, int64(limit)-1).Result()
	if err != nil {
		return nil, unavailable(err, "list the batches")
	}
	var recent []Status
	for _, name := range members {
		installation, id := split(name)
		status, err := s.Get(ctx, installation, id)
		if err != nil && fault.KindOf(err) == fault.NotFound {
			s.Redis.ZRem(ctx, keyspace.RecentBatches, name) // its time is over; the list is right without it
			continue
		}
		if err != nil {
			return nil, err
		}
		recent = append(recent, status)
	}
	return recent, nil
}

// Going counts the batches that have not ended, of all installations, by their state. It is for operators.
func (s *Store) Going(ctx context.Context) (map[string]int, error) {
	members, err := s.Redis.ZRange(ctx, keyspace.ActiveBatches, 0, -1).Result()
	if err != nil {
		return nil, unavailable(err, "count the batches")
	}
	pipeline := s.Redis.Pipeline()
	heads := make([]*redis.SliceCmd, len(members))
	for i, name := range members {
		installation, id := split(name)
		heads[i] = pipeline.HMGet(ctx, keyspace.Installation(installation).Batch(id).Root(), "state", "hold")
	}
	if _, err := pipeline.Exec(ctx); err != nil {
		return nil, unavailable(err, "count the batches")
	}
	counts := map[string]int{}
	for _, head := range heads {
		fields := head.Val()
		state, _ := fields[0].(string)
		if hold, _ := fields[1].(string); hold != "" && (state == string(StateRunning) || state == string(StateResolving)) {
			state = string(StatePaused)
		}
		if state != string(StateFinished) && state != string(StateCanceled) { // no driver has tidied those up yet
			counts[state]++
		}
	}
	return counts, nil
}

func split(member string) (installation, id string) {
	at := strings.LastIndexByte(member, ' ')
	return member[:max(at, 0)], member[at+1:]
}

// List is a page of an installation's batches, newest first, and the cursor of the next page, empty on the last. With a requester, a page
// can be short though more follow: the cursor says so.
func (s *Store) List(ctx context.Context, installation string, options ListOptions) ([]Status, string, error) {
	limit, offset, err := pageOf(options.Limit, options.Cursor)
	if err != nil {
		return nil, "", err
	}
	statuses := []Status{}
	for looked := 0; looked < maxLooked; looked += maxPage {
		ids, err := s.Redis.ZRevRange(ctx, keyspace.Installation(installation).Batches(), int64(offset), int64(offset+maxPage-1)).Result()
		if err != nil {
			return nil, "", unavailable(err, "list the batches")
		}
		for _, id := range ids {
			if len(statuses) == limit {
				return statuses, strconv.Itoa(offset), nil
			}
			offset++
			switch status, err := s.getOf(ctx, installation, id, options.Requester); {
			case err == nil:
				statuses = append(statuses, status)
			case fault.KindOf(err) != fault.NotFound:
				return nil, "", err
			}
		}
		if len(ids) < maxPage {
			return statuses, "", nil
		}
	}
	return statuses, strconv.Itoa(offset), nil
}

// getOf is Get of a batch that the requester asked for; any batch where requester is empty. Another's is a NotFound fault.
func (s *Store) getOf(ctx context.Context, installation, id, requester string) (Status, error) {
	if requester != "" {
		values, err := s.Redis.HMGet(ctx, keyspace.Installation(installation).Batch(id).Root(), "requester", "principal").Result()
		if err != nil {
			return Status{}, unavailable(err, "list the batches")
		}
		fields := map[string]string{}
		for i, name := range []string{"requester", "principal"} {
			fields[name], _ = values[i].(string)
		}
		if requesterOf(fields) != requester {
			return Status{}, notThere(id)
		}
	}
	return s.Get(ctx, installation, id)
}

// pageOf reads a cursor, which is how much was shown.
func pageOf(limit int, cursor string) (size, offset int, err error) {
	if limit <= 0 {
		limit = pageSize
	}
	if cursor != "" {
		offset, err = strconv.Atoi(cursor)
		if err != nil || offset < 0 || offset > maxRepositories {
			return 0, 0, fault.Newf(fault.Invalid, "cursor: %.80q is none; take it from the page before, or leave it out", cursor)
		}
	}
	return min(limit, maxPage), offset, nil
}

// Items is a page of a batch's repositories, in their order, and the cursor of the next page, empty on the last. The cursor is the number
// of the next repository, so that one which changes its state meanwhile moves no other.
func (s *Store) Items(ctx context.Context, installation, id string, options ItemOptions) ([]Item, string, error) {
	limit, from, err := pageOf(options.Limit, options.Cursor)
	if err != nil {
		return nil, "", err
	}
	if _, err := s.ledger(ctx, installation, id); err != nil { // one that is not there is no empty page
		return nil, "", err
	}
	numbers, states, err := s.places(ctx, installation, id, options.State, from, limit+1)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(numbers) > limit {
		next = strconv.Itoa(numbers[limit])
		numbers = numbers[:limit]
	}
	kept, err := s.entries(ctx, installation, id, numbers)
	if err != nil {
		return nil, "", err
	}
	statuses, err := s.Jobs.GetAll(ctx, installation, jobIDs(id, numbers))
	if err != nil {
		return nil, "", err
	}
	items := make([]Item, len(numbers))
	for i := range numbers {
		items[i] = itemOf(kept[i], states[numbers[i]], statuses[i])
	}
	return items, next, nil
}

// places are the next repositories in a state, or in any, with the state of each.
func (s *Store) places(ctx context.Context, installation, id string, state ItemState, from, count int) ([]int, map[int]ItemState, error) {
	wanted := sets()
	switch state {
	case "":
	case Queued:
		wanted = []ItemState{Queued, pending}
	default:
		wanted = []ItemState{state}
	}
	instant := s.Redis.TxPipeline()
	answers := map[ItemState]*redis.StringSliceCmd{}
	for _, each := range wanted {
		answers[each] = instant.ZRangeByScore(ctx, keyspace.Installation(installation).Batch(id).State(string(each)), &redis.ZRangeBy{
			Min: strconv.Itoa(from), Max: "+inf", Count: int64(count),
		})
	}
	if _, err := instant.Exec(ctx); err != nil {
		return nil, nil, unavailable(err, "read the batch")
	}
	states := map[int]ItemState{}
	for each, answer := range answers {
		for _, number := range numbersOf(answer.Val()) {
			states[number] = each
		}
	}
	numbers := slices.Sorted(maps.Keys(states))
	return numbers[:min(len(numbers), count)], states, nil
}

func itemOf(kept entry, state ItemState, status job.Status) Item {
	if state == pending {
		state = Queued
	}
	item := Item{Repository: kept.name(), State: state}
	if status.ID == "" {
		return item
	}
	item.Job, item.Branch, item.Attempts, item.StartedAt, item.EndedAt = status.ID, status.Branch, status.Attempts, status.StartedAt, status.EndedAt
	item.Task = status.Ticket
	if state != Succeeded && state != Unchanged && state != Skipped {
		item.Failure = status.Failure
	}
	if status.Result == nil || status.Result.Push == nil {
		return item
	}
	pushed := status.Result.Push
	item.Branch, item.Commit, item.PullRequest, item.Skipped = pushed.Branch, pushed.Commit, pushed.PullRequest, pushed.Skipped
	item.Changed, item.Added, item.Removed, item.Diff = pushed.Changed, pushed.Added, pushed.Removed, pushed.Diff != nil
	return item
}
