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

func newEngine(stateDir string) sandbox.Engine {
	return process.New(stateDir, slog.New(slog.DiscardHandler))
}

func TestEngine(t *testing.T) { sandboxtest.Exercise(t, newEngine) }

func BenchmarkEngine(b *testing.B) { sandboxtest.Benchmark(b, newEngine) }
