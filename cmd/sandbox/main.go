// Command sandbox is Gitsmith in one process with nothing to install but Go and git: stand-ins for Forge, Bitbucket and
// Redis, and the real receiver and worker, wired by the functions that cmd/api and cmd/worker use. It walks through the
// product, then serves until Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "sandbox:", err)
		}
		os.Exit(1)
	}
}

// run starts everything, walks, serves unless told --once, and takes everything down again.
func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("sandbox", flag.ContinueOnError)
	flags.SetOutput(out)
	once := flags.Bool("once", false, "exit after the walk; status 0 only if every step held")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("no argument is expected, not %q; see --help", flags.Arg(0))
	}
	if _, err := exec.LookPath("git"); err != nil {
		return errors.New("the stand-in for Bitbucket needs git; install it (Debian: apt-get install git)")
	}
	sandbox, err := start(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sandbox.stop()) }()

	if !sandbox.walk(ctx, out) {
		return errors.New("a step did not hold; the lines of the receiver and worker about it are in " + sandbox.keepLog())
	}
	if *once {
		return nil
	}
	sandbox.printAddresses(out)
	select {
	case <-ctx.Done():
		return nil
	case err := <-sandbox.failed:
		return err
	}
}
