package security

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
)

// roleWorker makes this program a worker of its own, with secrets of its own.
const roleWorker = "security-worker"

// beWorker makes a sandbox and passes calls on to it, one after another, until
// there are no more. It has the key it was started with in its environment and
// memory, and open files whose descriptors whoever started it forgot to close.
func beWorker(engine, dir string) error {
	keep := []byte("memory of " + os.Getenv(workerKey))
	p, err := engines[engine](filepath.Join(dir, "state")).Create(context.Background(), sandbox.Spec{ID: newID(), Workdir: filepath.Join(dir, "work")})
	if err != nil {
		return err
	}
	defer p.Destroy(context.Background())
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	if err := out.Encode(hand.Result{}); err != nil {
		return err
	}
	for {
		var c hand.Call
		if err := in.Decode(&c); errors.Is(err, io.EOF) {
			runtime.KeepAlive(keep)
			return nil
		} else if err != nil {
			return err
		}
		r, err := p.Call(context.Background(), c)
		if err != nil {
			return err
		}
		if err := out.Encode(r); err != nil {
			return err
		}
	}
}

// workerKey is the variable in which a worker finds its key.
const workerKey = "HEARTH_ENVIRONMENT_KEY"

// TestTheft looks for a worker's key, in a sandbox of that worker: in what it was
// started with, holds in memory, has open, and keeps; and types into the terminal
// it was started from.
func TestTheft(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, engine string) {
		w := startWorker(t, engine)
		self := fmt.Sprintf("/proc/%d", w.pid)
		for _, attempt := range []struct {
			name string
			host []string // the same on the host
		}{
			{"read the environments of processes", nil},
			{"read the arguments of processes", nil},
			{"read what else the kernel tells of processes", nil},
			{"read the descriptors of processes", nil},
			{"read inherited descriptors", nil},
			{"search the memory of processes", []string{"search the memory of processes", self}},
			{"search the files", nil},
			{"type into a terminal", nil},
			{"speak for process 1", nil},
		} {
			t.Run(attempt.name, func(t *testing.T) {
				if attempt.host != nil && os.Getuid() == 0 {
					onHost(t, nil, attempt.host...)
				}
				judge(t, w.sh(t, "./attempt '"+attempt.name+"'"))
			})
		}
	})
}

// worker is a worker in a process of its own.
type worker struct {
	pid int
	in  *json.Encoder
	out *json.Decoder
}

func startWorker(t *testing.T, engine string) *worker {
	t.Helper()
	dir, key := openDir(t), newSecret()
	forgotten := filepath.Join(dir, "forgotten")
	if err := os.WriteFile(forgotten, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(forgotten)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	master, terminal := newTerminal(t)
	defer terminal.Close()
	t.Cleanup(func() { master.Close() })
	self, err := os.Executable() // under its own name: /proc/self/exe is one of gVisor's
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, roleWorker, engine, dir)
	cmd.Env = append(os.Environ(), workerKey+"="+key)
	// The descriptors 3 and up are not closed by whatever the worker starts.
	cmd.ExtraFiles = []*os.File{file, file, file, file, terminal}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 7}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	w := &worker{cmd.Process.Pid, json.NewEncoder(stdin), json.NewDecoder(stdout)}
	w.answer(t) // it is ready
	p := &prisoner{work: filepath.Join(dir, "work")}
	p.equip(t)
	return w
}

func (w *worker) answer(t *testing.T) (r hand.Result) {
	t.Helper()
	if err := w.out.Decode(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (w *worker) sh(t *testing.T, command string) string {
	t.Helper()
	if err := w.in.Encode(call("bash", map[string]any{"command": command})); err != nil {
		t.Fatal(err)
	}
	return w.answer(t).Text
}

// newTerminal makes a terminal and what stands for the screen and keys of it.
func newTerminal(t *testing.T) (master, terminal *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("this host has no terminals: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return master, terminal
}
