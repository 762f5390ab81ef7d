package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/deploy/forge/app/bridge"
	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
)

// How Forge delivers (Forge Remote's documentation).
const (
	timeToAnswerUI    = 25 * time.Second
	timeToAnswerEvent = 5 * time.Second
	timeToUninstall   = 55 * time.Second // once: its failure is ignored
	redeliveries      = 4
	maxBody           = 5 << 20
)

// Who the sandbox's app is installed for.
const (
	installation = "ari:cloud:ecosystem::installation/5a9db0c0-5a9d-4b0c-8a9d-b05a9db05a9d"
	workspaceID  = "11111111-2222-4333-8444-555555555555"
	webUUID      = "{66666666-7777-4888-8999-000000000000}" // of the repository acme/web
	alice        = "712020:alice"
)

// allScopes are the scopes that deploy/forge/manifest.yml asks for.
var allScopes = []string{
	bitbuckettest.ScopeReadRepository, bitbuckettest.ScopeWriteRepository,
	bitbuckettest.ScopeReadPullRequest, bitbuckettest.ScopeWritePullRequest,
}

// invocation is a call to the receiver as a developer describes it, in the body of POST /invoke. Everything has a default.
type invocation struct {
	Path    string            `json:"path"`    // on the receiver; required
	Method  string            `json:"method"`  // default: POST where there is a body, else GET
	Headers map[string]string `json:"headers"` // beside the ones that Forge sets
	Body    json.RawMessage   `json:"body"`

	// Principal is the user in session. Default: alice on paths below /v1, no user on paths below /forge. "" on a path below /v1 is a
	// function of the app.
	Principal *string `json:"principal"`
	Module    struct {
		Type string `json:"type"`
		Key  string `json:"key"`
	} `json:"module"`
	Installation string `json:"installation"`

	// Tokens says which OAuth tokens come along: "system", "user". Default: user with a principal, else system.
	Tokens    []string `json:"tokens"`
	Scopes    []string `json:"scopes"`     // of the tokens; default: all that the manifest asks for
	TokenLife string   `json:"token_life"` // default "4h"; "-1m" makes expired ones
	FITLife   string   `json:"fit_life"`   // default "25s"; "-1m" makes an expired one
}

// answer is what the receiver said to one delivery.
type answer struct {
	Status   int             `json:"status"`
	Raw      []byte          `json:"-"` // the body as it came
	Header   http.Header     `json:"-"`
	Body     json.RawMessage `json:"body"`
	Attempts int             `json:"attempts"`
	TraceID  string          `json:"trace_id"`
}

// standInForge signs invocations and delivers them as Forge does.
type standInForge struct {
	issuer    *forgetest.Issuer
	bitbucket *bitbuckettest.Server
	receiver  string        // base URL
	redeliver time.Duration // between deliveries of an event that was not taken; 60 s at Forge
	gateway   gateway
}

// routes are the stand-in's own: the keys, and the door for developers.
func (f *standInForge) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /.well-known/jwks.json", f.issuer.Handler())
	mux.HandleFunc("POST /graphql", f.exchange)
	mux.Handle("/app/", http.StripPrefix("/app", bridge.Handler(os.DirFS(builtPage()), f.invokeRemote)))
	mux.HandleFunc("POST /invoke", func(w http.ResponseWriter, r *http.Request) {
		var call invocation
		decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody+1<<20))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&call); err != nil {
			http.Error(w, "the invocation is no JSON of the form that README shows: "+err.Error(), http.StatusBadRequest)
			return
		}
		got, err := f.deliver(r.Context(), call)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(got) // a developer who went away needs no answer
	})
	return mux
}

// invokeRemote sends what the page in a browser asked for, signed with alice in session and with her token.
func (f *standInForge) invokeRemote(ctx context.Context, call bridge.Call) (bridge.Answer, error) {
	if !strings.HasPrefix(call.Path, "/v1/") {
		return bridge.Answer{}, errors.New("the page calls paths below /v1 only")
	}
	got, err := f.deliver(ctx, invocation{Path: call.Path, Method: call.Method, Headers: call.Headers, Body: call.Body})
	return bridge.Answer{Status: got.Status, Headers: got.Header, Body: string(got.Raw)}, err
}

// builtPage is where `make app` puts the page, seen from the repository's root or from here.
func builtPage() string {
	page := filepath.Join("deploy", "forge", "app", "dist")
	if _, err := os.Stat("go.mod"); err != nil {
		return filepath.Join("..", "..", page)
	}
	return page
}

// deliver sends an invocation. UI calls are sent once; what goes to /forge is sent again, up to four times, while the answer is
// no 2xx.
func (f *standInForge) deliver(ctx context.Context, call invocation) (answer, error) {
	if !strings.HasPrefix(call.Path, "/") {
		return answer{}, errors.New(`"path" must begin with a slash, such as /v1/jobs`)
	}
	limit, tries := timeToAnswerUI, 1
	switch {
	case call.Path == "/forge/uninstall":
		limit = timeToUninstall
	case strings.HasPrefix(call.Path, "/forge/"):
		limit, tries = timeToAnswerEvent, 1+redeliveries
	}
	traceID := randomHex(16)
	for attempt := 1; ; attempt++ {
		got, err := f.send(ctx, call, traceID, limit)
		got.Attempts = attempt
		if err == nil && got.Status/100 == 2 || attempt == tries {
			return got, err
		}
		select {
		case <-ctx.Done():
			return got, ctx.Err()
		case <-time.After(f.redeliver):
		}
	}
}

