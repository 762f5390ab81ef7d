package budget_test

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/budget"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestBound uses up an hour's budget at once: what comes through, together with what an hour fills up, is no more than the bound.
func TestBound(t *testing.T) {
	t.Parallel()
	counted := budget.New(queuetest.Start(t).Client(), budget.Options{GitPerHour: 1000})
	taken := 0
	for {
		err := counted.Reserve(t.Context(), "noisy", 5)
		if err != nil {
			if fault.KindOf(err) != fault.Throttled || fault.RetryAfter(err) <= 0 || fault.RetryAfter(err) > 20*time.Second {
				t.Fatal(fault.Private(err), fault.RetryAfter(err))
			}
			break
		}
		if taken += 5; taken > 110 {
			t.Fatalf("%d requests at once, of 1000 an hour", taken)
		}
	}
	if taken < 95 {
		t.Errorf("only %d requests at once", taken)
	}
	if err := counted.Reserve(t.Context(), "quiet", 5); err != nil {
		t.Errorf("another installation's budget: %v", err)
	}
	if err := counted.Exchange(t.Context()); err != nil {
		t.Errorf("no bound on exchanges: %v", err)
	}
}

// TestSpend makes a job wait for what another one took beyond its share.
func TestSpend(t *testing.T) {
	t.Parallel()
	counted := budget.New(queuetest.Start(t).Client(), budget.Options{GitPerHour: 1000})
	if err := counted.Spend(t.Context(), "i", 10_000); err != nil {
		t.Fatal(err)
	}
	if err := counted.Reserve(t.Context(), "i", 1); fault.KindOf(err) != fault.Throttled {
		t.Error(err)
	}
}

// TestExchanges stay below the bound whatever the installation.
func TestExchanges(t *testing.T) {
	t.Parallel()
	counted := budget.New(queuetest.Start(t).Client(), budget.Options{ExchangesPerMinute: 100})
	taken := 0
	for ; taken < 20; taken++ {
		if err := counted.Exchange(t.Context()); err != nil {
			if fault.KindOf(err) != fault.Throttled {
				t.Fatal(err)
			}
			break
		}
	}
	if taken < 10 || taken >= 20 {
		t.Errorf("%d exchanges at once, of 100 a minute", taken)
	}
	if err := counted.Reserve(t.Context(), "i", 100_000); err != nil {
		t.Errorf("no bound on git: %v", err)
	}
}

// TestRedisAway is no verdict.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	counted := budget.New(server.Client(), budget.Options{GitPerHour: 1000, ExchangesPerMinute: 100})
	server.Kill()
	if err := counted.Reserve(t.Context(), "i", 1); fault.KindOf(err) != fault.Unavailable {
		t.Error(err)
	}
	if err := counted.Spend(t.Context(), "i", 1); fault.KindOf(err) != fault.Unavailable {
		t.Error(err)
	}
	if err := counted.Exchange(t.Context()); fault.KindOf(err) != fault.Unavailable {
		t.Error(err)
	}
}
