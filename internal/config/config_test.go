package config_test

import (
	"bytes"
	"encoding/base64"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gitsmith/gitsmith/internal/config"
	"github.com/gitsmith/gitsmith/internal/secret"
)

var key = base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{3}, secret.KeySize))

const appID = "ari:cloud:ecosystem::app/5f1c9a00-0000-4000-8000-000000000000"

func required(more ...string) []string {
	return append([]string{"PATH=/bin", "GITSMITH_APP_ID=" + appID, "GITSMITH_SEAL_KEYS=a:" + key}, more...)
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	api, err := config.LoadAPI(required())
	if err != nil {
		t.Fatal(err)
	}
	worker, err := config.LoadWorker(required())
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{
		"addr": api.Addr == ":8080", "ops": api.OpsAddr == "127.0.0.1:9090", "worker ops": worker.OpsAddr == "127.0.0.1:9091",
		"app": len(api.AppIDs) == 1 && api.AppIDs[0] == appID, "redis": api.RedisURL.Reveal() == "redis://127.0.0.1:6379/0",
		"keys": api.Keyring != nil, "body": api.MaxBody == 5_000_000, "changes": worker.MaxChanges == 1000,
		"git": worker.GitURL.String() == "https://bitbucket.org", "rest": worker.RESTURL.String() == "https://api.bitbucket.org",
		"margin": worker.TokenMargin == time.Minute, "wait": worker.TokenWait == 2*time.Hour, "repository": worker.MaxRepository == 4<<30,
		"concurrency": worker.Concurrency >= 2, "artifact": strings.HasPrefix(api.ArtifactURL, "file://"), "ttl": api.ArtifactTTL == 24*time.Hour,
		"dashboard off": api.DashboardPassword.IsZero() && !api.DashboardWrite, "timeout": worker.JobTimeout == 10*time.Minute,
	} {
		if !ok {
			t.Errorf("%s: %+v %+v", name, api, worker)
		}
	}
}

func TestEnvironmentWinsOverFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gitsmith.yml")
	if err := os.WriteFile(path, []byte("GITSMITH_ADDR: :1111\nGITSMITH_LOG_LEVEL: debug\nGITSMITH_DASHBOARD_WRITE: true\nGITSMITH_MAX_CHANGES: 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	api, err := config.LoadAPI(required("GITSMITH_CONFIG="+path, "GITSMITH_ADDR=:2222", "GITSMITH_LOG_FORMAT="))
	if err != nil {
		t.Fatal(err)
	}
	if api.Addr != ":2222" || api.LogLevel != "debug" || !api.DashboardWrite || api.MaxChanges != 5 || api.LogFormat != "auto" {
		t.Errorf("%+v", api)
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	const canary = "canary-5f1c9a"
	load := func(content string) (config.API, error) {
		path := filepath.Join(t.TempDir(), "gitsmith.yml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return config.LoadAPI([]string{"GITSMITH_SEAL_KEYS=a:" + key, "GITSMITH_CONFIG=" + path})
	}
	api, err := load("GITSMITH_APP_ID: [a, b]\nGITSMITH_MAX_BODY: 1234\nGITSMITH_ADDR: null\nGITSMITH_OPS_ADDR: \"\"\nGITSMITH_CONCURRENCY: 3\n")
	if err != nil || strings.Join(api.AppIDs, " ") != "a b" || api.MaxBody != 1234 || api.Addr != ":8080" || api.OpsAddr != "127.0.0.1:9090" {
		t.Errorf("%+v, %v", api, err)
	}
	for content, says := range map[string]string{
		"addr: :80\n":                                "addr is no setting; did you mean GITSMITH_ADDR?",
		"OTEL_EXPORTER_OTLP_ENDPOIT: http://x\n":     "did you mean OTEL_EXPORTER_OTLP_ENDPOINT?",
		"GITSMITH_ADDR:\n  port: 80\n":               "GITSMITH_ADDR holds a map in the file",
		"GITSMITH_APP_ID: [{a: b}]\n":                "GITSMITH_APP_ID holds a map",
		"GITSMITH_APP_ID: [[a]]\n":                   "GITSMITH_APP_ID holds a map",
		"GITSMITH_LOG_LEVEL: [info, debug]\n":        "GITSMITH_LOG_LEVEL (\"info,debug\") is none of",
		"GITSMITH_REDIS_URL: {" + canary + ": x}\n":  "GITSMITH_REDIS_URL holds a map",
		"GITSMITH_REDIS_URL: [" + canary + "]\n":     "GITSMITH_REDIS_URL is no Redis URL",
		"- a\n":                                      "GITSMITH_CONFIG: no YAML file",
		"GITSMITH_REDIS_URL: " + canary + ": x\n":    "GITSMITH_CONFIG: no YAML file",
		"GITSMITH_JWKS_URL_TEMPLATE: https://a/b\n":  "GITSMITH_JWKS_URL_TEMPLATE (\"https://a/b\") does not hold {IC_LABEL} once",
		"GITSMITH_ARTIFACT_URL: s3://bucket\n":       "GITSMITH_ARTIFACT_URL (\"s3://bucket\") is no place for artifacts",
		"GITSMITH_ARTIFACT_URL: /var/lib/gitsmith\n": "is no place for artifacts",
	} {
		if _, err := load(content); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), canary) || strings.Contains(err.Error(), "\x00") {
			t.Errorf("%q: %v", content, err)
		}
	}
	if _, err := config.LoadAPI(required("GITSMITH_CONFIG=" + filepath.Join(t.TempDir(), "none"))); err == nil || !strings.Contains(err.Error(), "GITSMITH_CONFIG: ") {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := config.LoadAPI(required("GITSMITH_JWKS_URL_TEMPLATE=https://{IC_LABEL}.example.com/keys")); err != nil {
		t.Error(err)
	}
}

func TestSecretsFromFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("a:"+key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	worker, err := config.LoadWorker([]string{"GITSMITH_SEAL_KEYS_FILE=" + path})
	if err != nil || worker.Keyring == nil {
		t.Errorf("%v", err)
	}
	_, err = config.LoadWorker([]string{"GITSMITH_SEAL_KEYS_FILE=" + path, "GITSMITH_SEAL_KEYS=a:" + key})
	if err == nil || !strings.Contains(err.Error(), "set one of them") {
		t.Errorf("both: %v", err)
	}
	_, err = config.LoadWorker([]string{"GITSMITH_SEAL_KEYS_FILE=" + path + "x"})
	if err == nil || !strings.Contains(err.Error(), "GITSMITH_SEAL_KEYS") {
		t.Errorf("missing: %v", err)
	}
}

func TestEverythingWrongAtOnce(t *testing.T) {
	t.Parallel()
	const canary = "canary-5f1c9a"
	wrong := map[string]string{
		"GITSMITH_REDIS_URL": canary, "GITSMITH_SEAL_KEYS": canary, "GITSMITH_OPS_ADDR": "9090", "GITSMITH_ARTIFACT_TTL": "-1h",
		"GITSMITH_RETENTION": "week", "GITSMITH_TOKEN_WAIT": "0s", "GITSMITH_MAX_CHANGES": "0", "GITSMITH_LOG_LEVEL": "loud",
		"GITSMITH_LOG_FORMAT": "xml", "OTEL_EXPORTER_OTLP_ENDPOINT": "collector", "GITSMITH_APP_ID": "a,,b", "GITSMITH_ADDR": ":99999",
		"GITSMITH_JWKS_URL": "http://example.com/keys", "GITSMITH_MAX_BODY": "5 apples", "GITSMITH_SCHEDULE_KEYS": ",",
		"GITSMITH_LIFECYCLE_KEYS": ",", "GITSMITH_UNREADABLE_TOKEN_LIFE": "x", "GITSMITH_DASHBOARD_WRITE": "perhaps",
	}
	var environ []string
	for name, value := range wrong {
		environ = append(environ, name+"="+value)
	}
	_, err := config.LoadAPI(append(environ, "GITSMITH_ADR=:1"))
	if err == nil {
		t.Fatal("accepted")
	}
	for name := range wrong {
		if !strings.Contains(err.Error(), name+" ") {
			t.Errorf("%s is not reported", name)
		}
	}
	if !strings.Contains(err.Error(), "GITSMITH_ADR is no setting; did you mean GITSMITH_ADDR?") {
		t.Errorf("the misspelt name is not reported:\n%v", err)
	}
	if strings.Contains(err.Error(), canary) {
		t.Errorf("a secret is quoted:\n%v", err)
	}

	worker := map[string]string{
		"GITSMITH_GIT_URL": "http://example.com", "GITSMITH_API_URL": "https://user:" + canary + "@example.com", "GITSMITH_CONCURRENCY": "-1",
		"GITSMITH_MEMORY_LIMIT": "99999999999TB", "GITSMITH_MAX_REPOSITORY": "", "GITSMITH_TOKEN_MARGIN": "60", "GITSMITH_JOB_TIMEOUT": "m", "GITSMITH_GRACE": "s",
	}
	environ = nil
	for name, value := range worker {
		environ = append(environ, name+"="+value)
	}
	_, err = config.LoadWorker(environ)
	delete(worker, "GITSMITH_MAX_REPOSITORY") // empty counts as absent
	for name := range worker {
		if err == nil || !strings.Contains(err.Error(), name+" ") {
			t.Errorf("%s is not reported", name)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "GITSMITH_SEAL_KEYS is required") {
		t.Errorf("what is missing is not reported: %v", err)
	}
}

// TestRemovedSettings: a setting that no longer does what it did is refused, wherever it stands, and the error names its successor.
func TestRemovedSettings(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]string{
		"GITSMITH_EVENT_MODULES": "GITSMITH_EVENT_KEYS", "GITSMITH_SCHEDULE_MODULES": "GITSMITH_SCHEDULE_KEYS",
		"GITSMITH_LIFECYCLE_MODULES": "GITSMITH_LIFECYCLE_KEYS", "GITSMITH_UNINSTALL_MODULES": "GITSMITH_UNINSTALL_KEYS",
		"GITSMITH_ALLOW_PRINCIPAL": "GITSMITH_EVENT_KEYS",
	} {
		file := filepath.Join(t.TempDir(), "settings.yml")
		if err := os.WriteFile(file, []byte(name+": events\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{name + "=events", "GITSMITH_CONFIG=" + file} {
			_, err := config.LoadAPI(required(line))
			if err == nil || !strings.Contains(err.Error(), name+" is no setting any more") || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", line, err)
			}
		}
	}
}

func TestHelpAndReadme(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := config.HelpAPI(&out); err != nil {
		t.Fatal(err)
	}
	if err := config.HelpWorker(&out); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"GITSMITH_APP_ID ", "required", "GITSMITH_CONCURRENCY", "or GITSMITH_SEAL_KEYS_FILE"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("the help lacks %q", text)
		}
	}
}

var writeReadme = flag.Bool("write-readme", false, "write the table of settings into README.md")

func TestReadme(t *testing.T) {
	t.Parallel()
	const path, begin, end = "../../README.md", "<!-- settings: written by `go test ./internal/config -write-readme` -->\n", "<!-- end of settings -->"
	readme, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(readme), begin)
	table, after, alsoFound := strings.Cut(rest, end)
	if !found || !alsoFound {
		t.Fatal("README has lost the marks around the table of settings")
	}
	if table == config.Markdown() {
		return
	}
	if !*writeReadme {
		t.Fatal("README's table of settings is not the program's; run `go test ./internal/config -write-readme`")
	}
	if err := os.WriteFile(path, []byte(before+begin+config.Markdown()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("GITSMITH_MAX_BODY=5MB")
	f.Add("GITSMITH_ADDR=:80")
	f.Fuzz(func(t *testing.T, line string) {
		_, _ = config.LoadAPI(required(line)) // it must not panic
	})
}
