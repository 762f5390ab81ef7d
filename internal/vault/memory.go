package vault

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/forge"
)

// fingerprint is a hash of what it names.
type fingerprint [sha256.Size]byte

// placeOf identifies an actor of an installation.
func placeOf(installation string, actor forge.Actor) fingerprint {
	return digest(nil, installation, member(actor))
}

// fingerprintOf identifies a token together with its expiry.
func fingerprintOf(token forge.OAuthToken) fingerprint {
	expiry := binary.BigEndian.AppendUint64(nil, uint64(token.ExpiresAt.UnixMilli())) //nolint:gosec // after 1970
	return digest(expiry, token.Text.Reveal())
}

// digest hashes head and parts so that no two lists of parts give the same bytes.
func digest(head []byte, parts ...string) fingerprint {
	text := head
	for _, part := range parts {
		text = append(binary.BigEndian.AppendUint64(text, uint64(len(part))), part...)
	}
	return sha256.Sum256(text)
}

// memorySize bounds each of the two generations; an entry takes about two hundred bytes.
const memorySize = 4096

// memory remembers the tokens that were stored last, because Forge delivers the same one with every call, for hours. Like Redis, it holds
// at most two for each actor. It has two generations: when the younger one is full, the older one is dropped. An entry counts no longer
// than life.
type memory struct {
	life time.Duration

	mutex          sync.Mutex
	younger, older map[fingerprint]kept // by place
}

// kept are the tokens of one actor, the latest first.
type kept [2]struct {
	token fingerprint
	since time.Time
}

func (m *memory) of(place fingerprint) kept {
	if found, there := m.younger[place]; there {
		return found
	}
	return m.older[place]
}

func (m *memory) holds(place, token fingerprint, now time.Time) bool {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for _, each := range m.of(place) {
		if each.token == token && now.Sub(each.since) < m.life {
			return true
		}
	}
	return false
}

// add remembers a token that was sent to Redis. If that changed what Redis holds for the actor, add forgets the actor's other tokens: they
// may have been displaced, so their next delivery has to reach Redis.
func (m *memory) add(place, token fingerprint, now time.Time, changed bool) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	var next kept
	next[0].token, next[0].since = token, now
	if !changed {
		for _, each := range m.of(place) {
			if each.token != token {
				next[1] = each
				break
			}
		}
	}
	if _, there := m.younger[place]; !there && len(m.younger) >= memorySize || m.younger == nil {
		m.younger, m.older = map[fingerprint]kept{}, m.younger
	}
	m.younger[place] = next
}

func (m *memory) clear() {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.younger, m.older = nil, nil
}
