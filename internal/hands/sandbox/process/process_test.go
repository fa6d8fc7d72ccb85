package process_test

import (
	"log/slog"
	"os"
	"testing"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/process"
	"hearth/internal/hands/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.MaybeRun(newEngine)
	os.Exit(m.Run())
}

var groups = sandboxtest.Groups()

func newEngine(stateDir string) sandbox.Engine {
	return process.New(stateDir, groups, slog.New(slog.DiscardHandler))
}

func TestLimits(t *testing.T) { sandboxtest.ExerciseLimits(t, newEngine, groups) }

func TestEngine(t *testing.T) { sandboxtest.Exercise(t, newEngine) }

func BenchmarkEngine(b *testing.B) { sandboxtest.Benchmark(b, newEngine) }
