// Command worker does the queued jobs: it clones and pushes.
package main

import (
	"os"

	"github.com/gitsmith/gitsmith/internal/app"
)

func main() {
	os.Exit(app.Main(app.Worker(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
