package dispatch

import (
	"time"

	"github.com/gitsmith/gitsmith/internal/ledger"
)

// trust is for how long Redis has been there without a break, as one and the same. While it was away no worker could renew its lease, and a
// replica that has become the master may not have heard of the last renewals: for the length of a lease none is judged then.
type trust struct {
	instance string
	since    time.Time // of the unbroken time; zero while there is none
	last     time.Time // when Redis was last heard
	recount  bool      // keys may be lost, and are to be looked through by whoever leads
}

// maxSilence is the longest time between two words of Redis that is no break: a process that stood still is none the wiser than one that
// lost its connection.
const maxSilence = 3 * leasePause

// heard notes that Redis has answered.
func (t *trust) heard(instance string, now time.Time) {
	if t.since.IsZero() || now.Sub(t.last) > maxSilence || instance != t.instance {
		t.recount = t.recount || !t.last.IsZero()
		t.since = now
	}
	t.instance, t.last = instance, now
}

// lost notes that Redis has not answered.
func (t *trust) lost() { t.since = time.Time{} }

// counted notes that its keys were looked through.
func (t *trust) counted() { t.recount = false }

// judges reports whether leases may be judged.
func (t *trust) judges(now time.Time) bool {
	return !t.since.IsZero() && now.Sub(t.since) >= ledger.LeaseLife
}
