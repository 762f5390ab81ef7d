package bitbucket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/secret"
)

// Config is what a Client needs.
type Config struct {
	// Base is where Bitbucket's REST API is, without the version: https://api.bitbucket.org. Plain http is accepted for
	// loopback hosts only.
	Base *url.URL
	// HTTPClient brings the transport; a plain one by default. Its redirect policy is replaced.
	HTTPClient *http.Client
	Now        func() time.Time // time.Now by default
	Logger     *slog.Logger     // discards by default
}

// Client makes the REST calls. It retries nothing: its faults say what a job should do. It may be used concurrently.
type Client struct {
	base   *url.URL
	http   *http.Client
	now    func() time.Time
	logger *slog.Logger
}

// Bounds of one call.
const (
	callTimeout  = 20 * time.Second
	maxAnswer    = 1 << 20
	maxRedirects = 3
)

// NewClient reports an Invalid fault for a Base that a token must not be sent to.
func NewClient(config Config) (*Client, error) {
	switch {
	case config.Base == nil || config.Base.Host == "":
		return nil, fault.Newf(fault.Invalid, "bitbucket's rest api: the base URL names no host")
	case config.Base.User != nil:
		return nil, fault.Newf(fault.Invalid, "bitbucket's rest api: the base URL must not hold credentials")
	case config.Base.Scheme != "https" && (config.Base.Scheme != "http" || !isLoopback(config.Base.Hostname())):
		return nil, fault.Newf(fault.Invalid, "bitbucket's rest api: %s is not https; plain http is for loopback hosts only", config.Base.Redacted())
	}
	client := &Client{base: config.Base, http: &http.Client{}, now: config.Now, logger: config.Logger}
	if config.HTTPClient != nil {
		*client.http = *config.HTTPClient
	}
	client.http.CheckRedirect = sameHost
	if client.now == nil {
		client.now = time.Now
	}
	if client.logger == nil {
		client.logger = slog.New(slog.DiscardHandler)
	}
	return client, nil
}

func isLoopback(host string) bool {
	address := net.ParseIP(host)
	return host == "localhost" || address != nil && address.IsLoopback()
}

// sameHost follows a renamed repository to its new place, and nothing else.
func sameHost(request *http.Request, via []*http.Request) error {
	first := via[0].URL
	if request.URL.Scheme != first.Scheme || request.URL.Host != first.Host || len(via) > maxRedirects {
		return http.ErrUseLastResponse
	}
	return nil
}

// Info is what Bitbucket says about a repository.
type Info struct {
	Repository Repository // by workspace and slug
	Size       int64      // bytes
	MainBranch string     // empty in a repository without commits
	// NearLimit says that Bitbucket's rate limit is near: further calls that can wait should.
	NearLimit bool `json:"-"`
}

// Resolve looks a repository up by its slugs or its UUIDs. It needs the scope read:repository:bitbucket.
func (c *Client) Resolve(ctx context.Context, token secret.Text, repository Repository) (Info, error) {
	call := call{
		operation: "look up repository " + repository.String(), scope: scopeReadRepository, subject: repository.String(),
		method: http.MethodGet, url: c.repositoryURL(repository),
		query: url.Values{"fields": {"full_name,size,mainbranch.name"}},
	}
	near := false
	call.nearLimit = &near
	var answer struct {
		FullName   string `json:"full_name"`
		Size       int64  `json:"size"`
		MainBranch *struct {
			Name string `json:"name"`
		} `json:"mainbranch"`
	}
	if err := c.do(ctx, token, call, &answer); err != nil {
		return Info{}, err
	}
	workspace, slug, _ := strings.Cut(answer.FullName, "/")
	info := Info{Repository: Repository{Workspace: workspace, Slug: slug}, Size: answer.Size, NearLimit: near}
	if err := info.Repository.Validate(); err != nil {
		return Info{}, fault.Wrapf(fault.Unavailable, err, "%s: bitbucket's answer has no usable full_name; try again", call.operation)
	}
	if answer.MainBranch != nil {
		info.MainBranch = answer.MainBranch.Name
	}
	return info, nil
}

// repositoryURL is the repository's address in the REST API, which takes UUIDs in place of slugs.
func (c *Client) repositoryURL(repository Repository) *url.URL {
	workspace, slug := repository.Workspace, repository.Slug
	if !repository.Resolved() {
		workspace, slug = repository.WorkspaceUUID, repository.RepositoryUUID
	}
	return c.base.JoinPath("2.0", "repositories", url.PathEscape(workspace), url.PathEscape(slug))
}

// call is one REST call with what its errors name.
type call struct {
	operation string // for public texts: a verb and its object
	scope     string
	subject   string // what is asked about, for the log
	thing     string // what it is; empty for a repository
	method    string
	url       *url.URL
	query     url.Values
	body      any
	nearLimit *bool // told where the rate limit is near; may be nil
}

// do makes the call and decodes the answer's JSON, or returns a classified error.
func (c *Client) do(ctx context.Context, token secret.Text, call call, answer any) error {
	limited, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := call.request(limited, token)
	if err != nil {
		return fault.Wrapf(fault.Internal, err, "%s: the request could not be made", call.operation)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return call.classifyTransport(ctx, err)
	}
	defer response.Body.Close() //nolint:errcheck // read to its end below
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if response.StatusCode/100 != 2 {
		return call.classifyAnswer(response, body, c.now())
	}
	if err != nil {
		return call.classifyTransport(ctx, err)
	}
	if strings.EqualFold(response.Header.Get("X-RateLimit-NearLimit"), "true") {
		if call.nearLimit != nil {
			*call.nearLimit = true
		}
		c.logger.WarnContext(ctx, "bitbucket's rate limit is near", slog.String("repository", call.subject),
			slog.String("limit", response.Header.Get("X-RateLimit-Limit")), slog.String("resource", response.Header.Get("X-RateLimit-Resource")))
	}
	if len(body) > maxAnswer {
		err = fmt.Errorf("over %d bytes", maxAnswer)
	} else {
		err = json.Unmarshal(body, answer)
	}
	if err != nil {
		return fault.Wrapf(fault.Unavailable, err, "%s: bitbucket's answer is not the JSON that was expected; try again", call.operation)
	}
	return nil
}

func (call call) request(ctx context.Context, token secret.Text) (*http.Request, error) {
	var body io.Reader
	if call.body != nil {
		encoded, err := json.Marshal(call.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(encoded)
	}
	target := *call.url
	if call.query != nil {
		target.RawQuery = call.query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, call.method, target.String(), body)
	if err != nil {
		return nil, err
	}
	if token.IsZero() {
		return nil, errors.New("no oauth token")
	}
	request.Header.Set("Authorization", "Bearer "+token.Reveal())
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", "gitsmith")
	if call.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	return request, nil
}
