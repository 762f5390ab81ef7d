package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/packstream"
)

// packRequest asks git-upload-pack for a pack.
type packRequest struct {
	wants  []plumbing.Hash
	depth  int             // commits of history; 0 is no bound
	filter string          // what to leave out, as git rev-list --filter has it; empty: nothing
	since  []plumbing.Hash // commits that are here with all they lead to
	// update makes the answer errNotReady unless the wanted history leads back to one of since. Of their own history nothing is here.
	update bool

	ahead    int64 // as packstream.Options has them
	maxBytes int64 // 0: as large as a repository may be
}

// errNotReady is the server's answer to an update that cannot be one.
var errNotReady = errors.New("the history does not lead back to the commit that is here")

// encodeV2 writes the command fetch. A thin pack is never asked for: its bases might be missing here.
func (r packRequest) encodeV2(s server) *pktWriter {
	request := new(pktWriter)
	beginV2(request, s, "fetch")
	request.line("no-progress")
	request.line("ofs-delta")
	for _, want := range r.wants {
		request.line("want %s", want)
	}
	r.encodeBounds(request, s)
	for _, have := range r.since {
		request.line("have %s", have)
	}
	if !r.update {
		request.line("done")
	}
	request.flush()
	return request
}

// encodeV0 writes a request of version 0 (gitprotocol-pack(5), "Packfile Negotiation").
func (r packRequest) encodeV0(s server) *pktWriter {
	var chosen strings.Builder
	for _, capability := range []struct {
		name string
		use  bool
	}{
		{"side-band-64k", s.Sideband},
		{"ofs-delta", s.OfsDelta},
		{"no-progress", s.Quiet},
		{"shallow", s.Shallow && (r.depth > 0 || r.update)},
		{"filter", s.Filter && r.filter != ""},
		{"multi_ack_detailed", r.update},
		{"no-done", r.update},
		{"agent=" + userAgent, s.Agent},
	} {
		if capability.use {
			chosen.WriteString(" " + capability.name)
		}
	}
	request := new(pktWriter)
	for i, want := range r.wants {
		if i == 0 {
			request.line("want %s%s", want, chosen.String())
		} else {
			request.line("want %s", want)
		}
	}
	r.encodeBounds(request, s)
	request.flush()
	for _, have := range r.since {
		request.line("have %s", have)
	}
	if r.update {
		request.flush()
	} else {
		request.line("done")
	}
	return request
}

func (r packRequest) encodeBounds(request *pktWriter, s server) {
	for _, end := range r.since {
		if r.update && s.Shallow {
			request.line("shallow %s", end)
		}
	}
	if r.depth > 0 && s.Shallow {
		request.line("deepen %d", r.depth)
	}
	if r.filter != "" && s.Filter {
		request.line("filter %s", r.filter)
	}
}

// pack is a pack that arrives, or has arrived, and what it occupies.
type pack struct {
	*packstream.Stream
	boundary boundary
	body     io.Closer
	folder   string // on disk; empty where it is in memory
}

// boundary holds the commits whose parents the server left out because of the depth (gitprotocol-pack(5), "shallow").
type boundary map[plumbing.Hash]bool

// add reads the rest of a line that begins with shallow.
func (b boundary) add(text string) error {
	hash, err := parseHash(text)
	if err != nil {
		return fmt.Errorf("%w: %.80q where history is cut off", packstream.ErrDamaged, text)
	}
	b[hash] = true
	return nil
}

// fetchPack asks for a pack. Its objects are then read from the pack, while the rest of it arrives until it is closed, or until
// ctx ends.
func (c *Client) fetchPack(ctx context.Context, remote Remote, op operation, s server, r packRequest) (*pack, error) {
	request := r.encodeV0(s)
	if s.V2 {
		request = r.encodeV2(s)
	}
	body, err := c.post(ctx, remote, UploadPack, op, s, &request.Buffer, int64(request.Len()))
	if err != nil {
		return nil, err
	}
	source, edge, err := openPack(newPktReader(body), s, r.update)
	if err != nil {
		_ = body.Close() // only read
		return nil, err
	}
	p := c.open(ctx, body, source, r)
	p.boundary = edge
	return p, nil
}

