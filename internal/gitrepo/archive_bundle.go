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
// The pack is the server's own, byte for byte, once all of it has come and is sound.
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
	if err := closed(ctx, source); err != nil {
		return 0, err
	}
	if err := writeBundleHeader(out, source); err != nil {
		return 0, fmt.Errorf("archive: %w", err)
	}
	_, err = source.pack.WriteTo(out)
	return files, err
}

// closed parses a pack to its end and checks that git could clone from it: the tip is there, and whatever an object leads to.
func closed(ctx context.Context, source archiveSource) error {
	if err := source.pack.all(); err != nil {
		return err
	}
	if _, here := source.pack.Get(source.tip); !here {
		return fmt.Errorf("the pack lacks its tip: %w", plumbing.ErrObjectNotFound)
	}
	for found := range source.pack.Objects() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		leads, err := leadsTo(fromPack(source.pack, found))
		if err != nil {
			return fmt.Errorf("%s %x: %w", found.Kind, found.ID, err)
		}
		for _, hash := range leads {
			if _, here := source.pack.Get(hash); !here {
				return fmt.Errorf("%s %x leads to %s, which the pack lacks: %w", found.Kind, found.ID, hash, plumbing.ErrObjectNotFound)
			}
		}
	}
	return nil
}

// leadsTo are the objects that an object names, but for submodules' commits, which are in other repositories.
func leadsTo(found *readObject) ([]plumbing.Hash, error) {
	switch found.kind {
	case plumbing.TagObject:
		tag := new(object.Tag)
		err := tag.Decode(found)
		return []plumbing.Hash{tag.Target}, err
	case plumbing.CommitObject:
		commit := new(object.Commit)
		err := commit.Decode(found)
		return append(commit.ParentHashes, commit.TreeHash), err
	case plumbing.TreeObject:
		tree := new(object.Tree)
		err := tree.Decode(found)
		leads := make([]plumbing.Hash, 0, len(tree.Entries))
		for _, entry := range tree.Entries {
			if entry.Mode != filemode.Submodule {
				leads = append(leads, entry.Hash)
			}
		}
		return leads, err
	}
	return nil, nil
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
