package config

import (
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/gitsmith/gitsmith/internal/secret"
)

// field is one setting: the only place that knows its name, default, meaning and form.
type field struct {
	name     string
	fallback string // default; empty is none
	shown    string // the default in words, where the value itself depends on the machine
	required bool
	secret   bool // may come as NAME_FILE too, and is never quoted
	meaning  string
	set      func(value string) error
}

func (c *Common) fields(opsAddr string) []field {
	return []field{
		{
			name: "GITSMITH_REDIS_URL", fallback: "redis://127.0.0.1:6379/0", secret: true, set: into(&c.RedisURL, redisURL),
			meaning: "`redis://`, `rediss://`, `redis-sentinel://…?master_name=NAME` or `redis-cluster://`",
		},
		{
			name: "GITSMITH_SEAL_KEYS", required: true, secret: true, set: into(&c.Keyring, secret.ParseKeyring),
			meaning: "`id:base64 of 32 bytes`, comma between several; the first seals and proves commits, all open and verify",
		},
		{name: "GITSMITH_OPS_ADDR", fallback: opsAddr, set: into(&c.OpsAddr, address), meaning: "private listener: health, metrics, dashboard"},
		{
			name: "GITSMITH_ARTIFACT_URL", fallback: artifactFolder(), shown: "`file://` in the user data folder", set: into(&c.ArtifactURL, artifactURL),
			meaning: "where archives are kept; the receiver and the workers share it",
		},
		{name: "GITSMITH_ARTIFACT_TTL", fallback: "24h", set: into(&c.ArtifactTTL, duration), meaning: "how long an archive is kept"},
		{name: "GITSMITH_RETENTION", fallback: "168h", set: into(&c.Retention, duration), meaning: "how long a job can be looked up after its end"},
		{name: "GITSMITH_TOKEN_WAIT", fallback: "2h", set: into(&c.TokenWait, duration), meaning: "how long a job with `\"on_expiry\": \"wait\"` waits for a token"},
		{name: "GITSMITH_MAX_CHANGES", fallback: "1000", set: into(&c.MaxChanges, positive), meaning: "changes in one push"},
		{
			name: "GITSMITH_INSTALLATION_JOBS", fallback: "32", set: into(&c.InstallationJobs, positive),
			meaning: "jobs of one installation and class in the queue at once; the others wait their turn behind it. The same for the receiver and its workers",
		},
		{name: "GITSMITH_ERASE_AFTER", fallback: "720h", set: into(&c.EraseAfter, duration), meaning: "from an app's removal until its data is erased"},
		{name: "GITSMITH_SCHEDULE_INTERVAL", fallback: "1h", set: into(&c.ScheduleInterval, duration), meaning: "between the app's scheduled triggers, as in the manifest"},
		{name: "GITSMITH_LOG_LEVEL", fallback: "info", set: into(&c.LogLevel, oneOf("debug", "info", "warn", "error")), meaning: "`debug`, `info`, `warn`, `error`"},
		{name: "GITSMITH_LOG_FORMAT", fallback: "auto", set: into(&c.LogFormat, oneOf("auto", "json", "text")), meaning: "`json`, `text`; `auto` is text on a terminal, else json"},
		{name: "OTEL_EXPORTER_OTLP_ENDPOINT", set: into(&c.OTLP, anyURL), meaning: "where traces go, such as `http://collector:4318`"},
	}
}

func (a *API) fields() []field {
	return append([]field{
		{name: "GITSMITH_APP_ID", required: true, set: into(&a.AppIDs, list), meaning: "the app's ARI, as `app.id` in the manifest; comma between several"},
		{name: "GITSMITH_ADDR", fallback: ":8080", set: into(&a.Addr, address), meaning: "public listener"},
		{
			name: "GITSMITH_JWKS_URL", fallback: "https://forge.cdn.prod.atlassian-dev.net/.well-known/jwks.json", set: into(&a.JWKSURL, secureURL),
			meaning: "where FIT keys are",
		},
		{name: "GITSMITH_JWKS_URL_TEMPLATE", set: into(&a.JWKSURLTemplate, template), meaning: "the same for Isolated Cloud, with `{IC_LABEL}`; without it, its FITs are refused"},
		{name: "GITSMITH_MAX_BODY", fallback: "5MB", set: into(&a.MaxBody, size), meaning: "request body"},
		{name: "GITSMITH_RULES", set: into(&a.Rules, text), meaning: "YAML file that says which event makes which job; see `docs/rules.md`. Read again when it changes and on SIGHUP"},
		{name: "GITSMITH_EVENT_AGE", fallback: "24h", set: into(&a.EventAge, upTo(24*time.Hour)), meaning: "an older event is recorded and not acted on; at most `24h`, which is how long an event is done once"},
		{
			name: "GITSMITH_EVENT_KEYS", set: into(&a.EventKeys, list),
			meaning: "module keys (`app.module.key` of the FIT) that may call `/forge/events`; without it any platform call may. The log shows the keys that Forge sends",
		},
		{name: "GITSMITH_SCHEDULE_KEYS", set: into(&a.ScheduleKeys, list), meaning: "the same for `/forge/schedule`"},
		{name: "GITSMITH_LIFECYCLE_KEYS", set: into(&a.LifecycleKeys, list), meaning: "the same for `/forge/lifecycle`"},
		{name: "GITSMITH_UNINSTALL_KEYS", set: into(&a.UninstallKeys, list), meaning: "the same for `/forge/uninstall`"},
		{
			name: "GITSMITH_SPOOL_DIR", fallback: spoolFolder(), shown: "`gitsmith/spool` in the user data folder", set: into(&a.SpoolDir, orOff),
			meaning: "where deliveries wait, sealed, while Redis is away; one for each receiver; `off` refuses them instead, so that Forge delivers again",
		},
		{name: "GITSMITH_SPOOL_SIZE", fallback: "1GiB", set: into(&a.SpoolSize, size), meaning: "bytes of it; beyond, deliveries are refused"},
		{name: "GITSMITH_REDIS_GROUP", fallback: "256", set: into(&a.RedisGroup, positive), meaning: "jobs queued at the same time that share a round trip to Redis; `1` for none"},
		{name: "GITSMITH_UNREADABLE_TOKEN_LIFE", fallback: "15m", set: into(&a.UnreadableLife, duration), meaning: "life given to an OAuth token whose `exp` cannot be read"},
		{name: "GITSMITH_DASHBOARD_USER", fallback: "operator", set: into(&a.DashboardUser, text), meaning: "login of the dashboard"},
		{name: "GITSMITH_DASHBOARD_PASSWORD", secret: true, set: into(&a.DashboardPassword, secretText), meaning: "without one there is no dashboard"},
		{name: "GITSMITH_DASHBOARD_WRITE", fallback: "false", set: into(&a.DashboardWrite, strconv.ParseBool), meaning: "`true` lets the dashboard run, archive and delete tasks; none of it decides what becomes of a job"},
	}, a.Common.fields("127.0.0.1:9090")...)
}

