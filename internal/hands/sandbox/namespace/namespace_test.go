package namespace_test

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

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

// launcher finds the process that starts sandboxes.
func launcher(t *testing.T) int {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var found []int
	for _, list := range lists {
		children, _ := os.ReadFile(list) // empty where the thread has ended
		for _, pid := range strings.Fields(string(children)) {
			if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); strings.HasPrefix(string(line), "hearth-launcher") {
				n, _ := strconv.Atoi(pid) // the kernel writes numbers
				found = append(found, n)
			}
		}
	}
	if len(found) != 1 {
		t.Fatalf("there are %d launchers", len(found))
	}
	return found[0]
}

func signal(t *testing.T, pid int, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		t.Fatal(err)
	}
}

// TestLauncherKilled kills the process that starts sandboxes: those it has started
// go on, and new ones can be made.
func TestLauncherKilled(t *testing.T) {
	sandboxtest.Outlives(t, newEngine, func() { signal(t, launcher(t), syscall.SIGKILL) })
}

// TestLauncherHangs: nobody waits for a launcher longer than they want to, and what it
// was told to start is not left behind.
func TestLauncherHangs(t *testing.T) {
	sandboxtest.Outlives(t, newEngine, func() {
		state := t.TempDir()
		pid := launcher(t)
		signal(t, pid, syscall.SIGSTOP)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		_, err := newEngine(state).Create(ctx, sandbox.Spec{ID: strings.ToLower(rand.Text()), Workdir: filepath.Join(state, "work")})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a launcher that hangs makes sandboxes with %v", err)
		}
		signal(t, pid, syscall.SIGCONT)
		if left, err := newEngine(state).List(t.Context()); err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v", left, err)
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
