package gitrepo

import (
	"context"
	"io"
	"maps"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/gitsmith/gitsmith/internal/edit"
	"github.com/gitsmith/gitsmith/internal/fault"
)

// CommitSpec is what a commit says beside its tree.
type CommitSpec struct {
	Message     string
	AuthorName  string // of author and committer
	AuthorEmail string
	Time        time.Time // written in UTC, to the second
	Mark        Mark      // identifies the commit later
}

// Commit is a commit that [Snapshot.Build] built and that is not at the server yet.
type Commit struct {
	Hash      string // in hex; empty where the commit is Unchanged
	Tree      string // in hex, the hash of the tree that the changes made; the parent's where the commit is Unchanged
	Unchanged bool   // the tree is the parent's: there is nothing to push

	objects []newObject // exactly the new ones, in their order in the pack
}

// size is about how many bytes the pack can have, in memory's measure: before compression.
func (c *Commit) size() int64 {
	var size int64
	for _, object := range c.objects {
		size += int64(len(object.content))
	}
	return size
}

// Build makes the commit that differs from the snapshot in changes: blobs, the trees along the changed paths, the commit.
// Directories without a file disappear. The same snapshot, changes and spec give the same hash.
func (s *Snapshot) Build(ctx context.Context, changes []edit.FileChange, spec CommitSpec) (*Commit, error) {
	b := builder{ctx: ctx, snapshot: s, commit: &Commit{}, made: map[plumbing.Hash]bool{}}
	var parent plumbing.Hash // zero for a repository's first commit
	if s.objects != nil {
		parent = s.objects.tip.commit
	}
	root, _, err := b.tree(s.root, changes)
	if err != nil {
		return nil, s.classify(ctx, err)
	}
	b.commit.Tree = root.String()
	if root == s.root && s.objects != nil {
		b.commit.Unchanged = true
		return b.commit, nil
	}
	signature := object.Signature{Name: spec.AuthorName, Email: spec.AuthorEmail, When: spec.Time.UTC().Truncate(time.Second)}
	commit := object.Commit{Author: signature, Committer: signature, Message: withTrailers(spec.Message, spec.Mark.trailers(parent, root)), TreeHash: root}
	if s.objects != nil {
		commit.ParentHashes = []plumbing.Hash{parent}
	}
	hash, err := b.addEncoded(&commit)
	b.commit.Hash = hash.String()
	return b.commit, err
}

// builder makes the new objects of one commit.
type builder struct {
	ctx      context.Context //nolint:containedctx // it lives for one build
	snapshot *Snapshot
	commit   *Commit
	made     map[plumbing.Hash]bool
}

