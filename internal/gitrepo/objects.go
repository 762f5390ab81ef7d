package gitrepo

import (
	"context"
	"errors"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/gitsmith/gitsmith/internal/tipcache"
)

// objects are those of one snapshot, wherever they are: in the tip cache, in packs that came or are coming, or still at the
// server. It serves one goroutine.
type objects struct {
	client *Client
	remote Remote
	op     operation
	server server
	tip    tip
	life   life // of the packs that arrive

	entry   *tipcache.Entry // nil: nothing is cached
	packs   []*pack
	main    *pack // the one of packs that may still bring something; nil: none
	whole   bool  // main is the whole tip
	files   bool  // main brings files too: what is wanted of it is waited for, however far it has arrived
	refused bool  // the server does not give objects by their hash

	loose map[plumbing.Hash]*readObject // small ones that were asked for
	trees map[plumbing.Hash]*object.Tree
	kept  int                           // entries in trees
	blobs map[plumbing.Hash]*readObject // that were read and are small enough to be cached
}

const (
	largeObject = 1 << 20 // bytes from which an object is never held in memory
	maxTrees    = 1 << 18 // entries of decoded trees that are held
)

// at is the objects as they are read under a context.
func (o *objects) at(ctx context.Context) objectsAt { return objectsAt{o, ctx} }

type objectsAt struct {
	*objects
	ctx context.Context //nolint:containedctx // go-git's interface has no place for it
}

// EncodedObject is [objectReader]'s.
func (o objectsAt) EncodedObject(kind plumbing.ObjectType, hash plumbing.Hash) (plumbing.EncodedObject, error) {
	found, err := o.find(o.ctx, kind, hash)
	if err != nil {
		return nil, err
	}
	return found, nil
}

// find reads an object from wherever it is.
func (o *objects) find(ctx context.Context, kind plumbing.ObjectType, hash plumbing.Hash) (*readObject, error) {
	found, err := o.local(hash), context.Cause(ctx)
	if found == nil && err == nil {
		found, err = o.bring(ctx, kind, hash)
	}
	switch {
	case err != nil:
		return nil, err
	case found == nil, kind != plumbing.AnyObject && found.kind != kind:
		return nil, plumbing.ErrObjectNotFound
	}
	return found, nil
}

// tree reads one level of a tree, and holds it for the next time.
func (o *objects) tree(ctx context.Context, hash plumbing.Hash) (*object.Tree, error) {
	if tree, found := o.trees[hash]; found {
		return tree, nil
	}
	tree, err := readTree(o.at(ctx), hash)
	if err != nil {
		return nil, err
	}
	if o.kept += len(tree.Entries); o.kept > maxTrees || o.trees == nil {
		o.trees, o.kept = map[plumbing.Hash]*object.Tree{}, len(tree.Entries)
	}
	o.trees[hash] = tree
	return tree, nil
}

// local is an object that is here already; nil where it is not.
func (o *objects) local(hash plumbing.Hash) *readObject {
	if found := o.loose[hash]; found != nil {
		return found
	}
	for _, p := range o.packs {
		if found, here := p.Get(hash); here {
			return fromPack(p, found)
		}
	}
	if o.entry != nil {
		if found, here := o.entry.Get(hash); here {
			return fromMemory(hash, plumbing.ObjectType(found.Kind), found.Content)
		}
	}
	return nil
}

// has reports whether the server has just sent an object. What is cached does not count: the server may have dropped it since.
func (o *objects) has(hash plumbing.Hash) bool {
	if o.loose[hash] != nil {
		return true
	}
	for _, p := range o.packs {
		if _, here := p.Get(hash); here {
			return true
		}
	}
	return false
}

// bring gets an object that is not here, by whatever is cheapest: what is arriving anyway, the object alone, the whole tip.
func (o *objects) bring(ctx context.Context, kind plumbing.ObjectType, hash plumbing.Hash) (*readObject, error) {
	// A tree alone would bring its files along, where there is no filter.
	alone := o.server.ByHash && !o.refused && (kind == plumbing.BlobObject || o.server.Filter)
	arrives := o.main != nil && (o.files || o.main.complete() || kind != plumbing.BlobObject)
	if arrives || !alone {
		if found, err := o.arriving(hash); found != nil || err != nil {
			return found, err
		}
	}
	if alone {
		if err := o.ask(ctx, kind, []plumbing.Hash{hash}); err != nil {
			return nil, err
		}
		if found := o.local(hash); found != nil {
			return found, nil
		}
	}
	if found, err := o.arriving(hash); found != nil || err != nil || o.whole {
		return found, err
	}
	if err := o.fetchWhole(ctx); err != nil {
		return nil, err
	}
	return o.arriving(hash)
}

