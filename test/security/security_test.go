// Package security tries to get out of sandboxes, and to harm what is around
// them. Each attempt is a test of its own that fails if the attempt succeeds.
// Where it can be tried without harm, the same attempt is made on the host
// first, to see that it is the sandbox that stops it. It owns nothing.
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
	"hearth/internal/hands/sandbox/gvisor"
	"hearth/internal/hands/sandbox/namespace"
)

// role makes this program attempt something inside a sandbox: its argument.
const role = "security-attempt"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == role {
		attempt(os.Args[2])
		return
	}
	code := m.Run()
	if dir, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(dir))
	}
	os.Exit(code)
}

// escaped is what an attempt prints that has succeeded.
const escaped = "ESCAPED"

// attempt makes a system call attempt and says how it went.
func attempt(name string) {
	for _, c := range calls {
		if c.name == name {
			if err := c.try(); err != nil {
				fmt.Println("held:", err)
				return
			}
			fmt.Println(escaped)
			return
		}
	}
	fmt.Println(escaped, "there is no such attempt:", name)
}

// program is hearth without C libraries, which gVisor needs.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hearth-security-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "hearth")
	cmd := exec.Command("go", "build", "-o", path, "hearth/cmd/hearth")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build hearth: %w\n%s", err, out)
	}
	return path, os.Chmod(dir, 0o755)
})

var groups = sync.OnceValue(func() *cgroup.Tree {
	groups, _ := cgroup.Find() // what it lacks is looked at where it matters
	return groups
})

// engines are those that isolate.
var engines = map[string]func(t *testing.T, dir string) sandbox.Engine{
	"gvisor": func(t *testing.T, dir string) sandbox.Engine {
		path, err := program()
		if err != nil {
			t.Fatal(err)
		}
		return gvisor.New(gvisor.Config{StateDir: dir, Program: path, Groups: groups(), Log: slog.New(slog.DiscardHandler)})
	},
	"namespace": func(_ *testing.T, dir string) sandbox.Engine {
		return namespace.New(namespace.Config{StateDir: dir, Groups: groups(), Log: slog.New(slog.DiscardHandler)})
	},
}

// prisoner is a sandbox, and what is around it that it must not reach.
type prisoner struct {
	t      *testing.T
	engine sandbox.Engine
	sandbox.Sandbox
	dir  string // state and working directory are below it
	work string // the working directory on the host
}

// imprison makes a sandbox. Secrets planted on the host are described by plant.
func imprison(t *testing.T, engine string, limits sandbox.Limits) *prisoner {
	t.Helper()
	dir, err := os.MkdirTemp("", "hearth-prison-") // not t.TempDir, which only its owner may enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	p := &prisoner{t: t, engine: engines[engine](t, filepath.Join(dir, "state")), dir: dir, work: filepath.Join(dir, "work")}
	if err := p.engine.Check(t.Context()); err != nil {
		t.Skip(err)
	}
	p.Sandbox = p.another(limits, p.work)
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.work, "attempt"), self, 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

// another makes one more sandbox of the same engine.
func (p *prisoner) another(limits sandbox.Limits, work string) sandbox.Sandbox {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	s, err := p.engine.Create(ctx, sandbox.Spec{ID: strings.ToLower(rand.Text()), Workdir: work, Limits: limits})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := s.Destroy(context.Background()); err != nil {
			p.t.Error(err)
		}
	})
	return s
}

// tool calls a tool and returns what it says, and whether it failed.
func (p *prisoner) tool(t *testing.T, s sandbox.Sandbox, name string, input map[string]any) (string, bool) {
	t.Helper()
	raw, err := json.Marshal(input)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := s.Call(ctx, hand.Call{ID: rand.Text(), Tool: name, Input: raw, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return r.Text, r.IsError
}

// call1 runs a command whose sandbox may not survive it.
func call1(t *testing.T, p *prisoner, command string) (string, error) {
	t.Helper()
	raw, err := json.Marshal(map[string]any{"command": command})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := p.Call(ctx, hand.Call{ID: rand.Text(), Tool: "bash", Input: raw, Timeout: 4 * time.Second})
	return r.Text, err
}

// sh runs a command in the sandbox.
func (p *prisoner) sh(t *testing.T, command string) string {
	t.Helper()
	text, _ := p.tool(t, p.Sandbox, "bash", map[string]any{"command": command})
	return text
}

// fine wants a sandbox to work as if nothing had happened.
func (p *prisoner) fine(t *testing.T, s sandbox.Sandbox) {
	t.Helper()
	if got, failed := p.tool(t, s, "bash", map[string]any{"command": "echo $((6*7))"}); failed || strings.TrimSpace(got) != "42" {
		t.Errorf("a sandbox says %.300q", got)
	}
}

// each runs a test with one sandbox of each engine.
func each(t *testing.T, limits sandbox.Limits, test func(t *testing.T, p *prisoner)) {
	for engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			test(t, imprison(t, engine, limits))
		})
	}
}

// onHost makes an attempt on the host, in namespaces of its own so that nothing
// comes of it, and returns what it says.
func onHost(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable() // under its own name: /proc/self/exe is one of gVisor's
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, role, name)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Unshareflags: syscall.CLONE_NEWNS, // which makes its mounts private
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return fmt.Sprint(out.String(), " ", err)
}

// TestSystemCalls makes each of the calls by which walls could be moved, others
// be looked into, or the machine be changed.
func TestSystemCalls(t *testing.T) {
	t.Parallel()
	each(t, sandbox.Limits{}, func(t *testing.T, p *prisoner) {
		for _, c := range calls {
			t.Run(c.name, func(t *testing.T) {
				if c.host && os.Getuid() == 0 && !strings.Contains(onHost(t, c.name), escaped) {
					t.Errorf("on the host, where nothing stops it, it does not succeed either: %s", onHost(t, c.name))
				}
				said := p.sh(t, "./attempt "+role+" \""+c.name+"\"; true")
				if strings.Contains(said, escaped) {
					t.Errorf("it succeeded: %s", said)
				}
				if !strings.Contains(said, "held:") && !strings.Contains(said, "Bad system call") {
					t.Errorf("it was not made: %s", said)
				}
			})
		}
		p.fine(t, p.Sandbox)
	})
}
