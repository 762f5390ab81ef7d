package queue

import "context"

// Sweep sweeps all queues once.
func (s *Server) Sweep(ctx context.Context) { s.sweepAll(ctx) }
