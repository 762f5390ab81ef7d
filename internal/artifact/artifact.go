// Package artifact keeps the archives of clones, through gocloud.dev/blob: in a directory, or in memory for tests.
package artifact

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file://
	_ "gocloud.dev/blob/memblob"  // mem://
	"gocloud.dev/gcerrors"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// Store keeps artifacts by key. A key is relative, with / between parts of letters, digits, dots, dashes and underscores. A
// Store may be used concurrently, by several processes too where they share the directory.
type Store struct {
	bucket *blob.Bucket
	now    func() time.Time
}

// Written says what was kept.
type Written struct {
	Size   int64
	SHA256 string // in hex
}

const (
	// abandoned is the age at which a temporary file has no writer any more: none lets an hour pass between two writes.
	abandoned = time.Hour
	// temporary ends the names of fileblob's temporary files, which are beside the final ones and are listed like them.
	temporary = ".tmp"
	// attributes ends names that fileblob has reserved.
	attributes = ".attrs"
	// bufferSize gathers the small writes of archive encoders.
	bufferSize = 64 << 10
)

// Open opens the store at address: file:///a/directory, which is made with mode 0700 where it does not exist, or
// mem:// (a store of its own with each call, gone with the process). The error says what is wrong with the address.
func Open(ctx context.Context, address string) (*Store, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("artifact store: the address is no URL; write it like file:///var/lib/gitsmith/artifacts")
	}
	switch {
	case parsed.Scheme == "mem" && parsed.Host == "" && parsed.Path == "":
	case parsed.Scheme == "file" && parsed.Host == "" && strings.Trim(parsed.Path, "/") != "":
		parsed.RawQuery = withDefaults(parsed.Query()).Encode()
	case parsed.Scheme == "file":
		return nil, fmt.Errorf("artifact store: %q names no directory; write three slashes and an absolute path, like file:///var/lib/gitsmith/artifacts", parsed.Redacted())
	default:
		return nil, fmt.Errorf("artifact store: this build keeps artifacts in file:///a/directory or mem:// (for tests), not in %q", parsed.Scheme+"://")
	}
	bucket, err := blob.OpenBucket(ctx, parsed.String())
	if err != nil {
		return nil, fmt.Errorf("artifact store: %w", err)
	}
	return &Store{bucket: bucket, now: time.Now}, nil
}

// withDefaults completes fileblob's options. Temporary files are beside the final ones: so they are on the same disk, and
// Sweep finds what a crash has left. No file of metadata stands beside an artifact.
func withDefaults(options url.Values) url.Values {
	options.Set("no_tmp_dir", "true")
	options.Set("metadata", "skip")
	for name, value := range map[string]string{"create_dir": "true", "dir_file_mode": "0700"} {
		if !options.Has(name) {
			options.Set(name, value)
		}
	}
	return options
}

var keyShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$`)

// maxKey bounds a key in bytes, below what a file's name may have.
const maxKey = 200

func checkKey(key string) error {
	if len(key) > maxKey || !keyShape.MatchString(key) || strings.HasSuffix(key, temporary) || strings.HasSuffix(key, attributes) {
		return fault.Newf(fault.Internal, "%.100q is no artifact's key", key)
	}
	return nil
}

// Put keeps what write writes under key, in place of what was there. The artifact is seen when it is complete; on an error, a
// panic or the end of ctx nothing of it is kept and what was there stays. An error of write comes back as it is.
func (s *Store) Put(ctx context.Context, key string, write func(io.Writer) error) (Written, error) {
	if err := checkKey(key); err != nil {
		return Written{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	target, err := s.bucket.NewWriter(ctx, key, &blob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return Written{}, classify(ctx, "write", key, err)
	}
	closed := false
	defer func() {
		if !closed {
			cancel() // before Close, or what there is would be kept
			_ = target.Close()
		}
	}()
	out := &digesting{ctx: ctx, key: key, out: target, hash: sha256.New()}
	buffered := bufio.NewWriterSize(out, bufferSize)
	if err := write(buffered); err != nil {
		return Written{}, err
	}
	if err := buffered.Flush(); err != nil {
		return Written{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return Written{}, err
	}
	closed = true
	if err := target.Close(); err != nil {
		return Written{}, classify(ctx, "write", key, err)
	}
	return Written{Size: out.size, SHA256: hex.EncodeToString(out.hash.Sum(nil))}, nil
}

// digesting counts and digests on the way to out.
type digesting struct {
	ctx  context.Context // of the one Put that it serves
	key  string
	out  io.Writer
	hash hash.Hash
	size int64
}

func (d *digesting) Write(p []byte) (int, error) {
	if err := context.Cause(d.ctx); err != nil {
		return 0, err
	}
	n, err := d.out.Write(p)
	d.hash.Write(p[:n])
	d.size += int64(n)
	if err != nil {
		return n, classify(d.ctx, "write", d.key, err)
	}
	return n, nil
}

// Get reads the artifact under key; the caller closes it. The number is its size in bytes. A NotFound fault where there is
// none. What is replaced or deleted meanwhile can be read to its end.
func (s *Store) Get(ctx context.Context, key string) (io.ReadCloser, int64, error) {
	if err := checkKey(key); err != nil {
		return nil, 0, err
	}
	var opened os.FileInfo
	reader, err := s.bucket.NewReader(ctx, key, &blob.ReaderOptions{BeforeRead: func(as func(any) bool) (err error) {
		var file *os.File
		if as(&file) {
			opened, err = file.Stat()
		}
		return err
	}})
	if err != nil {
		return nil, 0, classify(ctx, "read", key, err)
	}
	if opened != nil {
		// fileblob asks for the size before it opens the file, which may be another one by then.
		return reader, opened.Size(), nil
	}
	return reader, reader.Size(), nil
}

// Delete removes the artifact under key. It is no error where there is none.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if err := s.bucket.Delete(ctx, key); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return classify(ctx, "delete", key, err)
	}
	return nil
}

// DeleteAll removes every artifact below a folder, and returns how many there were.
func (s *Store) DeleteAll(ctx context.Context, folder string) (int, error) {
	if err := checkKey(folder); err != nil {
		return 0, err
	}
	removed := 0
	for list := s.bucket.List(&blob.ListOptions{Prefix: folder + "/"}); ; {
		object, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return removed, nil
		}
		if err == nil {
			err = s.bucket.Delete(ctx, object.Key)
		}
		switch {
		case err == nil:
			removed++
		case gcerrors.Code(err) != gcerrors.NotFound: // else a sweep was first
			return removed, classify(ctx, "delete all of", folder, err)
		}
	}
}

// sweepTries is how often a sweep begins again when a file went away under the listing, which fileblob takes for an error.
const sweepTries = 100

// Sweep removes the artifacts that were written before olderThan, and temporary files that a crash has left and nobody has
// written to for an hour. It returns how many files it removed, where it fails too. Several may run at once.
func (s *Store) Sweep(ctx context.Context, olderThan time.Time) (int, error) {
	removed := 0
	for range sweepTries {
		n, err := s.sweep(ctx, olderThan)
		removed += n
		if err == nil || gcerrors.Code(err) != gcerrors.NotFound {
			return removed, classify(ctx, "sweep", "all", err)
		}
	}
	return removed, nil // others are sweeping all the time
}

func (s *Store) sweep(ctx context.Context, olderThan time.Time) (int, error) {
	forgotten := s.now().Add(-abandoned)
	removed := 0
	for list := s.bucket.List(nil); ; {
		if err := context.Cause(ctx); err != nil {
			return removed, err
		}
		object, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return removed, nil
		}
		if err != nil {
			return removed, err
		}
		old := object.ModTime.Before(olderThan)
		if strings.HasSuffix(object.Key, temporary) {
			old = object.ModTime.Before(forgotten)
		}
		if !old {
			continue
		}
		switch err := s.bucket.Delete(ctx, object.Key); {
		case err == nil:
			removed++
		case gcerrors.Code(err) != gcerrors.NotFound: // else another sweep was first
			return removed, err
		}
	}
}

// Close releases the store. It must not be used afterwards.
func (s *Store) Close() error { return s.bucket.Close() }

// classify is the one place that knows gocloud's errors.
func classify(ctx context.Context, operation, key string, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case gcerrors.Code(err) == gcerrors.NotFound:
		return fault.Wrapf(fault.NotFound, err, "there is no such artifact; it may have been removed after its time, run the clone again")
	}
	return fault.Wrapf(fault.Unavailable, err, "the artifact store cannot %s %s now; try again, and see that the disk is writable and not full", operation, key)
}
