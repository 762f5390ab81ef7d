package packstream_test

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/packstream"
)

// rawPack is a pack put together by hand: git itself writes bases first.
type rawPack struct {
	bytes.Buffer
	objects uint32
	deflate *zlib.Writer
}

func (p *rawPack) header(kind byte, size int) {
	p.objects++
	next := kind<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		p.WriteByte(next | 0x80)
		next = byte(size & 0x7f)
	}
	p.WriteByte(next)
}

func (p *rawPack) deflated(content []byte) {
	if p.deflate == nil {
		p.deflate = zlib.NewWriter(nil)
	}
	p.deflate.Reset(&p.Buffer)
	_, _ = p.deflate.Write(content) // into memory
	_ = p.deflate.Close()
}

// place is the offset of the entry that is written next.
func (p *rawPack) place() int { return p.Len() + 12 }

func (p *rawPack) blob(content string) {
	p.header(3, len(content))
	p.deflated([]byte(content))
}

func (p *rawPack) onID(base packstream.ID, delta []byte) {
	p.header(7, len(delta))
	p.Write(base[:])
	p.deflated(delta)
}

func (p *rawPack) onOffset(base int, delta []byte) {
	distance := p.place() - base
	p.header(6, len(delta))
	digits := []byte{byte(distance & 0x7f)}
	for distance >>= 7; distance > 0; distance >>= 7 {
		distance--
		digits = append(digits, 0x80|byte(distance&0x7f))
	}
	slices.Reverse(digits)
	p.Write(digits)
	p.deflated(delta)
}

func (p *rawPack) bytes() []byte {
	pack := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), p.objects)
	pack = append(pack, p.Bytes()...)
	sum := sha1.Sum(pack)
	return append(pack, sum[:]...)
}

// change is the delta that makes one text of up to 127 bytes of another, by insertion alone.
func change(from, to string) []byte {
	return append([]byte{byte(len(from)), byte(len(to)), byte(len(to))}, to...)
}

func blobID(content string) packstream.ID {
	return sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(content), content))
}

// reversed is a pack whose deltas come before their bases: each text is a delta on the one before it.
func reversed(texts []string) []byte {
	var p rawPack
	for i := len(texts) - 1; i > 0; i-- {
		p.onID(blobID(texts[i-1]), change(texts[i-1], texts[i]))
	}
	p.blob(texts[0])
	return p.bytes()
}

func numbered(count int) []string {
	texts := make([]string, count)
	for i := range texts {
		texts[i] = fmt.Sprintf("text %07d", i)
	}
	return texts
}

// orders are packs whose deltas come before their bases, in the orders that git index-pack accepts.
var orders = map[string]struct {
	texts []string
	pack  func(texts []string) []byte
}{
	"a reversed chain, as long as git writes chains": {numbered(4096), reversed},
	"an offset delta on a hash delta that waits": {numbered(3), func(texts []string) []byte {
		var p rawPack
		first := p.place()
		p.onID(blobID(texts[0]), change(texts[0], texts[1]))
		p.onOffset(first, change(texts[1], texts[2]))
		p.blob(texts[0])
		return p.bytes()
	}},
	"an offset delta on an offset delta that waits": {numbered(4), func(texts []string) []byte {
		var p rawPack
		first := p.place()
		p.onID(blobID(texts[0]), change(texts[0], texts[1]))
		second := p.place()
		p.onOffset(first, change(texts[1], texts[2]))
		p.onOffset(second, change(texts[2], texts[3]))
		p.blob(texts[0])
		return p.bytes()
	}},
	"deltas of both kinds on one that waits, and one on a late object": {numbered(6), func(texts []string) []byte {
		var p rawPack
		first := p.place()
		p.onID(blobID(texts[0]), change(texts[0], texts[1]))
		p.onID(blobID(texts[1]), change(texts[1], texts[2]))
		p.onOffset(first, change(texts[1], texts[3]))
		p.blob(texts[0])
		p.onOffset(first, change(texts[1], texts[4]))
		p.onID(blobID(texts[4]), change(texts[4], texts[5]))
		return p.bytes()
	}},
}

