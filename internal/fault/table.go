package fault

import "net/http"

// Problem is what an RFC 9457 answer takes from the kind alone.
type Problem struct {
	Status int
	Title  string
}

// Disposition is what becomes of a job whose attempt failed.
type Disposition uint8

// The dispositions.
const (
	Fail    Disposition = iota // ends as failed, not retried
	Expire                     // ends as expired, or waits for a token where the job says so
	Restart                    // again at once from the new tip, a few times, then failed
	Snooze                     // again after RetryAfter or backoff, not counted, bounded by the job's age
	Retry                      // again after backoff, counted, while the token lives
	Requeue                    // back to the queue, not counted
	Cancel                     // ends as canceled
)

// One row a kind. A Forge event answered with anything but 2xx is delivered again, so a status is also a decision
// about redelivery; 401 is kept for the FIT (facts: Forge Remote).
var table = [...]struct {
	Problem
	Disposition
}{
	Internal:        {Problem{http.StatusInternalServerError, "Internal error"}, Retry},
	Invalid:         {Problem{http.StatusBadRequest, "Invalid request"}, Fail},
	Unauthenticated: {Problem{http.StatusUnauthorized, "Invocation token refused"}, Fail},
	Denied:          {Problem{http.StatusForbidden, "Not allowed"}, Fail},
	NotFound:        {Problem{http.StatusNotFound, "Not found"}, Fail},
	Conflict:        {Problem{http.StatusConflict, "Conflict"}, Restart},
	TooLarge:        {Problem{http.StatusRequestEntityTooLarge, "Too large"}, Fail},
	Expired:         {Problem{http.StatusConflict, "OAuth token expired"}, Expire},
	Throttled:       {Problem{http.StatusTooManyRequests, "Too many requests"}, Snooze},
	Unavailable:     {Problem{http.StatusServiceUnavailable, "Unavailable"}, Retry},
	Interrupted:     {Problem{http.StatusServiceUnavailable, "Stopping"}, Requeue},
	Canceled:        {Problem{http.StatusConflict, "Canceled"}, Cancel},
}

// Problem is the kind's row in the HTTP table.
func (k Kind) Problem() Problem {
	if int(k) < len(table) {
		return table[k].Problem
	}
	return table[Internal].Problem
}

// Disposition is the kind's row in the job table.
func (k Kind) Disposition() Disposition {
	if int(k) < len(table) {
		return table[k].Disposition
	}
	return table[Internal].Disposition
}
