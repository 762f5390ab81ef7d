package repolock

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/go-redsync/redsync/v4"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/keyspace"
)

// Lock is a repository that is locked. Its methods may be called concurrently.
type Lock struct {
	locker     *Locker
	mutex      *redsync.Mutex
	keys       keyspace.Repository
	repository string
	fence      int64

	ctx     context.Context
	end     context.CancelCauseFunc
	kept    chan struct{} // closed when keepAlive has ended
	release sync.Once
}

// hold starts to keep a lock alive that was taken at the earliest at begun.
func (l *Locker) hold(ctx context.Context, mutex *redsync.Mutex, begun time.Time, keys keyspace.Repository, repository string, fence int64) *Lock {
	lock := &Lock{
		locker: l, mutex: mutex, keys: keys, repository: repository, fence: fence,
		kept: make(chan struct{}),
	}
	lock.ctx, lock.end = context.WithCancelCause(ctx)
	go lock.keepAlive(begun)
	return lock
}

// Context is for the work under the lock. It ends with the context given to Acquire, when the lock is released, and when it
// is lost, then with an Unavailable fault as context.Cause, before another can hold it.
func (l *Lock) Context() context.Context { return l.ctx }

// Fence is greater than that of every holder before.
func (l *Lock) Fence() int64 { return l.fence }

// keepAlive extends the lock until the context ends. When Redis does not confirm in time, the lock counts as lost a little
// before Redis lets it go.
func (l *Lock) keepAlive(confirmed time.Time) {
	defer close(l.kept)
	ttl := l.locker.ttl
	safe := ttl - ttl/10
	// By a timer of its own: a call to a Redis that hangs ends later than that.
	expiry := time.AfterFunc(time.Until(confirmed.Add(safe)), l.lose)
	defer expiry.Stop()
	pause := ttl / 3
	for {
		timer := time.NewTimer(pause)
		select {
		case <-l.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		asked := time.Now()
		held, err := l.mutex.ExtendContext(l.ctx)
		var taken *redsync.ErrTaken
		switch {
		case held:
			expiry.Reset(time.Until(asked.Add(safe)))
			pause = ttl / 3
		case errors.As(err, &taken):
			l.lose()
		default:
			pause = ttl / 20
		}
	}
}

func (l *Lock) lose() {
	l.end(fault.Newf(fault.Unavailable, "the lock on repository %.200s was lost while working on it; the job is tried again", l.repository))
}

// Release gives the lock back. A lock that was lost is left to whoever holds it now, which is no error. After an error the
// lock goes away by itself after its TTL. Calls after the first do nothing.
func (l *Lock) Release(ctx context.Context) error {
	var err error
	l.release.Do(func() {
		l.end(context.Canceled)
		<-l.kept
		var taken *redsync.ErrTaken
		_, err = l.mutex.UnlockContext(ctx)
		if errors.As(err, &taken) || errors.Is(err, redsync.ErrLockAlreadyExpired) {
			err = nil
		}
		err = l.locker.classify(ctx, err, "unlock the repository")
	})
	return err
}

// Intent is what a job is about to push: found again after a crash, it says whether the push arrived.
type Intent struct {
	Branch string `json:"branch"`
	Commit string `json:"commit"`
	Parent string `json:"parent"`

	// What the push's result says beside, for the run that finds it done.
	Created bool `json:"created,omitempty"` // the branch was to be new
	Changed int  `json:"changed,omitempty"` // files
}

// KEYS: fence, intent. ARGV: the holder's fence, the intent, retention in milliseconds.
var intentScript = redis.NewScript(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return 1`)

// SetIntent writes down what the job is about to push, in place of what it wrote before. When another has held the lock
// since, or Redis has lost that this one does, nothing is written and the error is an Unavailable fault: to go on, the job has to lock
// the repository anew.
func (l *Lock) SetIntent(ctx context.Context, jobID string, intent Intent) error {
	encoded, err := json.Marshal(intent)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "write down the intended commit")
	}
	written, err := intentScript.Run(ctx, l.locker.redis, []string{l.keys.Fence(), l.keys.Intent(jobID)},
		l.fence, encoded, l.locker.retention.Milliseconds()).Bool()
	if err != nil {
		return l.locker.classify(ctx, err, "write down the intended commit")
	}
	if !written {
		return fault.Newf(fault.Unavailable, "write down the intended commit: the lock on repository %.200s was lost, or another job has it since; this one is tried again", l.repository)
	}
	return nil
}

// Intent is what the job wrote down last, whichever holder it was then; false where it wrote nothing.
func (l *Lock) Intent(ctx context.Context, jobID string) (Intent, bool, error) {
	encoded, err := l.locker.redis.Get(ctx, l.keys.Intent(jobID)).Bytes()
	switch {
	case errors.Is(err, redis.Nil):
		return Intent{}, false, nil
	case err != nil:
		return Intent{}, false, l.locker.classify(ctx, err, "read the intended commit")
	}
	var intent Intent
	if err := json.Unmarshal(encoded, &intent); err != nil {
		return Intent{}, false, fault.Wrapf(fault.Internal, err, "read the intended commit")
	}
	return intent, true, nil
}