func (w *Worker) fields() []field {
	cores := strconv.Itoa(2 * runtime.NumCPU())
	return append([]field{
		{name: "GITSMITH_GIT_URL", fallback: "https://bitbucket.org", set: into(&w.GitURL, baseURL), meaning: "git's base; plain http is accepted for loopback hosts only"},
		{name: "GITSMITH_API_URL", fallback: "https://api.bitbucket.org", set: into(&w.RESTURL, baseURL), meaning: "REST's base; the same"},
		{name: "GITSMITH_CONCURRENCY", fallback: cores, shown: "2 × cores", set: into(&w.Concurrency, positive), meaning: "jobs at once in a worker"},
		{name: "GITSMITH_TEMP_DIR", fallback: filepath.Join(os.TempDir(), "gitsmith"), shown: "`gitsmith` in the system's", set: into(&w.TempDir, text), meaning: "what does not fit in memory while a job runs"},
		{name: "GITSMITH_MEMORY_LIMIT", fallback: "1MiB", set: into(&w.MemoryLimit, size), meaning: "of a pack that is kept in memory; a larger one is on disk"},
		{name: "GITSMITH_CACHE_DIR", fallback: cacheFolder(), shown: "`gitsmith/tips` in the user cache folder", set: into(&w.CacheDir, text), meaning: "trees of the repositories that were read last, which make the next edit quick; may be deleted at any time"},
		{name: "GITSMITH_CACHE_SIZE", fallback: "1GiB", set: into(&w.CacheSize, size), meaning: "bytes of it; what was used least recently goes"},
		{name: "GITSMITH_MAX_REPOSITORY", fallback: "4GiB", set: into(&w.MaxRepository, size), meaning: "larger ones are refused"},
		{name: "GITSMITH_TOKEN_MARGIN", fallback: "60s", set: into(&w.TokenMargin, duration), meaning: "a token with less life left is as good as gone"},
		{name: "GITSMITH_JOB_TIMEOUT", fallback: "10m", set: into(&w.JobTimeout, duration), meaning: "one attempt"},
		{name: "GITSMITH_GRACE", fallback: "20s", set: into(&w.Grace, duration), meaning: "what runs may take to finish when the worker stops"},
		{name: "GITSMITH_GIT_BUDGET", fallback: "60000", set: into(&w.GitBudget, count), meaning: "git requests of one installation in an hour, beyond which its jobs wait; `0` for no bound"},
		{
			name: "GITSMITH_GRAPHQL_URL", fallback: "https://api.atlassian.com/graphql", set: into(&w.GraphQLURL, secureURL),
			meaning: "where tokens of users come from who are not there, for rules with `actor: {user: …}`",
		},
		{
			name: "GITSMITH_GRAPHQL_CONTEXT", fallback: "ari:cloud:bitbucket::workspace/{workspace}", set: into(&w.ContextID, text),
			meaning: "the `contextIds` that it is asked with; `{workspace}` stands for the workspace's UUID",
		},
		{name: "GITSMITH_RECIPES", set: into(&w.Recipes, text), meaning: "YAML file of commands that pushes may run by name; see `docs/recipes.md`. Without it there are none"},
		{name: "GITSMITH_AUTHOR_NAME", fallback: "Gitsmith", set: into(&w.AuthorName, text), meaning: "author of commits whose job names none"},
		{name: "GITSMITH_AUTHOR_EMAIL", fallback: "gitsmith@localhost", set: into(&w.AuthorEmail, text), meaning: "the same"},
	}, w.Common.fields("127.0.0.1:9091")...)
}

// cacheFolder is where the tip cache is where nobody says so: $XDG_CACHE_HOME, or what that stands for.
func cacheFolder() string {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	return filepath.Join(base, "gitsmith", "tips")
}

// spoolFolder is where deliveries wait where nobody says so.
func spoolFolder() string { return filepath.Join(dataFolder(), "spool") }

// artifactFolder is where archives go where nobody says so.
func artifactFolder() string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(dataFolder(), "artifacts"))}).String()
}

// dataFolder is ours in $XDG_DATA_HOME, or what that stands for.
func dataFolder() string {
	base := os.Getenv("XDG_DATA_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			home = os.TempDir()
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "gitsmith")
}
