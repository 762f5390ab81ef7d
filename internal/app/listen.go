package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// drain is how long answers that are under way get when the program stops. Forge waits 25 s at the most.
const drain = 25 * time.Second

// listener is a bound address and what serves on it.
type listener struct {
	net.Listener
	server *http.Server
}

// bind takes the address at once, so that a taken port is an error at start and not a log line later.
func bind(ctx context.Context, address string, server *http.Server) (*listener, error) {
	bound, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return &listener{bound, server}, nil
}

// serve answers until ctx ends, then lets what is under way finish.
func (l *listener) serve(ctx context.Context) error {
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		stopped <- l.server.Shutdown(deadline)
	})
	err := l.server.Serve(l.Listener)
	if stop() { // Serve failed by itself
		return fmt.Errorf("serve on %s: %w", l.Addr(), err)
	}
	if err := <-stopped; err != nil {
		return errors.Join(fmt.Errorf("answers were cut off on %s: %w", l.Addr(), err), l.server.Close())
	}
	return nil
}
