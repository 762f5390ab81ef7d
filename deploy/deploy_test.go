// Package deploy_test checks what is deployed: the compose file, the image, the Forge manifest.
package deploy_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
)

const root = ".."

func TestCompose(t *testing.T) {
	t.Parallel()
	project := loadCompose(t, filledEnv(t))

	if got := slices.Sorted(slices.Values(project.ServiceNames())); !slices.Equal(got, []string{"api", "redis", "worker"}) {
		t.Fatalf("services %v", got)
	}
	for name, service := range project.Services {
		checkConfined(t, name, service)
		if service.HealthCheck == nil || len(service.HealthCheck.Test) == 0 || service.Restart != "unless-stopped" {
			t.Errorf("%s: no health check, or not started again when it ends", name)
		}
	}
	for _, name := range []string{"api", "worker"} {
		service := project.Services[name]
		if service.Build == nil || service.Build.Dockerfile != "deploy/docker/Dockerfile" || argument(service.Build.Args, "PROGRAM") != name {
			t.Errorf("%s: is not built from deploy/docker/Dockerfile with PROGRAM=%s: %+v", name, name, service.Build)
		}
		if !slices.Equal(service.HealthCheck.Test, []string{"CMD", "/gitsmith", "--check-ready"}) {
			t.Errorf("%s: health check %q; the image has no shell", name, service.HealthCheck.Test)
		}
		if service.DependsOn["redis"].Condition != types.ServiceConditionHealthy {
			t.Errorf("%s: does not wait for redis", name)
		}
		if argument(service.Environment, "GITSMITH_REDIS_URL") != "redis://redis:6379/0" || !hasVolume(service, "artifacts", "/var/lib/gitsmith/artifacts") {
			t.Errorf("%s: does not share redis and the archives", name)
		}
		for setting, value := range service.Environment {
			if regexp.MustCompile(`KEY|PASSWORD|SECRET`).MatchString(setting) && value != nil && !fromEnvFile(t, *value) {
				t.Errorf("%s: %s has a value of its own in the compose file", name, setting)
			}
		}
	}
	for _, folder := range []string{"GITSMITH_TEMP_DIR", "GITSMITH_CACHE_DIR"} {
		if !hasVolume(project.Services["worker"], "", argument(project.Services["worker"].Environment, folder)) {
			t.Errorf("worker: its %s is not a volume of its own", folder)
		}
	}
}

func TestComposeRedis(t *testing.T) {
	t.Parallel()
	redis := loadCompose(t, filledEnv(t)).Services["redis"]
	if redis.Image != "redis:7" || !hasVolume(redis, "redis-data", "/data") {
		t.Errorf("redis: image %q, volumes %+v", redis.Image, redis.Volumes)
	}
	for setting, want := range map[string]string{"--appendonly": "yes", "--appendfsync": "everysec", "--maxmemory-policy": "noeviction"} {
		at := slices.Index(redis.Command, setting)
		if at < 0 || at+1 == len(redis.Command) || redis.Command[at+1] != want {
			t.Errorf("redis: %s is not %s in %q", setting, want, redis.Command)
		}
	}
	if len(redis.Ports) > 0 {
		t.Errorf("redis: reachable from outside: %+v", redis.Ports)
	}
}

func TestComposePorts(t *testing.T) {
	t.Parallel()
	project := loadCompose(t, filledEnv(t))
	for _, port := range project.Services["api"].Ports {
		if port.Target == 9090 && port.HostIP != "127.0.0.1" {
			t.Errorf("the private listener is published on %q", port.HostIP)
		}
	}
	if ports := project.Services["worker"].Ports; len(ports) > 0 {
		t.Errorf("worker: published ports would keep it from being scaled: %+v", ports)
	}
}

func TestComposeWithoutEnv(t *testing.T) {
	t.Parallel()
	if _, err := load(t, ""); err == nil || !strings.Contains(err.Error(), ".env") {
		t.Errorf("without .env: %v; want an error that names it", err)
	}
}

