// Package dispatch is the one loop that sees to it that what may run does: it looks at the installations that have jobs, judges the leases of
// attempts whose worker fell silent, and has tickets issued for jobs whose turn or time has come and for those whose ticket was lost.
// Beside it a [Driver] makes jobs of batches' repositories when it is their turn, and asks batches' queries; a [Filler] gives those jobs
// their content.
//
// Every worker has a [Dispatcher]. The installations are divided into shards, and each shard is looked at by the one process that has its
// lease, so that the cost does not grow with the number of workers.
package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/gitsmith/gitsmith/internal/keyspace"
	"github.com/gitsmith/gitsmith/internal/ledger"
)

// Tickets carries tickets to the workers.
type Tickets interface {
	// Issue hands tickets out.
	Issue(ctx context.Context, tickets []ledger.Ticket) error
	// Backlog is how long the oldest ticket of each class waits.
	Backlog(ctx context.Context) (ledger.Backlog, error)
	// Repair mends what carries the tickets.
	Repair(ctx context.Context) error
	// Adopt takes over the jobs that an older version has left.
	Adopt(ctx context.Context) error
	// Instance names the Redis that answers; empty where it does not say.
	Instance(ctx context.Context) (string, error)
}

// Config is what a [Dispatcher] is made of. Ledger, Tickets and Logger are required.
type Config struct {
	Ledger  *ledger.Ledger
	Tickets Tickets
	Now     func() time.Time // default time.Now
	Logger  *slog.Logger
}

// Dispatcher looks at the shards whose lease it has.
type Dispatcher struct {
	Config
	name  string
	trust trust
	looks int // at the same time

	leads    atomic.Bool          // it has the lease of the first shard
	shards   []int                // whose lease it has
	leasedAt time.Time            // when the leases were last asked for
	repaired time.Time            // when the tickets were last repaired
	adopted  time.Time            // when jobs of an older version were last looked for
	idle     map[string]time.Time // installations without jobs, since when
}

const (
	tickPause    = 250 * time.Millisecond
	leasePause   = 2 * time.Second // between two askings for leases
	leaseLife    = 6 * time.Second // of a shard's lease
	repairPause  = 10 * time.Second
	adoptPause   = time.Second
	claimed      = 200 // installations of a shard that are looked at in one round
	looks        = 16  // at the same time: they share round trips, and everybody else waits for those
	mostRounds   = 250 // of looks at one installation, which finds the rest in the next round
	maxIdle      = 100_000
	releaseLimit = 2 * time.Second
)

// New makes a Dispatcher.
func New(config Config) *Dispatcher {
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Dispatcher{Config: config, name: uuid.NewString(), looks: looks, idle: map[string]time.Time{}}
}

// Leads reports whether this dispatcher is the one that does what concerns all installations.
func (d *Dispatcher) Leads() bool { return d.leads.Load() }

