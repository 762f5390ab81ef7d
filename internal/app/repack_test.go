package app

import (
	"context"
	"testing"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/worker"
)

// noting are locks under which intents are kept.
type noting struct {
	quiet
	intents map[string]worker.Intent
}

type notingLock struct {
	forgetful
	intents map[string]worker.Intent
}

func (n noting) Acquire(ctx context.Context, _, _ string) (worker.Lock, error) {
	return notingLock{forgetful{ctx}, n.intents}, nil
}

func (l notingLock) Intent(_ context.Context, id string) (worker.Intent, bool, error) {
	intent, found := l.intents[id]
	return intent, found, nil
}

func (l notingLock) SetIntent(_ context.Context, id string, intent worker.Intent) error {
	l.intents[id] = intent
	return nil
}

// TestRepackBetweenAttempts: the server repacks between two attempts of a job whose first one pushed, and others push on top. A server
// with bitmaps then sends old pack bytes before the newer commits, and the second attempt must find the job's commit all the same.
func TestRepackBetweenAttempts(t *testing.T) {
	t.Parallel()
	for _, filter := range []string{"false", "true"} {
		for name, repack := range map[string][]string{
			"gc":      {"gc", "--quiet"},
			"bitmaps": {"repack", "-adfbq"},
			"plain":   {"-c", "repack.writeBitmaps=false", "repack", "-adfq"},
		} {
			t.Run(name+", filter "+filter, func(t *testing.T) {
				t.Parallel()
				b := newBench(t, map[string]string{"a": "a\n", "dir/b": "b\n"})
				b.git("config", "uploadpack.allowFilter", filter)
				b.config.Locker = noting{intents: map[string]worker.Intent{}}
				push := job.Push{Branch: "main", Changes: put("a", "b\n")}
				pushed := b.do("1", push)
				b.git(repack...)
				b.commit("main", "a") // undone, so that a second push would show
				if again := b.do("1", push); again.Commit != pushed.Commit || again.Unchanged {
					t.Errorf("pushed %s, then %s", pushed.Commit, again.Commit)
				}
				if count := b.git("rev-list", "--count", pushed.Parent+"..main"); count != "2" {
					t.Errorf("%s commits", count)
				}
			})
		}
	}
}
