package gitrepo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/job"
)

// ArchiveSpec says what [Snapshot.Archive] writes.
type ArchiveSpec struct {
	// Format is tar.gz, zip or bundle.
	Format job.Archive
	// Paths are globs over the files' full paths; none is everything. A path without a wildcard that names a
	// directory stands for all that is below it. A bundle takes none.
	Paths []string
}

// What an archive may hold. A repository of a few kilobytes can name the same tree a billion times; these stop it long
// before a disk is full, and no repository within Bitbucket's 4 GB has met them honestly.
const (
	maxArchiveEntries = 1_000_000
	maxArchiveContent = 64 << 30 // bytes, uncompressed
	maxArchiveDepth   = 1_024    // directories in directories
	maxSymlinkTarget  = 64 << 10
)

// archiveBuffer is the size of each of the few buffers that an archive passes through.
const archiveBuffer = 64 << 10

// archiveSource is the part of a snapshot that an archive is written from.
type archiveSource struct {
	objects objectReader
	commit  plumbing.Hash
	tip     plumbing.Hash // what ref names: the commit, or an annotated tag that leads to it
	ref     string        // full name; empty or HEAD where no branch or tag was asked for
	shallow bool          // history is cut off
	pack    *pack         // the server's, whole; a bundle needs it
}

// archiveWriter is one format of a tree's archive. Paths are clean, relative and without a trailing slash. A directory comes
// before what is in it.
type archiveWriter interface {
	directory(path string) error
	file(path string, executable bool, size int64, content io.Reader) error
	symlink(path, target string) error
	Close() error
}

// writeArchive writes the archive and counts its files and symlinks; of a bundle, those of the commit. The bytes depend on the
// commit, the ref and the paths alone (and on the release of Gitsmith, whose compressor may change), never on the machine or,
// but for a bundle, on how the server packed the objects. What was written is useless after an error. The end of ctx ends it within one buffer.
func writeArchive(ctx context.Context, w io.Writer, source archiveSource, spec ArchiveSpec) (int, error) {
	target := &archiveTarget{ctx: ctx, out: w}
	buffered := bufio.NewWriterSize(target, archiveBuffer)
	files, err := writeArchiveTo(ctx, buffered, source, spec)
	if err == nil {
		err = buffered.Flush()
	}
	if target.err != nil {
		err = target.err // not whatever the formats made of it
	}
	if err != nil {
		return 0, err
	}
	return files, nil
}

// archiveTarget is where an archive goes. It keeps apart what fails there from what fails in reading the repository, for which
// its server would be blamed.
type archiveTarget struct {
	ctx context.Context //nolint:containedctx // it lives for one archive
	out io.Writer
	err error
}

func (t *archiveTarget) Write(p []byte) (int, error) {
	if t.ctx.Err() != nil {
		return 0, context.Cause(t.ctx)
	}
	n, err := t.out.Write(p)
	if err != nil && t.err == nil {
		t.err = err
		if classified := (*fault.Error)(nil); t.ctx.Err() == nil && !errors.As(err, &classified) {
			t.err = fault.Wrapf(fault.Internal, err, "archive: it cannot be stored; the log says why")
		}
	}
	return n, err
}

func writeArchiveTo(ctx context.Context, out *bufio.Writer, source archiveSource, spec ArchiveSpec) (int, error) {
	if spec.Format == job.ArchiveBundle {
		return writeBundle(ctx, out, source, spec)
	}
	commit, err := readCommit(source.objects, source.commit)
	if err != nil {
		return 0, err
	}
	var writer archiveWriter
	switch spec.Format {
	case job.ArchiveTarGz:
		writer, err = newTarGz(out, source.commit.String(), commit.Committer.When)
	case job.ArchiveZip:
		writer, err = newZip(out, source.commit.String(), commit.Committer.When)
	default:
		return 0, fault.Newf(fault.Invalid, "archive: %.80q is none of tar.gz, zip, bundle", spec.Format)
	}
	if err != nil {
		return 0, fmt.Errorf("archive: %w", err)
	}
	files, err := walkTree(ctx, source.objects, commit.TreeHash, spec.Paths, writer)
	if err != nil {
		return 0, err
	}
	return files, writer.Close()
}

// clampTime is when in UTC, in whole seconds, brought between two Unix times. A commit may claim any time at all.
func clampTime(when time.Time, earliest, latest int64) time.Time {
	return time.Unix(min(max(when.Unix(), earliest), latest), 0).UTC()
}
