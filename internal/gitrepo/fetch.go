package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/gitsmith/gitsmith/internal/packstream"
	"github.com/gitsmith/gitsmith/internal/tipcache"
)

// Want is what a fetch reads.
type Want struct {
	Ref   string // empty or HEAD, a full ref, a branch, a tag, or a commit's full hash
	Depth int    // commits of history; 0 is all of it
	// Sparse says that few of the files will be read, of a tip without its history: what else there is need not come. What is
	// read is kept in the tip cache, with Push.
	Sparse bool
	// TreeDepth is how many levels of directories will be looked at, with Sparse; 0 is all of them. More can still be read, which
	// then may cost a request.
	TreeDepth int
	// Push says that a push to the ref will follow, and others after it.
	Push bool
	// MainBranch asks for the name of the main branch too. That costs one more request on the first visit to a repository.
	MainBranch bool
}

// Way is how a tip was read.
type Way string

// The ways, the cheapest first.
const (
	WayCached  Way = "cached"  // the tip cache had it: no pack was asked for
	WayUpdated Way = "updated" // the tip cache had an older tip, and what came since was asked for
	WayPartial Way = "partial" // the commit and its trees alone, and files by their hash (a filter)
	WayShallow Way = "shallow" // the commit with all its files, as far as it was needed
	WayFull    Way = "full"    // with the whole history
)

// Fetch reads a ref's tip: what it is, and its objects by the cheapest way that the server has. The snapshot may go on receiving until
// it is closed, or until ctx ends. The snapshot of an empty repository is empty, whatever ref was asked for; its first commit
// makes the branch.
//
// Faults, of Fetch and of all that reads the snapshot: NotFound for a ref that is not there, Denied, TooLarge over
// MaxRepository, Throttled, Unavailable for whatever a later attempt may find well, Interrupted when ctx ends.
func (c *Client) Fetch(ctx context.Context, remote Remote, want Want) (*Snapshot, error) {
	op := reading(remote)
	want.Sparse = want.Sparse && want.Depth == 1
	var entry *tipcache.Entry
	var meta cached
	if want.Sparse {
		entry, meta = c.load(ctx, remote)
	}
	snapshot, err := c.fetch(ctx, remote, op, want, entry, meta)
	if err != nil {
		if entry != nil {
			err = errors.Join(err, entry.Close())
		}
		if misunderstood(err) {
			c.forget(remote)
		}
		return nil, packFault(ctx, op, err)
	}
	if c.config.ObserveRead != nil && snapshot.objects != nil {
		c.config.ObserveRead(snapshot.way)
	}
	return snapshot, nil
}

func (c *Client) fetch(ctx context.Context, remote Remote, op operation, want Want, entry *tipcache.Entry, meta cached) (*Snapshot, error) {
	found, err := c.locate(ctx, remote, op, want)
	if err != nil {
		return nil, err
	}
	if found.empty {
		if entry != nil {
			err = entry.Close()
		}
		return &Snapshot{op: op}, err
	}
	o := &objects{client: c, remote: remote, op: op, server: found.server, tip: found.tip, entry: entry, life: newLife(ctx)}
	snapshot := &Snapshot{op: op, client: c, objects: o, head: found.head, want: want, meta: meta}
	if err := snapshot.read(ctx, want); err != nil {
		o.entry = nil // the caller's
		return nil, errors.Join(err, o.close())
	}
	return snapshot, nil
}

