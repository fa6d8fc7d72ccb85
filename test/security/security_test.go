package security

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/cgroup"
	"hearth/internal/hands/sandbox/docker"
	"hearth/internal/hands/sandbox/docker/dockertest"
	"hearth/internal/hands/sandbox/gvisor"
	"hearth/internal/hands/sandbox/namespace"
	"hearth/test/build"
)

func TestMain(m *testing.M) {
	roles := map[string]func(engine, dir string) error{roleWorker: beWorker, roleOwner: beOwner}
	if be := roles[os.Args[1%len(os.Args)]]; be != nil && len(os.Args) == 4 {
		if err := be(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	dockertest.MaybeKeep()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Not t.TempDir, which only its owner may enter.
	dir, err := os.MkdirTemp("", "hearth-security-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = link(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if os.Getenv(dockerName) == "all" {
		stop, err := startDocker()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer stop()
	}
	return m.Run()
}

// dockerName is the variable that has the docker engine tried too.
const dockerName = "HEARTH_TEST_DOCKER"

// dockerImage holds what the attempts use.
const dockerImage = "hearth-security:latest"

func startDocker() (stop func(), err error) {
	socket, stop, err := dockertest.Start()
	if err != nil {
		return nil, err
	}
	files, err := dockertest.ToolFiles()
	if err == nil {
		err = dockertest.ImportImage(socket, dockerImage, files)
	}
	if err != nil {
		stop()
		return nil, err
	}
	return stop, os.Setenv(dockerName, "unix://"+socket)
}

// The variables by which the processes of these tests tell each other where
// the programs are: hearth without C libraries, which gVisor needs, and what
// makes attempts.
const (
	hearthName  = "SECURITY_TEST_HEARTH"
	attemptName = "SECURITY_TEST_ATTEMPT"
)

func link(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, pkg := range map[string]string{hearthName: "hearth/cmd/hearth", attemptName: "hearth/test/security/attempt"} {
		path := filepath.Join(dir, filepath.Base(pkg))
		if err := build.Link(context.Background(), pkg, path, "-ldflags=-s -w"); err != nil {
			return err
		}
		if err := os.Setenv(name, path); err != nil {
			return err
		}
	}
	return nil
}

var groups = sync.OnceValue(func() *cgroup.Tree {
	groups, _ := cgroup.Find() // what it lacks is looked at where it matters
	return groups
})

// engines are those that isolate.
var engines = map[string]func(stateDir string) sandbox.Engine{
	"gvisor": func(stateDir string) sandbox.Engine {
		return gvisor.New(gvisor.Config{StateDir: stateDir, Program: os.Getenv(hearthName), Groups: groups(), Log: slog.New(slog.DiscardHandler)})
	},
	"namespace": func(stateDir string) sandbox.Engine {
		return namespace.New(namespace.Config{StateDir: stateDir, Groups: groups(), Log: slog.New(slog.DiscardHandler)})
	},
	"docker": func(stateDir string) sandbox.Engine {
		return docker.New(docker.Config{StateDir: stateDir, Image: dockerImage, Host: os.Getenv(dockerName), Program: os.Getenv(hearthName), Log: slog.New(slog.DiscardHandler)})
	},
}

// each runs a test for each engine that works here.
func each(t *testing.T, test func(t *testing.T, engine string)) {
	for engine, make := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			if engine == "docker" && os.Getenv(dockerName) == "" {
				t.Skipf("%s=all has it tried", dockerName)
			}
			if err := make(t.TempDir()).Check(t.Context()); err != nil {
				t.Skip(err)
			}
			test(t, engine)
		})
	}
}

// TestEscape makes the attempts that a sandbox survives, all in one of each
// engine.
func TestEscape(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, engine string) {
		p := imprison(t, engine, sandbox.Limits{})
		t.Run("system calls", func(t *testing.T) { testCalls(t, p) })
		t.Run("doors", func(t *testing.T) { testDoors(t, p) })
		t.Run("secrets", func(t *testing.T) { testSecrets(t, p) })
		t.Run("tools", func(t *testing.T) { testTools(t, p) })
		t.Run("writes", func(t *testing.T) { testWrites(t, p) })
		t.Run("traps", func(t *testing.T) { testTraps(t, p) })
		p.fine(t)
	})
}

