package forge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
)

const (
	issuer    = "forge/invocation-token"
	algorithm = "RS256"
	maxFIT    = 8 << 10 // bytes; a FIT has about 2 KB
	maxToken  = 8 << 10 // bytes of an OAuth token
	maxLife   = 5 * time.Minute

	// Forge's documents: 2 to 4 hours for a system token, at most 4 for a user's.
	maxTokenLife = 4*time.Hour + time.Minute

	maxIsolate = 16 // Isolated Clouds whose keys are kept
)

var (
	appShape     = regexp.MustCompile(`^ari:cloud:ecosystem::app/[0-9A-Za-z-]{1,64}$`)
	icLabelShape = regexp.MustCompile(`^[a-z0-9_-]{1,50}$`)
)

const icLabelMark = "{IC_LABEL}"

// VerifierConfig says whose invocations a [Verifier] takes. AppIDs and JWKSURL are required.
type VerifierConfig struct {
	AppIDs          []string // ARIs of the apps
	JWKSURL         string   // https, or http within this machine
	JWKSURLTemplate string   // the same for Isolated Cloud, with {IC_LABEL}; empty refuses its FITs
	HTTPClient      *http.Client
	Leeway          time.Duration // between the clocks; at most 5 s, the default
	MinRefresh      time.Duration // between two fetches of keys; default 15 s
	FetchTimeout    time.Duration // of a fetch, and the longest that a lookup waits; default 2 s
	UnreadableLife  time.Duration // of an OAuth token whose exp cannot be read; default 15 min
	Now             func() time.Time
	Logger          *slog.Logger
}

// Verifier proves who calls. It may be used concurrently.
type Verifier struct {
	config VerifierConfig
	parser *jwt.Parser
	keys   *keySet

	mu       sync.Mutex
	isolated map[string]*keySet // by icLabel
	dropped  time.Time          // when made-up labels were last dropped
}

// NewVerifier makes a Verifier. An app id or a URL that is none, and an empty one, is an error: an empty audience would switch
// the check off.
func NewVerifier(config VerifierConfig) (*Verifier, error) {
	if len(config.AppIDs) == 0 {
		return nil, errors.New("no app id is given; FITs of any app would pass")
	}
	for _, id := range config.AppIDs {
		if !appShape.MatchString(id) {
			return nil, fmt.Errorf("app id %.100q is no ARI of an app, such as ari:cloud:ecosystem::app/00000000-0000-0000-0000-000000000000", id)
		}
	}
	if err := checkKeyURL(config.JWKSURL); err != nil {
		return nil, fmt.Errorf("JWKS URL: %w", err)
	}
	if template := config.JWKSURLTemplate; template != "" {
		if !strings.Contains(template, icLabelMark) {
			return nil, fmt.Errorf("JWKS URL template: it must have %s in it", icLabelMark)
		}
		if err := checkKeyURL(strings.ReplaceAll(template, icLabelMark, "x")); err != nil {
			return nil, fmt.Errorf("JWKS URL template: %w", err)
		}
	}
	config.setDefaults()
	v := &Verifier{config: config, isolated: map[string]*keySet{}}
	v.keys = v.newKeySet(config.JWKSURL)
	v.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{algorithm}), jwt.WithAudience(config.AppIDs...), jwt.WithIssuer(issuer),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithNotBeforeRequired(), jwt.WithLeeway(config.Leeway),
		jwt.WithStrictDecoding(), jwt.WithTimeFunc(config.Now),
	)
	return v, nil
}

