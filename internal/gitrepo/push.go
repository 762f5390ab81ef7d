package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// PushSpec is a push of one commit to one branch.
type PushSpec struct {
	Branch string // short name
	Old    string // the tip that the commit builds on; empty where the branch is to be new
	Commit *Commit
}

// Push makes the commit the branch's tip: the pack with the commit's new objects, and a look at the branch afterwards, which
// decides: whatever the server or the connection said, the commit is there or it is not. Where it is not known what the server
// takes, or the pack is large, the branch is looked at before too.
//
// A tip other than Old is a Conflict. Denied, TooLarge and Throttled are the server's refusals; an outcome that could not be
// learnt is Unavailable, and the caller looks again before it does it again.
func (c *Client) Push(ctx context.Context, remote Remote, spec PushSpec) error {
	op := pushing(remote, spec.Branch)
	hash := plumbing.NewHash(spec.Commit.Hash)
	if hash.IsZero() { // which would remove the branch
		return fault.Newf(fault.Internal, "%s: there is no commit to push, nothing was changed", op)
	}
	name := "refs/heads/" + spec.Branch
	old := plumbing.NewHash(spec.Old)
	takes := receiver{}
	s := c.known(remote)
	if s != nil && s.Receive != nil && spec.Commit.size() <= maxUnasked {
		takes = *s.Receive
	} else {
		l, err := c.advertised(ctx, remote, AdvertiseReceive, op)
		if err != nil {
			return err
		}
		switch l.hashes[name] {
		case hash:
			return nil
		case old:
		default:
			return fault.Newf(fault.Conflict, "%s: branch %q moved while the change was made", op, spec.Branch)
		}
		takes = *l.server.Receive
		if s != nil {
			s.Receive = &takes
			c.learn(remote, *s)
		}
	}
	sent := c.send(ctx, remote, op, takes, refUpdate{name, old, hash}, spec.Commit)
	if isFinal(sent) {
		c.forget(remote) // should it have been asked in a way that it no longer knows
		return sent
	}
	if err := c.verify(ctx, remote, op, name, old, hash, sent); err != nil {
		c.forget(remote)
		return err
	}
	c.keep(remote, spec.Commit)
	return nil
}

// maxUnasked bounds, in bytes, what is sent without a look at the branch before.
const maxUnasked = 1 << 20

// isFinal reports a refusal after which the branch cannot have moved. An error message in place of a report may come after the update.
func isFinal(sent error) bool {
	var broken *refusal
	kind := fault.KindOf(sent)
	return sent != nil && kind != fault.Unavailable && kind != fault.Conflict && !errors.As(sent, &broken)
}

// verify looks where the branch is after a push that ended in sent.
func (c *Client) verify(ctx context.Context, remote Remote, op operation, name string, old, hash plumbing.Hash, sent error) error {
	l, err := c.list(ctx, remote, op, []string{name})
	switch kind := fault.KindOf(err); {
	case err == nil:
	case kind == fault.Throttled || kind == fault.Unavailable || context.Cause(ctx) != nil:
		return errors.Join(err, sent)
	default: // of the look, not of the push: that may have been done
		return fault.Wrapf(fault.Unavailable, errors.Join(err, sent), "%s: the server does not say any more where branch %q is; it is looked at again", op, op.branch)
	}
	switch tip := l.hashes[name]; {
	case tip == hash:
		return nil
	case sent != nil && tip == old && fault.KindOf(sent) == fault.Conflict:
		// Another push holds the branch, or one whose sender is gone: to begin again at once would find the same.
		return fault.Wrapf(fault.Unavailable, sent, "%s: the server could not update branch %q, which has not moved; it is tried again", op, op.branch)
	case sent != nil:
		return sent
	case tip == old:
		return fault.Newf(fault.Unavailable, "%s: the server said that it took the push, but branch %q did not move; it is tried again", op, op.branch)
	}
	return fault.Newf(fault.Conflict, "%s: branch %q moved on while the push was verified", op, op.branch)
}

// send transfers the command and the pack, and reads the report. A small pack is sent with its length. A large one is sent while
// it is made or, where the server wants the length before, made twice.
func (c *Client) send(ctx context.Context, remote Remote, op operation, takes receiver, update refUpdate, commit *Commit) error {
	command := update.encode(takes)
	write := func(w io.Writer) error {
		if _, err := w.Write(command); err != nil {
			return err
		}
		return writePack(w, commit.objects)
	}
	answer, err := c.postPack(ctx, remote, op, write, commit.size())
	if err != nil {
		return err
	}
	defer func() { _ = answer.Close() }() // what was read is checked by itself
	return readReport(ctx, op, answer, takes, update.ref)
}

// refUpdate moves a ref from old to new. Receive-pack refuses it unless the ref is at old; zero means that it does not exist.
type refUpdate struct {
	ref      string // full name
	old, new plumbing.Hash
}

// encode writes the command (gitprotocol-pack(5), "Reference Update Request and Packfile Transfer") as git does: without a line break.
func (u refUpdate) encode(takes receiver) []byte {
	request := new(pktWriter)
	request.text(u.old.String() + " " + u.new.String() + " " + u.ref + "\x00" + takes.capabilities())
	request.flush()
	return request.Bytes()
}

// postPack posts what write writes to git-receive-pack.
func (c *Client) postPack(ctx context.Context, remote Remote, op operation, write func(io.Writer) error, size int64) (io.ReadCloser, error) {
	if size <= maxUnasked {
		body := new(bytes.Buffer)
		if err := write(body); err != nil {
			return nil, fault.Wrapf(fault.Internal, err, "%s: the pack cannot be encoded", op)
		}
		return c.post(ctx, remote, ReceivePack, op, server{}, body, int64(body.Len()))
	}
	answer, err := c.post(ctx, remote, ReceivePack, op, server{}, written(write), -1)
	if status := new(statusError); errors.As(err, &status) && status.code == http.StatusLengthRequired {
		counted := new(counter)
		if err := write(counted); err != nil {
			return nil, fault.Wrapf(fault.Internal, err, "%s: the pack cannot be encoded", op)
		}
		return c.post(ctx, remote, ReceivePack, op, server{}, written(write), counted.bytes)
	}
	return answer, err
}

// written is what write writes, while it is read. Closing it ends the writing.
func written(write func(io.Writer) error) io.ReadCloser {
	reader, writer := io.Pipe()
	go func() {
		_ = writer.CloseWithError(write(writer)) // it never fails
	}()
	return reader
}

// counter counts what is written to it.
type counter struct{ bytes int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return len(p), nil
}
