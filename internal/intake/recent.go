package intake

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

const (
	// lossWindow is how far back a Redis whose machine lost its power may lack what it had answered: with an append-only file and fsync
	// every second, up to two (redis.conf, appendfsync). A replica that takes over may lack as much.
	lossWindow = 3 * time.Second
	// meetPause is between two looks which Redis it is that answers.
	meetPause = time.Second
	// What is kept of the last seconds at most; the oldest goes. Forge delivers 1,667 a second for one tenant at the most: two seconds.
	maxRecent      = 3_500
	maxRecentBytes = 16 << 20
)

// recent is what was done in Redis within the last seconds, and made something that Redis alone holds.
type recent struct {
	mutex   sync.Mutex
	entries []done
	bytes   int
	begun   bool // it is known which Redis has taken them
	tokens  map[tokenPlace][]byte
}

// tokenPlace is whose token it is. The same one comes with every call, and is kept once.
type tokenPlace struct {
	installation string
	actor        forge.Actor
}

// done is a delivery that Redis has taken.
type done struct {
	at    time.Time
	entry entry
	jobs  []job.Job
	bytes int
}

func (r *recent) add(one done) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	for at, token := range one.entry.Tokens {
		place := tokenPlace{one.entry.Call.ID, token.Actor}
		if kept := r.tokens[place]; bytes.Equal(kept, token.Text) {
			one.entry.Tokens[at].Text = kept
			continue
		}
		if r.tokens == nil {
			r.tokens = map[tokenPlace][]byte{}
		}
		r.tokens[place] = token.Text
		one.bytes += len(token.Text)
	}
	r.entries = append(r.entries, one)
	r.bytes += one.bytes
	for len(r.entries) > maxRecent || r.bytes > maxRecentBytes {
		r.drop(1)
	}
}

// drop forgets the oldest. The mutex is held.
func (r *recent) drop(n int) {
	for _, one := range r.entries[:n] {
		r.bytes -= one.bytes
	}
	clear(r.entries[:n])
	r.entries = r.entries[n:]
}

// forget drops what is older.
func (r *recent) forget(before time.Time) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	r.begun = true
	n := 0
	for n < len(r.entries) && r.entries[n].at.Before(before) {
		n++
	}
	r.drop(n)
	if len(r.entries) == 0 {
		r.entries, r.tokens = nil, nil // with what they had grown to
	}
	if len(r.tokens) > maxRecent {
		r.tokens = nil
	}
}

func (r *recent) all() []done {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return append([]done(nil), r.entries...)
}

// remember keeps a delivery for the case that Redis loses it. One that only brought a token is not kept: the same token comes again.
func (i *Intake) remember(e entry, jobs []job.Job, size int) {
	if i.Instance == nil || len(jobs) == 0 && !e.Removed && !e.Call.Installed && !e.Call.Scheduled {
		return
	}
	i.recent.add(done{at: i.Now(), entry: e, jobs: jobs, bytes: max(size, 0) + 1024})
}

// meet sees which Redis answers. One that is another than before, because it was started again or another machine has taken over, may
// lack what its predecessor had answered in its last seconds: that is done again, and nothing of it twice.
func (i *Intake) meet(ctx context.Context) error {
	if i.Instance == nil {
		return nil
	}
	looked := i.Now()
	limited, cancel := context.WithTimeout(ctx, i.Patience)
	instance, err := i.Instance(limited)
	cancel()
	switch {
	case err != nil:
		return err
	case i.instance == "" || instance == i.instance:
		i.instance = instance
		i.recent.forget(looked.Add(-lossWindow))
		return nil
	}
	if i.Renewed != nil {
		if err := i.Renewed(ctx); err != nil {
			return err
		}
	}
	again := i.recent.all()
	for _, one := range again {
		limited, cancel := context.WithTimeout(ctx, applyTime)
		_, err := i.apply(limited, one.entry, one.jobs)
		cancel()
		if err != nil && isAway(err) {
			return err
		}
		if err != nil {
			i.Logger.WarnContext(ctx, "a delivery that redis may have lost was refused when it was done again",
				slog.String("installation", one.entry.Call.ID), slog.String("error", secret.Scrub(fault.Private(err))))
		}
	}
	i.Logger.InfoContext(ctx, "another redis answers than before; deliveries of the last seconds were done again", slog.Int("count", len(again)))
	i.instance = instance
	return nil
}
