package gitrepo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Want is what a fetch reads.
type Want struct {
	Ref   string // empty or HEAD, a full ref, a branch, a tag, or a commit's full hash
	Depth int    // commits of history; 0 is all of it
}

// Fetch reads a ref's tip, its tree and as much history as asked for. It is two requests. The snapshot of an empty repository
// is empty, whatever ref was asked for; its first commit makes the branch.
//
// Faults: NotFound for a ref that is not there, Denied, TooLarge over MaxRepository, Throttled, Unavailable for whatever a
// later attempt may find well, Interrupted when ctx ends.
func (c *Client) Fetch(ctx context.Context, remote Remote, want Want) (*Snapshot, error) {
	op := reading(remote)
	refs, err := c.Refs(ctx, remote)
	if err != nil {
		return nil, err
	}
	if refs.Empty {
		return newEmptySnapshot(op), nil
	}
	tip, err := refs.find(op, want.Ref)
	if err != nil {
		return nil, err
	}
	store, err := c.fetchPack(ctx, remote, op, refs, fetchRequest{wants: []plumbing.Hash{tip.want}, depth: want.Depth})
	if err != nil {
		return nil, err
	}
	snapshot, err := newSnapshot(op, store, tip, want.Depth)
	if err != nil {
		return nil, errors.Join(classifyPack(ctx, op, err), store.close())
	}
	return snapshot, nil
}

// fetchRequest is a request of git-upload-pack, protocol version 0.
type fetchRequest struct {
	wants []plumbing.Hash
	haves []plumbing.Hash
	depth int
}

// encode writes the request. Of what the server can do it asks for the sideband, for deltas by offset, for silence on progress,
// and never for a thin pack, whose bases would be missing here.
func (f fetchRequest) encode(capabilities *capability.List) *bytes.Buffer {
	chosen := capability.NewList()
	for _, wanted := range []capability.Capability{capability.Sideband64k, capability.OFSDelta, capability.NoProgress} {
		if capabilities.Supports(wanted) {
			_ = chosen.Set(wanted) // these take no argument, so it cannot fail
		}
	}
	if f.depth > 0 && capabilities.Supports(capability.Shallow) {
		_ = chosen.Set(capability.Shallow)
	}
	buffer := new(bytes.Buffer)
	lines := pktline.NewEncoder(buffer) // into memory: cannot fail
	for i, want := range f.wants {
		if i == 0 {
			_ = lines.Encodef("want %s %s\n", want, chosen)
		} else {
			_ = lines.Encodef("want %s\n", want)
		}
	}
	if f.depth > 0 && capabilities.Supports(capability.Shallow) {
		_ = lines.Encodef("deepen %d\n", f.depth)
	}
	_ = lines.Flush()
	for _, have := range f.haves {
		_ = lines.Encodef("have %s\n", have)
	}
	_ = lines.EncodeString("done\n")
	return buffer
}

// fetchPack asks for a pack and indexes it as it comes.
func (c *Client) fetchPack(ctx context.Context, remote Remote, op operation, refs Refs, request fetchRequest) (*store, error) {
	body := request.encode(refs.capabilities)
	answer, err := c.post(ctx, remote, UploadPack, op, body, int64(body.Len()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Close() }() // what was read is checked by itself
	pack, err := openPack(answer, refs.capabilities.Supports(capability.Sideband64k))
	if err != nil {
		return nil, classifyPack(ctx, op, err)
	}
	store, err := c.store(pack)
	if err != nil {
		return nil, classifyPack(ctx, op, err)
	}
	return store, nil
}

// openPack reads what comes before the pack: the shallow boundary and the end of the negotiation.
func openPack(answer io.Reader, sidebanded bool) (io.Reader, error) {
	buffered := bufio.NewReaderSize(answer, 64<<10)
	lines := pktline.NewScanner(buffered)
	for lines.Scan() {
		line := bytes.TrimSuffix(lines.Bytes(), []byte("\n"))
		switch {
		case len(line) == 0, bytes.HasPrefix(line, []byte("shallow ")), bytes.HasPrefix(line, []byte("unshallow ")):
		case bytes.Equal(line, []byte("NAK")), bytes.HasPrefix(line, []byte("ACK ")):
			if sidebanded {
				return sideband.NewDemuxer(sideband.Sideband64k, buffered), nil
			}
			return buffered, nil
		default:
			return nil, fmt.Errorf("%.40q where the negotiation should end", line)
		}
	}
	err := lines.Err()
	var refusal *pktline.ErrorLine
	switch {
	case errors.As(err, &refusal):
		return nil, fault.Newf(fault.NotFound, "the server does not hand out what was asked for: %q; name a branch, a tag or a commit that one of them holds", quote(refusal.Text))
	case err != nil:
		return nil, err
	}
	return nil, io.ErrUnexpectedEOF
}

// FindJob looks for the commit that a job made on a branch, among those that came after since; where since is not in the
// branch's history any more, among the last fifty. It recognises the trailer Forge-Job.
func (c *Client) FindJob(ctx context.Context, remote Remote, branch, jobID, since string) (commit string, found bool, err error) {
	op := reading(remote)
	refs, err := c.Refs(ctx, remote)
	if err != nil {
		return "", false, err
	}
	tip, there := refs.hashes["refs/heads/"+branch]
	if !there || refs.Empty {
		return "", false, nil
	}
	request := fetchRequest{wants: []plumbing.Hash{tip}, haves: []plumbing.Hash{plumbing.NewHash(since)}}
	if since == "" {
		request = fetchRequest{wants: []plumbing.Hash{tip}, depth: searchDepth}
	}
	store, err := c.fetchPack(ctx, remote, op, refs, request)
	if err != nil {
		return "", false, err
	}
	hash, err := searchTrailer(store, tip, jobID)
	if err = errors.Join(err, store.close()); err != nil {
		return "", false, classifyPack(ctx, op, err)
	}
	return hash, hash != "", nil
}

const (
	searchDepth = 50     // commits, where no starting point is known
	searchLimit = 10_000 // commits, at all
)

// searchTrailer walks from tip through the commits that the store has.
func searchTrailer(objects objectReader, tip plumbing.Hash, jobID string) (string, error) {
	seen, queue := map[plumbing.Hash]bool{tip: true}, []plumbing.Hash{tip}
	for len(queue) > 0 && len(seen) < searchLimit {
		hash := queue[0]
		queue = queue[1:]
		encoded, err := objects.EncodedObject(plumbing.CommitObject, hash)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			continue // the other side of the starting point
		}
		if err != nil {
			return "", err
		}
		commit := new(object.Commit)
		if err := commit.Decode(encoded); err != nil {
			return "", err
		}
		if hasTrailer(commit.Message, jobID) {
			return hash.String(), nil
		}
		for _, parent := range commit.ParentHashes {
			if !seen[parent] {
				seen[parent] = true
				queue = append(queue, parent)
			}
		}
	}
	return "", nil
}
