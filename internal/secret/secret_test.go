package secret_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/gitsmith/gitsmith/internal/secret"
)

const canary = "canary-5f1c9a"

func TestTextNeverPrints(t *testing.T) {
	text := secret.New(canary)
	hidden := struct {
		Open   secret.Text
		hidden secret.Text
		list   []secret.Text
		table  map[string]secret.Text
		point  *secret.Text
	}{text, text, []secret.Text{text}, map[string]secret.Text{"k": text}, &text}

	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		fmt.Fprintf(&out, verb+"\n", text)
		fmt.Fprintf(&out, verb+"\n", &text)
		fmt.Fprintf(&out, verb+"\n", hidden)
		fmt.Fprintf(&out, verb+"\n", &hidden)
	}
	encoded, err := json.Marshal(hidden)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("m", "text", text, "pointer", &text, "struct", hidden, "structPointer", &hidden)
	}
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), base64.StdEncoding.EncodeToString([]byte(canary))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%q is in the output:\n%s", form, out.String())
		}
	}
	if text.Reveal() != canary || text.IsZero() || !text.Equal(secret.New(canary)) || text.Equal(secret.New("x")) {
		t.Error("the value itself is lost")
	}
	if zero := (secret.Text{}); !zero.IsZero() || zero.Reveal() != "" {
		t.Error("the zero Text is not empty")
	}
}

func TestScrub(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"url":         {"Get https://x-token-auth:" + canary + "@bitbucket.org/a/b.git: refused", "Get https://[redacted]@bitbucket.org/a/b.git: refused"},
		"user only":   {"https://" + canary + "@bitbucket.org/a", "https://[redacted]@bitbucket.org/a"},
		"token auth":  {"user x-token-auth:" + canary + " refused", "user x-token-auth:[redacted] refused"},
		"bearer":      {"Authorization: Bearer " + canary, "Authorization: Bearer [redacted]"},
		"basic":       {"authorization: basic " + canary, "authorization: basic [redacted]"},
		"jwt":         {"token eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9.c2ln is old", "token [redacted] is old"},
		"cut jwt":     {"token eyJhbGciOiJSUzI1NiJ9.eyJl", "token [redacted]"},
		"oauth":       {`x-forge-oauth-system: "` + canary + `"`, `x-forge-oauth-system: [redacted]"`},
		"plain stays": {"remote: Permission denied to update branch main.", "remote: Permission denied to update branch main."},
	} {
		if got := secret.Scrub(tc.in); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func key(fill byte) string {
	return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill}, secret.KeySize))
}

