package ops

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path"
	"regexp"
	"strings"

	"github.com/hibiken/asynqmon"
	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/secret"
	"github.com/gitsmith/gitsmith/internal/telemetry"
)

const dashboardRoot = "/dashboard"

// newDashboard is asynqmon and the page of batches behind a login. asynqmon has neither a login nor a protection against other sites' requests itself
// (facts: asynqmon), and would show payloads and Redis' own figures.
func newDashboard(config Config) (http.Handler, error) {
	if config.Dashboard.Password.IsZero() {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			writeText(w, http.StatusNotFound, "the dashboard is off; GITSMITH_DASHBOARD_PASSWORD switches it on")
		}), nil
	}
	if config.Redis == nil || config.Dashboard.User == "" {
		return nil, errors.New("the dashboard needs a user name and Redis")
	}
	describe := config.Describe
	if describe == nil {
		describe = size
	}
	// asynqmon's Close is never called: it would close the client, which is not ours.
	pages := asynqmon.New(asynqmon.Options{
		RootPath:         dashboardRoot,
		RedisConnOpt:     connection{config.Redis},
		PayloadFormatter: asynqmon.PayloadFormatterFunc(func(_ string, payload []byte) string { return secret.Scrub(describe(payload)) }),
		ResultFormatter:  asynqmon.ResultFormatterFunc(func(_ string, result []byte) string { return size(result) }),
		ReadOnly:         !config.Dashboard.Write,
	})
	policy, err := contentPolicy(pages)
	if err != nil {
		return nil, err
	}
	shown := withoutRedisInfo(pages)
	batches, err := newBatches(config)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle(batchesRoot, batches)
	mux.Handle(batchesRoot+"/", batches)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		shown.ServeHTTP(w, r)
	})
	return login(config.Dashboard, config.Logger, http.NewCrossOriginProtection().Handler(mux)), nil
}

// connection hands the client that is there to asynqmon, which asks for the means to make one.
type connection struct{ client redis.UniversalClient }

// MakeRedisClient is part of asynq.RedisConnOpt.
func (c connection) MakeRedisClient() any { return c.client }

func size(content []byte) string { return fmt.Sprintf("%d bytes", len(content)) }

// login asks for the user and the password. Sums are compared, so that the time tells nothing, not even a length.
func login(dashboard Dashboard, logger *slog.Logger, next http.Handler) http.Handler {
	wantUser, wantPassword := sha256.Sum256([]byte(dashboard.User)), sha256.Sum256([]byte(dashboard.Password.Reveal()))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, given := r.BasicAuth()
		gotUser, gotPassword := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
		same := subtle.ConstantTimeCompare(gotUser[:], wantUser[:]) & subtle.ConstantTimeCompare(gotPassword[:], wantPassword[:])
		if given && same == 1 {
			next.ServeHTTP(w, r)
			return
		}
		if given {
			logger.WarnContext(r.Context(), "the dashboard's login was refused", slog.String(telemetry.KeyAddress, r.RemoteAddr))
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="gitsmith dashboard", charset="UTF-8"`)
		writeText(w, http.StatusUnauthorized, "the dashboard asks for GITSMITH_DASHBOARD_USER and GITSMITH_DASHBOARD_PASSWORD")
	})
}

// withoutRedisInfo refuses the route that shows Redis' INFO: versions, paths and clients of a host that may serve others.
func withoutRedisInfo(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(path.Clean(r.URL.Path), dashboardRoot+"/api/redis_info") {
			writeText(w, http.StatusForbidden, "the dashboard does not show Redis itself; ask redis-cli INFO")
			return
		}
		next.ServeHTTP(w, r)
	})
}

var inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)

// contentPolicy lets the dashboard's own files and exactly its inline scripts run. Styles are inline, made by its scripts. Its
// fonts would come from another company's host and are not loaded; the page does without.
func contentPolicy(pages http.Handler) (string, error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, dashboardRoot+"/", nil)
	if err != nil {
		return "", fmt.Errorf("read the dashboard's page: %w", err)
	}
	page := &recorder{header: http.Header{}}
	pages.ServeHTTP(page, request)
	scripts := inlineScript.FindAllSubmatch(page.body.Bytes(), -1)
	if len(scripts) == 0 {
		return "", errors.New("the dashboard's page is not the one known: it has no inline scripts")
	}
	allowed := "'self'"
	for _, script := range scripts {
		sum := sha256.Sum256(script[1])
		allowed += " 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; script-src " + allowed + "; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
		"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", nil
}

// recorder keeps the body of an answer.
type recorder struct {
	header http.Header
	body   bytes.Buffer
}

// Header is part of http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// Write is part of http.ResponseWriter.
func (r *recorder) Write(part []byte) (int, error) { return r.body.Write(part) }

// WriteHeader is part of http.ResponseWriter.
func (r *recorder) WriteHeader(int) {}
