package dispatch

import (
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/ledger"
)

// TestTrust: a lease is judged only when Redis has been there for as long as a lease lives, without a break and as one and the same.
func TestTrust(t *testing.T) {
	t.Parallel()
	start := time.Unix(1_800_000_000, 0)
	for name, tc := range map[string]struct {
		then            func(trust *trust, at time.Time) // after a minute of quiet
		judges, recount bool
	}{
		"nothing":                {func(*trust, time.Time) {}, true, false},
		"the same again":         {func(trust *trust, at time.Time) { trust.heard("a", at) }, true, false},
		"no answer":              {func(trust *trust, _ time.Time) { trust.lost() }, false, false},
		"it is back":             {func(trust *trust, at time.Time) { trust.lost(); trust.heard("a", at) }, false, true},
		"it is back for long":    {func(trust *trust, at time.Time) { trust.lost(); quiet(trust, "a", at.Add(-ledger.LeaseLife), at) }, true, true},
		"another one answers":    {func(trust *trust, at time.Time) { trust.heard("b", at) }, false, true},
		"this process stood":     {func(trust *trust, at time.Time) { trust.heard("a", at.Add(time.Minute)) }, false, true},
		"its keys were counted":  {func(trust *trust, at time.Time) { trust.heard("b", at); trust.counted() }, false, false},
		"it says less than once": {func(trust *trust, at time.Time) { trust.heard("", at) }, false, true},
	} {
		var trust trust
		if trust.judges(start) {
			t.Errorf("%s: it judges before Redis was heard", name)
		}
		if trust.heard("a", start); trust.judges(start) || trust.recount {
			t.Errorf("%s: a process that has just begun: %+v", name, trust)
		}
		end := start.Add(time.Minute)
		quiet(&trust, "a", start, end)
		tc.then(&trust, end)
		if trust.judges(end) != tc.judges || trust.recount != tc.recount {
			t.Errorf("%s: judges is %t, recount %t", name, trust.judges(end), trust.recount)
		}
	}
}

// quiet hears Redis as often as a dispatcher does.
func quiet(trust *trust, instance string, from, until time.Time) {
	for at := from; !at.After(until); at = at.Add(leasePause) {
		trust.heard(instance, at)
	}
}