func ring(t *testing.T, text string) *secret.Keyring {
	t.Helper()
	ring, err := secret.ParseKeyring(text)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestKeyringRotation(t *testing.T) {
	old := ring(t, "a:"+key(1))
	both := ring(t, "b:"+key(2)+", a:"+key(1))
	newest := ring(t, "b:"+key(2))

	sealed := old.Seal([]byte(canary), "installation", "vault")
	if bytes.Contains(sealed, []byte(canary)) {
		t.Fatal("sealed bytes hold the plaintext")
	}
	if got, err := both.Open(sealed, "installation", "vault"); err != nil || string(got) != canary {
		t.Errorf("a ring with the old key behind: %q, %v", got, err)
	}
	if _, err := newest.Open(sealed, "installation", "vault"); !errors.Is(err, secret.ErrOpen) {
		t.Errorf("a ring without the key: %v", err)
	}
	if sealed := both.Seal([]byte(canary)); !bytes.HasPrefix(sealed, []byte("b:")) {
		t.Errorf("the first key does not seal: %q", sealed)
	}
}

func TestKeyringBinds(t *testing.T) {
	ring := ring(t, "a:"+key(1))
	sealed := ring.Seal([]byte(canary), "one", "two")
	for name, context := range map[string][]string{
		"other": {"one", "three"}, "fewer": {"one"}, "none": nil, "joined": {"one,two"}, "quoted": {`one","two`},
	} {
		if _, err := ring.Open(sealed, context...); !errors.Is(err, secret.ErrOpen) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range sealed {
		damaged := bytes.Clone(sealed)
		damaged[i] ^= 1
		if _, err := ring.Open(damaged, "one", "two"); !errors.Is(err, secret.ErrOpen) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
	}
	for _, short := range []string{"", "a", "a:", "a:x", ":"} {
		if _, err := ring.Open([]byte(short), "one", "two"); !errors.Is(err, secret.ErrOpen) {
			t.Errorf("%q: %v", short, err)
		}
	}
}

// TestAuthenticateRotation: the first key makes the code, every key verifies it, and a ring without the key rejects it.
func TestAuthenticateRotation(t *testing.T) {
	t.Parallel()
	old, both, newest := ring(t, "a:"+key(1)), ring(t, "b:"+key(2)+",a:"+key(1)), ring(t, "b:"+key(2))
	code := old.Authenticate("purpose", "one", "two")
	if len(code) != 43 || code != ring(t, "renamed:"+key(1)).Authenticate("purpose", "one", "two") {
		t.Errorf("%q is not what the key alone determines", code)
	}
	if !old.Authentic(code, "purpose", "one", "two") || !both.Authentic(code, "purpose", "one", "two") || newest.Authentic(code, "purpose", "one", "two") {
		t.Error("the wrong rings verify the code")
	}
	if both.Authenticate("purpose", "one", "two") != newest.Authenticate("purpose", "one", "two") {
		t.Error("another key than the first made the code")
	}
}

// TestAuthenticateKnownAnswer: pushed commits carry codes, which later versions must verify.
func TestAuthenticateKnownAnswer(t *testing.T) {
	t.Parallel()
	const want = "s2-xSFWRT45Lco_7kpzjyhsNF6-6W7WO7KuQBBT5okw" // computed without this package, from RFC 5869 and RFC 2104
	if got := ring(t, "a:"+key(1)).Authenticate("commit", "installation", "job"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestAuthenticBinds(t *testing.T) {
	t.Parallel()
	ring := ring(t, "a:"+key(1))
	code := ring.Authenticate("purpose", "one", "two")
	for name, tc := range map[string]struct {
		code, purpose string
		context       []string
	}{
		"another purpose": {code, "purpos", []string{"one", "two"}}, "moved into the purpose": {code, `purpose","one`, []string{"two"}},
		"other": {code, "purpose", []string{"one", "three"}}, "fewer": {code, "purpose", []string{"one"}}, "more": {code, "purpose", []string{"one", "two", ""}},
		"joined": {code, "purpose", []string{"one,two"}}, "quoted": {code, "purpose", []string{`one","two`}},
		"truncated": {code[:42], "purpose", []string{"one", "two"}}, "empty": {"", "purpose", []string{"one", "two"}},
		"padded": {code + "=", "purpose", []string{"one", "two"}}, "longer": {code + "A", "purpose", []string{"one", "two"}},
		"upper case": {strings.ToUpper(code), "purpose", []string{"one", "two"}},
	} {
		if ring.Authentic(tc.code, tc.purpose, tc.context...) {
			t.Errorf("%s: authentic", name)
		}
	}
	for i := range code {
		damaged := []byte(code)
		damaged[i] ^= 1
		if ring.Authentic(string(damaged), "purpose", "one", "two") {
			t.Fatalf("character %d changed: authentic", i)
		}
	}
}

// TestKeyringNeverPrints: formatting a ring shows neither its keys nor what is derived from them.
func TestKeyringNeverPrints(t *testing.T) {
	t.Parallel()
	sealing := bytes.Repeat([]byte{'k'}, secret.KeySize)
	derived, err := hkdf.Key(sha256.New, sealing, nil, "github.com/gitsmith/gitsmith/internal/secret: authentication codes, version 1", 32)
	if err != nil {
		t.Fatal(err)
	}
	ring := ring(t, "a:"+base64.StdEncoding.EncodeToString(sealing))
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+"\n", ring)
		fmt.Fprintf(&out, verb+"\n", *ring)
	}
	for _, key := range [][]byte{sealing, derived} {
		for _, form := range []string{string(key), fmt.Sprintf("%x", key), strings.Trim(fmt.Sprintf("%d", key), "[]")} {
			if strings.Contains(out.String(), form) {
				t.Errorf("%q is in the output", form)
			}
		}
	}
}

func TestParseKeyringErrors(t *testing.T) {
	for _, text := range []string{"", "a", "a:short", "a:" + key(1) + ",a:" + key(2), "a b:" + key(1), "a:" + key(1) + ",", key(1)} {
		_, err := secret.ParseKeyring(text)
		if err == nil {
			t.Errorf("%q was accepted", text)
			continue
		}
		if strings.Contains(err.Error(), key(1)) {
			t.Errorf("the error shows the key: %v", err)
		}
	}
}