// locate finds out what a ref names. Where a push will follow and nothing is known of the server, it is asked at the same time what it takes
// and what it gives; its first answer lists the refs too.
func (c *Client) locate(ctx context.Context, remote Remote, op operation, want Want) (located, error) {
	if s := c.known(remote); !want.Push || s != nil && s.Receive != nil {
		return c.resolve(ctx, remote, op, want.Ref)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		listing
		err error
	}
	takes := make(chan answer, 1)
	go func() {
		l, err := c.advertised(ctx, remote, AdvertiseReceive, op)
		takes <- answer{l, err}
	}()
	gives, err := c.advertised(ctx, remote, AdvertiseUpload, op)
	if err != nil {
		cancel()
		<-takes
		return located{}, err
	}
	receives := <-takes // that it failed is said when it matters, at the push
	if receives.err == nil {
		gives.server.Receive = receives.server.Receive
	}
	c.learn(remote, gives.server)
	if !gives.server.V2 {
		return gives.locate(op, want.Ref)
	}
	if hash, listed := receives.hashes[want.Ref]; listed && !want.MainBranch { // receive-pack does not say what HEAD names
		return located{tip: tip{want.Ref, hash, hash}, server: gives.server}, nil
	}
	return c.resolve(ctx, remote, op, want.Ref)
}

// read chooses the way, and this is the one place that does: the first that the server and the cache allow. Where a way fails because
// the server is not what it said, or the cache not what was kept, the next one is taken.
func (s *Snapshot) read(ctx context.Context, want Want) error {
	o := s.objects
	ways := []struct {
		way  Way
		open bool
		read func(context.Context, Want) error
	}{
		{WayFull, want.Depth == 0, o.readFull},
		{WayCached, want.Sparse && hasTip(o.entry, o.tip.commit), func(context.Context, Want) error { return nil }},
		{WayUpdated, want.Sparse && o.entry != nil && o.server.Ready && o.server.Shallow, func(ctx context.Context, want Want) error { return o.update(ctx, want, s.meta) }},
		{WayPartial, want.Sparse && o.server.Filter && o.server.ByHash && o.server.Shallow, o.readPartial},
		{WayShallow, want.Depth > 0, o.readShallow},
	}
	var err error
	for _, each := range ways {
		if !each.open {
			continue
		}
		if err = each.read(ctx, want); err == nil {
			err = s.open(ctx)
		}
		if err == nil {
			s.way = each.way
			return nil
		}
		if context.Cause(ctx) != nil || !errors.Is(err, errNotReady) && !errors.Is(err, plumbing.ErrObjectNotFound) && !errors.Is(err, packstream.ErrTooLarge) && !misunderstood(err) {
			return err
		}
		err = errors.Join(err, o.drop())
	}
	return err
}

func (o *objects) readFull(ctx context.Context, _ Want) error {
	return o.request(ctx, packRequest{wants: []plumbing.Hash{o.tip.want}}, true)
}

func (o *objects) readShallow(ctx context.Context, want Want) error {
	return o.request(ctx, packRequest{wants: []plumbing.Hash{o.tip.want}, depth: want.Depth}, true)
}

func (o *objects) readPartial(ctx context.Context, want Want) error {
	return o.request(ctx, packRequest{wants: []plumbing.Hash{o.tip.want}, depth: 1, filter: treeFilter(want)}, false)
}

func treeFilter(want Want) string {
	if want.TreeDepth == 0 {
		return "blob:none"
	}
	return fmt.Sprintf("combine:blob:none+tree:%d", want.TreeDepth)
}

// update asks for what a newer tip has that a cached one has not. It must be less than the entry holds, or reading anew is cheaper.
func (o *objects) update(ctx context.Context, want Want, meta cached) error {
	since := meta.since(o.entry)
	if len(since) == 0 {
		return errNotReady
	}
	return o.request(ctx, packRequest{
		wants: []plumbing.Hash{o.tip.want}, since: since, update: true, filter: updateFilter(o.server),
		maxBytes: max(1<<20, 2*o.entry.Size()),
	}, false)
}

func updateFilter(s server) string {
	if s.Filter && s.ByHash {
		return "blob:none"
	}
	return ""
}

// drop gives up what a way brought that led nowhere.
func (o *objects) drop() error {
	var errs []error
	for _, p := range o.packs {
		errs = append(errs, p.close())
	}
	o.packs, o.main, o.whole, o.files, o.trees = nil, nil, false, false, nil
	return errors.Join(errs...)
}

