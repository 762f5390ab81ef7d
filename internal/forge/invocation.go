// Package forge is the contract of Forge Remote as a remote sees it: the Forge Invocation Token (FIT) that proves the
// caller, the OAuth tokens that act on Bitbucket and their expiry, and the bodies of events.
//
// Source: Atlassian's documentation of Forge Remote, August 2026.
package forge

import (
	"time"

	"github.com/gitsmith/gitsmith/internal/secret"
)

// ActorKind says whose OAuth token does the work.
type ActorKind string

// The two actors that Forge knows.
const (
	ActorSystem ActorKind = "system" // the app's bot, by x-forge-oauth-system
	ActorUser   ActorKind = "user"   // the user in session, by x-forge-oauth-user
)

// Actor is one holder of OAuth tokens within an installation.
type Actor struct {
	Kind ActorKind `json:"kind"`
	// Principal is the user's account id; empty for the system.
	Principal string `json:"principal,omitempty"`
}

// Header is the request header that brings the actor's token.
func (a Actor) Header() string {
	if a.Kind == ActorUser {
		return HeaderUserToken
	}
	return HeaderSystemToken
}

// ManifestLine is the line of the app's manifest that makes Forge send the actor's token.
func (a Actor) ManifestLine() string {
	if a.Kind == ActorUser {
		return "auth.appUserToken.enabled: true"
	}
	return "auth.appSystemToken.enabled: true"
}

// The headers by which Forge brings OAuth tokens.
const (
	HeaderSystemToken = "X-Forge-Oauth-System"
	HeaderUserToken   = "X-Forge-Oauth-User"
)

// OAuthToken is one OAuth token with the time after which it is worth nothing.
type OAuthToken struct {
	Text      secret.Text
	ExpiresAt time.Time
}

// IsZero reports whether there is no token.
func (t OAuthToken) IsZero() bool { return t.Text.IsZero() }

// Invocation is a verified call: who calls, for which installation, with which tokens. Only [Verifier.Verify] makes one, so
// that what holds an Invocation needs no further check of who is calling. The zero value belongs to no installation.
type Invocation struct {
	claims      claims
	systemToken OAuthToken
	userToken   OAuthToken
	keys        int // in the set that proved the call
}

// Module is the manifest module that made the call.
type Module struct {
	Type string // such as "bitbucket:repoMainMenuPage"; [ModuleEndpoint] for calls by the platform
	Key  string
}

// ModuleEndpoint is the module type of every call that no frontend makes: product and lifecycle events, scheduled triggers, preUninstall,
// and calls from the app's functions (Atlassian, "Forge Remote essentials").
const ModuleEndpoint = "core:endpoint"

// AppID is the app's ARI, equal to the FIT's audience.
func (i Invocation) AppID() string { return i.claims.App.ID }

// AppVersion is the installed version of the app, such as "2.1.0"; empty where the FIT has none.
func (i Invocation) AppVersion() string { return i.claims.App.Version }

// Environment is the type of the app's environment: PRODUCTION, STAGING or DEVELOPMENT.
func (i Invocation) Environment() string { return i.claims.App.Environment.Type }

// Installation is the installation's ARI or id: everything is stored under it. It changes when the app is installed again.
func (i Invocation) Installation() string { return i.claims.installation() }

// WorkspaceID is the UUID of the workspace without braces; empty where the FIT names none.
func (i Invocation) WorkspaceID() string { return i.claims.workspaceID() }

// Principal is the account id of the user who calls. Calls by a frontend have one. A platform call may have one: an app's function can
// pass on the user in session.
func (i Invocation) Principal() string { return i.claims.Principal }

// FromPlatform reports whether Forge's platform made the call, or one of the app's functions through it. Any other call comes from a
// frontend, that is from a user's browser.
func (i Invocation) FromPlatform() bool { return i.claims.App.Module.Type == ModuleEndpoint }

// Life is how long the FIT is valid, from issue to expiry.
func (i Invocation) Life() time.Duration { return i.claims.ExpiresAt.Sub(i.claims.IssuedAt.Time) }

// KeySetSize is the number of keys in the set that proved the call.
func (i Invocation) KeySetSize() int { return i.keys }

// WithoutSystemToken is the invocation without the system token that it brought. A FIT does not bind the headers beside it, so only a
// route whose callers are Forge itself may believe that header.
func (i Invocation) WithoutSystemToken() Invocation {
	i.systemToken = OAuthToken{}
	return i
}

// Module is the manifest module that made the call.
func (i Invocation) Module() Module {
	return Module{Type: i.claims.App.Module.Type, Key: i.claims.App.Module.Key}
}

// Token is the OAuth token that the call brought for the kind of actor; zero where it brought none.
func (i Invocation) Token(kind ActorKind) OAuthToken {
	if kind == ActorUser {
		return i.userToken
	}
	return i.systemToken
}

// Actor is the holder of the call's token of that kind.
func (i Invocation) Actor(kind ActorKind) Actor {
	if kind == ActorUser {
		return Actor{Kind: ActorUser, Principal: i.claims.Principal}
	}
	return Actor{Kind: ActorSystem}
}
