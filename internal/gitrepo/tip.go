package gitrepo

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/gitsmith/gitsmith/internal/tipcache"
)

// cached is what the tip cache notes of a repository beside its objects.
type cached struct {
	Server server      `json:"server"`
	Tips   []cachedTip `json:"tips"` // the one that was read last comes first
	Live   int64       `json:"live"` // bytes of objects when the entry was last swept
}

// cachedTip is a commit that was read, with trees.
type cachedTip struct {
	Commit string `json:"commit"`
}

const (
	maxTips   = 8        // that an entry notes
	maxCached = 32 << 20 // bytes of objects that one reading adds
	maxItem   = 16 << 20 // bytes of one of them; of a blob largeObject
	sweepFrom = 1 << 20  // bytes of waste below which an entry is not swept
)

func (r Remote) cacheKey() tipcache.Key {
	return tipcache.Key{Installation: r.Installation, Repository: r.Repository.String()}
}

// load opens what is cached of a repository, and remembers what its server can do; nil where nothing is.
func (c *Client) load(ctx context.Context, remote Remote) (*tipcache.Entry, cached) {
	if c.cache == nil || remote.Installation == "" {
		return nil, cached{}
	}
	c.fills.wait(ctx, remote.cacheKey())
	return c.loadNow(remote)
}

// loadNow is load that waits for nothing.
func (c *Client) loadNow(remote Remote) (*tipcache.Entry, cached) {
	entry := c.cache.Load(remote.cacheKey())
	if entry == nil {
		return nil, cached{}
	}
	var meta cached
	if err := json.Unmarshal(entry.Meta, &meta); err != nil {
		_ = entry.Close() // only read
		c.cache.Remove(remote.cacheKey())
		return nil, cached{}
	}
	c.recall(remote, meta.Server)
	return entry, meta
}

// since are the commits that an update starts from: those of whichever branch that are here with their trees. The oldest comes first:
// git's server takes the parent of a commit that the client has for known, though the client says that it has no parents.
func (m cached) since(entry *tipcache.Entry) []plumbing.Hash {
	var found []plumbing.Hash
	for _, tip := range slices.Backward(m.Tips) {
		if hash, err := parseHash(tip.Commit); err == nil && hasTip(entry, hash) {
			found = append(found, hash)
		}
	}
	return found
}

// hasTip reports whether a commit and its tree are cached.
func hasTip(entry *tipcache.Entry, commit plumbing.Hash) bool {
	if entry == nil || entry.Kind(commit) != int8(plumbing.CommitObject) {
		return false
	}
	found, err := readCommit(entryReader{entry}, commit)
	return err == nil && entry.Kind(found.TreeHash) == int8(plumbing.TreeObject)
}

// entryReader reads a cache's entry alone.
type entryReader struct{ *tipcache.Entry }

func (e entryReader) EncodedObject(kind plumbing.ObjectType, hash plumbing.Hash) (plumbing.EncodedObject, error) {
	found, here := e.Get(hash)
	if !here || plumbing.ObjectType(found.Kind) != kind {
		return nil, plumbing.ErrObjectNotFound
	}
	return fromMemory(hash, kind, found.Content), nil
}

// put notes a tip and adds objects to what is cached. That it fails is no harm to anybody: the next reading costs more.
func (c *Client) put(remote Remote, commit plumbing.Hash, old *tipcache.Entry, meta cached, add []tipcache.Object) {
	var added int64
	for _, each := range add {
		added += int64(len(each.Content))
	}
	if added > maxCached {
		return
	}
	if s := c.known(remote); s != nil {
		meta.Server = *s
	}
	meta.Tips = slices.DeleteFunc(slices.Clone(meta.Tips), func(tip cachedTip) bool { return tip.Commit == commit.String() })
	meta.Tips = slices.Insert(meta.Tips, 0, cachedTip{commit.String()})
	meta.Tips = meta.Tips[:min(len(meta.Tips), maxTips)]
	var keep func(tipcache.ID) bool
	switch {
	case old == nil:
		meta.Live = added
	case old.Size()+added > 2*meta.Live+sweepFrom:
		live := reachable(meta.Tips, old, add)
		keep = func(id tipcache.ID) bool { _, found := live[id]; return found }
		meta.Live = added
		for id := range live {
			meta.Live += old.SizeOf(id)
		}
	}
	text, err := json.Marshal(meta)
	if err == nil {
		err = c.cache.Store(remote.cacheKey(), text, old, keep, add)
	}
	c.cacheFailed(err)
}

