// Package pipeline sends Redis scripts that are called at the same time in one pipeline: one round trip, one write and one read
// for all of them, which under load costs both sides less than half.
//
// Nothing waits for company. A script that is alone is sent at once; those that come while as many groups as allowed are under way
// go together as soon as one of them is back.
package pipeline

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Options are what a [Client] can be told. The zero value is right.
type Options struct {
	// Most commands of a group; 256 by default. One means that each call goes alone.
	Most int
	// Flights is how many groups may be under way at once; 2 by default.
	Flights int
	// Timeout bounds a group's round trip; 3 s by default. A caller that goes away earlier does not end the group.
	Timeout time.Duration
}

// Client is a Redis client whose scripts are grouped; everything else goes to Redis as ever. It may be used concurrently, and a
// library takes it for an ordinary client. Close closes the client beneath.
type Client struct {
	redis.UniversalClient
	options Options

	mutex   sync.Mutex
	flights int
	waiting []*call
}

// call is the commands of one caller. They are sent next to each other, in order.
type call struct {
	commands []redis.Cmder
	// turn is closed when the commands are answered; it receives once before that where the caller is to send the next group.
	turn chan bool
}

// New makes a Client on top of another.
func New(client redis.UniversalClient, options Options) *Client {
	if options.Most <= 0 {
		options.Most = 256
	}
	if options.Flights <= 0 {
		options.Flights = 2
	}
	if options.Timeout <= 0 {
		options.Timeout = 3 * time.Second
	}
	return &Client{UniversalClient: client, options: options}
}

// EvalSha runs a script by its hash, together with those that others run now and behind the one that ctx brings by [Attach].
func (c *Client) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	command := newCommand(ctx, sha, keys, args)
	commands := []redis.Cmder{command}
	attached, found := ctx.Value(attachedKey{}).(*attachment)
	if found = found && !attached.sent; found {
		attached.sent = true
		commands = []redis.Cmder{attached.command, command}
	}
	if err := c.send(ctx, commands); err != nil {
		gone := redis.NewCmd(ctx) // the group still writes to the other one
		gone.SetErr(err)
		return gone
	}
	if found && redis.HasErrorPrefix(attached.command.Err(), "NOSCRIPT") {
		// Now, so that it stays ahead of the call that it came with, which is about to be repeated for the same reason.
		attached.command = attached.script.Eval(ctx, c.UniversalClient, attached.keys, attached.args...)
	}
	return command
}

func newCommand(ctx context.Context, sha string, keys []string, args []any) *redis.Cmd {
	words := make([]any, 0, 3+len(keys)+len(args))
	words = append(words, "evalsha", sha, len(keys))
	for _, key := range keys {
		words = append(words, key)
	}
	command := redis.NewCmd(ctx, append(words, args...)...)
	if len(keys) > 0 {
		command.SetFirstKeyPos(3)
	}
	return command
}

type attachedKey struct{}

// attachment is a script that travels in a context.
type attachment struct {
	client  *Client
	script  *redis.Script
	keys    []string
	args    []any
	command *redis.Cmd
	sent    bool
}

// Attached is the answer of a script that was attached.
type Attached struct{ *attachment }

// Attach returns a context with which the next script that runs on the client takes this one along, ahead of itself, in the same
// round trip: a way into the middle of a library's call. The context is for one call, of one goroutine.
func (c *Client) Attach(ctx context.Context, script *redis.Script, keys []string, args ...any) (context.Context, Attached) {
	attached := &attachment{client: c, script: script, keys: keys, args: args, command: newCommand(ctx, script.Hash(), keys, args)}
	return context.WithValue(ctx, attachedKey{}, attached), Attached{attached}
}

// Run is the attached script's answer. Where it did not travel, because the call that was to take it along sent nothing, it is run now.
// err is that of the call it was attached to; where that one did not come back, neither did this.
func (a Attached) Run(ctx context.Context, err error) (any, error) {
	switch {
	case !a.sent:
		if err != nil {
			return nil, err
		}
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		return a.command.Result()
	}
	return a.script.Eval(ctx, a.client.UniversalClient, a.keys, a.args...).Result()
}

// send returns when the commands are answered, each with its own error, or when ctx ends.
func (c *Client) send(ctx context.Context, commands []redis.Cmder) error {
	mine := &call{commands: commands, turn: make(chan bool, 1)}
	c.mutex.Lock()
	if c.flights >= c.options.Flights && c.options.Most > 1 {
		c.waiting = append(c.waiting, mine)
		c.mutex.Unlock()
		select {
		case lead := <-mine.turn:
			if !lead {
				return nil
			}
		case <-ctx.Done():
			return c.leave(ctx, mine)
		}
		c.mutex.Lock()
	} else {
		c.flights++
	}
	group := c.take(mine)
	c.mutex.Unlock()
	return c.lead(ctx, mine, group)
}

// lead sends a group. A leader whose ctx ends leaves it to its fate: the others still have their answers.
func (c *Client) lead(ctx context.Context, mine *call, group []*call) error {
	landed := make(chan struct{})
	go func() {
		defer close(landed)
		c.fly(ctx, group)
		c.pass()
		for _, other := range group {
			if other != mine {
				close(other.turn)
			}
		}
	}()
	select {
	case <-landed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// take is mine and those that wait, as many as fit. The mutex is held.
func (c *Client) take(mine *call) []*call {
	group, size := []*call{mine}, len(mine.commands)
	if c.options.Most == 1 {
		return group
	}
	n := 0
	for n < len(c.waiting) && size+len(c.waiting[n].commands) <= c.options.Most {
		size += len(c.waiting[n].commands)
		n++
	}
	group = append(group, c.waiting[:n]...)
	c.waiting = append(c.waiting[:0:0], c.waiting[n:]...)
	return group
}

// fly sends a group and waits for its answers. It heeds no single caller's end.
func (c *Client) fly(ctx context.Context, group []*call) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.options.Timeout)
	defer cancel()
	if len(group) == 1 && len(group[0].commands) == 1 {
		_ = c.Process(ctx, group[0].commands[0]) // the command has the error
		return
	}
	pipe := c.Pipeline()
	for _, one := range group {
		for _, command := range one.commands {
			_ = pipe.Process(ctx, command) // only queues
		}
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
}

// pass gives the flight to whoever waits longest, or ends it.
func (c *Client) pass() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if len(c.waiting) == 0 {
		c.flights--
		return
	}
	next := c.waiting[0]
	c.waiting = c.waiting[1:]
	next.turn <- true
}

// leave takes a caller out whose context has ended. One that is to lead by now sends its group all the same, and one whose commands
// are under way leaves them: they may still be done.
func (c *Client) leave(ctx context.Context, mine *call) error {
	c.mutex.Lock()
	if at := slices.Index(c.waiting, mine); at >= 0 {
		c.waiting = slices.Delete(c.waiting, at, at+1)
		c.mutex.Unlock()
		return ctx.Err()
	}
	select {
	case lead := <-mine.turn:
		if lead {
			c.mutex.Unlock()
			c.pass()
		} else {
			c.mutex.Unlock()
		}
	default:
		c.mutex.Unlock()
	}
	return ctx.Err()
}
