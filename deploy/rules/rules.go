// Package rules holds the example rules, for programs that show them.
package rules

import "embed"

// Files are the examples, each a whole file of rules.
//
//go:embed *.yml
var Files embed.FS
