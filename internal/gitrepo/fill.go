package gitrepo

import (
	"context"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/tipcache"
)

// No job waits for the tip cache, which only the next one uses: it is written on the side. A snapshot that is closed may also have needed
// less than is on its way: its trees go on arriving. The next reading of the repository waits for that.
const (
	maxArriving = 4                // packs at once; further ones hold their snapshot's Close
	fillTime    = 10 * time.Minute // for one
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
	many   int // of which a pack still arrives
	ended  bool
	active sync.WaitGroup
}

type fill struct {
	life    life
	arrives bool // a pack
	done    chan struct{}
	later   []*Commit // that were pushed meanwhile
}

// begin begins a fill, which goes on when the context that life was made of has ended; nil where that may not be.
func (f *fills) begin(key tipcache.Key, l life, arrives bool) *fill {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended || arrives && f.many >= maxArriving || f.byKey[key] != nil || !l.unlink() {
		return nil
	}
	begun := &fill{life: l, arrives: arrives, done: make(chan struct{})}
	if arrives {
		f.many++
	}
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
	if ended.arrives {
		f.many--
	}
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

// fill keeps on the side what the tip cache takes of a snapshot that is closed, and goes on receiving it; false where that may not be.
func (s *Snapshot) fill() bool {
	arrives := s.objects.main != nil && !s.objects.main.complete()
	begun := s.client.fills.begin(s.objects.remote.cacheKey(), s.objects.life, arrives)
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
		s.client.finish(s.objects.remote)
	}()
	return true
}

// finish ends a fill, after the commits that were pushed meanwhile.
func (c *Client) finish(remote Remote) {
	key := remote.cacheKey()
	for later := c.fills.finish(key); later != nil; later = c.fills.finish(key) {
		for _, each := range later {
			c.store(remote, each)
		}
	}
}

// keep puts a commit that became a branch's tip into the tip cache, on the side.
func (c *Client) keep(remote Remote, commit *Commit) {
	key := remote.cacheKey()
	if c.cache == nil || remote.Installation == "" || c.fills.leave(key, commit) {
		return
	}
	l := newLife(context.Background())
	if c.fills.begin(key, l, false) == nil {
		l.end()
		c.store(remote, commit)
		return
	}
	go func() {
		c.store(remote, commit)
		l.end()
		c.finish(remote)
	}()
}

// WaitForCache waits until nothing arrives any more that only the tip cache needs. Nothing must be read meanwhile.
func (c *Client) WaitForCache() { c.fills.active.Wait() }

func (c *Client) cacheFailed(err error) {
	if err != nil && c.config.CacheFailed != nil {
		c.config.CacheFailed(err)
	}
}
