package dispatch

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/gitsmith/gitsmith/internal/batch"
	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

func (w *world) batch(rt *rapid.T) {
	if len(w.batches) == 2 {
		rt.Skip("there are enough")
	}
	n := len(w.batches)
	b := &tracedBatch{id: fmt.Sprint("batch-", n), installation: modelInstallations[n], total: rapid.IntRange(1, 4).Draw(rt, "repositories")}
	body := map[string]any{"push": map[string]any{
		"branch": "x", "create": true, "message": "m", "changes": []any{map[string]any{"put": map[string]any{"path": "a.txt", "content": "x"}}},
	}}
	repositories := make([]map[string]any, b.total)
	for i := range repositories {
		repositories[i] = map[string]any{"workspace": "acme", "slug": fmt.Sprintf("repo%d", i)}
	}
	body["repositories"] = repositories
	maps.Copy(body, choose(rt, "how", []map[string]any{{}, {"concurrency": 1}, {"rollout": map[string]any{"canary": 1}}, {"per_hour": 6000}}))
	text, err := json.Marshal(body)
	if err != nil {
		w.fatalf("%v", err)
	}
	request, err := batch.ParseRequest(text, job.DefaultLimits())
	if err != nil {
		w.fatalf("%s: %v", text, err)
	}
	for i := range b.total {
		w.track(job.Job{ID: batch.JobID(b.id, i), Installation: b.installation, Class: job.ClassBatch, Batch: job.BatchRef{ID: b.id, Item: i}, Repository: bitbucket.Repository{Workspace: "acme", Slug: "x"}})
	}
	w.batches = append(w.batches, b)
	asked := batch.Batch{
		ID: b.id, Installation: b.installation, Actor: forge.Actor{Kind: forge.ActorSystem}, CreatedAt: w.now, Digest: "digest of " + b.id, Request: request,
	}
	for alive := false; !alive; rt = nil { // a caller asks again until he knows
		alive = w.by(rt, receiver, func(p *process) {
			_, _, err := p.batches.Create(w.ctx, asked)
			w.note("batch %s of %d: %v", b.id, b.total, err)
			if err != nil {
				w.mustBeDead(p, err)
			}
		})
	}
}

func (w *world) steer(rt *rapid.T) {
	b := choose(rt, "batch", w.batches)
	how := choose(rt, "how", []string{"pause", "resume", "resume", "retry", "cancel"})
	for _, t := range w.order {
		if how == "retry" && t.job.Batch.ID == b.id {
			t.opened++
		}
	}
	w.by(rt, receiver, func(p *process) {
		err := map[string]func() error{
			"pause":  func() error { return p.batches.Pause(w.ctx, b.installation, b.id) },
			"resume": func() error { return p.batches.Resume(w.ctx, b.installation, b.id) },
			"retry":  func() error { return p.batches.Retry(w.ctx, b.installation, b.id) },
			"cancel": func() error { return p.batches.Cancel(w.ctx, b.installation, b.id) },
		}[how]()
		w.note("%s %s: %v", how, b.id, err)
		if kind := fault.KindOf(err); err != nil && kind != fault.Conflict && kind != fault.NotFound {
			w.mustBeDead(p, err)
		}
	})
}

// drive lets the driver of a worker look at the batches, as it does where one of their repositories has ended.
func (w *world) drive(rt *rapid.T) {
	if len(w.batches) == 0 {
		rt.Skip("there is no batch")
	}
	which := rapid.IntRange(0, 1).Draw(rt, "worker")
	w.mayDrive()
	w.by(rt, firstLooker+which, func(p *process) {
		for _, b := range w.batches {
			_, _, err := w.lookers[which].driver.advance(w.ctx, b.installation, b.id)
			w.note("driver %d advances %s: %v", which, b.id, err)
			if err != nil {
				w.mustBeDead(p, err)
				return
			}
		}
	})
}

func (w *world) mayDrive() {
	for _, t := range w.order {
		if t.job.Batch.ID != "" {
			w.may[t.job.ID] = actDrive
		}
	}
}

// time passes, while workers renew leases and dispatchers look.
func (w *world) time(rt *rapid.T) {
	w.snapshot = nil
	w.pass(rt, time.Duration(choose(rt, "milliseconds", []int{300, 1000, 3000, 6000, 12_000}))*time.Millisecond, lookPause)
	if rapid.IntRange(0, 2).Draw(rt, "remember") == 0 {
		w.remember()
	}
}

// quiet passes time in which no caller asks for anything.
func (w *world) quiet(rt *rapid.T) {
	if rapid.IntRange(0, 2).Draw(rt, "really") > 0 {
		rt.Skip("it costs many looks")
	}
	w.snapshot = nil
	w.pass(nil, 80*time.Second, 5*time.Second)
}

const lookPause = 1500 * time.Millisecond // of the model's dispatchers

func (w *world) pass(rt *rapid.T, d, step time.Duration) {
	for ; d > 0; d -= step {
		w.now = w.now.Add(min(d, step))
		for _, a := range slices.Clone(w.attempts) {
			if !a.stalled && a.valid && w.now.Sub(a.renewed) >= 3*time.Second {
				w.by(nil, firstWorker+a.worker, func(p *process) { w.renew(p, a) })
			}
		}
		for i := range w.lookers {
			w.look(rt, i)
		}
	}
}

func (w *world) look(rt *rapid.T, i int) {
	if rt != nil && rapid.IntRange(0, 7).Draw(rt, "meets a caller") == 0 {
		n := rapid.IntRange(0, mostJobs-1).Draw(rt, "of job")
		w.lookers[i].process.fuse.meet(rapid.IntRange(1, 40).Draw(rt, "before command"), func() {
			w.audit()
			w.createJob(nil, n)
			w.audit()
		})
	}
	w.by(rt, firstLooker+i, func(p *process) {
		err := w.lookers[i].dispatcher.Round(w.ctx)
		if len(w.lookers[i].dispatcher.shards) > 0 {
			w.audit()
		}
		p.fuse.before.Store(0)
		if err == nil && len(w.batches) > 0 && w.lookers[i].dispatcher.Leads() {
			w.mayDrive()
			err = w.lookers[i].driver.round(w.ctx)
			w.audit()
		}
		if err != nil && !w.carrier.broken {
			w.mustBeDead(p, err)
		}
	})
}

// away makes Redis unreachable for a while.
func (w *world) away(rt *rapid.T) {
	d := time.Duration(choose(rt, "seconds", []int{3, 10, 30})) * time.Second
	w.note("redis is away for %s", d)
	for ; d > 0; d -= lookPause {
		w.now = w.now.Add(min(d, lookPause))
		w.disconnect()
	}
	w.snapshot = nil
}

// disconnect is what dispatchers see of a Redis that is away.
func (w *world) disconnect() {
	for _, l := range w.lookers {
		l.process.fuse.late = false
		l.process.fuse.left.Store(0)
		_ = l.dispatcher.Round(w.ctx)
		l.process.fuse.left.Store(noFuse)
	}
	w.trouble = w.now
}

// loseLastSecond is a Redis that comes back as it was a moment ago.
func (w *world) loseLastSecond(rt *rapid.T) {
	if w.snapshot == nil {
		rt.Skip("nothing is lost")
	}
	w.disconnect()
	w.restore()
	w.carrier.instance = fmt.Sprint("redis-", len(w.trail))
	w.note("redis has lost the last second")
}
