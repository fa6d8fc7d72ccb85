// Package conformance runs the official SDKs, unmodified, against hearth serve,
// and hearth worker beside the official workers on the same scenarios. Every
// answer is held against the API's OpenAPI document on its way.
package conformance

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"

	"hearth/client"
	"hearth/internal/db/dbtest"
	"hearth/test/run"
	"path/filepath"
)

func TestMain(m *testing.M) {
	if os.Getenv(itemVariable) != "" {
		handleItem()
		return
	}
	// These tests wait for processes and leases more than they compute.
	if err := flag.Set("test.parallel", "10"); err != nil {
		panic(err)
	}
	os.Exit(run.Main(m))
}

// site is an environment with a key for its workers.
type site struct {
	*run.Brain
	environmentID, key string
}

func newSite(t *testing.T, b *run.Brain, name string) *site {
	t.Helper()
	e, err := b.Client.SDK().Beta.Environments.New(t.Context(), anthropic.BetaEnvironmentNewParams{
		Name: name, Config: anthropic.BetaEnvironmentNewParamsConfigUnion{OfSelfHosted: &anthropic.BetaSelfHostedConfigParams{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	key, err := b.Client.CreateKey(t.Context(), e.ID, client.KeyParams{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return &site{b, e.ID, key.Key}
}

// maxIdle is how long workers stay with a session whose turn has ended.
const maxIdle = 300 * time.Millisecond

// workers are the kinds of worker every scenario runs with, each a process that
// keeps its files in dir.
var workers = map[string]func(t *testing.T, s *site, dir string) run.Program{
	"official Go":         goWorker,
	"official TypeScript": tsWorker,
	"hearth process":      func(t *testing.T, s *site, dir string) run.Program { return hearthWorker(t, s, dir, "process") },
	"hearth gvisor":       func(t *testing.T, s *site, dir string) run.Program { return hearthWorker(t, s, dir, "gvisor") },
	"hearth namespace":    func(t *testing.T, s *site, dir string) run.Program { return hearthWorker(t, s, dir, "namespace") },
	"hearth --on-work":    onWork,
}

func goWorker(t *testing.T, s *site, dir string) run.Program {
	cmd := run.Hearth(t, "bench", "official-worker")
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, "ANTHROPIC_BASE_URL="+s.URL, "ANTHROPIC_API_KEY=a-key-no-worker-may-send",
		"ANTHROPIC_ENVIRONMENT_ID="+s.environmentID, "ANTHROPIC_ENVIRONMENT_KEY="+s.key)
	return run.Begin(t, cmd)
}

func tsWorker(t *testing.T, s *site, dir string) run.Program {
	return run.Begin(t, run.TypeScript(t, "ts/worker.mjs",
		"HEARTH_URL="+s.URL, "HEARTH_ENVIRONMENT_ID="+s.environmentID, "HEARTH_WORKER_KEY="+s.key,
		"HEARTH_WORKDIR="+dir, fmt.Sprintf("HEARTH_MAX_IDLE_MS=%d", maxIdle.Milliseconds())))
}

func hearthWorker(t *testing.T, s *site, dir, engine string) run.Program {
	cmd := run.Hearth(t, "worker", "--base-url", s.URL, "--environment-id", s.environmentID,
		"--engine", engine, "--state", filepath.Base(dir), "--pool", "1", "--max-idle", maxIdle.String(), "--drain", "2s")
	cmd.Dir = filepath.Dir(dir) // a relative directory does as well
	cmd.Env = append(cmd.Env, "HEARTH_ENVIRONMENT_KEY="+s.key)
	return run.Begin(t, cmd)
}

// TestWorkers runs every scenario with every kind of worker.
func TestWorkers(t *testing.T) {
	t.Parallel()
	b := run.Serve(t)
	for kind := range workers {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			runScenarios(t, b, kind)
		})
	}
}

func runScenarios(t *testing.T, b *run.Brain, kind string) {
	s := newSite(t, b, kind)
	workers[kind](t, s, t.TempDir())
	for _, scenario := range scenarios {
		t.Run(scenario.name, func(t *testing.T) { scenario.run(t, s) })
	}
}

// TestPostgres runs the scenarios on a server that keeps everything in Postgres.
func TestPostgres(t *testing.T) {
	t.Parallel()
	b := run.Serve(t, "--database-url", dbtest.PostgresURL(t))
	for _, kind := range []string{"official Go", "hearth namespace"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			runScenarios(t, b, kind)
		})
	}
}
