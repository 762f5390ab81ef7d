package queue

import "context"

// Sweep sweeps all queues once.
func (s *Server) Sweep(ctx context.Context) { s.sweepAll(ctx) }

// Refill lets parked jobs follow once.
func (s *Server) Refill(ctx context.Context) error { return s.refillAll(ctx) }
