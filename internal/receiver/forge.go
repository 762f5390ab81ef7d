package receiver

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/intake"
)

const (
	// forgeTime is what an answer to Forge's own calls may take: Forge waits 5 s, and delivers again what was not answered.
	forgeTime = 4 * time.Second
	// uninstallTime is longer: nobody delivers a removal again.
	uninstallTime = 20 * time.Second
)

// inTime ends a call of Forge's own before Forge gives it up: an answer that says to come again is worth more than none.
func inTime(limit time.Duration, next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx, cancel := context.WithTimeout(c.Request().Context(), limit)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		if c.Request().ContentLength != 0 {
			// Of the body. Without one the deadline would be of the next request. A reader without deadlines needs none.
			_ = http.NewResponseController(c.Response()).SetReadDeadline(time.Now().Add(limit))
		}
		return next(c)
	}
}

// schedule answers POST /forge/schedule: Forge's scheduled trigger, which brings a system token. It may repeat; so may this.
func (r *receiver) schedule(ctx context.Context, c *call) error {
	if err := own(c, r.Schedule, "GITSMITH_SCHEDULE_MODULES"); err != nil {
		return err
	}
	return r.done(ctx, c, intake.Delivery{Scheduled: true})
}

// lifecycle answers POST /forge/lifecycle: the app was installed or upgraded. Forge delivers it again until it is answered with
// 2xx; doing it twice changes nothing. Event types that are not known are taken too.
func (r *receiver) lifecycle(ctx context.Context, c *call) error {
	if err := own(c, r.Lifecycle, "GITSMITH_LIFECYCLE_MODULES"); err != nil {
		return err
	}
	happened, err := c.event()
	if err != nil {
		return err
	}
	outcome := "unwanted"
	installed := happened.Type == forge.EventInstalled || happened.Type == forge.EventUpgraded
	if installed {
		outcome = "taken"
	}
	r.Metrics.Event(happened.Type, outcome)
	return r.done(ctx, c, intake.Delivery{Installed: installed})
}

// uninstall answers POST /forge/uninstall: Forge is about to remove the app. Its tokens are deleted and its jobs canceled when this
// answers; the rest is erased later. Repeating it goes on where the first call broke off. A body is not read.
func (r *receiver) uninstall(ctx context.Context, c *call) error {
	if err := own(c, r.Uninstall, "GITSMITH_UNINSTALL_MODULES"); err != nil {
		return err
	}
	taken, err := r.Intake.Take(ctx, intake.Delivery{Invocation: c.Invocation, Removed: true})
	if err != nil {
		return err
	}
	if !taken.Spooled { // else it is done once Redis is back
		if err := r.Batches.CancelAll(ctx, c.Installation()); err != nil {
			return err
		}
		if _, err := r.Jobs.CancelAll(ctx, c.Installation()); err != nil {
			return err
		}
	}
	return c.JSON(http.StatusOK, struct{}{})
}

// done takes a delivery without jobs and answers that.
func (r *receiver) done(ctx context.Context, c *call, delivery intake.Delivery) error {
	delivery.Invocation = c.Invocation
	if _, err := r.Intake.Take(ctx, delivery); err != nil {
		return err
	}
	return c.JSON(http.StatusOK, struct{}{})
}

// event reads the event in the body.
func (c *call) event() (forge.Event, error) {
	body, err := c.body()
	if err != nil {
		return forge.Event{}, err
	}
	return forge.ParseEvent(body)
}

// own refuses what Forge itself would not send there: a FIT is not bound to a path, so any user of the app could call any.
func own(c *call, callers Callers, setting string) error {
	if c.Principal() != "" && !callers.Users {
		return fault.Newf(fault.Denied, "this route is Forge's own; a call by a user is refused, unless GITSMITH_ALLOW_PRINCIPAL lists the route")
	}
	module := c.Module()
	if !slices.Contains(callers.Modules, module.Type) && !slices.Contains(callers.Modules, module.Type+"/"+module.Key) {
		return fault.Newf(fault.Denied, "module %.80q of type %.80q may not call this route; %s lists those that may", module.Key, module.Type, setting)
	}
	return nil
}
