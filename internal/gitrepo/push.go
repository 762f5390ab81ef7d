package gitrepo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// PushSpec is a push of one commit to one branch.
type PushSpec struct {
	Branch string // short name
	Old    string // the tip that the commit builds on; empty where the branch is to be new
	Commit *Commit
}

// Push makes the commit the branch's tip. It is three requests: what the server has now, the pack with the commit's new objects,
// and a look at the branch afterwards, which decides: whatever the server or the connection said, the commit is there or it
// is not.
//
// A tip other than Old is a Conflict, before anything is sent. Denied, TooLarge and Throttled are the server's refusals; an
// outcome that could not be learnt is Unavailable, and the caller looks again before it does it again.
func (c *Client) Push(ctx context.Context, remote Remote, spec PushSpec) error {
	op := pushing(remote, spec.Branch)
	refs, err := c.refs(ctx, remote, AdvertiseReceive, op)
	if err != nil {
		return err
	}
	name := "refs/heads/" + spec.Branch
	current := refs.hashes[name]
	switch {
	case current == spec.Commit.hash:
		return nil
	case current != plumbing.NewHash(spec.Old):
		return fault.Newf(fault.Conflict, "%s: branch %q moved while the change was made", op, spec.Branch)
	}
	sent := c.send(ctx, remote, op, refs.capabilities, &packp.Command{
		Name: plumbing.ReferenceName(name), Old: current, New: spec.Commit.hash,
	}, spec.Commit)
	if kind := fault.KindOf(sent); sent != nil && kind != fault.Unavailable && kind != fault.Conflict {
		return sent // refused for a reason: nothing was changed
	}
	return c.verify(ctx, remote, op, name, current, spec.Commit.hash, sent)
}

// verify looks where the branch is after a push that ended in sent.
func (c *Client) verify(ctx context.Context, remote Remote, op operation, name string, old, hash plumbing.Hash, sent error) error {
	refs, err := c.refs(ctx, remote, AdvertiseUpload, op)
	if err != nil {
		return errors.Join(err, sent)
	}
	switch tip := refs.hashes[name]; {
	case tip == hash:
		return nil
	case sent != nil:
		return sent
	case tip == old:
		return fault.Newf(fault.Unavailable, "%s: the server said that it took the push, but branch %q did not move; it is tried again", op, op.branch)
	}
	return fault.Newf(fault.Conflict, "%s: branch %q moved on while the push was verified", op, op.branch)
}

// send transfers the command and the pack, and reads the report.
func (c *Client) send(ctx context.Context, remote Remote, op operation, offered *capability.List, command *packp.Command, commit *Commit) error {
	request := packp.NewReferenceUpdateRequest()
	request.Commands = []*packp.Command{command}
	for _, wanted := range []capability.Capability{capability.ReportStatus, capability.Sideband64k} {
		if offered.Supports(wanted) {
			_ = request.Capabilities.Set(wanted) // these take no argument, so it cannot fail
		}
	}
	body := new(bytes.Buffer)
	if err := request.Encode(body); err != nil {
		return fault.Wrapf(fault.Internal, err, "%s: the request cannot be encoded", op)
	}
	// No delta is looked for: the objects are few, and most are small.
	if _, err := packfile.NewEncoder(body, commit.objects, false).Encode(commit.hashes, 0); err != nil {
		return fault.Wrapf(fault.Internal, err, "%s: the pack cannot be encoded", op)
	}
	answer, err := c.post(ctx, remote, ReceivePack, op, body, int64(body.Len()))
	if err != nil {
		return err
	}
	defer func() { _ = answer.Close() }() // what was read is checked by itself
	return readReport(ctx, op, answer, request.Capabilities)
}

// readReport reads what the server says of the push. An answer without a report is an Unavailable fault: the outcome is
// unknown.
func readReport(ctx context.Context, op operation, answer io.Reader, used *capability.List) error {
	words := &boundedBuffer{limit: 4 << 10}
	reader := io.Reader(bufio.NewReader(answer))
	if used.Supports(capability.Sideband64k) {
		demuxer := sideband.NewDemuxer(sideband.Sideband64k, reader)
		demuxer.Progress = words
		reader = demuxer
	}
	if !used.Supports(capability.ReportStatus) {
		_, err := io.Copy(io.Discard, reader)
		if err != nil {
			return classifyPack(ctx, op, err)
		}
		return nil // the look at the branch decides
	}
	report := packp.NewReportStatus()
	if err := report.Decode(reader); err != nil {
		return classifyPack(ctx, op, err)
	}
	if report.UnpackStatus != "ok" {
		return classifyCommand(op, "unpack error: "+report.UnpackStatus, words.String())
	}
	for _, status := range report.CommandStatuses {
		if status.Status != "ok" {
			return classifyCommand(op, status.Status, words.String())
		}
	}
	return nil
}

// boundedBuffer keeps the beginning of what is written to it.
type boundedBuffer struct {
	bytes.Buffer
	limit int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if room := b.limit - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
