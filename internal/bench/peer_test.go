package bench

import (
	"context"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/hibiken/asynq"
	"github.com/labstack/echo/v4"
	"github.com/redis/go-redis/v9"
)

// peerVariable makes this program the receiver that a user would write himself: Echo, golang-jwt with a cached key set, and asynq's client
// that queues the body, nothing else. Its value is the app's id, the URL of the keys and that of Redis; the address is printed.
const peerVariable = "GITSMITH_BENCH_PEER"

func receiveAsPeer(text string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fields := strings.Fields(text)
	if len(fields) != 3 {
		return fmt.Errorf("%s: %q is not an app's id and two URLs", peerVariable, text)
	}
	keys, err := keySet(ctx, fields[1])
	if err != nil {
		return err
	}
	options, err := redis.ParseURL(fields[2])
	if err != nil {
		return err
	}
	client := asynq.NewClientFromRedisClient(redis.NewClient(options))
	e := echo.New()
	e.POST("/forge/events", peerHandler(client, jwt.NewParser(jwt.WithValidMethods([]string{"RS256"}), jwt.WithAudience(fields[0]), jwt.WithIssuer("forge/invocation-token"), jwt.WithExpirationRequired()),
		func(token *jwt.Token) (any, error) {
			id, _ := token.Header["kid"].(string)
			if key := keys[id]; key != nil {
				return key, nil
			}
			return nil, errors.New("no such key")
		}))
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: e}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Fprintln(os.Stdout, listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func peerHandler(client *asynq.Client, parser *jwt.Parser, key jwt.Keyfunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		text, found := strings.CutPrefix(c.Request().Header.Get(echo.HeaderAuthorization), "Bearer ")
		if !found {
			return c.NoContent(http.StatusUnauthorized)
		}
		if _, err := parser.Parse(text, key); err != nil {
			return c.NoContent(http.StatusUnauthorized)
		}
		body, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return err
		}
		info, err := client.EnqueueContext(c.Request().Context(), asynq.NewTask("event", body))
		if err != nil {
			return err
		}
		return c.JSON(http.StatusAccepted, map[string]string{"id": info.ID})
	}
}

// keySet reads the keys once, by their ids.
func keySet(ctx context.Context, url string) (map[string]*rsa.PublicKey, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var set struct {
		Keys []struct{ Kid, N, E string }
	}
	if err := json.NewDecoder(response.Body).Decode(&set); err != nil {
		return nil, err
	}
	keys := map[string]*rsa.PublicKey{}
	for _, each := range set.Keys {
		n, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(each.N, "="))
		if err != nil {
			return nil, err
		}
		e, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(each.E, "="))
		if err != nil {
			return nil, err
		}
		keys[each.Kid] = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
	}
	return keys, nil
}
