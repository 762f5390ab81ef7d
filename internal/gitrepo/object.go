package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/gitsmith/gitsmith/internal/packstream"
)

// objectReader reads a repository's objects by their hash; plumbing.ErrObjectNotFound where there is none of that kind.
type objectReader interface {
	EncodedObject(plumbing.ObjectType, plumbing.Hash) (plumbing.EncodedObject, error)
}

// readObject is an object as it was read. It is a [plumbing.EncodedObject].
type readObject struct {
	hash plumbing.Hash
	kind plumbing.ObjectType
	size int64
	open func() (io.ReadCloser, error)
}

func fromMemory(hash plumbing.Hash, kind plumbing.ObjectType, content []byte) *readObject {
	return &readObject{hash, kind, int64(len(content)), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
}

func fromPack(p *pack, found packstream.Object) *readObject {
	return &readObject{plumbing.Hash(found.ID), plumbing.ObjectType(found.Kind), found.Size, func() (io.ReadCloser, error) {
		return p.Reader(found)
	}}
}

// Hash is the object's name.
func (o *readObject) Hash() plumbing.Hash { return o.hash }

// Type is the object's kind.
func (o *readObject) Type() plumbing.ObjectType { return o.kind }

// Size is the content's, in bytes.
func (o *readObject) Size() int64 { return o.size }

// Reader reads the content.
func (o *readObject) Reader() (io.ReadCloser, error) { return o.open() }

// SetType does nothing: what was read stays.
func (o *readObject) SetType(plumbing.ObjectType) {}

// SetSize does nothing.
func (o *readObject) SetSize(int64) {}

// Writer fails.
func (o *readObject) Writer() (io.WriteCloser, error) {
	return nil, errors.New("an object that was read is not written")
}

// content reads all of it.
func (o *readObject) content() ([]byte, error) {
	reader, err := o.open()
	if err != nil {
		return nil, err
	}
	content := make([]byte, o.size)
	_, err = io.ReadFull(reader, content)
	return content, errors.Join(noEOF(err), reader.Close())
}

// readCommit reads a commit without its tree and parents.
func readCommit(objects objectReader, hash plumbing.Hash) (*object.Commit, error) {
	encoded, err := objects.EncodedObject(plumbing.CommitObject, hash)
	if err != nil {
		return nil, fmt.Errorf("read commit %s: %w", hash, err)
	}
	commit := new(object.Commit)
	if err := commit.Decode(encoded); err != nil {
		return nil, fmt.Errorf("read commit %s: %w: %w", hash, packstream.ErrDamaged, err)
	}
	return commit, nil
}

// readTree reads one level of a tree.
func readTree(objects objectReader, hash plumbing.Hash) (*object.Tree, error) {
	encoded, err := objects.EncodedObject(plumbing.TreeObject, hash)
	if err != nil {
		return nil, fmt.Errorf("read tree %s: %w", hash, err)
	}
	tree := new(object.Tree)
	if err := tree.Decode(encoded); err != nil {
		return nil, fmt.Errorf("read tree %s: %w: %w", hash, packstream.ErrDamaged, err)
	}
	return tree, nil
}

// contextReader ends reading when ctx has ended.
type contextReader struct {
	ctx    context.Context //nolint:containedctx // it lives for one copy
	reader io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.reader.Read(p)
}
