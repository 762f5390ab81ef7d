// Package recipe runs commands that the operator registered by name. A caller names one and gives parameters; he never gives
// a command, and no shell is in between. The command runs in a folder of files, apart from the worker as far as the kernel
// allows: see docs/recipes.md for what that holds off and what not.
package recipe

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gitsmith/gitsmith/internal/fault"
)

// maxValue is how long a parameter may be, in bytes.
const maxValue = 1_024

// Book is the recipes of a file. A nil one has none. It may be used concurrently.
type Book struct {
	recipes     map[string]*recipe
	confinement confinement
}

type recipe struct {
	name       string
	argv       []string
	program    string // where argv[0] is
	parameters map[string]*parameter
	timeout    time.Duration
	memory     int64 // bytes of address space of one process
	output     int64 // bytes of changed files
	network    network
	env        map[string]string
	showOutput bool
}

type parameter struct {
	pattern  *regexp.Regexp
	fallback *string
	required bool
}

// network is whether a recipe has one.
type network uint8

const (
	networkAvoided   network = iota // off where the kernel allows
	networkForbidden                // off, or the recipe is not taken
	networkAllowed
)

// confinement is what keeps commands apart from the worker and its host.
type confinement struct {
	namespaces bool // of users, processes and IPC, and of the network where that is to be off
	users      bool // the worker lacks the privilege to make them without one of users
}

// Len is how many recipes there are.
func (b *Book) Len() int {
	if b == nil {
		return 0
	}
	return len(b.recipes)
}

// Confinement says for the log what keeps commands apart.
func (b *Book) Confinement() string {
	switch {
	case b.Len() == 0:
		return "none is needed"
	case b.confinement.namespaces:
		return "namespaces of their own and limits; no network unless a recipe says so"
	}
	return "limits alone, for the kernel or the container refuses namespaces: commands have the network, and what calls setsid outlives its recipe"
}

// Check finds what is wrong with a call of the recipe name. The error is an Invalid fault. A nil book knows none.
func (b *Book) Check(name string, parameters map[string]string) error {
	_, err := b.find(name, parameters)
	return err
}

func (b *Book) find(name string, parameters map[string]string) (*recipe, error) {
	if b.Len() == 0 {
		return nil, fault.Newf(fault.Invalid, "recipe: there are none here; the operator registers them in a file that GITSMITH_RECIPES names to the workers")
	}
	found := b.recipes[name]
	if found == nil {
		return nil, fault.Newf(fault.Invalid, "recipe: %.64q is not known; there are %s", name, strings.Join(slices.Sorted(maps.Keys(b.recipes)), ", "))
	}
	return found, found.check(parameters)
}

func (r *recipe) check(parameters map[string]string) error {
	known := slices.Sorted(maps.Keys(r.parameters))
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		value, parameter := parameters[name], r.parameters[name]
		switch {
		case parameter == nil && len(known) == 0:
			return fault.Newf(fault.Invalid, "recipe %s: it takes no parameters, and so no %.40q", r.name, name)
		case parameter == nil:
			return fault.Newf(fault.Invalid, "recipe %s: it has no parameter %.40q; there are %s", r.name, name, strings.Join(known, ", "))
		case len(value) > maxValue:
			return fault.Newf(fault.Invalid, "recipe %s: parameter %s has %d bytes, at most %d are taken", r.name, name, len(value), maxValue)
		case strings.IndexByte(value, 0) >= 0 || !parameter.pattern.MatchString(value):
			return fault.Newf(fault.Invalid, "recipe %s: parameter %s must match %.200s as a whole", r.name, name, parameter.pattern)
		}
	}
	for _, name := range known {
		if _, given := parameters[name]; r.parameters[name].required && !given {
			return fault.Newf(fault.Invalid, "recipe %s: parameter %s is required", r.name, name)
		}
	}
	return nil
}

// environment is all that the command is told, in no order.
func (r *recipe) environment(parameters map[string]string, path, home, temp string) []string {
	variables := map[string]string{"PATH": path, "LANG": "C.UTF-8"}
	maps.Copy(variables, r.env)
	variables["HOME"], variables["TMPDIR"] = home, temp
	for name, parameter := range r.parameters {
		value, given := parameters[name]
		if !given && parameter.fallback != nil {
			value, given = *parameter.fallback, true
		}
		if given {
			variables[variablePrefix+strings.ToUpper(name)] = value
		}
	}
	var list []string
	for name, value := range variables {
		list = append(list, name+"="+value)
	}
	return list
}

// variablePrefix begins the names of the variables that hold parameters.
const variablePrefix = "RECIPE_"
