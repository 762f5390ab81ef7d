package queue

// Version 0.9 deletes this file: until then a Redis may hold tasks of a version whose tasks were the jobs, and receivers of that version may go
// on writing them. They lie in queues of other names, which this version does not serve. Each is deleted once the job stands in its record.

import (
	"context"
	"errors"
	"log/slog"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/job"
)

const adoptPage = 100

// Adopt takes over the jobs of an older version's tasks, and returns how many it found.
func (c *Client) Adopt(ctx context.Context) (int, error) {
	total := 0
	for _, class := range job.Classes() {
		old := string(class)
		there, err := c.oldTasks(ctx, old)
		if err != nil || there == 0 {
			return total, unavailable(err, "take over jobs")
		}
	}
	return total, nil
}
