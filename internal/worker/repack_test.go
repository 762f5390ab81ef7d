package worker_test

import (
	"testing"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/repolock"
)

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
				b.config.Locker = remembering{intents: map[string]repolock.Intent{}}
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