func (f *standInForge) send(ctx context.Context, call invocation, traceID string, limit time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	method := call.Method
	if method == "" && len(call.Body) > 0 || strings.HasPrefix(call.Path, "/forge/") {
		method = http.MethodPost
	}
	request, err := http.NewRequestWithContext(ctx, method, f.receiver+call.Path, bytes.NewReader(call.Body))
	if err != nil {
		return answer{}, err
	}
	if err := f.sign(call, request.Header); err != nil {
		return answer{}, err
	}
	request.Header.Set("X-B3-Traceid", traceID)
	request.Header.Set("X-B3-Spanid", randomHex(8))
	if len(call.Body) > 0 {
		request.Header.Set("Content-Type", "application/json")
	}
	for name, value := range call.Headers {
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = response.Body.Close() }() // it was read; nothing is lost
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody))
	if err != nil {
		return answer{}, err
	}
	shown := json.RawMessage(body)
	if !json.Valid(body) {
		shown = json.RawMessage(fmt.Sprintf(`"%d bytes that are no JSON"`, len(body)))
	}
	return answer{Status: response.StatusCode, Raw: body, Header: response.Header, Body: shown, TraceID: traceID}, nil
}

// sign sets the headers that prove the call and bring the tokens.
func (f *standInForge) sign(call invocation, header http.Header) error {
	fitLife, err := lifeOr(call.FITLife, 25*time.Second)
	if err != nil {
		return fmt.Errorf("fit_life: %w", err)
	}
	tokenLife, err := lifeOr(call.TokenLife, 4*time.Hour)
	if err != nil {
		return fmt.Errorf("token_life: %w", err)
	}
	principal, module := f.caller(call)
	header.Set("Authorization", "Bearer "+f.fit(call, principal, module, fitLife))

	tokens := call.Tokens
	if tokens == nil {
		if tokens = []string{"system"}; principal != "" {
			tokens = []string{"user"}
		}
	}
	scopes := call.Scopes
	if scopes == nil {
		scopes = allScopes
	}
	for _, kind := range tokens {
		if kind != "system" && kind != "user" {
			return fmt.Errorf(`tokens: %q is neither "system" nor "user"`, kind)
		}
		token := f.oauthToken(scopes, time.Now().Add(tokenLife))
		if kind == "system" {
			f.gateway.system.Store(token, true)
		}
		header.Set("X-Forge-Oauth-"+kind, token)
	}
	return nil
}

// platform is the module type of every call that no frontend makes.
const platform = "core:endpoint"

// caller fills in who calls, by the path, with the modules that deploy/forge/manifest.yml has. A call below /v1 without a principal is one
// by a function of the app.
func (f *standInForge) caller(call invocation) (principal string, module [2]string) {
	module = [2]string{"bitbucket:workspaceGlobalPage", "gitsmith-page"}
	principal = alice
	switch {
	case strings.HasPrefix(call.Path, "/forge/schedule"):
		principal, module = "", [2]string{platform, "hourly"}
	case strings.HasPrefix(call.Path, "/forge/uninstall"):
		principal, module = "", [2]string{platform, "removed"}
	case strings.HasPrefix(call.Path, "/forge/events"):
		principal, module = "", [2]string{platform, "product-events"}
	case strings.HasPrefix(call.Path, "/forge/"):
		principal, module = "", [2]string{platform, "installed"}
	case call.Principal != nil && *call.Principal == "":
		module = [2]string{platform, "function"}
	}
	if call.Principal != nil {
		principal = *call.Principal
	}
	if call.Module.Type != "" {
		module = [2]string{call.Module.Type, call.Module.Key}
	}
	return principal, module
}

func lifeOr(text string, other time.Duration) (time.Duration, error) {
	if text == "" {
		return other, nil
	}
	return time.ParseDuration(text)
}

func randomHex(bytes int) string {
	random := make([]byte, bytes)
	_, _ = rand.Read(random) // never fails (crypto/rand)
	return hex.EncodeToString(random)
}

// startForge serves the stand-in. Its receiver is set once that listens.
func (s *sandbox) startForge(ctx context.Context, bitbucket *bitbuckettest.Server) error {
	issuer, err := forgetest.NewIssuer()
	if err != nil {
		return err
	}
	s.forge = &standInForge{issuer: issuer, bitbucket: bitbucket, redeliver: time.Minute}
	s.addresses["forge"], err = s.serve(ctx, s.forge.routes())
	return err
}

// fit signs the invocation.
func (f *standInForge) fit(call invocation, principal string, module [2]string, life time.Duration) string {
	where := call.Installation
	if where == "" {
		where = installation
	}
	return f.issuer.FIT(forgetest.FITOptions{
		Installation: where, WorkspaceID: workspaceID, Principal: principal, ModuleType: module[0], ModuleKey: module[1], Life: life,
	})
}

// oauthToken makes a token and tells the stand-in Bitbucket what it is good for.
func (f *standInForge) oauthToken(scopes []string, expiresAt time.Time) string {
	token := f.issuer.OAuthToken(forgetest.OAuthOptions{Scopes: scopes, ExpiresAt: expiresAt})
	f.bitbucket.AddToken(token, bitbuckettest.Grant{Scopes: scopes, ExpiresAt: expiresAt, Default: bitbuckettest.Write})
	return token
}
