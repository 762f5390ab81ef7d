package queue

import "context"

// Sweep sweeps all queues once.
func (s *Server) Sweep(ctx context.Context) { s.sweepAll(ctx) }

// Sweep looks after parked jobs once.
func Sweep(ctx context.Context, client *Client) error { return client.refillAll(ctx) }
