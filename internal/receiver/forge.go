package receiver

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/intake"
)

const (
	// forgeTime is what an answer to Forge's own calls may take: Forge waits 5 s, and delivers again what was not answered.
	forgeTime = 4 * time.Second
	// uninstallTime is longer: Forge does not repeat a removal, whatever the answer is, and gives up waiting after 5 s (its limits page)
	// or 55 s (the page on preUninstall).
	uninstallTime = 55 * time.Second
)

// detached bounds a call that must be completed even if its caller hangs up.
func detached(limit time.Duration, next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.Request().Context()), limit)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
		return next(c)
	}
}

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
	return r.done(ctx, c, intake.Delivery{Scheduled: true})
}

// lifecycle answers POST /forge/lifecycle: the app was installed or upgraded. Forge delivers it again until it is answered with
// 2xx; doing it twice changes nothing. Event types that are not known are taken too.
func (r *receiver) lifecycle(ctx context.Context, c *call) error {
	happened, err := c.event()
	if err != nil {
		return err
	}
	outcome := "unwanted"
	installed := happened.Type == forge.EventInstalled || happened.Type == forge.EventUpgraded
	if installed {
		outcome = "taken"
	}
	c.log.event, c.log.place, c.log.outcome = happened.Type, happened.Place, outcome
	r.Metrics.Event(happened.Type, outcome)
	return r.done(ctx, c, intake.Delivery{Installed: installed})
}

// uninstall answers POST /forge/uninstall: Forge is about to remove the app. Its tokens are deleted and its jobs canceled when this
// answers; the rest is erased later. Repeating it resumes where the first call broke off. A body is not read.
func (r *receiver) uninstall(ctx context.Context, c *call) error {
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
