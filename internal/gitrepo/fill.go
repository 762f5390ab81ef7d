package gitrepo

import (
	"context"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/tipcache"
)

// A snapshot that is closed may have needed less than is on its way: its trees go on arriving for the tip cache, so that a
// commit need not wait for what only the next one uses. The next reading of the repository waits for that.
const (
	maxFills = 4                // at once; further ones hold their snapshot's Close
	fillTime = 10 * time.Minute // for one
)

// life is how long packs may arrive: as long as the context of a fetch, or longer once they are let go.
type life struct {
	ctx    context.Context //nolint:containedctx // it outlives the call
	cancel context.CancelCauseFunc
	unlink func() bool
}

func newLife(ctx context.Context) life {
	lasting, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	return life{lasting, cancel, context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })}
}

// end ends it.
func (l life) end() {
	l.unlink()
	l.cancel(nil)
}

// fills are those of a client.
type fills struct {
	mu     sync.Mutex
	byKey  map[tipcache.Key]*fill
	ended  bool
	active sync.WaitGroup
}

type fill struct {
	life  life
	done  chan struct{}
	later []*Commit // that were pushed meanwhile
}

// begin lets a snapshot go on; nil where it may not.
func (f *fills) begin(key tipcache.Key, l life) *fill {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || len(f.byKey) >= maxFills || f.byKey[key] != nil || !l.unlink() {
		return nil
	}
	begun := &fill{life: l, done: make(chan struct{})}
	if f.byKey == nil {
		f.byKey = map[tipcache.Key]*fill{}
	}
	f.byKey[key] = begun
	f.active.Add(1)
	return begun
}

// finish ends a fill unless commits were pushed meanwhile, which it gives.
func (f *fills) finish(key tipcache.Key) []*Commit {
	f.mu.Lock()
	defer f.mu.Unlock()
	ended := f.byKey[key]
	if later := ended.later; len(later) > 0 {
		ended.later = nil
		return later
	}
	delete(f.byKey, key)
	close(ended.done)
	f.active.Done()
	return nil
}

// leave leaves a pushed commit to the fill of its repository, and reports whether there is one.
func (f *fills) leave(key tipcache.Key, commit *Commit) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	active := f.byKey[key]
	if active != nil {
		active.later = append(active.later, commit)
	}
	return active != nil
}

// wait waits for the fill of a repository, or the end of ctx.
func (f *fills) wait(ctx context.Context, key tipcache.Key) {
	f.mu.Lock()
	active := f.byKey[key]
	f.mu.Unlock()
	if active == nil {
		return
	}
	select {
	case <-active.done:
	case <-ctx.Done():
	}
}

// end stops all and waits for them.
func (f *fills) end() {
	f.mu.Lock()
	f.ended = true
	for _, active := range f.byKey {
		active.life.cancel(context.Canceled)
	}
	f.mu.Unlock()
	f.active.Wait()
}

// fill goes on receiving what the tip cache keeps of a snapshot that is closed; false where it must not.
func (s *Snapshot) fill() bool {
	key := s.objects.remote.cacheKey()
	begun := s.client.fills.begin(key, s.objects.life)
	if begun == nil {
		return false
	}
	timer := time.AfterFunc(fillTime, func() { begun.life.cancel(context.DeadlineExceeded) })
	go func() {
		s.keep()
		timer.Stop()
		if err := s.objects.close(); err != nil {
			s.client.cacheFailed(err)
		}
		for later := s.client.fills.finish(key); later != nil; later = s.client.fills.finish(key) {
			for _, each := range later {
				s.client.store(s.objects.remote, each)
			}
		}
	}()
	return true
}

// WaitForCache waits until nothing arrives any more that only the tip cache needs.
func (c *Client) WaitForCache() { c.fills.active.Wait() }

func (c *Client) cacheFailed(err error) {
	if err != nil && c.config.CacheFailed != nil {
		c.config.CacheFailed(err)
	}
}
