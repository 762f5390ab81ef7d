package receiver

import (
	"slices"
	"strings"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
)

// admission decides whether a proven call may use a route at all, from the FIT alone: a FIT is bound to no path, so any user of the
// workspace can send his to any route.
type admission func(c *call) error

// admitCaller admits who may ask for work: a user through a module of the app's UI, and the app's own functions. Whoever calls, the
// system token that came along is not believed: a user's browser could have put it there.
func admitCaller(c *call) error {
	if !c.FromPlatform() && c.Principal() == "" {
		return c.refuse("", "module %.80q of type %.80q is a UI module, and the FIT names no user (principal); only calls of type %s may come without one",
			c.Module().Key, c.Module().Type, forge.ModuleEndpoint)
	}
	c.Invocation = c.WithoutSystemToken()
	return nil
}

// admitPlatform admits Forge's own deliveries, whether or not they name a user. keys pins the module keys, and setting is where they are set.
func admitPlatform(keys []string, setting string) admission {
	return func(c *call) error {
		module := c.Module()
		switch {
		case !c.FromPlatform():
			return c.refuse("", "this route is for Forge's own deliveries, which have the module type %s; module %.80q of type %.80q is a UI module and may use the routes under /v1",
				forge.ModuleEndpoint, module.Key, module.Type)
		case len(keys) > 0 && !slices.Contains(keys, module.Key):
			return c.refuse(setting, "module key %.80q may not call this route; %s names those that may: %.200s", module.Key, setting, strings.Join(keys, ", "))
		}
		return nil
	}
}

// refuse is a Denied fault, and lets the request's log line say so loudly: a refusal here is an attack, or a setting to change.
func (c *call) refuse(setting, format string, arguments ...any) error {
	c.log.refused, c.log.setting = true, setting
	return fault.Newf(fault.Denied, format, arguments...)
}

// sees reports whether the caller may know of work that requester asked for: a user of his own, the app of all.
func (c *call) sees(requester string) bool {
	return c.Principal() == "" || c.Principal() == requester
}

// actors are the actors as which the caller may ask for work.
func (c *call) actors() []forge.ActorKind {
	if c.Principal() != "" {
		return []forge.ActorKind{forge.ActorUser}
	}
	return []forge.ActorKind{forge.ActorSystem}
}
