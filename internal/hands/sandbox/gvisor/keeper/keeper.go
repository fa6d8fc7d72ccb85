// Package keeper is the process on the host that keeps a gVisor guest: the first
// of a process namespace in which all of gVisor runs. It makes the guest's root,
// has gVisor started from the program that holds it, does what the worker asks
// for, and ends with the guest. It is apart from the engine, so that a sandbox
// does not keep a process of the large program for that. It may call guest and
// what engines share.
package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hearth/internal/hands/hand"
	"hearth/internal/hands/sandbox"
	"hearth/internal/hands/sandbox/hostroot"
	"hearth/internal/hands/sandbox/reexec"
)

// What processes are started as.
const (
	// Name is the keeper. It has its orders on descriptor 3, and on 4 the line on
	// which requests come; the other descriptors are the guest's.
	Name = "hearth-keeper"
	// GVisor is the program that holds gVisor. It is to wait for the end of
	// descriptor 3, and then to be runsc with the arguments it has.
	GVisor = "hearth-gvisor"
)

func init() { reexec.Register(Name, keep) }

// Orders are what a keeper is told.
type Orders struct {
	ID      string
	Dir     string // the sandbox's own, on the host
	Workdir string
	Mnt     string // "" for a directory of the guest's own
	Rootfs  string // the file that the root is read from; "" for the host's files
	Program string // the file that holds gVisor
	Hand    string // the file of the guest's first process
	Users   hostroot.Users
	Env     map[string]string
	Limits  sandbox.Limits
	Image   string // the directory for a checkpoint of the guest
	From    string // that of the checkpoint it begins with; "" for none
}

// keep keeps a guest until it ends.
func keep() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	hand.Shrug()
	unix.CloseOnExec(4)
	if err := sandbox.Unprotect(); err != nil {
		return err
	}
	if err := reexec.CloseInherited(5); err != nil {
		return err
	}
	var o Orders
	from := os.NewFile(3, "orders")
	if err := json.NewDecoder(from).Decode(&o); err != nil {
		return fmt.Errorf("read the orders: %w", err)
	}
	from.Close()
	program, err := hold(o.Program)
	if err != nil {
		return fmt.Errorf("open the program of gVisor: %w", err)
	}
	g := gvisor{program, o}
	go g.obey(os.NewFile(4, "control"))
	guest, err := g.start()
	if err != nil {
		return err
	}
	go settle()
	_, err = wait(guest)
	return err
}

// hold opens a program to start it from: what checkpoints a guest must be what
// started it, whatever an upgrade puts in its place meanwhile. The descriptor is
// none that a process which is started has for something else.
func hold(path string) (fd int, err error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	return unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 64)
}

// settle gives back what starting took.
func settle() {
	time.Sleep(time.Second)
	debug.FreeOSMemory()
}

// wait waits for a child, or for one that was left to this process.
func wait(pid int) (unix.WaitStatus, error) {
	for {
		var status unix.WaitStatus
		switch _, err := unix.Wait4(pid, &status, 0, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for process %d: %w", pid, err)
		default:
			return status, nil
		}
	}
}

// gvisor is the guest's runsc.
type gvisor struct {
	program int // the descriptor of what holds gVisor
	Orders
}

// command is one of runsc's.
func (g gvisor) command(name string, args ...string) *exec.Cmd {
	own := fmt.Sprintf("/proc/self/fd/%d", g.program)
	return &exec.Cmd{Path: own, Args: slices.Concat([]string{name}, g.flags(), args), Env: []string{}}
}

// start starts the guest, or restores it, and returns its process. gVisor gets
// itself ready while the root is made.
func (g gvisor) start() (pid int, err error) {
	file := filepath.Join(stage, "pid")
	args := []string{"run", "--detach", "--pid-file=" + file, "--bundle=" + stage, g.ID}
	if g.From != "" {
		args = []string{"restore", "--detach", "--pid-file=" + file, "--bundle=" + stage, "--image-path=" + filepath.Join(stage, "from"), g.ID}
	}
	ready, made, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer made.Close()
	cmd := g.command(GVisor, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr // the guest's
	cmd.ExtraFiles = []*os.File{ready}
	err = cmd.Start()
	ready.Close()
	if err != nil {
		return 0, fmt.Errorf("start gVisor: %w", err)
	}
	if err := g.prepare(); err != nil {
		return 0, err // this was the first process of its namespace: all ends with it
	}
	made.Close()
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("start the guest: %w", err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("find the guest: %w", err)
	}
	return strconv.Atoi(strings.TrimSpace(string(raw)))
}

// prepare makes the guest's root, in the mount namespace of this process, and
// describes the guest.
func (o Orders) prepare() error {
	if err := o.mountRoot(); err != nil {
		return err
	}
	bundle, err := json.Marshal(o.bundle())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(stage, "config.json"), bundle, 0o644)
}

// flags are gVisor's. The platform is named, for probing another may hang; so is
// the policy about parts on disk, of which there are none. A guest is restored to
// what it was made from, but for the users of this host that stand behind its own:
// those are others on another host, and gVisor would not have it.
func (o Orders) flags() []string {
	overlay := "--overlay2=root:dir=" + filepath.Join(stage, "scratch")
	if o.Limits.DiskBytes > 0 {
		overlay += fmt.Sprintf(",size=%d", o.Limits.DiskBytes)
	}
	return []string{
		"--root=" + state, "--platform=systrap", "--network=none", "--ignore-cgroups", overlay,
		"--host-uds=none", "--host-fifo=none", "--restore-spec-validation=ignore", "--oci-seccomp=false", "--sidecar-usage-policy=LEGACY_DEPRECATED_SLOW_EMBEDDED_FALLBACK",
	}
}
