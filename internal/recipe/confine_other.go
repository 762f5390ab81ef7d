//go:build !linux

package recipe

import (
	"context"
	"errors"
	"io/fs"
)

// Trampoline does nothing here: recipes need Linux.
func Trampoline([]string) (started bool) { return false }

func probe() (confinement, error) { return confinement{}, errors.New("recipes need Linux") }

func (r *run) do(context.Context) error { return r.recipe.cannot(errors.New("recipes need Linux")) }

func stampOf(info fs.FileInfo) stamp { return stamp{size: info.Size()} }