// reachable are the objects that tips lead to, as far as they are known. Submodules' commits do no harm among them.
func reachable(tips []cachedTip, old *tipcache.Entry, add []tipcache.Object) map[tipcache.ID]struct{} {
	objects := mixedReader{entryReader{old}, make(map[plumbing.Hash]tipcache.Object, len(add))}
	for _, each := range add {
		objects.added[each.ID] = each
	}
	live := map[tipcache.ID]struct{}{}
	var queue []plumbing.Hash
	for _, tip := range tips {
		hash := plumbing.NewHash(tip.Commit)
		if commit, err := readCommit(objects, hash); err == nil {
			live[hash] = struct{}{}
			queue = append(queue, commit.TreeHash)
		}
	}
	for len(queue) > 0 {
		hash := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if _, seen := live[hash]; seen {
			continue
		}
		tree, err := readTree(objects, hash)
		if err != nil {
			continue
		}
		live[hash] = struct{}{}
		for _, entry := range tree.Entries {
			if entry.Mode == filemode.Dir {
				queue = append(queue, entry.Hash)
			} else {
				live[entry.Hash] = struct{}{}
			}
		}
	}
	return live
}

type mixedReader struct {
	entryReader
	added map[plumbing.Hash]tipcache.Object
}

func (m mixedReader) EncodedObject(kind plumbing.ObjectType, hash plumbing.Hash) (plumbing.EncodedObject, error) {
	if found, here := m.added[hash]; here {
		return fromMemory(hash, plumbing.ObjectType(found.Kind), found.Content), nil
	}
	return m.entryReader.EncodedObject(kind, hash)
}

// worthKeeping are the objects of a reading that the cache lacks: the tip, all trees, and the blobs that were read.
func (o *objects) worthKeeping() ([]tipcache.Object, error) {
	var found []tipcache.Object
	var size int64
	take := func(each *readObject) error {
		if size += each.size; size > maxCached || each.size > maxItem || o.entry != nil && o.entry.Has(each.hash) {
			return nil
		}
		content, err := each.content()
		found = append(found, tipcache.Object{ID: each.hash, Kind: int8(each.kind), Content: content})
		return err
	}
	for _, p := range o.packs {
		for each := range p.Objects() {
			if plumbing.Hash(each.ID) != o.tip.commit && plumbing.ObjectType(each.Kind) != plumbing.TreeObject {
				continue
			}
			if err := take(fromPack(p, each)); err != nil {
				return nil, err
			}
		}
	}
	for _, each := range o.loose {
		if each.kind == plumbing.TreeObject {
			if err := take(each); err != nil {
				return nil, err
			}
		}
	}
	for _, each := range o.blobs {
		if err := take(each); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// store caches a commit that became a branch's tip, on top of what is cached of the one before it.
func (c *Client) store(remote Remote, commit *Commit) {
	old, meta := c.loadNow(remote)
	if old == nil {
		return
	}
	defer func() { _ = old.Close() }() // only read
	c.put(remote, plumbing.NewHash(commit.Hash), old, meta, commit.worthKeeping())
}

// worthKeeping are the objects of a commit that the tip cache takes.
func (c *Commit) worthKeeping() []tipcache.Object {
	var found []tipcache.Object
	for _, object := range c.objects {
		if size := len(object.content); size <= largeObject || size <= maxItem && object.kind != plumbing.BlobObject {
			found = append(found, tipcache.Object{ID: object.hash, Kind: int8(object.kind), Content: object.content})
		}
	}
	return found
}
