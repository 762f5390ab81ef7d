package intake_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/forge/forgetest"
	"github.com/gitsmith/gitsmith/internal/installation"
	"github.com/gitsmith/gitsmith/internal/intake"
	"github.com/gitsmith/gitsmith/internal/vault"
)

// holds reports whether the two tokens of the system are these, the current one first.
func (h *house) holds(current, before string) bool {
	h.t.Helper()
	system := forge.Actor{Kind: forge.ActorSystem}
	first, err := h.tokens.Take(h.t.Context(), forgetest.Installation, system)
	if fault.KindOf(err) == fault.Unavailable {
		return false // Redis was started again a moment ago
	}
	second, secondErr := h.tokens.TakeOther(h.t.Context(), forgetest.Installation, system, first)
	return err == nil && secondErr == nil && first.Text.Reveal() == current && second.Text.Reveal() == before
}

// hour is when the tokens of these tests expire.
var hour = time.Now().Add(time.Hour)

// sameLife is a system token that expires at the same time as all others that it gives.
func (h *house) sameLife() string {
	return h.issuer.OAuthToken(forgetest.OAuthOptions{ExpiresAt: hour})
}

// TestLateToken: of tokens that expire at the same time the one that arrived last is current, although one that arrived before it is
// written after it, out of the spool of another receiver.
func TestLateToken(t *testing.T) {
	h := newHouse(t)
	older, newer, newest := h.sameLife(), h.sameLife(), h.sameLife()
	h.redis.Kill()
	p := h.start(unchanged)
	if taken := h.take(p, h.delivery("older", older)); !taken.Spooled {
		t.Fatalf("%+v", taken)
	}
	p.kill()
	h.redis.Restart()
	other := process{Intake: intake.New(h.config())}
	h.eventually("the other receiver reaches redis", func() bool {
		_, err := other.Take(t.Context(), h.delivery("newer", newer))
		return err == nil
	})
	p = h.start(unchanged)
	h.eventually("the spool is empty", func() bool { return h.pending() == 2 && !bytes.Contains(h.onDisk(), []byte("GSr1")) })
	if !h.holds(newer, older) {
		t.Error("a token out of the spool is current, although another arrived after it")
	}

	// The other way round the spool holds the one that arrived last.
	h.redis.Kill()
	if taken := h.take(p, h.delivery("newest", newest)); !taken.Spooled {
		t.Fatalf("%+v", taken)
	}
	h.redis.Restart()
	h.eventually("the token that arrived last is current", func() bool { return h.holds(newest, newer) })
}

// TestReplayedToken: what is done again after a failover comes with the time at which it arrived, too.
func TestReplayedToken(t *testing.T) {
	h := newHouse(t)
	p := h.remembering()
	older, newer := h.sameLife(), h.sameLife()
	h.take(p, h.delivery("older", older))
	config := h.config() // of another receiver, which shares nothing but Redis
	config.Tokens, config.Installations = vault.New(h.client, h.ring, vault.Options{}), installation.New(h.client, installation.Options{})
	h.take(process{Intake: intake.New(config)}, h.delivery("newer", newer))
	h.redis.Restart()
	h.eventually("the deliveries were done again", func() bool { return bytes.Contains([]byte(h.log.String()), []byte("were done again")) })
	h.eventually("the newer token is current", func() bool { return h.holds(newer, older) })
}