// prisoner is a sandbox, and what is around it that it must not reach.
type prisoner struct {
	sandbox.Sandbox
	engine sandbox.Engine
	dir    string // state and working directory are below it
	work   string // the working directory on the host
}

// imprison makes a sandbox that can make attempts. It goes with the test.
func imprison(t *testing.T, engine string, limits sandbox.Limits) *prisoner {
	t.Helper()
	dir := openDir(t)
	return confine(t, engines[engine](filepath.Join(dir, "state")), dir, "work", limits)
}

// openDir is a temporary directory that everybody may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hearth-prison-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func confine(t *testing.T, engine sandbox.Engine, dir, name string, limits sandbox.Limits) *prisoner {
	t.Helper()
	p := &prisoner{engine: engine, dir: dir, work: filepath.Join(dir, name)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := engine.Create(ctx, sandbox.Spec{ID: newID(), Workdir: p.work, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	p.Sandbox = s
	p.equip(t)
	return p
}

// equip puts the program that makes attempts into the working directory.
func (p *prisoner) equip(t *testing.T) {
	t.Helper()
	raw, err := os.ReadFile(os.Getenv(attemptName))
	if err == nil {
		err = os.WriteFile(filepath.Join(p.work, "attempt"), raw, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func newID() string { return strings.ToLower(rand.Text()) }

// call makes a tool call.
func call(tool string, input map[string]any) hand.Call {
	raw, err := json.Marshal(input)
	if err != nil {
		panic(err)
	}
	return hand.Call{ID: rand.Text(), Tool: tool, Input: raw, Timeout: 30 * time.Second}
}

// tool calls a tool and returns what it says, and whether it failed. The
// sandbox must survive it.
func (p *prisoner) tool(t *testing.T, name string, input map[string]any) (string, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := p.Call(ctx, call(name, input))
	if err != nil {
		t.Fatalf("%s %.200v: %v", name, input, err)
	}
	return r.Text, r.IsError
}

// sh runs a command and returns what it says, however it ends.
func (p *prisoner) sh(t *testing.T, command string) string {
	t.Helper()
	text, _ := p.tool(t, "bash", map[string]any{"command": command})
	return text
}

// do runs a command that must succeed.
func (p *prisoner) do(t *testing.T, command string) string {
	t.Helper()
	text, failed := p.tool(t, "bash", map[string]any{"command": command})
	if failed {
		t.Fatalf("%s: %s", command, text)
	}
	return strings.TrimSpace(text)
}

// fine wants the sandbox to work as if nothing had happened.
func (p *prisoner) fine(t *testing.T) {
	t.Helper()
	if got, failed := p.tool(t, "bash", map[string]any{"command": "echo $((6*7))"}); failed || strings.TrimSpace(got) != "42" {
		t.Errorf("a sandbox says %.300q", got)
	}
}

// escaped is what an attempt says that has succeeded, and held what it says
// otherwise.
const (
	escaped = "ESCAPED"
	held    = "held:"
)

// attempt makes an attempt in the sandbox, which must not succeed.
func (p *prisoner) attempt(t *testing.T, args ...string) {
	t.Helper()
	judge(t, p.sh(t, "./attempt "+quoted(args)))
}

// judge looks at what an attempt said.
func judge(t *testing.T, said string) {
	t.Helper()
	switch {
	case strings.Contains(said, escaped):
		t.Errorf("it succeeded: %.500s", said)
	case !strings.Contains(said, held):
		t.Errorf("it was not made: %.500s", said)
	}
}

func quoted(args []string) string {
	words := make([]string, len(args))
	for i, a := range args {
		words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}

// apart are the namespaces in which an attempt on the host does it no harm.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Unshareflags: syscall.CLONE_NEWNS, // which makes its mounts private
	}
}

// onHost makes an attempt on the host and wants it to succeed. Only root may
// make those that have namespaces of their own.
func onHost(t *testing.T, in *syscall.SysProcAttr, args ...string) {
	t.Helper()
	if in != nil && os.Getuid() != 0 {
		return
	}
	cmd := exec.Command(os.Getenv(attemptName), args...)
	cmd.SysProcAttr, cmd.Dir = in, t.TempDir()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if !strings.Contains(out.String(), escaped) {
		t.Errorf("on the host, where nothing stops it, it does not succeed either: %s %v", out.String(), err)
	}
}
