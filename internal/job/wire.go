package job

import (
	"encoding/json"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// wireVersion is raised when old workers could misread new jobs. What an older version wrote must decode for ever: the golden
// files in testdata hold it.
//
//	1  clones and pushes
//	2  a push with a field that a worker of version 1 would pass over: it would push what was to be a dry run; a batch's job, which has no
//	   content of its own
const wireVersion = 2

// wireVersionOf is the least version that a worker must know to do the job as it is meant.
func (j Job) wireVersionOf() int {
	push := j.Push
	switch {
	case j.Batch.ID != "":
		return wireVersion
	case push == nil:
		return 1
	}
	reviewed := push.PullRequest != nil && len(push.PullRequest.Reviewers) > 0
	if push.DryRun || push.HasFile != "" || push.OnConflict != "" || push.Expect != nil || push.Recipe != nil || reviewed {
		return wireVersion
	}
	return 1
}

// Meta is the readable part of a job in the queue: useful on a dashboard and harmless there.
type Meta struct {
	Version      int                  `json:"v"`
	ID           string               `json:"id"`
	Installation string               `json:"installation"`
	Operation    Operation            `json:"operation"`
	Class        Class                `json:"class"`
	Repository   bitbucket.Repository `json:"repository"`
	Actor        forge.Actor          `json:"actor"`
	Requester    string               `json:"requester,omitempty"`
	Branch       string               `json:"branch,omitempty"` // of a push
	Ref          string               `json:"ref,omitempty"`    // of a clone
	Changes      int                  `json:"changes,omitempty"`
	OnExpiry     OnExpiry             `json:"on_expiry,omitempty"`
	CreatedAt    time.Time            `json:"created_at"`
	Generation   int                  `json:"generation,omitempty"`
	Digest       string               `json:"digest"`
	Rule         string               `json:"rule,omitempty"`
	Event        string               `json:"event,omitempty"`
	Coalesce     string               `json:"coalesce,omitempty"`
	HappenedAt   time.Time            `json:"happened_at,omitzero"`
	Impersonate  bool                 `json:"impersonate,omitempty"`
	Batch        string               `json:"batch,omitempty"`
	Item         int                  `json:"item,omitempty"` // of the batch
	Trace        Trace                `json:"trace,omitzero"`
}

// wire is a whole job in the queue. Sealed holds what is the customer's own: contents, messages, globs.
type wire struct {
	Meta
	Sealed []byte `json:"sealed,omitempty"` // nothing in a batch's job: its content is kept once, with the batch
}

type content struct {
	Clone *Clone `json:"clone,omitempty"`
	Push  *Push  `json:"push,omitempty"`
}

// sealContext binds sealed content to its job, so that it cannot be moved to another one's meta.
func (m Meta) sealContext() []string {
	return []string{"job", m.Installation, m.ID, string(m.Operation)}
}

// MetaOf is the job's readable part.
func (j Job) MetaOf() Meta {
	meta := Meta{
		Version: j.wireVersionOf(), ID: j.ID, Installation: j.Installation, Operation: j.Operation(), Class: j.Class,
		Repository: j.Repository, Actor: j.Actor, Requester: j.Requester, OnExpiry: j.OnExpiry, CreatedAt: j.CreatedAt, Generation: j.Generation,
		Digest: j.Digest, Trace: j.Trace, Rule: j.Rule, Event: j.Event, Coalesce: j.Coalesce, HappenedAt: j.HappenedAt, Impersonate: j.Impersonate,
		Batch: j.Batch.ID, Item: j.Batch.Item,
	}
	if j.Push != nil {
		meta.Branch, meta.Changes = j.Push.Branch, len(j.Push.Changes)
	} else if j.Clone != nil {
		meta.Ref = j.Clone.Ref
	}
	return meta
}

// Marshal is the job as it waits in the queue: JSON, the meta readable, the content sealed.
func Marshal(j Job, ring *secret.Keyring) ([]byte, error) {
	meta := j.MetaOf()
	var sealed []byte
	if j.Batch.ID == "" {
		if (j.Clone == nil) == (j.Push == nil) {
			return nil, fault.Newf(fault.Internal, "job %s is neither a clone nor a push", j.ID)
		}
		plain, err := json.Marshal(content{j.Clone, j.Push})
		if err != nil {
			return nil, fault.Wrapf(fault.Internal, err, "job %s cannot be encoded", j.ID)
		}
		sealed = ring.Seal(plain, meta.sealContext()...)
	}
	payload, err := json.Marshal(wire{meta, sealed})
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "job %s cannot be encoded", j.ID)
	}
	return payload, nil
}

// ReadMeta reads the readable part alone.
func ReadMeta(payload []byte) (Meta, error) {
	var meta Meta
	if err := json.Unmarshal(payload, &meta); err != nil {
		return Meta{}, fault.Wrapf(fault.Internal, err, "the queued job cannot be read")
	}
	return meta, nil
}

// Unmarshal reads what [Marshal] wrote, or an older version of it did. A newer version, damage, and a seal whose key is gone
// are Internal faults that say so.
func Unmarshal(payload []byte, ring *secret.Keyring) (Job, error) {
	var waiting wire
	if err := json.Unmarshal(payload, &waiting); err != nil {
		return Job{}, fault.Wrapf(fault.Internal, err, "the queued job cannot be read")
	}
	if waiting.Version < 1 || waiting.Version > wireVersion {
		return Job{}, fault.Newf(fault.Internal, "the queued job has wire version %d and this worker reads up to %d; upgrade the worker", waiting.Version, wireVersion)
	}
	j := waiting.job()
	if j.Batch.ID != "" {
		return j, nil
	}
	plain, err := ring.Open(waiting.Sealed, waiting.sealContext()...)
	if err != nil {
		return Job{}, fault.Wrapf(fault.Internal, err, "the queued job cannot be opened: it is damaged, or its sealing key is not in GITSMITH_SEAL_KEYS any more")
	}
	var sealed content
	if err := json.Unmarshal(plain, &sealed); err != nil {
		return Job{}, fault.Wrapf(fault.Internal, err, "the queued job's content cannot be read")
	}
	if (sealed.Clone == nil) == (sealed.Push == nil) {
		return Job{}, fault.Newf(fault.Internal, "the queued job is neither a clone nor a push")
	}
	j.Clone, j.Push = sealed.Clone, sealed.Push
	return j, nil
}

// job is what the readable part says of a job.
func (m Meta) job() Job {
	return Job{
		ID: m.ID, Installation: m.Installation, Actor: m.Actor, Requester: m.Requester, Repository: m.Repository, OnExpiry: m.OnExpiry, Class: m.Class,
		CreatedAt: m.CreatedAt, Trace: m.Trace, Digest: m.Digest, Rule: m.Rule, Event: m.Event, Coalesce: m.Coalesce, HappenedAt: m.HappenedAt,
		Impersonate: m.Impersonate, Generation: m.Generation, Batch: BatchRef{m.Batch, m.Item},
	}
}