func (c *Client) open(ctx context.Context, body io.Closer, source io.Reader, r packRequest) *pack {
	p := &pack{body: body}
	maxBytes := c.config.MaxRepository
	if r.maxBytes > 0 {
		maxBytes = min(maxBytes, r.maxBytes)
	}
	p.Stream = packstream.Open(source, packstream.Options{
		Folder: func() (folder string, err error) {
			p.folder, err = c.scratch.make()
			return p.folder, err
		},
		MemoryLimit: c.config.MemoryLimit, MaxBytes: maxBytes, MaxObjects: maxObjects, Ahead: r.ahead,
		Err: func() error { return context.Cause(ctx) },
	})
	return p
}

// maxObjects bounds what a pack may claim to hold.
const maxObjects = 8_000_000

// complete reports that all of it has arrived.
func (p *pack) complete() bool {
	_, ended := p.Remaining()
	return ended
}

// empty reports that no object has been parsed.
func (p *pack) empty() bool {
	for range p.Objects() {
		return false
	}
	return true
}

// close ends the receiving and removes what it has on disk.
func (p *pack) close() error {
	_ = p.body.Close() // only read
	err := p.Close()
	if p.folder != "" {
		err = errors.Join(err, os.RemoveAll(p.folder))
	}
	return err
}

// all parses the pack to its end.
func (p *pack) all() error {
	p.Unbound()
	for {
		if err := p.Next(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// openPack reads what comes before a pack: the boundary of history and the end of the negotiation.
func openPack(lines *pktReader, s server, update bool) (io.Reader, boundary, error) {
	if s.V2 {
		return openPackV2(lines)
	}
	edge := boundary{}
	for first := true; ; first = false {
		line, _, err := lines.text()
		cutOff, shallow := strings.CutPrefix(line, "shallow ")
		switch {
		case errors.Is(err, io.EOF) && update && !first:
			return nil, nil, errNotReady
		case err != nil:
			return nil, nil, noEOF(err)
		case shallow:
			if err := edge.add(cutOff); err != nil {
				return nil, nil, err
			}
		case line == "", strings.HasPrefix(line, "unshallow "):
		case line == "NAK" && update, isIntermediate(line):
		case line == "NAK", strings.HasPrefix(line, "ACK "):
			if s.Sideband {
				return &sideband{lines: lines}, edge, nil
			}
			return lines.from, edge, nil
		default:
			return nil, nil, fmt.Errorf("%w: %.40q where the negotiation should end", packstream.ErrDamaged, line)
		}
	}
}

// isIntermediate reports an acknowledgment that more will follow.
func isIntermediate(line string) bool {
	return strings.HasPrefix(line, "ACK ") &&
		(strings.HasSuffix(line, " common") || strings.HasSuffix(line, " ready") || strings.HasSuffix(line, " continue"))
}

// openPackV2 reads the sections before the pack. Where there is no pack, the server waits for more of a negotiation.
func openPackV2(lines *pktReader) (io.Reader, boundary, error) {
	sections, edge := 0, boundary{}
	for header := true; ; {
		line, kind, err := lines.text()
		cutOff, shallow := strings.CutPrefix(line, "shallow ")
		switch {
		case err != nil:
			return nil, nil, noEOF(err)
		case kind == pktDelimiter:
			header = true
		case kind != pktData && sections > 0:
			return nil, nil, errNotReady
		case kind != pktData:
			return nil, nil, io.ErrUnexpectedEOF
		case header && line == "packfile":
			return &sideband{lines: lines}, edge, nil
		case header && line != "acknowledgments" && line != "shallow-info" && line != "wanted-refs" && line != "packfile-uris":
			return nil, nil, fmt.Errorf("%w: %.40q where a section begins", packstream.ErrDamaged, line)
		case header:
			header = false
			sections++
		case shallow:
			if err := edge.add(cutOff); err != nil {
				return nil, nil, err
			}
		}
	}
}

// packFault is what it means that a pack could not be had.
func packFault(ctx context.Context, op operation, err error) error {
	var refused *refusal
	if errors.As(err, &refused) {
		return fault.Wrapf(fault.NotFound, err, "%s: the server does not hand out what was asked for: %q; name a branch, a tag or a commit that one of them holds", op, quote(refused.words))
	}
	return classifyPack(ctx, op, err)
}
