package gvisor_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/gvisor"
	"hearth/internal/hands/sandbox/sandboxtest"
)

// programName is the variable by which the processes of the suite tell each
// other where the statically linked program is.
const programName = "GVISOR_TEST_PROGRAM"

func TestMain(m *testing.M) {
	sandboxtest.MaybeRun(newEngine)
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv(programName) == "" {
		// Not t.TempDir, which only its owner may enter.
		dir, err := os.MkdirTemp("", "gvisor-test-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = build(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// build links hearth without C libraries, as this test binary may not be.
func build(dir string) error {
	program := filepath.Join(dir, "hearth")
	cmd := exec.Command("go", "build", "-o", program, "hearth/cmd/hearth")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build hearth: %w\n%s", err, out)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	return os.Setenv(programName, program)
}

var groups = sandboxtest.Groups()

func newEngine(stateDir string) sandbox.Engine {
	return gvisor.New(gvisor.Config{StateDir: stateDir, Groups: groups, Program: os.Getenv(programName), Log: slog.New(slog.DiscardHandler)})
}

func TestLimits(t *testing.T) { sandboxtest.ExerciseLimits(t, newEngine, groups) }

func TestEngine(t *testing.T) { sandboxtest.Exercise(t, newEngine) }

func TestParking(t *testing.T) { sandboxtest.ExerciseParking(t, newEngine) }

func TestIsolation(t *testing.T) { sandboxtest.ExerciseIsolation(t, newEngine) }

// ordinary is what an ordinary user's tests are: the walls, and what of the
// rest depends on whose they are. A sandbox's own kernel makes a full second
// round cost half a minute.
const ordinary = "^TestIsolation$|^TestEngine$/^(bash|destroy|hand_dies|identity|limits|many_sandboxes_at_once|owner_killed|workdir|write)$|^TestParking$"

func TestAsOrdinaryUser(t *testing.T) {
	sandboxtest.AsOrdinaryUser(t, ordinary, programName+"="+os.Getenv(programName))
}

func BenchmarkEngine(b *testing.B) { sandboxtest.Benchmark(b, newEngine) }