// tree makes a tree of the one at base, zero for none, and changes whose paths are relative to it. empty says that no entry is
// left.
func (b *builder) tree(base plumbing.Hash, changes []edit.FileChange) (hash plumbing.Hash, empty bool, err error) {
	if b.ctx.Err() != nil {
		return base, false, context.Cause(b.ctx)
	}
	entries := map[string]object.TreeEntry{}
	if !base.IsZero() {
		tree, err := b.snapshot.objects.tree(b.ctx, base)
		if err != nil {
			return base, false, err
		}
		for _, entry := range tree.Entries {
			entries[entry.Name] = entry
		}
	}
	here, below := split(changes)
	// A file can make way for a directory of its name, and a directory for a file: removals first, files last.
	for _, change := range here {
		if change.Deleted {
			delete(entries, change.Path)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(below)) {
		if err := b.directory(entries, name, below[name]); err != nil {
			return base, false, err
		}
	}
	for _, change := range here {
		if !change.Deleted {
			if entries[change.Path], err = b.file(change); err != nil {
				return base, false, err
			}
		}
	}
	hash, err = b.write(entries)
	return hash, len(entries) == 0, err
}

// split parts changes into those of a directory's own files and those below its directories, by their name.
func split(changes []edit.FileChange) (here []edit.FileChange, below map[string][]edit.FileChange) {
	below = map[string][]edit.FileChange{}
	for _, change := range changes {
		name, rest, deeper := strings.Cut(change.Path, "/")
		change.Path = name
		if deeper {
			change.Path = rest
			below[name] = append(below[name], change)
		} else {
			here = append(here, change)
		}
	}
	return here, below
}

func (b *builder) directory(entries map[string]object.TreeEntry, name string, changes []edit.FileChange) error {
	var base plumbing.Hash
	if entry, found := entries[name]; found && entry.Mode == filemode.Dir {
		base = entry.Hash
	}
	hash, empty, err := b.tree(base, changes)
	switch {
	case err != nil:
		return err
	case empty:
		delete(entries, name)
	default:
		entries[name] = object.TreeEntry{Name: name, Mode: filemode.Dir, Hash: hash}
	}
	return nil
}

func (b *builder) file(change edit.FileChange) (object.TreeEntry, error) {
	mode, err := filemode.New(string(change.Mode))
	if err != nil {
		return object.TreeEntry{}, fault.Wrapf(fault.Internal, err, "%s: %.100q has the mode %q", b.snapshot.op, change.Path, change.Mode)
	}
	entry := object.TreeEntry{Name: change.Path, Mode: mode, Hash: plumbing.NewHash(change.ID)}
	if change.ID == "" {
		entry.Hash = b.add(plumbing.BlobObject, change.Content)
	}
	return entry, nil
}

func (b *builder) write(entries map[string]object.TreeEntry) (plumbing.Hash, error) {
	tree := object.Tree{Entries: make([]object.TreeEntry, 0, len(entries))}
	for _, entry := range entries {
		tree.Entries = append(tree.Entries, entry)
	}
	sort.Sort(object.TreeEntrySorter(tree.Entries)) // git's order: a directory sorts as if its name ended in a slash
	return b.addEncoded(&tree)
}

// addEncoded is add of an object that go-git encodes.
func (b *builder) addEncoded(object interface {
	Encode(plumbing.EncodedObject) error
},
) (plumbing.Hash, error) {
	encoded := new(plumbing.MemoryObject)
	err := object.Encode(encoded)
	if err != nil {
		return plumbing.ZeroHash, fault.Wrapf(fault.Internal, err, "%s: an object cannot be encoded", b.snapshot.op)
	}
	reader, err := encoded.Reader()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	content, err := io.ReadAll(reader)
	return b.add(encoded.Type(), content), err
}

// add keeps an object for the pack, unless the server has sent it itself.
func (b *builder) add(kind plumbing.ObjectType, content []byte) plumbing.Hash {
	hash := plumbing.ComputeHash(kind, content)
	if !b.made[hash] && (b.snapshot.objects == nil || !b.snapshot.objects.has(hash)) {
		b.made[hash] = true
		b.commit.objects = append(b.commit.objects, newObject{hash, kind, content})
	}
	return hash
}

var trailerLine = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]*: ?\S`)

// withTrailers ends a message in trailers (git-interpret-trailers(1)): in the block of trailers that ends the message, or in one
// of its own. Line ends become git's, and white space at the end goes.
func withTrailers(message string, trailers []string) string {
	message = strings.TrimSpace(strings.ReplaceAll(message, "\r\n", "\n"))
	separator := "\n\n"
	if _, last, found := cutLast(message, "\n\n"); found && allTrailers(last) {
		separator = "\n"
	}
	return message + separator + strings.Join(trailers, "\n") + "\n"
}

func allTrailers(paragraph string) bool {
	for i, line := range strings.Split(paragraph, "\n") {
		continues := i > 0 && (line[:min(len(line), 1)] == " " || line[:min(len(line), 1)] == "\t")
		if !continues && !trailerLine.MatchString(line) {
			return false
		}
	}
	return true
}

// cutLast is strings.Cut at the last separator; without one, all is after.
func cutLast(text, separator string) (before, after string, found bool) {
	if i := strings.LastIndex(text, separator); i >= 0 {
		return text[:i], text[i+len(separator):], true
	}
	return "", text, false
}
