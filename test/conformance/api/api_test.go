// Package api has the official Go and TypeScript SDKs call every method they
// have for managed agents on a live server. A proxy between holds each answer
// against the OpenAPI document and notes which endpoint was called by which
// SDK in which test; docs/api-coverage.md is made of these notes.
package api

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"hearth/api/openapitest"
	"hearth/internal/db/dbtest"
	"hearth/test/run"
)

var update = flag.Bool("update", false, "write docs/api-coverage.md anew")

func TestMain(m *testing.M) {
	flag.Parse()
	code := run.Main(m)
	if code == 0 {
		if err := account(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// server is a live server as one test sees it.
type server struct {
	*run.Brain
	t *testing.T
	// SDK is the official Go client, with the operator's key.
	SDK anthropic.Client
}

// each runs a test on a server with SQLite and on one with Postgres.
func each(t *testing.T, test func(t *testing.T, s *server), args ...string) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, args...))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, start(t, append(args, "--database-url", dbtest.PostgresURL(t))...))
	})
}

func start(t *testing.T, args ...string) *server {
	t.Helper()
	b := run.ServeBehind(t, func(next http.Handler) http.Handler { return calls.note(t, next) }, args...)
	return &server{Brain: b, t: t, SDK: anthropic.NewClient(option.WithBaseURL(b.URL), option.WithAPIKey(b.Key), option.WithMaxRetries(0))}
}

// typeScript runs a program of ts/ against the server. It finds the address
// and the key in HEARTH_URL and HEARTH_KEY, and exits with 0 if all is well.
func (s *server) typeScript(name string, env ...string) {
	s.t.Helper()
	cmd := run.TypeScript(s.t, filepath.Join("ts", name), append([]string{"HEARTH_URL=" + s.URL, "HEARTH_KEY=" + s.Key}, env...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Errorf("%s: %v\n%s", name, err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// notes are the calls that were answered well.
type notes struct {
	mu   sync.Mutex
	made map[string]map[string][]string // tests by endpoint and SDK; guarded by mu
}

var calls = &notes{made: map[string]map[string][]string{}}

// sdks are the clients, by how they name themselves.
var sdks = map[string]string{"go": "Go", "js": "TypeScript"}

func (n *notes) note(t *testing.T, next http.Handler) http.Handler {
	name, _, _ := strings.Cut(t.Name(), "/")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ok := openapitest.Documented(r.URL.Path)
		sdk := sdks[r.Header.Get("X-Stainless-Lang")]
		next.ServeHTTP(&statusWriter{w, func(status int) { // before a stream that may outlast the test
			if ok && sdk != "" && status < 400 {
				n.add(r.Method+" "+path, sdk, name)
			}
		}}, r)
	})
}

func (n *notes) add(endpoint, sdk, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.made[endpoint] == nil {
		n.made[endpoint] = map[string][]string{}
	}
	if !slices.Contains(n.made[endpoint][sdk], name) {
		n.made[endpoint][sdk] = append(n.made[endpoint][sdk], name)
	}
}

type statusWriter struct {
	http.ResponseWriter
	answered func(status int)
}

func (w *statusWriter) WriteHeader(status int) {
	w.answered(status)
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets streams be flushed.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// endpoint is one the contract has, with the SDKs' methods for it.
type endpoint struct {
	name   string // method and path
	goName string
	tsName string
}

func endpoints() ([]endpoint, error) {
	raw, err := os.ReadFile("../../../api/openapi.json")
	if err != nil {
		return nil, err
	}
	var document struct {
		Paths map[string]map[string]struct {
			Go []string `json:"x-sdk-go"`
			TS string   `json:"x-sdk-ts"`
		}
	}
	if err := json.Unmarshal(raw, &document); err != nil {
		return nil, err
	}
	var all []endpoint
	for path, operations := range document.Paths {
		for method, o := range operations {
			all = append(all, endpoint{strings.ToUpper(method) + " " + path, strings.Join(o.Go, ", "), o.TS})
		}
	}
	slices.SortFunc(all, func(a, b endpoint) int {
		_, x, _ := strings.Cut(a.name, " ")
		_, y, _ := strings.Cut(b.name, " ")
		return strings.Compare(x+" "+a.name, y+" "+b.name)
	})
	return all, nil
}

const coverageFile = "../../../docs/api-coverage.md"

// account compares what was called with docs/api-coverage.md, or writes it. A
// run of some of the tests only says nothing.
func account() error {
	if flag.Lookup("test.run").Value.String() != "" || flag.Lookup("test.skip").Value.String() != "" {
		return nil
	}
	if _, err := exec.LookPath("node"); err != nil {
		fmt.Fprintln(os.Stderr, "no node here: docs/api-coverage.md is not compared")
		return nil
	}
	made, err := report()
	if err != nil {
		return err
	}
	if *update {
		return os.WriteFile(coverageFile, []byte(made), 0o644)
	}
	kept, err := os.ReadFile(coverageFile)
	if err != nil {
		return err
	}
	if string(kept) != made {
		return fmt.Errorf("docs/api-coverage.md is not what these tests have called: run go test ./test/conformance/api -update\n%s", difference(string(kept), made))
	}
	return nil
}

func report() (string, error) {
	all, err := endpoints()
	if err != nil {
		return "", err
	}
	var rows strings.Builder
	missing, official := 0, 0
	for _, e := range all {
		if e.goName == "" {
			continue // Hearth's own, which no official SDK has
		}
		official++
		cells := []string{}
		for _, sdk := range []string{"Go", "TypeScript"} {
			tests := slices.Sorted(slices.Values(calls.made[e.name][sdk]))
			if len(tests) == 0 {
				tests = []string{"**missing**"}
			}
			cells = append(cells, strings.Join(tests, ", "))
		}
		if strings.Contains(strings.Join(cells, ""), "**missing**") {
			missing++
		}
		fmt.Fprintf(&rows, "| `%s` | %s | %s | %s | %s |\n", e.name, e.goName, cells[0], e.tsName, cells[1])
	}
	return fmt.Sprintf(`# Which endpoints the tests call

Made by %s: every endpoint the official
SDKs know, and the tests of that package in which the official Go and TypeScript
SDKs called it on a live server, were answered, and got an answer that is as the
OpenAPI document has it.

%d endpoints, %d of them not called by both.

| endpoint | Go method | called in | TypeScript method | called in |
|---|---|---|---|---|
%s`, "`go test ./test/conformance/api -update`", official, missing, rows.String()), nil
}

// difference are the lines that only one of two texts has.
func difference(a, b string) string {
	var out strings.Builder
	inA, inB := strings.Split(a, "\n"), strings.Split(b, "\n")
	for _, line := range inA {
		if !slices.Contains(inB, line) {
			out.WriteString("- " + line + "\n")
		}
	}
	for _, line := range inB {
		if !slices.Contains(inA, line) {
			out.WriteString("+ " + line + "\n")
		}
	}
	return out.String()
}
