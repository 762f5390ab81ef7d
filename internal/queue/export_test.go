package queue

import "context"

// Sweep sweeps all queues once.
func (s *Server) Sweep(ctx context.Context) { s.sweepAll(ctx) }

// LookForCancels looks once for cancels that the channel lost.
func (s *Server) LookForCancels(ctx context.Context) { s.lookForCancels(ctx) }
