package job

import "time"

// AttemptError is a failed attempt together with how long another one makes sense: the expiry of the only token there is,
// less the margin.
type AttemptError struct {
	Err        error
	RetryUntil time.Time // zero: no bound
}

// Error is the error's own text.
func (e *AttemptError) Error() string { return e.Err.Error() }

// Unwrap keeps the kind visible.
func (e *AttemptError) Unwrap() error { return e.Err }
