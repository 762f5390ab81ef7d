package pipeline_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/pipeline"
	"github.com/gitsmith/gitsmith/internal/queue/queuetest"
	"github.com/gitsmith/gitsmith/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	count = redis.NewScript(`return redis.call('INCRBY', KEYS[1], ARGV[1])`)
	echo  = redis.NewScript(`return ARGV[1] .. (redis.call('GET', KEYS[1]) or '')`)
)

// gate is a hook that counts round trips and can hold them up.
type gate struct {
	trips   atomic.Int64
	largest atomic.Int64
	hold    chan struct{} // nil: nothing is held
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook { return next }

func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, command redis.Cmder) error {
		g.pass([]redis.Cmder{command})
		return next(ctx, command)
	}
}

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, commands []redis.Cmder) error {
		g.pass(commands)
		return next(ctx, commands)
	}
}

func (g *gate) pass(commands []redis.Cmder) {
	if commands[0].Name() != "evalsha" {
		return // a new connection says hello
	}
	size := int64(len(commands))
	g.trips.Add(1)
	for old := g.largest.Load(); size > old && !g.largest.CompareAndSwap(old, size); old = g.largest.Load() {
	}
	if g.hold != nil {
		<-g.hold
	}
}

func start(t *testing.T, options pipeline.Options, hold chan struct{}) (*pipeline.Client, *gate) {
	t.Helper()
	plain := queuetest.Start(t).Client()
	// Known beforehand, so that no test counts the round trip that brings a script.
	for _, script := range []*redis.Script{count, echo} {
		if err := script.Load(t.Context(), plain).Err(); err != nil {
			t.Fatal(err)
		}
	}
	g := &gate{hold: hold}
	plain.AddHook(g)
	return pipeline.New(plain, options), g
}

func TestOneAloneIsSentAtOnce(t *testing.T) {
	t.Parallel()
	client, g := start(t, pipeline.Options{}, nil)
	if n, err := count.Run(t.Context(), client, []string{"n"}, 5).Int(); err != nil || n != 5 {
		t.Fatal(n, err)
	}
	if g.trips.Load() != 1 || g.largest.Load() != 1 {
		t.Errorf("%d round trips, %d commands in one", g.trips.Load(), g.largest.Load())
	}
}

// TestWhatComesMeanwhileGoesTogether holds the first groups up until everybody waits: two trips then serve all the rest.
func TestWhatComesMeanwhileGoesTogether(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	client, g := start(t, pipeline.Options{Flights: 2}, hold)
	const callers = 50
	var group sync.WaitGroup
	var wrong atomic.Int64
	for i := range callers {
		group.Go(func() {
			text, err := echo.Run(t.Context(), client, []string{"nothing"}, fmt.Sprint(i)).Text()
			if err != nil || text != fmt.Sprint(i) {
				wrong.Add(1)
			}
		})
	}
	await(t, client, callers-2)
	close(hold)
	group.Wait()
	if wrong.Load() > 0 {
		t.Errorf("%d answers went to another caller", wrong.Load())
	}
	if g.trips.Load() > 4 || g.largest.Load() < 20 {
		t.Errorf("%d round trips, at most %d together", g.trips.Load(), g.largest.Load())
	}
}

func TestGroupsAreBounded(t *testing.T) {
	t.Parallel()
	for _, most := range []int{1, 4} {
		client, g := start(t, pipeline.Options{Most: most, Flights: 1}, nil)
		var group sync.WaitGroup
		for range 40 {
			group.Go(func() { count.Run(t.Context(), client, []string{"n"}, 1) })
		}
		group.Wait()
		if n, err := client.Get(t.Context(), "n").Int(); err != nil || n != 40 || g.largest.Load() > int64(most) {
			t.Errorf("most %d: counted %d (%v), %d together", most, n, err, g.largest.Load())
		}
	}
}

