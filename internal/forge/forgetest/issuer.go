// Package forgetest is a stand-in for Forge's issuer: it signs FITs and OAuth tokens, right ones and ones broken in every way
// that a receiver must notice, and serves the keys. Its core needs no testing.T: the sandbox runs it too.
package forgetest

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"sync"
	"time"
)

// AppID is the app that an Issuer signs for unless told otherwise.
const AppID = "ari:cloud:ecosystem::app/5a9db0c0-1111-4222-8333-444444444444"

// Installation and WorkspaceID are a FIT's unless told otherwise.
const (
	Installation = "ari:cloud:ecosystem::installation/5a9db0c0-5555-4666-8777-888888888888"
	WorkspaceID  = "11111111-2222-4333-8444-555555555555"
)

// Issuer signs. It may be used concurrently.
type Issuer struct {
	AppID string
	Now   func() time.Time

	mu      sync.Mutex
	keys    []*signingKey // the last one signs
	foreign *signingKey   // published nowhere
}

type signingKey struct {
	id      string
	private *rsa.PrivateKey
}

// NewIssuer makes an issuer with a key of its own.
func NewIssuer() (*Issuer, error) {
	issuer := &Issuer{AppID: AppID, Now: time.Now}
	foreign, err := newKey("forge/invocation-token/foreign")
	if err != nil {
		return nil, err
	}
	issuer.foreign = foreign
	return issuer, issuer.Rotate()
}

// Rotate makes a new key that signs from now on. The old ones stay published.
func (i *Issuer) Rotate() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	key, err := newKey(fmt.Sprintf("forge/invocation-token/%d", len(i.keys)+1)) // Forge's ids have slashes too
	if err == nil {
		i.keys = append(i.keys, key)
	}
	return err
}

func newKey(id string) (*signingKey, error) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	return &signingKey{id, private}, err
}

// Handler serves the published keys as a JWKS (RFC 7517), n and e with base64 padding as Forge's own set has them.
func (i *Issuer) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"keys": i.jwks()}) // whoever went away needs no keys
	})
}

func (i *Issuer) jwks() []map[string]string {
	i.mu.Lock()
	defer i.mu.Unlock()
	var set []map[string]string
	for _, key := range i.keys {
		public := key.private.PublicKey
		set = append(set, map[string]string{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": key.id,
			"n": base64.URLEncoding.EncodeToString(public.N.Bytes()), "e": base64.URLEncoding.EncodeToString(big.NewInt(int64(public.E)).Bytes()),
		})
	}
	return set
}

// FITOptions describe a FIT; the zero value is a right one of the platform's: an event, a scheduled trigger, or a call by the app's function.
type FITOptions struct {
	Installation string
	WorkspaceID  string
	Principal    string
	ModuleType   string // default "bitbucket:repoMainMenuPage" with a principal, else "core:endpoint"
	ModuleKey    string // default "page" with a principal, else "endpoint"
	ICLabel      string
	AppVersion   string
	Life         time.Duration // default 25 s; a negative one is expired

	// What is broken.
	Algorithm string         // in the header; "none", "HS256" (signed with the public key's PEM) and "RS512" are signed as named
	KeyID     *string        // in the header
	Header    map[string]any // further header fields, such as jku
	Claims    map[string]any // instead of the right ones; nil values are left out
	Foreign   bool           // signed by a key that is not published, under the id of one that is
	Damaged   bool           // one bit of the signature is another
}

// FIT signs a FIT.
func (i *Issuer) FIT(options FITOptions) string {
	i.mu.Lock()
	key, id := i.keys[len(i.keys)-1], i.keys[len(i.keys)-1].id
	i.mu.Unlock()
	if options.Foreign {
		key = i.foreign
	}
	if options.KeyID != nil {
		id = *options.KeyID
	}
	algorithm := or(options.Algorithm, "RS256")
	header := map[string]any{"alg": algorithm, "typ": "JWT", "kid": id}
	for name, value := range options.Header {
		header[name] = value
	}
	return sign(key.private, algorithm, header, i.claims(options), options.Damaged)
}

