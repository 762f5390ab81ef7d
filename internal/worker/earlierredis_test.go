package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/job"
)

// TestEarlierRedis: a job that may have run under a Redis which lost its last second, others having pushed since, is looked for in the
// branch's history before it is pushed. One from afterwards is not, nor is a dry run.
func TestEarlierRedis(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		since   time.Duration // of this Redis, after the job was asked for
		found   string        // in the history
		dry     bool
		commit  string
		looks   bool
		pushing bool
	}{
		"it had run":          {time.Second, "by-j1", false, "by-j1", true, false},
		"it had not":          {time.Second, "", false, "on-c1", true, true},
		"it is of this Redis": {-time.Second, "by-j1", false, "on-c1", false, true},
		"a dry run":           {time.Second, "by-j1", true, "", false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			w.found = tc.found
			worker := w.worker()
			j := pushJob(func(j *job.Job) { j.Push.DryRun = tc.dry })
			worker.RedisSince = func() time.Time { return j.CreatedAt.Add(tc.since) }
			result, err := worker.Process(t.Context(), j)
			if err != nil || result.Push.Commit != tc.commit {
				t.Errorf("%+v, %v", result.Push, err)
			}
			calls := strings.Join(w.calls, ", ")
			if strings.Contains(calls, "find since") != tc.looks || strings.Contains(calls, "push main") != tc.pushing {
				t.Errorf("calls: %s", calls)
			}
			if want := j.CreatedAt.Add(-time.Hour); tc.looks && !w.searched.After.Equal(want) {
				t.Errorf("looked for what came after %s, want %s", w.searched.After, want)
			}
		})
	}
}
