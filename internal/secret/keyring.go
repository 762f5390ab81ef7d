package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// KeySize is the size of a sealing key in bytes: AES-256.
const KeySize = 32

// ErrOpen means that sealed bytes cannot be opened: damaged, sealed for another purpose, or by a key that is not in the
// ring any more.
var ErrOpen = errors.New("secret: cannot open what was sealed")

var keyID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)

// Keyring seals with its first key and opens with any, and does the same for codes that authenticate: see [Keyring.Authenticate]. It
// may be used concurrently. The zero value holds no key: make one with [ParseKeyring].
type Keyring struct {
	first string
	keys  map[string]key
}

// key is one key of a ring, in the two forms in which it is used.
type key struct {
	aead           cipher.AEAD
	authentication Text // derived: see authenticationKey
}

// ParseKeyring reads `id:base64 of 32 bytes`, comma between several: to rotate, put the new key in front and drop the
// old one when everything it sealed is gone. Errors name the position and the id, never the key.
func ParseKeyring(text string) (*Keyring, error) {
	ring := &Keyring{keys: map[string]key{}}
	for i, part := range strings.Split(text, ",") {
		id, encoded, found := strings.Cut(strings.TrimSpace(part), ":")
		if !found || !keyID.MatchString(id) {
			return nil, fmt.Errorf("sealing key %d is not of the form id:base64 (id: letters, digits, _ and -)", i+1)
		}
		if _, twice := ring.keys[id]; twice {
			return nil, fmt.Errorf("sealing key %q stands twice", id)
		}
		sealing, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(sealing) != KeySize {
			return nil, fmt.Errorf("sealing key %q is not the base64 of %d bytes; make one with: head -c 32 /dev/urandom | base64", id, KeySize)
		}
		if ring.keys[id], err = newKey(sealing); err != nil {
			return nil, fmt.Errorf("sealing key %q: %w", id, err)
		}
		if ring.first == "" {
			ring.first = id
		}
	}
	return ring, nil
}

func newKey(sealing []byte) (key, error) {
	block, err := aes.NewCipher(sealing)
	if err != nil {
		return key{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return key{}, err
	}
	authentication, err := authenticationKey(sealing)
	return key{aead, authentication}, err
}

// Seal encrypts plaintext with AES-256-GCM under the first key and binds it to context, which [Keyring.Open] must be
// given again: the installation, the purpose, whatever the sealed text must not be moved away from. The key's id
// stands in front, in clear.
func (k *Keyring) Seal(plaintext []byte, context ...string) []byte {
	sealed := append([]byte(k.first), ':')
	return k.keys[k.first].aead.Seal(sealed, nil, plaintext, additional(k.first, context))
}

// Open returns what Seal was given, or [ErrOpen].
func (k *Keyring) Open(sealed []byte, context ...string) ([]byte, error) {
	id, ciphertext, found := strings.Cut(string(sealed), ":")
	key, held := k.keys[id]
	if !found || !held {
		return nil, ErrOpen
	}
	plaintext, err := key.aead.Open(nil, nil, []byte(ciphertext), additional(id, context))
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// additional encodes id and context so that no two lists of strings give the same bytes.
func additional(id string, context []string) []byte {
	encoded := fmt.Appendf(nil, "%q", id)
	for _, part := range context {
		encoded = fmt.Appendf(encoded, ",%q", part)
	}
	return encoded
}
