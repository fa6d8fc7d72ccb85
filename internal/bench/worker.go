package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/lib/environments"
	"github.com/anthropics/anthropic-sdk-go/option"
)

// maxIdle is how long the workers stay with a session whose turn has ended.
const maxIdle = 20 * time.Millisecond

// workers are the workers under measurement, each in a process of its own.
var workers = []struct {
	name string
	// slow tells that it pauses between empty polls, so that measuring how soon
	// it claims takes long.
	slow  bool
	start func(ctx context.Context, p *platform, environmentID, key string) (*program, error)
}{
	{"hearth worker", false, hearthWorker},
	{"official Go worker", true, officialWorker},
}

func hearthWorker(ctx context.Context, p *platform, environmentID, key string) (*program, error) {
	return start(ctx, p.cfg, []string{"HEARTH_ENVIRONMENT_KEY=" + key},
		"worker", "--base-url", p.url, "--environment-id", environmentID, "--engine", p.cfg.Engine,
		"--state", "DIR", "--max-idle", maxIdle.String(), "--drain", "1s", "--log-level", "warn")
}

// officialCommand are the arguments by which this program is the official worker.
var officialCommand = []string{"bench", "official-worker"}

func officialWorker(ctx context.Context, p *platform, environmentID, key string) (*program, error) {
	return start(ctx, p.cfg, []string{"ANTHROPIC_BASE_URL=" + p.url, "ANTHROPIC_ENVIRONMENT_ID=" + environmentID, "ANTHROPIC_ENVIRONMENT_KEY=" + key}, officialCommand...)
}

// OfficialWorker runs the worker of the official Go SDK, as that SDK's own
// examples do, in the current directory, until ctx ends. Where to work is in
// the ANTHROPIC_* variables.
func OfficialWorker(ctx context.Context) error {
	idle := maxIdle
	workdir, err := os.Getwd()
	if err != nil {
		return err
	}
	w := environments.NewEnvironmentWorker(
		anthropic.NewClient(option.WithBaseURL(os.Getenv("ANTHROPIC_BASE_URL"))),
		environments.EnvironmentWorkerOptions{
			EnvironmentID: os.Getenv("ANTHROPIC_ENVIRONMENT_ID"), EnvironmentKey: os.Getenv("ANTHROPIC_ENVIRONMENT_KEY"),
			Workdir: workdir, MaxIdle: &idle, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
	if err := w.Run(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("the official worker: %w", err)
	}
	return nil
}

// eachWorker measures with every kind of worker on one server, one after the
// other.
func eachWorker(ctx context.Context, cfg Config, measure func(p *platform, environmentID string, slow bool) error) error {
	p, err := open(ctx, cfg, "")
	if err != nil {
		return err
	}
	defer p.close()
	for _, w := range workers {
		environmentID, key, err := p.environment(ctx, w.name)
		if err != nil {
			return err
		}
		running, err := w.start(ctx, p, environmentID, key)
		if err != nil {
			return err
		}
		err = measure(p, environmentID, w.slow)
		running.end()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", w.name, err, running.said.String())
		}
	}
	return nil
}
