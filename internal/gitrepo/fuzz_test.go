package gitrepo

import (
	"bytes"
	"io"
	"net/url"
	"testing"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// FuzzParseRefs reads advertisements: pkt-lines from outside give refs or an error.
func FuzzParseRefs(f *testing.F) {
	const hash = "1a2485251c33a70432394c93fb89330ef214bfc9"
	f.Add([]byte("001e# service=git-upload-pack\n0000003f" + hash + " HEAD\x00symref=HEAD:refs/heads/main\n003d" + hash + " refs/heads/main\n0000"))
	f.Add([]byte("0000"))
	f.Add([]byte("000eversion 2\n0012fetch=shallow\n0000"))
	f.Add([]byte("0059" + hash + " HEAD symref-target:refs/heads/main\n0000"))
	f.Add([]byte("0030ERR access denied or repository not exported"))
	f.Add([]byte("ffff" + hash))
	f.Fuzz(func(t *testing.T, text []byte) {
		if l, err := parseAdvertisement(newPktReader(bytes.NewReader(text)), AdvertiseUpload); err == nil && (l.whole && l.hashes == nil || l.server.Receive != nil) {
			t.Fatal("neither version 2 nor refs, or what only git-receive-pack can tell")
		}
		if l, err := parseAdvertisement(newPktReader(bytes.NewReader(text)), AdvertiseReceive); err == nil && (l.hashes == nil || l.server.Receive == nil) {
			t.Fatal("no refs, or nothing about pushes")
		}
		if l, err := parseRefs(newPktReader(bytes.NewReader(text))); err == nil && l.hashes == nil {
			t.Fatal("no refs and no error")
		}
	})
}

// FuzzOpenPack reads what a fetch answers, down to the objects: bytes from outside give a store or an error, and no panic.
func FuzzOpenPack(f *testing.F) {
	client := newFuzzClient(f)
	const empty = "PACK\x00\x00\x00\x02\x00\x00\x00\x00\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e"
	f.Add([]byte("0008NAK\n"+empty), false, false)
	f.Add([]byte("0008NAK\n0025\x01"+empty+"0000"), true, false)
	f.Add([]byte("000dpackfile\n0025\x01"+empty+"0000"), true, true)
	f.Add([]byte("0034shallow 1a2485251c33a70432394c93fb89330ef214bfc900000008NAK\n"), true, false)
	f.Add([]byte("0011shallow-info\n0035shallow 1a2485251c33a70432394c93fb89330ef214bfc9\n0001000dpackfile\n0025\x01"+empty+"0000"), true, true)
	f.Add([]byte("0030ERR upload-pack: not our ref 0000000000000000"), true, false)
	f.Fuzz(func(t *testing.T, answer []byte, sidebanded, v2 bool) {
		source, _, err := openPack(newPktReader(bytes.NewReader(answer)), server{V2: v2, Sideband: sidebanded}, false)
		if err != nil {
			return
		}
		p := client.open(t.Context(), io.NopCloser(nil), source, packRequest{})
		_ = p.all() // whatever it is
		for found := range p.Objects() {
			if content, err := fromPack(p, found).content(); err != nil || int64(len(content)) != found.Size {
				t.Fatalf("an object of %d bytes gives %d, %v", found.Size, len(content), err)
			}
		}
		if err := p.close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzReadReport reads what a push answers: a report that is taken says that the push was.
func FuzzReadReport(f *testing.F) {
	f.Add([]byte("000eunpack ok\n0017ok refs/heads/main\n0000"), false)
	f.Add([]byte("002e\x01000eunpack ok\n0017ok refs/heads/main\n00000000"), true)
	f.Add([]byte("0013\x02remote: sorry\n0000"), true)
	f.Add([]byte(""), true)
	f.Fuzz(func(t *testing.T, answer []byte, sidebanded bool) {
		err := readReport(t.Context(), operation{verb: "push to", branch: "main"}, bytes.NewReader(answer), receiver{Report: true, Sideband: sidebanded}, "refs/heads/main")
		if err == nil && !bytes.Contains(answer, []byte("ok")) {
			t.Fatalf("%q is taken for success", answer)
		}
		if err != nil && len(fault.Public(err)) > fault.MaxPublic {
			t.Fatal("the public text is not bounded")
		}
	})
}

func newFuzzClient(f *testing.F) *Client {
	f.Helper()
	base, err := url.Parse("http://127.0.0.1:1")
	if err != nil {
		f.Fatal(err)
	}
	client, err := New(Config{Base: base, TempDir: f.TempDir(), MemoryLimit: 64})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := client.Close(); err != nil {
			f.Error(err)
		}
	})
	return client
}
