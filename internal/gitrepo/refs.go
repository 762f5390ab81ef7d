package gitrepo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
	"github.com/gitsmith/gitsmith/internal/packstream"
)

// maxListing bounds what a server may say of its refs, in bytes: half a million of them.
const maxListing = 64 << 20

// listing is what a server lists of a repository's refs.
type listing struct {
	server server
	whole  bool   // every ref was asked for
	Head   string // the branch that HEAD names; empty where it is detached, or nothing is known of it
	head   plumbing.Hash
	hashes map[string]plumbing.Hash
	peeled map[string]plumbing.Hash // what annotated tags lead to
}

func newListing() listing {
	return listing{hashes: map[string]plumbing.Hash{}, peeled: map[string]plumbing.Hash{}}
}

// empty reports a repository without any commit.
func (l listing) empty() bool { return l.whole && l.head.IsZero() && len(l.hashes) == 0 }

// Tip is the commit at a branch's tip; found is false where the branch is not there. It is one request, two where the server
// is not known yet.
func (c *Client) Tip(ctx context.Context, remote Remote, branch string) (commit string, found bool, err error) {
	name := "refs/heads/" + branch
	l, err := c.list(ctx, remote, reading(remote), []string{name})
	if err != nil {
		return "", false, err
	}
	hash, found := l.hashes[name]
	if !found {
		return "", false, nil
	}
	return hash.String(), true, nil
}

// list asks for refs by their full names; none is all of them. By version 0 all are listed whatever was asked for.
func (c *Client) list(ctx context.Context, remote Remote, op operation, names []string) (listing, error) {
	if s := c.known(remote); s != nil && s.V2 {
		l, err := c.listRefs(ctx, remote, op, *s, names)
		if !misunderstood(err) {
			return l, err
		}
		c.forget(remote) // it is not the server that it was
	}
	l, err := c.advertised(ctx, remote, AdvertiseUpload, op)
	if err != nil {
		return listing{}, err
	}
	c.learn(remote, l.server)
	if !l.server.V2 {
		return l, nil
	}
	return c.listRefs(ctx, remote, op, l.server, names)
}

// misunderstood reports an answer that shows that the server is not what was remembered of it.
func misunderstood(err error) bool {
	var refused *refusal
	return errors.As(err, &refused) || errors.Is(err, packstream.ErrDamaged) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		fault.KindOf(err) == fault.Internal && err != nil
}

// advertised fetches a service's capabilities and, unless it speaks version 2, its refs. An advertisement describes its own service
// only: [AdvertiseReceive] sets listing.server.Receive and nothing else of the server, [AdvertiseUpload] sets everything but that.
func (c *Client) advertised(ctx context.Context, remote Remote, phase Phase, op operation) (listing, error) {
	body, err := c.advertise(ctx, remote, phase, op)
	if err != nil {
		return listing{}, err
	}
	defer func() { _ = body.Close() }() // what was read is checked by itself
	lines := newPktReader(limit(body, op))
	l, err := parseAdvertisement(lines, phase)
	return l, listingFault(ctx, op, cmp.Or(err, lines.end()))
}

// listRefs is the command ls-refs of protocol version 2.
func (c *Client) listRefs(ctx context.Context, remote Remote, op operation, s server, names []string) (listing, error) {
	request := new(pktWriter)
	beginV2(request, s, "ls-refs")
	request.line("peel")
	request.line("symrefs")
	if s.Unborn {
		request.line("unborn")
	}
	for _, name := range names {
		request.line("ref-prefix %s", name)
	}
	request.flush()
	body, err := c.post(ctx, remote, ListRefs, op, s, &request.Buffer, int64(request.Len()))
	if err != nil {
		return listing{}, err
	}
	defer func() { _ = body.Close() }() // what was read is checked by itself
	lines := newPktReader(limit(body, op))
	l, err := parseRefs(lines)
	l.server, l.whole = s, len(names) == 0
	return l, listingFault(ctx, op, cmp.Or(err, lines.end()))
}

