// Package conformance runs the official SDKs, unmodified, against hearth serve,
// and hearth worker beside the official workers on the same scenarios. Every
// answer is held against the API's OpenAPI document on its way.
package conformance

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/api/openapitest"
	"hearth/client"
	"hearth/internal/db/dbtest"
)

// patience bounds every wait; nothing is expected to take that long.
const patience = time.Minute

// binary is hearth, built once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hearth-conformance-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hearth")
	build := exec.Command("go", "build", "-o", path, "hearth/cmd/hearth")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // for gVisor
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build hearth: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	if os.Getenv(itemVariable) != "" {
		handleItem()
		return
	}
	// These tests wait for processes and leases more than they compute.
	if err := flag.Set("test.parallel", "10"); err != nil {
		panic(err)
	}
	code := m.Run()
	if path, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// hearthCommand is a hearth command that has yet to begin.
func hearthCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	return cmd
}

// program is a command that has begun.
type program struct {
	*exec.Cmd
	ended chan struct{} // closed once it has
}

// begin starts a command that ends with the test, whose log is shown if it fails.
func begin(t *testing.T, cmd *exec.Cmd) program {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := program{cmd, make(chan struct{})}
	go func() {
		_ = cmd.Wait() // tests end programs in every way there is
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if !p.ends() {
			t.Errorf("%v does not end", cmd.Args)
			_ = cmd.Process.Kill()
		}
		if t.Failed() {
			raw, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%s", strings.Join(cmd.Args[1:], " "), tail(raw))
		}
	})
	return p
}

// ends waits for the program's end.
func (p program) ends() bool {
	select {
	case <-p.ended:
		return true
	case <-time.After(patience):
		return false
	}
}

func tail(raw []byte) []byte { return raw[max(0, len(raw)-6000):] }

// brain is a running hearth serve behind a proxy that checks its answers.
type brain struct {
	url, direct, key string
	client           *client.Client
}

// serve starts hearth serve.
func serve(t *testing.T, args ...string) *brain {
	t.Helper()
	data := t.TempDir()
	begin(t, hearthCommand(t, append([]string{"serve", "--listen", "127.0.0.1:0", "--data", data, "--lease-ttl", "4s", "--ping-interval", "1s"}, args...)...))
	var info struct {
		BaseURL string `json:"base_url"`
		APIKey  string `json:"api_key"`
	}
	eventually(t, "the server is ready", func() bool {
		raw, err := os.ReadFile(filepath.Join(data, "serve.json"))
		return err == nil && json.Unmarshal(raw, &info) == nil
	})
	proxy := httptest.NewServer(openapitest.Proxy(t, info.BaseURL))
	t.Cleanup(func() { proxy.CloseClientConnections(); proxy.Close() })
	return &brain{url: proxy.URL, direct: info.BaseURL, key: info.APIKey, client: client.New(proxy.URL, info.APIKey)}
}

func eventually(t *testing.T, what string, happened func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if happened() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

// site is an environment with a key for its workers.
type site struct {
	*brain
	environmentID, key string
}

func newSite(t *testing.T, b *brain, name string) *site {
	t.Helper()
	e, err := b.client.SDK().Beta.Environments.New(t.Context(), anthropic.BetaEnvironmentNewParams{
		Name: name, Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfSelfHosted: &anthropic.BetaSelfHostedConfigParams{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := b.client.CreateKey(t.Context(), e.ID, client.KeyParams{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return &site{b, e.ID, key.Key}
}

// maxIdle is how long workers stay with a session whose turn has ended.
const maxIdle = 300 * time.Millisecond

// workers are the kinds of worker every scenario runs with, each a process that
// keeps its files in dir.
var workers = map[string]func(t *testing.T, s *site, dir string) program{
	"official Go":         goWorker,
	"official TypeScript": tsWorker,
	"hearth process":      func(t *testing.T, s *site, dir string) program { return hearthWorker(t, s, dir, "process") },
	"hearth gvisor":       func(t *testing.T, s *site, dir string) program { return hearthWorker(t, s, dir, "gvisor") },
	"hearth namespace":    func(t *testing.T, s *site, dir string) program { return hearthWorker(t, s, dir, "namespace") },
	"hearth --on-work":    onWork,
}

func goWorker(t *testing.T, s *site, dir string) program {
	cmd := hearthCommand(t, "bench", "official-worker")
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, "ANTHROPIC_BASE_URL="+s.url, "ANTHROPIC_API_KEY=a-key-no-worker-may-send",
		"ANTHROPIC_ENVIRONMENT_ID="+s.environmentID, "ANTHROPIC_ENVIRONMENT_KEY="+s.key)
	return begin(t, cmd)
}

func tsWorker(t *testing.T, s *site, dir string) program {
	return begin(t, tsCommand(t, "worker.mjs",
		"HEARTH_URL="+s.url, "HEARTH_ENVIRONMENT_ID="+s.environmentID, "HEARTH_WORKER_KEY="+s.key,
		"HEARTH_WORKDIR="+dir, fmt.Sprintf("HEARTH_MAX_IDLE_MS=%d", maxIdle.Milliseconds())))
}

func hearthWorker(t *testing.T, s *site, dir, engine string) program {
	cmd := hearthCommand(t, "worker", "--base-url", s.url, "--environment-id", s.environmentID,
		"--engine", engine, "--state", dir, "--pool", "1", "--max-idle", maxIdle.String(), "--drain", "2s")
	cmd.Env = append(cmd.Env, "HEARTH_ENVIRONMENT_KEY="+s.key)
	return begin(t, cmd)
}

// TestWorkers runs every scenario with every kind of worker.
func TestWorkers(t *testing.T) {
	t.Parallel()
	b := serve(t)
	for kind := range workers {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			runScenarios(t, b, kind)
		})
	}
}

func runScenarios(t *testing.T, b *brain, kind string) {
	s := newSite(t, b, kind)
	workers[kind](t, s, t.TempDir())
	for _, scenario := range scenarios {
		t.Run(scenario.name, func(t *testing.T) { scenario.run(t, s) })
	}
}

// TestPostgres runs the scenarios on a server that keeps everything in Postgres.
func TestPostgres(t *testing.T) {
	t.Parallel()
	b := serve(t, "--database-url", dbtest.PostgresURL(t))
	for _, kind := range []string{"official Go", "hearth namespace"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			runScenarios(t, b, kind)
		})
	}
}
