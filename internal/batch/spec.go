package batch

import (
	"encoding/json"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Spec is what a batch does to each of its repositories. It may be used concurrently and is not to be changed.
type Spec struct {
	Push  *job.Push `json:"push"`
	Query *Query    `json:"query,omitempty"`

	work *work // parsed; nil unless OpenSpec made it
}

// seal is the spec as it is kept.
func (s *Spec) seal(ring *secret.Keyring, installation, id string) ([]byte, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "the batch cannot be encoded")
	}
	return ring.Seal(text, specContext(installation, id)...), nil
}

// OpenSpec reads a batch's sealed spec and parses its expressions.
func OpenSpec(ring *secret.Keyring, sealed []byte, installation, id string) (*Spec, error) {
	plain, err := ring.Open(sealed, specContext(installation, id)...)
	if err != nil {
		return nil, fault.Wrapf(fault.Internal, err, "the batch cannot be opened: it is damaged, or its sealing key is not in GITSMITH_SEAL_KEYS any more")
	}
	read := &Spec{}
	if err := json.Unmarshal(plain, read); err != nil || read.Push == nil {
		return nil, fault.Wrapf(fault.Internal, err, "the batch's content cannot be read")
	}
	if read.work, err = parseWork(read.Push); err != nil {
		return nil, err
	}
	return read, nil
}

// Lacks reports whether the expressions ask for something that the entry does not say, so that the repository must be looked up first.
func (s *Spec) Lacks(kept Entry) bool {
	lacks := kept.Details == nil
	return s.work.details && lacks || s.work.names && kept.Slug == "" && (lacks || kept.Details.Slug == "")
}

// Fill is the job with its push, worked out for its repository, of which the entry speaks. What the push has become is checked as a
// caller's would be: an Invalid fault ends the job.
func (s *Spec) Fill(ring *secret.Keyring, j job.Job, kept Entry, limits job.Limits) (job.Job, error) {
	values, err := kept.openValues(ring, j.Installation, j.Batch.ID, j.Batch.Item)
	if err != nil {
		return job.Job{}, err
	}
	push, err := s.work.render(kept, values, j.Batch.Item)
	if err != nil {
		return job.Job{}, err
	}
	request := job.Request{Repository: j.Repository, Push: push}
	if err := request.Validate(limits); err != nil {
		return job.Job{}, err
	}
	push.Expect = kept.Expect
	j.Push = push
	return j, nil
}