// arriving looks through what the main pack still brings.
func (o *objects) arriving(hash plumbing.Hash) (*readObject, error) {
	if o.main == nil {
		return nil, nil
	}
	found, here, err := o.main.Find(hash)
	if err != nil || !here {
		return nil, err
	}
	return fromPack(o.main, found), nil
}

// fetchWhole asks for the whole tip, without its history: the way that every server has.
func (o *objects) fetchWhole(ctx context.Context) error {
	return o.request(ctx, packRequest{wants: []plumbing.Hash{o.tip.want}, depth: 1}, true)
}

// request asks for the pack that brings more from now on.
func (o *objects) request(ctx context.Context, request packRequest, whole bool) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	p, err := o.client.fetchPack(o.life.ctx, o.remote, o.op, o.server, request)
	if err != nil {
		return err
	}
	o.packs = append(o.packs, p)
	o.main, o.whole, o.files = p, whole, request.filter == ""
	return nil
}

// ask gets objects by their hash. A server that gives none, or others, is not asked again.
func (o *objects) ask(ctx context.Context, kind plumbing.ObjectType, hashes []plumbing.Hash) error {
	request := packRequest{wants: hashes}
	if kind == plumbing.TreeObject {
		request.filter = "blob:none"
	}
	p, err := o.client.fetchPack(ctx, o.remote, o.op, o.server, request)
	if err == nil {
		if err = p.all(); err == nil {
			err = o.keep(p)
		} else {
			err = errors.Join(err, p.close())
		}
	}
	if misunderstood(err) && context.Cause(ctx) == nil {
		o.refused = true
		if refused := new(refusal); errors.As(err, &refused) {
			o.server.ByHash = false
			o.client.remember(o.remote, o.server)
		}
		return nil
	}
	for _, hash := range hashes {
		if err == nil && o.local(hash) == nil {
			o.refused = true
		}
	}
	return err
}

const maxLoose = 8 << 20 // bytes of one pack that are held in memory instead of the pack

// keep takes over a pack that was parsed to its end: small objects into memory, else as it is.
func (o *objects) keep(p *pack) error {
	var size int64
	for found := range p.Objects() {
		size += found.Size
		if found.Size > largeObject || size > maxLoose {
			o.packs = append(o.packs, p)
			return nil
		}
	}
	if o.loose == nil {
		o.loose = map[plumbing.Hash]*readObject{}
	}
	for found := range p.Objects() {
		content, err := p.Content(found)
		if err != nil {
			return errors.Join(err, p.close())
		}
		o.loose[found.ID] = fromMemory(found.ID, plumbing.ObjectType(found.Kind), content)
	}
	return p.close()
}

// prefetch gets blobs in one request, where they do not arrive anyway.
func (o *objects) prefetch(ctx context.Context, hashes []plumbing.Hash) error {
	if o.whole || !o.server.ByHash || o.refused {
		return nil
	}
	if o.main != nil && o.main.complete() {
		if err := o.main.all(); err != nil {
			return err
		}
	}
	var missing []plumbing.Hash
	for _, hash := range hashes {
		if o.local(hash) != nil {
			continue
		}
		if o.files { // or it depends on how far the pack has arrived whether a request is made for what it brings
			found, err := o.arriving(hash)
			if err != nil {
				return err
			}
			if found != nil {
				continue
			}
		}
		missing = append(missing, hash)
	}
	if len(missing) == 0 {
		return nil
	}
	return o.ask(ctx, plumbing.BlobObject, missing)
}

func (o *objects) close() error {
	o.life.end()
	var errs []error
	for _, p := range o.packs {
		errs = append(errs, p.close())
	}
	if o.entry != nil {
		errs = append(errs, o.entry.Close())
	}
	return errors.Join(errs...)
}