// Run looks until ctx ends.
func (d *Dispatcher) Run(ctx context.Context) error {
	tick := time.NewTicker(tickPause)
	defer tick.Stop()
	defer d.release(ctx)
	for {
		if err := d.Round(ctx); err != nil && ctx.Err() == nil {
			d.Logger.WarnContext(ctx, "jobs could not be looked after; it is tried again", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Round looks once at what is due.
func (d *Dispatcher) Round(ctx context.Context) error {
	if d.Now().Sub(d.leasedAt) >= leasePause {
		if err := d.lease(ctx); err != nil {
			d.trust.lost()
			return err
		}
	}
	if len(d.shards) == 0 {
		return nil
	}
	err := d.round(ctx)
	if err != nil {
		d.trust.lost()
	}
	return err
}

// lease asks for every shard, and learns whether Redis is the one that it was.
func (d *Dispatcher) lease(ctx context.Context) error {
	instance, err := d.Tickets.Instance(ctx)
	if err != nil {
		return err
	}
	d.trust.heard(instance, d.Now())
	var shards []int
	for shard := range keyspace.Shards {
		mine, err := d.Ledger.Lease(ctx, shard, d.name, leaseLife)
		if err != nil {
			return err
		}
		if mine {
			shards = append(shards, shard)
		}
	}
	d.shards, d.leasedAt = shards, d.Now()
	d.leads.Store(len(shards) > 0 && shards[0] == 0)
	if !d.leads.Load() || !d.trust.recount {
		return nil
	}
	if err := d.Ledger.Recount(ctx); err != nil {
		return err
	}
	d.trust.counted()
	return nil
}

func (d *Dispatcher) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
	defer cancel()
	for _, shard := range d.shards {
		if err := d.Ledger.Release(ctx, shard, d.name); err != nil {
			return // they run out
		}
	}
}

func (d *Dispatcher) round(ctx context.Context) error {
	if d.leads.Load() {
		if err := d.mend(ctx); err != nil {
			return err
		}
	}
	at := d.Now()
	found := map[string]bool{}
	for _, shard := range d.shards {
		installations, err := d.Ledger.Claim(ctx, shard, claimed)
		if err != nil {
			return err
		}
		for _, installation := range installations {
			found[installation] = true
		}
	}
	if len(found) == 0 {
		return nil
	}
	backlog, err := d.Tickets.Backlog(ctx)
	if err != nil {
		return err
	}
	return d.lookAt(ctx, found, backlog, at)
}

// mend has one process do what concerns all installations.
func (d *Dispatcher) mend(ctx context.Context) error {
	if d.Now().Sub(d.repaired) >= repairPause {
		if err := d.Tickets.Repair(ctx); err != nil {
			return err
		}
		d.repaired = d.Now()
	}
	if d.Now().Sub(d.adopted) >= adoptPause {
		if err := d.Tickets.Adopt(ctx); err != nil {
			return err
		}
		d.adopted = d.Now()
	}
	return nil
}

// looked is what was found of an installation.
type looked struct {
	installation string
	found        ledger.Found
	err          error
}

// lookAt looks at those installations of which there is something to do, several at the same time. One's trouble does not keep the others
// waiting.
func (d *Dispatcher) lookAt(ctx context.Context, installations map[string]bool, backlog ledger.Backlog, at time.Time) error {
	judge := d.trust.judges(at)
	quiet, err := d.Ledger.Glance(ctx, slices.Collect(maps.Keys(installations)), backlog)
	if err != nil {
		return err
	}
	all := make(chan looked, len(installations))
	var group errgroup.Group
	group.SetLimit(d.looks)
	for _, installation := range slices.Sorted(maps.Keys(installations)) {
		if found, is := quiet[installation]; is {
			all <- looked{installation: installation, found: found}
			continue
		}
		group.Go(func() error {
			found, err := d.look(ctx, installation, backlog, judge)
			all <- looked{installation, found, err}
			return nil
		})
	}
	_ = group.Wait() // they are all in the channel
	close(all)
	return d.settle(ctx, all, at)
}

// settle has installations looked at again when something of them is due.
func (d *Dispatcher) settle(ctx context.Context, all <-chan looked, at time.Time) error {
	var errs []error
	again := map[string]time.Duration{}
	for each := range all {
		if each.err == nil && !each.found.Idle {
			delete(d.idle, each.installation)
			again[each.installation] = each.found.Again()
			continue
		}
		if each.err == nil {
			each.err = d.settleIdle(ctx, each.installation, at)
		}
		errs = append(errs, each.err)
	}
	return errors.Join(append(errs, d.Ledger.SettleAll(ctx, d.Now().Sub(at), again))...)
}

// look finds what is to be done of an installation, page by page.
func (d *Dispatcher) look(ctx context.Context, installation string, backlog ledger.Backlog, judge bool) (ledger.Found, error) {
	for range mostRounds - 1 {
		found, err := d.lookOnce(ctx, installation, backlog, judge)
		if err != nil || !found.More {
			return found, err
		}
	}
	return d.lookOnce(ctx, installation, backlog, judge)
}

func (d *Dispatcher) lookOnce(ctx context.Context, installation string, backlog ledger.Backlog, judge bool) (ledger.Found, error) {
	found, err := d.Ledger.Look(ctx, installation, backlog, judge)
	if err != nil {
		return found, err
	}
	if found.Lapsed > 0 {
		d.Logger.WarnContext(ctx, "workers fell silent; their jobs are done again", slog.String("installation", installation), slog.Int("count", found.Lapsed))
	}
	return found, d.Tickets.Issue(ctx, found.Tickets)
}

// settleIdle has an installation without jobs looked at again, and lets it go that has had none for a while: another process may know it
// to be there and write one.
func (d *Dispatcher) settleIdle(ctx context.Context, installation string, at time.Time) error {
	switch {
	case d.idle[installation].IsZero():
		if len(d.idle) >= maxIdle {
			clear(d.idle)
		}
		d.idle[installation] = at
	case at.Sub(d.idle[installation]) >= ledger.Probation:
		delete(d.idle, installation)
		if err := d.Ledger.Settle(ctx, installation, d.Now().Sub(at), -1); err != nil {
			return err
		}
		found, err := d.Ledger.Look(ctx, installation, nil, false) // a job may have been written a moment ago
		if err != nil || found.Idle {
			return err
		}
		return errors.Join(d.Ledger.Hurry(ctx, installation, 0), d.Tickets.Issue(ctx, found.Tickets))
	}
	return d.Ledger.Settle(ctx, installation, d.Now().Sub(at), ledger.LookPause)
}
