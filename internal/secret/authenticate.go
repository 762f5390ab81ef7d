package secret

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
)

// authenticationInfo separates the keys that authenticate from the sealing keys they are derived from (RFC 5869, section 3.2). Changing
// it invalidates every code ever made.
const authenticationInfo = "github.com/gitsmith/gitsmith/internal/secret: authentication codes, version 1"

// authenticationKey derives the key that makes codes from a sealing key.
func authenticationKey(sealing []byte) (Text, error) {
	derived, err := hkdf.Key(sha256.New, sealing, nil, authenticationInfo, sha256.Size)
	return New(string(derived)), err
}

// Authenticate returns a code that only the ring's holders can make for purpose and context: HMAC-SHA-256 under a key that is derived
// from the ring's first key, as 43 characters of base64url. The same arguments give the same code as long as that key stays
// first. The code reveals nothing about the key and may be published.
func (k *Keyring) Authenticate(purpose string, context ...string) string {
	return k.keys[k.first].authenticate(purpose, context)
}

// Authentic reports whether Authenticate made code for the same purpose and context, under any key of the ring. It compares in
// constant time.
func (k *Keyring) Authentic(code, purpose string, context ...string) bool {
	authentic := false
	for _, key := range k.keys {
		authentic = hmac.Equal([]byte(key.authenticate(purpose, context)), []byte(code)) || authentic
	}
	return authentic
}

func (k key) authenticate(purpose string, context []string) string {
	mac := hmac.New(sha256.New, []byte(k.authentication.Reveal()))
	mac.Write(additional(purpose, context))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