func (c *VerifierConfig) setDefaults() {
	orDefault := func(value *time.Duration, other time.Duration) {
		if *value <= 0 {
			*value = other
		}
	}
	orDefault(&c.Leeway, 5*time.Second)
	c.Leeway = min(c.Leeway, 5*time.Second)
	orDefault(&c.MinRefresh, 15*time.Second)
	orDefault(&c.FetchTimeout, 2*time.Second)
	orDefault(&c.UnreadableLife, 15*time.Minute)
	if c.HTTPClient == nil {
		c.HTTPClient = &http.Client{}
	}
	client := *c.HTTPClient
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.HTTPClient = &client
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

func (v *Verifier) newKeySet(url string) *keySet {
	return &keySet{
		url: url, client: v.config.HTTPClient, minRefresh: v.config.MinRefresh, fetchTimeout: v.config.FetchTimeout,
		now: v.config.Now, logger: v.config.Logger,
	}
}

// Warm fetches the keys, so that the first invocation does not wait for them.
func (v *Verifier) Warm(ctx context.Context) error { return v.keys.refresh(ctx) }

// Ready is nil once there are keys to verify with.
func (v *Verifier) Ready() error {
	if !v.keys.ready() {
		return fault.Newf(fault.Unavailable, "forge's keys have not been fetched yet")
	}
	return nil
}

// Verify proves a call by its headers: bearer FIT, signed with RS256 by a key of Forge's; issuer, audience (one of the app
// ids) and app.id, which must be the audience; exp, nbf and iat there and right within the leeway, at most five minutes of
// life; an installation; an icLabel only where Isolated Cloud is set up. Then it reads the OAuth tokens that came along.
//
// A FIT that does not verify is an Unauthenticated fault that says which check failed. Keys that cannot be had are an
// Unavailable one: Forge takes 401 for a verdict on the FIT. The FIT binds neither body nor path nor OAuth tokens, and one may
// come twice (Forge caches them): what a route may be used for is the route's to check.
func (v *Verifier) Verify(ctx context.Context, header http.Header) (Invocation, error) {
	text, err := bearer(header)
	if err != nil {
		return Invocation{}, err
	}
	keys, label, err := v.keysFor(text)
	if err != nil {
		return Invocation{}, err
	}
	var found claims
	_, err = v.parser.ParseWithClaims(text, &found, func(token *jwt.Token) (any, error) {
		kid, _ := token.Header["kid"].(string)
		if kid == "" || len(kid) > 512 {
			return nil, refused("its header names no key (kid)")
		}
		found, err := keys.key(ctx, kid)
		if errors.Is(err, errUnknownKey) {
			return nil, refused("it is signed by a key that is none of Forge's (kid); staging and other environments have keys of their own")
		}
		set := jwt.VerificationKeySet{}
		for _, key := range found {
			set.Keys = append(set.Keys, key)
		}
		return set, err
	})
	if err != nil {
		return Invocation{}, v.explain(text, err)
	}
	if err := v.check(&found, label); err != nil {
		return Invocation{}, err
	}
	invocation, err := v.withTokens(found, header)
	invocation.keys = keys.size()
	return invocation, err
}

func bearer(header http.Header) (string, error) {
	values := header.Values("Authorization")
	switch {
	case len(values) == 0:
		return "", fault.Newf(fault.Unauthenticated, "no FIT came: the request has no Authorization header; only Forge can call this")
	case len(values) > 1:
		return "", fault.Newf(fault.Unauthenticated, "the request has more than one Authorization header")
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	text = strings.TrimSpace(text)
	switch {
	case !strings.EqualFold(scheme, "Bearer") || text == "":
		return "", fault.Newf(fault.Unauthenticated, "the Authorization header is not of the form Bearer FIT")
	case len(text) > maxFIT:
		return "", fault.Newf(fault.Unauthenticated, "the FIT has %d bytes, at most %d are read", len(text), maxFIT)
	}
	return text, nil
}

// keysFor chooses the keys by the FIT's icLabel, which is not verified yet: it selects among URLs that the operator's template
// can make, and must be the verified one afterwards.
//
// Without a template there is one URL, and the label is looked at once it is verified.
func (v *Verifier) keysFor(text string) (*keySet, string, error) {
	if v.config.JWKSURLTemplate == "" {
		return v.keys, "", nil
	}
	var unverified claims
	if _, _, err := v.parser.ParseUnverified(text, &unverified); err != nil {
		return nil, "", classify(err)
	}
	label := unverified.ICLabel
	switch {
	case label == "":
		return v.keys, "", nil
	case !icLabelShape.MatchString(label):
		return nil, "", refused("its icLabel is no label")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	keys := v.isolated[label]
	if keys == nil {
		// Labels are not proven yet, and each new one costs a fetch: made-up ones make room for real ones, but only once in a while.
		if len(v.isolated) >= maxIsolate && v.config.Now().Sub(v.dropped) >= v.config.MinRefresh {
			v.dropUnready()
			v.dropped = v.config.Now()
		}
		if len(v.isolated) >= maxIsolate {
			return nil, "", fault.Newf(fault.Unavailable, "too many Isolated Clouds call this receiver; try again in a few seconds")
		}
		keys = v.newKeySet(strings.ReplaceAll(v.config.JWKSURLTemplate, icLabelMark, label))
		v.isolated[label] = keys
	}
	return keys, label, nil
}

// dropUnready forgets the labels that brought no keys: made-up ones, which must not keep real ones out.
func (v *Verifier) dropUnready() {
	for label, keys := range v.isolated {
		if !keys.ready() {
			delete(v.isolated, label)
		}
	}
}

// check is what the library does not check.
func (v *Verifier) check(found *claims, label string) error {
	switch {
	case found.IssuedAt == nil || found.ExpiresAt.Sub(found.IssuedAt.Time) > maxLife:
		return refused("it has no iat, or lives longer than %s", maxLife)
	case len(found.Audience) != 1 || found.App.ID != found.Audience[0] || !slices.Contains(v.config.AppIDs, found.App.ID):
		return refused("its app.id is not its audience")
	case found.ICLabel != "" && v.config.JWKSURLTemplate == "":
		return errNoTemplate()
	case found.ICLabel != label:
		return refused("its icLabel changed under verification")
	case found.installation() == "":
		return refused("it names no installation")
	}
	return nil
}

// withTokens reads the OAuth tokens that came with a verified FIT. A user token without a principal is dropped: a Forge function may
// pass one on, and kept under no name it would serve whoever comes next.
func (v *Verifier) withTokens(found claims, header http.Header) (Invocation, error) {
	invocation := Invocation{claims: found}
	for name, token := range map[string]*OAuthToken{HeaderSystemToken: &invocation.systemToken, HeaderUserToken: &invocation.userToken} {
		values := header.Values(name)
		if len(values) == 0 || values[0] == "" || name == HeaderUserToken && found.Principal == "" {
			continue
		}
		switch {
		case len(values) > 1:
			return Invocation{}, fault.Newf(fault.Invalid, "%s: the header stands more than once", name)
		case len(values[0]) > maxToken:
			return Invocation{}, fault.Newf(fault.Invalid, "%s: %d bytes, at most %d", name, len(values[0]), maxToken)
		}
		expiry, readable := ExpiryOf(values[0])
		if !readable {
			expiry = v.config.Now().Add(v.config.UnreadableLife)
		}
		// Nothing binds the header to the FIT: a planted token must not outlive real ones, which would then never replace it.
		if last := v.config.Now().Add(maxTokenLife); expiry.After(last) {
			expiry = last
		}
		*token = OAuthToken{Text: secret.New(values[0]), ExpiresAt: expiry}
	}
	return invocation, nil
}

// explain is why a FIT did not verify. One of an Isolated Cloud has keys that are not looked for without a template: then its label says
// more than that nobody knows its key.
func (v *Verifier) explain(text string, err error) error {
	var unverified claims
	if v.config.JWKSURLTemplate == "" {
		if _, _, parseErr := v.parser.ParseUnverified(text, &unverified); parseErr == nil && unverified.ICLabel != "" {
			return errNoTemplate()
		}
	}
	return classify(err)
}

func errNoTemplate() error {
	return refused("it comes from an Isolated Cloud, and GITSMITH_JWKS_URL_TEMPLATE is not set")
}

func refused(format string, args ...any) error {
	return fault.Newf(fault.Unauthenticated, "the FIT is refused: "+format, args...)
}

// classify is the one place that knows golang-jwt's errors. Its own text is not repeated: it can quote the token.
func classify(err error) error {
	var classified *fault.Error
	if errors.As(err, &classified) {
		return classified
	}
	for _, known := range []struct {
		err  error
		text string
	}{
		{jwt.ErrTokenMalformed, "it is no JWT"},
		{jwt.ErrTokenUnverifiable, "its signature cannot be checked: only RS256 is taken"},
		{jwt.ErrTokenSignatureInvalid, "its signature is not by Forge, or not RS256"},
		{jwt.ErrTokenRequiredClaimMissing, "it lacks one of exp, nbf, iss, aud"},
		{jwt.ErrTokenInvalidAudience, "it is for another app (aud); set GITSMITH_APP_ID to the manifest's app.id"},
		{jwt.ErrTokenInvalidIssuer, "its issuer (iss) is not " + issuer},
		{jwt.ErrTokenExpired, "it is expired (exp): a FIT lives 25 seconds; call again with a new one, and check this machine's clock"},
		{jwt.ErrTokenNotValidYet, "it is not valid yet (nbf); check this machine's clock"},
		{jwt.ErrTokenUsedBeforeIssued, "it was issued in the future (iat); check this machine's clock"},
	} {
		if errors.Is(err, known.err) {
			return refused("%s", known.text)
		}
	}
	return refused("it does not verify")
}
