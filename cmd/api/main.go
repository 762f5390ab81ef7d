// Command api is the receiver: it verifies what Forge sends and queues the work.
package main

import (
	"os"

	"github.com/gitsmith/gitsmith/internal/app"
)

func main() {
	os.Exit(app.Main(app.API(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
