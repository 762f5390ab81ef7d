package packstream_test

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/gitsmith/gitsmith/internal/packstream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type repository struct {
	t   *testing.T
	dir string
}

func (r repository) git(stdin string, args ...string) string {
	r.t.Helper()
	command := exec.Command("git", args...)
	command.Dir, command.Stdin = r.dir, strings.NewReader(stdin)
	command.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
	var stderr bytes.Buffer
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		r.t.Fatalf("git %v: %v: %s", args, err, stderr.Bytes())
	}
	return string(out)
}

// build makes a repository with small and large objects that resemble each other, so that packs of it hold every kind of delta.
func build(t *testing.T) repository {
	t.Helper()
	r := repository{t, t.TempDir()}
	r.git("", "init", "-q", "--bare", "--initial-branch=main", ".")
	random := rand.New(rand.NewPCG(1, 2))
	words := func(n int) string {
		var text strings.Builder
		for range n {
			fmt.Fprintf(&text, "word%d ", random.IntN(5000))
		}
		return text.String()
	}
	var stream strings.Builder
	small, large := words(400), words(130_000)
	for commit := range 12 {
		fmt.Fprintf(&stream, "commit refs/heads/main\ncommitter T <t@example.com> %d +0000\ndata 2\nx\n", 1_700_000_000+commit)
		cut := random.IntN(len(small))
		small = small[:cut] + words(3) + small[cut:]
		large = words(2) + large + words(2)
		for path, content := range map[string]string{"a/small": small, fmt.Sprintf("b/c/other%d", commit): small + "x", "large": large, "empty": ""} {
			fmt.Fprintf(&stream, "M 100644 inline %s\ndata %d\n%s\n", path, len(content), content)
		}
	}
	r.git(stream.String()+"done\n", "fast-import", "--quiet", "--done")
	r.git("", "-c", "user.name=T", "-c", "user.email=t@example.com", "tag", "-a", "-m", "v1", "v1", "main")
	return r
}

func (r repository) pack(args ...string) []byte {
	r.t.Helper()
	return []byte(r.git("", append([]string{"pack-objects", "--all", "--stdout", "-q", "--no-reuse-delta", "--no-reuse-object"}, args...)...))
}

func options(t testing.TB, memory int64) packstream.Options {
	return packstream.Options{
		Folder:      func() (string, error) { return t.TempDir(), nil },
		MemoryLimit: memory, MaxBytes: 1 << 30, MaxObjects: 1 << 20, Err: func() error { return nil },
	}
}

func TestObjectsAreWhatGitSays(t *testing.T) {
	t.Parallel()
	r := build(t)
	var want []string
	for line := range strings.Lines(r.git("", "cat-file", "--batch-all-objects", "--batch-check")) {
		want = append(want, strings.TrimSpace(line))
	}
	for name, args := range map[string][]string{
		"whole": {"--window=0"}, "deltas by offset": {"--delta-base-offset", "--window=50", "--depth=50"}, "deltas by hash": {"--window=50", "--depth=50"},
	} {
		for _, memory := range []int64{100, 1 << 30} {
			t.Run(fmt.Sprintf("%s, %d bytes in memory", name, memory), func(t *testing.T) {
				t.Parallel()
				pack := repository{t, r.dir}.pack(args...)
				stream := packstream.Open(iotest.HalfReader(bytes.NewReader(pack)), options(t, memory))
				defer stream.Close()
				for _, line := range want {
					var id, kind string
					var size int64
					if _, err := fmt.Sscan(line, &id, &kind, &size); err != nil {
						t.Fatal(err)
					}
					object, found, err := stream.Find(parse(t, id))
					if err != nil || !found || object.Kind.String() != kind || object.Size != size {
						t.Fatalf("%s: %+v %v %v", line, object, found, err)
					}
					check(t, stream, object)
				}
				var copied bytes.Buffer
				if _, err := stream.WriteTo(&copied); err != nil || !bytes.Equal(copied.Bytes(), pack) {
					t.Errorf("the pack is not written as it came: %v", err)
				}
			})
		}
	}
}

func parse(t *testing.T, text string) packstream.ID {
	t.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return packstream.ID(raw)
}

// check reads an object in both ways and compares its hash.
func check(t *testing.T, stream *packstream.Stream, object packstream.Object) {
	t.Helper()
	reader, err := stream.Reader(object)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(reader)
	if err := errors.Join(err, reader.Close()); err != nil {
		t.Fatal(err)
	}
	if got := packstream.ID(sha1.Sum(append(fmt.Appendf(nil, "%s %d\x00", object.Kind, object.Size), content...))); got != object.ID {
		t.Errorf("%s %x reads as %x", object.Kind, object.ID, got)
	}
	if object.Size > 1<<20 {
		return
	}
	if again, err := stream.Content(object); err != nil || !bytes.Equal(again, content) {
		t.Errorf("%x: read in two ways, two contents: %v", object.ID, err)
	}
}

