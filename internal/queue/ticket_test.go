package queue

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/ledger"
)

// TestTicket comes out of asynq as it went in, and the dashboard says what it is about. Of whatever else is in a queue it shows nothing.
func TestTicket(t *testing.T) {
	t.Parallel()
	issued := ledger.Ticket{
		Installation: "i", Job: "j", Class: job.ClassBatch, Generation: 2, Serial: 3, Operation: job.OperationPush, Repository: "acme/web",
		Actor: "user", Requester: "712020:alice", Branch: "main", Rule: "r", Batch: "b", CreatedAt: time.Unix(1, 0).UTC(),
	}
	task, err := taskOf(issued)
	if err != nil {
		t.Fatal(err)
	}
	served, err := readTicket(task.Payload())
	if diff := cmp.Diff(issued, served); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if got, want := Describe(task.Payload()), "push acme/web main as user, asked for by i at 1970-01-01T00:00:01Z"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, other := range []string{"canary", `{"v":1,"id":"x","installation":"canary"}`, `"canary"`} {
		if got := Describe([]byte(other)); strings.Contains(got, "canary") {
			t.Errorf("%s: %q", other, got)
		}
	}
}
