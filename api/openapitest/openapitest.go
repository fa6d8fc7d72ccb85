// Package openapitest holds answers of the API against its OpenAPI document, in
// tests: every JSON body, every error, and every event of a stream.
package openapitest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"hearth/api"
)

// contract is the document with its schemas compiled as they are needed.
type contract struct {
	paths map[string]map[string]json.RawMessage
	forms []form // those with fewer parameters first

	mu       sync.Mutex
	compiler *jsonschema.Compiler          // guarded by mu
	compiled map[string]*jsonschema.Schema // by location; guarded by mu
}

// form is a path with parameters, as an expression.
type form struct {
	path    string
	matches *regexp.Regexp
}

const location = "hearth:openapi.json"

var parameter = regexp.MustCompile(`\\\{[a-z_]+\\\}`)

var load = sync.OnceValues(func() (*contract, error) {
	var document struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(api.OpenAPI, &document); err != nil {
		return nil, err
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(api.OpenAPI))
	if err != nil {
		return nil, err
	}
	c := &contract{paths: document.Paths, compiler: jsonschema.NewCompiler(), compiled: map[string]*jsonschema.Schema{}}
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource(location, parsed); err != nil {
		return nil, err
	}
	for path := range document.Paths {
		expression := "^" + parameter.ReplaceAllString(regexp.QuoteMeta(path), "[^/]+") + "$"
		c.forms = append(c.forms, form{path, regexp.MustCompile(expression)})
	}
	// Of two that match, the one with fewer parameters is meant.
	slices.SortFunc(c.forms, func(a, b form) int {
		return cmp.Or(cmp.Compare(strings.Count(a.path, "{"), strings.Count(b.path, "{")), cmp.Compare(a.path, b.path))
	})
	return c, nil
})

// find returns the documented path of a request; one without parameters first.
func (c *contract) find(path string) (string, bool) {
	if _, ok := c.paths[path]; ok {
		return path, true
	}
	for _, f := range c.forms {
		if f.matches.MatchString(path) {
			return f.path, true
		}
	}
	return "", false
}

func (c *contract) schema(pointer string) (*jsonschema.Schema, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.compiled[pointer]; ok {
		return s, nil
	}
	s, err := c.compiler.Compile(location + "#" + pointer)
	if err == nil {
		c.compiled[pointer] = s
	}
	return s, err
}

func (c *contract) check(pointer string, body []byte) error {
	schema, err := c.schema(pointer)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("not JSON: %w", err)
	}
	return schema.Validate(value)
}

// pointerTo is the place of an answer's schema in the document.
func pointerTo(path, method, status, kind string) string {
	escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
	return "/paths/" + escape.Replace(path) + "/" + strings.ToLower(method) + "/responses/" + status + "/content/" + escape.Replace(kind) + "/schema"
}

// Documented is the documented path that a request's path stands for.
func Documented(path string) (documented string, ok bool) {
	c, err := load()
	if err != nil {
		return "", false
	}
	return c.find(path)
}

const errorSchema = "/components/responses/Error/content/application~1json/schema"

// Check holds one answer with a JSON body against the contract. Paths that are
// not under /v1 are not the contract's.
func Check(method, path string, status int, body []byte) error {
	if !strings.HasPrefix(path, "/v1/") {
		return nil
	}
	c, err := load()
	if err != nil {
		return err
	}
	if status >= 400 {
		return c.check(errorSchema, body)
	}
	documented, ok := c.find(path)
	if !ok {
		return fmt.Errorf("%s is not in the contract", path)
	}
	return c.check(pointerTo(documented, method, "200", "application/json"), body)
}

// CheckEvent holds one event of a stream against the contract.
func CheckEvent(method, path string, data []byte) error {
	c, err := load()
	if err != nil {
		return err
	}
	documented, ok := c.find(path)
	if !ok {
		return fmt.Errorf("%s is not in the contract", path)
	}
	return c.check(pointerTo(documented, method, "200", "text/event-stream"), data)
}

// Transport passes requests on to base (nil for the default) and fails the test
// for each answer that is not as the contract has it.
func Transport(tb testing.TB, base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{tb: tb, base: base}
}

type transport struct {
	tb   testing.TB
	base http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.base.RoundTrip(r)
	if err != nil || !strings.HasPrefix(r.URL.Path, "/v1/") {
		return response, err
	}
	if id := response.Header.Get("request-id"); id == "" {
		t.tb.Errorf("%s %s: the answer has no request-id", r.Method, r.URL.Path)
	}
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		response.Body = &eventChecker{ReadCloser: response.Body, tb: t.tb, method: r.Method, path: r.URL.Path}
		return response, nil
	}
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); kind != "application/json" && response.StatusCode < 300 {
		if err := checkKind(r.Method, r.URL.Path, kind); err != nil {
			t.tb.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		}
		return response, nil
	}
	body, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil {
		return nil, err
	}
	response.Body = io.NopCloser(bytes.NewReader(body))
	if err := Check(r.Method, r.URL.Path, response.StatusCode, body); err != nil {
		t.tb.Errorf("%s %s answered %d, not as in the contract: %v\n%.2000s", r.Method, r.URL.Path, response.StatusCode, err, body)
	}
	return response, nil
}

// checkKind tells whether an answer that is not JSON may be of its kind: where
// the contract has bytes, they may say what they are.
func checkKind(method, path, kind string) error {
	c, err := load()
	if err != nil {
		return err
	}
	documented, ok := c.find(path)
	if !ok {
		return fmt.Errorf("%s is not in the contract", path)
	}
	var operation struct {
		Responses map[string]struct{ Content map[string]any }
	}
	if err := json.Unmarshal(c.paths[documented][strings.ToLower(method)], &operation); err != nil {
		return err
	}
	content := operation.Responses["200"].Content
	if content[kind] == nil && content["application/octet-stream"] == nil {
		return fmt.Errorf("the answer is %q, which the contract does not have", kind)
	}
	return nil
}

// eventChecker checks the events of a stream as they are read.
type eventChecker struct {
	io.ReadCloser
	tb      testing.TB
	method  string
	path    string
	partial []byte // of a line
}

func (e *eventChecker) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	e.partial = append(e.partial, p[:n]...)
	for {
		line, rest, whole := bytes.Cut(e.partial, []byte("\n"))
		if !whole {
			return n, err
		}
		e.partial = bytes.Clone(rest)
		data, ok := bytes.CutPrefix(line, []byte("data: "))
		if !ok || bytes.Contains(data, []byte(`"type":"ping"`)) {
			continue
		}
		if err := CheckEvent(e.method, e.path, data); err != nil {
			e.tb.Errorf("an event of %s is not as in the contract: %v\n%.2000s", e.path, err, data)
		}
	}
}

// Proxy is a server in front of target that checks every answer, for clients
// that are programs of their own.
func Proxy(tb testing.TB, target string) http.Handler {
	to, err := url.Parse(target)
	if err != nil {
		tb.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.Transport = Transport(tb, nil)
	proxy.FlushInterval = -1
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	return proxy
}