// TestOneFailureIsOnesOwn gives a script's error to its caller alone.
func TestOneFailureIsOnesOwn(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	client, _ := start(t, pipeline.Options{Flights: 1}, hold)
	var group sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		group.Go(func() {
			by := "1"
			if i%2 == 1 {
				by = "no number"
			}
			errs[i] = count.Run(t.Context(), client, []string{"n"}, by).Err()
		})
	}
	await(t, client, len(errs)-1)
	close(hold)
	group.Wait()
	for i, err := range errs {
		if (err != nil) != (i%2 == 1) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func TestAttachedGoesAlong(t *testing.T) {
	t.Parallel()
	client, g := start(t, pipeline.Options{}, nil)
	ctx, attached := client.Attach(t.Context(), count, []string{"n"}, 7)
	text, err := echo.Run(ctx, client, []string{"n"}, "n=").Text()
	first, attachedErr := attached.Run(t.Context(), err)
	if text != "n=7" || err != nil || first != int64(7) || attachedErr != nil || g.trips.Load() != 1 {
		t.Errorf("%q %v; %v %v; %d round trips", text, err, first, attachedErr, g.trips.Load())
	}
	if again := echo.Run(ctx, client, []string{"n"}, "n=").Val(); again != "n=7" {
		t.Errorf("it went along twice: %v", again)
	}
}

// TestAttachedAfterScriptsWereFlushed brings both scripts along where Redis has lost them, in their order.
func TestAttachedAfterScriptsWereFlushed(t *testing.T) {
	t.Parallel()
	client, _ := start(t, pipeline.Options{}, nil)
	if err := client.ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	ctx, attached := client.Attach(t.Context(), count, []string{"n"}, 7)
	text, err := echo.Run(ctx, client, []string{"n"}, "n=").Text()
	first, attachedErr := attached.Run(t.Context(), err)
	if text != "n=7" || err != nil || first != int64(7) || attachedErr != nil {
		t.Error(text, err, first, attachedErr)
	}
}

// TestAttachedWhereTheCallNeverWent runs it alone, or passes the call's failure on.
func TestAttachedWhereTheCallNeverWent(t *testing.T) {
	t.Parallel()
	client, _ := start(t, pipeline.Options{}, nil)
	_, attached := client.Attach(t.Context(), count, []string{"n"}, 7)
	if _, err := attached.Run(t.Context(), net.ErrClosed); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if first, err := attached.Run(t.Context(), nil); first != int64(7) || err != nil {
		t.Error(first, err)
	}
}

// TestCallersWhoLeave lets the others have their answers, whether the one who leaves waits, is under way, or is to lead.
func TestCallersWhoLeave(t *testing.T) {
	t.Parallel()
	hold := make(chan struct{})
	client, _ := start(t, pipeline.Options{Flights: 1}, hold)
	ctx, leave := context.WithCancel(t.Context())
	var group sync.WaitGroup
	var left, stayed atomic.Int64
	for i := range 30 {
		group.Go(func() {
			mine := t.Context()
			if i%3 == 0 {
				mine = ctx
			}
			err := count.Run(mine, client, []string{"n"}, 1).Err()
			switch {
			case err == nil:
				stayed.Add(1)
			case errors.Is(err, context.Canceled) && i%3 == 0:
				left.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	await(t, client, 29)
	leave()
	close(hold)
	group.Wait()
	if stayed.Load() < 20 || left.Load()+stayed.Load() != 30 {
		t.Errorf("%d left, %d stayed", left.Load(), stayed.Load())
	}
	if err := count.Run(t.Context(), client, []string{"n"}, 1).Err(); err != nil || pipeline.Waiting(client) != 0 {
		t.Error("the client does not go on", err)
	}
}

// TestRedisAway fails everybody, and serves again when it is back.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	server := queuetest.Start(t)
	client := pipeline.New(server.Client(), pipeline.Options{Timeout: 500 * time.Millisecond})
	server.Kill()
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if err := count.Run(t.Context(), client, []string{"n"}, 1).Err(); err == nil {
				t.Error("a Redis that is away answers")
			}
		})
	}
	group.Wait()
	server.Restart()
	if err := count.Run(t.Context(), client, []string{"n"}, 1).Err(); err != nil {
		t.Error(err)
	}
}

// await waits until so many callers wait.
func await(t *testing.T, client *pipeline.Client, callers int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d callers wait", callers), func() error {
		if waiting := pipeline.Waiting(client); waiting != callers {
			return fmt.Errorf("%d wait", waiting)
		}
		return nil
	})
}
