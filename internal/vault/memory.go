package vault

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/forge"
)

// fingerprint is a token at its place.
type fingerprint [sha256.Size]byte

func fingerprintOf(installation string, actor forge.Actor, token forge.OAuthToken) fingerprint {
	parts := [...]string{installation, member(actor), token.Text.Reveal()}
	text := make([]byte, 0, 32+len(parts[0])+len(parts[1])+len(parts[2]))
	text = binary.BigEndian.AppendUint64(text, uint64(token.ExpiresAt.UnixMilli())) //nolint:gosec // after 1970
	for _, part := range parts {
		text = append(binary.BigEndian.AppendUint64(text, uint64(len(part))), part...)
	}
	return sha256.Sum256(text)
}

// memorySize bounds each of the two generations; an entry takes about a hundred bytes.
const memorySize = 4096

// memory holds the tokens that were kept last, because Forge delivers the same one with every call, for hours. It has two
// generations: when the younger one is full, the older one is dropped. Nothing counts for longer than life.
type memory struct {
	life time.Duration

	mutex          sync.Mutex
	younger, older map[fingerprint]time.Time
}

func (m *memory) holds(token fingerprint, now time.Time) bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	since, found := m.younger[token]
	if !found {
		since, found = m.older[token]
	}
	return found && now.Sub(since) < m.life
}

func (m *memory) add(token fingerprint, now time.Time) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.younger == nil || len(m.younger) >= memorySize {
		m.younger, m.older = map[fingerprint]time.Time{}, m.younger
	}
	m.younger[token] = now
}

func (m *memory) clear() {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.younger, m.older = nil, nil
}
