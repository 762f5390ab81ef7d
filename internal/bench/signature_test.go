package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/gitsmith/gitsmith/internal/forge"
)

// signatureVariable makes this program the least that a receiver can be: it verifies the FIT of each request, reads the body and
// answers. Its value is the app's id and the URL of the keys; the address is printed.
const signatureVariable = "GITSMITH_BENCH_SIGNATURE"

func verifyAlone(text string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	app, keys, _ := strings.Cut(text, " ")
	verifier, err := forge.NewVerifier(forge.VerifierConfig{AppIDs: []string{app}, JWKSURL: keys})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if _, err := verifier.Verify(request.Context(), request.Header); err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		_, _ = io.Copy(io.Discard, request.Body) // the answer says nothing of it
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"outcome":"verified"}`)
	})}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Fprintln(os.Stdout, listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
