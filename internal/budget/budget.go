// Package budget keeps what is asked of others within what they allow: git requests of an installation in an hour, and exchanges of
// tokens in a minute. It counts in Redis (GCRA, by go-redis/redis_rate), for all workers together.
package budget

import (
	"context"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// Options are the bounds. Zero is none.
type Options struct {
	GitPerHour         int // git requests of an installation. Bitbucket allows 60,000 in a rolling hour
	ExchangesPerMinute int // of the app. Atlassian allows 1,000
}

// Budget counts. It may be used concurrently and by several processes on the same Redis.
type Budget struct {
	limiter  *redis_rate.Limiter
	git      redis_rate.Limit
	exchange redis_rate.Limit
}

// New makes a Budget.
func New(client redis.UniversalClient, options Options) *Budget {
	return &Budget{
		limiter: redis_rate.NewLimiter(client), git: within(options.GitPerHour, time.Hour), exchange: within(options.ExchangesPerMinute, time.Minute),
	}
}

// burstShare is the part of a bound that may be used at once.
const burstShare = 10

// within is a limit that lets no window of the period see more than most: what may come at once and what is filled up meanwhile are
// together as many. The zero limit is none.
func within(most int, period time.Duration) redis_rate.Limit {
	if most <= 0 {
		return redis_rate.Limit{}
	}
	burst := max(most/burstShare, 1)
	return redis_rate.Limit{Rate: max(most-burst, 1), Burst: burst, Period: period}
}

// Reserve takes the requests that a job is about to make out of its installation's budget. A Throttled fault says when there are so many
// again; none is taken then.
func (b *Budget) Reserve(ctx context.Context, installation string, requests int) error {
	if b.git.IsZero() {
		return nil
	}
	return b.take(ctx, keyspace.Installation(installation).Git(), b.git, requests,
		"git: this installation has used up its requests for now (GITSMITH_GIT_BUDGET); the job goes on when there are some again")
}

// Spend takes requests that were made without having been reserved, as far as there are any: what is done cannot be refused.
func (b *Budget) Spend(ctx context.Context, installation string, requests int) error {
	if b.git.IsZero() || requests <= 0 {
		return nil
	}
	_, err := b.limiter.AllowAtMost(ctx, keyspace.Installation(installation).Git(), b.git, requests)
	return unavailable(err)
}

// Exchange takes one exchange of a token. A Throttled fault says when there is one again.
func (b *Budget) Exchange(ctx context.Context) error {
	if b.exchange.IsZero() {
		return nil
	}
	return b.take(ctx, keyspace.Exchanges, b.exchange, 1, "the app has asked for as many tokens of users as it may in a minute; the job goes on when it may again")
}

func (b *Budget) take(ctx context.Context, key string, limit redis_rate.Limit, n int, refusal string) error {
	result, err := b.limiter.AllowN(ctx, key, limit, min(n, limit.Burst))
	if err != nil {
		return unavailable(err)
	}
	if result.Allowed > 0 || n == 0 {
		return nil
	}
	throttled := fault.Newf(fault.Throttled, "%s", refusal)
	throttled.RetryAfter = max(result.RetryAfter, time.Millisecond)
	return throttled
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return fault.Wrapf(fault.Unavailable, err, "count requests: redis cannot be reached now; try again")
}
