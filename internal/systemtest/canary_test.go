package systemtest

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
)

// haul is every text that the system has shown or stored, by where it was.
type haul map[string]string

// TestCanary plants a FIT, a system token, a user token and a file's content, lets jobs succeed, fail, expire and be refused, and
// looks for what was planted in every log line, Redis key and value, answer, metric, dashboard page and file. Of the tip cache,
// which is made of commits and files, only the tokens are to keep out. Batches are planted too, with a title and repositories' values.
func TestCanary(t *testing.T) {
	t.Parallel()
	s := startSystem(t, map[string]string{"README.md": "# Web\n"})
	worker := s.startWorker()

	const content, message = "canary-content-2f6c1d", "canary-message-8b1e4a"
	reader := s.oauthToken(4*time.Hour, bitbuckettest.ScopeReadRepository)
	alice := caller{principal: "712020:alice", installation: installation, userToken: s.oauthToken(4 * time.Hour), systemToken: s.oauthToken(4 * time.Hour)}
	bob := caller{principal: "712020:bob", installation: installation, userToken: reader}
	carol := caller{principal: "712020:carol", installation: installation, userToken: s.oauthToken(30 * time.Second)}

	push := strings.Replace(pushBody("main", "new.txt", content), "Add new.txt", message, 1)
	ended := []view{
		s.await(alice, s.submit(alice, push).ID, "succeeded"),
		s.await(bob, s.submit(bob, strings.ReplaceAll(push, "new.txt", "bob.txt")).ID, "failed"),
		s.await(carol, s.submit(carol, push).ID, "expired"),
	}
	s.call(alice, http.MethodPost, "/forge/schedule", "{}")
	s.call(caller{principal: "712020:alice", installation: installation, userToken: alice.userToken}, http.MethodPost, "/forge/schedule", "{}")
	s.call(alice, http.MethodPost, "/v1/jobs", strings.Replace(push, `"content"`, `"encoding":"base64","content"`, 1))
	s.call(alice, http.MethodPost, "/v1/jobs", strings.Replace(push, `"path"`, `"unknown":1,"path"`, 1))
	s.call(alice, http.MethodPost, "/v1/jobs", strings.Replace(push, `"put"`, `"patch":{"diff":"`+content+`"},"put"`, 1))

	pages := s.plantBatches(alice, content, message)

	found := haul{}
	s.searchable(found, worker, ended)
	for _, page := range pages {
		found["dashboard "+page] = s.page(s.apiOps + page)
	}
	planted := map[string][]string{
		"a FIT": s.fits(), "a system token": {alice.systemToken}, "a user token": {alice.userToken, bob.userToken, carol.userToken},
		"a file's content": {content}, "a commit's message": {message}, "a batch's title": {canaryTitle}, "a repository's value": {canaryValue},
	}
	for what, secrets := range planted {
		if len(secrets) == 0 || slices.Contains(secrets, "") {
			t.Fatalf("%s was not planted", what)
		}
		for _, secret := range secrets {
			for place, text := range found {
				if slices.Contains([]string{content, message, canaryTitle, canaryValue}, secret) && s.mayHold(place, secret, content) {
					continue
				}
				if form := formIn(text, secret); form != "" {
					t.Errorf("%s stands in %s as %s", what, place, form)
				}
			}
		}
	}
	s.proveSearch(t, worker, ended)
}

