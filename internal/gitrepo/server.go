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
	Agent    bool `json:"agent,omitempty"` // clients may say what they are

	// Receive is nil until git-receive-pack itself has advertised it. Its JSON name changed from "receive", because older versions
	// stored upload-pack's capabilities under that name in tip caches.
	Receive *receiver `json:"receive_pack,omitempty"`
}

// receiver holds those of git-receive-pack's own capabilities that a push uses. Receive-pack has no protocol version 2.
type receiver struct {
	Report   bool `json:"report,omitempty"`   // report-status: it reports the outcome for each ref
	Sideband bool `json:"sideband,omitempty"` // side-band-64k: the report comes multiplexed with messages for people
	Quiet    bool `json:"quiet,omitempty"`    // it can leave out progress messages
	Format   bool `json:"format,omitempty"`   // it accepts object-format=sha1
	Agent    bool `json:"agent,omitempty"`
}

// sha256 is the refusal of a repository whose objects have other names.
func sha256Refused() error {
	return fault.Newf(fault.Invalid, "the repository's objects are named by SHA-256; only SHA-1 repositories can be read, as Bitbucket's are")
}

// parseV0 reads what git-upload-pack advertises by version 0 (gitprotocol-capabilities(5)). head is where HEAD points.
func parseV0(capabilities string) (s server, head string, err error) {
	var detailed, noDone, tips, reachable bool
	for word := range strings.FieldsSeq(capabilities) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "object-format":
			if value != "sha1" {
				return s, "", sha256Refused()
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
			s.Sideband = true
		case "ofs-delta":
			s.OfsDelta = true
		case "no-progress":
			s.Quiet = true
		case "agent":
			s.Agent = true
		case "multi_ack_detailed":
			detailed = true
		case "no-done":
			noDone = true
		}
	}
	s.Ready = detailed && noDone
	s.ByHash = tips && reachable // a server that allows any object says both; one that means less refuses, and is taken at its word then
	return s, head, nil
}

// parseReceiver reads what git-receive-pack advertises.
func parseReceiver(capabilities string) (r receiver, err error) {
	for word := range strings.FieldsSeq(capabilities) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "object-format":
			if value != "sha1" {
				return r, sha256Refused()
			}
			r.Format = true
		case "report-status":
			r.Report = true
		case "side-band-64k":
			r.Sideband = true
		case "quiet":
			r.Quiet = true
		case "agent":
			r.Agent = true
		}
	}
	return r, nil
}

// capabilities returns what a push asks for: everything it can use that the server advertised.
func (r receiver) capabilities() string {
	var chosen strings.Builder
	for _, capability := range []struct {
		text string
		has  bool
	}{
		{"report-status", r.Report}, {"side-band-64k", r.Sideband}, {"quiet", r.Quiet}, {"object-format=sha1", r.Format}, {"agent=" + userAgent, r.Agent},
	} {
		if capability.has {
			chosen.WriteString(" " + capability.text)
		}
	}
	return chosen.String()
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
	case "agent":
		s.Agent = true
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
