package ledger

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/fault"
)

// Account reads a batch at one instant.
func (b *Batches) Account(ctx context.Context, installation, id string) (batch.Account, error) {
	keys := keysOf(installation, id)
	instant := b.Redis.TxPipeline()
	fields, ends := instant.HGetAll(ctx, keys.Root()), instant.LRange(ctx, keys.Ends(), 0, 99)
	counts := map[batch.ItemState]*redis.IntCmd{}
	for _, state := range batch.Sets() {
		counts[state] = instant.ZCard(ctx, keys.State(string(state)))
	}
	if _, err := instant.Exec(ctx); err != nil {
		return batch.Account{}, unavailable(err, "look up the batch")
	}
	read := batch.Account{Root: fields.Val(), Ends: ends.Val(), Counts: map[batch.ItemState]int{}}
	if len(read.Root) == 0 || read.Root.State() == batch.StateWriting {
		return batch.Account{}, noBatch(id)
	}
	for state, count := range counts {
		read.Counts[state] = int(count.Val())
	}
	return read, nil
}

// Get is a batch of the installation.
func (b *Batches) Get(ctx context.Context, installation, id string) (batch.Status, error) {
	read, err := b.Account(ctx, installation, id)
	if err != nil {
		return batch.Status{}, err
	}
	status := read.Status(b.Keyring, installation, id, local(b.Now))
	failures, skips, err := b.grouped(ctx, read, installation, id)
	if err != nil {
		return batch.Status{}, err
	}
	status.Failures, status.Skips = failures, skips
	return status, nil
}

// grouped are a batch's groups at one version of its account.
type grouped struct {
	version         string
	failures, skips []batch.Group
}

// grouped works out why repositories failed or were skipped, once for every change of the account.
func (b *Batches) grouped(ctx context.Context, read batch.Account, installation, id string) (failures, skips []batch.Group, err error) {
	key, version := keysOf(installation, id).Root(), read.Version()
	b.mutex.Lock()
	last, found := b.groups[key]
	b.mutex.Unlock()
	if found && last.version == version {
		return last.failures, last.skips, nil
	}
	if failures, err = b.group(ctx, installation, id, read.Counts, batch.Failed); err != nil {
		return nil, nil, err
	}
	if skips, err = b.group(ctx, installation, id, read.Counts, batch.Skipped); err != nil {
		return nil, nil, err
	}
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if len(b.groups) >= maxKnown {
		clear(b.groups)
	}
	b.groups[key] = grouped{version, failures, skips}
	return failures, skips, nil
}

func (b *Batches) group(ctx context.Context, installation, id string, counts map[batch.ItemState]int, state batch.ItemState) ([]batch.Group, error) {
	groups := []batch.Group{}
	if counts[state] == 0 {
		return groups, nil
	}
	numbers, err := b.Numbers(ctx, installation, id, state)
	if err != nil {
		return nil, err
	}
	jobs, err := b.Jobs.GetAll(ctx, installation, batch.JobIDs(id, numbers))
	if err != nil {
		return nil, err
	}
	for _, cause := range batch.CausesOf(numbers, jobs) {
		kept, err := b.Entries(ctx, installation, id, cause.Numbers)
		if err != nil {
			return nil, err
		}
		for _, each := range kept {
			cause.Examples = append(cause.Examples, each.Name())
		}
		groups = append(groups, cause.Group)
	}
	return groups, nil
}

