package forge

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
)

const (
	maxKeySet   = 256 << 10 // bytes
	maxKeys     = 64        // in one set
	minModulus  = 2048      // bits
	refreshIdle = 15 * time.Minute
)

// keySet is the keys at one URL, kept. A lookup never waits longer than the fetch timeout; whatever is looked for, the set is
// fetched at most once per minimum interval, so unknown ids need no memory of their own; a fetch that fails or brings nothing keeps the old keys.
type keySet struct {
	url          string
	client       *http.Client
	minRefresh   time.Duration
	fetchTimeout time.Duration
	now          func() time.Time
	logger       *slog.Logger

	mu      sync.Mutex
	flying  *flight                     // nil where no fetch is under way
	keys    map[string][]*rsa.PublicKey // by id; nothing says that an id is used once
	tried   time.Time                   // the last fetch began
	fetched time.Time                   // the last fetch that brought keys
	failed  error                       // of the last fetch
}

var errUnknownKey = errors.New("no key of that id")

// key returns the keys of an id: those that are kept or, at most once per minimum interval, those of a newly fetched set. An id that
// a successful fetch did not bring is errUnknownKey; after a fetch that failed, the error is that fetch's.
func (s *keySet) key(ctx context.Context, kid string) ([]*rsa.PublicKey, error) {
	s.mu.Lock()
	keys := s.keys[kid]
	stale := s.now().Sub(s.fetched) > refreshIdle && s.due()
	s.mu.Unlock()
	if len(keys) > 0 {
		if stale {
			go func() { _ = s.refresh(context.WithoutCancel(ctx)) }() // the request does not wait; fly logs
		}
		return keys, nil
	}
	err := s.refresh(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if keys := s.keys[kid]; len(keys) > 0 {
		return keys, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, errUnknownKey
}

// due reports whether the interval since the last fetch is over. The caller holds the lock.
func (s *keySet) due() bool { return s.now().Sub(s.tried) >= s.minRefresh }

// flight is a fetch under way.
type flight struct {
	done chan struct{}
	err  error // once done is closed
}

// refresh fetches the set, or waits for a fetch that is under way: callers at the same time share one. Within the interval it
// does neither, and its error is the last fetch's.
func (s *keySet) refresh(ctx context.Context) error {
	s.mu.Lock()
	flying := s.flying
	if flying == nil && !s.due() {
		defer s.mu.Unlock()
		return s.failed
	}
	if flying == nil {
		flying = &flight{done: make(chan struct{})}
		s.flying, s.tried = flying, s.now()
		// The fetch outlives the request that caused it: others wait for it too.
		go s.fly(context.WithoutCancel(ctx), flying)
	}
	s.mu.Unlock()
	select {
	case <-flying.done:
		return flying.err
	case <-ctx.Done():
		return fault.Wrapf(fault.Unavailable, context.Cause(ctx), "the time ran out while forge's keys were fetched; try again")
	}
}

func (s *keySet) fly(ctx context.Context, flying *flight) {
	ctx, cancel := context.WithTimeout(ctx, s.fetchTimeout)
	defer cancel()
	keys, err := s.fetch(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.keys, s.fetched = keys, s.now()
	} else {
		s.logger.WarnContext(ctx, "forge's keys could not be fetched; those that are known stay", slog.String("error", err.Error()))
		flying.err = fault.Wrapf(fault.Unavailable, err, "forge's keys cannot be fetched now; try again in a few seconds")
	}
	s.flying, s.failed = nil, flying.err
	close(flying.done)
}

func (s *keySet) ready() bool { return s.size() > 0 }

// size is the number of usable keys in the set.
func (s *keySet) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := 0
	for _, keys := range s.keys {
		count += len(keys)
	}
	return count
}

// fetch reads the set.
func (s *keySet) fetch(ctx context.Context) (map[string][]*rsa.PublicKey, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }() // it was read; nothing is lost
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxKeySet+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxKeySet {
		return nil, fmt.Errorf("the set is larger than %d bytes", maxKeySet)
	}
	return parseKeys(body)
}

// jwk is an RSA signature key of RFC 7517.
type jwk struct {
	Type       string   `json:"kty"`
	Use        string   `json:"use"`
	Operations []string `json:"key_ops"`
	Algorithm  string   `json:"alg"`
	ID         string   `json:"kid"`
	Modulus    string   `json:"n"`
	Exponent   string   `json:"e"`
}

// parseKeys reads a set. An entry that cannot verify a FIT (not RSA, too short, for encryption, without an id, malformed) is skipped,
// as RFC 7517 section 5 asks; a set without any usable key is an error that says why each of the first few was skipped.
func parseKeys(body []byte) (map[string][]*rsa.PublicKey, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, err
	}
	keys := map[string][]*rsa.PublicKey{}
	var skipped []string
	for i, entry := range set.Keys[:min(len(set.Keys), maxKeys)] {
		id, public, err := parseKey(entry)
		if err != nil {
			skipped = append(skipped, fmt.Sprintf("keys[%d]: %s", i, err))
			continue
		}
		keys[id] = append(keys[id], public)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("the set of %d keys holds no usable one (%s)", len(set.Keys), strings.Join(skipped[:min(len(skipped), 3)], "; "))
	}
	return keys, nil
}

func parseKey(entry []byte) (id string, public *rsa.PublicKey, err error) {
	var key jwk
	if err := json.Unmarshal(entry, &key); err != nil {
		return "", nil, errors.New("not a JWK")
	}
	verifies := len(key.Operations) == 0 || slices.Contains(key.Operations, "verify")
	switch {
	case key.ID == "":
		return "", nil, errors.New("no kid")
	case key.Type != "RSA" || key.Use != "" && key.Use != "sig" || key.Algorithm != "" && key.Algorithm != algorithm || !verifies:
		return "", nil, errors.New("not an RSA key for " + algorithm + " signatures")
	}
	modulus, err := decodeBase64(key.Modulus)
	if err != nil {
		return "", nil, errors.New("n is not base64url")
	}
	exponent, err := decodeBase64(key.Exponent)
	if err != nil || len(exponent) > 4 {
		return "", nil, errors.New("e is not base64url of at most 4 bytes")
	}
	public = &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(new(big.Int).SetBytes(exponent).Int64())}
	if public.N.BitLen() < minModulus || public.E < 3 || public.E%2 == 0 {
		return "", nil, fmt.Errorf("shorter than %d bits, or an exponent that is none", minModulus)
	}
	return key.ID, public, nil
}

// decodeBase64 reads base64url and standard base64, with and without padding. RFC 7518 section 2 asks for base64url without padding;
// Forge's own key set has padding.
func decodeBase64(text string) ([]byte, error) {
	text = strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(text, "="))
	return base64.RawURLEncoding.DecodeString(text)
}

// checkKeyURL accepts https, and http within this machine.
func checkKeyURL(text string) error {
	parsed, err := url.Parse(text)
	if err != nil || parsed.Host == "" {
		return fmt.Errorf("%q is no URL", text)
	}
	host := parsed.Hostname()
	ip := net.ParseIP(host)
	if parsed.Scheme == "https" || parsed.Scheme == "http" && (host == "localhost" || ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("%q is neither https nor on this machine", text)
}