// TestDeltasThatWait: whatever order git index-pack accepts deltas in, their objects are found, and their contents are right.
func TestDeltasThatWait(t *testing.T) {
	t.Parallel()
	for name, tc := range orders {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pack := tc.pack(tc.texts)
			git := repository{t, t.TempDir()}
			git.git("", "init", "-q", "--bare", ".")
			git.git(string(pack), "index-pack", "--strict", "--stdin")
			stream := packstream.Open(bytes.NewReader(pack), options(t, 1<<20))
			defer stream.Close()
			if _, err := stream.WriteTo(io.Discard); err != nil {
				t.Fatal(err)
			}
			for _, text := range tc.texts {
				object, found := stream.Get(blobID(text))
				if !found || object.Kind != packstream.Blob {
					t.Fatalf("%q: found %t, a %s", text, found, object.Kind)
				}
				if content, err := stream.Content(object); err != nil || string(content) != text {
					t.Fatalf("%q reads as %q: %v", text, content, err)
				}
			}
		})
	}
}

// TestDeltasWithoutEnd: neither an endless chain nor deltas that wait for each other cost more than they are allowed to.
func TestDeltasWithoutEnd(t *testing.T) {
	t.Parallel()
	forward := func(texts []string) []byte {
		var p rawPack
		last := p.place()
		p.blob(texts[0])
		for i := 1; i < len(texts); i++ {
			base := last
			last = p.place()
			p.onOffset(base, change(texts[i-1], texts[i]))
		}
		return p.bytes()
	}
	var circle, inside rawPack
	first := circle.place()
	circle.onID(blobID("two"), change("two", "one"))
	circle.onOffset(first, change("one", "two"))
	base := inside.place()
	inside.blob("one")
	inside.onOffset(base+1, change("one", "two"))
	for name, pack := range map[string][]byte{
		"a reversed chain longer than git writes chains": reversed(numbered(20_000)),
		"a chain longer than git writes chains":          forward(numbered(4097)),
		"deltas on each other":                           circle.bytes(),
		"a delta on the middle of an object":             inside.bytes(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream := packstream.Open(bytes.NewReader(pack), options(t, 1<<30))
			defer stream.Close()
			if _, err := stream.WriteTo(io.Discard); !errors.Is(err, packstream.ErrDamaged) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestTooManyWait: what waits is held in memory, so it is bounded.
func TestTooManyWait(t *testing.T) {
	t.Parallel()
	var p rawPack
	texts := numbered(1<<16 + 1)
	delta := change(texts[0], "made")
	for _, text := range texts {
		p.onID(blobID(text), delta)
	}
	stream := packstream.Open(bytes.NewReader(p.bytes()), options(t, 1<<30))
	defer stream.Close()
	if _, err := stream.WriteTo(io.Discard); !errors.Is(err, packstream.ErrTooLarge) {
		t.Errorf("%v", err)
	}
}

// TestObjectTwice: a delta that makes an object once more, on an object that is itself a delta on that one, leads nobody in a circle.
func TestObjectTwice(t *testing.T) {
	t.Parallel()
	var p rawPack
	p.blob("one")
	p.onID(blobID("one"), change("one", "two"))
	p.onID(blobID("two"), change("two", "one"))
	for i := range 6 { // so that neither is held in memory any more
		p.blob(strings.Repeat(string(rune('a'+i)), 1<<20))
	}
	stream := packstream.Open(bytes.NewReader(p.bytes()), options(t, 1<<20))
	defer stream.Close()
	if _, err := stream.WriteTo(io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two"} {
		object, _ := stream.Get(blobID(text))
		if content, err := stream.Content(object); err != nil || string(content) != text {
			t.Errorf("%q reads as %q: %v", text, content, err)
		}
	}
}