// TestDockerfile reads the instructions: the last stage holds one static binary and runs as nobody.
func TestDockerfile(t *testing.T) {
	t.Parallel()
	text := readFile(t, filepath.Join(root, "deploy", "docker", "Dockerfile"))
	build, final, found := strings.Cut(text, "\nFROM scratch\n")
	if !found || strings.Contains(final, "\nFROM ") {
		t.Fatal("the last stage is not FROM scratch")
	}
	for _, want := range []string{"CGO_ENABLED=0", "-trimpath", "ARG PROGRAM="} {
		if !strings.Contains(build, want) {
			t.Errorf("the build stage lacks %s", want)
		}
	}
	for _, want := range []string{"USER 65532:65532", "/etc/ssl/certs/ca-certificates.crt", "--check-ready"} {
		if !strings.Contains(final, want) {
			t.Errorf("the last stage lacks %s", want)
		}
	}
	if strings.Contains(text, "ADD http") || regexp.MustCompile(`(?m)^ENV .*(KEY|PASSWORD|TOKEN)=`).MatchString(text) {
		t.Error("the image fetches or holds what it must not")
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(readFile(t, filepath.Join(root, "go.mod")))
	if version == nil || !strings.HasPrefix(text[strings.Index(text, "FROM "):], "FROM golang:"+version[1]+" AS build") {
		t.Errorf("the image is not built with go.mod's Go %v", version)
	}
}

// TestManifest: Atlassian's validator takes the manifest, and none of the broken ones.
func TestManifest(t *testing.T) {
	t.Parallel()
	original := filepath.Join("forge", "manifest.yml")
	good := readFile(t, original)
	cases := map[string]struct{ old, changed, complaint string }{
		"misspelt event":   {"avi:forge:installed:app", "avi:forge:instaled:app", "avi:forge:instaled:app"},
		"missing scope":    {"    write:repository:bitbucket:", "    write:repositories:bitbucket:", "write:repository:bitbucket"},
		"unknown interval": {"interval: hour", "interval: fortnight", "fortnight"},
		"unknown endpoint": {"endpoint: schedule", "endpoint: elsewhere", "elsewhere"},
		"no such resource": {"path: app/dist", "path: src/frontend/none.jsx", "none.jsx"},
		"a user's token where none comes": {
			"path: /forge/lifecycle\n      auth:\n", "path: /forge/lifecycle\n      auth:\n        appUserToken:\n          enabled: true\n",
			"only supports appSystemToken",
		},
		"a system token for a page": {
			"        appUserToken: # comes", "        appSystemToken:\n          enabled: true\n        appUserToken: # comes", "endpoint jobs asks for a system token",
		},
		"no user token for a page": {"        appUserToken: # comes where a user is in session; he acts as himself\n          enabled: true", "        appUserToken:\n          enabled: false", "endpoint jobs needs auth.appUserToken"},
		"no system token for a trigger": {
			"path: /forge/schedule\n      auth:\n        appSystemToken:\n          enabled: true", "path: /forge/schedule", "endpoint schedule needs auth.appSystemToken",
		},
		"no YAML": {"modules:", "modules: [", "error"},
	}
	paths := []string{original}
	for name, tc := range cases {
		edited := strings.Replace(good, tc.old, tc.changed, 1)
		if edited == good {
			t.Fatalf("%s: the manifest has no %q", name, tc.old)
		}
		paths = append(paths, manifestFolder(t, strings.ReplaceAll(name, " ", "-"), edited))
	}
	output := validate(t, paths...)
	if !strings.Contains(output, original+": valid\n") {
		t.Errorf("the manifest is not valid: %s", output)
	}
	for name, tc := range cases {
		said := ""
		for line := range strings.Lines(output) {
			if strings.Contains(line, "/"+strings.ReplaceAll(name, " ", "-")+"/") {
				said += line
			}
		}
		if !strings.HasSuffix(said, ": not valid\n") || !strings.Contains(said, tc.complaint) {
			t.Errorf("%s: the validator said %q", name, said)
		}
	}
}

// TestManifestRoutes: each endpoint leads to a route that the receiver has.
func TestManifestRoutes(t *testing.T) {
	t.Parallel()
	document := readFile(t, filepath.Join(root, "internal", "receiver", "openapi.yaml"))
	for _, route := range regexp.MustCompile(`(?m)^\s+path: (/\S*)`).FindAllStringSubmatch(readFile(t, filepath.Join("forge", "manifest.yml")), -1) {
		if !strings.Contains(document, "\n  "+route[1]+":\n") {
			t.Errorf("%s is not in the OpenAPI document", route[1])
		}
	}
}

// checkConfined: nobody's user, nothing to write but what is mounted, no privileges to gain.
func checkConfined(t *testing.T, name string, service types.ServiceConfig) {
	t.Helper()
	user, _, _ := strings.Cut(service.User, ":")
	if user == "" || user == "0" || user == "root" {
		t.Errorf("%s: runs as %q", name, service.User)
	}
	if !service.ReadOnly || service.Privileged {
		t.Errorf("%s: its root can be written", name)
	}
	if !slices.ContainsFunc(service.Tmpfs, func(mount string) bool { return strings.HasPrefix(mount, "/tmp") }) {
		t.Errorf("%s: no tmpfs on /tmp", name)
	}
	if !slices.Equal(service.CapDrop, []string{"ALL"}) || len(service.CapAdd) > 0 {
		t.Errorf("%s: keeps capabilities", name)
	}
	if !slices.Contains(service.SecurityOpt, "no-new-privileges:true") {
		t.Errorf("%s: may gain privileges", name)
	}
}

const filledKeys = "k1:c2VhbGVkIGJ5IG5vYm9keSwgdXNlZCBieSBhIHRlc3Q="

// filledEnv is the example as a user fills it in.
func filledEnv(t *testing.T) string {
	t.Helper()
	example := readFile(t, filepath.Join("docker", "example.env"))
	return strings.NewReplacer("GITSMITH_APP_ID=", "GITSMITH_APP_ID=ari:cloud:ecosystem::app/1", "GITSMITH_SEAL_KEYS=", "GITSMITH_SEAL_KEYS="+filledKeys).Replace(example)
}

func fromEnvFile(t *testing.T, value string) bool {
	t.Helper()
	return value == "" || value == filledKeys
}

func loadCompose(t *testing.T, env string) *types.Project {
	t.Helper()
	project, err := load(t, env)
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// load reads the compose file as docker compose does, in a folder with the given .env, or with none.
func load(t *testing.T, env string) (*types.Project, error) {
	t.Helper()
	folder := t.TempDir()
	writeFile(t, filepath.Join(folder, "docker-compose.yml"), readFile(t, filepath.Join(root, "docker-compose.yml")))
	if env != "" {
		writeFile(t, filepath.Join(folder, ".env"), env)
	}
	options, err := cli.NewProjectOptions(nil, cli.WithWorkingDirectory(folder), cli.WithDefaultConfigPath, cli.WithDotEnv)
	if err != nil {
		return nil, err
	}
	return options.LoadProject(t.Context())
}

func argument(values types.MappingWithEquals, name string) string {
	if value := values[name]; value != nil {
		return *value
	}
	return ""
}

func hasVolume(service types.ServiceConfig, source, target string) bool {
	return slices.ContainsFunc(service.Volumes, func(volume types.ServiceVolumeConfig) bool {
		return volume.Type == types.VolumeTypeVolume && volume.Source == source && volume.Target == target
	})
}

// manifestFolder is a folder with an edited manifest and the resource that it names.
func manifestFolder(t *testing.T, name, manifest string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), name)
	page := filepath.Join(folder, "app", "dist")
	if err := os.MkdirAll(page, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(page, "index.html"), "<!doctype html>")
	writeFile(t, filepath.Join(folder, "manifest.yml"), manifest)
	return filepath.Join(folder, "manifest.yml")
}

// validate runs Atlassian's validator; a missing tool fails the test.
func validate(t *testing.T, manifests ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "node", append([]string{filepath.Join("forge", "validate.mjs")}, manifests...)...)
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("the manifest cannot be checked: %v: %s; run make test-tools", err, bytes.TrimSpace(output))
	}
	return string(output)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
