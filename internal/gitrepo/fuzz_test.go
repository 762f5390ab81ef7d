package gitrepo

import (
	"bytes"
	"net/url"
	"testing"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// FuzzParseRefs reads advertisements: pkt-lines from outside give refs or an error.
func FuzzParseRefs(f *testing.F) {
	const hash = "1a2485251c33a70432394c93fb89330ef214bfc9"
	f.Add([]byte("001e# service=git-upload-pack\n0000003f" + hash + " HEAD\x00symref=HEAD:refs/heads/main\n003d" + hash + " refs/heads/main\n0000"))
	f.Add([]byte("0000"))
	f.Add([]byte("0030ERR access denied or repository not exported"))
	f.Add([]byte("ffff" + hash))
	f.Fuzz(func(t *testing.T, text []byte) {
		refs, err := parseRefs(text)
		if err == nil && !refs.Empty && refs.hashes == nil {
			t.Fatal("neither empty nor any ref")
		}
	})
}

// FuzzOpenPack reads what a fetch answers, down to the objects: bytes from outside give a store or an error, and no panic.
func FuzzOpenPack(f *testing.F) {
	client := newFuzzClient(f)
	const empty = "PACK\x00\x00\x00\x02\x00\x00\x00\x00\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e"
	f.Add([]byte("0008NAK\n"+empty), false)
	f.Add([]byte("0008NAK\n0025\x01"+empty+"0000"), true)
	f.Add([]byte("0034shallow 1a2485251c33a70432394c93fb89330ef214bfc900000008NAK\n"), true)
	f.Add([]byte("0030ERR upload-pack: not our ref 0000000000000000"), true)
	f.Fuzz(func(t *testing.T, answer []byte, sidebanded bool) {
		pack, err := openPack(bytes.NewReader(answer), sidebanded)
		if err != nil {
			return
		}
		store, err := client.store(pack)
		if err != nil {
			return
		}
		if err := store.close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzReadReport reads what a push answers: a report that is taken says that the push was.
func FuzzReadReport(f *testing.F) {
	f.Add([]byte("000eunpack ok\n0019ok refs/heads/main\n0000"), false)
	f.Add([]byte("0030\x01000eunpack ok\n0019ok refs/heads/main\n00000000"), true)
	f.Add([]byte("0013\x02remote: sorry\n0000"), true)
	f.Add([]byte(""), true)
	f.Fuzz(func(t *testing.T, answer []byte, sidebanded bool) {
		used := capability.NewList()
		_ = used.Set(capability.ReportStatus) // it takes no argument
		if sidebanded {
			_ = used.Set(capability.Sideband64k)
		}
		err := readReport(t.Context(), operation{verb: "push to", branch: "main"}, bytes.NewReader(answer), used)
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
