package gitrepo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// writeBundle writes a git bundle, version 2 (gitformat-bundle(5)), that holds the whole history of the commit, so that git clone
// and git bundle verify take it without anything else. Its references are the asked one, an annotated tag with its tag
// object, and HEAD, which lets git clone check out the commit; where a bare commit was asked for, HEAD alone.
//
// A shallow snapshot is refused: git reads a bundle without the history below a boundary only into a repository that has the
// boundary's commits already (they would be prerequisites), so it could never be cloned.
func writeBundle(ctx context.Context, out *bufio.Writer, source archiveSource, spec ArchiveSpec) (int, error) {
	if len(spec.Paths) > 0 {
		return 0, fault.Newf(fault.Invalid, "archive: a bundle holds whole commits; use tar.gz or zip to choose paths")
	}
	if source.shallow {
		return 0, fault.Newf(fault.Invalid, "archive: a bundle holds the whole history, or git could not clone from it; leave depth out")
	}
	commit, err := readCommit(source.objects, source.commit)
	if err != nil {
		return 0, err
	}
	files, err := walkTree(ctx, source.objects, commit.TreeHash, nil, nil)
	if err != nil {
		return 0, err
	}
	list := newPackList(ctx, source.objects)
	if err := list.addTip(source.tip); err != nil {
		return 0, err
	}
	if err := writeBundleHeader(out, source); err != nil {
		return 0, fmt.Errorf("archive: %w", err)
	}
	return files, writePack(ctx, out, source.objects, list.ordered())
}

func writeBundleHeader(out io.Writer, source archiveSource) error {
	var header strings.Builder
	header.WriteString("# v2 git bundle\n")
	fmt.Fprintf(&header, "%s HEAD\n", source.commit)
	if strings.HasPrefix(source.ref, "refs/") {
		fmt.Fprintf(&header, "%s %s\n", source.tip, source.ref)
	}
	header.WriteString("\n")
	_, err := io.WriteString(out, header.String())
	return err
}

// packList collects the objects of a pack, each once, with the path under which it was first met. What it keeps is some hundred
// bytes an object and the paths, never content.
type packList struct {
	ctx     context.Context //nolint:containedctx // it lives for one bundle
	objects objectReader

	seen    map[plumbing.Hash]struct{}
	paths   map[string]int32
	entries []packEntry
}

// packEntry is one object of a pack.
type packEntry struct {
	hash plumbing.Hash
	path int32 // which path, by number; only objects of one path are compared with each other
	kind plumbing.ObjectType
}

func newPackList(ctx context.Context, objects objectReader) *packList {
	return &packList{ctx: ctx, objects: objects, seen: map[plumbing.Hash]struct{}{}, paths: map[string]int32{}}
}

// add notes an object and reports whether it is new.
func (l *packList) add(hash plumbing.Hash, kind plumbing.ObjectType, path string) bool {
	if _, seen := l.seen[hash]; seen {
		return false
	}
	l.seen[hash] = struct{}{}
	number, known := l.paths[path]
	if !known {
		number = int32(len(l.paths)) //nolint:gosec // a path costs more than two bytes of a repository of 4 GB
		l.paths[path] = number
	}
	l.entries = append(l.entries, packEntry{hash: hash, path: number, kind: kind})
	return true
}

// addTip notes all that a commit or an annotated tag leads to.
func (l *packList) addTip(tip plumbing.Hash) error {
	for {
		encoded, err := l.objects.EncodedObject(plumbing.AnyObject, tip)
		if err != nil {
			return fmt.Errorf("read %s: %w", tip, err)
		}
		if encoded.Type() != plumbing.TagObject {
			return l.addHistory(tip)
		}
		tag := new(object.Tag)
		if err := tag.Decode(encoded); err != nil {
			return fmt.Errorf("read tag %s: %w", tip, err)
		}
		if !l.add(tip, plumbing.TagObject, "") {
			return fmt.Errorf("tag %s leads to itself", tip)
		}
		tip = tag.Target
	}
}

// addHistory walks from a commit to all its ancestors, first parents first: an order that the commits alone decide.
func (l *packList) addHistory(tip plumbing.Hash) error {
	stack := []plumbing.Hash{tip}
	for len(stack) > 0 {
		if l.ctx.Err() != nil {
			return context.Cause(l.ctx)
		}
		hash := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if !l.add(hash, plumbing.CommitObject, "") {
			continue
		}
		commit, err := readCommit(l.objects, hash)
		if err != nil {
			return err
		}
		if err := l.addTree(commit.TreeHash, "", 0); err != nil {
			return err
		}
		for i := len(commit.ParentHashes) - 1; i >= 0; i-- {
			stack = append(stack, commit.ParentHashes[i])
		}
	}
	return nil
}

// addTree takes names as they are: nothing is written under them, and an unusual one must not hinder a backup.
func (l *packList) addTree(hash plumbing.Hash, path string, depth int) error {
	if !l.add(hash, plumbing.TreeObject, path) {
		return nil
	}
	if depth > maxArchiveDepth {
		return fault.Newf(fault.TooLarge, "archive: directories are nested more than %d deep at %.80q", maxArchiveDepth, path)
	}
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	tree, err := readTree(l.objects, hash)
	if err != nil {
		return err
	}
	for i := range tree.Entries {
		entry := &tree.Entries[i]
		switch entry.Mode {
		case filemode.Submodule: // the commit is in another repository
		case filemode.Dir:
			if err := l.addTree(entry.Hash, path+entry.Name+"/", depth+1); err != nil {
				return err
			}
		default:
			if _, seen := l.seen[entry.Hash]; !seen { // before the path is put together: mostly it is not needed
				l.add(entry.Hash, plumbing.BlobObject, path+entry.Name)
			}
		}
	}
	return nil
}
