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
	flying  *flight // nil where no fetch is under way
	keys    map[string]*rsa.PublicKey
	tried   time.Time // the last fetch began
	fetched time.Time // the last fetch that brought keys
	failed  error     // of the last fetch
}

var errUnknownKey = errors.New("no key of that id")

// key finds a key: in what is kept or, at most once per minimum interval, by fetching the set again. What is not found right
// after a fetch that worked is no key of Forge's; after one that failed, nobody knows.
func (s *keySet) key(ctx context.Context, kid string) (*rsa.PublicKey, error) {
	s.mu.Lock()
	key, known := s.keys[kid]
	stale := s.now().Sub(s.fetched) > refreshIdle && s.due()
	s.mu.Unlock()
	if known {
		if stale {
			go func() { _ = s.refresh(context.WithoutCancel(ctx)) }() // the request does not wait; fly logs
		}
		return key, nil
	}
	err := s.refresh(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if key, known := s.keys[kid]; known {
		return key, nil
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

func (s *keySet) ready() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys) > 0
}

// fetch reads the set. Keys that cannot verify a FIT (not RSA, too short, for encryption, without an id) are passed over; a
// set without any other is an error.
func (s *keySet) fetch(ctx context.Context) (map[string]*rsa.PublicKey, error) {
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

// jwk is a key of RFC 7517, as far as an RSA key for signatures needs it.
type jwk struct {
	Type      string `json:"kty"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	ID        string `json:"kid"`
	Modulus   string `json:"n"`
	Exponent  string `json:"e"`
}

func parseKeys(body []byte) (map[string]*rsa.PublicKey, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, err
	}
	keys := map[string]*rsa.PublicKey{}
	for _, key := range set.Keys[:min(len(set.Keys), maxKeys)] {
		if public := key.rsa(); public != nil && key.ID != "" {
			keys[key.ID] = public
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("the set holds no usable key")
	}
	return keys, nil
}

func (k jwk) rsa() *rsa.PublicKey {
	if k.Type != "RSA" || k.Use != "" && k.Use != "sig" || k.Algorithm != "" && k.Algorithm != algorithm {
		return nil
	}
	modulus, err := base64.RawURLEncoding.DecodeString(k.Modulus)
	exponent, exponentErr := base64.RawURLEncoding.DecodeString(k.Exponent)
	if err != nil || exponentErr != nil || len(exponent) > 4 {
		return nil
	}
	key := &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: int(new(big.Int).SetBytes(exponent).Int64())}
	if key.N.BitLen() < minModulus || key.E < 3 || key.E%2 == 0 {
		return nil
	}
	return key
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