// Items are a page of a batch's repositories, in their order, and the cursor of the next page, empty on the last. The cursor is the number
// of the next repository, so that one which changes its state meanwhile moves no other.
func (b *Batches) Items(ctx context.Context, installation, id string, options batch.ItemOptions) ([]batch.Item, string, error) {
	limit, from, err := batchPageOf(options.Limit, options.Cursor)
	if err != nil {
		return nil, "", err
	}
	if _, err := b.Account(ctx, installation, id); err != nil { // one that is not there is no empty page
		return nil, "", err
	}
	numbers, states, err := b.places(ctx, installation, id, options.State, from, limit+1)
	if err != nil {
		return nil, "", err
	}
	next := ""
	if len(numbers) > limit {
		next = strconv.Itoa(numbers[limit])
		numbers = numbers[:limit]
	}
	kept, err := b.Entries(ctx, installation, id, numbers)
	if err != nil {
		return nil, "", err
	}
	jobs, err := b.Jobs.GetAll(ctx, installation, batch.JobIDs(id, numbers))
	if err != nil {
		return nil, "", err
	}
	items := make([]batch.Item, len(numbers))
	for i := range numbers {
		items[i] = batch.ItemOf(kept[i], states[numbers[i]], jobs[i])
	}
	return items, next, nil
}

// places are the next repositories in a state, or in any, with the state of each.
func (b *Batches) places(ctx context.Context, installation, id string, state batch.ItemState, from, count int) ([]int, map[int]batch.ItemState, error) {
	wanted := batch.Sets()
	switch state {
	case "":
	case batch.Queued:
		wanted = []batch.ItemState{batch.Queued, batch.Pending}
	default:
		wanted = []batch.ItemState{state}
	}
	instant := b.Redis.TxPipeline()
	answers := map[batch.ItemState]*redis.StringSliceCmd{}
	for _, each := range wanted {
		answers[each] = instant.ZRangeByScore(ctx, keysOf(installation, id).State(string(each)), &redis.ZRangeBy{
			Min: strconv.Itoa(from), Max: "+inf", Count: int64(count),
		})
	}
	if _, err := instant.Exec(ctx); err != nil {
		return nil, nil, unavailable(err, "read the batch")
	}
	states := map[int]batch.ItemState{}
	for each, answer := range answers {
		for _, number := range numbersOf(answer.Val()) {
			states[number] = each
		}
	}
	numbers := slices.Sorted(maps.Keys(states))
	return numbers[:min(len(numbers), count)], states, nil
}

// Numbers are the repositories in a state, in their order.
func (b *Batches) Numbers(ctx context.Context, installation, id string, state batch.ItemState) ([]int, error) {
	members, err := b.Redis.ZRange(ctx, keysOf(installation, id).State(string(state)), 0, -1).Result()
	if err != nil {
		return nil, unavailable(err, "read the batch")
	}
	return numbersOf(members), nil
}

func numbersOf(members []string) []int {
	numbers := make([]int, len(members))
	for i, text := range members {
		numbers[i], _ = strconv.Atoi(text) // our own scripts write them
	}
	return numbers
}

// Entries are the repositories with these numbers. An Internal fault where one of them is not there.
func (b *Batches) Entries(ctx context.Context, installation, id string, numbers []int) ([]batch.Entry, error) {
	if len(numbers) == 0 {
		return nil, nil
	}
	fields := make([]string, len(numbers))
	for i, number := range numbers {
		fields[i] = strconv.Itoa(number)
	}
	values, err := b.Redis.HMGet(ctx, keysOf(installation, id).Items(), fields...).Result()
	if err != nil {
		return nil, unavailable(err, "read the batch")
	}
	entries := make([]batch.Entry, len(values))
	for i, value := range values {
		text, _ := value.(string)
		if entries[i], err = batch.DecodeEntry(numbers[i], text); err != nil {
			return nil, err
		}
	}
	return entries, nil
}

const (
	maxBatchPage = 100
	batchPage    = 50
)

// batchPageOf reads a cursor, which is how much was shown.
func batchPageOf(limit int, cursor string) (size, offset int, err error) {
	if limit <= 0 {
		limit = batchPage
	}
	if cursor != "" {
		offset, err = strconv.Atoi(cursor)
		if err != nil || offset < 0 || offset > batch.MaxRepositories {
			return 0, 0, fault.Newf(fault.Invalid, "cursor: %.80q is none; take it from the page before, or leave it out", cursor)
		}
	}
	return min(limit, maxBatchPage), offset, nil
}