// beginV2 begins a request of protocol version 2.
func beginV2(request *pktWriter, s server, command string) {
	request.line("command=%s", command)
	if s.Agent {
		request.line("agent=%s", userAgent)
	}
	if s.Format {
		request.line("object-format=sha1")
	}
	request.delimiter()
}

// listingFault is what it means that refs could not be listed.
func listingFault(ctx context.Context, op operation, err error) error {
	var refused *refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return fault.Wrapf(fault.NotFound, err, "%s: the server refuses: %q", op, quote(refused.words))
	}
	return classifyPack(ctx, op, err)
}

// limit ends an answer that lists refs with a TooLarge fault.
func limit(body io.Reader, op operation) io.Reader {
	return io.MultiReader(io.LimitReader(body, maxListing), failing{
		fault.Newf(fault.TooLarge, "%s: the server lists more than %d MB of refs", op, maxListing>>20), body,
	})
}

// failing ends as a body does or, where more comes, with err.
type failing struct {
	err  error
	body io.Reader
}

func (f failing) Read(p []byte) (int, error) {
	if n, err := f.body.Read(p[:1]); n == 0 {
		return 0, err
	}
	return 0, f.err
}

// parseAdvertisement reads an advertisement: capabilities in version 2, capabilities and refs in versions 0 and 1.
func parseAdvertisement(lines *pktReader, phase Phase) (listing, error) {
	line, kind, err := lines.text()
	if err == nil && strings.HasPrefix(line, "# service=") {
		if _, kind, err = lines.text(); err == nil && kind == pktFlush {
			line, kind, err = lines.text()
		} else if err == nil {
			err = fmt.Errorf("%w: the name of the service does not end", packstream.ErrDamaged)
		}
	}
	if err == nil && line == "version 1" {
		line, kind, err = lines.text()
	}
	if err != nil {
		return listing{}, noEOF(err)
	}
	if line == "version 2" && phase == AdvertiseUpload {
		return parseV2Capabilities(lines)
	}
	return parseV0Advertisement(lines, phase, line, kind)
}

// parseV0Advertisement reads the refs. line is the first one, with the capabilities after a zero byte.
func parseV0Advertisement(lines *pktReader, phase Phase, line string, kind pkt) (listing, error) {
	l := newListing()
	l.whole = true
	line, capabilities, _ := strings.Cut(line, "\x00")
	err := l.addCapabilities(phase, capabilities)
	for err == nil && kind == pktData {
		if err = l.addV0(line); err == nil {
			line, kind, err = lines.text()
		}
	}
	if err != nil {
		return listing{}, noEOF(err)
	}
	return l, nil
}

func (l *listing) addCapabilities(phase Phase, text string) (err error) {
	if phase == AdvertiseReceive {
		var r receiver
		r, err = parseReceiver(text)
		l.server.Receive = &r
		return err
	}
	l.server, l.Head, err = parseV0(text)
	return err
}

func parseV2Capabilities(lines *pktReader) (listing, error) {
	l := listing{server: newV2()}
	for {
		line, kind, err := lines.text()
		if err != nil {
			return listing{}, noEOF(err)
		}
		if kind != pktData {
			return l, nil
		}
		if err := l.server.addV2(line); err != nil {
			return listing{}, err
		}
	}
}

// addV0 takes "hash name", where a name that ends in ^{} is what a tag leads to.
func (l *listing) addV0(line string) error {
	text, name, _ := strings.Cut(line, " ")
	if text == "shallow" {
		return nil
	}
	hash, err := parseHash(text)
	switch tag, peeled := strings.CutSuffix(name, "^{}"); {
	case err != nil || name == "":
		return fmt.Errorf("%w: %.80q where a ref is listed", packstream.ErrDamaged, line)
	case name == "capabilities^{}", strings.HasPrefix(name, "."): // nothing at all; what another repository has
	case name == "HEAD":
		l.head = hash
	case peeled:
		l.peeled[tag] = hash
	default:
		l.hashes[name] = hash
	}
	return nil
}

// parseRefs reads the answer of ls-refs: "hash name symref-target:name peeled:hash".
func parseRefs(lines *pktReader) (listing, error) {
	l := newListing()
	for {
		line, kind, err := lines.text()
		if err != nil {
			return listing{}, noEOF(err)
		}
		if kind != pktData {
			return l, nil
		}
		if err := l.addV2(line); err != nil {
			return listing{}, err
		}
	}
}

