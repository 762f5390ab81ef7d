package receiver

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
)

// forgeTime is what an answer to Forge's own calls may take: Forge waits 5 s, and delivers again what was not answered.
const forgeTime = 4 * time.Second

// inTime ends a call of Forge's own before Forge gives it up: an answer that says to come again is worth more than none.
func inTime(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx, cancel := context.WithTimeout(c.Request().Context(), forgeTime)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		if c.Request().ContentLength != 0 {
			// Of the body. Without one the deadline would be of the next request. A reader without deadlines needs none.
			_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Now().Add(forgeTime))
		}
		return next(c)
	}
}

// schedule answers POST /forge/schedule: Forge's scheduled trigger, which brings a system token. It may repeat; so may this.
func (r *receiver) schedule(ctx context.Context, c *call) error {
	if err := own(c, r.ScheduleModules, "GITSMITH_SCHEDULE_MODULES"); err != nil {
		return err
	}
	if _, err := r.Jobs.Wake(ctx, c.Installation()); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, struct{}{})
}

// lifecycle answers POST /forge/lifecycle: the app was installed or upgraded. Forge delivers it again until it is answered with
// 2xx; doing it twice changes nothing. Event types that are not known are taken too.
func (r *receiver) lifecycle(ctx context.Context, c *call) error {
	if err := own(c, r.LifecycleModules, "GITSMITH_LIFECYCLE_MODULES"); err != nil {
		return err
	}
	body, err := c.body()
	if err != nil {
		return err
	}
	happened, err := forge.ParseEvent(body)
	if err != nil {
		return err
	}
	if happened.Type == forge.EventInstalled {
		if err := r.Tokens.MarkInstalled(ctx, c.Installation()); err != nil {
			return err
		}
	}
	return c.JSON(http.StatusOK, struct{}{})
}

// own refuses what Forge itself would not send there: a FIT is not bound to a path, so any user of the app could call any.
func own(c *call, modules []string, setting string) error {
	if c.Principal() != "" {
		return fault.Newf(fault.Denied, "this route is Forge's own; a call by a user is refused")
	}
	module := c.Module()
	if !slices.Contains(modules, module.Type) && !slices.Contains(modules, module.Type+"/"+module.Key) {
		return fault.Newf(fault.Denied, "module %.80q of type %.80q may not call this route; %s lists those that may", module.Key, module.Type, setting)
	}
	return nil
}