// proveSearch plants a mark at each kind of place and asks that the search finds it there.
func (s *system) proveSearch(t *testing.T, worker *process, ended []view) {
	t.Helper()
	const mark = "mark-77aa10"
	client, ctx := s.redis.Client(), t.Context()
	for _, err := range []error{
		client.Set(ctx, "plain:"+mark, 1, 0).Err(), client.Set(ctx, "string", mark, 0).Err(), client.HSet(ctx, "hash", "f", mark).Err(),
		client.LPush(ctx, "list", mark).Err(), client.SAdd(ctx, "set", mark).Err(),
		client.ZAdd(ctx, "zset", redis.Z{Member: mark}).Err(), client.Set(ctx, "encoded", base64.StdEncoding.EncodeToString([]byte("xx"+mark)), 0).Err(),
		os.WriteFile(filepath.Join(s.temp, "file"), []byte(hex.EncodeToString([]byte(mark))), 0o600),
		os.WriteFile(filepath.Join(s.cache, "file"), []byte(mark), 0o600),
		os.WriteFile(filepath.Join(s.artifacts, "file"), []byte(url.QueryEscape(mark+"/")), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	_, _ = worker.log.Write([]byte(mark))
	s.keep("answer of the proof", mark)
	found := haul{}
	s.searchable(found, worker, ended)
	for _, place := range []string{
		"Redis key plain:" + mark, "Redis value of string", "Redis value of hash", "Redis value of list", "Redis value of set", "Redis value of zset",
		"Redis value of encoded", "file " + filepath.Join(s.temp, "file"), "file " + filepath.Join(s.artifacts, "file"), "file " + filepath.Join(s.cache, "file"), "log of worker", "answer of the proof",
	} {
		if formIn(found[place], mark) == "" {
			t.Errorf("the search does not find what was planted in %s", place)
		}
	}
	for _, place := range []string{"log of api", "metrics of api", "metrics of worker", "dashboard /dashboard/", "dashboard /dashboard/api/queues/jobs-interactive/completed_tasks"} {
		if len(found[place]) < 20 {
			t.Errorf("%s was not looked at: %q", place, found[place])
		}
	}
}

// searchable gathers everything that can be looked at.
func (s *system) searchable(found haul, worker *process, ended []view) {
	s.t.Helper()
	for _, process := range s.logs {
		found["log of "+process.name] = process.log.String()
	}
	s.redisTexts(found)
	for _, answer := range s.answers() {
		found[answer[0]] += "\n" + answer[1]
	}
	found["metrics of api"] = s.page(s.apiOps + "/metrics")
	found["metrics of worker"] = s.page(worker.ops + "/metrics")
	pages := []string{"/dashboard/", "/dashboard/batches", "/dashboard/api/queues", "/dashboard/api/servers"}
	for _, state := range []string{"pending", "active", "scheduled", "retry", "archived", "completed"} {
		pages = append(pages, "/dashboard/api/queues/jobs-interactive/"+state+"_tasks")
	}
	for _, job := range ended {
		pages = append(pages, "/dashboard/api/queues/jobs-interactive/tasks/"+job.ID+".0.0")
	}
	for _, page := range pages {
		found["dashboard "+page] = s.page(s.apiOps + page)
	}
	for _, folder := range []string{s.temp, s.artifacts, s.cache} {
		err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			text, err := os.ReadFile(path)
			found["file "+path] = path + "\n" + string(text)
			return err
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *system) page(address string) string {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	request.SetBasicAuth("operator", dashboardPassword)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintln(response.Header) + string(text)
}

// redisTexts reads every key and every value, whatever its type.
func (s *system) redisTexts(found haul) {
	s.t.Helper()
	client, ctx := s.redis.Client(), s.t.Context()
	keys := client.Scan(ctx, 0, "*", 100).Iterator()
	for keys.Next(ctx) {
		key := keys.Val()
		found["Redis key "+key] = key
		var value any
		var err error
		switch kind := client.Type(ctx, key).Val(); kind {
		case "string":
			value, err = client.Get(ctx, key).Result()
		case "hash":
			value, err = client.HGetAll(ctx, key).Result()
		case "list":
			value, err = client.LRange(ctx, key, 0, -1).Result()
		case "set":
			value, err = client.SMembers(ctx, key).Result()
		case "zset":
			value, err = client.ZRange(ctx, key, 0, -1).Result()
		case "none": // it ran out meanwhile
		default:
			s.t.Fatalf("nobody looks into a %s, such as %s", kind, key)
		}
		if err != nil && !errors.Is(err, redis.Nil) {
			s.t.Fatal(err)
		}
		found["Redis value of "+key] = fmt.Sprint(value)
	}
	if err := keys.Err(); err != nil {
		s.t.Fatal(err)
	}
}

// formIn says in which form secret stands in text, or nothing.
func formIn(text, secret string) string {
	forms := map[string]string{
		"it is": secret, "hex": hex.EncodeToString([]byte(secret)), "an escaped URL": url.QueryEscape(secret), "quoted JSON": strings.Trim(fmt.Sprintf("%q", secret), `"`),
	}
	// base64 of a text with the secret at any of the three offsets within a group of three bytes, without what its neighbours share.
	for offset := range 3 {
		padded := strings.Repeat("\x00", offset) + secret
		encoded := base64.StdEncoding.EncodeToString([]byte(padded[:len(padded)-len(padded)%3]))
		forms[fmt.Sprintf("base64 at offset %d", offset)] = encoded[(offset*8+5)/6:]
	}
	// A JWT's payload and signature are secrets of their own.
	if parts := strings.Split(secret, "."); len(parts) == 3 {
		forms["a JWT's payload"], forms["a JWT's signature"] = parts[1], parts[2]
	}
	for name, form := range forms {
		if strings.Contains(text, form) {
			return name
		}
	}
	return ""
}
