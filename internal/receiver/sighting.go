package receiver

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

// sighting is one kind of proven call, as Forge sends it: what is not documented, or differs from what is, shows here first.
type sighting struct {
	route        string
	module       forge.Module
	place        string // where the body had the eventType
	principal    bool
	system, user bool // tokens came along
	refused      bool
}

const maxSightings = 256

// sightings are the kinds that were logged. The zero value is ready.
type sightings struct {
	mutex sync.Mutex
	seen  map[sighting]bool
}

// first reports whether a kind was not seen before. At most 256 kinds are remembered, and none beyond them is first.
func (s *sightings) first(kind sighting) bool {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.seen[kind] || len(s.seen) >= maxSightings {
		return false
	}
	if s.seen == nil {
		s.seen = map[sighting]bool{}
	}
	s.seen[kind] = true
	return true
}

// sight logs what a call looks like, once for each kind and process: names, lengths and lives, no content.
func (r *receiver) sight(ctx context.Context, c *call) {
	header := c.Request().Header
	system, user := header.Get(forge.HeaderSystemToken), header.Get(forge.HeaderUserToken)
	module := c.Module()
	const longest = 80
	module.Type, module.Key = module.Type[:min(len(module.Type), longest)], module.Key[:min(len(module.Key), longest)]
	kind := sighting{
		route: c.Path(), module: module, place: c.log.place, principal: c.Principal() != "", system: system != "", user: user != "", refused: c.log.refused,
	}
	if !r.sightings.first(kind) {
		return
	}
	r.Logger.LogAttrs(ctx, slog.LevelInfo, "first call of its kind",
		slog.String(telemetry.KeyRoute, kind.route), slog.String(telemetry.KeyModuleType, module.Type), slog.String(telemetry.KeyModuleKey, module.Key),
		slog.Bool(telemetry.KeyPrincipal, kind.principal), slog.String(telemetry.KeyEventTypeAt, kind.place), slog.Bool(telemetry.KeyRefused, kind.refused),
		slog.String(telemetry.KeySystemToken, r.tokenShape(system)), slog.String(telemetry.KeyUserToken, r.tokenShape(user)),
		slog.String(telemetry.KeyFITLife, c.Life().String()), slog.Int(telemetry.KeyFITBytes, len(header.Get("Authorization"))),
		slog.Int(telemetry.KeyForgeKeys, c.KeySetSize()), slog.Int64(telemetry.KeyBody, max(c.Request().ContentLength, 0)),
	)
}

// tokenShape is what a token looks like from outside.
func (r *receiver) tokenShape(token string) string {
	if token == "" {
		return "absent"
	}
	expiry, readable := forge.ExpiryOf(token)
	if !readable {
		return fmt.Sprintf("%d bytes, exp unreadable", len(token))
	}
	return fmt.Sprintf("%d bytes, %s left", len(token), expiry.Sub(r.Now()).Round(time.Second))
}
