package receiver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/google/go-cmp/cmp"

	"github.com/gitsmith/gitsmith/internal/fault"
	"github.com/gitsmith/gitsmith/internal/forge"
	"github.com/gitsmith/gitsmith/internal/job"
)

// document holds requests and answers against openapi.yaml.
type document struct {
	*openapi3.T
	router routers.Router
}

// readDocument is the document, read once: it takes a quarter of a second.
var readDocument = sync.OnceValues(func() (*document, error) {
	read, err := openapi3.NewLoader().LoadFromData(openAPI)
	if err != nil {
		return nil, err
	}
	router, err := legacy.NewRouter(read) // which validates it, with its examples
	if err != nil {
		return nil, err
	}
	// Callers may meet fields that are new to them; these tests must not.
	for _, name := range []string{"Job", "JobList", "Problem", "EventOutcome", "Installation", "Batch", "BatchList", "BatchRepositoryList"} {
		closeSchema(read.Components.Schemas[name], map[*openapi3.Schema]bool{})
	}
	return &document{read, router}, nil
})

func loadDocument(tb testing.TB) *document {
	tb.Helper()
	read, err := readDocument()
	if err != nil {
		tb.Fatal(err)
	}
	return read
}

// closeSchema refuses fields that are not listed.
func closeSchema(ref *openapi3.SchemaRef, seen map[*openapi3.Schema]bool) {
	if ref == nil || ref.Value == nil || seen[ref.Value] {
		return
	}
	schema := ref.Value
	seen[schema] = true
	if schema.Type.Is("object") && len(schema.Properties) > 0 {
		no := false
		schema.AdditionalProperties = openapi3.AdditionalProperties{Has: &no}
	}
	for _, property := range schema.Properties {
		closeSchema(property, seen)
	}
	closeSchema(schema.Items, seen)
	for _, part := range schema.AllOf {
		closeSchema(part, seen)
	}
}

// check fails the test where an answer is not as documented, or a request was taken that the document refuses.
func (d *document) check(tb testing.TB, request *http.Request, body string, answer reply) {
	tb.Helper()
	input := d.checkAnswer(tb, request, answer)
	if input == nil || answer.Status >= 400 {
		return
	}
	input.Request = request.Clone(tb.Context())
	input.Request.Body = io.NopCloser(strings.NewReader(body))
	if err := openapi3filter.ValidateRequest(tb.Context(), input); err != nil {
		tb.Errorf("%s %s was answered with %d, but the document refuses it: %v", request.Method, request.URL.Path, answer.Status, err)
	}
}

// checkAnswer is the half of check that looks at the answer. It returns what was asked for, nil where that is no route.
func (d *document) checkAnswer(tb testing.TB, request *http.Request, answer reply) *openapi3filter.RequestValidationInput {
	tb.Helper()
	route, params, err := d.router.FindRoute(request)
	if err != nil {
		if answer.Status != http.StatusNotFound && answer.Status != http.StatusMethodNotAllowed {
			tb.Errorf("%s %s is not documented (%v) and answers %d", request.Method, request.URL.Path, err, answer.Status)
		}
		return nil
	}
	input := &openapi3filter.RequestValidationInput{
		Request: request, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: authenticate, IncludeResponseStatus: true},
	}
	output := &openapi3filter.ResponseValidationInput{
		RequestValidationInput: input, Status: answer.Status, Header: answer.Header, Body: io.NopCloser(bytes.NewReader(answer.Body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: request.Method == http.MethodHead},
	}
	if request.Method == http.MethodHead {
		if len(answer.Body) > 0 {
			tb.Errorf("HEAD %s has a body", request.URL.Path)
		}
		input.Request = request.Clone(tb.Context())
		input.Request.Method = http.MethodGet // the library looks at no answer to HEAD
	}
	if err := openapi3filter.ValidateResponse(tb.Context(), output); err != nil {
		tb.Errorf("%s %s: %v\n%s", request.Method, request.URL.Path, err, answer.Body)
	}
	return input
}

// authenticate finds a scheme's header; whether it proves anything is the verifier's.
func authenticate(_ context.Context, input *openapi3filter.AuthenticationInput) error {
	header := input.RequestValidationInput.Request.Header
	switch scheme := input.SecurityScheme; {
	case scheme.Type == "http" && strings.HasPrefix(header.Get("Authorization"), "Bearer "):
		return nil
	case scheme.Type == "apiKey" && header.Get(scheme.Name) != "":
		return nil
	}
	return errors.New("the header is missing")
}

