// Package gitrepo is git over HTTPS without a worktree: it reads a ref's tip, builds the objects of one commit, pushes them, and
// writes archives. It stands on go-git's packages below its porcelain (pkt-line, protocol, packfile, objects) and speaks
// HTTP itself, so that every status, header and byte is seen here.
//
// This is the one package that classifies what git servers answer: see classify.go.
package gitrepo

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/tipcache"
)

// Config is what a [Client] is made of. Base and TempDir are required.
type Config struct {
	Base          *url.URL      // such as https://bitbucket.org; plain http only within this machine
	TempDir       string        // packs that do not fit in memory; the client's own
	MemoryLimit   int64         // bytes of a pack that are kept in memory; default 1 MiB
	MaxRepository int64         // bytes that a fetch may bring; default 4 GiB
	IdleTimeout   time.Duration // without a byte from the server; default 60 s
	Transport     http.RoundTripper
	CacheDir      string         // where the tips of repositories are kept between jobs; empty: nowhere
	CacheSize     int64          // bytes of it; default 1 GiB
	Observe       func(Transfer) // after each request, concurrently; may be nil
	ObserveRead   func(Way)      // after each Fetch that read a tip, concurrently; may be nil
	CacheFailed   func(error)    // something could not be cached, which costs time alone; may be nil
}

// Transfer is one request that was answered, or not (Status 0).
type Transfer struct {
	Phase          Phase
	Status         int
	Sent, Received int64 // bytes of the bodies
}

// Remote is a repository with the token that opens it.
type Remote struct {
	Repository bitbucket.Repository
	Token      secret.Text
	// Installation parts what is kept between jobs: what one reads, no other gets. Empty, nothing is kept.
	Installation string
}

// Client reads and writes repositories at one server. It may be used concurrently.
type Client struct {
	config  Config
	http    *http.Client
	scratch *scratch
	cache   *tipcache.Cache // nil where there is none
	fills   fills

	mu      sync.Mutex
	servers map[string]*server // what is remembered of them, by repository; nil: only that it was wrong
	last    *server            // the one that something was learnt of last
}

// New makes a client and removes what dead processes left below TempDir.
func New(config Config) (*Client, error) {
	switch {
	case config.Base == nil || config.Base.Host == "" || config.Base.User != nil:
		return nil, errors.New("gitrepo: the base must be a URL without credentials")
	case config.Base.Scheme != "https" && (config.Base.Scheme != "http" || !isLoopback(config.Base.Hostname())):
		return nil, fmt.Errorf("gitrepo: %s is neither https nor on this machine; a token would travel in clear", config.Base)
	}
	orDefault(&config.MemoryLimit, 1<<20)
	orDefault(&config.MaxRepository, 4<<30)
	orDefault(&config.CacheSize, 1<<30)
	if config.IdleTimeout <= 0 {
		config.IdleTimeout = time.Minute
	}
	if config.Transport == nil {
		config.Transport = newTransport(config.IdleTimeout)
	}
	var cache *tipcache.Cache
	if config.CacheDir != "" {
		var err error
		if cache, err = tipcache.Open(config.CacheDir, config.CacheSize); err != nil {
			return nil, fmt.Errorf("gitrepo: %w", err)
		}
	}
	scratch, err := openScratch(config.TempDir)
	if err != nil {
		return nil, err
	}
	return &Client{
		config:  config,
		scratch: scratch,
		cache:   cache,
		servers: map[string]*server{},
		http: &http.Client{
			Transport:     config.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// TempFolder is the client's part of TempDir. What others put there is removed with it: by Close or, where the process is killed, by
// the next client to start.
func (c *Client) TempFolder() string { return c.scratch.folder }

// Close ends what still arrives for the tip cache, and gives back connections and the client's part of TempDir. Snapshots must be closed before.
func (c *Client) Close() error {
	c.fills.end()
	c.http.CloseIdleConnections()
	return c.scratch.close()
}

// Forget removes what is kept of an installation's repositories between jobs.
func (c *Client) Forget(installation string) error {
	if c.cache == nil {
		return nil
	}
	return c.cache.Forget(installation)
}

func newTransport(idle time.Duration) *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		ForceAttemptHTTP2:     true,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: idle,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConnsPerHost:   16,
	}
}

func orDefault(value *int64, other int64) {
	if *value <= 0 {
		*value = other
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// operation is what a fault's text and a metric call the work that a request belongs to.
type operation struct {
	verb       string // "read", "push to"
	scope      string // that the work needs
	repository bitbucket.Repository
	branch     string
}

func reading(remote Remote) operation {
	return operation{verb: "read", scope: "read:repository:bitbucket", repository: remote.Repository}
}

func pushing(remote Remote, branch string) operation {
	return operation{verb: "push to", scope: "write:repository:bitbucket", repository: remote.Repository, branch: branch}
}

func (o operation) String() string { return o.verb + " " + o.repository.String() }