func (i *Issuer) claims(options FITOptions) map[string]any {
	life := options.Life
	if life == 0 {
		life = 25 * time.Second
	}
	now := i.Now()
	issued := now
	if life < 0 {
		issued = now.Add(life - 25*time.Second)
	}
	workspace := or(options.WorkspaceID, WorkspaceID)
	moduleType, moduleKey := "core:endpoint", "endpoint"
	if options.Principal != "" {
		moduleType, moduleKey = "bitbucket:repoMainMenuPage", "page"
	}
	claims := map[string]any{
		"iss": "forge/invocation-token", "aud": i.AppID, "jti": encode(random(16)),
		"iat": issued.Unix(), "nbf": issued.Unix(), "exp": now.Add(life).Unix(),
		"app": map[string]any{
			"id": i.AppID, "appVersion": or(options.AppVersion, "1.0.0"), "installationId": or(options.Installation, Installation),
			"apiBaseUrl":   "https://api.atlassian.com",
			"installation": map[string]any{"id": or(options.Installation, Installation), "contexts": []any{map[string]any{"name": "BITBUCKET", "workspaceId": workspace}}},
			"environment":  map[string]any{"type": "DEVELOPMENT", "id": "ari:cloud:ecosystem::environment/dev"},
			"module":       map[string]any{"type": or(options.ModuleType, moduleType), "key": or(options.ModuleKey, moduleKey)},
		},
		"context": map[string]any{"workspaceId": "{" + workspace + "}"},
	}
	if options.Principal != "" {
		claims["principal"] = options.Principal
	}
	if options.ICLabel != "" {
		claims["icLabel"] = options.ICLabel
	}
	for name, value := range options.Claims {
		if value == nil {
			delete(claims, name)
		} else {
			claims[name] = value
		}
	}
	return claims
}

// OAuthOptions describe an OAuth token of Forge's.
type OAuthOptions struct {
	Scopes    []string
	ExpiresAt time.Time // the zero time leaves exp out
	Algorithm string    // default RS256; any text is written into the header
}

// OAuthToken makes a token as Forge delivers them: opaque but for exp, no two the same.
func (i *Issuer) OAuthToken(options OAuthOptions) string {
	claims := map[string]any{"jti": encode(random(16)), "scope": options.Scopes, "aud": "bitbucket"}
	if !options.ExpiresAt.IsZero() {
		claims["exp"] = options.ExpiresAt.Unix()
	}
	return sign(i.foreign.private, "RS256", map[string]any{"alg": or(options.Algorithm, "RS256"), "typ": "JWT"}, claims, false)
}

// sign makes a JWT (RFC 7515, compact form). Maps of our own always encode, and RSA with SHA-2 always signs.
func sign(key *rsa.PrivateKey, algorithm string, header, claims map[string]any, damaged bool) string {
	head, _ := json.Marshal(header)
	body, _ := json.Marshal(claims)
	text := encode(head) + "." + encode(body)
	var signature []byte
	switch algorithm {
	case "none":
	case "HS256":
		public, _ := x509.MarshalPKIXPublicKey(&key.PublicKey)
		mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
		mac.Write([]byte(text))
		signature = mac.Sum(nil)
	default:
		hash := map[string]crypto.Hash{"RS384": crypto.SHA384, "RS512": crypto.SHA512}[algorithm]
		if hash == 0 {
			hash = crypto.SHA256
		}
		digest := hash.New()
		digest.Write([]byte(text))
		signature, _ = rsa.SignPKCS1v15(rand.Reader, key, hash, digest.Sum(nil))
	}
	if damaged && len(signature) > 0 {
		signature[len(signature)/2] ^= 1
	}
	return text + "." + encode(signature)
}

func encode(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func random(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.Read(data) // never fails (crypto/rand)
	return data
}

func or(value, other string) string {
	if value == "" {
		return other
	}
	return value
}