func (l *listing) addV2(line string) error {
	fields := strings.Split(line, " ")
	if len(fields) < 2 {
		return fmt.Errorf("%w: %.80q where a ref is listed", packstream.ErrDamaged, line)
	}
	name := fields[1]
	var peeled plumbing.Hash
	for _, field := range fields[2:] {
		if target, found := strings.CutPrefix(field, "symref-target:"); found && name == "HEAD" {
			l.Head = target
		}
		if text, found := strings.CutPrefix(field, "peeled:"); found {
			peeled, _ = parseHash(text) // without it the tag is read
		}
	}
	if fields[0] == "unborn" {
		return nil
	}
	hash, err := parseHash(fields[0])
	if err != nil {
		return fmt.Errorf("%w: %.80q where a ref is listed", packstream.ErrDamaged, line)
	}
	if name == "HEAD" {
		l.head = hash
		return nil
	}
	l.hashes[name] = hash
	if !peeled.IsZero() {
		l.peeled[name] = peeled
	}
	return nil
}

func parseHash(text string) (plumbing.Hash, error) {
	if !plumbing.IsHash(text) || len(text) != 40 {
		return plumbing.ZeroHash, errors.New("no hash")
	}
	return plumbing.NewHash(text), nil
}

// tip is what a fetch asks for.
type tip struct {
	ref    string        // full name; empty where a commit was asked for, or HEAD is detached
	want   plumbing.Hash // what ref names: a commit, or an annotated tag
	commit plumbing.Hash // a tag's object where only that can tell
}

// candidates are the full names that a ref as callers write it may stand for, the first that exists.
func candidates(ref string) []string {
	if ref == "" || ref == "HEAD" {
		return []string{"HEAD"}
	}
	if strings.HasPrefix(ref, "refs/") {
		return []string{ref}
	}
	return []string{ref, "refs/heads/" + ref, "refs/tags/" + ref}
}

// find resolves a ref as callers write it: nothing or HEAD, a full name, a branch, a tag, a commit's full hash, in this order.
func (l listing) find(op operation, ref string) (tip, error) {
	if ref == "" || ref == "HEAD" {
		if l.head.IsZero() {
			return tip{}, fault.Newf(fault.NotFound, "%s: HEAD points to a branch that does not exist; name a branch", op)
		}
		return tip{l.Head, l.head, l.head}, nil
	}
	for _, name := range candidates(ref) {
		if hash, found := l.hashes[name]; found {
			commit, annotated := l.peeled[name]
			if !annotated {
				commit = hash
			}
			return tip{name, hash, commit}, nil
		}
	}
	if job.IsCommit(ref) {
		hash := plumbing.NewHash(ref)
		return tip{"", hash, hash}, nil
	}
	return tip{}, fault.Newf(fault.NotFound, "%s: there is no branch, tag or ref %.100q", op, ref)
}

// resolve lists what ref may stand for and finds it.
func (c *Client) resolve(ctx context.Context, remote Remote, op operation, ref string) (located, error) {
	names := candidates(ref)
	if !slices.Contains(names, "HEAD") {
		names = append(names, "HEAD")
	}
	l, err := c.list(ctx, remote, op, names)
	if err != nil {
		return located{}, err
	}
	found, err := l.locate(op, ref)
	if err != nil && !l.whole && l.head.IsZero() {
		// Where HEAD names no commit, only all refs tell an empty repository from one without this ref.
		if l, err = c.list(ctx, remote, op, nil); err != nil {
			return located{}, err
		}
		return l.locate(op, ref)
	}
	return found, err
}

// located is a tip at a server, or an empty repository's.
type located struct {
	tip    tip
	server server
	head   string // as in listing
	empty  bool
}

func (l listing) locate(op operation, ref string) (located, error) {
	if l.empty() {
		return located{server: l.server, empty: true}, nil
	}
	found, err := l.find(op, ref)
	return located{tip: found, server: l.server, head: l.Head}, err
}
