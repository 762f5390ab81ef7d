package gitrepo

import (
	"strings"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// server is what a repository's server can do, as it said. It is remembered, so that the next visit can do without asking.
type server struct {
	V2       bool `json:"v2,omitempty"`       // protocol version 2 (gitprotocol-v2(5))
	Shallow  bool `json:"shallow,omitempty"`  // history can be cut off
	Filter   bool `json:"filter,omitempty"`   // objects can be left out (gitpartial-clone)
	ByHash   bool `json:"by_hash,omitempty"`  // any object may be asked for by its hash
	Ready    bool `json:"ready,omitempty"`    // it says when what it has in common is enough, and goes on without another request
	Unborn   bool `json:"unborn,omitempty"`   // version 2 lists a HEAD that points to no branch yet
	Format   bool `json:"format,omitempty"`   // version 2 wants to be told the object format
	Sideband bool `json:"sideband,omitempty"` // version 0: packs come multiplexed; version 2 always does that
	OfsDelta bool `json:"ofs_delta,omitempty"`
	Quiet    bool `json:"quiet,omitempty"` // version 0: no-progress

	Receive *receiver `json:"receive,omitempty"` // nil: not known yet
}

// receiver is what git-receive-pack can do.
type receiver struct {
	Report   bool `json:"report,omitempty"`
	Sideband bool `json:"sideband,omitempty"`
}

// sha256 is the refusal of a repository whose objects have other names.
func sha256Refused() error {
	return fault.Newf(fault.Invalid, "the repository's objects are named by SHA-256; only SHA-1 repositories can be read, as Bitbucket's are")
}

// parseV0 reads the capabilities of an advertisement, version 0 (gitprotocol-capabilities(5)). head is where HEAD points.
func parseV0(capabilities string) (s server, r receiver, head string, err error) {
	var detailed, noDone, tips, reachable bool
	for word := range strings.FieldsSeq(capabilities) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "object-format":
			if value != "sha1" {
				return s, r, "", sha256Refused()
			}
		case "symref":
			if target, found := strings.CutPrefix(value, "HEAD:"); found {
				head = target
			}
		case "shallow":
			s.Shallow = true
		case "filter":
			s.Filter = true
		case "allow-tip-sha1-in-want":
			tips = true
		case "allow-reachable-sha1-in-want":
			reachable = true
		case "side-band-64k":
			s.Sideband, r.Sideband = true, true
		case "ofs-delta":
			s.OfsDelta = true
		case "no-progress":
			s.Quiet = true
		case "multi_ack_detailed":
			detailed = true
		case "no-done":
			noDone = true
		case "report-status":
			r.Report = true
		}
	}
	s.Ready = detailed && noDone
	s.ByHash = tips && reachable // a server that allows any object says both; one that means less refuses, and is taken at its word then
	return s, r, head, nil
}

// addV2 takes one line of a version 2 advertisement: "fetch=shallow filter".
func (s *server) addV2(line string) error {
	name, value, _ := strings.Cut(line, "=")
	switch name {
	case "object-format":
		if value != "sha1" {
			return sha256Refused()
		}
		s.Format = true
	case "ls-refs":
		s.Unborn = hasWord(value, "unborn")
	case "fetch":
		s.Shallow, s.Filter = hasWord(value, "shallow"), hasWord(value, "filter")
	}
	return nil
}

// newV2 is a version 2 server before its capabilities are read: these come with the version.
func newV2() server {
	return server{V2: true, ByHash: true, Ready: true, Sideband: true, OfsDelta: true}
}

func hasWord(text, word string) bool {
	for found := range strings.FieldsSeq(text) {
		if found == word {
			return true
		}
	}
	return false
}

// known gives what is remembered of a repository's server or, where it was never met, of the last one's: behind one address
// they mostly are alike, and one that is not is noticed. It is nil where nothing is remembered.
func (c *Client) known(remote Remote) *server {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, met := c.servers[remote.Repository.String()]
	if !met {
		s = c.last
	}
	if s == nil {
		return nil
	}
	known := *s
	return &known
}

const maxServers = 10_000 // that are remembered

func (c *Client) remember(remote Remote, s server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := remote.Repository.String()
	if old := c.servers[name]; old != nil && s.Receive == nil {
		s.Receive = old.Receive
	}
	if len(c.servers) >= maxServers {
		clear(c.servers)
	}
	c.servers[name] = &s
}

// learn remembers what a server has just said of itself.
func (c *Client) learn(remote Remote, s server) {
	c.remember(remote, s)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.Receive == nil && c.last != nil {
		s.Receive = c.last.Receive
	}
	c.last = &s
}

// recall remembers what was noted of a server long ago, unless something was learnt of it since.
func (c *Client) recall(remote Remote, s server) {
	c.mu.Lock()
	_, learnt := c.servers[remote.Repository.String()]
	c.mu.Unlock()
	if !learnt {
		c.remember(remote, s)
	}
}

// forget makes the next visit ask again what the server can do.
func (c *Client) forget(remote Remote) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers[remote.Repository.String()] = nil
}