// FindJob looks for the commit that a job made on the mark's branch, among those that came after since; where since is empty, among the
// last fifty, and further back as far as no commit is older than the mark's After.
//
// It asks for more history in growing steps, because since may be gone from a branch that somebody rewrote.
func (c *Client) FindJob(ctx context.Context, remote Remote, mark Mark, since string) (commit string, found bool, err error) {
	op := reading(remote)
	name := "refs/heads/" + mark.Branch
	l, err := c.list(ctx, remote, op, []string{name})
	if err != nil {
		return "", false, err
	}
	tip, there := l.hashes[name]
	if !there || tip.String() == since {
		return "", false, nil
	}
	request := packRequest{wants: []plumbing.Hash{tip}, depth: searchDepth, filter: "tree:0", ahead: readAhead}
	if since != "" {
		request.since = []plumbing.Hash{plumbing.NewHash(since)}
	}
	further := since != "" || !mark.After.IsZero()
	wanted := func(commit *object.Commit) bool {
		if since == "" && commit.Committer.When.Before(mark.After) {
			further = false
		}
		return mark.made(commit)
	}
	for {
		hash, more, err := c.searchPack(ctx, remote, op, l.server, request, wanted)
		switch refused := new(refusal); {
		case errors.As(err, &refused) && l.server.Filter:
			l.server.Filter = false // a server that has filters need not have this one
		case err != nil:
			return "", false, packFault(ctx, op, err)
		case hash != "" || !more || !further || 10*request.depth > searchLimit:
			return hash, hash != "", nil
		default:
			request.depth *= 10
		}
	}
}

const (
	searchDepth = 50        // generations of commits that are asked for first
	searchLimit = 10_000    // commits, at all
	readAhead   = 256 << 10 // bytes of a pack that may arrive before they are asked for
)

// searchPack looks for a job's commit in one pack; more says that the depth left out commits that have not been looked at.
func (c *Client) searchPack(ctx context.Context, remote Remote, op operation, s server, r packRequest, wanted func(*object.Commit) bool) (hash string, more bool, err error) {
	p, err := c.fetchPack(ctx, remote, op, s, r)
	if err != nil {
		return "", false, err
	}
	hash, more, err = searchCommits(p, r, wanted)
	return hash, more, errors.Join(err, p.close())
}

// searchCommits walks from the wanted tip through the commits of the pack, to the first that is wanted. A commit that is not in it is one that
// since leads to, but that is known at the pack's end only: objects may come in any order. The tip itself must be there, unless since leads
// to it and the pack is empty.
func searchCommits(p *pack, r packRequest, wanted func(*object.Commit) bool) (hash string, more bool, err error) {
	queue, seen := slices.Clone(r.wants), map[plumbing.Hash]bool{}
	for _, known := range slices.Concat(r.wants, r.since) {
		seen[known] = true
	}
	for visited := 0; visited < len(queue) && len(seen) < searchLimit; visited++ {
		hash := queue[visited]
		commit, err := readCommit(packReader{p}, hash)
		if errors.Is(err, plumbing.ErrObjectNotFound) && (visited > 0 || len(r.since) > 0 && p.empty()) {
			continue
		}
		if err != nil {
			return "", false, err
		}
		if wanted(commit) {
			return hash.String(), false, nil
		}
		for _, parent := range commit.ParentHashes {
			switch {
			case seen[parent]:
			case p.boundary[hash]:
				more = true
			default:
				seen[parent] = true
				queue = append(queue, parent)
			}
		}
	}
	return "", more, nil
}

// packReader reads objects from a pack alone, parsing it as far as necessary.
type packReader struct{ *pack }

func (r packReader) EncodedObject(_ plumbing.ObjectType, hash plumbing.Hash) (plumbing.EncodedObject, error) {
	found, here, err := r.Find(hash)
	if err != nil {
		return nil, err
	}
	if !here {
		return nil, plumbing.ErrObjectNotFound
	}
	return fromPack(r.pack, found), nil
}
