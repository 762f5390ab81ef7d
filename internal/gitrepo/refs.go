package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// maxAdvertisement bounds what a server may say of its refs: half a million of them.
const maxAdvertisement = 64 << 20

// Refs is what a server advertises.
type Refs struct {
	// Empty is a repository without any commit.
	Empty bool
	// Head is the full name of the branch that HEAD names; empty where it points nowhere or is detached.
	Head string

	head         plumbing.Hash
	hashes       map[string]plumbing.Hash
	peeled       map[string]plumbing.Hash
	capabilities *capability.List
}

// Branch is the commit at a branch's tip.
func (r Refs) Branch(name string) (commit string, found bool) {
	hash, found := r.hashes["refs/heads/"+name]
	if !found {
		return "", false
	}
	return hash.String(), true
}

// Refs lists what can be read. It is one request.
func (c *Client) Refs(ctx context.Context, remote Remote) (Refs, error) {
	return c.refs(ctx, remote, AdvertiseUpload, reading(remote))
}

func (c *Client) refs(ctx context.Context, remote Remote, phase Phase, op operation) (Refs, error) {
	body, err := c.advertise(ctx, remote, phase, op)
	if err != nil {
		return Refs{}, err
	}
	defer func() { _ = body.Close() }() // what was read is checked by itself
	text, err := io.ReadAll(io.LimitReader(body, maxAdvertisement+1))
	if err != nil {
		return Refs{}, classifyPack(ctx, op, err)
	}
	if len(text) > maxAdvertisement {
		return Refs{}, fault.Newf(fault.TooLarge, "%s: the server advertises more than %d MB of refs", op, maxAdvertisement>>20)
	}
	refs, err := parseRefs(text)
	if err != nil {
		return Refs{}, classifyPack(ctx, op, err)
	}
	return refs, nil
}

// parseRefs reads an advertisement of protocol version 0 (gitprotocol-pack(5)).
func parseRefs(text []byte) (Refs, error) {
	if bytes.Contains(text[:min(len(text), 2048)], []byte("object-format=sha256")) {
		return Refs{}, fault.Newf(fault.Invalid, "the repository's objects are named by SHA-256; only SHA-1 repositories can be read, as Bitbucket's are")
	}
	if message, found := errorLine(text); found {
		return Refs{}, fault.Newf(fault.NotFound, "the server refuses: %q", quote(message))
	}
	advertised := packp.NewAdvRefs()
	if err := advertised.Decode(bytes.NewReader(text)); err != nil {
		if errors.Is(err, packp.ErrEmptyAdvRefs) {
			return Refs{Empty: true, capabilities: capability.NewList()}, nil
		}
		return Refs{}, err
	}
	refs := Refs{
		Empty: len(advertised.References) == 0 && advertised.Head == nil, hashes: advertised.References, peeled: advertised.Peeled,
		capabilities: advertised.Capabilities,
	}
	if advertised.Head != nil {
		refs.head = *advertised.Head
		for _, symref := range advertised.Capabilities.Get(capability.SymRef) {
			if target, found := strings.CutPrefix(symref, "HEAD:"); found {
				refs.Head = target
			}
		}
	}
	return refs, nil
}

// errorLine is the message of a pkt-line that reports an error instead of an answer.
func errorLine(text []byte) (string, bool) {
	if len(text) > 8 && bytes.HasPrefix(text[4:], []byte("ERR ")) {
		line, _, _ := bytes.Cut(text[8:min(len(text), 1024)], []byte("\n"))
		return string(line), true
	}
	return "", false
}

// tip is what a fetch asks for.
type tip struct {
	ref    string        // full name; empty where a commit was asked for, or HEAD is detached
	want   plumbing.Hash // what ref names: a commit, or an annotated tag
	commit plumbing.Hash // zero where only the tag object can tell
}

// find resolves a ref as callers write it: nothing or HEAD, a full name, a branch, a tag, a commit's full hash, in this order.
func (r Refs) find(op operation, ref string) (tip, error) {
	if ref == "" || ref == "HEAD" {
		if r.head.IsZero() {
			return tip{}, fault.Newf(fault.NotFound, "%s: HEAD points to a branch that does not exist; name a branch", op)
		}
		return tip{r.Head, r.head, r.head}, nil
	}
	for _, name := range []string{ref, "refs/heads/" + ref, "refs/tags/" + ref} {
		if hash, found := r.hashes[name]; found {
			commit, annotated := r.peeled[name]
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
