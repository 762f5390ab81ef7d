package dispatch

import (
	"context"
	"errors"

	"github.com/gitsmith/gitsmith/internal/bitbucket"
	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
)

// list fetches one page with the actor's token and, if Bitbucket rejects that, once more with the actor's other one. It marks neither: the
// batch's first job finds out which of them is bad.
func (d *Driver) list(ctx context.Context, installation string, actor forge.Actor, spec bitbucket.ListSpec) (bitbucket.ListPage, error) {
	token, err := d.Tokens.Take(ctx, installation, actor)
	if err != nil {
		return bitbucket.ListPage{}, err
	}
	page, err := d.Lister.List(ctx, token.Text, spec)
	if !errors.Is(err, fault.ErrTokenRefused) {
		return page, err
	}
	other, otherErr := d.Tokens.TakeOther(ctx, installation, actor, token)
	switch {
	case otherErr == nil:
		return d.Lister.List(ctx, other.Text, spec)
	case fault.KindOf(otherErr) != fault.Expired:
		return page, otherErr // there may be another token; the driver's next round asks again
	}
	return page, err
}
