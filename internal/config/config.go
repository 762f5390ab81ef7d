// Package config turns the environment, and a YAML file that it may name, into the settings of the two programs. Every wrong
// value is reported at once, by name.
package config

import (
	"io"
	"net/url"
	"time"

	"github.com/gitsmith/gitsmith/internal/secret"
)

// Common is what both programs are told.
type Common struct {
	RedisURL    secret.Text
	Keyring     *secret.Keyring
	OpsAddr     string // of the private listener
	ArtifactURL string
	ArtifactTTL time.Duration
	Retention   time.Duration // of a job's record after its end
	TokenWait   time.Duration // a waiting job's at most
	MaxChanges  int           // of one push
	// InstallationJobs is how many jobs of one installation and class may be in the queue or run; the others are parked.
	InstallationJobs int
	EraseAfter       time.Duration // from an app's removal to the end of its data
	ScheduleInterval time.Duration // between scheduled triggers
	LogLevel         string        // debug, info, warn, error
	LogFormat        string        // json, text, auto
	OTLP             string        // endpoint of traces; empty for none
}

// API is what the receiver is told.
type API struct {
	Common
	Addr            string // of the public listener
	AppIDs          []string
	JWKSURL         string
	JWKSURLTemplate string        // with {IC_LABEL}; empty refuses Isolated Cloud
	MaxBody         int64         // bytes
	UnreadableLife  time.Duration // of an OAuth token whose exp cannot be read
	Rules           string        // a file; empty for none
	EventAge        time.Duration // an older event is not acted on
	SpoolDir        string        // empty for none
	SpoolSize       int64         // bytes
	RedisGroup      int           // calls to Redis that share a round trip

	// Module keys that may call Forge's own routes; empty for any.
	EventKeys, ScheduleKeys, LifecycleKeys, UninstallKeys []string

	DashboardUser     string
	DashboardPassword secret.Text // without one there is no dashboard
	DashboardWrite    bool
}

// Worker is what a worker is told.
type Worker struct {
	Common
	GitURL, RESTURL *url.URL
	Concurrency     int
	TempDir         string
	MemoryLimit     int64 // bytes of a pack that are kept in memory; above it is on disk
	CacheDir        string
	CacheSize       int64 // bytes
	MaxRepository   int64 // bytes
	TokenMargin     time.Duration
	JobTimeout      time.Duration // of one attempt
	Grace           time.Duration // for what runs when the worker stops
	AuthorName      string
	AuthorEmail     string
	GraphQLURL      string // of Atlassian's gateway, for tokens of users who are not there
	ContextID       string // that the gateway is asked with, {workspace} standing for the workspace's UUID
	GitBudget       int    // git requests of one installation in an hour; 0 for no bound
	Recipes         string // a file; empty for none
}

// LoadAPI reads the receiver's settings. The error lists everything that is wrong.
func LoadAPI(environ []string) (API, error) {
	var settings API
	err := load(environ, settings.fields())
	return settings, err
}

// LoadWorker reads a worker's settings. The error lists everything that is wrong.
func LoadWorker(environ []string) (Worker, error) {
	var settings Worker
	err := load(environ, settings.fields())
	return settings, err
}

// HelpAPI lists the receiver's settings.
func HelpAPI(w io.Writer) error { return help(w, new(API).fields()) }

// HelpWorker lists a worker's settings.
func HelpWorker(w io.Writer) error { return help(w, new(Worker).fields()) }
