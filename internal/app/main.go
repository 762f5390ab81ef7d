package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/gitsmith/gitsmith/internal/recipe"
)

// Version is set by the linker in a release: -ldflags "-X github.com/gitsmith/gitsmith/internal/app.Version=1.2.3".
var Version = "dev"

// Program is one of the binaries.
type Program struct {
	Name string
	// Help writes every setting with its default.
	Help func(io.Writer) error
	// OpsAddr is where the private listener is, by the settings in environ.
	OpsAddr func(environ []string) (string, error)
	// Run serves until ctx ends, by the settings in environ; logs go to log.
	Run func(ctx context.Context, environ []string, log io.Writer) error
}

// Main runs a program by its arguments and returns its exit status: 0, 1 for a failure, 2 for a wrong call. SIGINT and SIGTERM
// stop it softly, a second one at once.
func Main(program Program, args, environ []string, stdout, stderr io.Writer) int {
	if recipe.Trampoline(args) {
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal is the runtime's: it ends the process

	err := errUsage
	if len(args) > 0 && args[0] == "rules" {
		err = rulesCommand(program.Name, args[1:], environ, stdout, stderr)
		if errors.Is(err, errRulesUsage) {
			return 2
		}
	}
	switch strings.Join(args, " ") {
	case "":
		err = program.Run(ctx, environ, stderr)
	case "-h", "-help", "--help":
		fmt.Fprintf(stdout, "%s serves until it is stopped; it is set by the environment or by a YAML file.\n\n", program.Name)
		err = program.Help(stdout)
	case "--version":
		fmt.Fprintf(stdout, "%s %s\n", program.Name, Version)
		err = nil
	case "--check-ready":
		err = checkReady(ctx, program, environ, stdout)
	}
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "usage: %s [--help | --version | --check-ready | rules …]\n", program.Name)
		return 2
	}
	fmt.Fprintf(stderr, "%s: %v\n", program.Name, err)
	return 1
}

var errUsage = errors.New("wrong arguments")

// checkReady asks the running program's private listener whether it is ready: a health check for images that hold no shell.
func checkReady(ctx context.Context, program Program, environ []string, stdout io.Writer) error {
	address, err := program.OpsAddr(environ)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(address)+"/readyz", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }() // it was read; nothing is lost
	if _, err := io.Copy(stdout, io.LimitReader(response.Body, 64<<10)); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: status %d", response.StatusCode)
	}
	return nil
}

// loopback is a listener's address as it is reached from the same host.
func loopback(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
