package dispatch_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/batch"
)

// lateAnswers lets Redis run every script twice, as it does when go-redis has not waited for the first answer.
type lateAnswers struct {
	scripts atomic.Int32
}

func (*lateAnswers) DialHook(next redis.DialHook) redis.DialHook { return next }

func (*lateAnswers) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (l *lateAnswers) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		if strings.HasPrefix(command.Name(), "eval") && next(ctx, command) == nil {
			l.scripts.Add(1)
		}
		return next(ctx, command)
	}
}

// TestCreateSentTwice: a call that go-redis sends twice has made the batch; the same request in another call has not.
func TestCreateSentTwice(t *testing.T) {
	onBoth(t, func(b *bundle) {
		late, ctx := &lateAnswers{}, b.t.Context()
		b.redis.AddHook(late)
		made := batch.Batch{
			ID: "b1", Installation: installation, Actor: system, CreatedAt: time.Now().UTC().Truncate(time.Millisecond), Digest: "digest", Request: b.request(3, nil),
		}
		if status, created, err := b.store.Create(ctx, made); err != nil || !created || status.Total != 3 {
			b.t.Errorf("the call that made it: %d repositories, created %t, %v", status.Total, created, err)
		}
		if late.scripts.Load() == 0 {
			b.t.Error("no script ran twice")
		}
		if status, created, err := b.store.Create(ctx, made); err != nil || created || status.Total != 3 {
			b.t.Errorf("the same request again: %d repositories, created %t, %v", status.Total, created, err)
		}
		made.Digest = "another"
		if _, created, err := b.store.Create(ctx, made); err == nil || created {
			b.t.Errorf("another request: created %t, %v", created, err)
		}
	})
}
