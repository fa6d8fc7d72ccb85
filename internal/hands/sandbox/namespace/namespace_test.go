package namespace_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/namespace"
	"hearth/internal/hands/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	sandboxtest.MaybeRun(newEngine)
	os.Exit(m.Run())
}

var groups = sandboxtest.Groups()

func newEngine(stateDir string) sandbox.Engine {
	return namespace.New(namespace.Config{StateDir: stateDir, Groups: groups, Log: slog.New(slog.DiscardHandler)})
}

func TestLimits(t *testing.T) { sandboxtest.ExerciseLimits(t, newEngine, groups) }

func TestAhead(t *testing.T) { sandboxtest.ExerciseAhead(t, newEngine) }

func TestEngine(t *testing.T) { sandboxtest.Exercise(t, newEngine) }

func TestIsolation(t *testing.T) { sandboxtest.ExerciseIsolation(t, newEngine) }

func TestAsOrdinaryUser(t *testing.T) {
	pattern := "^TestIsolation$|^TestEngine$/^(bash|destroy|hand_dies|identity|many_sandboxes_at_once|owner_killed|workdir|write)$|^TestLimits$/^disk_behind_a_mode$"
	if sandboxtest.Everything() {
		pattern = "^Test(Engine|Isolation|Limits)$"
	}
	sandboxtest.AsOrdinaryUser(t, pattern)
}

func BenchmarkEngine(b *testing.B) { sandboxtest.Benchmark(b, newEngine) }

// TestLauncherKilled kills the process that starts sandboxes: those it has started
// go on, and new ones can be made.
func TestLauncherKilled(t *testing.T) {
	sandboxtest.Outlives(t, newEngine, func() {
		lists, err := filepath.Glob("/proc/self/task/*/children")
		if err != nil {
			t.Fatal(err)
		}
		killed := 0
		for _, list := range lists {
			children, _ := os.ReadFile(list) // empty where the thread has ended
			for _, pid := range strings.Fields(string(children)) {
				if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); !strings.HasPrefix(string(line), "hearth-launcher") {
					continue
				}
				n, _ := strconv.Atoi(pid) // the kernel writes numbers
				if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				killed++
			}
		}
		if killed != 1 {
			t.Fatalf("%d launchers killed", killed)
		}
	})
}

// TestOddPath: the state directory may be called as other files may.
func TestOddPath(t *testing.T) {
	sandboxtest.ExerciseSome(t, func(stateDir string) sandbox.Engine { return newEngine(filepath.Join(stateDir, `a,b:c\d e`)) }, "install")
}

// TestOnImage runs what depends on where the root comes from.
func TestOnImage(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount an image")
	}
	sandboxtest.ExerciseSome(t, sandboxtest.OnImage(t, newEngine), sandboxtest.OfRoots...)
}
