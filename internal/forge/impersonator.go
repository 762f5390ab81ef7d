package forge

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// ImpersonatorConfig is what an [Impersonator] is made of. URL is required.
type ImpersonatorConfig struct {
	URL string // of Atlassian's GraphQL gateway
	// ContextID is the ARI of what the token is for, with {workspace} in the place of the workspace's UUID; a Bitbucket workspace's by
	// default.
	ContextID  string
	HTTPClient *http.Client // its redirect policy is replaced
	Now        func() time.Time
}

// Impersonator exchanges an app's system token for one of a user who is not in session. Source: Atlassian's documentation of offline user
// impersonation for Forge remotes, mutation offlineUserAuthToken. It may be used concurrently.
type Impersonator struct {
	ImpersonatorConfig
	http *http.Client
}

const (
	defaultContextID   = "ari:cloud:bitbucket::workspace/{workspace}"
	workspacePlace     = "{workspace}"
	impersonateTimeout = 15 * time.Second
	maxGraphQL         = 256 << 10 // bytes of an answer
	maxGraphQLQuote    = 200       // bytes of its words
)

// NewImpersonator makes an Impersonator.
func NewImpersonator(config ImpersonatorConfig) *Impersonator {
	config.ContextID = cmp.Or(config.ContextID, defaultContextID)
	client := new(http.Client)
	if config.HTTPClient != nil {
		*client = *config.HTTPClient
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Impersonator{ImpersonatorConfig: config, http: client}
}

const exchangeMutation = `mutation Gitsmith($input: OfflineUserAuthTokenInput!) {
  offlineUserAuthToken(input: $input) {
    success
    errors { message }
    authToken { token ttl }
  }
}`

// exchangeAnswer is what the gateway says, as far as it is read.
type exchangeAnswer struct {
	Data struct {
		Exchange *struct {
			Success   bool           `json:"success"`
			Errors    []graphQLError `json:"errors"`
			AuthToken *struct {
				Token string  `json:"token"`
				TTL   float64 `json:"ttl"` // seconds
			} `json:"authToken"`
		} `json:"offlineUserAuthToken"`
	} `json:"data"`
	Errors []graphQLError `json:"errors"`
}

type graphQLError struct {
	Message string `json:"message"`
}

// Token is a token of the user with the account id, for a workspace (its UUID, with or without braces). A Denied fault where Atlassian
// does not let the app act for the user; Throttled, Unavailable as they say.
func (i *Impersonator) Token(ctx context.Context, system secret.Text, workspace, accountID string) (OAuthToken, error) {
	ctx, cancel := context.WithTimeout(ctx, impersonateTimeout)
	defer cancel()
	asked := i.Now()
	answer, err := i.ask(ctx, system, workspace, accountID)
	if err != nil {
		return OAuthToken{}, err
	}
	exchange := answer.Data.Exchange
	if exchange == nil || !exchange.Success || exchange.AuthToken == nil || exchange.AuthToken.Token == "" {
		all := answer.Errors
		if exchange != nil {
			all = append(all, exchange.Errors...)
		}
		return OAuthToken{}, fault.Newf(fault.Denied,
			"act as a user who is not there: atlassian gives no token%s; the user must have access to the workspace, and each scope in the manifest allowImpersonation: true",
			said(all))
	}
	token := OAuthToken{Text: secret.New(exchange.AuthToken.Token), ExpiresAt: asked.Add(time.Duration(exchange.AuthToken.TTL * float64(time.Second))).UTC()}
	if expiry, ok := ExpiryOf(exchange.AuthToken.Token); ok && (exchange.AuthToken.TTL <= 0 || expiry.Before(token.ExpiresAt)) {
		token.ExpiresAt = expiry
	}
	return token, nil
}

func (i *Impersonator) ask(ctx context.Context, system secret.Text, workspace, accountID string) (exchangeAnswer, error) {
	body, err := json.Marshal(map[string]any{"query": exchangeMutation, "variables": map[string]any{"input": map[string]any{
		"contextIds": []string{strings.ReplaceAll(i.ContextID, workspacePlace, strings.Trim(workspace, "{}"))}, "userId": accountID,
	}}})
	if err != nil {
		return exchangeAnswer{}, fault.Wrapf(fault.Internal, err, "act as a user: the request cannot be encoded")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, i.URL, bytes.NewReader(body))
	if err != nil {
		return exchangeAnswer{}, fault.Wrapf(fault.Internal, err, "act as a user: the request cannot be made")
	}
	request.Header.Set("Authorization", "Bearer "+system.Reveal())
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	response, err := i.http.Do(request)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return exchangeAnswer{}, context.Cause(ctx)
		}
		return exchangeAnswer{}, fault.Wrapf(fault.Unavailable, err, "act as a user: atlassian's gateway cannot be reached; it is tried again (GITSMITH_GRAPHQL_URL)")
	}
	defer func() { _ = response.Body.Close() }() // it was read; nothing is lost
	content, err := io.ReadAll(io.LimitReader(response.Body, maxGraphQL))
	if err := classifyExchange(response, err); err != nil {
		return exchangeAnswer{}, err
	}
	var answer exchangeAnswer
	if err := json.Unmarshal(content, &answer); err != nil {
		return exchangeAnswer{}, fault.Newf(fault.Unavailable, "act as a user: atlassian's answer is not the JSON that was expected; it is tried again") // the cause would quote it
	}
	return answer, nil
}

// classifyExchange is what the answer's status means, or that it broke off.
func classifyExchange(response *http.Response, broken error) error {
	status := response.StatusCode
	cause := fmt.Errorf("status %d", status)
	if status == http.StatusUnauthorized {
		cause = errors.Join(fault.ErrTokenRefused, cause)
	}
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return fault.Wrapf(fault.Denied, cause, "act as a user: atlassian refuses the app's system token (%d); the manifest needs the scope read:app-user-token, and each scope allowImpersonation: true", status)
	case status == http.StatusTooManyRequests:
		throttled := fault.Wrapf(fault.Throttled, cause, "act as a user: atlassian's rate limit is reached; the job goes on when it is over")
		if seconds, err := time.ParseDuration(response.Header.Get("Retry-After") + "s"); err == nil {
			throttled.RetryAfter = min(max(seconds, 0), time.Hour)
		}
		return throttled
	case status/100 != 2:
		return fault.Wrapf(fault.Unavailable, cause, "act as a user: atlassian's gateway failed (%d); it is tried again", status)
	case broken != nil:
		return fault.Wrapf(fault.Unavailable, broken, "act as a user: atlassian's answer broke off; it is tried again")
	}
	return nil
}

// said is how a public text goes on with what the gateway says; nothing where it says nothing.
func said(all []graphQLError) string {
	for _, each := range all {
		if words := strings.Join(strings.Fields(secret.Scrub(each.Message)), " "); words != "" {
			if len(words) > maxGraphQLQuote {
				words = strings.ToValidUTF8(words[:maxGraphQLQuote], "") + "…"
			}
			return fmt.Sprintf(": it says %q", words)
		}
	}
	return ""
}