// TestDocumentChecks: the check itself finds what is wrong.
func TestDocumentChecks(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	good := h.do(t, http.MethodPost, "/v1/jobs", h.user(), pushBody)
	for name, tc := range map[string]struct {
		body   string
		answer reply
	}{
		"a request that is refused":     {`{"repository": {}}`, good},
		"a field that is not there":     {pushBody, reply{good.Status, good.Header, bytes.Replace(good.Body, []byte(`"state"`), []byte(`"stat"`), 1)}},
		"a field too many":              {pushBody, reply{good.Status, good.Header, bytes.Replace(good.Body, []byte(`{`), []byte(`{"key":"x",`), 1)}},
		"a status that is not there":    {pushBody, reply{http.StatusTeapot, good.Header, good.Body}},
		"a header that is missing":      {pushBody, reply{good.Status, http.Header{"Content-Type": good.Header["Content-Type"]}, good.Body}},
		"a value that is not one of it": {pushBody, reply{good.Status, good.Header, bytes.Replace(good.Body, []byte(`"queued"`), []byte(`"gone"`), 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/jobs", strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			request.Header = with(h.user(), "Content-Type", "application/json")
			complaints := &recorder{TB: t}
			h.document.check(complaints, request, tc.body, tc.answer)
			if !complaints.failed {
				t.Error("nothing is found wrong")
			}
		})
	}
}

// recorder takes a test's failure for what was wanted.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Errorf(string, ...any) { r.failed = true }

// TestDocumentServed: anyone may read it.
func TestDocumentServed(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	answer := h.do(t, http.MethodGet, "/openapi.yaml", http.Header{}, "")
	if answer.Status != http.StatusOK || !bytes.Equal(answer.Body, openAPI) || answer.Header.Get("Content-Type") != "application/yaml" {
		t.Errorf("status %d, %v, %d bytes", answer.Status, answer.Header, len(answer.Body))
	}
}

// TestDocumentRoutes: every route is documented, and nothing else.
func TestDocumentRoutes(t *testing.T) {
	t.Parallel()
	var served, documented []string
	parameter := regexp.MustCompile(`:([a-z]+)`)
	for _, route := range (&receiver{}).router().Routes() {
		served = append(served, route.Method+" "+parameter.ReplaceAllString(route.Path, "{$1}"))
	}
	d := loadDocument(t)
	for path, item := range d.Paths.Map() {
		for method, operation := range item.Operations() {
			documented = append(documented, method+" "+path)
			if open := operation.Security != nil && len(*operation.Security) == 0; open != (path == "/openapi.yaml") {
				t.Errorf("%s %s: without a FIT is %v", method, path, open)
			}
		}
	}
	slices.Sort(served)
	slices.Sort(documented)
	if diff := cmp.Diff(served, documented); diff != "" {
		t.Error("served (-), documented (+):\n" + diff)
	}
}

// TestDocumentSays: names and limits are those of the code.
func TestDocumentSays(t *testing.T) {
	t.Parallel()
	d := loadDocument(t)
	schema := func(path ...string) *openapi3.Schema {
		found := d.Components.Schemas[path[0]]
		for _, name := range path[1:] {
			found = found.Value.Properties[name]
		}
		if found == nil {
			t.Fatalf("no schema %v", path)
		}
		return found.Value
	}
	var kinds, states []any
	for _, kind := range fault.Kinds() {
		kinds = append(kinds, kind.String())
	}
	for _, state := range job.States() {
		states = append(states, string(state))
	}
	limits := job.DefaultLimits()
	for name, pair := range map[string][2]any{
		"kinds":       {schema("Kind").Enum, kinds},
		"states":      {schema("State").Enum, states},
		"actors":      {schema("Actor").Enum, []any{string(forge.ActorSystem), string(forge.ActorUser)}},
		"archives":    {schema("Archive").Enum, []any{"tar.gz", "zip", "bundle", "none"}},
		"paths":       {int(*schema("Clone", "paths").MaxItems), limits.Paths},
		"message":     {int(*schema("Push", "message").MaxLength), limits.MessageSize},
		"description": {int(*schema("Push", "pull_request", "description").MaxLength), limits.MessageSize},
		"conflicts":   {schema("Push", "on_conflict").Enum, []any{string(job.OnConflictUpdate), string(job.OnConflictSkip), string(job.OnConflictFail)}},
		"changes":     {int(*schema("Push", "changes").MaxItems), limits.Edit.Changes},
		"path":        {int(*schema("Path").MaxLength), limits.Edit.PathBytes},
		"glob":        {int(*schema("Glob").MaxLength), limits.Edit.PathBytes},
		"globs":       {int(*schema("Change", "replace", "paths").MaxItems), limits.Edit.Globs},
		"detail":      {int(*schema("Problem", "detail").MaxLength), fault.MaxPublic},
		"page":        {int(*d.Paths.Find("/v1/jobs").Get.Parameters.GetByInAndName("query", "limit").Schema.Value.Max), maxPage},
		"key":         {int(*d.Paths.Find("/v1/jobs").Post.Parameters.GetByInAndName("header", "Idempotency-Key").Schema.Value.MaxLength), maxKey},
	} {
		if diff := cmp.Diff(pair[1], pair[0]); diff != "" {
			t.Errorf("%s: code (-), document (+):\n%s", name, diff)
		}
	}
	for name, header := range map[string]string{"systemToken": forge.HeaderSystemToken, "userToken": forge.HeaderUserToken} {
		if documented := d.Components.SecuritySchemes[name].Value.Name; !strings.EqualFold(documented, header) {
			t.Errorf("%s is documented as %s, read from %s", name, documented, header)
		}
	}
}

// TestDocumentLinks: each link of an example leads to a documented route.
func TestDocumentLinks(t *testing.T) {
	t.Parallel()
	d := loadDocument(t)
	methods := map[string]string{"self": http.MethodGet, "cancel": http.MethodPost, "retry": http.MethodPost, "artifact": http.MethodGet}
	for name, example := range d.Components.Examples {
		links, ok := example.Value.Value.(map[string]any)["links"].(map[string]any)
		if !ok {
			t.Fatalf("%s has no links", name)
		}
		for relation, target := range links {
			path, err := url.Parse(target.(string))
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := d.router.FindRoute(&http.Request{Method: methods[relation], URL: path}); err != nil {
				t.Errorf("%s, %s: %v", name, relation, err)
			}
		}
	}
}
