package gvisor_test

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/gvisor"
	"hearth/internal/hands/sandbox/sandboxtest"
	"hearth/test/build"
)

// programName and handName are the variables by which the processes of the suite
// tell each other where the statically linked programs are.
const (
	programName = "GVISOR_TEST_PROGRAM"
	handName    = "GVISOR_TEST_HAND"
)

func TestMain(m *testing.M) {
	sandboxtest.MaybeRun(newEngine)
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Much of the time goes into waiting.
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	if os.Getenv(programName) == "" {
		// Not t.TempDir, which only its owner may enter.
		dir, err := os.MkdirTemp("", "gvisor-test-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = link(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// build links the programs without C libraries, as this test binary may not be.
func link(dir string) error {
	for name, command := range map[string]string{programName: "hearth", handName: "hearth-hand"} {
		program := filepath.Join(dir, command)
		if err := build.Link(context.Background(), "hearth/cmd/"+command, program); err != nil {
			return err
		}
		if err := os.Setenv(name, program); err != nil {
			return err
		}
	}
	return os.Chmod(dir, 0o755)
}

var groups = sandboxtest.Groups()

func newEngine(stateDir string) sandbox.Engine {
	return gvisor.New(gvisor.Config{StateDir: stateDir, Groups: groups, Program: os.Getenv(programName), Hand: os.Getenv(handName), Log: slog.New(slog.DiscardHandler)})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	sandboxtest.ExerciseLimits(t, newEngine, groups)
}

func TestAhead(t *testing.T) {
	t.Parallel()
	sandboxtest.ExerciseAhead(t, newEngine)
}

func TestEngine(t *testing.T) { sandboxtest.Exercise(t, newEngine) }

// TestWithoutASmallHand: a program that holds no smaller one runs in guests itself.
func TestWithoutASmallHand(t *testing.T) {
	t.Parallel()
	sandboxtest.ExerciseSome(t, func(stateDir string) sandbox.Engine {
		return gvisor.New(gvisor.Config{StateDir: stateDir, Groups: groups, Program: os.Getenv(programName), Log: slog.New(slog.DiscardHandler)})
	}, "bash", "write", "destroy")
}

func TestParking(t *testing.T) {
	t.Parallel()
	sandboxtest.ExerciseParking(t, newEngine)
}

func TestIsolation(t *testing.T) { sandboxtest.ExerciseIsolation(t, newEngine) }

// ordinary is what of the suites depends most on whose the sandboxes are. A full
// second round would cost half a minute every day.
const ordinary = "^TestIsolation$/^(namespaces|processes|host_files_hidden|host_files_not_written|network|privileges|the_host's_users)$" +
	"|^TestEngine$/^(bash|destroy|identity|owner_killed|workdir|write)$|^TestParking$/^everything" +
	"|^TestLimits$/^disk_behind_a_mode$"

func TestAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	pattern := ordinary
	if sandboxtest.Everything() {
		pattern = "^Test(Engine|Isolation|Limits|Parking)$"
	}
	sandboxtest.AsOrdinaryUser(t, pattern, programName+"="+os.Getenv(programName))
}

func BenchmarkEngine(b *testing.B) { sandboxtest.Benchmark(b, newEngine) }

// TestOnImage runs what depends on where the root comes from.
func TestOnImage(t *testing.T) {
	onImage := sandboxtest.OnImage(t, newEngine)
	sandboxtest.ExerciseSome(t, onImage, sandboxtest.OfRoots...)
	t.Run("parking", func(t *testing.T) { sandboxtest.ExerciseParking(t, onImage) })
}

// TestGuestThatDoesNotPark: a guest's kernel that does not answer is not waited for
// without end, and not left behind.
func TestGuestThatDoesNotPark(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	s, err := newEngine(state).Create(t.Context(), sandbox.Spec{ID: strings.ToLower(rand.Text()), Workdir: filepath.Join(state, "work")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Destroy(context.WithoutCancel(t.Context())) })
	kernel := kernelOf(t, s.ID())
	if err := unix.Kill(kernel, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := s.(sandbox.Checkpointer).Checkpoint(ctx, filepath.Join(state, "image")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a guest that does not answer is parked with %v", err)
	}
	if err := unix.Kill(kernel, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("its kernel is still there: %v", err)
	}
}

// kernelOf is the process of a guest's kernel on the host.
func kernelOf(t *testing.T, id string) (pid int) {
	t.Helper()
	pids := sandboxtest.Processes(func(line []byte) bool {
		args := strings.Split(string(line), "\x00")
		return args[0] == "runsc-sandbox" && slices.Contains(args, id)
	})
	if len(pids) != 1 {
		t.Fatalf("the sandbox %s has the kernels %d", id, pids)
	}
	return pids[0]
}

// TestUpgradeUnderSandbox: what has started a sandbox is what checkpoints it, though
// another program has taken its name.
func TestUpgradeUnderSandbox(t *testing.T) {
	t.Parallel()
	state, err := os.MkdirTemp("", "gvisor-upgrade-") // not t.TempDir, which only its owner may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	if err := os.Chmod(state, 0o755); err != nil {
		t.Fatal(err)
	}
	program, workdir := filepath.Join(state, "hearth"), filepath.Join(state, "workdir")
	if err := errors.Join(os.Link(os.Getenv(programName), program), os.Mkdir(workdir, 0o755)); err != nil {
		t.Fatal(err)
	}
	engine := gvisor.New(gvisor.Config{StateDir: filepath.Join(state, "engine"), Program: program, Hand: os.Getenv(handName), Log: slog.New(slog.DiscardHandler)})
	s, err := engine.Create(t.Context(), sandbox.Spec{ID: strings.ToLower(rand.Text()), Workdir: workdir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Destroy(context.WithoutCancel(t.Context())) })
	if err := errors.Join(os.Remove(program), os.WriteFile(program, []byte("#!/bin/false\n"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := s.(sandbox.Checkpointer).Checkpoint(t.Context(), filepath.Join(state, "image")); err != nil {
		t.Error(err)
	}
}
