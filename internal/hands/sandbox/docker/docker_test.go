package docker_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/docker"
	"hearth/internal/hands/sandbox/docker/dockertest"
	"hearth/internal/hands/sandbox/program"
	"hearth/internal/hands/sandbox/sandboxtest"
)

// The variables by which the processes of the suite tell each other where things
// are.
const (
	hostName    = "DOCKER_TEST_HOST"
	programName = "DOCKER_TEST_PROGRAM"
	whyNotName  = "DOCKER_TEST_WHY_NOT" // there is no daemon
)

// allName is the variable that has the whole suite run.
const allName = "HEARTH_TEST_DOCKER"

// The images there are.
const (
	image      = "hearth-test:latest"
	withoutOne = "hearth-test:without-bash"
)

func TestMain(m *testing.M) {
	dockertest.MaybeKeep()
	sandboxtest.MaybeRun(newEngine)
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if os.Getenv(hostName)+os.Getenv(whyNotName) != "" {
		return m.Run()
	}
	socket, stop, err := dockertest.Start()
	if err != nil {
		os.Setenv(whyNotName, err.Error())
		return m.Run()
	}
	defer stop()
	os.Setenv(hostName, "unix://"+socket)
	err = provide(socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// provide makes the images and the program of the containers, beside the daemon.
func provide(socket string) error {
	files, err := dockertest.ToolFiles()
	if err != nil {
		return err
	}
	if err := errors.Join(dockertest.ImportImage(socket, image, files), dockertest.ImportImage(socket, withoutOne, nil)); err != nil {
		return err
	}
	if program.New("", "").Static() == nil {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		return os.Setenv(programName, self)
	}
	// This very package, without C libraries, which an image may lack.
	built := filepath.Join(filepath.Dir(socket), "program")
	cmd := exec.Command("go", "test", "-c", "-o", built, "hearth/internal/hands/sandbox/docker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return os.Setenv(programName, built)
}

func newEngine(stateDir string) sandbox.Engine { return engineOf(stateDir, image) }

func engineOf(stateDir, image string) *docker.Engine {
	return docker.New(docker.Config{
		StateDir: stateDir, Image: image, Host: os.Getenv(hostName), Program: os.Getenv(programName), Log: slog.New(slog.DiscardHandler),
	})
}

func needDaemon(t testing.TB) {
	t.Helper()
	if why := os.Getenv(whyNotName); why != "" {
		t.Skip(why)
	}
}

// needTime skips what takes a minute of the processor.
func needTime(t testing.TB) {
	t.Helper()
	needDaemon(t)
	if os.Getenv(allName) == "" {
		t.Skipf("it takes long; %s=all has it run", allName)
	}
}

// TestSome is the part of the suite that is about what only this engine does.
func TestSome(t *testing.T) {
	needDaemon(t)
	sandboxtest.ExerciseSome(t, newEngine, "bash", "write", "workdir", "identity", "destroy", "hand dies", "owner killed", "privileges", "host files not written", "setuid files in the workdir")
}

func TestAhead(t *testing.T) {
	needTime(t)
	sandboxtest.ExerciseAhead(t, newEngine)
}

func TestEngine(t *testing.T) {
	needTime(t)
	sandboxtest.Exercise(t, newEngine)
}

func TestIsolation(t *testing.T) {
	needTime(t)
	sandboxtest.ExerciseIsolation(t, newEngine)
}

func TestLimits(t *testing.T) {
	needTime(t)
	sandboxtest.ExerciseLimits(t, newEngine, sandboxtest.Groups())
}

func TestAsOrdinaryUser(t *testing.T) {
	needTime(t)
	sandboxtest.AsOrdinaryUser(t, "^(TestEngine|TestIsolation)$", hostName+"="+os.Getenv(hostName), programName+"="+os.Getenv(programName), allName+"=all")
}

// What cannot be made says why, and leaves nothing.
func TestWhatCannotBeMade(t *testing.T) {
	needDaemon(t)
	for _, c := range []struct {
		what, image, word string
	}{
		{"no bash", withoutOne, "the image has no /bin/bash"},
		{"no image", "127.0.0.1:1/none", `the image "127.0.0.1:1/none" is not here and cannot be pulled`},
		{"no name", "Not A Name", "invalid reference format"},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			engine := engineOf(t.TempDir(), c.image)
			id := strings.ToLower(rand.Text())
			_, err := engine.Create(t.Context(), sandbox.Spec{ID: id, Workdir: filepath.Join(t.TempDir(), "work")})
			if err == nil || !strings.Contains(err.Error(), c.word) {
				t.Errorf("it says %v, want %q", err, c.word)
			}
			if left, err := engine.List(t.Context()); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
}

// What no container could be made of is said before any session comes.
func TestWhatIsNotKnown(t *testing.T) {
	needDaemon(t)
	for want, cfg := range map[string]docker.Config{
		`has no runtime "absent", but`: {Image: "127.0.0.1:1/none", Runtime: "absent"},
		"invalid reference format":     {Image: "Not A Name"},
		"":                             {Image: "127.0.0.1:1/none"},
	} {
		cfg.StateDir, cfg.Host, cfg.Program = t.TempDir(), os.Getenv(hostName), os.Getenv(programName)
		if err := docker.New(cfg).Check(t.Context()); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("it says %v, want %q", err, want)
		}
	}
}

// A container whose record is lost tells itself whose it is.
func TestLostState(t *testing.T) {
	needDaemon(t)
	state := t.TempDir()
	engine := newEngine(state)
	id := strings.ToLower(rand.Text())
	s, err := engine.Create(t.Context(), sandbox.Spec{ID: id, Workdir: filepath.Join(t.TempDir(), "work")})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(state, "docker", id, "sandbox.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(state, "docker", id), filepath.Join(state, "docker", "lost")); err != nil {
		t.Fatal(err)
	}
	next := newEngine(state)
	infos, err := next.List(t.Context())
	if err != nil || len(infos) != 1 || infos[0].ID != id || infos[0].Owner != os.Getpid() || !infos[0].OwnerAlive || infos[0].Created.IsZero() {
		t.Fatalf("listed: %+v, %v", infos, err)
	}
	// It is the owner's lock that tells, not its process id.
	if err := os.RemoveAll(filepath.Join(state, "docker", "owners")); err != nil {
		t.Fatal(err)
	}
	if infos, err := next.List(t.Context()); err != nil || len(infos) != 1 || infos[0].OwnerAlive {
		t.Errorf("listed once its owner's lock is gone: %+v, %v", infos, err)
	}
	if err := next.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if infos, err := next.List(t.Context()); err != nil || len(infos) > 0 {
		t.Errorf("listed after its end: %+v, %v", infos, err)
	}
	if err := s.Destroy(t.Context()); err != nil {
		t.Errorf("destroy what is gone: %v", err)
	}
}

// What a worker that is gone had paused can be destroyed.
func TestLeftPaused(t *testing.T) {
	needDaemon(t)
	state := t.TempDir()
	id := strings.ToLower(rand.Text())
	s, err := newEngine(state).Create(t.Context(), sandbox.Spec{ID: id, Workdir: filepath.Join(t.TempDir(), "work")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := newEngine(state)
	if err := next.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if infos, err := next.List(t.Context()); err != nil || len(infos) > 0 {
		t.Errorf("listed after its end: %+v, %v", infos, err)
	}
}

// Without a daemon, Check says what to do.
func TestNoDaemon(t *testing.T) {
	for host, word := range map[string]string{
		"unix://" + filepath.Join(t.TempDir(), "none"): "no Docker daemon answers",
		"tcp://192.0.2.1:2375":                         "is not on this host",
	} {
		engine := docker.New(docker.Config{StateDir: t.TempDir(), Host: host})
		if err := engine.Check(t.Context()); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: it says %v, want %q", host, err, word)
		}
	}
}

func BenchmarkEngine(b *testing.B) {
	needDaemon(b)
	sandboxtest.Benchmark(b, newEngine)
}