// A caller that stops early receives no more than what it may read ahead, and leaves no goroutine.
func TestClosedEarly(t *testing.T) {
	t.Parallel()
	r := build(t)
	pack := r.pack("--window=0")
	source, server := io.Pipe()
	sent := make(chan int, 1)
	go func() {
		n, _ := io.Copy(server, bytes.NewReader(pack))
		sent <- int(n)
	}()
	bounded := options(t, 1000)
	bounded.Ahead = 100 << 10
	stream := packstream.Open(source, bounded)
	if _, found, err := stream.Find(parse(t, strings.TrimSpace(r.git("", "rev-parse", "main")))); !found || err != nil {
		t.Fatal(found, err)
	}
	if remaining, ended := stream.Remaining(); ended || remaining > 400<<10 {
		t.Errorf("%d bytes ran ahead", remaining)
	}
	source.Close()
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
	if n := <-sent; n > 600<<10 || n == len(pack) {
		t.Errorf("%d of %d bytes were received", n, len(pack))
	}
}

func TestDamage(t *testing.T) {
	t.Parallel()
	r := build(t)
	pack := r.pack("--delta-base-offset", "--window=10")
	drain := func(pack []byte, change func(*packstream.Options)) error {
		bounds := options(t, 1<<20)
		if change != nil {
			change(&bounds)
		}
		stream := packstream.Open(bytes.NewReader(pack), bounds)
		defer stream.Close()
		_, err := stream.WriteTo(io.Discard)
		return err
	}
	random := rand.New(rand.NewPCG(3, 4))
	places := 40
	if testing.Short() {
		places = 8
	}
	for range places {
		if err := drain(pack[:random.IntN(len(pack))], nil); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut: %v", err)
		}
		flipped := bytes.Clone(pack)
		flipped[random.IntN(len(pack))] ^= 1 << random.IntN(8)
		if err := drain(flipped, nil); err == nil {
			t.Error("a flipped bit is not noticed")
		}
	}
	if err := drain(pack, func(o *packstream.Options) { o.MaxBytes = 1000 }); !errors.Is(err, packstream.ErrTooLarge) {
		t.Errorf("too many bytes: %v", err)
	}
	if err := drain(pack, func(o *packstream.Options) { o.MaxObjects = 3 }); !errors.Is(err, packstream.ErrTooLarge) {
		t.Errorf("too many objects: %v", err)
	}
	stop := errors.New("stop")
	if err := drain(pack, func(o *packstream.Options) { o.Err = func() error { return stop } }); !errors.Is(err, stop) {
		t.Errorf("stopped: %v", err)
	}
	if err := drain(pack, func(o *packstream.Options) {
		o.MemoryLimit, o.Folder = 10, func() (string, error) { return filepath.Join(t.TempDir(), "gone"), nil }
	}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
}

// FuzzStream reads packs from outside: objects with the hashes of their contents, or an error, and never a panic.
func FuzzStream(f *testing.F) {
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x00\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e"))
	for _, hexed := range []string{
		"5041434b00000002000000023378 9c4b4c4a06000 24d0127", // a blob "abc", then nothing
	} {
		raw, _ := hex.DecodeString(strings.ReplaceAll(hexed, " ", ""))
		f.Add(raw)
	}
	for _, order := range orders {
		f.Add(order.pack(order.texts[:min(len(order.texts), 6)]))
	}
	f.Fuzz(func(t *testing.T, pack []byte) {
		bounds := options(t, 64)
		bounds.MaxBytes = 1 << 20
		stream := packstream.Open(bytes.NewReader(pack), bounds)
		defer stream.Close()
		_, err := stream.WriteTo(io.Discard)
		for object := range stream.Objects() {
			content, contentErr := stream.Content(object)
			if contentErr != nil {
				continue
			}
			if got := packstream.ID(sha1.Sum(append(fmt.Appendf(nil, "%s %d\x00", object.Kind, object.Size), content...))); got != object.ID {
				t.Fatalf("%x has the content of %x", object.ID, got)
			}
		}
		if err == nil && !bytes.HasPrefix(pack, []byte("PACK")) {
			t.Fatal("no pack is taken for one")
		}
	})
}
